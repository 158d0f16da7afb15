"""The audit of any text under any model: read it, score it, and show which windows a matched null finds over-typical.

What an audit may say is what its null can carry. Without texts of the same kind that the model has not seen there is no
p-value here, only a map: an easy text is over-typical too. `token_grid` and `SpanMap` show the map, as a figure and as HTML.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from .._display import deviation, heading, pieces, token_map
from .._text_files import read_utf8
from ..errors import ParameterError, PromptError
from ..neural.loading import embedded
from ..outputs import repository
from ..records import Records
from ..scoring import score
from ..stretches import choose_context
from .memorization import WINDOWS, least_tokens

__all__ = [
    "FEWEST",
    "SpanMap",
    "check_null",
    "paired",
    "read_null",
    "read_text",
    "scored_file",
    "token_count",
    "token_grid",
    "window_map",
]

FEWEST = 19
"""Texts of a null at least: one window of each, whose smallest p-value is then 1/20."""

_CUT = 3.0  # standard deviations at which the colour is deepest


def paired(models: list[str], twins: list[str]) -> dict[str, str]:
    """Model -> its twin, in the order given; ParameterError unless every model has one, an embedded one its own.

    >>> paired(["a", "b"], ["a-twin", "b-twin"])
    {'a': 'a-twin', 'b': 'b-twin'}
    """
    if len(models) != len(twins):
        raise ParameterError(
            f"planted_models names {len(models)} ({', '.join(models)}) and twins {len(twins)} ({', '.join(twins)}): "
            "give every model its twin, in the same order"
        )
    known = embedded()
    for model, twin in zip(models, twins, strict=True):
        if model in known and twin != f"{model}-twin":
            has = (
                f"its twin is {model}-twin" if f"{model}-twin" in known else "it was trained without planted documents"
            )
            raise ParameterError(f"planted_models: {twin} is not the twin of {model}: {has}")
    return dict(zip(models, twins, strict=True))


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file as it is, without a byte order mark; a relative path may start at the repository.

    Raises
    ------
    ParameterError : no path, a folder, a missing file (with the nearest names), an empty one, one that is not UTF-8 (with
        the byte and its position), or that holds a NUL byte
    """
    if not str(path).strip():
        raise ParameterError("text_path is empty: give the text file to audit")
    return read_utf8(_found(path)).decode("utf-8-sig")


def _found(path: str | Path) -> Path:
    """The file of a relative path: as given, or from the repository."""
    given = Path(path).expanduser()
    inside = repository() / given
    return inside if not given.exists() and inside.is_file() else given


def _names(paths: str) -> list[str]:
    """Comma-separated names, none for an empty string."""
    return [name.strip() for name in paths.split(",")] if paths.strip() else []


def read_null(paths: str, text: str | None = None) -> list[str]:
    """The texts of comma-separated files, none for an empty string; `text` is the audited one, which is no null of itself.

    ParameterError for an empty name, a folder or pattern, fewer than 19 files (one window of each is the null, whose
    smallest p-value is 1/20), the same text twice (under whatever name), and those of `read_text`.
    """
    names = _names(paths)
    for k, name in enumerate(names):
        if not name:
            raise ParameterError(
                f"null_paths: name {k + 1} of {len(names)} is empty: leave out the comma before or after it"
            )
        if (path := _found(name)).is_dir() or (not path.exists() and any(c in name for c in "*?[")):
            raise ParameterError(
                f"null_paths: {name} is a {'folder' if path.is_dir() else 'pattern'}: folders and patterns are not "
                "expanded, give the files, separated by commas"
            )
    owner = {} if text is None else {text.strip(): "the audited text"}
    texts = [read_text(name) for name in names]
    for name, words in zip(names, texts, strict=True):
        if (other := owner.setdefault(words.strip(), name)) is not name:
            raise ParameterError(f"null_paths: {name} is the same text as {other}: every text of a null is another")
        owner[words.strip()] = name
    if names and len(names) < FEWEST:
        raise ParameterError(
            f"null_paths names {len(names)} files: none, or at least {FEWEST} different texts of the same kind"
        )
    return texts


def check_null(
    texts: list[str], language: Any, *, window: int, tokens: int | None = None, paths: str = ""
) -> list[int]:
    """The numbers of tokens of the texts of a null under a model: what is too short is refused before any work.

    `tokens` is the number of audited tokens, `paths` the parameter that named the files, for the message. ParameterError
    for a text with fewer than 5 windows of tokens, and fewer than `tokens` (`memorization.least_tokens` says why);
    PromptError as in `token_count`.
    """
    least = least_tokens(window, WINDOWS * window if tokens is None else tokens)
    names, counts = _names(paths) or [f"text {k}" for k in range(len(texts))], []
    for name, words in zip(names, texts, strict=True):
        try:
            counts.append(len(language.encode(words)))
        except PromptError as error:
            raise PromptError(f"null_paths: {name}: {error}") from None
        if counts[-1] < least:
            raise ParameterError(
                f"null_paths: {name} has {counts[-1]} tokens of {language.name}, a null for windows of {window} needs at "
                f"least {least}: in shorter texts z lies higher, and the audited windows would look memorised"
            )
    return counts


