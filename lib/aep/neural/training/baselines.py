"""What to measure the networks by: interpolated modified Kneser-Ney n-grams, and general-purpose compressors for scale.

The convention is that of the cards: each document alone after the start token, its end not scored.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from aep.errors import ParameterError

from .evaluate import unigram_losses

__all__ = ["KneserNey", "compressed_bits_per_byte", "n_gram_losses"]


class _Level(NamedTuple):
    """One order of the model: its n-grams as sorted codes, their counts, and per context its total and back-off mass."""

    codes: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    backoff: np.ndarray
    discounts: np.ndarray


class KneserNey:
    """Interpolated modified Kneser-Ney model of `order` tokens. Chen & Goodman 1999, section 4.2 (Eq. 17-26).

    P(w|h) = max(c(hw) - D(c), 0)/c(h·) + γ(h) P(w|h'), h' the context without its first token; below the highest
    order, c is the number of distinct tokens that precede (N1+(·hw)). D1, D2, D3+ are estimated from the counts of
    counts; the recursion ends in the uniform law. Texts begin after `order - 1` start tokens (id 0).

    >>> model = KneserNey([np.array([1, 2, 1, 2, 3])], order=2, vocab_size=4)
    >>> bool(np.isclose(np.exp(model.log_p(np.ones((4, 1), int), np.arange(4))).sum(), 1))
    True
    """

    def __init__(self, texts: Sequence[Int[np.ndarray, " _"]], *, order: int = 3, vocab_size: int):
        if order < 1 or vocab_size ** float(order) >= 2**62:
            raise ParameterError(f"order={order}: from 1 to {int(62 / np.log2(vocab_size))} for {vocab_size} tokens")
        self.order, self.vocab_size = order, vocab_size
        codes = np.concatenate([self._codes(*self._windows(text)) for text in texts])
        types, counts = np.unique(codes, return_counts=True)
        self.levels = [self._level(types, counts)]
        for n in range(order - 1, 0, -1):
            types, counts = np.unique(types % vocab_size**n, return_counts=True)
            self.levels.append(self._level(types, counts))

    def _windows(self, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded = np.concatenate([np.zeros(self.order - 1, np.int64), np.asarray(text, np.int64)])
        windows = (
            np.lib.stride_tricks.sliding_window_view(padded, self.order)
            if len(text)
            else np.empty((0, self.order), int)
        )
        return windows[:, :-1], windows[:, -1]

    def _codes(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        codes = np.zeros(len(tokens), np.int64)
        for column in contexts.T:
            codes = codes * self.vocab_size + column
        return codes * self.vocab_size + tokens

    def _level(self, types: np.ndarray, counts: np.ndarray) -> _Level:
        discounts = _discounts(counts)
        contexts, index = np.unique(types // self.vocab_size, return_inverse=True)
        totals = np.bincount(index, counts).astype(float)
        backoff = np.bincount(index, discounts[np.minimum(counts, 3)]) / totals
        return _Level(types, counts, contexts, totals, backoff, discounts)

    def log_p(
        self, contexts: Int[np.ndarray, "rows before"], tokens: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, " rows"]:
        """log P(token | context) of each row (nats); a context holds the `order - 1` tokens before, oldest first."""
        codes, p = self._codes(contexts, tokens), np.full(len(tokens), 1.0 / self.vocab_size)
        for n, level in zip(range(1, self.order + 1), reversed(self.levels), strict=True):
            code = codes % self.vocab_size**n
            count = _looked_up(level.codes, level.counts, code, 0)
            total = _looked_up(level.contexts, level.totals, code // self.vocab_size, np.inf)
            weight = _looked_up(level.contexts, level.backoff, code // self.vocab_size, 1.0)
            p = np.maximum(count - level.discounts[np.minimum(count, 3)], 0.0) / total + weight * p
        return np.log(p)

    def losses(self, documents: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, " documents"]:
        """Surprisal of each document (nats, summed over its tokens)."""
        return np.array([-self.log_p(*self._windows(document)).sum() for document in documents])


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D(0) = 0, D1, D2, D3+ from the counts of counts n1 … n4; 0.5 where the text is too small to estimate them."""
    n1, n2, n3, n4 = (float(np.sum(counts == k)) for k in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(found, [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0])


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, missing: float) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], np.asarray(missing, values.dtype))


def compressed_bits_per_byte(texts: Sequence[str], compress: Callable[[bytes], bytes]) -> float:
    """Size in bits of all `texts` compressed as one stream, per byte of text: no model of training text, for scale only."""
    raw = "".join(texts).encode()
    return 8 * len(compress(raw)) / len(raw)


def n_gram_losses(
    training: Sequence[Int[np.ndarray, " _"]], documents: Sequence[Int[np.ndarray, " _"]], vocab_size: int
) -> dict[str, Float[np.ndarray, " documents"]]:
    """Surprisal of each document (nats, summed) under unigram, bigram and trigram estimated from `training`."""
    counts = np.bincount(np.concatenate(training), minlength=vocab_size)
    found = {"unigram": unigram_losses(counts, documents)}
    for order, name in ((2, "bigram"), (3, "trigram")):
        found[name] = KneserNey(training, order=order, vocab_size=vocab_size).losses(documents)
    return found
