"""The laws at which alignment trainers come to rest, exactly, for a prior over all strings of at most L tokens.

The strings are written with k letters (tokens 1 ... k) and end with token 0, or are cut after L tokens without it: the cut
is part of the law. Prefixes of d letters form a level of the tree, (k^d,) in lexicographic order, and `laws[d]` (k^d, k + 1)
are log-probabilities of the next token. Outcomes, the strings, stand in one array: those that end after d = 0 ... L - 1
letters, in this order, then the k^L that are cut. Everything is in nats; rewards r are per outcome; β in units of the reward
per nat.

p* ∝ p exp(r/β) is the maximum of E_π[r] - β KL(π||p). What else comes out, for a policy that can take every law:

* KL per token in the loss, its estimate differentiated at sampled tokens (`per_token_optimum`): the update at prefix h is
  E_π[(Q - β log π/p) ∇ log π], Q(h, v) = E_π[r | h v]. It has no term for the KL of the tokens to come, on which v decides.
  So π(v|h) ∝ p(v|h) exp(Q(h, v)/β), where p* has the soft value β log E_p[exp(r/β) | h v] in place of Q.
* The same with k3 = p/π - log p/π - 1 as it stands (``corrected=False``): ∇k3 = (1 - p/π) ∇ log π, π = β p/(λ - Q).
* Rewards divided by their standard deviation: β becomes β sd(r) (`scaled_beta`).
* DPO with labels of probability σ(r - r'): β log π/p = r + c. With the log-ratio divided by the tokens |y| of a string
  (`normalised_dpo`): log π/p = |y| (r + c)/β. IPO (`normalised_ipo`), which regresses the divided log-ratio of a pair on
  ±1/(2β): log π/p = |y| (P(y ≻ p)/β + c), P(y ≻ p) = E_p[σ(r(y) - r)]. In each c is what makes the sum 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

from aep._array import as_numpy
from aep.errors import ParameterError
from aep.intervals import weighted_correlation
from aep.languages.protocol import Language

__all__ = [
    "Distance",
    "distance",
    "draw",
    "ipo_loss",
    "lengths",
    "log_probabilities",
    "next_token_laws",
    "normalised_dpo",
    "normalised_ipo",
    "per_token_optimum",
    "rewards",
    "scaled_beta",
    "string",
]

Laws = list[np.ndarray]
Outcomes = Float[np.ndarray, " outcomes"]
LARGEST = 5_000_000  # strings


def next_token_laws(language: Language, longest: int) -> Laws:
    """log p of the next token after every prefix of 0 ... `longest` - 1 letters, one level a step.

    ParameterError for a language whose start and end token are not 0, or of more than five million strings.
    """
    k = language.vocab_size - 1
    if language.eos != 0 or getattr(language, "bos", 0) not in (0, None) or k**longest > LARGEST:
        raise ParameterError(
            f"{language.name}: {k} letters in {longest} tokens; start and end token 0 and at most {LARGEST:,} strings needed"
        )
    log_p, state = language.start([np.empty(0, np.int64)])
    laws = [as_numpy(log_p)]
    for d in range(1, longest):
        state = language.select(state, np.repeat(np.arange(k ** (d - 1)), k))
        log_p, state = language.step(state, np.tile(np.arange(1, k + 1), k ** (d - 1)))
        laws.append(as_numpy(log_p))
    return laws


def log_probabilities(laws: Laws) -> Outcomes:
    """log p of every outcome; their probabilities sum to 1.

    >>> half = np.log(np.full((1, 2), .5))
    >>> np.exp(log_probabilities([half, half])).tolist()
    [0.5, 0.25, 0.25]
    """
    opened, found = np.zeros(1), []
    for law in laws:
        found.append(opened + law[:, 0])
        opened = (opened[:, None] + law[:, 1:]).ravel()
    return np.concatenate([*found, opened])


def lengths(letters: int, longest: int) -> Int[np.ndarray, " outcomes"]:
    """Tokens of every outcome, its end token counted."""
    return np.concatenate([np.full(letters**d, min(d + 1, longest)) for d in range(longest + 1)])


def rewards(points: Float[np.ndarray, " letters"], longest: int) -> Outcomes:
    """The sum of the points of the letters of every outcome: an additive reward."""
    total, found = np.zeros(1), []
    for _ in range(longest):
        found.append(total)
        total = (total[:, None] + points).ravel()
    return np.concatenate([*found, total])


def string(outcome: int, letters: int, longest: int) -> list[int]:
    """Token ids of an outcome.

    >>> [string(i, 1, 2) for i in range(3)]
    [[0], [1, 0], [1, 1]]
    """
    d = 0
    while outcome >= letters**d:
        outcome -= letters**d
        d += 1
    ids = [outcome // letters**i % letters + 1 for i in reversed(range(d))]
    return ids if d == longest else [*ids, 0]


def draw(log_p: Outcomes, rng: np.random.Generator, size: int) -> Int[np.ndarray, " size"]:
    """Indices of outcomes drawn from a law."""
    return np.searchsorted(np.cumsum(np.exp(log_p)), rng.random(size)).clip(max=len(log_p) - 1)


# ---------------------------------------------------------------------------------------------------------- fixed points


def per_token_optimum(laws: Laws, reward: Outcomes, beta: float, *, corrected: bool = True, soft: bool = False) -> Laws:
    """Next-token laws of the policy at rest with a KL penalty per token in the loss, from the end backwards.

    `corrected`: the gradient of the penalty is that of KL(π||p) at its prefix; otherwise that of KL(p||π), the plain k3.
    `soft` takes the soft value for Q, which gives p*.
    """
    k, longest = laws[0].shape[1] - 1, len(laws)
    starts = np.cumsum([0] + [k**d for d in range(longest + 1)])
    value, found = reward[starts[longest] :], []
    for d in reversed(range(longest)):
        q = np.column_stack([reward[starts[d] : starts[d + 1]], value.reshape(-1, k)])
        law = special.log_softmax(laws[d] + q / beta, axis=1) if corrected else _forward(laws[d], q, beta)
        value = beta * special.logsumexp(laws[d] + q / beta, axis=1) if soft else (np.exp(law) * q).sum(axis=1)
        found.append(law)
    return found[::-1]


def _forward(law: np.ndarray, q: np.ndarray, beta: float) -> np.ndarray:
    """log of π = β p/(λ - Q), λ > max Q by row such that it sums to 1; by bisection, since the sum falls in λ."""
    top = q.max(axis=1, keepdims=True)
    low, high = np.full_like(top, 1e-300), np.full_like(top, beta + np.ptp(q, axis=1).max())  # λ - max Q
    for _ in range(200):
        middle = (low + high) / 2
        more = (beta * np.exp(law) / (middle + top - q)).sum(axis=1, keepdims=True) > 1
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return special.log_softmax(law - np.log(high + top - q), axis=1)


def scaled_beta(optimum: Callable[[float], Laws], reward: Outcomes, beta: float) -> float:
    """The β' = β sd(r) at which a trainer rests that divides rewards by their standard deviation under the policy.

    `optimum` gives the fixed point without the scaling for any β. The largest such β' is taken, which a policy meets first
    on its way from the prior; a reward ten times as large has the same law. 0 if there is none above β/1000: for a small β
    sd(r) falls faster than β' with every step towards the best string.
    """

    def excess(log_beta: float) -> float:
        pi = np.exp(log_probabilities(optimum(float(np.exp(log_beta)))))
        sd = np.sqrt(pi @ (reward - pi @ reward) ** 2)
        return float(np.log(beta * max(sd, 1e-300)) - log_beta)

    high = np.log(beta * np.ptp(reward)) + 0.1  # sd(r) is at most half the range
    for low in np.arange(high, np.log(beta / 1000), -0.1):
        if excess(low) >= 0:
            return float(np.exp(optimize.brentq(excess, low, low + 0.1, xtol=1e-6)))
    return 0.0


def normalised_dpo(log_p: Outcomes, reward: Outcomes, length: Outcomes, beta: float) -> Outcomes:
    """log π of DPO with log-ratios divided by the number of tokens: log π/p = |y| (r + c)/β."""
    return _with_constant(log_p, length * reward / beta, length / beta)


def normalised_ipo(log_p: Outcomes, reward: Outcomes, length: Outcomes, beta: float) -> Outcomes:
    """log π of IPO with log-ratios divided by the number of tokens: log π/p = |y| (P(y ≻ p)/β + c)."""
    return _with_constant(log_p, length * _preferred(log_p, reward) / beta, length)


def ipo_loss(log_pi: Outcomes, log_p: Outcomes, reward: Outcomes, length: Outcomes, beta: float) -> float:
    """The loss that `normalised_ipo` is the minimum of: E (h(chosen) - h(rejected) - 1/(2β))², h = log(π/p)/|y|.

    Over pairs of texts of the prior with labels of probability σ(r - r'). 1/(4β²) at the prior.
    """
    p, h, c = np.exp(log_p), (log_pi - log_p) / length, 1 / (2 * beta)
    variance = p @ (h - p @ h) ** 2
    return float(2 * variance - 4 * c * (p @ (h * (2 * _preferred(log_p, reward) - 1))) + c**2)


def _preferred(log_p: Outcomes, reward: Outcomes) -> Outcomes:
    """P(y ≻ p), the probability that an outcome is preferred to a text of the prior."""
    values, which = np.unique(reward.round(12), return_inverse=True)
    return (special.expit(values[:, None] - values) @ np.bincount(which, np.exp(log_p)))[which]


def _with_constant(log_p: Outcomes, tilt: Outcomes, slope: Outcomes) -> Outcomes:
    """log p + tilt + c slope (slope > 0) with the c that makes the probabilities sum to 1."""

    def excess(c: float) -> float:
        return float(special.logsumexp(log_p + tilt + c * slope))

    ends = np.array([-1.0, 1.0])
    while excess(ends[0]) > 0 or excess(ends[1]) < 0:
        ends *= 2
    c = optimize.brentq(excess, *ends, xtol=1e-14)
    return log_p + tilt + c * slope


# -------------------------------------------------------------------------------------------------------------- distance


class Distance(NamedTuple):
    """How far a law π is from p*, by sums over all strings: `gap` = J* - J = β KL(π||p*) in units of the reward, `kl` =
    KL(π||p) in nats, E_π[r], its standard deviation, slope and correlation under π of log π/p on r/β, β' of the member of
    p exp(r/β') with the same KL, the `share` of that member's gain in reward that π has, and E_π[tokens]."""

    gap: float
    kl: float
    reward: float
    reward_sd: float
    slope: float
    correlation: float
    beta_at_kl: float
    share: float
    tokens: float


def distance(log_pi: Outcomes, log_p: Outcomes, reward: Outcomes, length: Outcomes, beta: float) -> Distance:
    """`Distance` of π from the optimum of the prior p and the reward at β."""
    pi, ratio, r = np.exp(log_pi), log_pi - log_p, reward / beta
    kl, mean = float(pi @ ratio), float(pi @ reward)
    sd = float(np.sqrt(pi @ (reward - mean) ** 2))
    slope = float(pi @ ((reward - mean) * (ratio - kl)) / sd**2 * beta)
    start = float(np.exp(log_p) @ reward)

    def member(s: float) -> tuple[float, float]:
        law = special.softmax(log_p + s * reward)
        return float(law @ reward), float(s * (law @ reward) - special.logsumexp(log_p + s * reward))

    s = optimize.brentq(lambda s: member(s)[1] - kl, 0, 100 / beta) if kl > 1e-9 else 0.0
    gained = (mean - start) / (member(s)[0] - start) if s else float("nan")
    gap = beta * (float(special.logsumexp(log_p + r)) + kl) - mean
    correlation = weighted_correlation(r, ratio, pi) if kl > 1e-12 else float("nan")
    inverse = 1 / s if s else float("inf")
    return Distance(gap, kl, mean, sd, slope, correlation, inverse, gained, float(pi @ length))
