"""Drawing the tables of notebook A1. Each function draws one panel from one tidy table and computes nothing."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from . import PALETTE

__all__ = [
    "plot_calibration",
    "plot_curves",
    "plot_gains",
    "plot_known_words",
    "plot_loss_by_size",
    "plot_shares_copied",
]


def plot_curves(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Losses against tokens seen, a line per model; columns model, tokens, validation, training (nats per token)."""
    for name, part in table.groupby("model", sort=False):
        style = "--" if name.endswith("twin") else "-"
        ax.plot(part.tokens / 1e6, part.validation, style, marker=".", ms=2.5, color=colours[name], label=name)
        ax.plot(part.tokens / 1e6, part.training, style, lw=0.5, color=colours[name])
    ax.set_xlabel("training tokens seen (millions)")
    ax.set_ylabel("loss (nats per token)")
    ax.legend(loc="lower left")


def plot_loss_by_size(ax: Axes, table: pd.DataFrame, lines: pd.Series, colours: Mapping[str, str], unit: str) -> None:
    """Held-out loss with 95% intervals against parameters; `lines` are the baselines, drawn across and named."""
    for row in table.itertuples():
        error = [[row.loss - row.low], [row.high - row.loss]]
        mark = "s" if row.model.endswith("bytes") else "^" if row.model.endswith("twin") else "o"
        ax.errorbar(
            row.parameters,
            row.loss,
            error,
            fmt=mark,
            ms=3.5,
            lw=1,
            capsize=1.5,
            color=colours[row.model],
            label=row.model,
        )
    _name_lines(ax, lines)
    ax.set_xscale("log")
    ax.set_xlim(0.6 * table.parameters.min(), 2.5 * table.parameters.max())
    ax.xaxis.set_major_locator(FixedLocator([1e5, 1e6]))
    ax.set_xlabel("parameters (1)")
    ax.set_ylabel(f"held-out loss (nats per {unit})")


def plot_gains(ax: Axes, table: pd.DataFrame) -> None:
    """Differences of loss with 95% intervals, one row each; columns from, to, per (token or byte: open), gain, low, high."""
    for i, row in enumerate(table.itertuples(index=False)):
        error = [[row.gain - row.low], [row.high - row.gain]]
        face = "white" if row.per == "byte" else PALETTE[0]
        ax.errorbar(row.gain, i, xerr=error, fmt="o", ms=3.5, lw=1, capsize=1.5, color=PALETTE[0], mfc=face)
    ax.axvline(0, color="0.6", lw=0.7, ls=(0, (4, 2)), zorder=0)
    ax.set_yticks(range(len(table)), [f"{a} to {b}" for a, b in zip(table["from"], table["to"], strict=True)])
    ax.invert_yaxis()
    ax.set_xlabel("gain (nats per token; open: per byte)")


def plot_shares_copied(ax: Axes, table: pd.DataFrame, controls: pd.Series, colours: Mapping[str, str]) -> None:
    """Share of a sample's 13-grams that stand in the training text, against temperature, with 95% intervals."""
    _by_temperature(ax, table, "copied", colours)
    _name_lines(ax, controls)
    ax.set_ylabel("13-grams that stand in\nthe training text (share)")


def plot_known_words(ax: Axes, table: pd.DataFrame, held_out: float, colours: Mapping[str, str]) -> None:
    """Share of a sample's words that are words of the training text, against temperature; the line is held-out text."""
    _by_temperature(ax, table, "known", colours)
    ax.axhline(held_out, color="0.6", lw=0.7, ls=(0, (4, 2)), zorder=0, label="held-out documents")
    ax.set_ylabel("words that are words of\nthe training text (share)")


def _name_lines(ax: Axes, lines: pd.Series) -> None:
    """Dashed lines across the axes, named at their right end, above; the lower one of two close neighbours below."""
    values = lines.sort_values()
    for i, (name, value) in enumerate(values.items()):
        close = i + 1 < len(values) and values.iloc[i + 1] - value < 0.08 * (values.iloc[-1] - values.iloc[0])
        ax.axhline(value, color="0.6", lw=0.7, ls=(0, (4, 2)), zorder=0)
        ax.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), xytext=(0, -2 if close else 1.5), ha="right",
            textcoords="offset points", va="top" if close else "bottom", fontsize=7, color="0.35",
        )  # fmt: skip


def _by_temperature(ax: Axes, table: pd.DataFrame, column: str, colours: Mapping[str, str]) -> None:
    names = list(dict.fromkeys(table.model))
    for i, name in enumerate(names):
        part = table[table.model == name]
        value = part[column].to_numpy()
        error = [value - part[f"{column}_low"], part[f"{column}_high"] - value]
        shift = 0.012 * (i - (len(names) - 1) / 2)
        style = "o--" if name.endswith("twin") else "o-"
        ax.errorbar(part.temperature + shift, value, error, fmt=style, lw=0.8, ms=2.5, color=colours[name], label=name)
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(table.temperature))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel(r"temperature $\tau$ (1)")


def plot_calibration(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Mean square of z per model with its exact band under N(0,1), and the control (open) with σ a quarter too large."""
    at = np.arange(len(table))
    low, high = table.square_low.to_numpy(), table.square_high.to_numpy()
    ax.fill_between([-0.6, len(table) - 0.4], low[0], high[0], color="0.85", lw=0, label="99.9% band")
    ax.axhline(1, color="0.5", lw=0.6)
    edges = [colours[n] for n in table.model]
    ax.scatter(at, table.mean_square, c=edges, s=16, zorder=3)
    ax.scatter(at, table.mean_square / 1.25**2, edgecolors=edges, facecolors="none", s=16, zorder=3)
    ax.plot([], [], "o", ms=4, color="0.4", label=r"$z$ of own texts")
    ax.plot([], [], "o", ms=4, color="0.4", mfc="none", label=r"control: $\sigma \times 1.25$")
    ax.set_xlim(-0.6, len(table) - 0.4)
    ax.set_xticks(at, table.model, rotation=30, ha="right")
    ax.set_ylabel(r"mean of $z^2$ over texts (1)")
    ax.legend(loc="center left", bbox_to_anchor=(0, 0.4))
