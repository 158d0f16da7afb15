"""Tilted grammars: raised to a power (the global temperature law, where it exists), or by points of words (an optimum).

Π_t p(x_t | x_<t)^θ = p(y)^θ for every adaptor that only scales, so that temperature 1/θ, normalised over strings, is the
tilted law p^θ / e^{Λ(θ)}. For an unambiguous grammar it is a grammar with the same rules: rule X -> α has the probability
p^θ Π Z_α / Z_X with Z_X = Σ p^θ over what X derives (Chi 1999, Theorem 1; Nederhof and Satta 2003). The same construction
with weights p exp(Σ points/β) gives p*(y) ∝ p(y) exp(r(y)/β) (2406.10203, Eq. 1) for a reward that is a sum over words: a
trio of prior, aligned language and reward of which everything is exact. How the mean surprisal of N strings deviates. Nats.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..errors import DistributionError, ParameterError
from ..intervals import Interval, mean
from ..languages import Grammar
from ..languages.grammar_algebra import least_fixed_point
from ..optimum import check_beta
from .concentration import Chernoff

__all__ = [
    "Moments",
    "WordTilt",
    "chernoff_from",
    "critical_order",
    "joint_sums",
    "moments",
    "string_tail",
    "sum_of_surprisals",
    "tilted",
    "tilted_by_words",
]

Points = Float[np.ndarray, " vocab"]


def tilted(grammar: Grammar, theta: float, *, checked_to: int | None = None) -> Grammar:
    """The grammar of the law p^θ / e^{Λ(θ)}: temperature 1/θ, globally normalised.

    Raises DistributionError where Σ p^θ is infinite or a rule's share of it underflows, and as `Grammar.log_partition` does,
    with its `checked_to`, for a grammar that is not proved to be unambiguous.

    >>> one = Grammar('S -> "a" S [1/4] | "b" [3/4]')
    >>> bool(np.isclose(tilted(one, 2.).log_probability([2, 0]), np.log(1 - 1 / 16)))
    True
    """
    if not np.isfinite(grammar.log_partition(theta, checked_to=checked_to)):
        raise DistributionError(f"theta={theta:g}: the sum of p^theta over the strings of {grammar.name} is infinite")
    weights = [rule.probability**theta for rule in grammar.rules.rules]
    return _reweighted(grammar, weights, f"{grammar.name}^{theta:g}")[0]


class WordTilt(NamedTuple):
    """The grammar of p*(y) ∝ p(y) exp(Σ points/β), and log Z = log E_p[exp(Σ points/β)], nats: J* = β log Z."""

    grammar: Grammar
    log_z: float


def tilted_by_words(grammar: Grammar, points: Points, beta: float) -> WordTilt:
    """p*(y) ∝ p(y) exp(r(y)/β) for the reward r(y) = Σ points of the words of y: a grammar with the same rules, exactly.

    `points` (vocab,), by token id; that of the end token counts once per string. β > 0 in units of the reward per nat, inf
    gives p itself. An ambiguous grammar will do: all derivations of a string get one factor. Source: 2406.10203, Eq. 1-2.

    Raises ParameterError for points of another length or a β that is not above 0, DistributionError where Z is infinite.

    >>> law, log_z = tilted_by_words(Grammar('S -> "a" S [1/4] | "b" [3/4]'), np.array([0., np.log(2.), 0.]), 1.0)
    >>> bool(np.isclose(np.exp(log_z), 3 / 2)), bool(np.isclose(law.log_probability([2, 0]), np.log(1 / 2)))
    (True, True)
    """
    weights, end = _word_weights(grammar, points, 1.0, 1 / check_beta(beta))
    name = f"{grammar.name}*exp(r/{beta:g})"
    law, log_z = _reweighted(grammar, weights, name)
    return WordTilt(law, log_z + end)


def _word_weights(grammar: Grammar, points: Points, theta: float, s: float) -> tuple[list[float], float]:
    """p^θ exp(s Σ points) of every rule, and what the end token adds to log Z."""
    if len(points) != grammar.vocab_size:
        raise ParameterError(
            f"{len(points)} points for {grammar.vocab_size} words: {grammar.name} has one id per word and one for the end"
        )
    v = grammar.vocab_size
    of_rule = [s * sum(float(points[word]) for word in rule.right if word < v) for rule in grammar.rules.rules]
    weights = [r.probability**theta * np.exp(x) for r, x in zip(grammar.rules.rules, of_rule, strict=True)]
    return weights, s * float(points[grammar.eos])


def _reweighted(grammar: Grammar, weights: list[float], name: str) -> tuple[Grammar, float]:
    """The grammar in which a derivation has the product of `weights` of its rules over their sum, and the log of that."""
    rules = grammar.rules
    z = least_fixed_point(rules, weights, 1.0)
    if not np.isfinite(z).all():
        raise DistributionError(f"{name}: the sum of its weights over the strings of {grammar.name} is infinite")
    inside = [np.prod([z[s - rules.start] for s in rule.right if s >= rules.start]) for rule in rules.rules]
    left = np.array([rule.left for rule in rules.rules])
    p = np.array(weights) * np.array(inside)
    sums = np.bincount(left, p)[left]  # z is a fixed point to rounding
    p = np.divide(p, sums, out=np.zeros_like(p), where=sums > 0)
    if not p.all():
        line = rules.rules[int(np.argmin(p))].line
        raise DistributionError(f"{name}: the probability of an alternative on line {line} underflows to 0")
    lines = [
        f"{rules.name(rule.left)} -> {' '.join(rules.name(s) for s in rule.right)} [{float(share)!r}]"
        for rule, share in zip(rules.rules, p, strict=True)
    ]
    return Grammar("\n".join(lines), name=name), float(np.log(z[0]))


class Moments(NamedTuple):
    """Of (log p, r) of a string of p* ∝ p exp(r/β): `mean` (2,) and `covariance` (2, 2), nats and points."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(grammar: Grammar, points: Points, beta: float, *, step: float = 2e-4) -> Moments:
    """Mean and covariance of (log p, r) of y ~ p* ∝ p exp(r/β): derivatives of K(a, b) = log Σ p^{1+a} e^{(1/β+b) r}.

    By central differences of width `step`, relative error about 1e-5 for the tales. The grammar has to be unambiguous (log p
    of a string is then that of its derivation). Raises as `tilted_by_words`.
    """

    def k(a: float, b: float) -> float:
        weights, end = _word_weights(grammar, points, 1 + a, 1 / check_beta(beta) + b)
        return float(np.log(least_fixed_point(grammar.rules, weights, 1.0)[0])) + end

    h, at = step, {}
    for i, j in itertools.product((-1, 0, 1), repeat=2):
        at[i, j] = k(i * h, j * h)
    if not np.isfinite(list(at.values())).all():
        raise DistributionError(f"beta={beta:g}: the sum of p exp(r/β) over the strings of {grammar.name} is infinite")
    mean = np.array([at[1, 0] - at[-1, 0], at[0, 1] - at[0, -1]]) / (2 * h)
    own = [at[1, 0] - 2 * at[0, 0] + at[-1, 0], at[0, 1] - 2 * at[0, 0] + at[0, -1]]
    cross = (at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1]) / 4
    return Moments(mean, np.array([[own[0], cross], [cross, own[1]]]) / h**2)


