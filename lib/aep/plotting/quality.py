"""Figures of notebook 04, second half: probability against reward over sampling schemes. They draw and compute nothing."""

import matplotlib as mpl
import numpy as np
import pandas as pd

from ..adaptors import parse
from . import AMBER, BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY

__all__ = [
    "plot_conditioned",
    "plot_correlations",
    "plot_corpora",
    "plot_moves",
    "plot_parts",
    "plot_shortcuts",
    "plot_texts",
    "scheme_style",
]

_MARKERS = {
    "top_k(30)": "v",
    "top_k(50)": "^",
    "nucleus(0.9)": "s",
    "nucleus(0.95)": "D",
    "eta(0.0009)": "P",
    "locally_typical(0.9)": "o",
}
_COLOURS = {0.5: "#0072B2", 0.75: "#56B4E9", 1.0: "#000000", 1.25: "#E69F00", 1.5: "#D55E00"}


def scheme_style(name: str) -> dict[str, str]:
    """Colour by temperature (blue: cold, red: hot), marker by truncation; ancestral sampling is a star."""
    steps = dict(parse(name).steps)
    tau = steps.pop("temperature", 1.0)
    cut = next((f"{kind}({value!r})" for kind, value in steps.items()), "")
    return {"color": _COLOURS.get(tau, GREY), "marker": _MARKERS.get(cut, "*")}


def scheme_handles() -> list:
    """Handles of a legend for `scheme_style`: five temperatures, six truncations, ancestral sampling."""
    patch = [
        mpl.lines.Line2D([], [], color=c, marker="o", linestyle="", label=rf"$\tau={t:g}$") for t, c in _COLOURS.items()
    ]
    names = _MARKERS | {"ancestral()": "*"}
    return patch + [mpl.lines.Line2D([], [], color=GREY, marker=m, linestyle="", label=n) for n, m in names.items()]


def plot_texts(ax, table: pd.DataFrame, x: str, y: str, *, jitter: np.ndarray | None = None) -> None:
    """Every text as a dot, coloured by the temperature of its scheme."""
    height = table[y] + (0 if jitter is None else jitter)
    for tau, colour in _COLOURS.items():
        mine = (table["tau"] == tau).to_numpy()
        ax.scatter(table.loc[mine, x], height[mine], s=4, color=colour, alpha=0.45, linewidths=0, rasterized=True)


def plot_corpora(ax, clouds: pd.DataFrame, means: pd.DataFrame, x: str, y: str) -> None:
    """Bootstrap corpora (`scheme`, `x`, `y`) as faint dots, scheme means with intervals (`<x>_low`, `<x>_high`, ...)."""
    for name, mine in clouds.groupby("scheme", sort=False):
        ax.scatter(
            mine["x"], mine["y"], s=2, color=scheme_style(name)["color"], alpha=0.25, linewidths=0, rasterized=True
        )
    for name, row in means.iterrows():
        style = scheme_style(name)
        spread = [[[row[v] - row[f"{v}_low"]], [row[f"{v}_high"] - row[v]]] for v in (x, y)]
        ax.errorbar(row[x], row[y], xerr=spread[0], yerr=spread[1], color=style["color"], elinewidth=0.3, marker="")
        ax.plot(row[x], row[y], linestyle="", markersize=4, markeredgecolor="white", markeredgewidth=0.3, **style)


def plot_correlations(ax, table: pd.DataFrame, *, groups: str, published: str | None = None) -> None:
    """Correlations with intervals, one row per `label`, a colour per entry of column `groups`; crosses: `published`."""
    labels, names = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table[groups]))
    for k, (name, colour) in enumerate(zip(names, (BLUE, ORANGE, GREEN, PINK, SKY, AMBER), strict=False)):
        mine = table[table[groups] == name].set_index("label").reindex(labels)
        at = np.arange(len(labels)) + 0.25 * (k - (len(names) - 1) / 2)
        spread = [mine["correlation"] - mine["low"], mine["high"] - mine["correlation"]]
        ax.errorbar(
            mine["correlation"], at, xerr=spread, fmt="o", color=colour, elinewidth=0.8, capsize=1.5, label=name
        )
    if published:
        said = table.drop_duplicates("label").set_index("label")[published].reindex(labels)
        ax.plot(said, np.arange(len(labels)), "x", color=BLACK, markersize=5, label="published")
    ax.axvline(0, color=GREY, linewidth=0.6)
    ax.set_xlim(-1.03, 1.03)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlabel("correlation (1)")


