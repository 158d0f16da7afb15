"""Tests and bands that stay valid while one watches, from the columns a record holds (Ville's inequality).

For any s, Π_t exp(s·a_t - Λ_t(1-s)) is a non-negative martingale with mean 1 when the text was sampled from the scorer: the
likelihood ratio of temperature 1/(1-s) against temperature 1. Where s is not in the stored grid, log M_t(s) >= Λ_t(1-s)
built from H_t, V_t and Λ_t(7/8) gives a supermartingale. The e-process is their mixture with weights fixed in advance.
"""

from typing import NamedTuple

import numpy as np

from ..errors import ParameterError
from ..information import THETAS
from .typicality import Paths, PerText, Steps

__all__ = ["EXPONENTS", "Band", "first_rejection", "log_e_process", "log_mgf", "time_uniform_band"]

_EXACT = tuple(1 - theta for theta in THETAS)
_SMALL = tuple(sign * 2.0**-k for k in range(4, 10) for sign in (1, -1))
EXPONENTS = _EXACT + _SMALL
"""The values of s of the mixture: 1-θ over the stored grid (|s| = 1/8 among them) and ±2^-4 … ±2^-9; equal weights."""


def log_mgf(paths: Paths, s: float) -> Steps:
    """An upper bound log M_t(s) of log E[exp(s·a_t)], nats: Λ_t(1-s) itself on the stored grid, else |s| <= 1/8.

    0 < s <= 1/8: M = 1 + sH + s²(V+H²)/2 + (8s)³R,  R = e^{Λ(7/8)} - 1 - H/8 - (V+H²)/128,
    since (sa)^k <= (8s)³(a/8)^k for k >= 3;
    s = -u < 0:  M = 1 - uH + u²(V+H²)/2, since e^{-x} <= 1 - x + x²/2 for x >= 0.

    >>> one = np.ones(1)
    >>> paths = Paths(one, one, 0 * one, {theta: (1 - theta) * one for theta in THETAS})
    >>> all(log_mgf(paths, s)[0] >= s - 1e-12 for s in EXPONENTS)
    True
    """
    if 1 - s in paths.log_partition:
        return paths.log_partition[1 - s]
    if not 0 < abs(s) <= 0.125:
        raise ParameterError(f"s={s!r}: either 1-s is in the stored grid {THETAS}, or 0 < |s| <= 1/8")
    first, second = paths.entropy, paths.varentropy + paths.entropy**2
    series = s * first + s**2 * second / 2
    if s > 0:
        rest = np.expm1(paths.log_partition[0.875]) - first / 8 - second / 128
        series = series + (8 * s) ** 3 * np.maximum(rest, 0.0)  # positive terms; below 0 only by rounding
    return np.log1p(series)


def log_e_process(paths: Paths) -> Steps:
    """log of the mixture e-process at every T: log Σ_k w_k exp(s_k Σa - Σ log M(s_k)). E[e-process] <= 1.

    P(sup_T e-process >= 1/α) <= α for text sampled from the scorer, at any stopping time (Ville's inequality).
    """
    total = np.cumsum(paths.surprisal, axis=-1)
    mixture = np.full_like(total, -np.inf)
    for s in EXPONENTS:
        np.logaddexp(mixture, s * total - np.cumsum(log_mgf(paths, s), axis=-1), out=mixture)
    return mixture - np.log(len(EXPONENTS))


def first_rejection(log_e: Steps, alpha: float) -> PerText:
    """The first T (counted from 1) at which the e-process reaches 1/α, inf if it never does.

    >>> float(first_rejection(np.log([1.0, 30.0, 2.0]), 0.05))
    2.0
    """
    if not 0 < alpha < 1:
        raise ParameterError(f"alpha={alpha!r}: a level in (0, 1) is needed")
    crossed = log_e >= -np.log(alpha)
    return np.where(crossed.any(axis=-1), np.argmax(crossed, axis=-1) + 1.0, np.inf)


class Band(NamedTuple):
    """Lower and upper end of a band for the running log-perplexity l_t, each (..., T), nats per token."""

    low: Steps
    high: Steps


def time_uniform_band(paths: Paths, alpha: float) -> Band:
    """{S/t : Σ_k w_k exp(s_k S - Σ_{i<=t} log M_i(s_k)) < 1/α}: contains l_t at all t at once with probability at least 1-α.

    The logarithm of the left side is convex in S and at most 0 at S = Σ H_i (Jensen), so the set is an interval around h_t;
    its ends are found by Newton's method, which from outside a convex function's zero never passes it. A text leaves the
    band exactly when its e-process rejects. Not a confidence sequence: l - h is observed.
    """
    if not 0 < alpha < 1:
        raise ParameterError(f"alpha={alpha!r}: a level in (0, 1) is needed")
    sums = [np.cumsum(log_mgf(paths, s), axis=-1) for s in EXPONENTS]
    limit = np.log(len(EXPONENTS)) - np.log(alpha)
    centre = np.cumsum(paths.entropy, axis=-1)

    low, high = (_end(sums, limit, centre, side) for side in (-1.0, 1.0))
    steps = np.arange(1, centre.shape[-1] + 1)
    return Band(low / steps, high / steps)


def _end(sums: list[Steps], limit: float, centre: Steps, side: float) -> Steps:
    """Where log Σ_k exp(s_k S - c_k) crosses `limit` on one side of `centre`: doubling to outside, then Newton's method."""

    def at(total: Steps) -> tuple[Steps, Steps]:
        exponents = np.stack([s * total - c for s, c in zip(EXPONENTS, sums, strict=True)])
        top = exponents.max(axis=0)
        weights = np.exp(exponents - top)
        mass = weights.sum(axis=0)
        return np.log(mass) + top - limit, np.tensordot(np.array(EXPONENTS), weights, 1) / mass

    width = np.ones_like(centre)
    value, slope = at(centre + side * width)
    for _ in range(60):
        short = value < 0
        if not short.any():
            break
        width = np.where(short, 2 * width, width)
        value, slope = at(centre + side * width)
    end = centre + side * width
    for _ in range(60):
        step = value / slope
        end = end - step
        if np.all(np.abs(step) <= 1e-12 * np.maximum(np.abs(end), 1.0)):
            break
        value, slope = at(end)
    return end
