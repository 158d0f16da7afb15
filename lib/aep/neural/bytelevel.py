"""A token language as a language of bytes: the next byte, summed over every token sequence that covers the bytes so far.

Over different vocabularies h_(A,B) per token is undefined; over bytes it is defined for all. Three estimators of P(s), kept
apart: exact enumeration and the beam (here), unbiased Monte Carlo (`byte_smc`). Special tokens never match bytes: they are
left out of every next-token law, which is renormalised over the tokens with bytes and the end token; this can only raise
the probability of a byte string. Everything in nats.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..errors import DistributionError, ParameterError, PromptError, VocabularyMismatch
from ..languages.protocol import Language, as_ids, check_count, in_chunks
from .byte_beam import ByteBeam, Rule, keep_all, keep_best
from .byte_rows import PromptRows, TokenRows, check_before
from .byte_tree import TreeRows
from .byte_trie import END, SYMBOLS, ByteTrie
from .language import NeuralLanguage

__all__ = ["END", "ByteLanguage", "ByteProbability", "as_symbols", "byte_ids", "byte_probability", "follow", "whole"]

LIMIT = 10_000


class ByteLanguage:
    """A token language behind the `Language` protocol over 257 symbols: the 256 bytes, and `END` = 256, the end of the text.

    Parameters
    ----------
    language : any `Language`, exact or neural
    pieces : for every token id its byte string, None for a special token
    width : histories kept per text, the heaviest; None keeps all of them (exact enumeration), at most `limit` per text
    cutoff : of a beam, the share of a text's weight below which a longer history is not begun. With 1e-4 a beam of 8 of
        docs-400k asks the network a third as often, for 1e-5 nats per byte of its bound on text like its own
    before : token ids before every text, after the start token; needed where there is no start token
    prefix : bytes before every text and every prompt, as some tokenizers put a space there: P(s) is then P(s | prefix) =
        P(prefix s) / P(prefix), where P(prefix) is exact, so that the bound of a beam stays a bound
    shared : whether histories of a network share its key-value cache (one tree of tokens per text); False asks for every
        history anew, much slower and right for any network

    The rows are the normalised next-byte laws of the kept histories: exact where all are kept, else an approximation without
    a bound, so Σ -log of them is not the bound that `byte_probability` reports. For a language of one token per byte they
    are its own. After END the text goes on after the end token, as `stop="never"` has it. A prompt is bytes like any other.

    Raises
    ------
    VocabularyMismatch : as many pieces as tokens are needed
    ModelError : an empty piece, or a network that cannot share its cache
    ParameterError : width or limit below 1, a cutoff that is no share
    PromptError : no start token and no `before`; bytes that no token covers
    ContextTooLong : a followed tokenisation that is longer than the context

    >>> from aep.languages import FiniteLanguage
    >>> letters = ByteLanguage(FiniteLanguage([.5, .3, .2]), [b"a", b"b", b"ab"], width=None)
    >>> [round(float(p), 3) for p in np.exp(letters.start([letters.encode("a")])[0][0, [97, 98]])]
    [0.5, 0.5]
    """

    vocab_size = SYMBOLS
    context_length = None  # the network's is a number of tokens, which is checked as they come
    vocabulary_hash = hashlib.sha256(b"256 bytes and the end").hexdigest()[:16]

    def __init__(
        self,
        language: Language,
        pieces: Sequence[bytes | None],
        *,
        width: int | None = 8,
        cutoff: float = 0.0,
        limit: int = LIMIT,
        before: Sequence[int] | np.ndarray = (),
        prefix: str | bytes = b"",
        shared: bool = True,
    ):
        if len(pieces) != language.vocab_size:
            raise VocabularyMismatch(
                f"{len(pieces)} pieces for the {language.vocab_size} tokens of {language.name}: one each is needed"
            )
        self.language, self.pieces, self.trie = language, list(pieces), ByteTrie(pieces, language.eos)
        self.before, self.shared, self.limit = check_before(language, before), shared, whole("limit", limit)
        self.eos = None if language.eos is None else END
        self.prefix = prefix.encode() if isinstance(prefix, str) else bytes(prefix)
        self.check([self._prefix], "the prefix")
        if hasattr(language, "dtype_name"):
            self.dtype_name = language.dtype_name
        self._set(width, cutoff)
        if isinstance(rows := self._rows(), TreeRows):
            rows.check()

    def _set(self, width: int | None, cutoff: float) -> None:
        if isinstance(cutoff, bool) or not isinstance(cutoff, Real):
            raise ParameterError(f"cutoff={cutoff!r}: a share from 0 to below 1 is needed")
        self.beam_width, self.cutoff = None if width is None else whole("width", width), float(cutoff)
        if not 0 <= self.cutoff < 1 or (width is None and self.cutoff > 0):
            raise ParameterError(f"cutoff={cutoff!r}: a share from 0 to below 1 is needed, and 0 without a width")
        kept = "" if width is None else f"[{width}]" if not self.cutoff else f"[{width},{self.cutoff:g}]"
        self.name = f"{self.language.name}/bytes{kept}"
        said = f"bytes {self.language.fingerprint} {self.beam_width} {self.cutoff} {self.before.tolist()} "
        digest = hashlib.sha256(said.encode())
        for piece in [*self.pieces, *([self.prefix] if self.prefix else [])]:
            digest.update(b"-" if piece is None else b"%d:%b" % (len(piece), piece))
        self.fingerprint = digest.hexdigest()[:16]

    def __repr__(self) -> str:
        kept = "all histories" if self.beam_width is None else f"beam of {self.beam_width}"
        return f"{self.name} (bytes of {self.language!r}, {kept})"

    def with_width(self, width: int | None, *, cutoff: float = 0.0) -> "ByteLanguage":
        """The same language with another beam; the trie is built once."""
        other = object.__new__(ByteLanguage)
        other.__dict__ |= self.__dict__
        other._set(width, cutoff)
        return other

    @property
    def rule(self) -> Rule:
        """What is kept of the histories of a text after every symbol."""
        return keep_all(self.limit) if self.beam_width is None else keep_best(self.beam_width)

    def begin(self, texts: int, cutoff: float = 0.0) -> ByteBeam:
        """A new engine at the beginning of `texts` texts, after the prefix."""
        beam = ByteBeam(self._rows(), self.trie, self.language.name, cutoff)
        beam.begin(texts, self._prefix, self.limit)
        return beam

    @property
    def _prefix(self) -> Int[np.ndarray, " bytes"]:
        return np.frombuffer(self.prefix, np.uint8).astype(np.int64)

    def _rows(self) -> TokenRows:
        if self.shared and isinstance(self.language, NeuralLanguage):
            return TreeRows(self.language, self.before)
        return PromptRows(self.language, self.before)

    def needs_context(self, bos: bool) -> bool:
        """Never with the start token, or `before`; a language that has both, and is asked to go without, cannot."""
        return not bos and self.language.needs_context(False)

    def stepping(self, texts: int) -> AbstractContextManager:
        """See `NeuralLanguage.stepping`: histories of a text share a step, so texts are what counts. With docs-400k two
        threads were 1.1 times as fast as one on an idle machine, and 10 times slower on a busy one."""
        return getattr(self.language, "stepping", nullcontext)(texts)

    def encode(self, text: str | bytes) -> Int[np.ndarray, " bytes"]:
        """The bytes of a string in UTF-8; PromptError for an empty string."""
        return byte_ids(text)

    def decode(self, ids: Sequence[int | np.integer] | np.ndarray) -> str:
        """The string of bytes, what is not UTF-8 as U+FFFD; the end of the text is not shown."""
        return bytes(int(i) for i in ids if i != END).decode("utf-8", errors="replace")

    def start(self, prompts: Sequence[np.ndarray]) -> tuple[Float[np.ndarray, "batch 257"], ByteBeam]:
        """`log_p` (batch, 257) after each prompt of bytes, all of one length."""
        ids = [as_ids(p, SYMBOLS) for p in prompts]
        lengths = sorted({len(p) for p in ids})
        if len(lengths) != 1:
            raise PromptError(f"prompts of {lengths} bytes in one batch: group them by length")
        self.check(ids, "prompt")
        beam = self.begin(len(ids), self.cutoff)
        for column in np.stack(ids).T:
            beam.observe(column, self.rule)
        return self._law(beam), beam

    def step(self, state: ByteBeam, ids: np.ndarray) -> tuple[Float[np.ndarray, "batch 257"], ByteBeam]:
        """`log_p` (batch, 257) after one more symbol per text; the state is consumed."""
        state.observe(np.asarray(ids, dtype=np.int64), self.rule)
        return self._law(state), state

    def select(self, state: ByteBeam, indices: np.ndarray) -> ByteBeam:
        """See `Language.select`: the histories are copied, nothing is computed again."""
        state.select(np.asarray(indices, dtype=np.int64))
        return state

    def _law(self, beam: ByteBeam) -> Float[np.ndarray, "batch 257"]:
        log_p, total = beam.law()
        if np.isneginf(total).any():
            text = int(np.isneginf(total).argmax())
            why = "" if self.beam_width is None else ", or in none that the beam keeps: a larger width may find one"
            raise DistributionError(f"text {text} of the batch has probability 0 under {self.name}{why}")
        return log_p

    def rows(
        self, prompts: Sequence[np.ndarray], texts: Sequence[np.ndarray], *, bos: bool = True, chunk: int = 256
    ) -> Iterator[Float[np.ndarray, "rows 257"]]:
        """See `Language.rows`: texts side by side, those with prompts of one length in one beam. PromptError without `bos`
        where the language has a start token."""
        if self.needs_context(bos):
            raise PromptError(f"bos=False: {self.name} needs the start token, a byte before it has no law")
        for i, text in enumerate(texts):
            self.check([np.concatenate([prompts[i], text])], f"text {i}")
        narrow = getattr(self, "dtype_name", "float64") != "float64"  # as `sample` reduces them
        laws = (x.astype(np.float32) if narrow else x for x in self._laws(prompts, texts))
        return in_chunks(laws, chunk)

    def _laws(self, prompts: Sequence[np.ndarray], texts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The laws of every position in turn, of the texts that reach it."""
        lengths, sizes = np.array([len(t) for t in texts]), np.array([len(p) for p in prompts])
        groups = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
        states: list[Any] = [None] * len(groups)
        for t in range(lengths.max(initial=0)):
            rows = np.empty((len(texts), SYMBOLS))
            for k, group in enumerate(groups):
                left = group[lengths[group] > t]
                if t and 0 < len(left) < len(group):
                    states[k] = self.select(states[k], np.flatnonzero(lengths[group] > t))
                groups[k] = left
                if not t and len(left):
                    rows[left], states[k] = self.start([prompts[i] for i in left])
                elif len(left):
                    rows[left], states[k] = self.step(states[k], np.array([texts[i][t - 1] for i in left]))
            yield rows[lengths > t]

    def check(self, texts: Sequence[np.ndarray], what: str = "text") -> None:
        """PromptError, naming the first byte that occurs in no token (or END where there is no end token)."""
        for text in texts:
            bad = np.flatnonzero(~self.trie.spelled[text])
            if len(bad):
                symbol = int(text[bad[0]])
                missing = "END, the end of the text: the language has no end token" if symbol == END else None
                missing = missing or f"byte 0x{symbol:02x} ({bytes([symbol])!r}), which no token covers"
                raise PromptError(f"{what} has at position {int(bad[0])} {missing} ({self.language.name})")


