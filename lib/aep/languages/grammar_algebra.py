"""Linear algebra of a grammar: expectation matrix, closures of left corners and unit rules, removal of empty rules."""

import itertools
import math
from collections.abc import Mapping, Sequence, Set
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from ..errors import DistributionError
from .grammar_format import Rule, RuleSet

__all__ = [
    "can_be",
    "check_consistent",
    "closure",
    "dropped",
    "expectation_matrix",
    "least_fixed_point",
    "spectral_radius",
    "without_empty_rules",
]


def expectation_matrix(grammar: RuleSet) -> Float[np.ndarray, "n n"]:
    """E_XY = Σ_rules of X p(rule) · (number of Y on its right): the mean number of Y among the children of an X."""
    v, n = len(grammar.tokens), len(grammar.nonterminals)
    matrix = np.zeros((n, n))
    for rule in grammar.rules:
        for symbol in rule.right:
            if symbol >= v:
                matrix[rule.left - v, symbol - v] += rule.probability
    return matrix


def spectral_radius(matrix: Float[np.ndarray, "n n"]) -> tuple[float, list[int]]:
    """The largest eigenvalue of a non-negative matrix, and the indices of the strong component it belongs to.

    Component by component: there it is a simple eigenvalue (Perron and Frobenius), so that it is not spoilt by rounding.

    >>> spectral_radius(np.array([[0., 1.], [0., .5]]))
    (0.5, [1])
    """
    count, label = connected_components(csr_array(matrix), directed=True, connection="strong")
    best, members = 0.0, [0]
    for component in range(count):
        inside = np.flatnonzero(label == component)
        radius = float(np.abs(np.linalg.eigvals(matrix[np.ix_(inside, inside)])).max())
        if radius > best:
            best, members = radius, [int(i) for i in inside]
    return best, members


def check_consistent(grammar: RuleSet) -> None:
    """DistributionError unless the spectral radius of the expectation matrix is below 1 (Booth and Thompson 1973).

    Then derivations end with probability one and their expected length is finite.
    """
    radius, members = spectral_radius(expectation_matrix(grammar))
    if radius < 1 - 1e-12:
        return
    names = [grammar.nonterminals[i] for i in members[:6]] + (["..."] if len(members) > 6 else [])
    why = "the expected length is infinite" if abs(radius - 1) <= 1e-12 else "derivations may never end"
    raise DistributionError(
        f"the expectation matrix has spectral radius {radius:.6g}, not below 1: {why}; make the rules by which "
        f"{', '.join(names)} return to themselves less probable"
    )


