"""Figures: the style, one colour per model, `savefig`. This floor is the only importer of matplotlib.

``plot_*(ax, table)`` functions draw what a tidy table holds and never compute. Figures are drawn at final size.
"""

import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

from .._agree import pdfs_agree
from ..errors import ParameterError
from ..outputs import Run, write_atomically

__all__ = ["COLUMN", "TEXT", "colours", "figure", "label_panels", "log_axes", "mark_short", "savefig", "use_style"]

COLUMN, TEXT = 3.25, 6.75
"""Widths of a column and of the text of a manuscript, in inches."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
"""Okabe & Ito's colours, safe for colour-blind readers (their yellow is too light for lines and is left out)."""

BLUE, ORANGE, GREEN, PINK, SKY, AMBER, BLACK, BROWN = PALETTE
GREY = "0.55"

_FAMILY = ("docs-400k", "docs-1m", "docs-3m", "docs-100k", "docs-400k-twin", "docs-bytes")


def use_style() -> None:
    """Set the house style: 7-8 pt, no LaTeX, thin lines; a notebook shows the page as it is saved, as PNG at 144 dpi."""
    _show_whole_pages()
    mpl.rcdefaults()
    mpl.rcParams.update(
        {
            "figure.dpi": 144,
            "savefig.dpi": 300,
            "figure.constrained_layout.use": True,
            "font.family": "STIXGeneral",
            "mathtext.fontset": "stix",
            "font.size": 8,
            "axes.labelsize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "legend.frameon": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "lines.linewidth": 1.0,
            "lines.markersize": 3,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": mpl.cycler(color=PALETTE),
            "pdf.fonttype": 42,
            "svg.hashsalt": "aep",
            "image.cmap": "cividis",
        }
    )


def _show_whole_pages() -> None:
    """Pictures in a notebook with the margins of the file, and not drawn twice to find tighter ones."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        with suppress(ImportError):
            from matplotlib_inline.config import InlineBackend

            InlineBackend.instance(parent=shell).print_figure_kwargs = {"bbox_inches": None}


def colours(names: Iterable[str]) -> dict[str, str]:
    """One colour per model: fixed for the embedded family, the free ones of the palette in order for all others."""
    names = list(dict.fromkeys(names))
    fixed = dict(zip(_FAMILY, PALETTE, strict=False))
    free = [c for c in PALETTE if c not in {fixed.get(n) for n in names}] or list(PALETTE)
    others = [n for n in names if n not in fixed]
    return {n: fixed[n] if n in fixed else free[others.index(n) % len(free)] for n in names}


def figure(rows: int = 1, columns: int = 1, *, width: float = COLUMN, height: float = 2.3, **options):
    """A figure at its final size in inches and its axes (as `plt.subplots`)."""
    return plt.subplots(rows, columns, figsize=(width, height), **options)


def label_panels(axes: Iterable) -> None:
    """Bold letters a, b, c ... at the upper left of the panels."""
    for letter, ax in zip("abcdefghijkl", axes, strict=False):
        ax.annotate(
            letter,
            xy=(0, 1),
            xycoords="axes fraction",
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontweight="bold",
            fontsize=9,
        )


def points(ax: Axes, table, x: str, y: str, low: str = "low", high: str = "high", **style) -> None:
    """Column `y` against `x` as points, with the intervals of the columns `low` and `high`."""
    spread = [table[y] - table[low], table[high] - table[y]]
    ax.errorbar(table[x], table[y], yerr=spread, fmt=style.pop("fmt", "o"), elinewidth=0.7, capsize=1.5, **style)


def log_axes(ax: Axes) -> None:
    """Both axes logarithmic; the vertical one, which often spans less than a decade, marked at 1, 2, 5 in plain numbers."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    mark_short(ax.yaxis)


def mark_short(axis: Axis) -> None:
    """Marks of a logarithmic axis that spans less than two decades: at 1, 2, 5 in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def savefig(figure, run: Run, name: str) -> None:
    """Write ``<name>.pdf`` and ``<name>.png`` below the run's output root, without dates, so that equal runs give
    equal bytes. Both files stay as they are where the page agrees with theirs to a thousandth of a point.

    ParameterError if `name` is not of the form ``fig<notebook><letter>_<words>``, e.g. ``fig02a_running_lp_h``.
    """
    if not re.fullmatch(rf"fig{run.notebook}[a-z]_[a-z0-9_]+", name):
        raise ParameterError(
            f"figure name {name!r}: notebook {run.notebook} writes fig{run.notebook}a_words, b, c, ..."
        )
    if figure.get_layout_engine() is not None:  # once for all that is drawn of it
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine("none")
    pdf, png = run.figures / f"{name}.pdf", run.figures / f"{name}.png"
    page = _drawn(figure, "pdf", {"CreationDate": None, "Creator": None, "Producer": None})
    if not (png.is_file() and pdf.is_file() and pdfs_agree(pdf.read_bytes(), page)):
        write_atomically(png, _drawn(figure, "png", {"Software": None}))
        write_atomically(pdf, page)  # last, since this one is compared: after a kill in between, both are written again


def _drawn(figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
