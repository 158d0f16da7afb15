"""Figures of notebook 04: local and global normalisation on exact languages. They draw columns and compute nothing."""

import pandas as pd

from . import AMBER, BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY, points

__all__ = [
    "plot_acceptance",
    "plot_growth",
    "plot_orders",
    "plot_p_values",
    "plot_pool",
    "plot_pushed",
    "plot_radius",
    "plot_schemes",
    "plot_string_tail",
    "plot_temperature",
    "plot_z",
]


def _names(ax, names, *, shown: bool = True) -> None:
    ax.set_yticks(range(len(names)), names if shown else [])
    ax.set_ylim(len(names) - 0.4, -0.6)


def plot_schemes(axes, table: pd.DataFrame) -> None:
    """Mean log p per scheme under the local and the global law, the means of both lengths, and their total variation."""
    rows = range(len(table))
    for ax, column, label in zip(
        axes[:2], ("log_p", "length"), (r"mean $\log p$ (nats)", "mean length (tokens)"), strict=True
    ):
        ax.hlines(rows, table[f"{column}_local"], table[f"{column}_global"], color=GREY, linewidth=0.8)
        ax.plot(table[f"{column}_local"], rows, "o", color=ORANGE, label="local")
        ax.plot(table[f"{column}_global"], rows, "o", color=BLUE, fillstyle="none", label="global")
        ax.set_xlabel(label)
    axes[2].plot(table["variation"], rows, "D", color=BLACK)
    axes[2].set_xlabel("total variation (1)")
    axes[2].set_xlim(left=-0.01)
    for i, ax in enumerate(axes):
        _names(ax, table.index, shown=i == 0)
    axes[0].set_ylabel("scheme")


def plot_acceptance(ax, table: pd.DataFrame) -> None:
    """Measured acceptance with its interval against the exact expectation."""
    ends = [table["expected"].min(), table["expected"].max()]
    ax.plot(ends, ends, color=GREY, linewidth=0.8)
    points(ax, table, "expected", "acceptance", color=BLUE)
    ax.set_xlabel("expected acceptance (1)")
    ax.set_ylabel("measured acceptance (1)")


def plot_p_values(ax, table: pd.DataFrame, level: float) -> None:
    """p-values of the chain and of the chain that always accepts, sorted; values below 1e-12 at 1e-12."""
    ranks = range(1, len(table) + 1)
    for column, colour, marker, label in (
        ("p_value", BLUE, "o", "accepts by weight"),
        ("always", ORANGE, "x", "always accepts"),
    ):
        ax.plot(ranks, table[column].clip(lower=1e-12).sort_values(), marker, color=colour, label=label)
    ax.axhline(level, color=GREY, linestyle=":", linewidth=0.8)
    ax.set_yscale("log")
    ax.set_xlabel("rank of the scheme")
    ax.set_ylabel("p-value against the global law (1)")


def plot_pool(ax, table: pd.DataFrame, *, label: str = "") -> None:
    """Mean log p that a chain over a finite pool tends to, its first-order prediction, and fresh proposals, against size."""
    ax.axhline(table["globally"].iloc[0], color=BLACK, linewidth=0.8, label="global law")
    ax.axhline(table["local"].iloc[0], color=GREY, linestyle="--", linewidth=0.8, label="local law")
    ax.plot(table["size"], table["first_order"], color=SKY, label="first order")
    points(ax, table, "size", "estimate", color=ORANGE, label="finite pool")
    points(ax, table, "size", "fresh", "fresh_low", "fresh_high", color=BLUE, fmt="s", label="fresh proposals")
    ends = [table["local"].iloc[0], table["globally"].iloc[0]]
    room = 0.25 * abs(ends[0] - ends[1])
    ax.set_ylim(min(ends) - room, max(ends) + room)
    ax.set_xscale("log", base=2)
    ax.set_xlabel("texts per prompt" + (f", {label}" if label else ""))
    ax.set_ylabel(r"mean $\log p$ (nats)")


def plot_radius(ax, table: pd.DataFrame) -> None:
    """Spectral radius against temperature, a line per truncation (columns), index the temperature."""
    styles = ("-", "--", "-.", ":")
    for k, (name, colour) in enumerate(zip(table, (BLACK, BLUE, ORANGE, GREEN, PINK, SKY, AMBER), strict=False)):
        ax.plot(table.index, table[name], styles[k % 4], color=colour, label=name)
    ax.axhline(1, color=GREY, linewidth=0.6)
    ax.set_yscale("log")
    ax.set_xlabel(r"temperature $\tau$ (1)")
    ax.set_ylabel(r"spectral radius $\rho$ (1)")


