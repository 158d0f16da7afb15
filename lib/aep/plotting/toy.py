"""Figures of notebook 01: the Dirichlet toy. Every function draws the columns it is given and computes nothing."""

import pandas as pd

from . import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, points

__all__ = [
    "plot_conditioning",
    "plot_corpora",
    "plot_length_tail",
    "plot_objects",
    "plot_partial_entropy",
    "plot_pushed",
    "plot_reversal",
    "plot_share",
    "plot_sweep",
    "plot_tails",
    "plot_toys",
]


def plot_objects(ax, table: pd.DataFrame, fit: pd.DataFrame) -> None:
    """Reward against log prior of every object; area by the column `area` (pt^2), line with its 95% band from `fit`.

    `fit` has `x`, `y`, `low`, `high`.
    """
    ax.scatter(table["log_p"], table["reward"], s=table["area"], color=BLUE, alpha=0.35, linewidths=0, rasterized=True)
    ax.fill_between(fit["x"], fit["low"], fit["high"], color=ORANGE, alpha=0.25, linewidth=0)
    ax.plot(fit["x"], fit["y"], color=ORANGE)
    ax.margins(y=0.12)
    ax.set_xlabel(r"log prior $\log p(y)$ (nats)")
    ax.set_ylabel(r"reward $r(y)$ (nats)")


def plot_corpora(ax, table: pd.DataFrame, strip: pd.DataFrame) -> None:
    """Mean reward `y` against mean log prior `x` of every corpus, the typical ones marked (column `typical`).

    Both are deviations from their expectations under p_plus in thousandths of a nat; `strip` has the two lines `low`
    and `high` over `x` between which corpora are typical.
    """
    for edge in ("low", "high"):
        ax.plot(strip["x"], strip[edge], color=BLACK, linewidth=0.6, linestyle="--")
    for flag, colour, label in ((False, SKY, "not typical"), (True, ORANGE, "typical")):
        part = table[table["typical"] == flag]
        ax.scatter(part["x"], part["y"], s=5, color=colour, alpha=0.55, linewidths=0, label=label, rasterized=True)
    ax.set_xlabel(r"mean log prior $-\,\mathrm{E}$ ($10^{-3}$ nats)")
    ax.set_ylabel(r"mean reward $-\,\mathrm{E}$ ($10^{-3}$ nats)")


