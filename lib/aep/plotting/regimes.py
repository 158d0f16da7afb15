"""Drawing drift, loops, adversarial prompts, many running texts and the 2x2 panel of a model (notebook 02).

Each `plot_*` draws one panel from one tidy table and computes nothing; `panel_grid` makes one figure of many panels.
"""

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from ..analysis.panels import Panel
from ..errors import ParameterError
from . import PALETTE, TEXT, mark_short
from .self_aep import plot_qq, plot_rms, plot_running

__all__ = [
    "panel_grid",
    "plot_entropy_paths",
    "plot_gaps",
    "plot_histogram",
    "plot_information",
    "plot_loops",
    "plot_panel",
    "plot_prompts",
    "plot_settling",
]

_MARKERS = "os^Dv<"


def _points(ax: Axes, x, y, table: pd.DataFrame, name: str, *, horizontal: bool = False, **style) -> None:
    """Points with the interval of the columns `<name>_low` and `<name>_high`."""
    error = [table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]
    ax.errorbar(x, y, **{"xerr" if horizontal else "yerr": error}, **{"fmt": "o", "ms": 3, "lw": 0.9} | style)


def plot_entropy_paths(ax: Axes, table: pd.DataFrame, colours: Iterable[str] = PALETTE) -> None:
    """Running h_t of every text, one colour per limit, and the limits as dashed lines. Table: `regimes.running_texts`."""
    for (limit, part), colour in zip(table.groupby("limit", dropna=False), colours, strict=False):
        for _, text in part.groupby("text"):
            ax.plot(text.tokens, text.h, color=colour, lw=0.5, alpha=0.6)
        if np.isfinite(limit):
            label = None if ax.get_legend_handles_labels()[1] else "entropy rates"
            ax.axhline(limit, color="black", lw=0.7, ls=(0, (4, 2)), zorder=3, label=label)
    ax.set_xscale("log")
    ax.set_xlim(table.tokens.min(), table.tokens.max())
    ax.set_ylim(bottom=0)
    ax.set_xlabel("position $t$ (tokens)")
    ax.set_ylabel("entropy $h_t$ (nats per token)")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower left")


def plot_gaps(ax: Axes, table: pd.DataFrame, envelope: pd.DataFrame, colour: str = PALETTE[0]) -> None:
    """l_t - h_t of every text with ±1 and ±2 median σ_t, the iterated logarithm and the time-uniform band.

    A note says how many of the texts have no test.

    Tables: `regimes.running_texts` and `regimes.envelope`.
    """
    x, s = envelope.tokens, envelope.sigma
    ax.fill_between(
        x, -2 * s, 2 * s, color=colour, alpha=0.15, lw=0, label=r"$\pm 2\sigma_t$, $\pm 1\sigma_t$ (median)"
    )
    ax.fill_between(x, -s, s, color=colour, alpha=0.22, lw=0)
    for _, text in table.groupby("text"):
        ax.plot(text.tokens, text.difference, color="0.25", lw=0.4, alpha=0.55)
    for sign, label in ((1, "iterated logarithm"), (-1, None)):
        ax.plot(x, sign * envelope.iterated_logarithm, color=PALETTE[1], lw=0.8, ls="--", label=label)
    for side, label in (("band_high", "time-uniform band (median)"), ("band_low", None)):
        ax.plot(x, envelope[side], color="black", lw=0.8, ls=(0, (1, 1.5)), label=label)
    ax.axhline(0, color="0.6", lw=0.5)
    untested = table.loc[table.verdict != "test", "text"].nunique()
    if untested:
        note = f"no test: {untested} of {table.text.nunique()}"
        ax.annotate(note, (0.97, 0.04), xycoords="axes fraction", ha="right", fontsize=7)
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    if x.max() < 500:
        mark_short(ax.xaxis)
    ax.set_xlim(x.min(), x.max())
    ax.set_ylim(-2.8 * s.max(), 2.8 * s.max())
    ax.set_xlabel("position $t$ (tokens)")
    ax.set_ylabel("$l_t - h_t$ (nats per token)")


