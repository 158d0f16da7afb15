"""The scores of detectors of memorised and of machine-written text, each a function of a record's columns.

With a, H, V, r of the scorer and, in a pair record, b, v and H_A of its source A; sums run over the scored tokens of a text
or of a window (a *span* of rows of the record). Every score keeps its published form, and its docstring says which
direction means "memorised" or "machine-written". `detection` has them as one table.

Where a quotient is 0/0 the text was exactly as expected: 0 for z, Fast-DetectGPT and a token of Min-K%++, 1 for Binoculars
and the reference ratio. LRR is +inf where every rank is 0. A text of one token has every score (but Binoculars "upstream").
Nats throughout.
"""

import zlib as _zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..adaptors import Adaptor, ancestral, as_adaptor
from ..errors import ParameterError, RecordError, unknown_name
from ..records import Records

__all__ = [
    "Spans",
    "binoculars",
    "entropy_gap",
    "extraction",
    "fast_detect_gpt",
    "log_rank",
    "loss",
    "lrr",
    "min_k",
    "min_k_plus_plus",
    "rb_kl",
    "reference_difference",
    "reference_ratio",
    "windows",
    "z",
    "zlib_ratio",
]

PerSpan = Float[np.ndarray, " spans"]
_ENTRIES = 2**22  # of the windows that are sorted at once
_NOISE, _CLOSE = 1e-12, 1e-6  # nats² and nats: below both, V and H - a are rounding of a law without spread


class Spans(NamedTuple):
    """Spans of rows of a record, each within one text: rows start, ..., stop - 1 of its flat columns."""

    text: Int[np.ndarray, " spans"]
    start: Int[np.ndarray, " spans"]
    stop: Int[np.ndarray, " spans"]

    @property
    def length(self) -> Int[np.ndarray, " spans"]:
        """Number of tokens."""
        return self.stop - self.start

    @classmethod
    def texts(cls, records: Records) -> "Spans":
        """One span per text; RecordError for a record without rows."""
        if not len(records):
            raise RecordError("this record has no scored token: there is nothing to compute a score from")
        ends = np.cumsum(records.lengths)
        return cls(np.arange(len(ends)), ends - records.lengths, ends)


def windows(records: Records, size: int, step: int = 1) -> Spans:
    """All windows of `size` tokens that lie within a text, every `step` tokens from its beginning; a rest is left out.

    ParameterError if a text is shorter than the window.
    """
    if isinstance(size, bool) or isinstance(step, bool) or size < 1 or step < 1:
        raise ParameterError(f"size={size!r}, step={step!r}: a window has at least 1 token, and moves by at least 1")
    whole = Spans.texts(records)
    if whole.length.min() < size:
        k = int(np.argmin(whole.length))
        raise ParameterError(
            f"text {k} has {whole.length[k]} scored tokens, fewer than a window of {size}: give a smaller window or leave "
            "it out with records.select"
        )
    number = (whole.length - size) // step + 1
    before = np.repeat(np.cumsum(number) - number, number)
    start = np.repeat(whole.start, number) + step * (np.arange(number.sum()) - before)
    return Spans(np.repeat(whole.text, number), start, start + size)


# ------------------------------------------------------------------------------------------------- sums over spans


def _sums(x: np.ndarray, spans: Spans) -> PerSpan:
    """Σ x over every span, each summed by itself: a difference of cumulative sums would lose the small ΣV of a loop."""
    bounds = np.stack([spans.start, spans.stop], axis=1).ravel()
    return np.add.reduceat(np.append(np.asarray(x, np.float64), 0.0), bounds)[::2]


