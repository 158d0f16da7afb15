"""Counting with a grammar: derivations and strings by length, exactly, and the law of the length.

Derivations are counted by dynamic programming over lengths, distinct strings by a walk over the columns of the chart, which
are states of a deterministic automaton. Both are exact integers; they are equal where the grammar is unambiguous.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from ..errors import DistributionError
from .grammar_algebra import can_be, closure, dropped, without_empty_rules
from .grammar_chart import Chart
from .grammar_format import RuleSet

__all__ = ["Derivations", "length_law", "string_counts"]


def length_law(grammar: RuleSet, longest: int) -> Float[np.ndarray, " lengths"]:
    """P(a string has n words), n = 0 ... `longest` (the end token not counted), by dynamic programming over lengths."""
    rules, empty = without_empty_rules(grammar)
    v, n = grammar.start, len(grammar.nonterminals)
    unit = np.zeros((n, n))
    for rule in rules:
        if len(rule.right) == 1 and rule.right[0] >= v:
            unit[rule.left - v, rule.right[0] - v] += rule.probability
    up = closure(unit)
    law = _by_length([(r.left, r.right, r.probability) for r in rules], v, n, longest, np.float64, lambda b: up @ b)
    return np.append(empty, (1 - empty) * law)


def _by_length(
    rules: Sequence[tuple], v: int, n: int, longest: int, dtype: type, along_units: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Total weight of the start symbol's derivations of 1 ... `longest` words, by rules without empty right sides.

    A row of `weight` belongs to a token, a nonterminal or a rest of a right side of at least two symbols; what has m words
    depends on what has fewer, up to unit rules, for which `along_units` turns the sums over other rules into all.
    """
    rests = {rule[1][k:] for rule in rules for k in range(len(rule[1]) - 1)}
    row = {(s,): s for s in range(v + n)} | {rest: v + n + i for i, rest in enumerate(sorted(rests))}
    head = np.array([rest[0] for rest in sorted(rests)], dtype=int)
    tail = np.array([row[rest[1:]] for rest in sorted(rests)], dtype=int)
    weight = np.zeros((len(row), longest + 1), dtype=dtype)
    weight[:v, 1:2] = 1
    used = [(left - v, row[right], w) for left, right, w in rules if len(right) > 1 or right[0] < v]
    for m in range(1, longest + 1):
        if m > 1 and len(head):
            # weight of a rest: its first symbol has j words, what follows has m - j
            weight[v + n :, m] = (weight[head, 1:m] * weight[tail, m - 1 : 0 : -1]).sum(axis=1)
        direct = np.zeros(n, dtype=dtype)
        for left, right, w in used:
            direct[left] += w * weight[right, m]
        weight[v : v + n, m] = along_units(direct)
    return weight[v, 1:]


def string_counts(chart: Chart, longest: int) -> list[int]:
    """The number of distinct strings of n = 0 ... `longest` words, exact, of ambiguous grammars too.

    A walk over the columns reached by n words, with the number of prefixes that lead there. Their number is bounded where
    contexts repeat; an ambiguous grammar may have as many columns as prefixes.
    """
    now, counts = {chart.first.key: (chart.first, 1)}, []
    for n in range(longest + 1):
        counts.append(sum(k for column, k in now.values() if np.isfinite(chart.log_p(column)[0])))
        if n == longest:
            break
        then: dict = {}
        for column, k in now.values():
            for after, _, words in chart.successors(column):
                then[after.key] = (after, k * words + (then[after.key][1] if after.key in then else 0))
        now = then
    return counts