class ByteProbability(NamedTuple):
    """What the kept histories say of the probability of byte strings; nats, one entry or array per text.

    `log_p` : log of the kept weight, a certified lower bound of log P(s); P(s) itself where all histories were kept
    `log_conditional` : Σ log of the normalised next-byte probabilities, which is larger where anything was dropped: an
        approximation without a bound, the text's log-probability under the `ByteLanguage`
    `log_kept`, `log_dropped` : of every prefix, the kept weight and what was dropped at its last byte, (bytes,) each
    `log_lost` : log Σ_t of the weights dropped: P(s) <= exp(log_p) + exp(log_lost), which says something of short texts
        alone, because what was dropped early stays while P(s) shrinks
    `histories` : token sequences kept at every prefix, (bytes,)
    """

    log_p: Float[np.ndarray, " texts"]
    log_conditional: Float[np.ndarray, " texts"]
    log_kept: list[np.ndarray]
    log_dropped: list[np.ndarray]
    log_lost: Float[np.ndarray, " texts"]
    histories: list[np.ndarray]


def byte_probability(
    language: ByteLanguage,
    texts: Sequence[str | bytes | np.ndarray] | np.ndarray,
    *,
    end: bool = False,
    batch: int = 64,
) -> ByteProbability:
    """P(s), the probability that a text of the language begins with the bytes s: exact, or the lower bound of a beam.

    P(s) = Σ over the token sequences that cover s, cut where they first cover it, of their probability (see `byte_beam`).
    `texts` are strings, bytes or arrays of symbols; `end` adds END to each: the probability of the text as a whole.

    >>> from aep.languages import FiniteLanguage
    >>> letters = ByteLanguage(FiniteLanguage([.5, .3, .2]), [b"a", b"b", b"ab"], width=None)
    >>> bool(np.isclose(np.exp(byte_probability(letters, [b"ab"]).log_p[0]), .5 * .3 + .2))
    True
    """
    ids = as_symbols(language, texts, end)
    parts: dict[str, list[Any]] = {name: [None] * len(ids) for name in ("kept", "dropped", "conditional", "histories")}
    order = np.argsort([-len(s) for s in ids], kind="stable")
    for i in range(0, len(order), whole("batch", batch)):
        group = order[i : i + batch]
        for name, values in follow(
            language, [ids[k] for k in group], lambda t, active: language.rule, language.cutoff
        ).items():
            for k, value in zip(group, values, strict=True):
                parts[name][k] = value
    lost = np.array([np.logaddexp.reduce(x) for x in parts["dropped"]])
    log_p = np.array([x[-1] for x in parts["kept"]])
    conditional = np.array([x.sum() for x in parts["conditional"]])
    return ByteProbability(log_p, conditional, parts["kept"], parts["dropped"], lost, parts["histories"])