def plot_growth(ax, tables: dict[str, pd.DataFrame]) -> None:
    """log A_n against n, estimated (`log_mass`, `mass_low`, `mass_high`) and `exact`, a colour per entry; index: length."""
    for (label, table), colour in zip(tables.items(), (BLUE, ORANGE, GREEN), strict=False):
        ax.plot(table.index, table["exact"], color=colour, linewidth=0.8)
        spread = [table["log_mass"] - table["mass_low"], table["mass_high"] - table["log_mass"]]
        ax.errorbar(table.index, table["log_mass"], yerr=spread, fmt="o", elinewidth=0.7, color=colour, label=label)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("length $n$ (tokens)")
    ax.set_ylabel(r"log mass of open prefixes (nats)")


def plot_string_tail(ax, table: pd.DataFrame) -> None:
    """Probability of a deviation beyond epsilon, and the two bounds."""
    ax.plot(table["epsilon"], table["chebyshev"], color=ORANGE, linestyle="--", label="Chebyshev")
    ax.plot(table["epsilon"], table["chernoff"], color=BLUE, label="Rényi-Chernoff")
    if "low" in table:
        points(ax, table, "epsilon", "tail", color=BLACK, label="probability")
    else:
        ax.plot(table["epsilon"], table["tail"], "o", color=BLACK, label="probability")
    ax.set_yscale("log")
    ax.set_xlabel(r"tolerance $\epsilon$ (nats per string)")
    ax.set_ylabel("probability (1)")


def plot_orders(ax, table: pd.DataFrame, critical: float, entropy: float) -> None:
    """Rényi entropy of a string against its order; infinite to the left of `critical`."""
    ax.axvspan(table["order"].min() - 0.1, critical, color="0.9", linewidth=0)
    ax.plot(table["order"], table["renyi_entropy"], color=BLUE)
    ax.plot([1], [entropy], "o", color=BLACK)
    ax.set_xlim(left=table["order"].min() - 0.1)
    ax.set_xlabel(r"order $\theta$ (1)")
    ax.set_ylabel("Rényi entropy (nats)")


def plot_z(ax, table: pd.DataFrame) -> None:
    """Distribution functions at `at`: of z (`share`), of z with a sigma too large (`control`), and the `normal` one.

    A band round the first where there are columns `low` and `high`.
    """
    if "low" in table:
        ax.fill_between(
            table["at"], table["low"].clip(0), table["high"].clip(upper=1), color=BLUE, alpha=0.2, linewidth=0
        )
    ax.plot(table["at"], table["normal"], color=BLACK, linewidth=0.8, label="standard normal")
    ax.plot(table["at"], table["share"], color=BLUE, linestyle="--", label="tales")
    ax.plot(table["at"], table["control"], color=ORANGE, linestyle=":", label=r"tales, $1.25\,\sigma$")
    ax.set_xlabel("$z$ (1)")
    ax.set_ylabel("share of texts below (1)")


def plot_temperature(ax, exact: pd.DataFrame, local: pd.DataFrame, column: str, label: str, critical: float) -> None:
    """A mean under the global law (line) and under the local one (intervals) against temperature."""
    ax.plot(exact["tau"], exact[column], color=BLUE, label="global, exact")
    points(ax, local, "tau", column, f"{column}_low", f"{column}_high", color=ORANGE, label="local, 95%")
    ax.axvline(critical, color=GREY, linestyle=":", linewidth=0.8)
    ax.set_xlabel(r"temperature $\tau$ (1)")
    ax.set_ylabel(label)


def plot_pushed(axes, table: pd.DataFrame) -> None:
    """Mean log prior and mean reward per scheme: on the aligned model (globally, locally) and pushed to the prior."""
    rows = range(len(table))
    for ax, column, label in zip(
        axes, ("log_p", "reward"), (r"mean $\log p$ (nats)", "mean reward (nats)"), strict=True
    ):
        ax.hlines(rows, table[column], table[f"{column}_pushed"], color=GREY, linewidth=0.8)
        ax.plot(table[f"{column}_local"], rows, "|", color=BLACK, markersize=5, label="aligned, local")
        ax.plot(table[column], rows, "o", color=ORANGE, label="aligned, global")
        ax.plot(table[f"{column}_pushed"], rows, "o", color=BLUE, fillstyle="none", label="pushed to the prior")
        ax.set_xlabel(label)
    _names(axes[0], table.index)
    _names(axes[1], table.index, shown=False)
    axes[0].set_ylabel("scheme")
