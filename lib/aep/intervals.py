"""Intervals: any statistic through one bootstrap function, and Fisher's interval where the data are bivariate normal."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import optimize, stats

from .errors import AepError

__all__ = [
    "Interval",
    "bootstrap",
    "clopper_pearson",
    "fisher",
    "fitted_line",
    "mann_whitney",
    "mean",
    "ratio",
    "share",
    "spelled",
    "weighted_correlation",
]


LARGEST_JACKKNIFE = 2000


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """The three numbers as entries of a row of a table: `<name>`, `<name>_low` and `<name>_high`.

        >>> Interval(1.0, 0.5, 1.5).columns("mean")
        {'mean': 1.0, 'mean_low': 0.5, 'mean_high': 1.5}
        """
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}


def bootstrap(
    statistic: Callable[..., float],
    *columns: Float[np.ndarray, " n"],
    rng: np.random.Generator,
    resamples: int = 999,
    level: float = 0.95,
) -> Interval:
    """BCa bootstrap interval of ``statistic(*columns)``; the units are the rows, drawn together (Efron 1987).

    Beyond 2,000 units, where the correction is of order 1/n and its jackknife would need n^2 memory, percentiles.
    Raises AepError below 50 units: the bootstrap of fewer is too narrow.

    >>> x = np.random.default_rng(0).normal(size=200)
    >>> interval = bootstrap(np.mean, x, rng=np.random.default_rng(1))
    >>> interval.low < interval.estimate == float(np.mean(x)) < interval.high
    True
    """
    n = len(columns[0])
    if n < 50:
        raise AepError(f"{n} units are too few for a bootstrap interval: at least 50 are needed")
    found = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=resamples,
        confidence_level=level,
        method="BCa" if n <= LARGEST_JACKKNIFE else "percentile",
        batch=max(1, 1_000_000 // n),
        rng=rng,
    ).confidence_interval
    return Interval(float(statistic(*columns)), float(found.low), float(found.high))


def fisher(correlation: float, n: int, level: float = 0.95) -> Interval:
    """Fisher's interval tanh(atanh r ± z / sqrt(n - 3)) of a Pearson correlation of n bivariate normal pairs.

    Exact enough for means of 100,000 draws; not for truncated or resampled data, which want `bootstrap`.

    >>> fisher(0.0, 403).high == -fisher(0.0, 403).low
    True
    """
    half = stats.norm.ppf((1 + level) / 2) / np.sqrt(n - 3)
    centre = np.arctanh(correlation)
    return Interval(float(correlation), float(np.tanh(centre - half)), float(np.tanh(centre + half)))


def mean(values: Float[np.ndarray, " n"], level: float = 0.95) -> Interval:
    """Mean of independent values with its Student t interval, whose ends are NaN for a single value.

    >>> mean(np.array([1., 2., 3.])).estimate
    2.0
    """
    values = np.asarray(values, dtype=np.float64)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    centre = float(values.mean())
    return Interval(centre, centre - float(half), centre + float(half))


def ratio(
    total: Float[np.ndarray, " n"], size: Float[np.ndarray, " n"] | Int[np.ndarray, " n"], level: float = 0.95
) -> Interval:
    """Σ `total` / Σ `size` over independent units (documents), with the delta-method interval of a ratio of means.

    The variance is that of the residuals ``total - ratio · size``; unbounded for a single unit.

    >>> ratio(np.array([2., 4.]), np.array([1, 2]))
    Interval(estimate=2.0, low=2.0, high=2.0)
    """
    n, value = len(total), float(np.sum(total) / np.sum(size))
    residual = np.asarray(total) - value * np.asarray(size)
    error = float(np.sqrt(np.sum(residual**2) / (n - 1) / n) / np.mean(size)) if n > 1 else float("inf")
    half = float(stats.norm.ppf((1 + level) / 2)) * error
    return Interval(value, value - half, value + half)


def share(hits: Bool[np.ndarray, " n"], level: float = 0.95) -> Interval:
    """Share of independent successes with its exact (Clopper-Pearson) interval; coverage at least `level` at any share.

    AepError for none at all: a share of nothing is not known.

    >>> share(np.array([True] * 50 + [False] * 50)).estimate
    0.5
    """
    if not len(hits):
        raise AepError("hits is empty: a share needs at least one unit")
    return clopper_pearson(float(np.mean(hits)), len(hits), level)


def clopper_pearson(value: float, n: int, level: float = 0.95) -> Interval:
    """The exact interval of a share of n units, continued to values that are no whole number of units.

    >>> found = share(np.array([True] * 3 + [False] * 7))
    >>> bool(np.allclose(clopper_pearson(0.3, 10), found))
    True
    """
    k, tail = value * n, (1 - level) / 2
    low = stats.beta.ppf(tail, k, n - k + 1) if k > 0 else 0.0
    return Interval(float(value), float(low), float(stats.beta.isf(tail, k + 1, n - k)) if k < n else 1.0)


def mann_whitney(area: float, positives: int, negatives: int, level: float = 0.95) -> Interval:
    """The score interval of an AUROC from its value and the numbers of units alone (Newcombe 2006, method 5).

    Its ends are the A with (A - area)² = z² A(1 - A) [1 + s(1 - A)/(2 - A) + sA/(1 + A)]/(nm), s = (n + m)/2 - 1: the
    variance of Hanley & McNeil 1982 at A, not at the estimate. So it has a width at AUROC 1, and is continuous there.

    >>> [round(end, 3) for end in mann_whitney(1.0, 50, 350)]
    [1.0, 0.978, 1.0]
    """
    z, pairs, s = stats.norm.isf((1 - level) / 2), positives * negatives, (positives + negatives) / 2 - 1

    def low(a: float) -> float:
        def excess(x: float) -> float:
            return (x - a) ** 2 - z**2 * x * (1 - x) * (1 + s * ((1 - x) / (2 - x) + x / (1 + x))) / pairs

        return float(optimize.brentq(excess, 0.0, min(a, 1 - 1e-12), xtol=1e-15)) if a > 0 else 0.0

    return Interval(float(area), low(area), 1 - low(1 - area))


def spelled(
    table: pd.DataFrame, name: str = "estimate", low: str | None = None, high: str | None = None, digits: int = 2
) -> list[str]:
    """The estimates of column `name` with their intervals (columns `low`, `high`; `<name>_low`, `<name>_high`), to be read.

    >>> spelled(pd.DataFrame({"estimate": [.5], "estimate_low": [.4], "estimate_high": [.61]}))
    ['0.50 (0.40 to 0.61)']
    """
    columns = table[[name, low or f"{name}_low", high or f"{name}_high"]].to_numpy(np.float64)
    return [f"{x:.{digits}f} ({a:.{digits}f} to {b:.{digits}f})" for x, a, b in columns]


def weighted_correlation(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | Int[np.ndarray, " n"] | None = None,
) -> float:
    """Pearson correlation of x and y under the given weights (equal by default), in [-1, 1].

    >>> x = np.array([0., 1., 2., 5.])
    >>> bool(np.isclose(weighted_correlation(x, 2 - 3 * x, np.array([.1, .2, .3, .4])), -1))
    True
    """
    weight = np.ones(len(x)) if weight is None else weight
    weight = weight / weight.sum()
    x, y = x - weight @ x, y - weight @ y
    return float(weight @ (x * y) / np.sqrt((weight @ x**2) * (weight @ y**2)))


def fitted_line(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
    at: Float[np.ndarray, " points"],
    *,
    rng: np.random.Generator,
    resamples: int = 499,
) -> pd.DataFrame:
    """Weighted least-squares line at the points `at` with a pointwise 95% bootstrap band: columns x, y, low, high.

    >>> x = np.arange(60.)
    >>> line = fitted_line(x, 2 * x, np.ones(60), np.array([3.]), rng=np.random.default_rng(0))
    >>> bool(np.isclose(line.y[0], 6) and np.isclose(line.low[0], 6))
    True
    """

    def line(rows: np.ndarray) -> np.ndarray:
        w = weight[rows] / weight[rows].sum()
        dx, centre = x[rows] - w @ x[rows], w @ y[rows]
        return centre + (w @ (dx * y[rows])) / (w @ dx**2) * (at - w @ x[rows])

    copies = np.array([line(rng.integers(len(x), size=len(x))) for _ in range(resamples)])
    low, high = np.quantile(copies, [0.025, 0.975], axis=0)
    return pd.DataFrame({"x": at, "y": line(np.arange(len(x))), "low": low, "high": high})
