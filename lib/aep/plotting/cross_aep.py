"""Drawing the tables of notebook 03. Each function draws one panel from tidy tables and computes nothing."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..errors import ParameterError
from . import PALETTE, log_axes, mark_short
from .self_aep import running_bands

__all__ = [
    "plot_adaptor",
    "plot_by_position",
    "plot_foreign_band",
    "plot_histogram",
    "plot_matrix",
    "plot_profile",
    "plot_rate",
    "plot_running_pair",
    "plot_scatter",
]

_MARKERS = "os^Dv<>P"
_QUANTITIES = {
    "h_AB": "$h_{(A,B)}$ (nats per token)",
    "h_B": "$h_B$ (nats per token)",
    "l_B": "$l_B$ (nats per token)",
    "kl": "$h_{(A,B)} - h_A$ (nats per token)",
    "kl_same": "$h_{(A,B)} - h_A$, both adapted\n(nats per token)",
    "excess": "$h_{(A,B)} - h_{(A,A)}$ (nats per token)",
    "gap_pair": "$l_B - h_{(A,B)}$ (nats per token)",
    "gap_B": "$l_B - h_B$ (nats per token)",
}
_FAMILIES = {
    "temperature": r"temperature $\tau$ (1)",
    "top_k": "top-$k$ (tokens kept)",
    "nucleus": r"nucleus mass $\pi$ (1)",
    "min_p": "min-$p$ ratio (1)",
    "locally_typical": r"typical mass $\pi$ (1)",
    "epsilon": r"$\varepsilon$ (1)",
    "eta": r"$\eta$ (1)",
}


def plot_histogram(ax: Axes, table: pd.DataFrame, beside: pd.DataFrame) -> None:
    """Share of comparisons per bin of h_(A,B), bits; mean (bar: 95%), median and range of ours and of the report above it.

    Tables: `cross_aep.histogram`, `cross_aep.beside_report`.
    """
    edges = [*table.left, table.right.iloc[-1]]
    ax.stairs(table.share, edges, fill=True, color=PALETTE[4], alpha=0.55, lw=0)
    ax.stairs(table.share, edges, color=PALETTE[0], lw=0.8)
    top = table.share.max()
    for i, row in enumerate(beside.itertuples()):
        y, colour = top * (1.12 + 0.13 * i), (PALETTE[0], "black")[i % 2]
        ax.plot([row.min, row.max], [y, y], color=colour, lw=0.7, marker="|", ms=5)
        ax.plot(row.median, y, "D", ms=5.5, mew=0.8, color=colour, mfc="white")
        if np.isfinite(row.mean_low):
            ax.plot([row.mean_low, row.mean_high], [y, y], color=PALETTE[1], lw=7, solid_capstyle="butt", alpha=0.7)
        ax.plot(row.mean, y, "o", ms=2.6, color=colour)
        ax.annotate(
            f"{row.set}, {row.comparisons}", (row.max, y), (3, 0), textcoords="offset points", va="center", fontsize=7
        )
    marks = (("o", 2.6, "0.3"), ("D", 5.0, "white"), ("|", 5.0, "0.3"))
    handles = [Line2D([], [], ls="", marker=m, ms=size, mew=0.8, color="0.3", mfc=face) for m, size, face in marks]
    handles.insert(1, Line2D([], [], color=PALETTE[1], lw=6, alpha=0.7, solid_capstyle="butt"))
    labels = ["mean", "95% interval", "median", "min, max"]
    ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, 0.8), handlelength=0.7, handletextpad=0.7)
    ax.set_xlim(0, 1.12 * max(beside["max"].max(), table.right.max()))
    ax.set_ylim(0, 1.38 * top)
    ax.set_xlabel("cross-entropy $h_{(A,B)}$ (bits per token)")
    ax.set_ylabel("share of comparisons (1)")


def plot_matrix(ax: Axes, table: pd.DataFrame, quantity: str) -> None:
    """One quantity of every pair of one sampler, sources in rows, scorers in columns: estimate and half-width of its 95%.

    Table: `cross_aep.matrix`, one sampler. ParameterError for a table of several.
    """
    part = table[table.quantity == quantity]
    if part.duplicated(["source", "scorer"]).any() or part.empty:
        raise ParameterError(f"quantity {quantity!r}: a matrix needs one row per pair, hence one sampler")
    names = list(dict.fromkeys(part.source))
    grid = part.pivot(index="source", columns="scorer", values="estimate").loc[names, names].to_numpy()
    half = part.assign(half=part.high - part.estimate).pivot(index="source", columns="scorer", values="half")
    image = ax.imshow(grid, cmap="cividis")
    middle = (image.norm.vmin + image.norm.vmax) / 2
    for (i, j), value in np.ndenumerate(grid):
        colour = "white" if value < middle else "black"
        style = {"ha": "center", "va": "center", "color": colour}
        width = half.loc[names[i], names[j]]
        if value == width == 0:  # by definition
            ax.text(j, i, "0", fontsize=7, **style)
            continue
        ax.text(j, i - 0.12, f"{value:.2f}".replace("-", "−"), fontsize=7, **style)
        ax.text(j, i + 0.2, f"±{width:.2f}", fontsize=6, **style)
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("scorer $B$")
    ax.set_ylabel("source $A$")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.figure.colorbar(image, ax=ax, label=_QUANTITIES.get(quantity, quantity), shrink=0.85, pad=0.03)


def _running_axes(ax: Axes, table: pd.DataFrame, lows: list[pd.Series], highs: list[pd.Series], first: int) -> None:
    late = table.position >= first
    low, high = min(x[late].min() for x in lows), max(x[late].max() for x in highs)
    ax.set_xscale("log")
    ax.set_xlim(first, table.position.max())
    if table.position.max() < 100 * first:
        mark_short(ax.xaxis)
    ax.set_ylim(max(0, low - 0.08 * (high - low)), high + 0.08 * (high - low))
    ax.set_xlabel("position $t$ (tokens)")
    ax.set_ylabel("running mean (nats per token)")


def plot_running_pair(ax: Axes, table: pd.DataFrame, colour: str, first: int = 5) -> None:
    """Running l_B, h_(A,B) with ±1σ and ±2σ of the pair and its time-uniform band, and h_A. Table: `cross_aep.running`."""
    x, centre, sigma = table.position, table.h_AB, table.sigma_pair
    band = (table.pair_low, table.pair_high)
    running_bands(ax, x, centre, sigma, band, colour, r"$h_{(A,B)} \pm 2\sigma$, $\pm 1\sigma$")
    ax.plot(x, centre, color=colour, ls="--", label="cross-entropy $h_{(A,B)}$")
    ax.plot(x, table.l_B, color="black", lw=0.8, label="log-perplexity $l_B$")
    ax.plot(x, table.h_A, color="0.5", lw=0.8, ls="-.", label="entropy $h_A$")
    _running_axes(ax, table, [table.h_A, centre - 2.5 * sigma], [table.l_B, centre + 2.5 * sigma], first)


def plot_foreign_band(ax: Axes, table: pd.DataFrame, colour: str, first: int = 5) -> None:
    """Running l_B of a foreign text against h_B with B's own ±1σ, ±2σ and time-uniform band. Table: `cross_aep.running`."""
    x, centre, sigma = table.position, table.h_B, table.sigma_B
    running_bands(ax, x, centre, sigma, (table.B_low, table.B_high), colour, r"$h_B \pm 2\sigma_B$, $\pm 1\sigma_B$")
    ax.plot(x, centre, color=colour, ls="--", label="entropy of the scorer $h_B$")
    ax.plot(x, table.l_B, color="black", lw=0.8, label="log-perplexity $l_B$")
    _running_axes(ax, table, [table.l_B, centre - 2.5 * sigma], [table.l_B, centre + 2.5 * sigma], first)


