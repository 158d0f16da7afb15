"""Prefix probabilities of a grammar by Earley's algorithm, in log space, one immutable chart column per prefix.

The forward probability of an item X -> α·β begun at position i is the joint probability of the tokens so far and of all
derivations in which X began at i and its α covers the tokens from i on (Stolcke 1995; prefix probabilities first by Jelinek
and Lafferty 1991). Three things differ from the text book:

* predicted items are never written down. What a column awaits is multiplied by the closure R_L = (I - P_L)^-1 of the left
  corners, so left recursion costs nothing; completions pass through R_U = (I - P_U)^-1 of the unit rules, cycles included.
* an item points to the column in which it began, not to a position. A column is then all that the future can depend on:
  prefixes that lead to equal columns share one, and its next-token law is computed once. After the end token: the first one.
* forward probabilities are relative to the largest of their column. They are equal, not just nearly so, for two words of one
  class, because a factor that all items share is cancelled before it is rounded.

The inner probability of an X from i on is its forward probability divided by the forward probability of its prediction.
"""

import math
from hashlib import blake2b
from struct import pack
from typing import Any

import numpy as np
from jaxtyping import Float

from .grammar_algebra import closure, without_empty_rules
from .grammar_format import RuleSet
from .stochastic import log_of

__all__ = ["Chart", "Column"]

_MINUS_INFINITY = -math.inf
_MOST_BYTES = 1 << 26


def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == _MINUS_INFINITY else a + math.log1p(math.exp(b - a))


class Column:
    """The items after one prefix, by the symbol they await; equal `key`, equal future. Never changed once made."""

    __slots__ = ("awaiting", "corner", "depth", "forward", "key", "law", "outer")

    def __init__(self, items: list[tuple[int, "Column | None", float]], after: list[int], corner: list):
        self.awaiting: dict[int, list] = {}
        for item in items:
            self.awaiting.setdefault(after[item[0]], []).append(item)
        self.forward: dict[int, float] = {}
        for symbol, found in self.awaiting.items():
            total = found[0][2]
            for _, _, alpha in found[1:]:
                total = _log_add(total, alpha)
            self.forward[symbol] = total
        self.depth = 1 + max((origin.depth if origin else -1 for _, origin, _ in items), default=-1)
        self.key = blake2b(b"".join(_item_bytes(*item) for item in items), digest_size=16).digest()
        self.corner, self.outer = corner, {}  # log forward probability of a prediction, as it is asked for
        self.law: np.ndarray | None = None

    def predicted(self, symbol: int) -> float:
        """log forward probability that `symbol` begins here: Σ over what is awaited, times R_L."""
        found = self.outer.get(symbol)
        if found is None:
            found = _MINUS_INFINITY
            for awaited, alpha in self.forward.items():
                reached = self.corner[awaited].get(symbol)
                if reached is not None:
                    found = _log_add(found, alpha + reached)
            self.outer[symbol] = found
        return found


def _item_bytes(dot: int, origin: Column | None, alpha: float) -> bytes:
    return pack("<id", dot, alpha) + (origin.key if origin else b"")