def plot_parts(ax, table: pd.DataFrame) -> None:
    """Covariance of log p and reward by part (index), with intervals: a colour per column `trio`."""
    names = list(dict.fromkeys(table["part"]))
    trios = list(dict.fromkeys(table["trio"]))
    for k, (trio, colour) in enumerate(zip(trios, (BLUE, ORANGE, GREEN, PINK), strict=False)):
        mine = table[table["trio"] == trio].set_index("part").loc[names]
        at = np.arange(len(names)) + 0.25 * (k - (len(trios) - 1) / 2)
        spread = [mine["covariance"] - mine["low"], mine["high"] - mine["covariance"]]
        ax.errorbar(mine["covariance"], at, xerr=spread, fmt="o", color=colour, elinewidth=0.8, capsize=1.5, label=trio)
    ax.axvline(0, color=GREY, linewidth=0.6)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(r"covariance of $\log p$ and reward (nats $\times$ points)")


def plot_conditioned(ax, found: pd.DataFrame, theory: pd.DataFrame, marks: dict[str, float]) -> None:
    """Correlation among typical corpora against ε/σ_N: theory, simulation with intervals, and horizontal `marks`."""
    ax.plot(theory["ratio"], theory["correlation"], color=BLACK, linewidth=0.8, label="Gaussian theory")
    for (name, mine), colour in zip(found.groupby("trio", sort=False), (BLUE, ORANGE, GREEN), strict=False):
        spread = [mine["correlation"] - mine["low"], mine["high"] - mine["correlation"]]
        ax.errorbar(
            mine["ratio"],
            mine["correlation"],
            yerr=spread,
            fmt="o",
            color=colour,
            elinewidth=0.7,
            capsize=1.5,
            label=name,
        )
    for (name, value), style in zip(marks.items(), ("--", ":", "-."), strict=False):
        ax.axhline(value, color=GREY, linestyle=style, linewidth=0.8, label=name)
    ax.set_xscale("log")
    ax.set_ylim(-1.03, None)
    ax.set_xlabel(r"$\varepsilon/\sigma_N$ (1)")
    ax.set_ylabel("correlation of corpus means (1)")


def plot_moves(ax, table: pd.DataFrame, x: str, y: str) -> None:
    """The mean of every scheme from its local (open) to its global law (filled), joined by a line."""
    for name, row in table.iterrows():
        style = scheme_style(name)
        ends = [[row[f"{v}_local"], row[f"{v}_global"]] for v in (x, y)]
        ax.plot(*ends, color=style["color"], linewidth=0.5)
        ax.plot(ends[0][0], ends[1][0], linestyle="", fillstyle="none", markersize=4, **style)
        ax.plot(ends[0][1], ends[1][1], linestyle="", markersize=4, **style)


def plot_shortcuts(ax, table: pd.DataFrame, value: str, label: str, *, shown: bool = True) -> None:
    """Per scheme the mean of a value: local law, chains within an opening, chains that always accept, one over all."""
    rows = np.arange(len(table))
    ax.plot(table[f"{value}_local"], rows, "|", color=BLACK, markersize=6, label="local")
    ax.plot(table[f"{value}_chain"], rows, "o", color=BLUE, label="chains within an opening")
    ax.plot(table[f"{value}_always"], rows, "x", color=ORANGE, label="always accepts")
    ax.plot(table[f"{value}_pooled"], rows, "s", color=GREEN, fillstyle="none", label="one chain for all openings")
    ax.set_yticks(rows, table.index if shown else [])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(label)
