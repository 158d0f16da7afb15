"""Drawing the tables of notebook 02. Each function draws one panel from one tidy table and computes nothing."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from . import PALETTE

__all__ = [
    "plot_drift",
    "plot_final",
    "plot_qq",
    "plot_rejections",
    "plot_rms",
    "plot_running",
    "plot_scatter",
    "plot_shares",
]

_METHODS = {"e-process": ("#009E73", "-", "o"), "z, peeked": ("#CC79A7", "-", "s"), "z, at T": ("#8C6D31", ":", "^")}


def plot_running(ax: Axes, table: pd.DataFrame, colour: str) -> None:
    """Running l and h of one text, ±1σ and ±2σ around h, and the time-uniform band. Table: `self_aep.running`."""
    x, h, s = table.position, table.empirical_entropy, table.sigma
    ax.fill_between(
        x, h - 2 * s, h + 2 * s, color=colour, alpha=0.15, lw=0, label=r"$h_t \pm 2\sigma_t$, $\pm 1\sigma_t$"
    )
    ax.fill_between(x, h - s, h + s, color=colour, alpha=0.2, lw=0)
    ax.plot(x, table.band_low, color="0.35", lw=0.6, ls=(0, (1, 1.5)), label="time-uniform band")
    ax.plot(x, table.band_high, color="0.35", lw=0.6, ls=(0, (1, 1.5)))
    ax.plot(x, h, color=colour, ls="--", label="empirical entropy $h_t$")
    ax.plot(x, table.log_perplexity, color="black", lw=0.8, label="log-perplexity $l_t$")
    ax.set_xscale("log")
    ax.set_xlim(5, x.max())
    late = table[table.position >= 5]
    ax.set_ylim(
        max(0, (late.empirical_entropy - 4 * late.sigma).min()), (late.empirical_entropy + 4 * late.sigma).max()
    )
    ax.set_xlabel("position $t$ (tokens)")
    ax.set_ylabel(r"running mean $l_t$, $h_t$ (nats per token)")


def plot_rms(ax: Axes, tables: Mapping[str, pd.DataFrame], colours: Mapping[str, str]) -> None:
    """Root mean square of l - h over texts with 95% intervals, and the predicted line. Tables: `self_aep.convergence`."""
    for name, table in tables.items():
        error = [table.rms - table.rms_low, table.rms_high - table.rms]
        ax.errorbar(
            table.tokens, table.rms, error, fmt="o", ms=2.5, lw=0.8, color=colours[name], label=f"{name}, measured"
        )
        ax.plot(table.tokens, table.predicted, color=colours[name], lw=0.9, label=f"{name}, predicted")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("length $T$ (tokens)")
    ax.set_ylabel(r"root mean square of $l_T - h_T$ (nats per token)")
    ax.legend(loc="lower left")


def plot_shares(ax: Axes, table: pd.DataFrame, fixed_width: float) -> None:
    """Share of texts inside ±1σ_T, ±2σ_T and a fixed band, and of positions inside ±1σ_t; 95% intervals, normal shares."""
    kinds = [
        ("in_2_sigma", r"texts, $\pm 2\sigma_T$", PALETTE[0], "o"),
        ("in_1_sigma", r"texts, $\pm 1\sigma_T$", PALETTE[4], "s"),
        ("positions", r"positions, $\pm 1\sigma_t$", PALETTE[3], "D"),
        ("in_fixed", f"texts, $\\pm {fixed_width:g}$ nats", PALETTE[1], "^"),
    ]
    for level in (0.954, 0.683):
        ax.axhline(level, color="0.7", lw=0.6)
    for column, label, colour, marker in kinds:
        error = [table[column] - table[f"{column}_low"], table[f"{column}_high"] - table[column]]
        ax.errorbar(table.tokens, table[column], error, fmt=marker, ms=2.5, lw=0.8, color=colour, label=label)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("length $T$ (tokens)")
    ax.set_ylabel("share inside (1)")
    ax.legend(loc="center", bbox_to_anchor=(0.5, 0.81), ncols=2)


def plot_final(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Histogram of the final l - h of each model. Table: `self_aep.per_text`, models concatenated."""
    edges = np.histogram_bin_edges(table.difference, bins=24)
    for name, part in table.groupby("model", sort=False):
        ax.hist(part.difference, edges, histtype="step", color=colours[name], label=name)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_xlabel("$l_T - h_T$ (nats per token)")
    ax.set_ylabel("texts")
    ax.legend(loc="upper left")


