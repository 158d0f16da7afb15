"""Has a Metropolis-Hastings chain over texts converged, and to what? Diagnostics of `metropolis.Chains`.

Effective sample size, Monte Carlo error, R-hat and Pareto k̂ are those of ArviZ (`arviz-stats`; Vehtari et al. 2021, 2024);
Cramér's V between a text and the one some steps later, which 2406.10203 uses, is corrected for bias (Bergsma 2013).
They say how well a chain explores what it can reach. A chain over a finite pool reaches that pool alone: none of them sees
the bias of a small pool.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from .. import intervals
from ..errors import DistributionError, ParameterError
from ..importance import kish, pareto_k
from ..intervals import Interval
from .metropolis import Chains, Proposals

__all__ = [
    "Fit",
    "acceptance",
    "autocorrelation",
    "cramers_v",
    "diagnostics",
    "effective_size",
    "goodness_of_fit",
]

Draws = Float[np.ndarray, "chains steps"]
Labels = Int[np.ndarray, "chains steps"]
FEWEST_CHAINS = 50  # for the χ² test
FEWEST_MEANS = 20  # chains from which on the spread of their means gives the error of an acceptance


def _array_stats() -> Any:
    from arviz_stats.base import array_stats  # seconds of import that few need

    return array_stats


def _check_draws(draws: np.ndarray) -> None:
    if draws.ndim != 2:
        raise ParameterError(
            f"draws of shape {draws.shape}: an array (chains, steps) is needed, of one chain (1, steps)"
        )


def effective_size(draws: Draws) -> float:
    """Effective sample size of the mean of `draws`, over all chains; NaN for under four steps or draws that do not vary."""
    _check_draws(draws)
    if draws.shape[1] < 4 or np.ptp(draws) == 0:
        return float("nan")
    return float(_array_stats().ess(draws, method="mean"))


def autocorrelation(draws: Draws, lags: int) -> Float[np.ndarray, " lags"]:
    """Autocorrelation at lags 1 ... `lags` about the common mean of all chains; NaN where draws do not vary.

    Mean product of deviations at a lag over the mean square, all chains together. (ArviZ takes deviations from the mean of
    each chain, which is biased towards 0 for many short chains and leaves out one that never moved.)
    """
    _check_draws(draws)
    if not 1 <= lags < draws.shape[1]:
        raise ParameterError(f"lags={lags}: chains of {draws.shape[1]} steps have lags 1 to {draws.shape[1] - 1}")
    if np.ptp(draws) == 0:
        return np.full(lags, np.nan)
    centred = draws - draws.mean()
    variance = (centred**2).mean()
    return np.array([(centred[:, :-k] * centred[:, k:]).mean() / variance for k in range(1, lags + 1)])


def acceptance(chains: Chains, level: float = 0.95) -> pd.DataFrame:
    """Share of accepted proposals per prompt with its interval.

    Index `prompt`; columns `acceptance`, `low`, `high`. Neighbouring steps depend on each other, chains do not: from 20
    chains on it is Student's t interval of their means; for fewer the normal one from the Monte Carlo standard error
    (ArviZ), which misses more often than it says at levels near 1. Where all or none were accepted, the exact interval of
    as many independent steps; NaN for under four steps. ParameterError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ParameterError(f"level={level!r}: a probability between 0 and 1 is needed")
    found = [_accepted(rows.astype(np.float64), level) for rows in chains.accepted]
    index = pd.Index(chains.prompt, name="prompt")
    return pd.DataFrame(found, columns=["acceptance", "low", "high"], index=index)


def _accepted(rows: Draws, level: float) -> Interval:
    share = float(rows.mean())
    if rows.shape[1] < 4:
        return Interval(share, float("nan"), float("nan"))
    if share in (0.0, 1.0):
        return intervals.share(rows.ravel() == 1, level)
    if len(rows) >= FEWEST_MEANS:
        found = intervals.mean(rows.mean(axis=1), level)
        return Interval(share, max(0.0, found.low), min(1.0, found.high))
    half = float(stats.norm.ppf((1 + level) / 2) * _array_stats().mcse(rows, method="mean"))
    return Interval(share, max(0.0, share - half), min(1.0, share + half))


