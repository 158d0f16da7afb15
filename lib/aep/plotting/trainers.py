"""Drawing what trainers come to in notebook A3. Each function draws one panel from rows of a table and computes nothing."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from . import PALETTE

__all__ = ["plot_curves", "plot_frontier", "plot_gaps", "plot_loop"]

_NAMES = ("rloo", "grpo-defaults", "grpo-beta", "dpo", "grpo-in-reward", "dpo-norm", "loop", "grpo-k3", "dpo-ipo")


def _colours(names: Iterable[str]) -> dict[str, str]:
    """One colour per trainer, the same in every figure."""
    known = dict(zip(_NAMES, (*PALETTE, "0.55"), strict=True))
    return {name: known.get(name, "0.3") for name in names}


def plot_loop(ax: Axes, table: pd.DataFrame) -> None:
    """J*-J of the loop against its step: the exact value as a line, the estimate from the step's texts with its interval.

    Columns step, exact, gap, low, high.
    """
    ax.plot(table.step, table.exact, color=PALETTE[6], lw=1, label="exact, by enumeration")
    error = [table.gap - table.low, table.high - table.gap]
    style = {"fmt": "o", "ms": 3, "lw": 0.8, "capsize": 1.5, "color": PALETTE[0]}
    ax.errorbar(table.step, table.gap, error, label="estimated from texts of the policy", **style)
    ax.set_yscale("log")
    ax.set_xlabel("step (1)")
    ax.set_ylabel(r"$J^* - J$ (reward)")
    ax.legend(loc="upper right")


def plot_gaps(ax: Axes, runs: pd.DataFrame, fixed: pd.DataFrame, least: float) -> None:
    """J*-J of every run (a point, with the interval of its sampled estimate) and of the law predicted for it (a tick).

    `runs`: variant, gap_exact, gap_low, gap_high; `fixed`: variant, gap. What is below `least` stands there as an arrow.
    """
    names = list(dict.fromkeys(runs.variant))
    colours = _colours(names)
    for row, name in enumerate(names):
        mine = runs[runs.variant == name]
        at = row + 0.14 * (pd.Series(range(len(mine))) - (len(mine) - 1) / 2)
        ends = mine[["gap_low", "gap_high"]].clip(lower=least)
        ax.hlines(at, ends.gap_low, ends.gap_high, color=colours[name], lw=0.8)
        ax.plot(mine.gap_exact.clip(lower=least), at, "o", ms=3, color=colours[name])
        predicted = fixed.loc[fixed.variant == name, "gap"].iloc[0]
        if predicted >= least:
            ax.plot([predicted], [row], "|", ms=16, mew=1.4, color="0.15")
        else:
            ax.plot([least], [row], marker=8, ms=5, color="0.15", clip_on=False)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlim(left=least)
    ax.set_xlabel(r"$J^* - J$ (reward)")


def plot_curves(ax: Axes, curves: pd.DataFrame) -> None:
    """J*-J against the step, a line per run; columns variant, seed, step, gap_exact."""
    colours = _colours(dict.fromkeys(curves.variant))
    for name, mine in curves.groupby("variant", sort=False):
        for i, (_, run) in enumerate(mine.groupby("seed")):
            ax.plot(run.step, run.gap_exact, "o-", ms=2, lw=0.8, color=colours[name], label=name if i == 0 else None)
    steps = sorted(set(curves.step))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(steps))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(steps, [f"{step}" for step in steps])
    ax.set_yscale("log")
    ax.set_xlabel("step (1)")
    ax.set_ylabel(r"$J^* - J$ (reward)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def plot_frontier(ax: Axes, family: pd.DataFrame, runs: pd.DataFrame, fixed: pd.DataFrame, most: float) -> None:
    """Mean reward against KL from the prior: the largest there is (line), runs (dots), predicted laws (crosses), p* (star).

    `family`: kl, reward; `runs`: variant, kl_exact, reward_exact; `fixed`: variant, kl, reward; KL up to `most`.
    """
    ax.plot(family.kl, family.reward, color="0.6", lw=1, label=r"$p\,e^{r/\beta'}$, the most at each KL", zorder=0)
    names = list(dict.fromkeys(runs.variant))
    for name, colour in _colours(names).items():
        mine, there = runs[runs.variant == name], fixed[fixed.variant == name]
        ax.plot(mine.kl_exact, mine.reward_exact, "o", ms=3, color=colour, label=name)
        ax.plot(there.kl, there.reward, "x", ms=6, mew=1, color=colour)
    best = fixed[fixed.variant == "rloo"]
    ax.plot(best.kl, best.reward, "*", ms=9, mfc="none", mec="0.15", mew=0.8, ls="none", label="$p^*$")
    ax.set_xlim(0, most)
    inside = family[family.kl <= most]
    ax.set_ylim(inside.reward.min() - 0.1, inside.reward.max() + 0.15)
    ax.set_xlabel(r"KL$(\pi\,\|\,p)$ (nats per text)")
    ax.set_ylabel(r"$E_\pi[r]$ (reward)")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