def critical_order(grammar: Grammar, *, tolerance: float = 1e-5) -> float:
    """The θ below which Σ p^θ is infinite, to `tolerance`; 1/θ is the temperature from which no global law exists.

    0 if the sum is finite down to `tolerance`: for finitely many strings, and for infinitely many of which there are but few
    of each length. By bisection on `Grammar.log_partition`, whose errors it raises.
    """
    low, high = 0.0, 1.0
    if np.isfinite(grammar.log_partition(tolerance)):
        return 0.0
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (low, middle) if np.isfinite(grammar.log_partition(middle)) else (middle, high)
    return high


def chernoff_from(
    orders: Float[np.ndarray, " orders"],
    log_partition: Float[np.ndarray, " orders"],
    entropy: float,
    n: int,
    epsilon: float,
) -> Chernoff:
    """The Rényi-Chernoff bound on both tails of the mean surprisal of n strings, from Λ(θ) at given orders θ = 1 -+ s.

    exp(-n s (ε - (H_{1-s} - H))) with H_{1-s} = Λ(1-s)/s, and with H - H_{1+s} below; the best s among the orders, which are
    fixed beforehand. Only orders of finite Λ count: a language whose Λ is infinite below some θ < 1 loses large s, not the
    bound. 2406.10203, Theorem 2. `concentration.renyi_chernoff` does the same for finitely many strings.

    Raises ParameterError unless there is an order on either side of 1 with a finite Λ.
    """
    ends = []
    for side in (1, -1):
        s = side * (1 - orders)
        use = (s > 0) & np.isfinite(log_partition)
        if not use.any():
            raise ParameterError("orders: at least one on either side of 1 needs a finite log-partition")
        exponent = s[use] * (epsilon + side * entropy) - log_partition[use]
        best = int(np.argmax(exponent))
        ends.append((float(np.exp(-n * max(0.0, exponent[best]))), float(s[use][best])))
    (upper, s_upper), (lower, s_lower) = ends
    return Chernoff(min(1.0, upper + lower), upper, lower, s_upper, s_lower)


