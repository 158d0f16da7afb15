"""Drawing the tables per byte, across tokenizers: what beams leave out, gaps, matrix, attribution. Nothing is computed."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..errors import ParameterError
from .attribution import plot_accuracy
from .cross_aep import plot_matrix

__all__ = ["plot_beside", "plot_byte_accuracy", "plot_byte_matrix", "plot_excess", "plot_gaps", "plot_movement"]

_MARKERS = "os^Dv"
_BYTE_QUANTITIES = {
    "h_AB": "$h_{(A,B)}$ (nats per byte)",
    "kl": "$h_{(A,B)} - h_A$ (nats per byte)",
    "gap_pair": "$l_B - h_{(A,B)}$ (nats per byte)",
}


def _groups(table: pd.DataFrame):
    """(label, model, rows, is foreign text) of every kind and model; text of a model is named."""
    for (kind, model), part in table.groupby(["kind", "model"], sort=False):
        foreign = kind != "held-out"
        yield f"{model}, text of {kind}" if foreign else model, model, part, foreign


def _width_axis(ax: Axes, widths: np.ndarray) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(widths)), [f"{w:g}" for w in sorted(set(widths))])
    ax.minorticks_off()
    ax.set_xlabel("beam width (histories)")


def plot_movement(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str], asked: float = 1e-3) -> None:
    """By how much the bound of l falls from each width to the next: mean over texts, 95%; grey: what is asked for.

    Dashed, open: text of another model. Steps of 0 (the byte model) are left out. Table: `bytelevel.width_steps`.
    """
    drawn = table[table.moved > 0]
    for i, (label, model, part, foreign) in enumerate(_groups(drawn)):
        x = part.width * 1.04 ** (i - 1.5)
        error = [part.moved - part.moved_low.clip(lower=1e-7), part.moved_high - part.moved]
        style = {"ls": "--", "mfc": "white"} if foreign else {"ls": "-"}
        style |= {"marker": _MARKERS[i % len(_MARKERS)], "ms": 3, "lw": 0.9, "elinewidth": 0.7}
        ax.errorbar(x, part.moved, error, color=colours[model], label=label, **style)
    ax.axhline(asked, color="0.6", lw=0.7, zorder=0)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.3 * drawn.moved.min())
    _width_axis(ax, drawn.width.to_numpy())
    ax.set_xlabel("from beam width (to twice as many histories)")
    ax.set_ylabel("bound of $l$ falls by (nats per byte)")


def plot_excess(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str], linear: float = 1e-3) -> None:
    """The bound of l (filled) and -log of the normalised laws (open, dotted) minus the Monte Carlo estimate, against width.

    Means over texts, 95%; linear within ±`linear`. Squares: text of another model. Table: `bytelevel.beside_monte_carlo`.
    """
    for i, (_, model, part, foreign) in enumerate(_groups(table)):
        x, marker = part.width * 1.05 ** (i - 1.5), "s" if foreign else "o"
        for column, face, line in (("excess", colours[model], "-"), ("conditional", "white", ":")):
            error = [part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]]
            style = {"marker": marker, "ms": 3, "lw": 0.8, "elinewidth": 0.6, "ls": line, "mfc": face}
            ax.errorbar(x, part[column], error, color=colours[model], **style)
    ax.axhline(0, color="0.6", lw=0.7, zorder=0)
    ax.set_yscale("symlog", linthresh=linear)
    ax.set_ylim(top=3 * max(linear, float(table[["excess_high", "conditional_high"]].max().max())))
    _width_axis(ax, table.width.to_numpy())
    ax.set_ylabel("$l$ minus Monte Carlo (nats per byte)")
    style = {"marker": "o", "ms": 3, "lw": 0.8, "color": "0.3"}
    handles = [Line2D([], [], ls=line, mfc=face, **style) for line, face in (("-", "0.3"), (":", "white"))]
    ax.legend(handles, ["bound of the beam", "normalised laws"], loc="upper right")


def plot_beside(
    ax: Axes, widths: pd.DataFrame, estimates: pd.DataFrame, colours: Mapping[str, str], width: int, slack: float = 1e-3
) -> None:
    """Per text the bound of l (dots) on the 95% Monte Carlo interval (bars), both minus the estimate; grey band: + `slack`.

    Texts of a kind and model stand side by side in the order of the interval's width, an arrow where it has no end: a panel
    as wide as the page.
    Tables: `bytelevel.by_width` and `bytelevel.monte_carlo` with columns `kind`, `model`.
    """
    both = widths[widths.width == width].merge(estimates, on=["kind", "model", "text", "bytes"], suffixes=("", "_mc"))
    ends, ticks, start = both.l_high[np.isfinite(both.l_high)] - both.l_mc[np.isfinite(both.l_high)], [], 0
    top = 1.3 * max(float((both.l - both.l_mc).max()), float(ends.max()), slack)
    for label, model, part, foreign in _groups(both):
        part = part.assign(size=part.l_high - part.l_low).sort_values("size")
        x, low, high = start + np.arange(len(part)), part.l_low - part.l_mc, part.l_high - part.l_mc
        ax.fill_between(x, low, np.minimum(high + slack, top), color="0.9", lw=0, step="mid")
        ax.vlines(x, low, np.minimum(high, top), color=colours[model], lw=1.6, alpha=0.45)
        ax.plot(x[np.isinf(high)], np.full(np.isinf(high).sum(), top), "^", color=colours[model], ms=3, clip_on=False)
        ax.plot(x, part.l - part.l_mc, "s" if foreign else "o", color=colours[model], ms=2.4, mew=0)
        ticks.append((start + len(part) / 2, label))
        start += len(part) + 3
    ax.axhline(0, color="0.6", lw=0.6, zorder=0)
    ax.set_yscale("symlog", linthresh=slack)
    ax.set_xticks(*zip(*ticks, strict=True))
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(top=top)
    ax.set_ylabel(f"$l$ minus Monte Carlo, width {width}\n(nats per byte)")


def plot_gaps(ax: Axes, table: pd.DataFrame, summary: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """-log p(tokens | bytes) per byte of every text (dots) of the largest number of bytes, and its mean with 95% (bars).

    Held-out text and, beside it, text of the model itself. Tables: `bytelevel.gaps` with its columns of whose text it is,
    `bytelevel.gap_summary`.
    """
    table = table[table.bytes == table.bytes.max()]
    models, ticks = list(dict.fromkeys(summary.model)), []
    for place, row in enumerate(summary.sort_values("model", key=lambda m: m.map(models.index)).itertuples()):
        own = (table.scorer == row.model) & (table.kind == row.kind)
        part = table[own & ((table.source == row.model) | (row.kind == "held-out"))].sort_values("gap")
        x = place + np.linspace(-0.3, 0.3, len(part))
        face = colours[row.model] if row.kind == "held-out" else "white"
        ax.plot(x, part.gap / part.bytes, "o", ms=2.4, mew=0.6, color=colours[row.model], mfc=face)
        ax.fill_between([place - 0.36, place + 0.36], row.gap_low, row.gap_high, color="0.85", lw=0, zorder=0)
        ax.plot([place - 0.36, place + 0.36], [row.gap, row.gap], color="black", lw=0.9)
        ticks.append(f"{row.model}\n{'held-out' if row.kind == 'held-out' else 'own text'}")
    ax.set_xticks(range(len(ticks)), ticks, fontsize=6)
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    ax.axhline(0, color="0.6", lw=0.6, zorder=0)
    ax.set_ylabel(r"$-\log p(\mathrm{tokens}\mid\mathrm{bytes})$ (nats per byte)")


def plot_byte_matrix(ax: Axes, table: pd.DataFrame, quantity: str = "kl") -> None:
    """`cross_aep.plot_matrix` of one quantity per byte, sources in rows, scorers in columns. Table: `cross_aep.matrix`."""
    if quantity not in _BYTE_QUANTITIES:
        raise ParameterError(f"quantity {quantity!r}: one of {', '.join(_BYTE_QUANTITIES)} is needed")
    label = _BYTE_QUANTITIES[quantity]
    plot_matrix(ax, table[table.quantity == quantity].assign(quantity=label), label)


def plot_byte_accuracy(ax: Axes, table: pd.DataFrame, chance: float | None = None) -> None:
    """`attribution.plot_accuracy` against bytes. Table: rows of one author (or "all"), with lengths in a column `bytes`."""
    plot_accuracy(ax, table.rename(columns={"bytes": "tokens"}), chance=chance)
    ax.set_xlabel("length $T$ (bytes)")
