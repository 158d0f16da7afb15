"""A proof that a grammar is unambiguous: it is LALR(1), so that a parser without choices derives every string in one way."""

from .grammar_algebra import can_be
from .grammar_format import RuleSet

__all__ = ["conflicts"]


def conflicts(grammar: RuleSet) -> list[str]:
    """Conflicts of the LALR(1) automaton, one readable line each; none proves that every string has one derivation.

    An LR(0) automaton whose reductions are looked ahead by one token. A grammar with conflicts may still be unambiguous
    (palindromes, say). Look-ahead sets are the least solution of their defining equations (DeRemer and Pennello 1982 compute
    the same ones faster).
    """
    return _Automaton(grammar).conflicts()


class _Automaton:
    """LR(0) states as sets of items (rule, dot), rule 0 being  top -> start <end>."""

    def __init__(self, grammar: RuleSet):
        self.grammar, self.v = grammar, grammar.start
        self.rules = [(-1, (grammar.start, 0)), *((r.left, r.right) for r in grammar.rules)]
        self.of: dict[int, list[int]] = {}
        for k, (left, _) in enumerate(self.rules):
            self.of.setdefault(left, []).append(k)
        self.empty = can_be(grammar)[0]
        self.first = self._first_tokens()
        self.kernels: list[frozenset[tuple[int, int]]] = []
        self.goto: list[dict[int, int]] = []
        self._build()

    def _first_tokens(self) -> dict[int, set[int]]:
        first = {s: {s} if s < self.v else set() for s in range(self.v + len(self.grammar.nonterminals))}
        size = -1
        while size < (size := sum(map(len, first.values()))):
            for left, right in self.rules[1:]:
                first[left] |= self._first_of(right, first)
        return first

    def _first_of(self, symbols: tuple[int, ...], first: dict[int, set[int]]) -> set[int]:
        found: set[int] = set()
        for symbol in symbols:
            found |= first[symbol]
            if symbol not in self.empty:
                break
        return found

    def _build(self) -> None:
        known = {frozenset({(0, 0)}): 0}
        self.kernels.append(frozenset({(0, 0)}))
        for kernel in self.kernels:  # which grows meanwhile
            shifts: dict[int, set[tuple[int, int]]] = {}
            for rule, dot in self._closed(kernel):
                right = self.rules[rule][1]
                if dot < len(right):
                    shifts.setdefault(right[dot], set()).add((rule, dot + 1))
            arrows = {}
            for symbol, items in shifts.items():
                state = known.setdefault(frozenset(items), len(self.kernels))
                if state == len(self.kernels):
                    self.kernels.append(frozenset(items))
                arrows[symbol] = state
            self.goto.append(arrows)

    def _closed(self, kernel: frozenset[tuple[int, int]]) -> list[tuple[int, int]]:
        items, seen = sorted(kernel), set()
        for rule, dot in items:  # which grows meanwhile
            right = self.rules[rule][1]
            if dot < len(right) and right[dot] >= self.v and right[dot] not in seen:
                seen.add(right[dot])
                items += [(k, 0) for k in self.of[right[dot]]]
        return items

    def _look_ahead(self) -> dict[tuple[int, int], set[int]]:
        """(state, nonterminal shifted there) -> the tokens that can follow it, as the least solution over all items."""
        closed = [self._closed(kernel) for kernel in self.kernels]
        follow = {(state, s): set() for state, arrows in enumerate(self.goto) for s in arrows if s >= self.v}
        includes: dict[tuple[int, int], set[tuple[int, int]]] = {}
        for state, items in enumerate(closed):
            for rule, dot in items:
                if dot:
                    continue
                left, right = self.rules[rule]
                at = state
                for k, symbol in enumerate(right):
                    rest = right[k + 1 :]
                    if symbol >= self.v:
                        follow[at, symbol] |= self._first_of(rest, self.first)
                        if left >= 0 and all(s in self.empty for s in rest):
                            includes.setdefault((state, left), set()).add((at, symbol))
                    at = self.goto[at][symbol]
        waiting = list(follow)
        while waiting:
            source = waiting.pop()
            for target in includes.get(source, ()):
                if not follow[source] <= follow[target]:
                    follow[target] |= follow[source]
                    waiting.append(target)
        return follow

    def conflicts(self) -> list[str]:
        """See `conflicts` of the module."""
        follow = self._look_ahead()
        ahead: dict[tuple[int, int], set[int]] = {}  # (state, rule completed there) -> tokens
        for state in range(len(self.kernels)):
            for rule, dot in self._closed(self.kernels[state]):
                if dot == 0 and rule:
                    at = state
                    left, right = self.rules[rule]
                    for symbol in right:
                        at = self.goto[at][symbol]
                    ahead.setdefault((at, rule), set()).update(follow[state, left])
        found = []
        for state, arrows in enumerate(self.goto):
            actions: dict[int, str] = {s: "another word" for s in arrows if s < self.v}
            for rule in (r for s, r in ahead if s == state):
                for token in sorted(ahead[state, rule]):
                    if token in actions:
                        after = self.grammar.name(token)
                        found.append(f"before {after}: {self._written(rule)} or {actions[token]}")
                    actions.setdefault(token, self._written(rule))
        return sorted(set(found))

    def _written(self, rule: int) -> str:
        left, right = self.rules[rule]
        return f"{self.grammar.name(left)} -> {' '.join(map(self.grammar.name, right)) or '(nothing)'}"
