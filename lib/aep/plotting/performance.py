"""Drawing the benchmark table in notebook A2. Each function draws one panel from rows of the table and computes nothing."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from . import PALETTE

__all__ = ["plot_parts", "plot_ratios", "plot_sweep"]


def plot_parts(ax: Axes, table: pd.DataFrame) -> None:
    """Stacked bars of the parts of a pass per kind, each with the range of its runs where it was measured.

    Columns kind, part, value, low, high (microseconds per token).
    """
    kinds, left = list(dict.fromkeys(table.kind)), {}
    colours = dict(zip(dict.fromkeys(table.part), PALETTE, strict=False))
    for part, rows in table.groupby("part", sort=False):
        at = [kinds.index(kind) for kind in rows.kind]
        base = [left.get(kind, 0.0) for kind in rows.kind]
        ax.barh(at, rows.value, left=base, height=0.6, color=colours[part], label=part)
        error = [(rows.value - rows.low).fillna(0), (rows.high - rows.value).fillna(0)]
        ax.errorbar(np.add(base, rows.value), at, xerr=error, fmt="none", ecolor="0.25", lw=0.8, capsize=2)
        left |= {kind: b + v for kind, b, v in zip(rows.kind, base, rows.value, strict=True)}
    ax.set_yticks(range(len(kinds)), kinds)
    ax.invert_yaxis()
    ax.set_xlabel(r"time per token ($\mu$s)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=len(colours))


def plot_sweep(
    ax: Axes, table: pd.DataFrame, label: str, ylabel: str = r"time per token ($\mu$s)", yscale: str = "linear"
) -> None:
    """Median of the runs against a size, with the range of the runs; columns size, value, low, high."""
    error = [table.value - table.low, table.high - table.value]
    ax.errorbar(table["size"], table.value, error, fmt="o-", lw=0.9, ms=3, capsize=2, color=PALETTE[0])
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(table["size"]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(
        table["size"], [f"{size:,}" for size in table["size"]], rotation=30 if table["size"].max() > 999 else 0
    )
    if yscale == "linear":
        ax.set_ylim(0, 1.15 * table.high.max())
    else:
        ax.set_yscale(yscale)
    ax.set_xlabel(label)
    ax.set_ylabel(ylabel)


def plot_ratios(ax: Axes, table: pd.DataFrame) -> None:
    """Ratios with the range of their runs and the bound asked for (tick); columns name, value, low, high, bound, is_cost.

    Costs (small is good) are filled, speed-ups (large is good) open.
    """
    at = np.arange(len(table))
    for is_cost, label in ((True, "our cost over theirs"), (False, "how many times faster")):
        rows, where = table[table.is_cost == is_cost], at[table.is_cost == is_cost]
        error = [rows.value - rows.low, rows.high - rows.value]
        face = PALETTE[0] if is_cost else "white"
        style = {"fmt": "o", "ms": 3.5, "lw": 1, "capsize": 2, "color": PALETTE[0], "mfc": face}
        ax.errorbar(rows.value, where, xerr=error, label=label, **style)
    ax.plot(table.bound, at, "|", ms=9, mew=1.2, color=PALETTE[1], label="asked for")
    ax.axvline(1, color="0.6", lw=0.7, ls=(0, (4, 2)), zorder=0)
    ax.set_yticks(at, table.name)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel("ratio (1)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3)