def token_count(text: str, language: Any, *, window: int, reference: Any = None) -> int:
    """How many tokens a text has under a model: what would be refused later is refused now, before any work.

    ParameterError for fewer than a window, or a reference that is the model itself; PromptError for a word that the model
    does not know; VocabularyMismatch for a reference model of other tokens.
    """
    ids = language.encode(text)
    if len(ids) < window:
        raise ParameterError(f"the text has {len(ids)} tokens of {language.name}, fewer than a window of {window}")
    if reference is not None:
        if reference is language or (language.fingerprint and reference.fingerprint == language.fingerprint):
            raise ParameterError(
                f"reference {reference.name} is the audited model {language.name} itself, and every difference is 0: give "
                "a model that has not seen the text, or none"
            )
        score([ids[:2]], language, source=reference)
    return len(ids)


def scored_file(
    text: str, language: Any, *, window: int, tokens: int | None = None, reference: Any = None, store: Any = None
) -> Records:
    """The record of a text under a model, of its first `tokens` tokens (all); `meta["context"]` says the policy.

    The context is "full" where the text fits, else "rolling" with sliding attention, else "strided". With a reference model
    (of the same tokens) it is the record of the pair, whose source is the reference.

    Raises
    ------
    ParameterError : a text with fewer tokens than a window, or a reference that is the model itself
    PromptError : a word that the model does not know
    VocabularyMismatch : a reference of other tokens
    """
    token_count(text, language, window=window, reference=reference)
    ids = np.asarray(language.encode(text))[:tokens]
    return score([ids], language, source=reference, context=_shared_context(language, reference, len(ids)), store=store)


def _shared_context(language: Any, reference: Any, tokens: int) -> str:
    """The policy that both models take."""
    policies = {choose_context(x, tokens) for x in (language, reference) if x is not None}
    return policies.pop() if len(policies) == 1 else "strided"


def window_map(table: pd.DataFrame, tokens: int) -> Bool[np.ndarray, " tokens"]:
    """Which of `tokens` positions lie in a found window of one text: `table` has rows of `window_audit` with `found`."""
    inside = np.zeros(tokens, bool)
    for start, stop in table.loc[table["found"], ["start", "stop"]].to_numpy():
        inside[start:stop] = True
    return inside


def _columns(records: Records, text: int, start: int, names: tuple[str, ...]) -> list[np.ndarray]:
    """Columns of one text from `start` on; ParameterError outside the text, or for a record without a language."""
    if records.language is None:
        raise ParameterError("this record does not know its language: its tokens cannot be shown")
    if not 0 <= start < records.lengths[text]:
        raise ParameterError(f"start={start!r}: text {text} has tokens 0 to {int(records.lengths[text]) - 1}")
    return [records.by_text(name)[text][start:] for name in names]


def token_grid(
    records: Records,
    *,
    text: int = 0,
    start: int = 0,
    tokens: int = 120,
    found: Bool[np.ndarray, " length"] | None = None,
    width: int = 100,
) -> pd.DataFrame:
    """Where each token of a text stands on a page of `width` characters, for `plotting.memorization.plot_token_map`.

    Columns: position, piece, line, x, width (characters), depth (deviation (a - H)/sqrt(V) over 3, cut at ±1), found (in a
    found window: `found` has one entry per token of the text). ParameterError for a start outside the text.
    """
    ids, a, h, v = _columns(records, text, start, ("token", "surprisal", "entropy", "varentropy"))
    shown = pieces(records.language.decode, ids, tokens)
    depth = np.clip(deviation(a, h, v)[: len(shown)] / _CUT, -1, 1)
    apart = "" if any(" " in piece or "␣" in piece for piece in shown) else " "  # tokens that are words hold no blank
    rows, line, x = [], 0, 0
    for k, piece in enumerate(shown):
        piece = piece.replace("\n", "") + apart
        if x and x + len(piece) > width:
            line, x = line + 1, 0
        rows.append((start + k, piece, line, x, len(piece), depth[k], bool(found is not None and found[start + k])))
        x += len(piece)
    return pd.DataFrame(rows, columns=["position", "piece", "line", "x", "width", "depth", "found"])


@dataclass(frozen=True)
class SpanMap:
    """The coloured token map of one text as HTML: ground by (a - H)/sqrt(V), a line below what was found.

    `found`: one entry per token of the text, or None; at most 400 tokens from `start` on are shown.
    """

    records: Records
    found: Bool[np.ndarray, " length"] | None = None
    text: int = 0
    start: int = 0
    title: str = ""

    def __repr__(self) -> str:
        return f"SpanMap(text={self.text}, start={self.start}, tokens={int(self.records.lengths[self.text])})"

    def _repr_html_(self) -> str:
        names = ("token", "surprisal", "entropy", "varentropy", "rank")
        columns = _columns(self.records, self.text, self.start, names)
        found = None if self.found is None else self.found[self.start :]
        title = (self.title or f"text {self.text}") + (f", from token {self.start} on" if self.start else "")
        return heading(title) + token_map(self.records.language.decode, *columns, found=found)
