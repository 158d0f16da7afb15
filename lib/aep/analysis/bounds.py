"""Finite-length bounds on P(|l_T - h_T| > ε), and the planner: how many tokens a given tolerance needs."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from ..errors import ParameterError
from .eprocess import EXPONENTS, Band, log_mgf
from .typicality import Paths, running_mean

__all__ = ["Plan", "chebyshev", "coverage_at", "freedman", "plan_tokens", "renyi_chernoff_band"]


def chebyshev(variance: float, tokens: float, epsilon: float) -> float:
    """P(|l_T - h_T| > ε) <= E[Σ V_t]/(T²ε²) = v/(Tε²) with `variance` v = E[Σ V_t]/T. Paper 2406.10203, Eq. 11.

    >>> round(chebyshev(2.0, 1000, 0.1), 12)
    0.2
    """
    return min(1.0, variance / (tokens * epsilon**2))


def freedman(variance: float, tokens: float, epsilon: float, bound: float) -> float:
    """P(|l_T - h_T| > ε and Σ V_t <= Tv) <= 2 exp(-Tε²/(2(v + cε/3))), c = `bound` >= |a_t - H_t|. Freedman 1975, Thm. 1.6.

    It applies where surprisals are bounded on the support: a finite language, or a network with bounded logits.
    """
    return min(1.0, 2 * np.exp(-tokens * epsilon**2 / (2 * (variance + bound * epsilon / 3))))


def renyi_chernoff_band(paths: Paths, alpha: float) -> Band:
    """h_t and the Rényi-Chernoff margins: contains l_t at every t at once with probability at least 1-α. Paper App. D.

    Derived per token. For each of the K = 20 exponents s the line crosses with probability at most α/K (Ville), so no s
    is chosen after looking: s > 0: l_t < (log(K/α) + Σ log M(s))/(st);  s = -u < 0: l_t > -(log(K/α) + Σ log M(-u))/(ut).
    For s on the grid Λ(1-s)/s = H_{1-s}, so the margin is log(K/α)/(st) plus the mean Rényi gap.
    """
    steps = np.arange(1, paths.surprisal.shape[-1] + 1)
    price = np.log(len(EXPONENTS) / alpha)
    lines = {s: (price + np.cumsum(log_mgf(paths, s), axis=-1)) / (s * steps) for s in EXPONENTS}
    high = np.min([line for s, line in lines.items() if s > 0], axis=0)
    low = np.max([line for s, line in lines.items() if s < 0], axis=0)
    return Band(low, high)


class Plan(NamedTuple):
    """Tokens after which |l - h| <= ε holds with probability at least 1-δ, by each argument (inf where it gives none)."""

    clt: float
    chebyshev: float
    freedman: float
    renyi_chernoff: float


def plan_tokens(pilot: Paths, epsilon: float, delta: float, *, bound: float | None = None) -> Plan:
    """The T that |l_T - h_T| <= ε at level δ needs, from the mean columns of a pilot sample, before the text is sampled.

    CLT: Φ^{-1}(1-δ/2)² v/ε². Chebyshev: v/(δε²). Freedman: 2(v + cε/3) log(2/δ)/ε² (needs `bound` c >= |a - H|, else inf).
    Rényi-Chernoff: max over both tails of min_s log(2/δ)/(|s|(ε - gap(s))), gap(s) = mean(log M(s))/s - mean H; the best s
    lies near ε/v and is fixed here, before looking. All but Chebyshev hold as far as a text's mean columns equal the
    pilot's.
    """
    if not epsilon > 0 or not 0 < delta < 1:
        raise ParameterError(
            f"epsilon={epsilon!r}, delta={delta!r}: a tolerance above 0 and a level in (0, 1) are needed"
        )
    variance, entropy = float(np.mean(pilot.varentropy)), float(np.mean(pilot.entropy))
    clt = stats.norm.isf(delta / 2) ** 2 * variance / epsilon**2
    tails = []
    for sign in (1, -1):
        needed = [np.inf]
        for s in (s for s in EXPONENTS if np.sign(s) == sign):
            gap = abs(float(np.mean(log_mgf(pilot, s))) / s - entropy)
            if gap < epsilon:
                needed.append(np.log(2 / delta) / (abs(s) * (epsilon - gap)))
        tails.append(min(needed))
    free = np.inf if bound is None else 2 * (variance + bound * epsilon / 3) * np.log(2 / delta) / epsilon**2
    return Plan(*(float(np.ceil(t)) for t in (clt, variance / (delta * epsilon**2), free, max(tails))))


def coverage_at(paths: Paths, tokens: int, epsilon: float) -> float:
    """The share of texts with |l_T - h_T| <= ε at T = `tokens`."""
    gap = running_mean(paths.surprisal - paths.entropy)[..., tokens - 1]
    return float(np.mean(np.abs(gap) <= epsilon))
