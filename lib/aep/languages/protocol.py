"""What a language is: the protocol that exact and neural languages share, and the base of the exact ones."""

import hashlib
import json
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import ParameterError, PromptError, shown
from ..information import check_distribution

__all__ = ["ExactLanguage", "Language", "as_ids", "check_count", "content_hash", "in_chunks", "row_order"]


@runtime_checkable
class Language(Protocol):
    """Next-token distributions, one prefix at a time for a batch of prefixes.

    `eos` is the id of the end token or None; `fingerprint` is a hash of everything that determines the probabilities.
    `log_p` is (batch, vocab), in nats, normalised; a NumPy array or a torch tensor.
    """

    vocab_size: int
    eos: int | None
    name: str
    fingerprint: str

    def start(self, prompts: Sequence[np.ndarray]) -> tuple[Any, Any]:
        """`log_p` (batch, vocab) after each prompt, and a state. Prompts are id arrays of one common length, 0 included."""

    def step(self, state: Any, ids: np.ndarray) -> tuple[Any, Any]:
        """`log_p` (batch, vocab) after one more token per prefix, and the next state (the old one may be consumed)."""

    def select(self, state: Any, indices: np.ndarray) -> Any:
        """The state of the prefixes `indices`, in that order and as often as they are named (the old one is consumed)."""

    def rows(
        self, prompts: Sequence[np.ndarray], texts: Sequence[np.ndarray], *, bos: bool = True, chunk: int = 256
    ) -> Iterator[Any]:
        """Unnormalised log-probabilities (at most `chunk`, vocab) of every scored position, in the order of `row_order`."""

    def needs_context(self, bos: bool) -> bool:
        """Whether a text without a prompt must give its first token away as context (no start token, or none wanted)."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a string."""

    def decode(self, ids: Sequence[int | np.integer] | np.ndarray) -> str:
        """The string of token ids."""


def row_order(texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Canonical order of the scored rows of a batch: position by position, and within a position text by text.

    Returns (text index, position), each (sum of lengths,). Texts that have ended are left out of later positions. Every
    language yields its rows in this order, so that those of a source and a scorer can be zipped.
    """
    lengths = np.array([len(t) for t in texts], dtype=int)
    position = np.concatenate([np.arange(n) for n in lengths]) if len(lengths) else np.empty(0, int)
    text = np.repeat(np.arange(len(texts)), lengths)
    order = np.lexsort((text, position))
    return text[order], position[order]


def in_chunks(blocks: Iterator[np.ndarray], chunk: int) -> Iterator[np.ndarray]:
    """Regroup (n_i, vocab) blocks into blocks of exactly `chunk` rows (the last may be smaller), order kept."""
    held, count = [], 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= chunk:
            joined = held[0] if len(held) == 1 else np.concatenate(held)
            whole = count - count % chunk
            for i in range(0, whole, chunk):
                yield joined[i : i + chunk]
            held, count = ([joined[whole:]], count - whole) if count > whole else ([], 0)
    if count:
        yield np.concatenate(held)


def as_ids(ids: Any, vocab_size: int, what: str = "prompt") -> np.ndarray:
    """`ids` as a one-dimensional int64 array; PromptError unless they are integers in [0, vocab_size)."""
    array = np.asarray(ids)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise PromptError(
            f"{what} must be a one-dimensional sequence of token ids, got {array.dtype} of shape {array.shape}"
        )
    bad = array[(array < 0) | (array >= vocab_size)]
    if bad.size:
        raise PromptError(f"{what} holds token id {int(bad[0])}, outside the vocabulary of {vocab_size} tokens")
    return array.astype(np.int64)


def check_count(least: int, **numbers: Any) -> None:
    """ParameterError unless every one of `numbers` is an integer from `least` to 2^63 - 1; a bool is none."""
    for name, value in numbers.items():
        try:
            whole = least - 1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            whole = least - 1
        if whole < least:
            raise ParameterError(f"{name}={shown(value)}: an integer of at least {least} is needed")
        if whole >= 2**63:
            raise ParameterError(f"{name}={shown(value)}: an integer below 2**63 is needed")


def content_hash(*parts: Any) -> str:
    """The first 16 hex digits of a SHA-256 over names and arrays: the fingerprint of an exact language."""
    digest = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part) if not isinstance(part, str) else None
        digest.update(part.encode() if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def vocabulary_hash(ids: dict[str, int]) -> str:
    """16 hex digits of the sha256 of a vocabulary, word to id: languages that have one must agree in it to be a pair."""
    return hashlib.sha256(json.dumps(sorted(ids.items())).encode()).hexdigest()[:16]


class ExactLanguage:
    """Base of the exact languages (NumPy float64): rows by stepping, symbols for display.

    A subclass sets `vocab_size`, `name`, `fingerprint`, `start` and `step`; one whose rows have a closed form overrides
    `rows`. `symbols` are the strings of the tokens.
    """

    eos: int | None = None
    symbols: Sequence[str] | None = None

    def select(self, state, indices):
        """See `Language.select`: of a language without a state, or whose state is an array (batch, ...)."""
        return None if state is None else state[indices]

    def rows(self, prompts, texts, *, bos=True, chunk=256):
        """See `Language.rows`. An exact language has no start token: `bos` changes nothing."""
        steps = (check_distribution(log_p, what=f"log_p of {self.name}") for log_p in self._steps(prompts, texts))
        return in_chunks(steps, chunk)

    def needs_context(self, bos):
        """An exact language has an initial law: never."""
        return False

    def _steps(self, prompts, texts):
        lengths = np.array([len(t) for t in texts])
        if not lengths.size or not lengths.max():
            return
        padded = np.zeros((len(texts), lengths.max()), dtype=np.int64)
        for i, t in enumerate(texts):
            padded[i, : len(t)] = t
        sizes = np.array([len(p) for p in prompts])
        groups = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]  # `start` takes prompts of one length
        states: list[Any] = [None] * len(groups)
        for t in range(lengths.max()):
            rows = np.empty((len(texts), self.vocab_size))
            for k, group in enumerate(groups):
                if t == 0:
                    rows[group], states[k] = self.start([prompts[i] for i in group])
                else:
                    rows[group], states[k] = self.step(states[k], padded[group, t - 1])
            yield rows[lengths > t]

    def encode(self, text):
        """Ids of a string of whitespace-separated symbols."""
        index = {s: i for i, s in enumerate(self._symbols())}
        unknown = next((w for w in text.split() if w not in index), None)
        if unknown is not None:
            raise PromptError(
                f"{self.name} has no symbol {unknown!r}; its symbols are {', '.join(list(index)[:8])} ..."
            )
        return np.array([index[w] for w in text.split()], dtype=np.int64)

    def decode(self, ids):
        """Symbols joined by spaces."""
        symbols = self._symbols()
        return " ".join(symbols[i] for i in ids)

    def _symbols(self):
        return self.symbols or [str(i) for i in range(self.vocab_size)]

    def __repr__(self):
        return f"{self.name} ({self.vocab_size} tokens, fingerprint {self.fingerprint})"