def sum_of_surprisals(
    grammar: Grammar, drawn_from: Grammar, n: int, samples: int, *, rng: np.random.Generator
) -> Float[np.ndarray, " samples"]:
    """Σ of -log p of n strings, `samples` times, nats: p of `grammar`, the strings drawn from a grammar of the same rules.

    Only the numbers of rule uses are drawn, one generation of all derivations at a time (a branching process of several
    types): the cost does not depend on n. The surprisal is that of the derivation, hence of the string if unambiguous.
    Raises ParameterError for grammars whose rules differ in more than their probabilities.
    """
    own, theirs = ([(rule.left, rule.right) for rule in g.rules.rules] for g in (grammar, drawn_from))
    if own != theirs or grammar.symbols != drawn_from.symbols:
        raise ParameterError(
            f"{drawn_from.name} does not have the rules of {grammar.name}: tilt {grammar.name} to get one"
        )
    own = np.log([rule.probability for rule in grammar.rules.rules])
    return -_rule_sums(own[:, None], drawn_from, n, samples, rng)[:, 0]


def joint_sums(
    grammar: Grammar, drawn_from: Grammar, points: Points, n: int, samples: int, *, rng: np.random.Generator
) -> Float[np.ndarray, "samples 2"]:
    """Σ of (log p, r) of n strings, `samples` times: corpora of n strings of `drawn_from`, as sums over rule uses.

    p is that of `grammar`, whose rules `drawn_from` shares; r the sum of `points` over words and end. Nats and points.
    """
    weights, end = _word_weights(grammar, points, 0.0, 1.0)
    own = np.log([rule.probability for rule in grammar.rules.rules])
    sums = _rule_sums(np.stack([own, np.log(weights)], axis=1), drawn_from, n, samples, rng)
    return sums + np.array([0.0, n * end])


def _rule_sums(
    values: Float[np.ndarray, "rules k"], drawn_from: Grammar, n: int, samples: int, rng: np.random.Generator
) -> Float[np.ndarray, "samples k"]:
    """Σ of `values` over the rule uses of n strings of a grammar, `samples` times."""
    rules, v = drawn_from.rules, drawn_from.rules.start
    theirs = np.array([rule.probability for rule in rules.rules])
    children = np.zeros((len(theirs), len(rules.nonterminals)), np.int64)
    for i, rule in enumerate(rules.rules):
        np.add.at(children[i], [s - v for s in rule.right if s >= v], 1)
    of = {x: list(group) for x, group in itertools.groupby(range(len(theirs)), lambda i: rules.rules[i].left - v)}
    counts = np.zeros((samples, len(rules.nonterminals)), np.int64)
    counts[:, 0] = n
    total = np.zeros((samples, values.shape[1]))
    while counts.any():
        then = np.zeros_like(counts)
        for x in np.flatnonzero(counts.any(axis=0)):
            p = theirs[of[x]]
            uses = rng.multinomial(counts[:, x], p / p.sum())
            total += uses @ values[of[x]]
            then += uses @ children[of[x]]
        counts = then
    return total


def string_tail(
    grammar: Grammar, n: int, epsilon: float, bound: Chernoff, *, rng: np.random.Generator, samples: int = 2000
) -> Interval:
    """P(|mean surprisal of n strings - H| > ε) by importance sampling from the tilted grammars, with a 95% interval.

    Each tail is drawn at the s of its Chernoff `bound`, where it is ordinary; weights exp(n Λ(1-s) - s Σ surprisal).
    """
    entropy, total = grammar.entropy(), np.zeros(samples)
    for side, s in ((1, bound.s_upper), (-1, -bound.s_lower)):
        surprisal = sum_of_surprisals(grammar, tilted(grammar, 1 - s), n, samples, rng=rng)
        log_weight = n * grammar.log_partition(1 - s) - s * surprisal
        total += np.where(side * (surprisal / n - entropy) > epsilon, np.exp(log_weight), 0.0)
    return mean(total)