def plot_profile(ax: Axes, table: pd.DataFrame, colour: str, scorer: str) -> None:
    """b, H_A, H_B and b - H_A along one text, smoothed as the table says; a is a thin line. Table: `cross_aep.profile`.

    `colour` and `scorer` are the colours of the two languages.
    """
    window = table.window.iloc[0]
    ax.plot(table.position, table.surprisal, color="0.7", lw=0.6, label="surprisal $a_t$")
    ax.plot(table.position, table.cross_entropy, color="black", label="cross-entropy $b_t$")
    ax.plot(table.position, table.source_entropy, color=colour, ls="--", label="entropy $H_{A,t}$")
    ax.plot(table.position, table.scorer_entropy, color=scorer, ls=":", lw=1.2, label="entropy $H_{B,t}$")
    ax.fill_between(table.position, 0, table.kl, color="0.85", lw=0, label="$b_t - H_{A,t}$")
    ax.set_xlim(table.position.min(), table.position.max())
    ax.set_ylim(bottom=0)
    ax.set_xlabel("position $t$ (tokens)")
    mean = f"mean over {window} tokens (nats)" if window > 1 else "per token (nats)"
    ax.set_ylabel(mean)


def plot_scatter(ax: Axes, per_text: pd.DataFrame, against: str, colours: Mapping[str, str]) -> None:
    """Final l_B of every text against `h_AB` or `h_B`, with the diagonal and, shaded, twice the median σ of the texts
    (of the pair, or σ_B); colour: source. For the texts of one scorer. Table: `PairRecords.per_text`.
    """
    sigmas = {"h_AB": "sigma_pair", "h_B": "sigma_B"}
    if against not in sigmas:
        raise ParameterError(f"against={against!r}: h_AB or h_B is needed")
    for source, part in per_text.groupby("source", sort=False):
        own = (part.scorer == source).all()
        face = colours[source] if own else "none"
        style = {"ms": 2.2, "mew": 0.5, "color": colours[source], "mfc": face, "zorder": 3 if own else 2, "alpha": 0.8}
        ax.plot(part[against], part.l_B, "o", label=source, **style)
    low, high = per_text[[against, "l_B"]].min().min(), per_text[[against, "l_B"]].max().max()
    diagonal, half = np.array([low, high]), 2 * per_text[sigmas[against]].median()
    ax.fill_between(diagonal, diagonal - half, diagonal + half, color="0.9", lw=0, zorder=0)
    ax.plot(diagonal, diagonal, color="0.5", lw=0.6, zorder=1)
    ax.set_xlabel(_QUANTITIES[against])
    ax.set_ylabel("$l_B$ (nats per token)")


