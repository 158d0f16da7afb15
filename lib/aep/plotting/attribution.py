"""Drawing the tables of `analysis.attribution` and `analysis.attribution_tables`. One panel each; nothing is computed."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

from . import PALETTE, mark_short

__all__ = [
    "plot_accuracy",
    "plot_breaks",
    "plot_confusion",
    "plot_e_values",
    "plot_stopping",
]

_RULES = {  # colour, line, marker, shift of the mark on the axis of T
    "maximum likelihood": (PALETTE[0], "-", "o", 0.97),
    "smallest |z|": (PALETTE[7], ":", "^", 1.0),
    "e-process": (PALETTE[2], "--", "s", 1.03),
}
_KNOWN = {
    "known": (PALETTE[0], "o"),
    "unknown": (PALETTE[2], "s"),
    "not on the list": (PALETTE[5], "D"),
    "raw p assumed": (PALETTE[1], "^"),
}


def plot_confusion(ax: Axes, table: pd.DataFrame) -> None:
    """Authors in rows, answers in columns: the share of texts in percent, its 95% interval below. Answers never given to
    anybody have no column unless they are candidates. Table: `attribution_tables.confusion` of one rule and T."""
    given = table.groupby("chosen", sort=False)["count"].sum()
    special = ("none of them", "undecided")
    columns = [name for name in given.index if name not in special or given[name] > 0]
    rows = list(dict.fromkeys(table.author))
    shares = table.pivot(index="author", columns="chosen", values="share").loc[rows, columns].to_numpy()
    ax.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for row in table[table.chosen.isin(columns)].itertuples():
        x, y, colour = columns.index(row.chosen), rows.index(row.author), "white" if row.share > 0.55 else "black"
        ax.text(x, y - 0.12, f"{100 * row.share:.0f}", ha="center", va="center", color=colour, fontsize=8)
        interval = f"{100 * row.low:.0f}–{100 * row.high:.0f}"
        ax.text(x, y + 0.24, interval, ha="center", va="center", color=colour, fontsize=6)
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xlabel("answer (% of texts, 95% interval)")
    ax.set_ylabel("author")


def _over_lengths(ax: Axes, table: pd.DataFrame, column: str, shift: float = 1.0, **style) -> None:
    error = [table[column] - table[f"{column}_low"], table[f"{column}_high"] - table[column]]
    ax.errorbar(shift * table.tokens, table[column], error, ms=3, lw=0.9, elinewidth=0.7, **style)


def _length_axis(ax: Axes, table: pd.DataFrame) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(table.tokens))))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(FixedLocator([]))
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("length $T$ (tokens)")


def plot_accuracy(ax: Axes, table: pd.DataFrame, *, column: str = "accuracy", chance: float | None = None) -> None:
    """Share of texts given to their author against T, one line per rule, 95% intervals; `chance` is a grey line.

    Table: rows of one author (or "all") of `attribution_tables.accuracy_by_length`; `column` may be "merged".
    """
    for rule, part in table.groupby("rule", sort=False):
        colour, line, marker, shift = _RULES[rule]
        _over_lengths(ax, part, column, shift, color=colour, ls=line, fmt=marker, label=rule)
    if chance is not None:
        ax.axhline(chance, color="0.6", lw=0.6, zorder=0)
    _length_axis(ax, table)
    ax.set_ylabel("share given to the author (1)" if column == "accuracy" else "share given to the right group (1)")


def plot_stopping(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Median stopping time per author with its 95% interval, and the time that the nearest rival's KL rate predicts.

    Table: `attribution_tables.stopping_times`; "all" is left out. An arrow: the median, or the upper end of its interval,
    lies beyond the length of the texts (dotted). Open squares: the mean of the prediction; bars: its median; beyond four
    times that length they are not drawn.
    """
    part = table[table.author != "all"].reset_index(drop=True)
    end = float(part.tokens.max())
    for y, row in enumerate(part.itertuples()):
        colour = colours[row.author]
        high = row.median_high if np.isfinite(row.median_high) else 1.25 * end
        low = min(row.median_low, end)
        ax.plot([low, high], [y, y], color=colour, lw=1.2)
        if not np.isfinite(row.median_high):
            ax.plot(high, y, ">", color=colour, ms=4)
        if np.isfinite(row.median):
            ax.plot(row.median, y, "o", color=colour, ms=4)
        label = f"{100 * row.decided:.0f}% of {row.texts}"
        ax.annotate(label, (1, y), (3, 0), ("axes fraction", "data"), "offset points", fontsize=6.5, va="center")
        if np.isfinite(row.predicted):
            ax.plot(row.predicted, y + 0.22, "s", ms=4, mfc="white", mec="black", mew=0.7)
            ax.plot(row.predicted_median, y + 0.22, "|", ms=6, mew=1.1, color="black")
    ax.axvline(end, color="0.5", lw=0.8, ls=":", zorder=0)
    ax.annotate("stopped", (1, 0), (3, -4), "axes fraction", "offset points", fontsize=6.5, va="top")
    ax.set_xscale("log")
    mark_short(ax.xaxis)
    ax.set_xlim(right=min(ax.get_xlim()[1], 4 * end))
    ax.set_yticks(range(len(part)), part.author)
    ax.set_ylim(len(part) - 0.5, -0.5)
    ax.set_xlabel("stopping time $T$ (tokens)")
    marks = [
        Line2D([], [], color="0.35", marker="o", ms=4, lw=1.2, label="median, observed"),
        Line2D([], [], color="black", marker="|", ms=6, mew=1.1, ls="", label="median, predicted"),
        Line2D([], [], color="black", marker="s", ms=4, mfc="white", mew=0.7, ls="", label="mean, predicted"),
    ]
    style = {"ncols": 3, "columnspacing": 0.8, "handletextpad": 0.3, "fontsize": 6.5}
    ax.legend(handles=marks, loc="lower right", bbox_to_anchor=(1.18, 1.0), **style)


