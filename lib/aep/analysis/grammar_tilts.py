"""Grammars raised to a power: the global temperature law, where it exists, and how the mean surprisal of N strings deviates.

Π_t p(x_t | x_<t)^θ = p(y)^θ for every adaptor that only scales, so that temperature 1/θ, normalised over strings, is the
tilted law p^θ / e^{Λ(θ)}. For an unambiguous grammar it is a grammar with the same rules: rule X -> α has the probability
p^θ Π Z_α / Z_X with Z_X = Σ p^θ over what X derives (Chi 1999, Theorem 1; Nederhof and Satta 2003). Nats.
"""

import itertools

import numpy as np
from jaxtyping import Float

from ..errors import DistributionError, ParameterError
from ..intervals import Interval, mean
from ..languages import Grammar
from ..languages.grammar_algebra import least_fixed_point
from .concentration import Chernoff

__all__ = ["chernoff_from", "critical_order", "string_tail", "sum_of_surprisals", "tilted"]


def tilted(grammar: Grammar, theta: float) -> Grammar:
    """The grammar of the law p^θ / e^{Λ(θ)}: temperature 1/θ, globally normalised.

    Raises DistributionError where Σ p^θ is infinite, and as `Grammar.log_partition` does for an ambiguous grammar.

    >>> one = Grammar('S -> "a" S [1/4] | "b" [3/4]')
    >>> bool(np.isclose(tilted(one, 2.).log_probability([2, 0]), np.log(1 - 1 / 16)))
    True
    """
    if not np.isfinite(grammar.log_partition(theta)):
        raise DistributionError(f"theta={theta:g}: the sum of p^theta over the strings of {grammar.name} is infinite")
    rules = grammar.rules
    z = least_fixed_point(rules, [rule.probability**theta for rule in rules.rules], 1.0)
    weights = np.array(
        [
            rule.probability**theta * np.prod([z[s - rules.start] for s in rule.right if s >= rules.start])
            for rule in rules.rules
        ]
    )
    left = np.array([rule.left for rule in rules.rules])
    weights /= np.bincount(left, weights)[left]  # z is a fixed point to rounding
    lines = [
        f"{rules.name(rule.left)} -> {' '.join(rules.name(s) for s in rule.right)} [{float(p)!r}]"
        for rule, p in zip(rules.rules, weights, strict=True)
    ]
    return Grammar("\n".join(lines), name=f"{grammar.name}^{theta:g}")


def critical_order(grammar: Grammar, *, tolerance: float = 1e-5) -> float:
    """The θ below which Σ p^θ is infinite, to `tolerance`; 1/θ is the temperature from which no global law exists.

    0 for a grammar of finitely many strings. By bisection on `Grammar.log_partition`.
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
    """
    rules, v = grammar.rules, grammar.rules.start
    own = np.array([rule.probability for rule in rules.rules])
    theirs = np.array([rule.probability for rule in drawn_from.rules.rules])
    children = np.zeros((len(own), len(rules.nonterminals)), np.int64)
    for i, rule in enumerate(rules.rules):
        np.add.at(children[i], [s - v for s in rule.right if s >= v], 1)
    of = {x: list(group) for x, group in itertools.groupby(range(len(own)), lambda i: rules.rules[i].left - v)}
    counts = np.zeros((samples, len(rules.nonterminals)), np.int64)
    counts[:, 0] = n
    total = np.zeros(samples)
    while counts.any():
        then = np.zeros_like(counts)
        for x in np.flatnonzero(counts.any(axis=0)):
            p = theirs[of[x]]
            uses = rng.multinomial(counts[:, x], p / p.sum())
            total -= uses @ np.log(own[of[x]])
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
