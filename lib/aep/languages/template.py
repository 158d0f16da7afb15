"""Texts of one form: at every place a word drawn uniformly from a list, then the end. All of it in closed form."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import ParameterError
from .protocol import ExactLanguage, as_ids, check_count, content_hash, vocabulary_hash
from .stochastic import prompt_batch

__all__ = ["Template"]

_DEAD = -1  # the state after tokens that begin no text


class Template(ExactLanguage):
    """Texts x_1 ... x_n of one length, x_t uniform on `choices`[t] and independent, ended by token 0; then a new one begins.

    p(x) = Π_t 1/K_t with K_t words at place t; a place with one word is fixed. Parameters: `choices`, one sequence of words
    per place; `symbols`, the words of the vocabulary, the first of which ends a text; `name`. After tokens that begin no
    text the rows are NaN, which scoring refuses. Lengths count the end token; entropies are in nats.

    Raises ParameterError where a place has no word, one twice, the end, or one that is not in `symbols`.

    >>> law = Template([["a"], ["b", "c"]], ["<end>", "a", "b", "c"])
    >>> [float(p) for p in np.exp(law.start([[1]])[0][0])]
    [0.0, 0.0, 0.5, 0.5]
    >>> law.size, bool(np.isclose(law.entropy(), np.log(2)))
    (2, True)
    """

    eos = 0

    def __init__(self, choices: Sequence[Sequence[str]], symbols: Sequence[str], *, name: str = "template"):
        self.symbols, self.vocab_size, self.name = tuple(symbols), len(symbols), name
        index = {word: i for i, word in enumerate(self.symbols)}
        if not choices:
            raise ParameterError("choices=[]: at least one place is needed")
        for place, words in enumerate(choices):
            bad = next((w for w in words if index.get(w, 0) == 0), None)
            if bad is not None or not words or len(set(words)) < len(words):
                raise ParameterError(
                    f"choices[{place}]={list(words)!r}: needs different words of the vocabulary, the end not among them"
                    + (f"; {bad!r} is none" if bad is not None else "")
                )
        self.choices = [np.array([index[w] for w in words], dtype=np.int64) for words in choices]
        # One row per place, one for the end of the text, and one of NaN, which is the last: the state _DEAD.
        self._log_p = np.full((len(choices) + 2, self.vocab_size), -np.inf)
        for place, ids in enumerate(self.choices):
            self._log_p[place, ids] = -math.log(len(ids))
        self._log_p[len(choices), self.eos] = 0.0
        self._log_p[_DEAD] = np.nan
        self.vocabulary_hash = vocabulary_hash(index)
        self.fingerprint = content_hash("template", "\n".join(self.symbols), self._log_p)

    def start(self, prompts: Sequence | np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], Any]:
        """`log_p` (batch, vocab) after each prompt, and the places reached (batch,)."""
        ids = prompt_batch(prompts, self.vocab_size)
        state = np.zeros(len(ids), dtype=np.int64)
        for column in ids.T:
            state = self._after(state, column)
        return self._log_p[state], state

    def step(self, state: Any, ids: np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], Any]:
        """As `start`, after one more token per row. PromptError for a foreign id."""
        state = self._after(state, as_ids(ids, self.vocab_size, "step"))
        return self._log_p[state], state

    def _after(self, state: np.ndarray, ids: np.ndarray) -> np.ndarray:
        possible = np.isfinite(self._log_p[state, ids])
        return np.where(possible, (state + 1) % (len(self.choices) + 1), _DEAD)

    @property
    def size(self) -> int:
        """Number of texts, Π_t K_t."""
        return math.prod(map(len, self.choices))

    def entropy(self) -> float:
        """Σ_t log K_t, nats per text: the surprisal of every text."""
        return sum(math.log(len(ids)) for ids in self.choices)

    def log_probability(self, ids: Sequence | np.ndarray) -> float:
        """log p(x) of one or more whole texts, each with its end token, nats; -inf if it is impossible.

        >>> bool(Template([["a", "b"]], ["<end>", "a", "b"]).log_probability([2, 0]) == -np.log(2))
        True
        """
        place, total = 0, 0.0
        for token in as_ids(ids, self.vocab_size, "text").tolist():
            log_p = float(self._log_p[place, token])
            if log_p == -math.inf:
                return -math.inf
            total, place = total + log_p, (place + 1) % (len(self.choices) + 1)
        return total

    def sample_strings(self, rng: np.random.Generator, size: int) -> list[np.ndarray]:
        """`size` texts with their end token, independent."""
        check_count(0, size=size)
        columns = [ids[rng.integers(len(ids), size=size)] for ids in self.choices]
        return list(np.stack([*columns, np.zeros(size, dtype=np.int64)], axis=1))
