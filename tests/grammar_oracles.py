"""Slow, literal oracles of grammars: dictionaries of strings, rule by rule, until nothing changes. No chart, no matrix.

A grammar is a dictionary: symbol -> list of (right side, probability); what is no key is a word. Strings are tuples.
"""

import math
from collections.abc import Callable

Rules = dict[str, list[tuple[tuple[str, ...], float]]]
Strings = dict[tuple[str, ...], float]


def _joined(parts: list[Strings], longest: int) -> Strings:
    """All concatenations of one string of each part, with the products of their weights."""
    joined: Strings = {(): 1}
    for part in parts:
        more: Strings = {}
        for x, p in joined.items():
            for y, q in part.items():
                if len(x) + len(y) <= longest:
                    more[x + y] = more.get(x + y, 0) + p * q
        joined = more
    return joined


def _fixed_point(rules: Rules, longest: int, weight: Callable[[float], float]) -> dict[str, Strings]:
    """Strings of at most `longest` words that every symbol derives, by derivation trees of height 1, 2, 3, ..."""
    derived: dict[str, Strings] = {symbol: {} for symbol in rules}
    for _ in range(10_000):
        new: dict[str, Strings] = {}
        for symbol, alternatives in rules.items():
            new[symbol] = {}
            for right, p in alternatives:
                for x, q in _joined([derived.get(s, {(s,): 1}) for s in right], longest).items():
                    new[symbol][x] = new[symbol].get(x, 0) + weight(p) * q
        if all(
            new[s].keys() == derived[s].keys() and all(abs(q - derived[s][x]) <= 1e-17 for x, q in new[s].items())
            for s in rules
        ):
            return new
        derived = new
    raise RuntimeError("no fixed point")


def distribution(rules: Rules, longest: int) -> Strings:
    """Strings of at most `longest` words with their probabilities, summed over all derivations (of any height)."""
    return _fixed_point(rules, longest, float)[next(iter(rules))]


def derivations(rules: Rules, longest: int) -> Strings:
    """Strings of at most `longest` words with the number of their derivations; only where that is finite."""
    return _fixed_point(rules, longest, lambda _: 1)[next(iter(rules))]


def prefix_mass(strings: Strings, prefix: tuple[str, ...]) -> float:
    """Probability of the listed strings that begin with `prefix`."""
    return sum(p for x, p in strings.items() if x[: len(prefix)] == prefix)


def entropy_of(strings: Strings) -> float:
    """-Σ p log p over the listed strings, nats."""
    return -sum(p * math.log(p) for p in strings.values())


def written(rules: Rules) -> str:
    """The rules in the text format."""
    lines = []
    for symbol, alternatives in rules.items():
        shown = [" ".join(s if s in rules else f'"{s}"' for s in right) + f" [{p!r}]" for right, p in alternatives]
        lines.append(f"{symbol} -> " + " | ".join(shown))
    return "\n".join(lines)