class Derivations:
    """Numbers of derivations (parse trees), as Python integers.

    Raises DistributionError where strings have infinitely many: a symbol that derives itself, alone or beside symbols that
    derive the empty string.
    """

    def __init__(self, grammar: RuleSet):
        self.grammar, v, n = grammar, grammar.start, len(grammar.nonterminals)
        empty, more = can_be(grammar)
        alone = np.zeros((n, n), dtype=int)  # X -> Y with all else empty
        for rule in grammar.rules:
            for k, symbol in enumerate(rule.right):
                if symbol >= v and all(s in empty for s in rule.right[:k] + rule.right[k + 1 :]):
                    alone[rule.left - v, symbol - v] = 1
        _, label = connected_components(csr_array(alone), directed=True, connection="strong")
        on_cycle = np.flatnonzero((np.bincount(label)[label] > 1) | (alone.diagonal() > 0))
        if len(on_cycle):
            names = ", ".join(grammar.nonterminals[i] for i in on_cycle[:6])
            raise DistributionError(
                f"strings with infinitely many derivations: {names} can derive itself; probabilities and distinct strings "
                "are well defined all the same"
            )
        self._empty: dict[int, int] = {}
        for symbol in empty:
            self._empty_of(symbol, empty)
        found = dropped(grammar, [1] * len(grammar.rules), self._empty, more, {})
        self._rules = [(left, right, k) for (left, right), k in found.items()]
        self._of: dict[int, list] = {}
        for left, right, k in self._rules:
            self._of.setdefault(left, []).append((right, k))
        self._first, self._last = self._ends(0), self._ends(-1)

    def _empty_of(self, symbol: int, empty: set[int]) -> int:
        if symbol not in self._empty:
            total = 0
            for rule in self.grammar.rules:
                if rule.left == symbol and all(s in empty for s in rule.right):
                    ways = 1
                    for s in rule.right:
                        ways *= self._empty_of(s, empty)
                    total += ways
            self._empty[symbol] = total
        return self._empty[symbol]

    def _ends(self, place: int) -> dict[int, set[int]]:
        """The tokens that can stand first (place 0) or last (place -1) in what a symbol derives."""
        v = self.grammar.start
        ends = {s: {s} if s < v else set() for s in range(v + len(self.grammar.nonterminals))}
        size = -1
        while size < (size := sum(map(len, ends.values()))):
            for left, right, _ in self._rules:
                ends[left] |= ends[right[place]]
        return ends

    def counts(self, longest: int) -> list[int]:
        """The number of derivations of n = 0 ... `longest` words."""
        v, n = self.grammar.start, len(self.grammar.nonterminals)
        units: dict[int, Counter] = {}
        for left, right, k in self._rules:
            if len(right) == 1 and right[0] >= v:
                units.setdefault(left - v, Counter())[right[0] - v] += k

        def along_units(direct: np.ndarray) -> np.ndarray:
            total: dict[int, int] = {}

            def of(x: int) -> int:
                if x not in total:
                    total[x] = direct[x] + sum(k * of(y) for y, k in units.get(x, {}).items())
                return total[x]

            return np.array([of(x) for x in range(n)], dtype=object)

        found = _by_length(self._rules, v, n, longest, object, along_units)
        return [self._empty.get(v, 0), *map(int, found)]

    def of_string(self, ids: Sequence[int] | np.ndarray) -> int:
        """The number of derivations of one string (without its end token); 0 if it is not of the language."""
        text = [int(i) for i in ids]
        if not text:
            return self._empty.get(self.grammar.start, 0)
        known: dict = {}

        def symbol(s: int, i: int, j: int) -> int:
            if s < self.grammar.start:
                return int(j == i + 1 and text[i] == s)
            if text[i] not in self._first[s] or text[j - 1] not in self._last[s]:
                return 0
            if (s, i, j) not in known:
                known[s, i, j] = sum(k * sequence(right, i, j) for right, k in self._of.get(s, ()))
            return known[s, i, j]

        def sequence(right: tuple[int, ...], i: int, j: int) -> int:
            if len(right) == 1:
                return symbol(right[0], i, j)
            if j - i < len(right) or text[i] not in self._first[right[0]] or text[j - 1] not in self._last[right[-1]]:
                return 0
            if (right, i, j) not in known:
                ends = range(i + 1, j - len(right) + 2)
                known[right, i, j] = sum(w * sequence(right[1:], m, j) for m in ends if (w := symbol(right[0], i, m)))
            return known[right, i, j]

        return symbol(self.grammar.start, 0, len(text))
