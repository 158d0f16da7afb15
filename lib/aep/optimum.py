"""The optimum of KL-regularised alignment, p*(y) ∝ p(y) exp(r(y)/β), and how far a policy is from it. Everything in nats.

J(π) = E_π[r] - β KL(π||p) has its maximum J* = β log Z, Z = E_p[exp(r/β)], at p* alone, and J* - J(π) = β KL(π||p*)
(Korbak et al. 2022, "RL with KL penalties is better viewed as Bayesian inference"; Eq. 1 of 2406.10203). All of it can be
estimated from texts of any proposal q that reaches what p* reaches, with weights w = p exp(r/β) / q. A trained policy is a
far better proposal than the prior: the nearer to p*, the nearer are its weights to a constant.

Arrays have one entry per text, of *one* prompt (of several, each has its own Z): `log_p`, `log_policy` or `log_proposal` are
log-probabilities of whole texts given the prompt, the end token counted; `beta` > 0 is in units of the `reward` per nat.
Intervals of level .95 by the delta method: estimate ± 1.96 sd(influence)/sqrt n (van der Vaart 1998, chapter 20); to be
believed where `effective` is large and `pareto_k` below .7; what the proposal never wrote, none of them sees. ParameterError
for fewer than two texts, values that are no numbers, a prior that writes none of the texts.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import optimize, special, stats

from .errors import ParameterError
from .importance import kish, pareto_k, systematic
from .intervals import Interval

__all__ = [
    "Agreement",
    "AtEqualKL",
    "LogNormaliser",
    "check_beta",
    "expectation",
    "kl",
    "log_normaliser",
    "pareto_k",
    "resample",
    "reward_at_kl",
    "shortfall",
    "slope_and_correlation",
    "tilted_family",
    "weights",
]

Column = Float[np.ndarray, " texts"]


class LogNormaliser(NamedTuple):
    """log Z in nats with its interval; `effective` number of texts (Σ w)²/Σ w² and `pareto_k` of the weights."""

    estimate: float
    low: float
    high: float
    effective: float
    pareto_k: float

    def optimum(self, beta: float) -> Interval:
        """J* = β log Z with its interval, in units of the reward."""
        return _times(beta, self)


class AtEqualKL(NamedTuple):
    """A policy beside the member p exp(r/β') of the optimal family that has its KL from the prior, nats.

    `beta` is that β'; `reward` E_π[r], `family` E[r] of the member, `prior` E_p[r]; `share` of the gain in reward, (reward -
    prior)/(family - prior), at most 1: no law has more reward at the same KL.
    """

    kl: Interval
    beta: float
    reward: Interval
    family: Interval
    prior: Interval
    share: Interval


class Agreement(NamedTuple):
    """The line of log π - log p on r/β: `slope` and `correlation` are 1 at p*; `spread`, the standard deviation of
    r/β - (log π - log p) in nats, is 0 there, where that difference is the constant log Z."""

    slope: Interval
    correlation: Interval
    spread: float


def check_beta(beta: float) -> float:
    """β itself, in units of the reward per nat; ParameterError unless it is above 0 (inf is: no alignment)."""
    if not beta > 0:
        raise ParameterError(f"beta={beta!r}: a strength above 0 is needed")
    return beta


def log_normaliser(log_p: Column, log_proposal: Column, reward: Column, beta: float) -> LogNormaliser:
    """log Z = log E_p[exp(r/β)], nats, by importance sampling: the log of the mean weight p exp(r/β)/q of texts from q.

    J* = β log Z is its `optimum(beta)`. The logarithm of a mean is biased low, by about Var(w)/(2 n E[w]²).

    >>> p, r = np.array([.5, .5]), np.array([0., 1.])
    >>> found = log_normaliser(np.log(p), np.log(p), r, 1.0)
    >>> bool(np.isclose(found.estimate, np.log(p @ np.exp(r))))
    True
    """
    log_w = _log_weights(log_p, log_proposal, reward, 1 / check_beta(beta))
    found = _interval(_log_mean(log_w), _relative(log_w))
    return LogNormaliser(*found, float(kish(log_w)), pareto_k(log_w))


def weights(log_p: Column, log_proposal: Column, reward: Column, beta: float) -> Column:
    """Normalised importance weights of texts from a proposal for p*: ∝ p exp(r/β)/q, with sum 1.

    >>> weights(np.log([.5, .5]), np.log([.5, .5]), np.log([1., 3.]), 1.0).round(3).tolist()
    [0.25, 0.75]
    """
    return special.softmax(_log_weights(log_p, log_proposal, reward, 1 / check_beta(beta)))


def resample(rng: np.random.Generator, weight: Column, size: int) -> Int[np.ndarray, " size"]:
    """Indices of `size` texts from p*, importance resampling: text i comes n w_i times, up to one, in random order.

    Systematic resampling: less noise than independent draws, and every text with `size` w_i >= 1 comes. A text may come
    more than once: for an interval use `expectation` with the weights. As the pool grows, the law of one draw tends to p*
    (Rubin 1988; Smith and Gelfand 1992).

    >>> sorted(resample(np.random.default_rng(0), np.array([.25, .75, 0.]), 4).tolist())
    [0, 1, 1, 1]
    """
    if size < 1 or not len(weight):
        raise ParameterError(f"size={size}: at least one text, from a pool that is not empty")
    return rng.permutation(systematic(rng, weight, size))


def expectation(values: Column, weight: Column) -> Interval:
    """Σ w f / Σ w of texts with importance weights w, with the delta-method interval; equal weights give the mean.

    >>> expectation(np.array([1., 3.]), np.array([.25, .75])).estimate
    2.5
    """
    weight = weight / weight.mean()
    estimate = float(np.mean(weight * values))
    return _interval(estimate, weight * (values - estimate))


def kl(log_policy: Column, log_p: Column) -> Interval:
    """KL(π||p) = E_π[log π - log p] per text, nats, of texts from π; +inf where p cannot write one of them.

    >>> kl(np.log([.5, .5]), np.log([.5, .5]))
    Interval(estimate=0.0, low=0.0, high=0.0)
    """
    _check(log_policy, log_p)
    if np.isneginf(log_p).any():
        return Interval(np.inf, np.inf, np.inf)
    return expectation(log_policy - log_p, np.ones(len(log_p)))


def shortfall(
    log_p: Column, log_policy: Column, reward: Column, beta: float, *, log_z: float | None = None
) -> Interval:
    """J* - J(π) = β KL(π||p*) ≥ 0, in units of the reward, from texts of π.

    With u = r/β + log p - log π it is β (log Z - mean u): J(π) = β E_π[u]. log Z is either known (`log_z`, nats) or that of
    the same texts, log mean e^u. The second has far less noise near the optimum, where both terms move together (about
    Var(u)/2, with an error of second order), and is never negative; but what p* writes often and π never is not in it.

    >>> p, r = np.array([.5, .5]), np.array([0., 1.])
    >>> best = p * np.exp(r) / (p @ np.exp(r))
    >>> bool(abs(shortfall(np.log(p), np.log(best), r, 1.0).estimate) < 1e-12)
    True
    """
    u = _log_weights(log_p, log_policy, reward, 1 / check_beta(beta))
    if np.isneginf(u).any():
        return Interval(np.inf, np.inf, np.inf)
    if log_z is not None:
        return _times(beta, _interval(log_z - float(u.mean()), u.mean() - u))
    estimate = max(0.0, _log_mean(u) - float(u.mean()))
    found = _interval(estimate, _relative(u) - (u - u.mean()))
    return _times(beta, found._replace(low=max(0.0, found.low)))


def tilted_family(
    log_p: Column, log_proposal: Column, reward: Column, betas: Float[np.ndarray, " betas"]
) -> pd.DataFrame:
    """E[r] and KL(·||p) (nats per text) of p_β' ∝ p exp(r/β') for every β' (inf: the prior), from texts of a proposal.

    KL(p_β'||p) = E[r]/β' - log Z(β'). This curve is the largest reward that any law has at its KL. One row per β': `beta`;
    `log_z`, `reward`, `kl`, each with `_low` and `_high`; `effective` and `pareto_k` of the weights.

    >>> p, r = np.array([.5, .5]), np.array([0., 1.])
    >>> tilted_family(np.log(p), np.log(p), r, np.array([np.inf])).loc[0, ["reward", "kl"]].tolist()
    [0.5, 0.0]
    """
    rows = []
    for beta in np.asarray(betas, np.float64):
        s = 1 / check_beta(float(beta))
        log_w = _log_weights(log_p, log_proposal, reward, s)
        found = {
            "log_z": _interval(_log_mean(log_w), _relative(log_w)),
            "reward": (mean := expectation(reward, special.softmax(log_w))),
            "kl": _family_kl(log_w, reward, s, mean.estimate),
        }
        row = {"beta": float(beta)}
        for name, interval in found.items():
            row |= interval.columns(name)
        rows.append(row | {"effective": float(kish(log_w)), "pareto_k": pareto_k(log_w)})
    return pd.DataFrame(rows)


def reward_at_kl(log_p: Column, log_policy: Column, reward: Column, *, prior: Column | None = None) -> AtEqualKL:
    """E_π[r] beside E[r] of the member of p exp(r/β') with the same KL from the prior: the share of the gain that π has.

    The family is estimated from the policy's texts, where the share is at most 1 whatever the sample. `prior`: rewards of
    texts of the prior. Without them E_p[r] too comes from the policy's texts, whose weights p/π have heavy tails. Along the
    family dE[r]/dKL = β', so that the influence on its reward is β' (that on KL(π||p) + that on log Z(β')), without one of
    β' itself. The share is NaN for a policy that has not moved; ParameterError where no member reaches its KL.

    >>> q = np.repeat([.2, .8], [2, 8])
    >>> bool(np.isclose(reward_at_kl(np.full(10, np.log(.5)), np.log(q), np.repeat([0., 1.], [2, 8])).share.estimate, 1))
    True
    """
    divergence, mine = kl(log_policy, log_p), expectation(reward, np.ones(len(reward)))
    s = _tilt_with(log_p, log_policy, reward, divergence.estimate)
    log_w, start = (_log_weights(log_p, log_policy, reward, t) for t in (s, 0.0))
    family = expectation(reward, special.softmax(log_w))
    before = expectation(*((reward, special.softmax(start)) if prior is None else (prior, np.ones(len(prior)))))
    most = family.estimate - before.estimate
    if not s or most <= 0:
        return AtEqualKL(divergence, np.inf, mine, family, before, Interval(np.nan, np.nan, np.nan))
    share = (mine.estimate - before.estimate) / most
    of_family = (log_policy - log_p - divergence.estimate + _relative(log_w)) / s
    of_prior = (_relative(start) + 1 if prior is None else 1.0) * (
        (reward if prior is None else prior) - before.estimate
    )
    of_share = (reward - mine.estimate - share * of_family) / most, -(1 - share) / most * of_prior
    share = _interval(share, *((of_share[0] + of_share[1],) if prior is None else of_share))
    return AtEqualKL(divergence, 1 / s, mine, _interval(family.estimate, of_family), before, share)


def slope_and_correlation(log_p: Column, log_policy: Column, reward: Column, beta: float) -> Agreement:
    """The least-squares slope of log π - log p on r/β over texts of π, their correlation, and the spread about slope 1.

    At p* log π - log p = r/β - log Z, so that slope and correlation are 1 and the spread 0. A policy that is p exp(r/β') has
    correlation 1 and slope β/β'. Intervals: the sandwich (White 1980), and the delta method on Fisher's scale. NaN where
    reward or policy does not vary.

    >>> found = slope_and_correlation(np.log(np.full(3, .1)), np.log([.1, .2, .4]), np.log([1., 2., 4.]), 0.5)
    >>> round(found.slope.estimate, 12), round(found.correlation.estimate, 12)
    (0.5, 1.0)
    """
    u = _log_weights(log_p, log_policy, reward, 1 / check_beta(beta))
    if np.isneginf(u).any():
        raise ParameterError(f"text {int(np.isneginf(u).argmax())}: the prior cannot write it, log p is -inf")
    x, y = reward / beta, log_policy - log_p
    dx, dy = x - x.mean(), y - y.mean()
    sx, sy = np.sqrt(np.mean(dx**2)), np.sqrt(np.mean(dy**2))
    if sx < 1e-12 or sy < 1e-12:
        return Agreement(*(Interval(np.nan, np.nan, np.nan),) * 2, float(u.std(ddof=1)))
    slope = float(np.mean(dx * dy) / sx**2)
    r = float(np.clip(np.mean(dx * dy) / (sx * sy), -1, 1))
    influence = dx * dy / (sx * sy) - r * ((dx / sx) ** 2 + (dy / sy) ** 2) / 2
    correlation = Interval(r, r, r)
    if 1 - r**2 > 1e-12:
        ends = _interval(float(np.arctanh(r)), influence / (1 - r**2))
        correlation = Interval(r, float(np.tanh(ends.low)), float(np.tanh(ends.high)))
    return Agreement(_interval(slope, dx * (dy - slope * dx) / sx**2), correlation, float(u.std(ddof=1)))


# --------------------------------------------------------------------------------------------------------------- algebra


def _log_weights(log_p: Column, log_proposal: Column, reward: Column, s: float) -> Column:
    """s r + log p - log q, checked: -inf where the prior cannot write a text of the proposal."""
    _check(log_p, log_proposal, reward)
    for name, column, least in (("log_p", log_p, True), ("log-probability it was drawn with", log_proposal, False)):
        bad = np.isnan(column) | np.isposinf(column) | (np.isneginf(column) & (not least))
        if bad.any():
            raise ParameterError(f"text {int(bad.argmax())}: its {name} is {column[bad.argmax()]}, not a number")
    bad = ~np.isfinite(reward)
    if bad.any():
        raise ParameterError(f"text {int(bad.argmax())}: its reward is {reward[bad.argmax()]}, not a finite number")
    if np.isneginf(log_p).all():
        raise ParameterError("every log_p is -inf: the prior can write none of these texts")
    return s * reward + log_p - log_proposal


def _check(*columns: np.ndarray) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1 or lengths[0] < 2:
        raise ParameterError(
            f"{', '.join(map(str, lengths))} values: arrays of the same texts are needed, at least two"
        )


def _interval(estimate: float, *influences: Column, level: float = 0.95) -> Interval:
    """Estimate ± normal quantile of the delta method; one array of influences (mean zero) for every independent sample."""
    variance = sum(float(np.var(i, ddof=1)) / len(i) for i in influences)
    half = float(stats.norm.ppf((1 + level) / 2)) * np.sqrt(variance)
    return Interval(float(estimate), float(estimate - half), float(estimate + half))


def _times(beta: float, found: Interval | LogNormaliser) -> Interval:
    return Interval(beta * found.estimate, beta * found.low, beta * found.high)


def _log_mean(log_w: Column) -> float:
    return float(special.logsumexp(log_w) - np.log(len(log_w)))


def _relative(log_w: Column) -> Column:
    """w / mean w - 1, the influence of log mean w."""
    return np.exp(log_w - _log_mean(log_w)) - 1


def _family_kl(log_w: Column, reward: Column, s: float, mean: float) -> Interval:
    """s E[r] - log Z(s) of the member s = 1/β', with the difference of the two influences."""
    relative = _relative(log_w)
    estimate = s * mean - _log_mean(log_w)
    return _interval(estimate, s * (relative + 1) * (reward - mean) - relative)


def _tilt_with(log_p: Column, log_policy: Column, reward: Column, divergence: float) -> float:
    """The s = 1/β' ≥ 0 at which the family has this KL on these texts; 0 for none."""

    def excess(s: float) -> float:
        log_w = _log_weights(log_p, log_policy, reward, s)
        return s * float(special.softmax(log_w) @ reward) - _log_mean(log_w) - divergence

    spread = float(np.ptp(reward))
    if excess(0.0) >= 0 or not spread:
        return 0.0
    high = 1 / spread
    while excess(high) < 0:
        high *= 2
        if high * spread > 1e4:
            raise ParameterError(f"KL {divergence:.4g} nats: no member of the family reaches it on these texts")
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-12))
