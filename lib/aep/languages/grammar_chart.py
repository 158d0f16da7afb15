"""Prefix probabilities of a grammar by Earley's algorithm, in log space, one immutable chart column per prefix.

The forward probability of an item X -> α·β begun at position i is the joint probability of the tokens so far and of all
derivations in which X began at i and its α covers the tokens from i on (Stolcke 1995; prefix probabilities first by Jelinek
and Lafferty 1991). Four things differ from the text book:

* predicted items are never written down. What a column awaits is multiplied by the closure R_L = (I - P_L)^-1 of the left
  corners, so left recursion costs nothing; completions pass through R_U = (I - P_U)^-1 of the unit rules, cycles included.
* an item that awaits the last symbol of its rule is replaced at once by what follows its completion, as a tail call is
  (Leo 1991): right recursion costs nothing either, and nothing is left to be completed later than the step that scans it.
* an item points to the column in which it began, not to a position. A column is then all that the future can depend on:
  prefixes that lead to equal columns share one, and its next-token law is computed once. After the end token: the first one.
* forward probabilities are relative to the largest of their column. They are equal, not just nearly so, for two words of one
  class, because a factor that all items share is cancelled before it is rounded.

The inner probability of an X begun at i is its forward probability divided by that of its prediction.
"""

import math
from hashlib import blake2b
from struct import pack

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
    """The items after one prefix, by the symbol they await; equal `key`, equal future. Never changed once made.

    An item is (dot, column it began in, log forward probability): where the parser will be after the awaited symbol.
    """

    __slots__ = ("awaiting", "corner", "forward", "key", "law", "outer")

    def __init__(self, items: list[tuple[int, int, "Column | None", float]], corner: list):
        self.awaiting: dict[int, list] = {}
        for symbol, dot, origin, alpha in items:
            self.awaiting.setdefault(symbol, []).append((dot, origin, alpha))
        self.forward: dict[int, float] = {}
        for symbol, found in self.awaiting.items():
            total = found[0][2]
            for _, _, alpha in found[1:]:
                total = _log_add(total, alpha)
            self.forward[symbol] = total
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


