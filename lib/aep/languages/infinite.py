"""A tight language of infinite entropy: p(a^n) = 1/log2(n+1) - 1/log2(n+2), n >= 1 (2406.10203, App. C, Eq. 23)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .protocol import ExactLanguage, as_ids, content_hash
from .stochastic import log_of, prompt_batch

__all__ = ["InfiniteEntropy", "Lengths"]

BLOCK = 1 << 20


class Lengths(NamedTuple):
    """Sampled string lengths n (size,), cut at the cap, and which of them were cut."""

    n: Int[np.ndarray, " size"]
    cut: Bool[np.ndarray, " size"]


class InfiniteEntropy(ExactLanguage):
    """Strings a^n, n >= 1, over {a, end}: the probabilities telescope to one, the entropy diverges.

    P(N > n) = 1/log2(n+2), so E[N] is infinite as well and 5% of the strings are longer than a million. As a `Language`
    it is the hazard P(N = n | N >= n); its state is the number of a's so far, (batch,). After the end token a new string
    begins. Never draw long strings token by token: `sample_lengths` inverts the distribution function.

    >>> language = InfiniteEntropy()
    >>> float(np.exp(language.start([[]])[0])[0, 0])
    1.0
    """

    vocab_size = 2
    eos = 1
    name = "infinite_entropy"
    symbols = ("a", "end")
    fingerprint = content_hash("infinite_entropy", "1/log2(n+1) - 1/log2(n+2)")

    def start(self, prompts: Sequence | np.ndarray) -> tuple[Float[np.ndarray, "batch 2"], Int[np.ndarray, " batch"]]:
        """`log_p` (batch, 2) of another a and of the end, and the number of a's since the last end."""
        ids = prompt_batch(prompts, self.vocab_size)
        count = np.zeros(len(ids), dtype=np.int64)
        for column in ids.T:
            count = np.where(column == self.eos, 0, count + 1)
        return self._law(count), count

    def step(self, state: Int[np.ndarray, " batch"], ids: np.ndarray):
        """`log_p` (batch, 2) after one more symbol, and the next count (batch,). PromptError for a foreign id."""
        count = np.where(as_ids(ids, self.vocab_size, "step") == self.eos, 0, state + 1)
        return self._law(count), count

    @staticmethod
    def _law(count: np.ndarray) -> np.ndarray:
        # P(N = n | N >= n) = log(1 + 1/(n+1)) / log(n+2), without the cancellation of 1 - log(n+1)/log(n+2)
        n = count.astype(np.float64)
        hazard = np.where(count == 0, 0.0, np.log1p(1 / (n + 1)) / np.log(n + 2))
        return np.stack([np.log1p(-hazard), log_of(hazard)], axis=1)

    @staticmethod
    def log_p_length(n: Int[np.ndarray, "*shape"] | Sequence | int) -> Float[np.ndarray, "*shape"]:
        """log p(a^n), nats, n >= 1; from log2((n+2)/(n+1)) / (log2(n+1) log2(n+2)), which does not cancel.

        >>> float(round(np.exp(InfiniteEntropy.log_p_length([1, 2, 3])).sum() + InfiniteEntropy.tail([3])[0], 12))
        1.0
        """
        n = np.asarray(n, dtype=np.float64)
        return np.asarray(
            np.log(np.log1p(1 / (n + 1))) + np.log(np.log(2)) - np.log(np.log(n + 1)) - np.log(np.log(n + 2))
        )

    @staticmethod
    def tail(
        n: Int[np.ndarray, "*shape"] | Float[np.ndarray, "*shape"] | Sequence | int,
    ) -> Float[np.ndarray, "*shape"]:
        """P(N > n) = 1/log2(n+2), in (0, 1].

        >>> float(InfiniteEntropy.tail([0])[0])
        1.0
        """
        return np.asarray(1 / np.log2(np.asarray(n, dtype=np.float64) + 2))

    def partial_entropy(self, n: Int[np.ndarray, " points"] | Sequence) -> Float[np.ndarray, " points"]:
        """-sum_{k <= n} p(a^k) log p(a^k), nats, for each n of an increasing sequence; grows like log 2 * log log n.

        >>> [float(round(h, 2)) for h in InfiniteEntropy().partial_entropy([10**4, 10**6])]
        [2.95, 3.36]
        """
        n = np.asarray(n, dtype=np.int64)
        total, done, out = 0.0, 0, []
        for stop in n:
            for low in range(done + 1, int(stop) + 1, BLOCK):
                log_p = self.log_p_length(np.arange(low, min(low + BLOCK, int(stop) + 1)))
                total -= float(np.sum(np.exp(log_p) * log_p))
            done = int(stop)
            out.append(total)
        return np.array(out)

    @staticmethod
    def sample_lengths(rng: np.random.Generator, size: int, *, cap: int = 10**15) -> Lengths:
        """`size` string lengths by inverse CDF, N = max(1, ceil(2^(1/U) - 2)), cut at `cap` (and marked as cut).

        >>> lengths = InfiniteEntropy.sample_lengths(np.random.default_rng(0), 1000, cap=10**6)
        >>> bool(lengths.n.min() >= 1 and lengths.n.max() <= 10**6)
        True
        """
        u = 1 - rng.random(size)  # in (0, 1]
        n = np.ceil(np.exp2(np.minimum(1 / u, 1000.0)) - 2)
        return Lengths(np.clip(n, 1, cap).astype(np.int64), n > cap)
