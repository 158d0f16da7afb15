"""Probability against quality over texts of many sampling schemes: correlations, their intervals, and what they are made of.

Tables have one row per text (`schemes.measure`): `scheme`, `prompt`, and columns of which two are correlated, x (a log p)
and y (a reward). The unit of every interval is the prompt: all texts of a prompt, under every scheme, are drawn together
(cluster bootstrap). Source: 2406.10203, sections 5-6 and App. F; conventions of its public code where they are named.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ..errors import ParameterError
from ..intervals import Interval, bootstrap, mean, weighted_correlation
from .tradeoff import truncated_variance

__all__ = [
    "Columns",
    "bootstrap_corpora",
    "cell_means",
    "columns",
    "correlation_table",
    "correlations",
    "covariance_parts",
    "covariance_table",
    "effective_points",
    "means_table",
    "pooled_pearson",
    "residuals",
    "scheme_means",
    "selected_correlation",
    "weighted_spearman",
    "with_ends",
]

Values = Float[np.ndarray, " texts"]
FEWEST = 50


class Columns(NamedTuple):
    """x and y of every text with its scheme and its prompt, as codes 0, 1, ... in order of appearance."""

    x: np.ndarray
    y: np.ndarray
    scheme: np.ndarray
    prompt: np.ndarray


def columns(table: pd.DataFrame, x: str, y: str) -> Columns:
    """Two columns of a table of texts; ParameterError for a value that is not finite, and an unknown name."""
    found = []
    for name in (x, y):
        if name not in table:
            raise ParameterError(f"the table of texts has no column {name!r}: it has {', '.join(map(str, table))}")
        values = table[name].to_numpy(np.float64)
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise ParameterError(f"{name} of row {row} is {values[row]}: a correlation needs finite values")
        found.append(values)
    return Columns(*found, *(pd.factorize(table[name])[0] for name in ("scheme", "prompt")))


# ------------------------------------------------------------------------------------------------------- correlations


def weighted_spearman(x: Values, y: Values, weight: Values | None = None) -> float:
    """Spearman's correlation where row i stands for `weight` rows: Pearson's of the mid-ranks of the repeated data.

    >>> from scipy import stats
    >>> x, y = np.array([1., 2., 3.]), np.array([1., 9., 4.])
    >>> bool(np.isclose(weighted_spearman(x, y, np.array([2., 1., 1.])), stats.spearmanr([1, 1, 2, 3], [1, 1, 9, 4])[0]))
    True

    Values that agree to nine decimals are ties: the secret reward of an exact trio is a count of words but for rounding.
    """
    weight = np.ones(len(x)) if weight is None else weight
    return weighted_correlation(_ranks(x, weight), _ranks(y, weight), weight)


def _ranks(x: Values, weight: Values) -> Values:
    group = np.unique(np.round(x, 9), return_inverse=True)[1]
    mass = np.bincount(group, weight)
    return (np.cumsum(mass) - mass / 2)[group]


def scheme_means(data: Columns, weight: Values | None = None) -> Float[np.ndarray, "2 schemes"]:
    """Mean x and mean y of the texts of every scheme: a corpus per scheme."""
    weight = np.ones(len(data.x)) if weight is None else weight
    total = np.bincount(data.scheme, weight)
    return np.stack([np.bincount(data.scheme, weight * values) / total for values in (data.x, data.y)])


def pooled_pearson(data: Columns, weight: Values | None = None, size: int | None = None) -> float:
    """Pearson's correlation over bootstrap corpora of all schemes together, in the limit of infinitely many: no resampling.

    A corpus of `size` texts (the number of texts of a scheme unless given) drawn with replacement from those of scheme k
    has means that vary about the scheme's with covariance S_k/size; all schemes count alike. So the covariance over the
    pooled points is that of the K scheme means plus the average of S_k/size.
    """
    weight = np.ones(len(data.x)) if weight is None else weight
    total = np.bincount(data.scheme, weight)
    means = scheme_means(data, weight)
    size = size or round(float(total.mean()))
    dx, dy = (v - m[data.scheme] for v, m in zip((data.x, data.y), means, strict=True))
    within = [
        np.mean(np.bincount(data.scheme, weight * a * b) / total) / size for a, b in ((dx, dx), (dx, dy), (dy, dy))
    ]
    between = np.cov(means, ddof=0)
    xx, xy, yy = between[0, 0] + within[0], between[0, 1] + within[1], between[1, 1] + within[2]
    return float(xy / np.sqrt(xx * yy))


STATISTICS: dict[str, Callable[[Columns, np.ndarray], float]] = {
    "string_pearson": lambda d, w: weighted_correlation(d.x, d.y, w),
    "string_spearman": lambda d, w: weighted_spearman(d.x, d.y, w),
    "corpus_pearson": lambda d, w: float(np.corrcoef(scheme_means(d, w))[0, 1]),
    "corpus_spearman": lambda d, w: weighted_spearman(*scheme_means(d, w)),
    "pooled_pearson": pooled_pearson,
}
"""Level and coefficient: over texts of all schemes; over one mean per scheme; over bootstrap corpora of all schemes."""


def correlations(
    data: Columns, *, rng: np.random.Generator, resamples: int = 499, which: Sequence[str] = tuple(STATISTICS)
) -> dict[str, Interval]:
    """Correlations of x and y at string and at corpus level with 95% intervals from a bootstrap of the prompts.

    tanh(artanh r ± 1.96 s), s the standard deviation of artanh r over `resamples` samples of as many prompts, drawn with
    replacement, each with all its texts (Fisher's scale; cluster bootstrap). Not from the quantiles: the means of a resample
    are noisier than those of the sample, and their correlations lie off its own. NaN ends where a resample has no spread.

    Raises ParameterError below 50 prompts, which is too few for an interval.
    """
    prompts = int(data.prompt.max()) + 1
    if prompts < FEWEST:
        raise ParameterError(f"{prompts} prompts are too few for an interval: at least {FEWEST} are needed")
    drawn = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)
    found = {}
    for name in which:
        r = STATISTICS[name](data, np.ones(len(data.x)))
        again = np.array([STATISTICS[name](data, count[data.prompt]) for count in drawn])
        half = 1.96 * np.std(np.arctanh(np.clip(again, -1 + 1e-12, 1 - 1e-12)), ddof=1)
        centre = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
        found[name] = Interval(r, float(np.tanh(centre - half)), float(np.tanh(centre + half)))
    return found


def correlation_table(
    table: pd.DataFrame,
    pairs: dict[str, tuple[str, str]],
    *,
    rng: np.random.Generator,
    resamples: int = 499,
    which: Sequence[str] = tuple(STATISTICS),
) -> pd.DataFrame:
    """`correlations` for every named pair (x, y) of columns: one row per pair and statistic, with `low` and `high`.

    All pairs are given the same resamples of the prompts.
    """
    rows, state = [], rng.bit_generator.state
    for label, (x, y) in pairs.items():
        rng.bit_generator.state = state
        found = correlations(columns(table, x, y), rng=rng, resamples=resamples, which=which)
        rows += [(label, x, y, name, *interval) for name, interval in found.items()]
    return pd.DataFrame(rows, columns=["pair", "x", "y", "statistic", "correlation", "low", "high"])


def means_table(table: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """Mean of every value per scheme with a 95% t interval over prompts: `<value>`, `<value>_low`, `<value>_high`."""
    rows = {}
    for scheme, mine in table.groupby("scheme", sort=False):
        rows[scheme] = with_ends({name: mean(mine.groupby("prompt")[name].mean().to_numpy()) for name in values})
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="scheme"))


def with_ends(row: Mapping[str, Interval | float]) -> dict[str, float]:
    """Entries of a row of a table: an interval becomes `<name>`, `<name>_low` and `<name>_high`.

    >>> with_ends({"n": 3.0, "mean": Interval(1.0, 0.5, 1.5)})
    {'n': 3.0, 'mean': 1.0, 'mean_low': 0.5, 'mean_high': 1.5}
    """
    flat: dict[str, float] = {}
    for name, value in row.items():
        ends = value.columns(name) if isinstance(value, Interval) else {name: value}
        flat |= {column: float(v) for column, v in ends.items()}
    return flat


def residuals(table: pd.DataFrame, reward: str, beta: float, *, log_p: str = "log_p") -> Values:
    """log p + r/β - log p_plus of every text less its mean over the texts of the prompt: 0 at the optimum of Eq. 1.

    In nats. There it is log Z(x), a constant per prompt, if log p is conditional on the prompt (2406.10203, Prop. 1).
    """
    sums = table[log_p] + table[reward] / beta - table["log_p_plus"]
    return (sums - sums.groupby(table["prompt"]).transform("mean")).to_numpy()


# ------------------------------------------------------------------------------------------------ what they are made of


def covariance_parts(data: Columns) -> pd.DataFrame:
    """Variances and covariance of x and y over all texts: between schemes, between prompts, and within both.

    With as many texts of every prompt under every scheme, the scheme means and the prompt means are orthogonal and the
    parts add up to the total exactly (two-way analysis of variance). Index `part`; columns `var_x`, `var_y`,
    `covariance`, `correlation` (of that part) and `share` of the covariance. ParameterError for a table that is not
    balanced.
    """
    cells = cell_means(data)
    xy, xx, yy = (
        _parts(*pair)
        for pair in ((cells[0], cells[1], cells[2]), (cells[0], cells[0], cells[3]), (cells[1], cells[1], cells[4]))
    )
    out = pd.DataFrame({"var_x": xx, "var_y": yy, "covariance": xy}, index=pd.Index(_PARTS, name="part"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return out.assign(
            correlation=out["covariance"] / np.sqrt(out["var_x"] * out["var_y"]),
            share=out["covariance"] / out["covariance"]["total"],
        )


_PARTS = ("total", "between schemes", "between prompts", "within")


def cell_means(data: Columns) -> Float[np.ndarray, "5 schemes prompts"]:
    """Means of x, y, xy, x² and y² over the texts of every scheme and prompt, x and y about their means over all texts.

    ParameterError unless there are as many texts of each.
    """
    shape = (int(data.scheme.max()) + 1, int(data.prompt.max()) + 1)
    cell = data.scheme * shape[1] + data.prompt
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    if np.ptp(count):
        raise ParameterError(
            f"{count.min()} to {count.max()} texts per scheme and prompt: the parts need the same number of each"
        )
    x, y = data.x - data.x.mean(), data.y - data.y.mean()
    return np.stack([(np.bincount(cell, v) / count).reshape(shape) for v in (x, y, x * y, x * x, y * y)])


def _parts(x: np.ndarray, y: np.ndarray, product: np.ndarray) -> list[float]:
    """Total, between schemes, between prompts, within: of cell means of x and y and of their product."""
    square = x.mean() * y.mean()
    total = float(product.mean() - square)
    schemes, prompts = (float(np.mean(x.mean(axis=k) * y.mean(axis=k)) - square) for k in (1, 0))
    return [total, schemes, prompts, total - schemes - prompts]


def covariance_table(data: Columns, *, rng: np.random.Generator, resamples: int = 499) -> pd.DataFrame:
    """The covariances of `covariance_parts` with 95% intervals over prompts: columns `part`, `covariance`, `low`, `high`.

    Raises as `covariance_parts`, and AepError below 50 prompts.
    """
    x, y, product, *_ = cell_means(data)
    units, rows = np.arange(x.shape[1], dtype=np.float64), []
    for k, part in enumerate(_PARTS):

        def value(drawn: np.ndarray, k: int = k) -> float:
            at = drawn.astype(np.int64)
            return _parts(x[:, at], y[:, at], product[:, at])[k]

        rows.append((part, *bootstrap(value, units, rng=rng, resamples=resamples)))
    return pd.DataFrame(rows, columns=["part", "covariance", "low", "high"])


def bootstrap_corpora(
    data: Columns, corpora: int, *, rng: np.random.Generator, size: int | None = None
) -> pd.DataFrame:
    """The corpora of the public code without its chain: `corpora` per scheme, each of `size` texts drawn with replacement.

    `size` is the number of texts of the scheme unless given. Columns `scheme` (code), `x`, `y`: means of the corpus.
    """
    rows = []
    for scheme in range(data.scheme.max() + 1):
        mine = np.flatnonzero(data.scheme == scheme)
        counts = rng.multinomial(size or len(mine), np.full(len(mine), 1 / len(mine)), size=corpora)
        share = counts / counts.sum(axis=1, keepdims=True)
        rows.append(pd.DataFrame({"scheme": scheme, "x": share @ data.x[mine], "y": share @ data.y[mine]}))
    return pd.concat(rows, ignore_index=True)


def effective_points(groups: Int[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> float:
    """The number of independent points to which n points in clusters amount: n / (1 + (m - 1) ICC), Kish's design effect.

    m = n / number of clusters; the intraclass correlation ICC is that of a one-way analysis of variance (clipped at 0).
    With tight clouds it is about the number of clusters, however many points each has.

    >>> effective_points(np.repeat([0, 1, 2], 100), np.repeat([0., 1., 5.], 100))
    3.0
    """
    count = np.bincount(groups)
    centre = np.bincount(groups, values) / count
    n, k = len(values), len(count)
    between = float(np.sum(count * (centre - values.mean()) ** 2)) / (k - 1)
    within = float(np.sum((values - centre[groups]) ** 2)) / max(n - k, 1)
    m = (n - np.sum(count**2) / n) / (k - 1)
    spread = between + (m - 1) * within
    icc = float(np.clip((between - within) / spread, 0, 1)) if spread > 0 else 0.0
    return float(n / (1 + (n / k - 1) * icc))


def selected_correlation(
    covariance: Float[np.ndarray, "3 3"], ratio: Float[np.ndarray, "*points"] | float
) -> Float[np.ndarray, "*points"]:
    """Correlation of mean x and mean y among typical corpora, for ratio = ε/σ_N; `covariance` is that of (x, y, log p_plus).

    A corpus of N texts of p_plus is typical if its mean log p_plus is within ε of its expectation (2406.10203, Eq. 10),
    σ_N² = Var(log p_plus)/N. For large N the means are jointly normal, and cutting the third at ±ε multiplies its
    variance by k (`tradeoff.truncated_variance`) and takes (1 - k) c c'/Var(log p_plus) off the covariance of the others,
    c their covariances with it. If log p_plus = log p + y/β + constant: -1 for ratio → 0; for large ratios the
    correlation under p_plus, whatever N.
    """
    k = truncated_variance(ratio)
    c, v = covariance[:2, 2], covariance[2, 2]
    xx, xy, yy = (covariance[i, j] - (1 - k) * c[i] * c[j] / v for i, j in ((0, 0), (0, 1), (1, 1)))
    return np.asarray(xy / np.sqrt(xx * yy))
