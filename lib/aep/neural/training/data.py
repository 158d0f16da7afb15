"""Token streams: packed documents, and which of their windows make the batch of a step; or texts drawn for every step.

A stream is ``0 d1 0 d2 ...``: the special token before each document, so that a text may run past an end. The batch of
a step is a function of (seed, step) alone, which is what makes a resumed run the same run.
"""

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Batches", "FreshBatches", "fresh_rows", "pack", "windows"]


def pack(documents: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenation of `documents` (token ids), each preceded by token 0 (int64)."""
    start = np.zeros(1, dtype=np.int64)
    return np.concatenate([part for document in documents for part in (start, document)])


def windows(stream: np.ndarray, length: int) -> np.ndarray:
    """(n, `length` + 1) rows of `stream` that overlap in one token: every token but the first is predicted once.

    What does not fill a row is dropped.
    """
    rows = (len(stream) - 1) // length
    return stream[np.arange(rows)[:, None] * length + np.arange(length + 1)]


class Batches:
    """Batches of windows by step; each epoch packs the documents in a new order and shuffles their windows."""

    def __init__(self, documents: Sequence[np.ndarray], *, batch: int, length: int, seed: int):
        self._documents, self._batch, self._length, self._seed = documents, batch, length, seed
        tokens = sum(map(len, documents)) + len(documents)
        self.steps_per_epoch = max(1, (tokens - 1) // length // batch)
        self._epoch, self._rows = -1, np.empty((0, length + 1), dtype=np.int64)

    def __getitem__(self, step: int) -> np.ndarray:
        """(batch, length + 1) token ids of `step`: input is all but the last column, target all but the first."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            order = rng.permutation(len(self._documents))
            rows = windows(pack([self._documents[i] for i in order]), self._length)
            self._epoch, self._rows = epoch, rows[rng.permutation(len(rows))]
        return self._rows[position * self._batch : (position + 1) * self._batch]


#: Draws so many texts of token ids, each ended by token 0.
Draw = Callable[[np.random.Generator, int], list[np.ndarray]]


def fresh_rows(draw: Draw, rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """(rows, length + 1) token ids of texts drawn anew: each row is 0, then text after text, the last one cut."""
    found = np.zeros((rows, length + 1), dtype=np.int64)
    for row in found:
        end = 1
        while end <= length:
            text = draw(rng, 1)[0][: length + 1 - end]
            row[end : end + len(text)] = text
            end += len(text)
    return found


class FreshBatches:
    """Batches by step, of texts drawn for that step alone from the random stream (seed, 0, step): none is kept."""

    def __init__(self, draw: Draw, *, batch: int, length: int, seed: int):
        self._draw, self._batch, self._length, self._seed = draw, batch, length, seed

    def __getitem__(self, step: int) -> np.ndarray:
        """(batch, length + 1) token ids of `step`, as those of `Batches`."""
        rng = np.random.default_rng([self._seed, 0, step])
        return fresh_rows(self._draw, rng, self._batch, self._length)
