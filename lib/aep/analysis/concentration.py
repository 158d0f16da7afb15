"""How fast the mean surprisal of N independent strings concentrates (2406.10203, App. D).

Chebyshev's bound (Eq. 11) is `aep.analysis.bounds.chebyshev` with the varentropy of one string as its variance.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from .. import information
from ..intervals import Interval, mean

__all__ = ["Chernoff", "renyi_chernoff", "tail_probability"]

LARGEST_S = {1: 8.0, -1: 64.0}


class Chernoff(NamedTuple):
    """Two-sided bound = upper + lower (at most 1), each tail with the s that minimises it."""

    bound: float
    upper: float
    lower: float
    s_upper: float
    s_lower: float


def _exponent(log_p: np.ndarray, epsilon: float, side: int) -> tuple[float, float]:
    """Largest exponent per string, sup_s s (epsilon - gap(s)), of the tail above (side 1) or below (-1) H, and its s.

    Any s gives a bound. The best is kept to four digits (a loss below 1e-6 of the exponent): further ones depend on the
    processor, and the importance sampler that uses this s would carry them into its estimate.
    """
    entropy = float(information.entropy(log_p))

    def negative(s: float) -> float:
        return float(information.log_partition(log_p, 1 - side * s)) - s * (epsilon + side * entropy)

    found = minimize_scalar(negative, bounds=(0.0, LARGEST_S[side]), method="bounded", options={"xatol": 1e-9})
    s = float(f"{found.x:.4g}")
    return max(0.0, -negative(s)), s


def renyi_chernoff(log_p: Float[np.ndarray, " strings"], n: int, epsilon: float) -> Chernoff:
    """Chernoff bound by the Rényi gap on both tails, with the best s of each (2406.10203, Theorem 2, App. D).

    P((1/N) sum a_n >= H + eps) <= exp(-N s (eps - (H_(1-s) - H))), and with H - H_(1+s) for the lower tail; s > 0 is
    chosen from N, eps and p before any draw, so optimising it costs nothing. The paper fixes one s by Lemma 1.

    >>> fair = np.log(np.array([.5, .5]))
    >>> renyi_chernoff(fair, 1000, .1).bound < 1e-6      # the surprisal is constant
    True
    """
    (rate_up, s_up), (rate_down, s_down) = (_exponent(log_p, epsilon, side) for side in (1, -1))
    upper, lower = float(np.exp(-n * rate_up)), float(np.exp(-n * rate_down))
    return Chernoff(min(1.0, upper + lower), upper, lower, s_up, s_down)


def tail_probability(
    log_p: Float[np.ndarray, " strings"],
    n: int,
    epsilon: float,
    *,
    rng: np.random.Generator,
    samples: int = 4000,
) -> Interval:
    """P(|(1/N) sum -log p(y_n) - H| > epsilon) itself, by importance sampling, with a 95% interval.

    Each tail is drawn from the law proportional to p^(1-s), s its Chernoff optimum, under which the tail is typical;
    the weight of a sample of total surprisal A is exp(N Lambda(1-s) - s A). Unbiased, and accurate far below 1/samples.
    """
    entropy, bound = float(information.entropy(log_p)), renyi_chernoff(log_p, n, epsilon)
    total = np.zeros(samples)
    for side, s in ((1, bound.s_upper), (-1, -bound.s_lower)):
        log_q = information.log_normalise((1 - s) * log_p)
        surprisal = rng.multinomial(n, np.exp(log_q), size=samples) @ -log_p
        log_weight = n * float(information.log_partition(log_p, 1 - s)) - s * surprisal
        total += np.where(side * (surprisal / n - entropy) > epsilon, np.exp(log_weight), 0.0)
    return mean(total)
