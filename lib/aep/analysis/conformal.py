"""Conformal p-values and e-values against a null sample, and the false discovery rate of what they find.

Larger values are more extreme: for over-typicality, that is -z. The null sample (texts or windows the model has not seen)
and a value of the same law are exchangeable, and nothing else is assumed: no normal law, no calibrated model. The rank of
the value among n null values then gives a p-value of at least 1/(n + 1) (Vovk, Gammerman & Shafer 2005; split conformal).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ParameterError
from .hypotheses import benjamini_hochberg

__all__ = ["Discoveries", "conformal_e", "conformal_p", "discoveries", "e_benjamini_hochberg"]

Evidence = Float[np.ndarray, " m"]


def conformal_p(
    values: Evidence, null: Float[np.ndarray, "*matched n"], *, rng: np.random.Generator | None = None
) -> Evidence:
    """(1 + #{null >= value})/(n + 1): P(p <= u) <= u if value and null are exchangeable, also with ties.

    Parameters
    ----------
    values : (m,), larger = more extreme
    null : (n,), one sample for all; or (m, n), a matched one for each value
    rng : breaks ties at random: p = (#{null > value} + U (1 + #{null = value}))/(n + 1), U uniform, is exactly uniform

    Returns
    -------
    p-values in (0, 1]. p-values that share a null sample are positively dependent (PRDS): Benjamini and Hochberg keep
    their level (Bates et al. 2023).

    Raises
    ------
    ParameterError : NaN, or an empty null sample

    >>> conformal_p(np.array([2.5, 0.0]), np.array([0.0, 1.0, 2.0])).tolist()
    [0.25, 1.0]
    """
    values, null = _checked(values, null)
    if null.ndim == 1:
        ranked = np.sort(null)
        above, not_below = (len(null) - np.searchsorted(ranked, values, side) for side in ("right", "left"))
    else:
        above, not_below = (compare(null, values[:, None]).sum(axis=1) for compare in (np.greater, np.greater_equal))
    if rng is None:
        return (1 + not_below) / (null.shape[-1] + 1)
    return (above + rng.uniform(size=len(values)) * (1 + not_below - above)) / (null.shape[-1] + 1)


def conformal_e(values: Evidence, null: Float[np.ndarray, "*matched n"], *, level: float | None = None) -> Evidence:
    """e-values, E[e] <= 1 under exchangeability: w_j (n + 1) for the value of rank j from the top among the n + 1.

    The weights Σ w_j = 1 are fixed in advance: w_j ∝ 1/j, or with `level` equal ones for p = j/(n + 1) <= level, so that
    e = 1/level or 0. Averages of e-values are e-values, whatever their dependence: over several null samples, say. Shapes,
    ties (conservative) and errors as in `conformal_p`.

    >>> conformal_e(np.array([2.5, 0.0]), np.array([0.0, 1.0, 2.0]), level=0.5).tolist()
    [2.0, 0.0]
    """
    values, null = _checked(values, null)
    n = null.shape[-1] + 1
    if level is None:
        weights = 1 / np.arange(1, n + 1)
    elif 1 / n <= level < 1:
        weights = (np.arange(1, n + 1) <= level * n + 1e-9).astype(float)
    else:
        raise ParameterError(f"level={level!r}: from 1/(n + 1) = {1 / n:.3g} for {n - 1} null values up to below 1")
    rank = np.rint(conformal_p(values, null) * n).astype(int)
    return n * weights[rank - 1] / weights.sum()


def e_benjamini_hochberg(e: Evidence) -> Evidence:
    """Adjusted e-values of e-BH: a hypothesis is found at level α where they are at most α. Wang & Ramdas 2022.

    With e_[1] >= ... >= e_[m]: min over j >= i of min(1, m/(j e_[j])). The false discovery rate is at most α whatever the
    dependence of the e-values. NaN, no test, is not of the family.

    >>> e_benjamini_hochberg(np.array([100.0, 30.0, 0.0])).tolist()
    [0.03, 0.05, 1.0]
    """
    e = np.asarray(e, np.float64)
    if np.any(e < 0):
        raise ParameterError(f"an e-value is {float(e[np.flatnonzero(e < 0)[0]])!r}: e-values are not negative")
    found, tested = np.full(len(e), np.nan), np.flatnonzero(~np.isnan(e))
    order = tested[np.argsort(-e[tested], kind="stable")]
    with np.errstate(divide="ignore"):
        ratio = len(order) / (np.arange(1, len(order) + 1) * e[order])
    found[order] = np.minimum(1, np.minimum.accumulate(ratio[::-1])[::-1])
    return found


class Discoveries(NamedTuple):
    """`found`: which hypotheses are rejected at `alpha`; `level`: the smallest FDR level at which each would be."""

    found: Bool[np.ndarray, " m"]
    level: Evidence
    alpha: float


def discoveries(
    alpha: float, *, p: Float[np.ndarray, " m"] | None = None, e: Float[np.ndarray, " m"] | None = None
) -> Discoveries:
    """What p-values (Benjamini-Hochberg: independent or PRDS) or e-values (e-BH: any dependence) find at which FDR.

    >>> discoveries(0.05, p=np.array([0.01, 0.6])).found.tolist()
    [True, False]
    """
    if not 0 < alpha < 1:
        raise ParameterError(f"alpha={alpha!r}: a level in (0, 1) is needed")
    if (p is None) == (e is None):
        raise ParameterError("give either p-values (p=...) or e-values (e=...)")
    if p is not None:
        level = benjamini_hochberg(p)
    else:
        level = e_benjamini_hochberg(e)
    return Discoveries(level <= alpha, level, alpha)


def _checked(values: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not null.shape[-1]:
        raise ParameterError("the null sample is empty: held-out texts or windows of the same kind are needed")
    if null.ndim > 2 or (null.ndim == 2 and len(null) != len(values)):
        raise ParameterError(
            f"null has shape {null.shape}: (n,), or (m, n) with m = {len(values)}, one row for each value"
        )
    for name, x in (("values", values), ("null", null)):
        if np.isnan(x).any():
            raise ParameterError(f"{name} hold NaN: leave out texts without a value, they have no rank")
    return values, null