def follow(
    language: ByteLanguage, ids: list[np.ndarray], rule: Callable[[int, int], Rule], cutoff: float = 0.0
) -> dict[str, list[np.ndarray]]:
    """The beam along texts sorted by falling length; `rule(t, active)` is what is kept at byte t of the first `active`."""
    lengths = np.array([len(s) for s in ids])
    values = {name: np.full((len(ids), lengths[0]), -np.inf) for name in ("kept", "dropped", "conditional")}
    histories = np.zeros((len(ids), lengths[0]), np.int64)
    padded = np.full((len(ids), lengths[0]), -1)
    for row, s in zip(padded, ids, strict=True):
        row[: len(s)] = s
    with language.stepping(len(ids)):
        beam = language.begin(len(ids), cutoff)
        for t in range(lengths[0]):
            active = int((lengths > t).sum())
            if active < beam.texts:
                beam.select(np.arange(active))
            beam.observe(padded[:active, t], rule(t, active))
            values["kept"][:active, t], values["dropped"][:active, t] = beam.log_kept, beam.log_dropped
            values["conditional"][:active, t] = beam.log_conditional
            histories[:active, t] = beam.histories
    values["histories"] = histories
    return {name: [row[:n] for row, n in zip(v, lengths, strict=True)] for name, v in values.items()}