def cramers_v(labels: Labels, lag: int = 1) -> float:
    """Cramér's V between a text and the one `lag` steps later, corrected for bias, in [0, 1]; all chains together.

    With φ² = Σ n_ij²/(n_i· n_·j) - 1 over the n pairs, r rows and c columns: φ̃² = max(0, φ² - (r-1)(c-1)/(n-1)), r̃ = r -
    (r-1)²/(n-1), c̃ likewise, V = sqrt(φ̃²/min(r̃-1, c̃-1)). Uncorrected, V of n independent pairs is near sqrt(r/n), not 0.
    NaN where there are too few pairs for the number of texts (r̃ <= 1), as for fresh proposals of a rich language.
    Source: Bergsma 2013, Eq. 7.

    >>> float(round(cramers_v(np.array([[0, 1] * 50])), 12))
    1.0
    """
    _check_draws(labels)
    if not 1 <= lag < labels.shape[1]:
        raise ParameterError(f"lag={lag}: chains of {labels.shape[1]} steps have lags 1 to {labels.shape[1] - 1}")
    before, after = labels[:, :-lag].ravel(), labels[:, lag:].ravel()
    (_, row, in_row), (_, column, in_column) = (
        np.unique(x, return_inverse=True, return_counts=True) for x in (before, after)
    )
    n, r, c = len(before), len(in_row), len(in_column)
    pair, count = np.unique(row.astype(np.int64) * c + column, return_counts=True)
    phi = float(np.sum(count**2 / (in_row[pair // c].astype(np.float64) * in_column[pair % c])) - 1)
    if n < 2:
        return float("nan")
    corrected = max(0.0, phi - (r - 1) * (c - 1) / (n - 1))
    least = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, np.sqrt(corrected / least))) if least > 0 else float("nan")


def diagnostics(
    chains: Chains, pool: Proposals, values: Float[np.ndarray, " texts"] | None = None, *, lag: int = 1
) -> pd.DataFrame:
    """One row per prompt: how well its chains mix, and how heavy the tail of its weights is.

    `values` (texts,) is the quantity whose mean is wanted (the log-weight unless given). Columns: `texts` in the pool;
    `acceptance` with `low`, `high`; `effective` sample size of the mean of `values`, out of `draws`; `rhat` (rank-normalised
    and split; two chains at least); `autocorrelation` and `cramers_v` at `lag`; `pareto_k` of the weights of the pool and
    `kish` = (Σw)²/Σw², the effective number of its texts. Where `effective` is the larger, more steps are of no use: the
    pool is too small. NaN where a quantity is undefined: values that do not vary (ancestral log-weights are all 0), fewer
    than four steps or 25 texts.
    """
    values = pool.log_weight if values is None else values
    rows = []
    for prompt, text, accepted in zip(chains.prompt, chains.text, chains.accepted, strict=True):
        log_weight = pool.log_weight[pool.prompt == prompt]
        draws = np.asarray(values, np.float64)[text]
        finite = log_weight[np.isfinite(log_weight)]
        short = draws.shape[1] <= lag
        row = {"prompt": prompt, "texts": len(log_weight)}
        row |= zip(("acceptance", "low", "high"), _accepted(accepted.astype(np.float64), 0.95), strict=True)
        row |= {"effective": effective_size(draws), "draws": draws.size, "rhat": _rhat(draws)}
        row["autocorrelation"] = np.nan if short else autocorrelation(draws, lag)[-1]
        row["cramers_v"] = np.nan if short else cramers_v(text, lag)
        rows.append(row | {"pareto_k": pareto_k(finite), "kish": float(kish(finite))})
    return pd.DataFrame(rows).set_index("prompt")


def _rhat(draws: Draws) -> float:
    if min(draws.shape) < 2 or draws.shape[1] < 4 or np.ptp(draws) == 0:
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never moved: inf
        return float(_array_stats().rhat(draws))


# ----------------------------------------------------------------------------------------------- against a known law


class Fit(NamedTuple):
    """Corrected χ², its degrees of freedom and p-value; `effective`: the number of independent draws it amounts to."""

    statistic: float
    df: float
    p_value: float
    effective: float


def goodness_of_fit(labels: Labels, probability: Float[np.ndarray, " categories"], least: float = 5.0) -> Fit:
    """χ² test that chains have the law `probability`, with the effective sample size in place of the number of draws.

    `labels` (chains, steps): the category of each stored text, -1 for a text of no category; what `probability` lacks to 1
    is theirs. X² = Σ n (p̂_k - p_k)²/p_k of the n stored texts is too large by the design effects of correlated draws, the
    eigenvalues δ_i of S·Cov(p̂ of a chain of S steps)/p; their mean δ and squared coefficient of variation a² are
    estimated between the chains, which are independent. X²/(δ (1 + a²)) is compared with F of (K - 1)/(1 + a²) and (chains
    - 1) times as many degrees of freedom; n/δ is the effective sample size. Categories of which fewer than `least` effective
    draws are expected are taken together. Source: Rao and Scott 1981, second order; F by Thomas and Rao 1987.

    Far in the tail the F law is an approximation: with 50 chains of 40 steps, p-values below 1e-3 were 1.4 times as frequent
    as they should be and those below 1e-4 three times (32,398 replications on three schemes of notebook 04).

    Raises ParameterError for under 50 chains, for labels that are not integers from -1 to K - 1, or where fewer than two
    categories are left; DistributionError for negative probabilities or a sum above 1. A text that the law forbids has
    p-value 0.
    """
    _check_law(labels, probability)
    law = np.append(probability, max(0.0, 1 - float(probability.sum())))  # labels of -1 count into the last
    share = np.bincount((labels % len(law)).ravel(), minlength=len(law)) / labels.size
    if share[law <= 0].any():
        return Fit(np.inf, float("nan"), 0.0, float("nan"))
    effect = 1.0
    for _ in range(3):  # the effect is that of the categories, these are chosen by the effect
        category, joined = _joined(law, labels.size / effect, least)
        effect, squares = _design_effect(category[labels], joined)
    n, k = labels.size, len(joined) - 1
    counts = np.bincount(category[labels].ravel(), minlength=k + 1)
    uneven = squares / (k * effect**2)  # 1 + a²
    statistic = float(np.sum((counts - n * joined) ** 2 / (n * joined))) / (effect * uneven)
    df = k / uneven
    p_value = float(stats.f.sf(statistic / df, df, df * (len(labels) - 1)))
    return Fit(statistic, df, p_value, n / effect)


def _check_law(labels: np.ndarray, law: np.ndarray) -> None:
    if len(labels) < FEWEST_CHAINS:
        raise ParameterError(f"{len(labels)} chains are too few for a χ² test: at least {FEWEST_CHAINS} are needed")
    if not (np.min(law, initial=0) >= 0 and law.sum() <= 1 + 1e-9):
        raise DistributionError(f"the law has entries from {np.min(law)} and sum {law.sum()}: probabilities are needed")
    if labels.dtype.kind not in "iu" or labels.min() < -1 or labels.max() >= len(law):
        ends = f"{labels.dtype} from {labels.min()} to {labels.max()}"
        raise ParameterError(f"labels are {ends}: integers from -1 (no category) to {len(law) - 1} are needed")


def _joined(law: np.ndarray, effective: float, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The joined category of each category, and their law: the rare ones, and with them as few others as are needed."""
    order = np.argsort(-law, kind="stable")
    beyond = law.sum() - np.cumsum(law[order])  # of the rarer ones
    count = int(np.sum((law[order] * effective >= least) & ((beyond * effective >= least) | (beyond <= 1e-12))))
    if count + bool(beyond[count - 1] > 1e-12) < 2:
        raise ParameterError(f"{effective:.0f} effective draws are too few for a χ² test: run longer or more chains")
    category = np.full(len(law), count)
    category[order[:count]] = np.arange(count)
    joined = np.append(law[order[:count]], max(0.0, beyond[count - 1]))
    return category, joined if joined[-1] > 1e-12 else joined[:-1]


def _design_effect(labels: Labels, law: np.ndarray) -> tuple[float, float]:
    """Mean of the design effects, and the sum of their squares without the part that noise between chains adds."""
    chains, steps = labels.shape
    cell = labels + len(law) * np.arange(chains)[:, None]
    share = np.bincount(cell.ravel(), minlength=chains * len(law)).reshape(chains, -1) / steps
    scaled = (share - share.mean(axis=0)) / np.sqrt(law)
    matrix = steps * (scaled.T @ scaled) / (chains - 1)
    k, trace = len(law) - 1, float(np.trace(matrix))
    return trace / k, max(float(np.sum(matrix**2)) - trace**2 / (chains - 1), trace**2 / k)
