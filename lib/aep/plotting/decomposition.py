"""Drawing the tables of `analysis.decomposition` and `analysis.hypotheses`. One panel each; nothing is computed."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from ..errors import ParameterError
from . import PALETTE

__all__ = ["plot_forest", "plot_shares"]

_GROUPS = {  # of an effect: what it is called in the legend, its colour, its mark
    "texts": ("between texts", PALETTE[0], "o"),
    "scorer": ("with the scorer", PALETTE[1], "s"),
    "overlap": ("covariance", "0.45", "D"),
    "noise": ("within cells", PALETTE[2], "^"),
}
_ESTIMATES = {
    "calibrated": "$l_B - h_{(A,B)}$ (nats per token)",
    "typical": "$l_B - h_B$ (nats per token)",
    "margin": "$h_{(A,B)} - h_A$ (nats per token)",
    "scorers": "$h_{(A,B)} - h_{(A,B')}$ (nats per token)",
    "sources": "$h_{(A,B)} - h_{(A',B)}$ (nats per token)",
    "symmetric": "$h_{(A,B)} - h_{(B,A)}$ (nats per token)",
}


_ABOVE = {"loc": "lower right", "bbox_to_anchor": (1.02, 1), "ncols": 2, "handletextpad": 0.1, "columnspacing": 0.8}
_ABOVE |= {"borderpad": 0.1, "labelspacing": 0.25}


def _group(effect: str) -> str:
    if effect.startswith("text"):
        return "noise"
    if "&" in effect:
        return "overlap"
    return "scorer" if effect.endswith("scorer") else "texts"


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0, labelsize=6.5)
    ax.grid(axis="y", color="0.92", lw=0.5)
    ax.set_axisbelow(True)


def plot_shares(ax: Axes, table: pd.DataFrame, *, effects: Sequence[str] | None = None, legend: bool = True) -> None:
    """Share of the variance of every effect with 95%, in percent, a row each; filled where its test has p <= .05.

    `effects` are the rows, in this order (those of the table unless given; one that the table has not stays empty). The
    rows of noise and a covariance have no test and are filled. An estimate below 0, where no share can be, stands at 0 (a
    covariance where it is). The axis is linear up to 1% and logarithmic beyond. Table: `decomposition.decomposition`.
    """
    seen = set()
    effects = list(table.effect if effects is None else effects)
    for row in table.itertuples():
        y = effects.index(row.effect)
        group = _group(row.effect)
        label, colour, marker = _GROUPS[group]
        face = colour if group in ("noise", "overlap") or row.p <= 0.05 else "white"
        ax.plot([100 * row.low, 100 * row.high], [y, y], color=colour, lw=1.0, solid_capstyle="butt")
        style = {"color": colour, "mfc": face, "ms": 3.4, "mew": 0.7, "ls": ""}
        at = row.share if group == "overlap" else max(row.share, 0)
        ax.plot(100 * at, y, marker, label=None if group in seen else label, **style)
        seen.add(group)
    ax.set_xscale("symlog", linthresh=1, linscale=0.6)
    ticks = [t for t in (-100, -10, -1, 0, 1, 10, 100) if t >= 0 or 100 * table.low.min() <= t]
    ax.set_xticks(ticks, [f"{t}".replace("-", "−") for t in ticks])
    ax.minorticks_off()
    ax.axvline(0, color="0.6", lw=0.6, zorder=0)
    ax.set_xlim(right=105)
    _rows(ax, [effect.replace(":", " × ") for effect in effects])
    ax.set_xlabel("share of the variance (%)")
    if legend:
        ax.legend(**_ABOVE)


def plot_forest(ax: Axes, table: pd.DataFrame, *, null: float = 0.0, legend: bool = True) -> None:
    """Estimates of one claim with 95% (thick) and simultaneous (thin) intervals; filled where Holm rejects the null.

    One row per hypothesis, "A → B" for texts of A under B; colour by sampler. Grey line: the null (`null`: the margin of the
    claim "margin"). Table: rows of one claim of `hypotheses.hypotheses`. ParameterError for several claims or none.
    """
    if table.claim.nunique() != 1:
        raise ParameterError(f"claims {sorted(set(table.claim))}: a forest plot needs the rows of one claim")
    claim, samplers = table.claim.iloc[0], list(dict.fromkeys(table.sampler))
    labels = list(dict.fromkeys(_label(row) for row in table.itertuples()))
    offsets = {s: 0.8 * ((i + 0.5) / len(samplers) - 0.5) for i, s in enumerate(samplers)}  # inside the row
    for row in table.itertuples():
        k = samplers.index(row.sampler)
        colour, y = PALETTE[k % len(PALETTE)], labels.index(_label(row)) + offsets[row.sampler]
        ax.plot([row.low_all, row.high_all], [y, y], color=colour, lw=0.5)
        ax.plot([row.low, row.high], [y, y], color=colour, lw=1.8, solid_capstyle="butt", alpha=0.6)
        ax.plot(row.estimate, y, "o", ms=3.2, mew=0.7, color=colour, mfc=colour if row.rejected else "white")
    ax.axvline(null, color="0.6", lw=0.6, zorder=0)
    _rows(ax, labels)
    ax.set_xlabel(_ESTIMATES[claim])
    if legend:
        for k, sampler in enumerate(samplers):
            ax.plot([], [], "o", color=PALETTE[k % len(PALETTE)], ms=3.2, label=sampler)
        ax.plot([], [], "o", color="0.3", mfc="white", ms=3.2, mew=0.7, label="not rejected (Holm)")
        ax.legend(**_ABOVE)


def _label(row) -> str:
    if row.claim == "scorers":
        return f"{row.source} → {row.scorer}, {row.other}"
    if row.claim == "sources":
        return f"{row.source}, {row.other} → {row.scorer}"
    return f"{row.source} {'↔' if row.claim == 'symmetric' else '→'} {row.scorer}"