class Chart:
    """The tables of one grammar, its `first` column, and the columns met so far with their laws and where tokens lead.

    A prefix of no string leads to the column `dead`, whose law is NaN. At most `most` columns are remembered (64 MiB of laws
    by default), then all are forgotten: that costs time and changes no number.
    """

    def __init__(self, grammar: RuleSet, *, most: int | None = None):
        self.tokens, self.start = len(grammar.tokens), grammar.start
        self.most = max(1024, _MOST_BYTES // (8 * self.tokens)) if most is None else most
        rules, empty = without_empty_rules(grammar)
        v, n = self.tokens, len(grammar.nonterminals)
        left_corner, unit, first = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, v))
        # dots: 0 and 1 are those of the rule of the top, start · end and end; then one per rule and place
        self.after, self.left = [self.start, 0], [-1, -1]
        self.by_token: dict[int, list] = {}
        self.by_left: dict[int, list] = {}
        for left, right, probability, _ in rules:
            dot = len(self.after)  # the dot behind the first symbol of the right side
            self.after += [*right[1:], -1]
            self.left += [left] * len(right)
            if right[0] < v:
                first[left - v, right[0]] += probability
                self.by_token.setdefault(right[0], []).append((dot, left, math.log(probability)))
                continue
            left_corner[left - v, right[0] - v] += probability
            if len(right) == 1:
                unit[left - v, right[0] - v] += probability
            else:
                self.by_left.setdefault(right[0], []).append((dot, left, math.log(probability)))
        reach = closure(left_corner)
        self.log_first = log_of(reach @ first)
        self.corner = [{}] * v + [_sparse_row(row, v) for row in reach]
        self.unit_up = {v + i: list(_sparse_row(column, v).items()) for i, column in enumerate(closure(unit).T)}
        top = [(0, None, math.log1p(-empty))] if empty < 1 else []
        self.first = Column(top + ([(1, None, math.log(empty))] if empty else []), self.after, self.corner)
        self.dead = Column([], self.after, self.corner)
        self.dead.law = np.full(v, np.nan)
        self._known = {column.key: column for column in (self.first, self.dead)}
        self._next: dict[tuple[bytes, int], Column] = {}

    def log_p(self, column: Column) -> Float[np.ndarray, " vocab"]:
        """log p of the next token, nats: Σ over what is awaited of its forward probability times its first tokens."""
        if column.law is None:
            inner = [(s - self.tokens, alpha) for s, alpha in column.forward.items() if s >= self.tokens]
            law = np.full(self.tokens, -np.inf)
            if inner:
                symbols, alpha = np.array([s for s, _ in inner]), np.array([a for _, a in inner])
                law = np.logaddexp.reduce(self.log_first[symbols] + alpha[:, None], axis=0)
            for token, alpha in column.forward.items():
                if token < self.tokens:
                    law[token] = np.logaddexp(law[token], alpha)
            top = law.max()
            law = law - (top + np.log(np.exp(law - top).sum()))
            law.setflags(write=False)
            column.law = law
        return column.law

    def step(self, column: Column, token: int) -> Column:
        """The column after one more token; `dead` if no string goes on so."""
        found = self._next.get((column.key, token))
        if found is None:
            if len(self._known) >= self.most or len(self._next) >= 64 * self.most:
                self._known, self._next = {c.key: c for c in (self.first, self.dead)}, {}
            found = self._scanned(column, token)
            found = self._next[column.key, token] = self._known.setdefault(found.key, found)
        return found

    def _scanned(self, column: Column, token: int) -> Column:
        if token == 0:
            return self.first if 0 in column.awaiting else self.dead
        scanned = [(dot + 1, origin, alpha, 0.0) for dot, origin, alpha in column.awaiting.get(token, ())]
        for dot, left, log_q in self.by_token.get(token, ()):
            predicted = column.predicted(left)
            if predicted > _MINUS_INFINITY:
                scanned.append((dot, column, predicted, log_q))
        if not scanned:
            return self.dead
        most = max(item[3] for item in scanned)
        items = _Items(self)
        for dot, origin, alpha, log_q in scanned:
            items.add(dot, origin, alpha + (log_q - most))
        return Column(items.completed(), self.after, self.corner)


def _sparse_row(row: np.ndarray, first: int) -> dict[int, float]:
    return {first + int(i): math.log(row[i]) for i in np.flatnonzero(row)}


class _Items:
    """The items of a column that is being made: those that await something, and the completed ones still to be passed on."""

    def __init__(self, chart: Chart):
        self.chart = chart
        self.kernel: dict[tuple[int, bytes], tuple[int, Column | None, float]] = {}
        self.complete: dict[bytes, tuple[Column, dict[int, float]]] = {}

    def add(self, dot: int, origin: Any, alpha: float) -> None:
        """One more way to an item."""
        if self.chart.after[dot] < 0:
            done = self.complete.setdefault(origin.key, (origin, {}))[1]
            left = self.chart.left[dot]
            done[left] = _log_add(done[left], alpha) if left in done else alpha
            return
        key = (dot, origin.key if origin else b"")
        known = self.kernel.get(key)
        self.kernel[key] = (dot, origin, alpha if known is None else _log_add(known[2], alpha))

    def completed(self) -> list[tuple[int, Column | None, float]]:
        """All items in their canonical order, their largest forward probability scaled to one.

        What began latest is completed first: everything that can add to it has begun later still, hence is done.
        """
        while self.complete:
            key = max(self.complete, key=lambda k: self.complete[k][0].depth)
            self._pass_on(*self.complete.pop(key))
        top = max(alpha for _, _, alpha in self.kernel.values())
        return [(dot, origin, alpha - top) for _, (dot, origin, alpha) in sorted(self.kernel.items(), key=_by_key)]

    def _pass_on(self, origin: Column, done: dict[int, float]) -> None:
        chart, inner = self.chart, {}
        for symbol, alpha in done.items():
            gamma = alpha - origin.predicted(symbol)
            for above, log_unit in chart.unit_up[symbol]:
                more = gamma + log_unit
                inner[above] = _log_add(inner[above], more) if above in inner else more
        if not self.kernel and not self.complete:
            most = max(inner.values())
            inner = {symbol: gamma - most for symbol, gamma in inner.items()}
        for symbol, gamma in inner.items():
            for dot, older, alpha in origin.awaiting.get(symbol, ()):
                self.add(dot + 1, older, alpha + gamma)
            for dot, left, log_q in chart.by_left.get(symbol, ()):
                predicted = origin.predicted(left)
                if predicted > _MINUS_INFINITY:
                    self.add(dot, origin, predicted + log_q + gamma)


def _by_key(entry: tuple) -> tuple:
    return entry[0]
