"""The live picture of a growing text: its running means with their bands, and beside them the log e-value."""

from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import PALETTE, TEXT
from .self_aep import plot_running

__all__ = ["picture", "plot_log_e"]


def plot_log_e(ax: Axes, table: pd.DataFrame, alpha: float) -> None:
    """The log e-value of one text at every position, and the line log 1/α that rejects. Table: `interactive.state`."""
    limit = -np.log(alpha)
    ax.axhline(0, color="0.7", lw=0.6, zorder=0)
    ax.axhline(limit, color=PALETTE[1], lw=0.8, ls="--", label=rf"$\log 1/\alpha$, $\alpha={alpha:g}$")
    ax.plot(table.position, table.log_e, color="black", lw=0.8, label="log e-value")
    ax.set_ylim(min(-limit, table.log_e.min() - 0.5), max(1.5 * limit, table.log_e.max() + 0.5))
    ax.set_xlabel("position $t$ (tokens)")
    ax.set_ylabel("log e-value (1)")


def picture(table: pd.DataFrame, *, tokens: int, alpha: float, colour: str, dpi: int = 200) -> bytes:
    """Both panels as the bytes of a PNG file, on axes that leave room for all of the `tokens` to come.

    Table: `interactive.state`, of at least 6 positions. The figure is not one of pyplot's, so that no cell shows it a
    second time; the style is the one that is set (`use_style`).
    """
    figure = Figure(figsize=(TEXT, 2.6), dpi=dpi, layout="constrained")
    means, evidence = figure.subplots(1, 2, width_ratios=(3, 2))
    plot_running(means, table, colour)
    plot_log_e(evidence, table, alpha)
    means.set_xlim(5, max(tokens, 10))
    evidence.set_xlim(0, max(tokens, 10))
    means.legend(loc="upper right")
    evidence.legend(loc="upper left")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()
