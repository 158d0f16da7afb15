"""Figures of notebook 05: what has been memorised, by count, score, window and token. They draw and compute nothing."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd

from . import PALETTE

__all__ = [
    "plot_by_count",
    "plot_forest",
    "plot_roc",
    "plot_scatter",
    "plot_shares",
    "plot_token_map",
    "plot_windows",
]

BLUE, ORANGE, GREEN, PINK, SKY, AMBER, BLACK, BROWN = PALETTE
GREY = "0.55"
_BELOW, _ABOVE = "#0571B0", "#CA0020"  # as in the HTML map: less and more surprising than expected
_DEEPEST = 0.6


def plot_by_count(ax, table: pd.DataFrame, value: str, label: str, *, groups: str) -> None:
    """A value with its interval (`low`, `high`) at every `count`, a line per entry of the column `groups`.

    Counts stand at equal distances, as doublings do; 0 is the first.
    """
    counts = sorted(table["count"].unique())
    place = {count: i for i, count in enumerate(counts)}
    names = list(dict.fromkeys(table[groups]))
    for k, (name, colour) in enumerate(zip(names, PALETTE, strict=False)):
        mine = table[table[groups] == name]
        at = mine["count"].map(place) + 0.08 * (k - (len(names) - 1) / 2)
        spread = [mine[value] - mine["low"], mine["high"] - mine[value]]
        ax.errorbar(at, mine[value], yerr=spread, fmt="o-", color=colour, elinewidth=0.7, capsize=1.2, label=name)
    ax.set_xticks(range(len(counts)), [str(c) for c in counts])
    ax.set_xlabel("repetitions in training (1)")
    ax.set_ylabel(label)


def plot_forest(ax, table: pd.DataFrame, value: str, label: str, *, groups: str, at: float | None = None) -> None:
    """A value with its interval (`<value>_low`, `<value>_high`) per `score`, a colour per `groups`; a line `at` chance."""
    scores = list(dict.fromkeys(table["score"]))
    place = {score: i for i, score in enumerate(scores)}
    names = list(dict.fromkeys(table[groups]))
    for k, (name, colour) in enumerate(zip(names, PALETTE, strict=False)):
        mine = table[table[groups] == name]
        rows = mine["score"].map(place) + 0.22 * (k - (len(names) - 1) / 2)
        spread = [mine[value] - mine[f"{value}_low"], mine[f"{value}_high"] - mine[value]]
        ax.errorbar(mine[value], rows, xerr=spread, fmt="o", color=colour, elinewidth=0.7, capsize=1.2, label=name)
    if at is not None:
        ax.axvline(at, color=GREY, linewidth=0.6)
    ax.set_yticks(range(len(scores)), scores)
    ax.set_ylim(len(scores) - 0.4, -0.6)
    ax.set_xlabel(label)


def plot_roc(ax, curves: Mapping[str, pd.DataFrame]) -> None:
    """ROC curves as steps (`fpr`, `tpr`), FPR on a logarithmic axis from 1/1000; dotted: no better than chance."""
    for (name, curve), colour in zip(curves.items(), PALETTE, strict=False):
        ax.step(np.maximum(curve["fpr"], 1e-3), curve["tpr"], where="post", color=colour, label=name)
    line = np.geomspace(1e-3, 1, 50)
    ax.plot(line, line, ":", color=GREY, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xlim(1e-3, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("false positive rate (1)")
    ax.set_ylabel("true positive rate (1)")


def plot_shares(ax, table: pd.DataFrame, *, level: float) -> None:
    """Share of texts flagged (`share`, `low`, `high`) per `population`, a colour per `null`; dashed: the nominal level."""
    populations = list(dict.fromkeys(table["population"]))
    place = {name: i for i, name in enumerate(populations)}
    nulls = list(dict.fromkeys(table["null"]))
    for k, (name, colour) in enumerate(zip(nulls, PALETTE, strict=False)):
        mine = table[table["null"] == name]
        rows = mine["population"].map(place) + 0.18 * (k - (len(nulls) - 1) / 2)
        spread = [mine["share"] - mine["low"], mine["high"] - mine["share"]]
        ax.errorbar(mine["share"], rows, xerr=spread, fmt="o", color=colour, elinewidth=0.7, capsize=1.2, label=name)
    ax.axvline(level, color=GREY, linestyle="--", linewidth=0.8)
    ax.set_yticks(range(len(populations)), populations)
    ax.set_ylim(len(populations) - 0.4, -0.6)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xlabel("share of texts called memorised (1)")


def plot_windows(ax, table: pd.DataFrame, planted: pd.DataFrame, value: str, label: str) -> None:
    """A value of every window of one text (`start`, `stop`, `found`); grey ground: the planted span."""
    for _, span in planted.iterrows():
        ax.axvspan(span["start"], span["stop"], color="0.88", linewidth=0)
    for found, colour, name in ((False, BLUE, "window"), (True, ORANGE, "found")):
        mine = table[table["found"] == found]
        ends = mine[["start", "stop"]].to_numpy()
        ax.hlines(mine[value], ends[:, 0], ends[:, 1], color=colour, linewidth=1.2, label=name)
    ax.set_xlabel("token (1)")
    ax.set_ylabel(label)


def plot_scatter(ax, table: pd.DataFrame, x: str, y: str, labels: tuple[str, str]) -> None:
    """Every document as a dot, darker the more often it was repeated (`count`)."""
    counts = sorted(table["count"].unique())
    shades = mpl.colormaps["cividis_r"](np.linspace(0.05, 1, len(counts)))
    for count, shade in zip(counts, shades, strict=True):
        mine = table[table["count"] == count]
        ax.scatter(mine[x], mine[y], s=5, color=shade, linewidths=0, label=str(count), rasterized=True)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])


def plot_token_map(ax, table: pd.DataFrame) -> None:
    """The token map of `audit.token_grid`: pieces on a ground by `depth` (-1 ... 1), a bar below those of a found window."""
    for token in table.itertuples():
        colour = _ABOVE if token.depth > 0 else _BELOW
        box = mpl.patches.Rectangle((token.x, token.line), token.width, 0.9, linewidth=0, facecolor=colour)
        box.set_alpha(min(abs(token.depth), 1.0) * _DEEPEST)
        ax.add_patch(box)
        ax.text(token.x, token.line + 0.45, token.piece, family="monospace", fontsize=5, va="center", parse_math=False)
        if token.found:
            ax.hlines(token.line + 0.95, token.x, token.x + token.width, color=BLACK, linewidth=1.0)
    ax.set_xlim(0, table["x"].add(table["width"]).max())
    ax.set_ylim(table["line"].max() + 1.1, -0.1)
    ax.axis("off")
