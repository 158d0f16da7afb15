"""Rows about bytes of a token language: bytes per second of the beam, and what that is over the network alone.

Where the time goes (docs-400k, 64 texts side by side, width 8, cutoff 1e-4, by a profile): 80% is the network. A third of
that are the small products of attention, one per text and head whatever the number of tokens; as much its other
matrices, over the columns of a batch that is as wide as the text with the most new tokens (6.5, where 2.0 are wanted in
the mean); an eighth the cache. A row per token instead of a row per text, which fills no column in vain, copies the cache
and took the same time. The laws of first symbols are 8%, everything else of the beam 12%. Alone, a text takes a sixth of
the time of 64: then it is the overhead of the many small calls.
"""

import time
from functools import cache, partial

import numpy as np

from ..neural.bytelevel import ByteLanguage, byte_probability
from ..neural.per_byte import CUTOFF, per_byte
from ..sampling import sample
from .registry import row
from .scoring import interleaved

__all__ = ["beam_tokens", "language", "rate", "texts"]

TEXTS, BYTES, WIDTH, RUNS = 64, 256, 8, 3
MODEL = "docs-400k"
SIZE = f"{MODEL} (float64, one thread), beam of {WIDTH}, {TEXTS} texts of its own of {BYTES} bytes side by side"


@cache
def language(cutoff: float = CUTOFF) -> ByteLanguage:
    """`MODEL` per byte."""
    return per_byte(MODEL, WIDTH, cutoff=cutoff)


@cache
def texts(number: int = TEXTS, length: int = BYTES) -> list[np.ndarray]:
    """The first bytes of texts that the network wrote, token by token."""
    drawn = sample(language().language, texts=number, tokens=length, seed=0)  # a token is at least one byte, or the end
    spelled = [b"".join(language().pieces[i] or b"\n" for i in ids)[:length] for ids in drawn.ids]
    return [np.frombuffer(s, np.uint8).astype(np.int64) for s in spelled]


def rate(cutoff: float = CUTOFF, number: int = TEXTS, runs: int = RUNS) -> list[float]:
    """Bytes per second of `byte_probability`, after a turn that does not count."""
    chosen, found = texts()[:number], []
    run = partial(byte_probability, language(cutoff), chosen, batch=number)
    byte_probability(language(cutoff), [s[:20] for s in chosen], batch=number)
    for _ in range(runs):
        start = time.perf_counter()
        run()
        found.append(sum(map(len, chosen)) / (time.perf_counter() - start))
    return found


def beam_tokens(cutoff: float = CUTOFF, number: int = TEXTS, length: int = BYTES) -> int:
    """How many tokens the beam sends through the network for `texts(number, length)`."""
    counted = 0
    rows = type(language()._rows())

    class Counted(rows):
        """The rows of the network, counted."""

        def extend(self, parents, tokens):
            nonlocal counted
            counted += len(tokens)
            return super().extend(parents, tokens)

    of_bytes = language(cutoff).with_width(WIDTH, cutoff=cutoff)
    of_bytes._rows = lambda: Counted(of_bytes.language, of_bytes.before)
    byte_probability(of_bytes, texts(number, length), batch=number)
    return counted


@row("byte_rate", "bytes per second", f"{SIZE}, cutoff {CUTOFF:g}; at least 50 are needed")
def byte_rate() -> list[float]:
    """The probability of every prefix of 64 texts, side by side."""
    return rate()


@row("byte_rate_all", "bytes per second", f"{SIZE}, without a cutoff; at least 50 are needed")
def byte_rate_all() -> list[float]:
    """The same where every token that may close a history is followed."""
    return rate(0.0)


@row("byte_rate_one", "bytes per second", f"{SIZE.replace(f'{TEXTS} texts', 'one text').replace(' side by side', '')}")
def byte_rate_one() -> list[float]:
    """The same for one text alone."""
    return rate(number=1)


@row(
    "byte_vs_tokens",
    "times the cost",
    f"{SIZE}, cutoff {CUTOFF:g}, over as many tokens as it follows through the network at once, with their logits",
)
def byte_vs_tokens() -> list[float]:
    """What following a tree byte by byte costs beyond the network: the least there is are the same tokens in one batch."""
    network = language().language
    ids = np.random.default_rng(0).integers(network.vocab_size, size=(TEXTS, -(-beam_tokens() // TEXTS)))

    def at_once():
        for _ in network.rows([np.empty(0, np.int64)] * TEXTS, list(ids)):
            pass

    return interleaved(partial(byte_probability, language(), texts(), batch=TEXTS), at_once, runs=RUNS)
