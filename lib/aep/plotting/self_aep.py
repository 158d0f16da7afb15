"""Drawing the tables of notebook 02. Each function draws one panel from one tidy table and computes nothing."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from . import PALETTE, log_axes, mark_short

__all__ = [
    "plot_controls",
    "plot_drift",
    "plot_final",
    "plot_qq",
    "plot_rejections",
    "plot_rms",
    "plot_running",
    "plot_scatter",
    "plot_shares",
    "running_bands",
]

_METHODS = {"e-process": ("#009E73", "-", "o"), "z, peeked": ("#CC79A7", "-", "s"), "z, at T": ("#8C6D31", ":", "^")}


def running_bands(ax: Axes, x, centre, sigma, band: tuple, colour: str, label: str) -> None:
    """Shaded, `centre` ±1σ and ±2σ (labelled); dotted, the lower and the upper end of the time-uniform band."""
    ax.fill_between(x, centre - 2 * sigma, centre + 2 * sigma, color=colour, alpha=0.15, lw=0, label=label)
    ax.fill_between(x, centre - sigma, centre + sigma, color=colour, alpha=0.2, lw=0)
    for side, name in zip(band, ("time-uniform band", None), strict=True):
        ax.plot(x, side, color="0.35", lw=0.6, ls=(0, (1, 1.5)), label=name)


def plot_running(ax: Axes, table: pd.DataFrame, colour: str) -> None:
    """Running l and h of one text, ±1σ and ±2σ around h, and the time-uniform band. Table: `self_aep.running`."""
    x, h, band = table.position, table.empirical_entropy, (table.band_low, table.band_high)
    running_bands(ax, x, h, table.sigma, band, colour, r"$h_t \pm 2\sigma_t$, $\pm 1\sigma_t$")
    ax.plot(x, h, color=colour, ls="--", label="empirical entropy $h_t$")
    ax.plot(x, table.log_perplexity, color="black", lw=0.8, label="log-perplexity $l_t$")
    ax.set_xscale("log")
    if x.max() < 500:
        mark_short(ax.xaxis)
    ax.set_xlim(5, x.max())
    late = table[table.position >= 5]
    ax.set_ylim(
        max(0, (late.empirical_entropy - 4 * late.sigma).min()), (late.empirical_entropy + 4 * late.sigma).max()
    )
    ax.set_xlabel("position $t$ (tokens)")
    ax.set_ylabel(r"running mean $l_t$, $h_t$ (nats per token)")


def plot_rms(ax: Axes, tables: Mapping[str, pd.DataFrame], colours: Mapping[str, str]) -> None:
    """Root mean square of l - h over texts with 95% intervals (points) and the predicted line, one colour per model.

    Tables: `self_aep.convergence`. Points of several models at one length stand side by side.
    """
    for i, (name, table) in enumerate(tables.items()):
        error = [table.rms - table.rms_low, table.rms_high - table.rms]
        x = table.tokens * 1.03 ** (i - (len(tables) - 1) / 2)
        ax.errorbar(x, table.rms, error, fmt="o", ms=2.5, lw=0.8, color=colours[name], label=name)
        ax.plot(table.tokens, table.predicted, color=colours[name], lw=0.9)
    log_axes(ax)
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
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)


def plot_final(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Histogram of the final l - h of each model, and of all pooled. Table: `self_aep.per_text`, models concatenated."""
    reach = table.difference.abs().max()
    edges = np.linspace(-reach, reach, 22)
    if table.model.nunique() > 1:
        ax.hist(table.difference, edges, density=True, color="0.85", label="all models")
    for name, part in table.groupby("model", sort=False):
        ax.hist(part.difference, edges, density=True, histtype="step", lw=0.9, color=colours[name], label=name)
    ax.axvline(0, color="0.5", lw=0.6, zorder=3)
    ax.set_xlabel("$l_T - h_T$ (nats per token)")
    ax.set_ylabel("density (1/nats)")
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


def plot_qq(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str] | None = None) -> None:
    """Quantiles of z against those of N(0,1), with the pointwise 95% band of order statistics, one marker per `set`."""
    for (name, part), free, marker in zip(table.groupby("set", sort=False), PALETTE, "os^Dv<>p", strict=False):
        colour = (colours or {}).get(name, free)
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
    ax.set_xlabel("quantile of the standard normal (1)")
    ax.set_ylabel("quantile of $z_T$ (1)")
    ax.legend(loc="upper left")


def plot_controls(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Mean of z per kind of text and model (95% over texts; mostly smaller than the mark), and its prediction (bar).

    Table: `controls.verdicts`. Filled: calibration rejected; open: not. On a scale that is linear between -1 and 1.
    """
    kinds, models = list(dict.fromkeys(table.kind)), list(dict.fromkeys(table.model))
    for j, model in enumerate(models):
        part = table[table.model == model]
        y = np.array([kinds.index(kind) for kind in part.kind]) + 0.7 * (j - (len(models) - 1) / 2) / len(models)
        error = [part.mean_z - part.mean_z_low, part.mean_z_high - part.mean_z]
        ax.errorbar(part.mean_z, y, xerr=error, fmt="none", lw=0.8, color=colours[model])
        for seen, face in ((part.rejected, colours[model]), (~part.rejected, "white")):
            label = model if face != "white" else None
            ax.plot(part.mean_z[seen], y[seen], "o", ms=2.8, mew=0.7, color=colours[model], mfc=face, label=label)
        last = "predicted" if j == len(models) - 1 else None
        ax.plot(part.predicted_z, y, "|", ms=6, mew=0.8, color="black", zorder=3, label=last)
    ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_xscale("symlog", linthresh=1, linscale=0.5)
    ax.xaxis.set_major_locator(FixedLocator([-10, -5, -2, -1, 0, 1, 2, 5, 10, 20]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_yticks(range(len(kinds)), kinds)
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_xlabel("mean of $z_T$ (1)")


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