def byte_ids(text: str | bytes) -> Int[np.ndarray, " bytes"]:
    """The bytes of a string in UTF-8, or of bytes, as ids; PromptError for an empty text or one that is not Unicode."""
    if not len(text):
        raise PromptError("the text is empty: there is nothing to encode")
    try:
        raw = text.encode("utf-8") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise PromptError(f"the text is not Unicode ({error.reason} at {error.start}): read it as UTF-8") from None
    return np.frombuffer(raw, np.uint8).astype(np.int64)


def as_symbols(
    language: ByteLanguage, texts: Sequence[str | bytes | np.ndarray] | np.ndarray, end: bool
) -> list[np.ndarray]:
    """Arrays of symbols, END added to each if asked for; PromptError for an empty text or a symbol that no token covers."""
    if isinstance(texts, str | bytes) or not len(texts):
        raise PromptError(f"texts={texts!r}: give a list of strings, bytes or symbol arrays, at least one")
    ids = [byte_ids(t) if isinstance(t, str | bytes) else as_ids(t, SYMBOLS, f"text {i}") for i, t in enumerate(texts)]
    empty = next((i for i, s in enumerate(ids) if not len(s)), None)
    if empty is not None:
        raise PromptError(f"text {empty} is empty: the probability of no bytes is 1")
    ids = [np.append(s, END) for s in ids] if end else ids
    for i, s in enumerate(ids):
        language.check([s], f"text {i}")
    return ids


def whole(name: str, value: Any) -> int:
    """`value` if it is an integer of at least 1, else ParameterError."""
    check_count(1, **{name: value})
    return int(value)
