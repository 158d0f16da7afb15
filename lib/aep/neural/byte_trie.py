"""The byte strings of a vocabulary as a trie of ranges: tokens sorted by their bytes, every prefix a stretch of them.

The alphabet has 257 symbols: the 256 bytes, then the end of the text, `END`, which is the whole string of the end token.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ..errors import DistributionError, ModelError, VocabularyMismatch

__all__ = ["END", "SYMBOLS", "ByteTrie", "log_segment_sums", "stretches"]

END = 256
SYMBOLS = 257
_TINY = 1e-280  # sums below are computed again, relative to their own largest term


def stretches(starts: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " total"]:
    """The indices start, start + 1 ... start + length - 1 of every stretch, one stretch after the other.

    >>> stretches(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def log_segment_sums(
    log_p: Float[np.ndarray, " n"], starts: Int[np.ndarray, " segments"]
) -> Float[np.ndarray, " segments"]:
    """log Σ exp(log_p) over each segment, from its start to the next one; the starts rise, the first is 0.

    Relative to the largest term of the segment itself, so a tiny mass is as exact as a large one.
    """
    if not len(starts):
        return np.empty(0)
    top = np.maximum.reduceat(log_p, starts)
    top[np.isneginf(top)] = 0
    lengths = np.diff(starts, append=len(log_p))
    with np.errstate(divide="ignore"):
        return np.log(np.add.reduceat(np.exp(log_p - np.repeat(top, lengths)), starts)) + top


class ByteTrie:
    """The tokens below every byte string, as a range [lo, hi) of `tokens`, the ids sorted by their bytes.

    Parameters: `pieces`, the byte string of every token id, None for a special token, which never matches bytes; `eos`, the
    id of the end token or None: its string is `END`, whatever its piece. The other specials are left out of every law.

    Node 0 is the empty string. Of node n, `tokens[lo[n]:end[n]]` are exactly its string and `tokens[end[n]:hi[n]]` longer;
    its children are the nodes first[n] ... first[n] + children[n] - 1, which divide [end[n], hi[n]) in the order of their
    last symbols, `symbol`. Raises ModelError for an empty piece or for no piece at all.

    >>> trie = ByteTrie([b"b", b"ab", b"a", None], eos=3)
    >>> trie.tokens.tolist(), trie.symbol[1:4].tolist()
    ([2, 1, 0, 3], [97, 98, 256])
    """

    def __init__(self, pieces: Sequence[bytes | None], eos: int | None = None):
        strings = {i: np.frombuffer(p, np.uint8).astype(np.int64) for i, p in enumerate(pieces) if p is not None}
        if eos is not None:
            if not 0 <= eos < len(pieces):
                raise VocabularyMismatch(f"the end token is {eos}, outside the {len(pieces)} pieces")
            strings[eos] = np.array([END])
        empty = next((i for i, s in strings.items() if not len(s)), None)
        if empty is not None:
            raise ModelError(f"token {empty} has no bytes: give None for a special token, which never matches bytes")
        if not set(strings) - {eos}:
            raise ModelError("no token of the vocabulary has a byte string: there is nothing to spell a text with")
        order = sorted(strings, key=lambda i: (i == eos, pieces[i] or b"", i))
        self.tokens = np.array(order)
        self._build([strings[i] for i in order])
        self.root = self.lo[self.first[0] : self.first[0] + self.children[0]]  # where each first symbol begins
        self.root_symbols = self.symbol[self.first[0] : self.first[0] + self.children[0]]
        self.spelled = np.zeros(SYMBOLS, bool)
        self.spelled[self.symbol[1:]] = True
        self.exact = self.end - self.lo

    def _build(self, strings: list[np.ndarray]) -> None:
        """Level by level: the nodes of a level are in the order of their strings, so children have consecutive ids."""
        lengths = np.array([len(s) for s in strings])
        symbols = np.full((len(strings), lengths.max()), -1)
        for i, s in enumerate(strings):
            symbols[i, : len(s)] = s
        node = np.zeros(len(strings), np.int64)  # of the first `depth` symbols of every token
        lo, hi, last, parent = [np.zeros(1, np.int64)], [np.array([len(strings)])], [np.array([-1])], [np.array([-1])]
        ended = [np.zeros(1, np.int64)]
        known = 1
        for depth in range(lengths.max()):
            rows = np.flatnonzero(lengths > depth)
            above, here = node[rows], symbols[rows, depth]
            new = np.append(True, (above[1:] != above[:-1]) | (here[1:] != here[:-1]))
            begins = np.flatnonzero(new)
            node[rows] = known + np.cumsum(new) - 1
            lo.append(rows[begins])
            hi.append(rows[np.append(begins[1:], len(rows)) - 1] + 1)
            last.append(here[begins])
            parent.append(above[begins])
            stop = (lengths[rows] == depth + 1).astype(np.int64)
            ended.append(np.add.reduceat(stop, begins))
            known += len(begins)
        self.lo, self.hi, self.symbol, parents = map(np.concatenate, (lo, hi, last, parent))
        self.end = self.lo + np.concatenate(ended)
        self.children = np.bincount(parents[1:], minlength=known)
        self.first = 1 + np.cumsum(self.children) - self.children
        self._keys = parents[1:] * SYMBOLS + self.symbol[1:]  # ascending: parents rise, and symbols within a parent

    def __len__(self) -> int:
        return len(self.lo)

    def child(
        self, node: Int[np.ndarray, " n"] | int, symbol: Int[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """The node one symbol further, and whether there is one (elsewhere the node means nothing)."""
        key = np.asarray(node) * SYMBOLS + symbol
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        return at + 1, self._keys[at] == key

    def law(
        self, log_p: Float[np.ndarray, "rows vocab"], what: str = "the language"
    ) -> tuple[Float[np.ndarray, "rows tokens"], Float[np.ndarray, " rows"], Float[np.ndarray, "rows first"]]:
        """Next-token laws without the specials: values in the order of `tokens`, log normaliser, log mass of first symbols.

        The law is values - normaliser. Raises DistributionError where nothing is left or a value is NaN.
        """
        values = np.take(log_p, self.tokens, axis=1)  # several times faster than log_p[:, tokens], as torch's exp is
        top = values.max(axis=1, keepdims=True)
        if not np.isfinite(top).all():
            raise DistributionError(f"{what} gives no probability to any token with bytes (or NaN) after some tokens")
        weight = values - top
        torch.from_numpy(weight).exp_()
        mass = np.add.reduceat(weight, self.root, axis=1)
        with np.errstate(divide="ignore"):
            log_mass = np.log(mass) + top
        norm = np.log(mass.sum(axis=1)) + top[:, 0]
        for row in np.flatnonzero((mass < _TINY).any(axis=1)):
            log_mass[row] = log_segment_sums(values[row], self.root)
        return values, norm, log_mass - norm[:, None]
