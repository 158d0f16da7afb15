"""Slow oracles for byte strings, one token sequence after the other. A string is a tuple of symbols, 256 its end."""

from collections.abc import Iterator, Sequence

from aep.languages import FiniteLanguage, HiddenMarkov, MarkovChain, Mixture
from oracles import Next

END = 256
CHAIN = MarkovChain(
    [
        [0.1, 0.3, 0.2, 0.1, 0.2, 0.1],
        [0.3, 0.1, 0.1, 0.2, 0.1, 0.2],
        [0.2, 0.2, 0.1, 0.1, 0.3, 0.1],
        [0.05, 0.4, 0.25, 0.1, 0.1, 0.1],
        [0.25, 0.05, 0.1, 0.3, 0.1, 0.2],
        [0.3, 0.2, 0.1, 0.1, 0.2, 0.1],
    ],
    [0.3, 0.2, 0.15, 0.1, 0.15, 0.1],
    eos=5,
)
OTHER = MarkovChain([[0.1, 0.1, 0.7, 0.1], [0.5, 0.2, 0.2, 0.1], [0.3, 0.3, 0.3, 0.1], [0.2, 0.5, 0.1, 0.2]], eos=3)
HIDDEN = HiddenMarkov([[0.9, 0.1], [0.2, 0.8]], [[0.4, 0.3, 0.1, 0.2], [0.1, 0.2, 0.5, 0.2]], eos=3)
TWO = Mixture([OTHER, MarkovChain(OTHER.transition[::-1], eos=3)], [0.3, 0.7])
TWO.eos = 3
# Languages of at most 6 tokens over the bytes a and b, with what the tokens spell.
CASES = {
    "chain, ambiguous": (CHAIN, [b"a", b"b", b"ab", b"aab", b"aa", None]),
    "chain, two tokens of one string": (CHAIN, [b"a", b"b", b"ab", b"ab", b"ba", None]),
    "chain, long tokens": (CHAIN, [b"a", b"b", b"abab", b"abb", b"bbb", None]),
    "hidden states": (HIDDEN, [b"a", b"b", b"ba", None]),
    "mixture": (TWO, [b"b", b"a", b"aba", None]),
    "no end": (FiniteLanguage([0.4, 0.3, 0.2, 0.1]), [b"a", b"b", b"ab", b"bab"]),
    "a token that no text reaches": (FiniteLanguage([0.4, 0.3, 0.3, 0.0]), [b"a", b"b", b"bb", b"abb"]),
}


def spelled(pieces: Sequence[bytes | None], eos: int | None) -> dict[int, tuple[int, ...]]:
    """The symbols of every token that has some."""
    strings = {i: tuple(p) for i, p in enumerate(pieces) if p is not None}
    return strings | ({} if eos is None else {eos: (END,)})


def covers(strings: dict[int, tuple[int, ...]], s: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every token sequence that spells s, or more than s with its last token alone."""
    for token, string in strings.items():
        if string[: len(s)] == s:
            yield (token,)
        elif s[: len(string)] == string:
            for rest in covers(strings, s[len(string) :]):
                yield (token, *rest)


def masked(next_p: Next, strings: dict[int, tuple[int, ...]]) -> Next:
    """The law without the tokens that spell nothing, renormalised."""

    def law(prefix):
        p = next_p(prefix)
        total = sum(p[i] for i in strings)
        return [p[i] / total if i in strings else 0.0 for i in range(len(p))]

    return law


def byte_string_probability(next_p: Next, strings: dict[int, tuple[int, ...]], s: tuple[int, ...]) -> float:
    """P(s) = Σ over the covers of s of the product of their next-token probabilities."""
    if not s:
        return 1.0
    total = 0.0
    for sequence in covers(strings, s):
        p = 1.0
        for t, token in enumerate(sequence):
            p *= next_p(sequence[:t])[token]
        total += p
    return total


def markov_byte_probability(chain: MarkovChain, strings: dict[int, tuple[int, ...]], s: tuple[int, ...]) -> float:
    """P(s) of a long string: forward sums over (bytes spelled, last token) of a chain."""
    reached = [{} for _ in range(len(s) + 1)]
    total = 0.0
    for j in range(len(s)):
        for last, weight in [(None, 1.0)] if j == 0 else reached[j].items():
            row = chain.initial if last is None else chain.transition[last]
            for token, string in strings.items():
                if string[: len(s) - j] == s[j:]:
                    total += weight * row[token]
                elif s[j : j + len(string)] == string:
                    there = reached[j + len(string)]
                    there[token] = there.get(token, 0.0) + weight * row[token]
    return total