def closure(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """(I - P)^-1 = I + P + P² + ... of a non-negative matrix with spectral radius below 1.

    As the product of I + P^(2^k), without a subtraction: every entry has its relative accuracy, and an entry that is zero
    by its structure is exactly zero, which a solver would not give.

    >>> closure(np.array([[0., .5], [0., .5]])).tolist()
    [[1.0, 1.0], [0.0, 2.0]]
    """
    total, power = np.eye(len(matrix)), matrix
    for _ in range(64):
        grown = total + total @ power
        if np.array_equal(grown, total):
            break
        total, power = grown, power @ power
    return total


def least_fixed_point(grammar: RuleSet, weights: Sequence[float] | np.ndarray, token: float) -> Float[np.ndarray, " n"]:
    """The least non-negative solution of x_X = Σ_rules of X w(rule) Π x(right), with x = `token` for every token.

    By Newton's method from zero, which rises monotonically to it, one strong component of the symbols after another
    (Etessami and Yannakakis 2009), until no entry changes by more than rounding, however small it is. Infinite where there
    is none. With w = p and token 0 it is the probability of the empty string; with w = p^θ and token 1, Σ p^θ over
    derivations.
    """
    v, n = len(grammar.tokens), len(grammar.nonterminals)
    x = np.r_[np.full(v, token), np.zeros(n)]
    alternatives: list[list[tuple[tuple[int, ...], float]]] = [[] for _ in range(n)]
    for rule, weight in zip(grammar.rules, weights, strict=True):
        alternatives[rule.left - v].append((rule.right, float(weight)))
    for members in _children_first(grammar):
        inside = {v + i: k for k, i in enumerate(members)}
        if not _newton(x, inside, [alternatives[i] for i in members]):
            return np.full(n, np.inf)
    return x[v:]


def _children_first(grammar: RuleSet) -> list[list[int]]:
    """The strong components of the nonterminals, each after all that derive from it."""
    v, n = len(grammar.tokens), len(grammar.nonterminals)
    links = {(rule.left - v, symbol - v) for rule in grammar.rules for symbol in rule.right if symbol >= v}
    row, column = np.array(sorted(links), int).reshape(-1, 2).T
    _, label = connected_components(csr_array((np.ones(len(row)), (row, column)), (n, n)), connection="strong")
    members: dict[int, list[int]] = {}
    below: dict[int, set[int]] = {}
    for i, component in enumerate(label.tolist()):
        members.setdefault(component, []).append(i)
        below.setdefault(component, set())
    for i, j in zip(label[row].tolist(), label[column].tolist(), strict=True):
        below[i] |= {j} - {i}
    return [members[component] for component in TopologicalSorter(below).static_order()]


def _newton(x: np.ndarray, inside: Mapping[int, int], alternatives: Sequence[Sequence]) -> bool:
    """Solve for the symbols `inside` (symbol: row) in place; False where their sum is infinite."""
    symbols, size = list(inside), len(inside)
    for _ in range(200):
        value, jacobian = np.zeros(size), np.zeros((size, size))
        for row, of_symbol in enumerate(alternatives):
            for right, weight in of_symbol:
                factors = [float(x[s]) for s in right]
                value[row] += weight * math.prod(factors)
                for k, symbol in enumerate(right):
                    if symbol in inside:
                        jacobian[row, inside[symbol]] += weight * math.prod(factors[:k] + factors[k + 1 :])
        if not np.isfinite(value).all() or not np.isfinite(jacobian).all() or spectral_radius(jacobian)[0] >= 1:
            return False
        change = np.linalg.solve(np.eye(size) - jacobian, value - x[symbols])
        x[symbols] = now = np.maximum(x[symbols] + change, 0.0)
        if np.abs(change).max() <= 1e-15 * max(1.0, float(now.max())) and (np.abs(change) <= 1e-12 * now).all():
            break
    return True


def without_empty_rules(grammar: RuleSet) -> tuple[list[Rule], float]:
    """Rules without empty right sides for the non-empty strings of every symbol, and the probability of the empty string.

    With e the probabilities of the empty string, every way to drop symbols from X -> α gives X -> α' with the probability
    p Π_dropped e Π_kept (1 - e) / (1 - e_X): the law of the strings of X given that they are not empty (Stolcke 1995, 4.7).
    """
    if all(rule.right for rule in grammar.rules):
        return list(grammar.rules), 0.0
    weights = [rule.probability for rule in grammar.rules]
    empty, more = can_be(grammar)
    x = least_fixed_point(grammar, weights, 0.0)
    e = {s: float(min(max(x[s - grammar.start], 0.0), 1.0)) if s in more else 1.0 for s in empty}
    found = dropped(grammar, weights, e, more, {s: 1 - p for s, p in e.items()})
    rules = [Rule(left, right, w / (1 - e.get(left, 0.0)), 0) for (left, right), w in found.items() if w > 0]
    return rules, e.get(grammar.start, 0.0)


def dropped(
    grammar: RuleSet, weights: Sequence, empty: Mapping[int, Any], more: Set[int], kept: Mapping[int, Any]
) -> dict[tuple[int, tuple[int, ...]], Any]:
    """(left, right) -> weight of all rules with the symbols of `empty` dropped in every way, but not all of one rule.

    `empty` and `kept` weigh a symbol that is dropped or kept (1 if it is not there); `more` are those that may be kept.
    """
    found: dict[tuple[int, tuple[int, ...]], Any] = {}
    for rule, weight in zip(grammar.rules, weights, strict=True):
        choices = [
            ((s,) if s < grammar.start or s in more else ()) + ((None,) if s in empty else ()) for s in rule.right
        ]
        for choice in itertools.product(*choices):
            right = tuple(s for s in choice if s is not None)
            if right:
                ways = [kept.get(s, 1) if c is not None else empty[s] for s, c in zip(rule.right, choice, strict=True)]
                found[rule.left, right] = found.get((rule.left, right), 0) + weight * math.prod(ways)
    return found


def can_be(grammar: RuleSet) -> tuple[set[int], set[int]]:
    """The symbols that derive the empty string, and those that derive another one."""
    v, empty, more, size = len(grammar.tokens), set(), set(), -1
    while len(empty) + len(more) > size:
        size = len(empty) + len(more)
        empty |= {r.left for r in grammar.rules if all(s in empty for s in r.right)}
        more |= {r.left for r in grammar.rules if any(s < v or s in more for s in r.right)}
    return empty, more
