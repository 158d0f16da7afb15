"""Drawing the tables of `analysis.planning` and `analysis.set_sizes`. One panel per function; nothing is computed."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from . import PALETTE

__all__ = ["plot_set_sizes", "plot_tokens_needed"]

_PLANS = {  # argument: colour, marker
    "CLT": (PALETTE[0], "o"),
    "Rényi-Chernoff": (PALETTE[2], "s"),
    "Freedman": (PALETTE[5], "P"),
    "Chebyshev": (PALETTE[1], "^"),
    "time-uniform": (PALETTE[3], "D"),
}


def plot_tokens_needed(ax: Axes, table: pd.DataFrame, *, staying: bool = False) -> None:
    """Tokens that |l - h| <= ε takes against the model: planned (open marks, 95% over pilot texts), observed (black bars).

    Table: `planning.tokens_needed` of one ε, models concatenated. Arrows begin where an observed length is known to lie
    above; the dotted line is the sampled length. `staying` adds the length from which on texts stay inside.
    """
    models = list(dict.fromkeys(table.model))
    place = dict(zip(models, range(len(models)), strict=True))
    for argument, (colour, marker) in _PLANS.items():
        part = table[(table.argument == argument) & np.isfinite(table.tokens)]
        if part.empty:
            continue
        error = [(part.tokens - part.low).fillna(0), (part.high - part.tokens).fillna(0)]
        ax.errorbar(
            part.model.map(place),
            part.tokens,
            error,
            fmt=marker,
            ls="-",
            ms=4,
            lw=0.8,
            elinewidth=0.8,
            color=colour,
            mfc="white",
            label=argument,
        )
    kinds = [("observed", 0.12, "_")] + ([("observed, staying", 0.24, "x")] if staying else [])
    for argument, shift, marker in kinds:
        _observed(ax, table[table.argument == argument], place, shift, marker)
    for model, part in table.groupby("model", sort=False):
        x = place[model]
        label = None if x else "sampled length"
        ax.plot([x - 0.3, x + 0.3], [part.sampled.max()] * 2, ":", color="0.5", lw=0.8, zorder=0, label=label)
    ax.set_yscale("log")
    ax.margins(y=0.12)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xticks(range(len(models)), models)
    ax.set_xlim(-0.5, len(models) - 0.5)
    ax.set_ylabel("tokens needed $T$ (tokens)")


def _observed(ax: Axes, part: pd.DataFrame, place: dict[str, int], shift: float, marker: str) -> None:
    """Estimate with its interval; an open upper end, or a length that was not reached, is an arrow."""
    for i, row in enumerate(part.itertuples()):
        x, is_open = place[row.model] + shift, not np.isfinite(row.high)
        top = 1.6 * max(row.low, row.sampled) if is_open else row.high
        arrow = {"arrowstyle": "-|>" if is_open else "|-|", "mutation_scale": 7 if is_open else 2.5, "lw": 1.1}
        ax.annotate("", (x, top), (x, row.low), arrowprops=arrow | {"shrinkA": 0, "shrinkB": 0, "color": "black"})
        ax.plot([x, x], [row.low, top], color="none")  # an annotation does not widen the axes
        ax.plot(x, row.tokens, marker, ms=6, mew=1.4, color="black", label=None if i else row.argument)


def plot_set_sizes(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """log|A_ε|/T per model and sampler with 95% intervals, beside the entropy h and log |vocabulary|.

    Table: rows of one T of `set_sizes.set_sizes`, and of `set_sizes.resampled_set_size` where wanted, concatenated; one
    line per model and sampler. Filled: resampled; open: own texts (a bar to the vocabulary is a lower limit).
    """
    rows = list(dict.fromkeys(zip(table.model, table.sampler, strict=True)))
    both = table.method.nunique() > 1
    seen: set[str] = set()

    def named(label: str) -> str | None:
        return None if label in seen or seen.add(label) else label

    for row in table.itertuples():
        y, own = rows.index((row.model, row.sampler)), row.method == "own texts"
        if own:
            ax.plot(row.h, y, "|", ms=8, mew=1.4, color="black", label=named("entropy $h_T$"))
        y += (0.16 if own else -0.16) if both else 0.0
        high = min(row.high, row.log_vocabulary)
        face = "white" if own else colours[row.model]
        ax.plot(
            [row.low, high], [y, y], color=colours[row.model], lw=1.0, ls=":" if row.interval == "one-sided" else "-"
        )
        ax.plot(row.log_size, y, "o" if own else "s", ms=3, color=colours[row.model], mfc=face, label=named(row.method))
    for model, part in table.groupby("model", sort=False):
        at = [rows.index((model, sampler)) for sampler in part.sampler]
        ax.plot(
            [part.log_vocabulary.max()] * 2,
            [min(at) - 0.4, max(at) + 0.4],
            color="0.35",
            lw=0.8,
            ls=(0, (4, 2)),
            label=named(r"$\log\,|\mathrm{vocabulary}|$"),
        )
    several = len({model for model, _ in rows}) > 1
    names = [f"{model}, {sampler}" if several else sampler for model, sampler in rows]
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(0, 1.03 * table.log_vocabulary.max())
    ax.set_xlabel(r"$\log|A_\varepsilon|/T$, $h_T$ (nats per token)")