def plot_scatter(ax: Axes, table: pd.DataFrame, prompts: Iterable[str]) -> None:
    """Final l against final h, one colour per prompt, with the diagonal; bars are ±2σ_T of each text."""
    for i, prompt in enumerate(prompts):
        part = table[table.prompt == i]
        colour = PALETTE[i % len(PALETTE)]
        ax.errorbar(
            part.empirical_entropy, part.log_perplexity, 2 * part.sigma, fmt="none", lw=0.3, color=colour, alpha=0.35
        )
        ax.plot(part.empirical_entropy, part.log_perplexity, "o", ms=1.8, color=colour, label=f"“{prompt}”")
    low, high = (
        table[["empirical_entropy", "log_perplexity"]].min().min(),
        table[["empirical_entropy", "log_perplexity"]].max().max(),
    )
    ax.plot([low, high], [low, high], color="0.5", lw=0.6, zorder=0)
    ax.set_xlabel("empirical entropy $h_T$ (nats per token)")
    ax.set_ylabel("log-perplexity $l_T$ (nats per token)")
    ax.legend(loc="upper left", handletextpad=0.2)


def plot_qq(ax: Axes, table: pd.DataFrame) -> None:
    """Quantiles of z against those of N(0,1), with the pointwise 95% band of order statistics, one marker per `set`."""
    for (name, part), colour, marker in zip(table.groupby("set", sort=False), PALETTE, "os^Dv", strict=False):
        ax.plot(
            part.normal,
            part.z,
            marker,
            ms=1.8,
            color=colour,
            mew=0.4,
            mfc="none" if marker != "o" else colour,
            label=name,
        )
    band = table[table.set == table.set.iloc[0]]
    ax.fill_between(
        band.normal,
        band.low,
        band.high,
        color="0.85",
        lw=0,
        zorder=0,
        label="pointwise 95% band",
    )
    ax.axline((0, 0), slope=1, color="0.5", lw=0.6, zorder=0)
    ax.set_xlabel("quantile of N(0,1)")
    ax.set_ylabel("quantile of $z_T$")
    ax.legend(loc="upper left")


def plot_rejections(ax: Axes, table: pd.DataFrame, alpha: float | None = None) -> None:
    """Share of texts rejected at or before T per method, with exact 95% intervals. Table: `self_aep.rejections`."""
    for method, part in table.groupby("method", sort=False):
        colour, line, marker = _METHODS[method]
        error = [part.share - part.low, part.high - part.share]
        ax.errorbar(part.tokens, part.share, error, fmt=marker, ls=line, ms=2.5, lw=0.8, color=colour, label=method)
    if alpha is not None:
        ax.axhline(alpha, color="0.6", lw=0.6)
    ax.set_xscale("log")
    ax.set_xlabel("length $T$ (tokens)")
    ax.set_ylabel("share of texts rejected by $T$ (1)")


def plot_drift(ax: Axes, table: pd.DataFrame) -> None:
    """Per sampler: measured l - h under raw p and under q (95% over texts), and the predicted drift as an open square."""
    y = np.arange(len(table))
    for shift, column, label, colour in (
        (0.12, "drift", "scored under raw $p$", PALETTE[1]),
        (-0.12, "under_q", "scored under $q$", PALETTE[0]),
    ):
        error = [table[column] - table[f"{column}_low"], table[f"{column}_high"] - table[column]]
        ax.errorbar(table[column], y + shift, xerr=error, fmt="o", ms=3, lw=1, color=colour, label=label)
    ax.plot(table.predicted, y + 0.12, "s", ms=6, mfc="none", mec="black", mew=0.6, label="predicted for raw $p$")
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_yticks(y, table.sampler)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel("$l_T - h_T$ (nats per token)")