def _item_bytes(symbol: int, dot: int, origin: Column | None, alpha: float) -> bytes:
    return pack("<iid", symbol, dot, alpha) + (origin.key if origin else b"")


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
        # dot 0 is that of the rule of the top before the end token; then one per rule and place
        self.after, self.left = [0], [-1]
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
        self.scale: dict[int, float] = {}
        self.class_of = self._classes()
        self.class_list: list[int] = self.class_of.tolist()
        reach = closure(left_corner)
        self.log_first = log_of(reach @ first)
        self.corner = [{}] * v + [_sparse_row(row, v) for row in reach]
        self.unit_up = {v + i: list(_sparse_row(column, v).items()) for i, column in enumerate(closure(unit).T)}
        top = [(self.start, 0, None, math.log1p(-empty))] if empty < 1 else []
        self.first = Column(top + ([(0, -1, None, math.log(empty))] if empty else []), self.corner)
        self.dead = Column([], self.corner)
        self.dead.law = np.full(v, np.nan)
        self._forget()

    def _forget(self) -> None:
        self._known = {column.key: column for column in (self.first, self.dead)}
        self._next: dict[tuple[bytes, int], Column] = {}
        self._successors: dict[bytes, list] = {}

    def _classes(self) -> np.ndarray:
        """The class of every token, -1 or less: where no item awaits them by name, tokens of one class lead to one column.

        `by_token` also gets the classes as keys, and becomes relative to `scale`.
        """
        classes, of = {}, np.arange(self.tokens)
        for token, found in sorted(self.by_token.items()):
            self.scale[token] = most = max(log_q for _, _, log_q in found)
            self.by_token[token] = found = [(dot, left, log_q - most) for dot, left, log_q in found]
            likeness = tuple(
                (left, self.after[dot] if self.after[dot] < 0 else dot, log_q) for dot, left, log_q in found
            )
            of[token] = classes.setdefault(likeness, -1 - len(classes))
            self.by_token.setdefault(int(of[token]), found)
        return of

    def successors(self, column: Column) -> list[tuple[Column, float, int]]:
        """The columns one word further, each with its probability and the number of words that lead there (no end token)."""
        known = self._successors.get(column.key)
        if known is not None:
            return known
        law = self.log_p(column)
        tokens = np.flatnonzero(np.isfinite(law))
        tokens = tokens[tokens > 0]
        as_one = np.where(np.isin(tokens, list(column.awaiting)), tokens, self.class_of[tokens])
        found, where = np.unique(as_one, return_inverse=True)
        mass, words = np.bincount(where, weights=np.exp(law[tokens])), np.bincount(where)
        after = [self.step(column, token) for token in found.tolist()]
        self._successors[column.key] = known = list(zip(after, mass.tolist(), words.tolist(), strict=True))
        return known

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
        """The column after one more token (or a token of a class below 0); `dead` if no string goes on so."""
        if token >= 0 and token not in column.awaiting:
            token = self.class_list[token]
        found = self._next.get((column.key, token))
        if found is None:
            if len(self._known) >= self.most or len(self._next) >= 64 * self.most:
                self._forget()
            found = self._scanned(column, token)
            found = self._next[column.key, token] = self._known.setdefault(found.key, found)
        return found

    def _scanned(self, column: Column, token: int) -> Column:
        if token == 0:
            return self.first if 0 in column.awaiting else self.dead
        raw = [
            (dot, origin, alpha, -self.scale.get(token, 0.0)) for dot, origin, alpha in column.awaiting.get(token, ())
        ]
        done = []  # completed by this token alone: symbol, log inner probability
        for dot, left, log_q in self.by_token.get(token, ()):
            predicted = column.predicted(left)
            if predicted > _MINUS_INFINITY and self.after[dot] < 0:
                done.append((left, log_q))
            elif predicted > _MINUS_INFINITY:
                raw.append((dot, column, predicted, log_q))
        if not raw and not done:
            return self.dead
        most = max([item[3] for item in raw] + [log_q for _, log_q in done])
        items: dict[tuple, tuple] = {}
        for dot, origin, alpha, log_q in raw:
            _add(items, (dot, origin.key if origin else b""), (dot, origin), alpha + (log_q - most))
        inner: dict[int, float] = {}
        for symbol, log_q in done:
            for above, log_unit in self.unit_up[symbol]:
                gamma = log_q - most + log_unit
                inner[above] = _log_add(inner[above], gamma) if above in inner else gamma
        shift = max(inner.values()) if inner and not raw else 0.0
        for symbol, gamma in inner.items():
            for dot, origin, alpha in self._completed(column, symbol):
                _add(items, (dot, origin.key if origin else b""), (dot, origin), alpha + (gamma - shift))
        return self._column(list(items.values()))

    def _completed(self, column: Column, symbol: int) -> list[tuple[int, Column | None, float]]:
        """What becomes of a `symbol` that began in `column` and is complete: items, with what they had there as weight."""
        found = list(column.awaiting.get(symbol, ()))
        for dot, left, log_q in self.by_left.get(symbol, ()):
            predicted = column.predicted(left)
            if predicted > _MINUS_INFINITY:
                found.append((dot, column, predicted + log_q))
        return found

    def _column(self, items: list[tuple[int, Column | None, float]]) -> Column:
        """Items in canonical order, tail calls replaced, the largest forward probability scaled to one."""
        found: dict[tuple, tuple] = {}
        for dot, origin, alpha in items:
            awaited, left = self.after[dot], self.left[dot]
            if left < 0 or self.after[dot + 1] >= 0:
                _add(found, (awaited, dot + 1, origin.key if origin else b""), (awaited, dot + 1, origin), alpha)
                continue
            gamma = alpha - origin.predicted(left) if len(items) > 1 else 0.0
            for symbol, log_unit in self.unit_up[left]:
                for then, older, weight in self._completed(origin, symbol):
                    key = (awaited, then, older.key if older else b"")
                    _add(found, key, (awaited, then, older), weight + log_unit + gamma)
        top = max(item[-1] for item in found.values())
        return Column([(*found[key][:-1], found[key][-1] - top) for key in sorted(found)], self.corner)


def _add(items: dict[tuple, tuple], key: tuple, item: tuple, alpha: float) -> None:
    """One more way to an item: its forward probability, the last entry, grows."""
    known = items.get(key)
    items[key] = (*item, alpha if known is None else _log_add(known[-1], alpha))


def _sparse_row(row: np.ndarray, first: int) -> dict[int, float]:
    return {first + int(i): math.log(row[i]) for i in np.flatnonzero(row)}