def _quotient(above: np.ndarray, below: np.ndarray, expected: float) -> np.ndarray:
    """above/below, `expected` where both are 0, ±inf where only `below` is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((above == 0) & (below == 0), expected, above / below)


def _standardised(deviation: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """deviation/sqrt(variance), 0 where both are rounding noise of a law without spread."""
    none = (variance <= _NOISE) & (np.abs(deviation) <= _CLOSE)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(none, 0.0, deviation / np.sqrt(variance))


def _lowest(x: np.ndarray, spans: Spans, k: float) -> PerSpan:
    """Mean of the lowest max(1, ⌊kT⌋) values of every span; spans of one length are sorted together."""
    if not 0 < k <= 1:
        raise ParameterError(f"k={k!r}: a share of the tokens in (0, 1] is needed, .2 for the lowest 20%")
    found = np.empty(len(spans.start))
    for length in np.unique(spans.length):
        rows, count = np.flatnonzero(spans.length == length), max(1, int(k * length + 1e-9))
        for part in np.array_split(rows, -(-len(rows) * int(length) // _ENTRIES)):
            values = x[spans.start[part][:, None] + np.arange(length)]
            found[part] = np.partition(values, count - 1, axis=1)[:, :count].mean(axis=1)
    return found


def _column(records: Records, name: str, score: str) -> np.ndarray:
    """A column; RecordError that names the score and the pass that writes the column."""
    if name in records.columns:
        return records.columns[name]
    options = ""
    if name.startswith("log_q_"):
        options = f", adaptors=[aep.{name.removeprefix('log_q_').replace('|', '|aep.')}]"
    elif name.startswith(("cross_", "source_")):
        options = ", source=..."
    call = f"aep.score(texts, scorer{options})"
    raise RecordError(f"{score} needs the column {name!r}, which this record does not have: it comes from {call}")


def _spans(records: Records, spans: Spans | None) -> Spans:
    return Spans.texts(records) if spans is None else spans


# ------------------------------------------------------------------------------------------------- scores of one model


def loss(records: Records, *, spans: Spans | None = None) -> PerSpan:
    """Mean a: minus the mean log-likelihood, nats per token (LOSS; Yeom et al. 2018). Low = memorised."""
    spans = _spans(records, spans)
    return _sums(_column(records, "surprisal", "loss"), spans) / spans.length


def log_rank(records: Records, *, spans: Spans | None = None) -> PerSpan:
    """Mean log(r + 1), r = 0 the greedy token (Gehrmann et al. 2019; Mitchell et al. 2023). Low = machine-written.

    To 12 decimals: texts with the same ranks in another order have the same score, and not one by the order of a sum.
    """
    spans = _spans(records, spans)
    return np.round(_sums(np.log1p(_column(records, "rank", "log_rank")), spans) / spans.length, 12)


def lrr(records: Records, *, spans: Spans | None = None) -> PerSpan:
    """LRR = Σa/Σlog(r + 1) (DetectLLM, Su et al. 2023), +inf where every rank is 0. High = machine-written."""
    spans = _spans(records, spans)
    above, below = (_column(records, name, "lrr") for name in ("surprisal", "rank"))
    ranks = _sums(np.log1p(below), spans)
    return np.where(ranks == 0, np.inf, _quotient(_sums(above, spans), ranks, np.inf))


def entropy_gap(records: Records, *, spans: Spans | None = None) -> PerSpan:
    """Mean(a - H) = l - h, nats per token: mean zero for text sampled from the scorer. Low = over-typical."""
    spans = _spans(records, spans)
    a, h = (_column(records, name, "entropy_gap") for name in ("surprisal", "entropy"))
    return _sums(a - h, spans) / spans.length


def z(records: Records, *, spans: Spans | None = None) -> PerSpan:
    """z = Σ(a - H)/sqrt(ΣV), 0 where ΣV = 0 and l = h. Far below 0 = over-typical.

    As a score it is only ordered, which needs no normal law; the *test* with its "no test" case is `typicality.z_test`.
    """
    spans = _spans(records, spans)
    a, h, v = (_column(records, name, "z") for name in ("surprisal", "entropy", "varentropy"))
    return _standardised(_sums(a - h, spans), _sums(v, spans))


def min_k(records: Records, *, k: float = 0.2, spans: Spans | None = None) -> PerSpan:
    """Min-K%: mean of the lowest share k of -a, nats (Shi et al. 2024); at least one token. High = memorised.

    The public code takes ⌊kT⌋ tokens and gives NaN for none; k = 1 is minus `loss`.
    """
    return _lowest(-_column(records, "surprisal", "min_k"), _spans(records, spans), k)


def min_k_plus_plus(records: Records, *, k: float = 0.2, spans: Spans | None = None) -> PerSpan:
    """Min-K%++: mean of the lowest share k of (H - a)/sqrt(V) (Zhang et al. 2025). High = memorised.

    A token under a law without spread (V = 0, a = H) counts 0, where the public code has 0/0.
    """
    a, h, v = (_column(records, name, "min_k_plus_plus") for name in ("surprisal", "entropy", "varentropy"))
    return _lowest(_standardised(h - a, v), _spans(records, spans), k)


def zlib_ratio(
    records: Records, strings: Sequence[str | bytes] | None = None, *, form: str = "sum", spans: Spans | None = None
) -> PerSpan:
    """Σa/len(zlib(text)), nats per compressed byte. Low = memorised.

    `strings` are the texts; without them the scored tokens are decoded, if the record knows its language. Carlini et al.
    2021 and the public code of Min-K%++ divide the log-perplexity, which is the mean of a per token: that is "upstream",
    which is this over the number of tokens. The two order texts of one length alike; "upstream" falls with the length.
    """
    if form not in ("sum", "upstream"):
        raise ParameterError(unknown_name("form of zlib_ratio", form, ("sum", "upstream")))
    if spans is not None:
        raise ParameterError("zlib_ratio has no windows: a compressed window would mostly measure its own header")
    spans = Spans.texts(records)
    if strings is None:
        if records.language is None:
            raise RecordError(
                "zlib_ratio needs the texts, and this record does not know its language: give strings=[...]"
            )
        strings = [records.language.decode(ids) for ids in records.by_text("token")]
    if isinstance(strings, str) or len(strings) != len(spans.start):
        raise RecordError(f"strings has {len(strings)} entries, the record {len(spans.start)} texts: one for each")
    size = [len(_zlib.compress(x if isinstance(x, bytes) else x.encode())) for x in strings]
    total = _sums(_column(records, "surprisal", "zlib_ratio"), spans)
    return total / size / (spans.length if form == "upstream" else 1)


def extraction(
    records: Records, adaptor: Adaptor | str | None = None, *, suffix: int | None = None, spans: Spans | None = None
) -> PerSpan:
    """log p_z = Σ log q over the last `suffix` tokens (all, unless given) under an adaptor; nats, -inf if a token is cut.

    p_z is the chance that sampling after the true prefix gives the suffix (Hayes et al. 2025). High = memorised.
    """
    spans, used = _spans(records, spans), ancestral() if adaptor is None else as_adaptor(adaptor)
    if used.is_ancestral:
        log_q = -_column(records, "surprisal", "extraction")
    else:
        log_q = _column(records, f"log_q_{used}", "extraction")
    if suffix is not None:
        shortest = int(spans.length.min())
        if isinstance(suffix, bool) or not 1 <= suffix <= shortest:
            raise ParameterError(f"suffix={suffix!r}: from 1 to {shortest} tokens, those of the shortest text")
        spans = spans._replace(start=spans.stop - suffix)
    return _sums(log_q, spans)


# ------------------------------------------------------------------------------------------------- scores of two models


def fast_detect_gpt(records: Records, *, spans: Spans | None = None) -> PerSpan:
    """Fast-DetectGPT, analytic: (Σb - Σa)/sqrt(Σv) = -z of the pair (Bao et al. 2024). High = machine-written.

    A is its reference ("sampling") model, the scorer its scoring model. 0 where Σv = 0 and Σa = Σb; NaN where A allows a
    token that the scorer forbids.
    """
    spans = _spans(records, spans)
    a, b, v = (_column(records, n, "fast_detect_gpt") for n in ("surprisal", "cross_entropy", "cross_varentropy"))
    with np.errstate(invalid="ignore"):
        return _standardised(_sums(b - a, spans), _sums(v, spans))


def binoculars(records: Records, *, form: str = "aligned", spans: Spans | None = None) -> PerSpan:
    """Binoculars Σa/Σb (Hans et al. 2024; A its observer, the scorer its performer). Low = machine-written.

    "aligned" sums both over the same positions. The public code averages b over one position more, the law *after* the
    last token, which no a belongs to: for tokens 1 ... T it is (Σ_{t<=T} a_t/T)/(Σ_{t<=T+1} b_t/(T+1)). "upstream" is that
    value of the text without its last token, whose law the record has: append any token to get it for the whole text.
    ParameterError for "upstream" of a text of one token.
    """
    if form not in ("aligned", "upstream"):
        raise ParameterError(unknown_name("form of binoculars", form, ("aligned", "upstream")))
    spans = _spans(records, spans)
    a, b = (_column(records, name, "binoculars") for name in ("surprisal", "cross_entropy"))
    if form == "aligned":
        return _quotient(_sums(a, spans), _sums(b, spans), 1.0)
    if spans.length.min() < 2:
        raise ParameterError("form='upstream' leaves out the last token of a text: at least 2 scored tokens are needed")
    cut = spans._replace(stop=spans.stop - 1)
    return _quotient(_sums(a, cut) / cut.length, _sums(b, spans) / spans.length, 1.0)


def rb_kl(records: Records, *, spans: Spans | None = None) -> PerSpan:
    """RB-KL: mean(b - H_A) >= 0, the KL rate from A to the scorer along the text, nats per token; 0 for A = scorer.

    High = the scorer knows a continuation that A does not: memorised by the scorer, A being a reference without the text.
    """
    spans = _spans(records, spans)
    b, h = (_column(records, name, "rb_kl") for name in ("cross_entropy", "source_entropy"))
    return _sums(b - h, spans) / spans.length


def _reference(records: Records, reference: Records | None, score: str) -> np.ndarray:
    """Surprisals of the same tokens under the second model: of its record, or of the untruncated source of a pair."""
    if reference is not None:
        if not all(np.array_equal(records[name], reference[name]) for name in ("text", "position", "token")):
            raise RecordError("reference holds other tokens than the record: score the same texts under both models")
        return _column(reference, "surprisal", score)
    if "source_surprisal" in records.columns and records.meta.get("adaptor", str(ancestral())) == str(ancestral()):
        return records["source_surprisal"]
    raise RecordError(
        f"{score} needs the same texts under a second model: give reference=aep.score(texts, other), or a pair record from "
        "aep.score(texts, scorer, source=other)"
    )


def reference_ratio(records: Records, reference: Records | None = None, *, spans: Spans | None = None) -> PerSpan:
    """Σa/Σa' with a' under a reference (Carlini et al. 2021): another record, or the source of a pair. Low = memorised."""
    spans, a = _spans(records, spans), _column(records, "surprisal", "reference_ratio")
    return _quotient(_sums(a, spans), _sums(_reference(records, reference, "reference_ratio"), spans), 1.0)


def reference_difference(records: Records, reference: Records | None = None, *, spans: Spans | None = None) -> PerSpan:
    """Mean(a - a'), nats per token: minus the log-likelihood ratio rate of scorer against reference. Low = memorised."""
    spans, a = _spans(records, spans), _column(records, "surprisal", "reference_difference")
    return _sums(a - _reference(records, reference, "reference_difference"), spans) / spans.length
