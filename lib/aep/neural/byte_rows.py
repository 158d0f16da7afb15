"""Next-token laws of token sequences of different lengths: what a beam over tokenisations asks of a language.

A *history* is a token sequence after the start token and `before`. Histories are numbered from 0; `extend` appends new
ones, `keep` and `select` number those that stay anew.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from .._array import as_numpy
from ..errors import ContextTooLong, PromptError
from ..information import check_distribution
from ..languages.protocol import Language, as_ids

__all__ = ["PromptRows", "TokenRows"]


@runtime_checkable
class TokenRows(Protocol):
    """Histories of several texts and the laws after them; all that is asked at once goes through the language at once."""

    def begin(self, texts: int) -> Float[np.ndarray, "texts vocab"]:
        """Forget everything: history i is the empty one of text i. Unnormalised log-probabilities after each."""

    def extend(
        self, parents: Int[np.ndarray, " new"], tokens: Int[np.ndarray, " new"]
    ) -> Float[np.ndarray, "new vocab"]:
        """New histories, each a parent and one token, numbered after those there are; the rows after them."""

    def keep(self, histories: Int[np.ndarray, " kept"]) -> None:
        """Drop all other histories; the kept ones are numbered in the order given."""

    def select(
        self, texts: Int[np.ndarray, " new_texts"], histories: Int[np.ndarray, " kept"], owner: np.ndarray
    ) -> None:
        """Keep `texts`, repeats allowed, and `histories`, of which number i now belongs to the new text owner[i]."""


def check_before(language: Language, before: Sequence[int] | np.ndarray) -> np.ndarray:
    """The ids before every text; PromptError where a language without a start token has none."""
    ids = as_ids(list(before), language.vocab_size, "before")
    if not len(ids) and language.needs_context(True):
        raise PromptError(
            f"{language.name} has no start token, so its first law is not defined: give token ids in `before`, such as "
            "those of a line break"
        )
    return ids


def check_length(language: Language, tokens: int) -> None:
    """ContextTooLong if no law can be computed after `tokens` tokens."""
    limit = getattr(language, "context_length", None)
    if limit is not None and tokens + 1 > limit and not getattr(language, "is_rolling", False):
        raise ContextTooLong(
            f"a tokenisation that is followed has {tokens} tokens, {language.name} has a context of {limit}: give "
            "shorter texts"
        )


class PromptRows:
    """`TokenRows` of any language through `Language.start`: every history is a prompt, asked for with others of its length.

    Nothing is shared between histories, so a network computes all of each anew; exact languages are cheap enough.
    """

    def __init__(self, language: Language, before: Sequence[int] | np.ndarray = ()):
        self.language, self.before = language, check_before(language, before)

    def begin(self, texts: int) -> Float[np.ndarray, "texts vocab"]:
        """See `TokenRows.begin`."""
        self._ids = np.tile(self.before, (texts, 1))
        self._length = np.full(texts, len(self.before))
        self._key = np.zeros(texts, np.int64)  # equal keys, equal histories: texts often share them
        return np.repeat(self._laws(self._ids[:1], self._length[:1]), texts, axis=0)

    def extend(
        self, parents: Int[np.ndarray, " new"], tokens: Int[np.ndarray, " new"]
    ) -> Float[np.ndarray, "new vocab"]:
        """See `TokenRows.extend`. Raises ContextTooLong."""
        ids, length = self._ids[parents], self._length[parents]
        if len(length) and length.max() == ids.shape[1]:
            self._ids, ids = (np.pad(x, ((0, 0), (0, 8))) for x in (self._ids, ids))
        ids[np.arange(len(ids)), length] = tokens
        length = length + 1
        pairs = self._key[parents] * self.language.vocab_size + tokens
        _, first, same = np.unique(pairs, return_index=True, return_inverse=True)
        self._key = np.concatenate([self._key, self._key.max(initial=0) + 1 + same])
        self._ids, self._length = np.concatenate([self._ids, ids]), np.concatenate([self._length, length])
        check_length(self.language, int(length.max(initial=0)))
        return self._laws(ids[first], length[first])[same]

    def keep(self, histories: Int[np.ndarray, " kept"]) -> None:
        """See `TokenRows.keep`."""
        self._ids, self._length, self._key = (x[histories] for x in (self._ids, self._length, self._key))

    def select(
        self, texts: Int[np.ndarray, " new_texts"], histories: Int[np.ndarray, " kept"], owner: np.ndarray
    ) -> None:
        """See `TokenRows.select`."""
        self.keep(histories)

    def _laws(self, ids: np.ndarray, length: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), self.language.vocab_size))
        for n in np.unique(length):
            group = np.flatnonzero(length == n)
            log_p: Any = self.language.start(list(ids[group, :n]))[0]
            rows[group] = as_numpy(check_distribution(log_p, what=f"log_p of {self.language.name}"))
        return rows