def plot_rate(
    ax: Axes, tables: Mapping[str, pd.DataFrame], colours: Mapping[str, str], *, foreign: bool = True
) -> None:
    """Root mean square of l_B - h_(A,B) against T with 95%, the predicted line, and open: of l_B - h_B.

    Tables: `cross_aep.convergence`, by the label of the pair.
    """
    for i, ((name, table), marker) in enumerate(zip(tables.items(), _MARKERS, strict=False)):
        x = table.tokens * 1.05 ** (i - (len(tables) - 1) / 2)  # beside each other, about the length that is meant
        kinds = [("foreign", "white", None)] if foreign and not np.allclose(table.foreign, table.rms) else []
        for column, face, label in [*kinds, ("rms", colours[name], f"{name}")]:
            error = [table[column] - table[f"{column}_low"], table[f"{column}_high"] - table[column]]
            style = {"fmt": marker, "ms": 2.8, "lw": 0.8, "color": colours[name], "mfc": face, "label": label}
            ax.errorbar(x, table[column], error, **style)
        ax.plot(table.tokens, table.predicted, color=colours[name], lw=0.9)
    ax.plot([], [], color="0.3", lw=0.9, label=r"predicted $\sqrt{\mathrm{E}\,\Sigma v}/T$")
    if foreign:
        for face, label in (("0.3", "$l_B - h_{(A,B)}$"), ("white", "$l_B - h_B$")):
            ax.plot([], [], "o", color="0.3", mfc=face, ms=2.8, label=label)
    log_axes(ax)
    mark_short(ax.xaxis)
    ax.set_xlabel("length $T$ (tokens)")
    ax.set_ylabel("root mean square (nats per token)" if foreign else "rms of $l_B - h_{(A,B)}$ (nats per token)")
    ax.set_ylim(bottom=0.5 * min(table.predicted.min() for table in tables.values()))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), labelspacing=0.3, borderpad=0.1, ncols=2, columnspacing=1.0)


def plot_by_position(ax: Axes, tables: Mapping[str, pd.DataFrame], colours: Mapping[str, str]) -> None:
    """KL rate per block of positions with 95% over texts. Tables: `cross_aep.by_position`, by the label of the pair."""
    for i, ((name, table), marker) in enumerate(zip(tables.items(), _MARKERS, strict=False)):
        centre = np.sqrt(table["first"] * table["last"]) * 1.05 ** (i - (len(tables) - 1) / 2)  # beside each other
        error = [table.kl - table.low, table.high - table.kl]
        ax.errorbar(centre, table.kl, error, fmt=f"{marker}-", ms=2.8, lw=0.8, color=colours[name], label=name)
    ax.set_xscale("log")
    mark_short(ax.xaxis)
    ax.set_ylim(0, 1.45 * max(table.high.max() for table in tables.values()))
    ax.set_xlabel("position $t$ (tokens)")
    ax.set_ylabel("$b_t - H_{A,t}$ (nats per token)")
    ax.legend(loc="upper right", ncols=2, fontsize=6.5, columnspacing=0.8)


def plot_adaptor(ax: Axes, table: pd.DataFrame, family: str, quantity: str, colours: Mapping[str, str]) -> None:
    """One quantity against the parameter of one family of adaptors, with 95% over texts; colour: source, marker: scorer.

    Of one source alone the colour is the scorer's. Filled and dashed where the scorer is the source. Everything kept
    (ancestral) stands at 1, for top-k at the right, marked "all". Table: `cross_aep.by_adaptor`. ParameterError where it
    has no such rows.
    """
    part = table[(table.family == family) & (table.quantity == quantity)]
    if part.empty:
        raise ParameterError(f"the table has no {quantity!r} of family {family!r}")
    scorers = list(dict.fromkeys(table.scorer))
    finite = part.parameter[np.isfinite(part.parameter)]
    end, alone = 4 * finite.max(), part.source.nunique() == 1
    for (source, scorer), line in part.groupby(["source", "scorer"], sort=False):
        own = source == scorer
        colour = colours[scorer if alone else source]
        style = {"color": colour, "ls": "--" if own else "-", "ms": 3, "lw": 0.8, "mew": 0.5, "label": f"$B$: {scorer}"}
        style |= {"marker": _MARKERS[scorers.index(scorer) % len(_MARKERS)], "mfc": colour if own else "white"}
        error = [line.estimate - line.low, line.high - line.estimate]
        ax.errorbar(line.parameter.replace(np.inf, end), line.estimate, error, **style)
    if family == "top_k":
        ax.set_xscale("log")
        ticks = [*sorted(set(finite)), end]
        ax.set_xticks(ticks, [*(f"{k:g}" for k in ticks[:-1]), "all"])
        ax.minorticks_off()
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    ax.set_xlabel(_FAMILIES.get(family, family))
    ax.set_ylabel(_QUANTITIES.get(quantity, quantity))