def plot_sweep(ax, measured: pd.DataFrame, theory: pd.DataFrame) -> None:
    """Correlation among typical corpora against epsilon / sigma_N: theory (`ratio`, `theory`) and measured intervals."""
    ax.plot(theory["ratio"], theory["theory"], color=BLUE, label="truncated Gaussian")
    points(ax, measured, "ratio", "correlation", color=ORANGE, label="simulated, 95%")
    ax.axhline(theory["theory"].iloc[-1], color=GREY, linestyle=":", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xlabel(r"tolerance $\epsilon/\sigma_N$ (1)")
    ax.set_ylabel("correlation among typical corpora (1)")
    for _, row in measured.iterrows():
        ax.annotate(
            f"$N=10^{{{len(str(int(row['size']))) - 1}}}$",
            (row["ratio"], row["correlation"]),
            xytext=(-4, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7,
        )


def plot_toys(ax, table: pd.DataFrame, marks: pd.DataFrame) -> None:
    """Histograms of the correlation over toys, one per column of `table`; `marks` holds the published toy's values."""
    for column, colour in zip(table, (ORANGE, BLUE), strict=False):
        ax.hist(table[column], bins=60, range=(-0.6, 0.6), color=colour, alpha=0.6, label=column)
        ax.axvline(marks[column].iloc[0], color=colour, linestyle="--", linewidth=0.9)
    ax.set_xlabel(r"correlation of $\log p$ and $r$ over objects (1)")
    ax.set_ylabel("number of toys (count)")


def plot_tails(ax, table: pd.DataFrame) -> None:
    """Probability that a corpus is not typical against epsilon: two bounds, the Gaussian and the exact value."""
    ax.plot(table["epsilon"], table["chebyshev"], color=BLUE, label="Chebyshev (Eq. 11)")
    ax.plot(table["epsilon"], table["chernoff"], color=GREEN, label="Rényi-Chernoff (App. D)")
    ax.plot(table["epsilon"], table["gaussian"], color=GREY, linestyle="--", label="Gaussian")
    points(ax, table, "epsilon", "tail", color=ORANGE, label="importance sampling, 95%")
    ax.set_yscale("log")
    ax.set_xlabel(r"tolerance $\epsilon$ (nats)")
    ax.set_ylabel(r"probability beyond $\epsilon$ (1)")


def plot_conditioning(ax, seen: pd.DataFrame, tilted: pd.DataFrame, tempered: pd.DataFrame) -> None:
    """Mean reward against mean log prior: conditional means of corpora beside the two families."""
    ax.plot(
        tempered["mean_log_p"],
        tempered["mean_reward"],
        color=BLUE,
        linestyle="--",
        label=r"temperature, $p_{\mathrm{+}}^{1/\tau}$",
    )
    ax.plot(tilted["mean_log_p"], tilted["mean_reward"], color=GREEN, label=r"$p_{\mathrm{+}}\,p^\lambda$")
    points(ax, seen, "mean_log_p", "mean_reward", color=ORANGE, label="corpora, 95%")
    ax.set_xlabel(r"mean log prior (nats)")
    ax.set_ylabel(r"mean reward (nats)")


def plot_pushed(axes, table: pd.DataFrame) -> None:
    """For every adaptor, mean log prior and mean reward under the real law (filled) and the pushed one (open)."""
    rows = range(len(table))
    for ax, column, label in zip(
        axes, ("mean_log_p", "mean_reward"), ("mean log prior (nats)", "mean reward (nats)"), strict=True
    ):
        ax.hlines(rows, table[column], table[f"{column}_pushed"], color=GREY, linewidth=0.8)
        ax.plot(table[column], rows, "o", color=ORANGE, label=r"adaptor on $p_{\mathrm{+}}$")
        ax.plot(table[f"{column}_pushed"], rows, "o", color=BLUE, fillstyle="none", label="pushed to the prior")
        ax.set_xlabel(label)
        ax.margins(y=0.06)
    axes[0].set_yticks(rows, table["adaptor"])
    axes[0].set_ylabel("adaptor")
    axes[1].set_yticks(rows, [])
    axes[0].invert_yaxis()
    axes[1].invert_yaxis()


def plot_reversal(ax, table: pd.DataFrame) -> None:
    """Probability of two strings (columns) under each sampler (index); the segment joins the two strings of a sampler."""
    places = range(len(table))
    ax.vlines(places, table.min(axis=1), table.max(axis=1), color=GREY, linewidth=0.8, zorder=1)
    for string, colour, marker in zip(table, (ORANGE, BLUE), "os", strict=True):
        ax.plot(places, table[string], marker, color=colour, markersize=4, label=f"string {string}")
    ax.set_xticks(
        places, [label.replace(" top", "\ntop") if " top" in label else f"{label}\n" for label in table.index]
    )
    ax.set_xlabel("sampler")
    ax.set_ylabel(r"probability of the string (1)")
    ax.margins(x=0.12)


def plot_partial_entropy(ax, table: pd.DataFrame, curve: pd.DataFrame) -> None:
    """Entropy of the lengths up to n (`partial_entropy`) and its expansion (column `growth` of `curve`)."""
    ax.plot(curve["n"], curve["growth"], color=BLUE, label="expansion for large $n$")
    ax.plot(table["n"], table["partial_entropy"], "o", color=ORANGE, label="sum up to $n$ (exact)")
    ax.set_xscale("log")
    ax.set_xlabel("length $n$ (symbols)")
    ax.set_ylabel("partial entropy (nats)")


def plot_length_tail(ax, table: pd.DataFrame, curve: pd.DataFrame) -> None:
    """Share of sampled strings longer than n with its interval, beside the exact `tail` of `curve`."""
    ax.plot(curve["n"], curve["tail"], color=BLUE, label=r"$1/\log_2(n+2)$")
    points(ax, table, "n", "share", color=ORANGE, label="sampled, 95%")
    ax.set_xscale("log")
    ax.set_xlabel("length $n$ (symbols)")
    ax.set_ylabel("probability of a longer string (1)")


def plot_share(ax, measured: pd.DataFrame, theory: pd.DataFrame) -> None:
    """The correlation of `plot_sweep` against the share of corpora that are typical (`share_typical`)."""
    ax.plot(theory["share_typical"], theory["theory"], color=BLUE)
    points(ax, measured, "share_typical", "correlation", color=ORANGE)
    ax.axhline(theory["theory"].iloc[-1], color=GREY, linestyle=":", linewidth=0.8)
    ax.set_xlabel("share of corpora that are typical (1)")
