"""Longer texts with a planted document in each, for localisation; and documentation seen and not seen in training.

NumPy alone: nothing here needs torch.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from aep.errors import ParameterError, RecordError
from aep.languages import Grammar

from . import corpus
from .planted import Planted

__all__ = ["PROSE", "LongTexts", "Prose", "check_words", "long_texts", "prose"]

PROSE = ("scipy", "pandas")
"""The packages whose documentation `prose` reads by default: reading all five takes three times as long."""


def check_words(language: Any, grammar: Grammar) -> None:
    """ParameterError unless the tokens of a model are the words of the grammar: planted documents are ids of those."""
    words = " ".join(grammar.symbols[1:])
    fits = language.vocab_size == grammar.vocab_size
    if not fits or not np.array_equal(language.encode(words), np.arange(1, len(grammar.symbols))):
        raise ParameterError(
            f"{language.name} has other tokens than the words of the grammar {grammar.name}: planted documents can be "
            "scored by the models tales* only; audit other models by `models` and `text_path`"
        )


class LongTexts(NamedTuple):
    """Token ids of equal length, and the spans of their planted documents: text, start, stop, count, document."""

    ids: list[np.ndarray]
    spans: pd.DataFrame


def long_texts(documents: Planted, *, tokens: int, seed: int, at: int | None = None) -> LongTexts:
    """One text per document: tales of the grammar, the document among them, more tales, cut after `tokens` tokens.

    Before it stand the fewest tales with at least a uniform number of tokens, less those that would leave it no room; it
    stands whole in the text. With `at` it begins at that token in every text, and the first tale has lost its beginning.
    The start token is not part of a text. ParameterError where it does not fit.
    """
    longest = max(map(len, documents.ids), default=0)
    if at is not None and not 0 <= at <= tokens - longest:
        raise ParameterError(f"at={at!r}: from 0 to {tokens - longest}, so that no document of {longest} tokens is cut")
    if min(map(len, documents.ids), default=0) < 1 or tokens < 2 * longest:
        raise ParameterError(f"tokens={tokens!r}: a text is at least twice as long as its planted document")
    grammar, rows, ids = documents.grammar, [], []
    known = {x.tobytes() for x in documents.ids}
    for k, document in enumerate(documents.ids):
        rng = np.random.default_rng([seed, 7, k])
        drawn = int(rng.integers(0, tokens - len(document) + 1))
        before = _tales(grammar, rng, drawn if at is None else at, known)
        if at is not None:
            before = [np.concatenate([*before, np.empty(0, np.int64)])[-at:]] if at else []
        start = sum(map(len, before))
        while start + len(document) > tokens:  # whole tales only: the last one before it may reach too far
            start -= len(before.pop())
        after = _tales(grammar, rng, tokens - start - len(document), known)
        ids.append(np.concatenate([*before, document, *after])[:tokens])
        rows.append((k, start, start + len(document), int(documents.count[k]), k))
    return LongTexts(ids, pd.DataFrame(rows, columns=["text", "start", "stop", "count", "document"]))


def _tales(grammar: Grammar, rng: np.random.Generator, tokens: int, known: set[bytes]) -> list[np.ndarray]:
    """Fresh tales until they have at least `tokens` tokens."""
    found: list[np.ndarray] = []
    while sum(map(len, found)) < tokens:
        tale = grammar.sample_strings(rng, 1)[0]
        if tale.tobytes() not in known:
            found.append(tale)
    return found


class Prose(NamedTuple):
    """Beginnings of documents of one length as ids, which of them the model has `seen`, and one line about the corpus.

    `ids` is empty where the listed documents are not installed; `line` then says so and what to do.
    """

    ids: list[np.ndarray]
    seen: np.ndarray
    names: list[str]
    line: str


def prose(language: Any, *, documents: int, tokens: int, seed: int, packages: tuple[str, ...] | None = PROSE) -> Prose:
    """The first `tokens` tokens of `documents` training and as many held-out documents that share no 13-gram with another.

    Documents of `packages` (None: of all) that stand alone in their cluster are taken from either split, so that the two
    differ neither in the size of their clusters (the largest all went to training) nor by near copies; held-out documents
    share no 13-gram with any of training. ParameterError if there are too few.
    """
    try:
        splits = {name: corpus.load_split(name, packages=packages) for name in ("training", "held-out")}
    except RecordError as error:
        return Prose([], np.empty(0, bool), [], f"Skipped: {error}")
    rng, ids, names = np.random.default_rng([seed, 8]), [], []
    for name, found in splits.items():
        alone = [found[group[0]] for group in corpus.clusters([d.text for d in found]) if len(group) == 1]
        chosen: list[np.ndarray] = []
        for k in rng.permutation(len(alone)):
            encoded = np.asarray(language.encode(alone[k].text))[:tokens]
            if len(encoded) == tokens:
                chosen.append(encoded)
                names.append(alone[k].id)
            if len(chosen) == documents:
                break
        if len(chosen) < documents:
            raise ParameterError(
                f"{len(chosen)} {name} documents stand alone and have {tokens} tokens, not {documents}"
            )
        ids += chosen
    of = " and ".join(packages or corpus.PACKAGES)
    line = f"{documents} documents of {of} from either split, the first {tokens} tokens of every one."
    return Prose(ids, np.repeat([True, False], documents), names, line)