def plot_settling(ax: Axes, table: pd.DataFrame, colours: Iterable[str] = PALETTE) -> None:
    """Per regime: root mean square of l - h (filled) and spread of h over texts (open), 95%. Table: `regimes.settling`."""
    for (regime, part), colour, marker in zip(table.groupby("regime", sort=False), colours, _MARKERS, strict=False):
        style = {"color": colour, "fmt": f"{marker}-", "ms": 2.8}
        _points(ax, part.tokens, part.gap, part, "gap", label=regime, **style)
        _points(ax, part.tokens, part.spread, part, "spread", **style | {"fmt": f"{marker}:", "mfc": "white"})
    ax.plot([], [], "-", color="0.3", label="rms of $l_T-h_T$")
    ax.plot([], [], ":", color="0.3", label="spread of $h_T$")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("length $T$ (tokens)")
    ax.set_ylabel("rms, spread over texts (nats per token)")
    ax.legend(loc="lower left", fontsize=6.5)


def plot_information(ax: Axes, table: pd.DataFrame) -> None:
    """Σ V_t of every text against t, texts without a test in another colour. Table: `regimes.running_texts`."""
    seen = set()
    for _, text in table.groupby(["regime", "text"], sort=False):
        tested = text.verdict.iloc[0] == "test"
        label, colour = ("test", PALETTE[0]) if tested else ("no test", PALETTE[1])
        style = {"color": colour, "ls": "-" if tested else (0, (5, 2)), "label": None if label in seen else label}
        ax.plot(text.tokens, text.sum_varentropy, lw=0.7 if tested else 0.5, alpha=0.8, **style)
        seen.add(label)
    ax.set_xlim(0, table.tokens.max())
    ax.set_ylim(bottom=0)
    ax.set_xlabel("position $t$ (tokens)")
    ax.set_ylabel(r"$\sum_{i\leq t} V_i$ (nats$^2$)")
    ax.legend(loc="upper left")


