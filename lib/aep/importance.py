"""Importance weights: how many texts they amount to, how heavy their tail is, and draws in proportion to them."""

import numpy as np
from jaxtyping import Float, Int

__all__ = ["kish", "pareto_k", "systematic"]

Column = Float[np.ndarray, " texts"]


def kish(log_weight: Float[np.ndarray, "*runs texts"]) -> Float[np.ndarray, "*runs"] | float:
    """(Σ w)²/Σ w² of weights given by their logarithms: the number of texts to which they amount, 1 to n (Kish 1965).

    >>> float(kish(np.log([1., 1., 2.])).round(12)), float(kish(np.full(5, -800.)))
    (2.666666666667, 5.0)
    """
    w = np.exp(log_weight - np.max(log_weight, axis=-1, keepdims=True))
    return np.sum(w, axis=-1) ** 2 / np.sum(w**2, axis=-1)


def pareto_k(log_weight: Column) -> float:
    """Pareto k̂ of the largest importance weights, which have about 1/k̂ finite moments (ArviZ; Vehtari et al. 2024).

    Estimates are reliable below .7; above .5 the variance of the weights is infinite; negative for bounded weights. NaN for
    fewer than 25 texts, and where the largest weights are ties or zero.
    """
    n = len(log_weight)
    tail = np.sort(log_weight)[-int(min(n / 5, 3 * np.sqrt(n))) - 1 :] if n >= 25 else log_weight[:0]
    if not len(tail) or not np.isfinite(tail).all() or np.ptp(tail) < 1e-9:
        return float("nan")
    from arviz_stats.base import array_stats  # seconds of import that few need

    with np.errstate(divide="ignore", invalid="ignore"):
        return float(array_stats.psislw(-log_weight)[1])  # psislw takes log-likelihoods: minus the log-weights


def systematic(rng: np.random.Generator, weight: Column, size: int) -> Int[np.ndarray, " size"]:
    """`size` indices in proportion to the weights, rising, from one uniform number: `size` w_i/Σ w of them are i, up to one.

    An index without weight never comes.

    >>> systematic(np.random.default_rng(0), np.array([.25, .75, 0.]), 4).tolist()
    [0, 1, 1, 1]
    """
    cdf = np.cumsum(weight)
    at = np.searchsorted(cdf, cdf[-1] * (np.arange(size) + rng.random()) / size, side="right")
    return np.minimum(at, np.flatnonzero(weight)[-1])