def plot_e_values(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str], alpha: float = 0.05) -> None:
    """log E of every candidate along one text, and log 1/α, where it is excluded. Table: `attribution.running`.

    A candidate that forbids a token leaves through the top there.
    """
    finite = table.log_e[np.isfinite(table.log_e)]
    top = max(1.15 * finite.max(), -1.6 * np.log(alpha)) if len(finite) else -1.6 * np.log(alpha)
    for name, part in table.groupby("candidate", sort=False):
        ax.plot(part.position, np.minimum(part.log_e, 2 * top), color=colours[name], lw=0.9, label=name)
    ax.axhline(-np.log(alpha), color="0.35", lw=0.7, ls=(0, (4, 2)))
    ax.annotate(
        rf"$\log 1/\alpha$, $\alpha={alpha:g}$",
        (1, -np.log(alpha)),
        (-2, 2),
        ("axes fraction", "data"),
        "offset points",
        fontsize=6.5,
        ha="right",
    )
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.set_ylim(min(-0.12 * top, 1.1 * finite.min()) if len(finite) else -0.12 * top, top)
    ax.set_xlim(1, table.position.max())
    ax.set_xlabel("position $T$ (tokens)")
    ax.set_ylabel(r"$\log E_k(T)$ (nats)")


def plot_breaks(ax: Axes, table: pd.DataFrame, *, column: str = "accuracy", chance: float | None = None) -> None:
    """Share of texts given to their author per sampler and by what the reader knows of it, 95% intervals.

    Table: rows of one rule, T and author (or "all") of `attribution_tables.where_it_breaks`.
    """
    samplers = list(dict.fromkeys(table.sampler))
    present = [name for name in _KNOWN if name in set(table.knowledge)]
    shifts = dict(zip(present, np.linspace(-0.24, 0.24, len(present)) if len(present) > 1 else [0.0], strict=True))
    for name in present:
        part, (colour, marker) = table[table.knowledge == name], _KNOWN[name]
        y = [samplers.index(sampler) + shifts[name] for sampler in part.sampler]
        error = [part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]]
        ax.errorbar(part[column], y, xerr=error, fmt=marker, ms=3.5, lw=0.9, color=colour, label=name)
    if chance is not None:
        ax.axvline(chance, color="0.6", lw=0.6, zorder=0)
    ax.set_yticks(range(len(samplers)), samplers)
    ax.set_ylim(len(samplers) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xlabel("share given to the author (1)" if column == "accuracy" else "share given to the right group (1)")
    ax.legend(title="the sampler is", loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, title_fontsize=7)