def plot_loops(ax: Axes, table: pd.DataFrame) -> None:
    """Per sampler: share of texts that end in a loop and share that have a test, exact 95%. Table: `regimes.loop_shares`."""
    y = np.arange(len(table))
    for shift, name, label, colour, marker in (
        (0.13, "looping", "end in a loop", PALETTE[1], "s"),
        (-0.13, "tested", "have a test", PALETTE[0], "o"),
    ):
        _points(ax, table[name], y - shift, table, name, horizontal=True, fmt=marker, color=colour, label=label)
    ax.set_yticks(y, table.regime)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xlabel("share of texts (1)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)


def plot_prompts(ax: Axes, tables: Mapping[str, pd.DataFrame], colours: Mapping[str, str]) -> None:
    """Mean l - h per prompt with 95% over texts: one row per prompt, one colour per model, one marker per table.

    Tables: `adversarial.by_kind`; the first is filled, the others (controls) are open. Keys are the words of the legend.
    """
    first = next(iter(tables.values()))
    kinds, models = list(dict.fromkeys(first.prompt)), list(dict.fromkeys(first.model))
    for i, (label, table) in enumerate(tables.items()):
        for j, model in enumerate(models):
            part = table[table.model == model]
            y = np.array([kinds.index(kind) for kind in part.prompt]) + 0.36 * (j - (len(models) - 1) / 2) / len(models)
            style = {"fmt": _MARKERS[i], "color": colours[model], "mfc": colours[model] if i == 0 else "white"}
            _points(ax, part.difference, y, part, "difference", horizontal=True, label=f"{model}, {label}", **style)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_yticks(range(len(kinds)), kinds)
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_xlabel("mean $l_T - h_T$ (nats per token)")


def plot_histogram(ax: Axes, table: pd.DataFrame, colour: str) -> None:
    """Density of the final l - h, the mixture of normal laws the paths predict, its 95% band. Table: `final_histogram`."""
    edges = [*table.left, table.right.iloc[-1]]
    ax.stairs(table.high, edges, baseline=table.low, color="0.85", fill=True, label="pointwise 95% band")
    ax.stairs(table.predicted, edges, baseline=None, color="black", lw=0.8, label="predicted")
    ax.stairs(table.density, edges, baseline=None, color=colour, lw=1.2, label="measured")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("$l_T - h_T$ (nats per token)")
    ax.set_ylabel("density (1/nats)")


def plot_panel(axes: np.ndarray, tables: Panel, colour: str, *, tight: bool = False) -> None:
    """The 2x2 panel of one model: running l and h, histogram of l - h, Q-Q of z, rms of l - h. Legends are left out.

    `axes` is (2, 2); `tight` shortens the labels of the axes for panels about 1.5 inches wide. Predictions are black.
    """
    (running, final), (quantiles, rate) = axes
    plot_running(running, tables.running, colour)
    plot_histogram(final, tables.final, colour)
    plot_qq(quantiles, tables.quantiles)
    quantiles.lines[0].set(color=colour, mfc=colour)
    plot_rms(rate, {"model": tables.rate}, {"model": colour})
    rate.lines[-1].set(color="black", lw=0.8, zorder=0)
    rate.set_ylabel("rms of $l_T-h_T$ (nats per token)")
    for ax in (quantiles, rate):
        ax.get_legend().remove()
    if tight:
        running.set(xlabel="$t$ (tokens)", ylabel="$l_t$, $h_t$ (nats)")
        final.set(xlabel="$l_T-h_T$ (nats)", ylabel="density (1/nats)")
        quantiles.set(xlabel="normal quantile (1)", ylabel="quantile of $z_T$ (1)")
        rate.set(xlabel="$T$ (tokens)", ylabel="rms $l_T-h_T$ (nats)")
        running.xaxis.set_minor_formatter(NullFormatter())
        for ax in axes.flat:
            ax.tick_params(labelsize=6)
            ax.xaxis.label.set_size(7)
            ax.yaxis.label.set_size(7)


def _legend(colour: str) -> list:
    """What the lines of `plot_panel` are, in one colour for all models."""
    return [
        Line2D([], [], color="black", label="log-perplexity $l_t$; predictions"),
        Line2D([], [], color=colour, ls="--", label="empirical entropy $h_t$"),
        Patch(color=colour, alpha=0.3, lw=0, label=r"$h_t\pm1\sigma_t$, $\pm2\sigma_t$"),
        Line2D([], [], color="0.35", lw=0.6, ls=(0, (1, 1.5)), label="time-uniform band"),
        Line2D([], [], color=colour, marker="o", ms=3, lw=1.2, label="measured (rms: 95% intervals)"),
        Patch(color="0.85", lw=0, label="pointwise 95% band of the prediction"),
    ]


def panel_grid(models: Mapping[str, Panel], colours: Mapping[str, str]) -> Figure:
    """One figure as wide as the text with one 2x2 panel per model, for 1 to 6 models; ParameterError for another number.

    A single model takes the whole width, several stand in two columns. The legend below serves all panels.
    """
    if not 1 <= len(models) <= 6:
        raise ParameterError(f"{len(models)} models: a grid of panels shows 1 to 6")
    columns = min(len(models), 2)
    rows = -(-len(models) // columns)
    height, below = (4.2 if columns == 1 else 2.7 * rows), 0.4
    outer = plt.figure(figsize=(TEXT, height + below), layout="constrained")
    grid, foot = outer.subfigures(2, 1, height_ratios=[height, below])
    cells = grid.subfigures(rows, columns, squeeze=False, wspace=0.02, hspace=0.02)
    for (name, tables), cell in zip(models.items(), cells.flat, strict=False):
        plot_panel(cell.subplots(2, 2), tables, colours[name], tight=columns > 1)
        cell.suptitle(name, fontsize=8, color=colours[name], fontweight="bold")
    single = colours[next(iter(models))] if len(models) == 1 else "0.5"
    foot.legend(handles=_legend(single), loc="center", ncols=3, columnspacing=1.5, handlelength=1.8)
    return outer
