"""Extraction of memorised text: greedy, (n, p)-discoverable, by decoding and from a record; exposure of canaries.

A text is split into a prefix, the prompt, and the `suffix` tokens after it; what is sampled or decoded is compared with
these as token ids. Log-probabilities in nats, exposure in bits, as its authors define it.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from ..adaptors import Adaptor, top_k
from ..errors import ParameterError
from ..languages.protocol import Language
from ..records import Records, Texts
from ..sampling import sample
from .hypotheses import holm
from .text_scores import Spans, extraction

__all__ = [
    "Fitted",
    "agreement",
    "discovery_probability",
    "exposure",
    "exposure_by_count",
    "fitted_exposure",
    "greedily_extracted",
    "is_discoverable",
    "is_greedily_extractable",
    "log_extraction_probability",
    "queries_needed",
    "sampled_extractions",
]

PerText = Float[np.ndarray, " texts"]


def _suffix_spans(records: Records, prefix: int, suffix: int) -> Spans:
    """Tokens prefix, ..., prefix + suffix - 1 of every text of a record."""
    spans = Spans.texts(records)
    _check_lengths(prefix, suffix, int(spans.length.min()))
    return Spans(spans.text, spans.start + prefix, spans.start + prefix + suffix)


def _check_lengths(prefix: int, suffix: int, shortest: int) -> None:
    good = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in (prefix, suffix))
    if not good or prefix < 0 or suffix < 1 or prefix + suffix > shortest:
        raise ParameterError(
            f"prefix={prefix!r}, suffix={suffix!r}: at least 1 token after the prefix, and together at most the "
            f"{shortest} tokens of the shortest text"
        )


# ------------------------------------------------------------------------------------------------- from a record


def is_greedily_extractable(records: Records, *, prefix: int, suffix: int) -> Bool[np.ndarray, " texts"]:
    """Whether greedy decoding after the true prefix reproduces the next `suffix` tokens: all of them are the greedy token.

    Exact, without decoding: up to its first mistake a greedy decoder sees the true text. `prefix` counts the scored tokens
    of the record. Carlini et al. 2023, whose "k-extractable" counts the k tokens of the prefix. ParameterError for lengths
    beyond the shortest text.
    """
    spans = _suffix_spans(records, prefix, suffix)
    hit = (records["greedy"] == records["token"]).astype(np.int64)
    return np.add.reduceat(np.append(hit, 0), np.stack([spans.start, spans.stop], axis=1).ravel())[::2] == suffix


def log_extraction_probability(
    records: Records, adaptor: Adaptor | str | None = None, *, prefix: int, suffix: int
) -> PerText:
    """log p_z (nats): the chance that one sample after the true prefix is the next `suffix` tokens, under an adaptor.

    From the columns `log_q_<adaptor>`, or the surprisal for ancestral sampling; -inf if a token is cut. Hayes et al. 2025.
    """
    return extraction(records, adaptor, spans=_suffix_spans(records, prefix, suffix))


def discovery_probability(log_p: PerText, n: int | Int[np.ndarray, " texts"]) -> PerText:
    """1 - (1 - p_z)^n: the chance that n independent samples hold the suffix at least once.

    >>> bool(np.isclose(discovery_probability(np.log(np.array([0.5])), 2)[0], 0.75))
    True
    """
    if np.any(np.asarray(n) < 1) or np.any(log_p > 1e-9) or np.isnan(log_p).any():
        raise ParameterError(f"n={n!r}: at least 1 sample, and log-probabilities of at most 0")
    with np.errstate(divide="ignore"):
        return -np.expm1(n * np.log1p(-np.exp(np.minimum(log_p, 0.0))))


def is_discoverable(log_p: PerText, n: int, p: float) -> Bool[np.ndarray, " texts"]:
    """(n, p)-discoverable: 1 - (1 - p_z)^n >= p. Hayes et al. 2025.

    Greedy extraction is the case (1, 1) of top-k with k = 1.
    """
    if not 0 < p <= 1:
        raise ParameterError(f"p={p!r}: a probability in (0, 1] is needed")
    return discovery_probability(log_p, n) >= p


def queries_needed(log_p: PerText, p: float) -> PerText:
    """The n at which a text is (n, p)-discoverable, log(1 - p)/log(1 - p_z) rounded up; inf where p_z = 0.

    >>> queries_needed(np.log(np.array([0.5, 1.0])), 0.7).tolist()
    [2.0, 1.0]
    """
    if not 0 < p < 1:
        raise ParameterError(f"p={p!r}: a probability in (0, 1) is needed")
    with np.errstate(divide="ignore"):
        miss = np.log1p(-np.exp(np.minimum(log_p, 0.0)))
        exact = np.divide(np.log1p(-p), miss, out=np.full(len(miss), np.inf), where=miss < 0)
        tiny = np.log(-np.log1p(-p)) - log_p  # log of the same for p_z below the resolution of 1 - p_z
    found = np.where(np.exp(log_p) < 1e-12, np.exp(np.minimum(tiny, 709.0)), exact)
    return np.where(np.isneginf(log_p), np.inf, np.maximum(1.0, np.ceil(found - 1e-9)))


# ------------------------------------------------------------------------------------------------- by decoding


def _split(texts: Texts, prefix: int, suffix: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The prompts (with that of the text before the prefix), and the suffixes (texts, suffix)."""
    _check_lengths(prefix, suffix, min(map(len, texts.ids), default=0))
    before = [np.concatenate([texts.prompts[p], ids[:prefix]]) for p, ids in zip(texts.prompt, texts.ids, strict=True)]
    return before, np.array([ids[prefix : prefix + suffix] for ids in texts.ids])


def greedily_extracted(
    language: Language, texts: Texts, *, prefix: int, suffix: int, store: Any = None
) -> Bool[np.ndarray, " texts"]:
    """Whether decoding the most probable token (top-k with k = 1) after the true prefix gives the next `suffix` tokens.

    Tokens that tie for the most probable are drawn at random. Errors of `aep.sample`, and as `is_greedily_extractable`.
    """
    return (
        sampled_extractions(language, texts, prefix=prefix, suffix=suffix, n=1, seed=0, adaptor=top_k(1), store=store)
        > 0
    )


def sampled_extractions(
    language: Language,
    texts: Texts,
    *,
    prefix: int,
    suffix: int,
    n: int,
    seed: int,
    adaptor: Adaptor | str | None = None,
    store: Any = None,
) -> Int[np.ndarray, " texts"]:
    """How many of n samples after the true prefix of each text are its next `suffix` tokens, (texts,); see `aep.sample`."""
    prompts, wanted = _split(texts, prefix, suffix)
    drawn = sample(language, prompts, texts=n, tokens=suffix, seed=seed, adaptor=adaptor, store=store)
    hit = np.array([np.array_equal(ids, wanted[p]) for p, ids in zip(drawn.prompt, drawn.ids, strict=True)])
    return np.bincount(drawn.prompt, hit, len(prompts)).astype(np.int64)


def agreement(log_p: PerText, hits: Int[np.ndarray, " texts"], n: int) -> pd.DataFrame:
    """Samples against p_z: per text p_z, hits, expected = n p_z, and the exact binomial p-value with Holm's over all texts.

    Where sampling and record agree, the chance that any p_holm is below α is at most α.
    """
    p_z = np.exp(np.minimum(log_p, 0.0))
    p = np.array([stats.binomtest(int(k), n, float(q)).pvalue for k, q in zip(hits, p_z, strict=True)])
    return pd.DataFrame({"p_z": p_z, "hits": hits, "expected": n * p_z, "p": p, "p_holm": holm(p)})


# ------------------------------------------------------------------------------------------------- exposure


def exposure(
    values: Float[np.ndarray, " canaries"], candidates: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " canaries"]:
    """Exposure log2 |R| - log2 rank of every canary, in bits; low values (of Σa, say) are memorised. Carlini et al. 2019.

    `candidates` are the other members of the space R the canary was drawn from, |R| = n + 1, and rank is 1 + #{candidate <=
    value}: at most log2(n + 1) bits. Are they a *sample* of R, then this is -log2 of the (conformal) p-value of the canary,
    the sampling estimate of exposure; more bits than log2(n + 1) take `fitted_exposure`. ParameterError for NaN or no
    candidate. A canary that was never planted has a mean of about 1/log 2 = 1.44 bits, not 0.

    >>> exposure(np.array([0.0, 9.0]), np.array([1.0, 2.0, 3.0])).tolist()
    [2.0, 0.0]
    """
    _check_values(values, candidates)
    rank = 1 + np.searchsorted(np.sort(candidates), values, side="right")
    return np.log2(len(candidates) + 1) - np.log2(rank)


class Fitted(NamedTuple):
    """Exposure (canaries,) by extrapolation, in bits; the Kolmogorov-Smirnov p-value of the fit (too large: its parameters
    were fitted to the same values); shape, location and scale of the skew normal law."""

    exposure: np.ndarray
    ks_p: float
    parameters: tuple[float, float, float]


def fitted_exposure(values: Float[np.ndarray, " canaries"], candidates: Float[np.ndarray, " n"]) -> Fitted:
    """Exposure -log2 P(X <= value), X of a skew normal law fitted to a sample of candidates. Carlini et al. 2019.

    An extrapolation: beyond log2(n + 1) bits it rests on the tail of the fitted law. The fit matches the first three moments
    (a skewness beyond ±.99 is cut), so that it does not depend on an optimiser. ParameterError for fewer than 50 candidates,
    or without spread.
    """
    _check_values(values, candidates)
    if len(candidates) < 50 or not np.std(candidates) > 0:
        raise ParameterError(f"{len(candidates)} candidates: a fit needs at least 50 of them, and values that differ")
    shape, place, scale = _skew_normal(candidates)
    p = stats.kstest(candidates, stats.skewnorm(shape, place, scale).cdf).pvalue
    return Fitted(-_log_cdf((values - place) / scale, shape) / np.log(2), float(p), (shape, place, scale))


def _skew_normal(x: np.ndarray) -> tuple[float, float, float]:
    """Shape, location and scale of the skew normal law with the mean, variance and (cut) skewness of `x`."""
    skew = float(np.clip(stats.skew(x), -0.99, 0.99))
    third = (2 * abs(skew) / (4 - np.pi)) ** (2 / 3)
    delta = np.sign(skew) * np.sqrt(np.pi / 2 * third / (1 + third))
    scale = float(np.std(x) / np.sqrt(1 - 2 * delta**2 / np.pi))
    place = float(np.mean(x) - scale * delta * np.sqrt(2 / np.pi))
    return float(delta / np.sqrt(1 - delta**2)), place, scale


def exposure_by_count(
    values: Float[np.ndarray, " canaries"],
    counts: Int[np.ndarray, " canaries"],
    candidates: Float[np.ndarray, " n"],
    *,
    rng: np.random.Generator,
    resamples: int = 999,
) -> pd.DataFrame:
    """Mean exposure per count and its slope per doubling, by rank ("sampled") and by fit ("fitted").

    In bits, with 95% percentile intervals from resamples of the canaries of each count *and* of the candidates, the law
    fitted anew: most of the error of a fitted exposure is that of the fit, which an interval over canaries does not see.
    Rows: exposure, count (-1: the least-squares slope on log2(count), counts above 0), canaries, mean, low, high.
    ParameterError as of `fitted_exposure`.
    """
    fitted_exposure(values, candidates)  # refuses what cannot be fitted
    levels, sizes = np.unique(counts, return_counts=True)
    groups = [np.flatnonzero(counts == c) for c in levels]
    x = np.log2(levels[levels > 0])

    def found(own: np.ndarray, other: np.ndarray) -> np.ndarray:
        shape, place, scale = _skew_normal(other)
        bits = np.stack([exposure(own, other), -_log_cdf((own - place) / scale, shape) / np.log(2)])
        means = np.add.reduceat(bits, np.cumsum(sizes) - sizes, axis=1) / sizes
        slope = means[:, levels > 0] @ (x - x.mean()) / np.sum((x - x.mean()) ** 2)
        return np.column_stack([slope, means])

    def copy() -> np.ndarray:
        own = np.concatenate([values[rng.choice(g, len(g))] for g in groups])
        return found(own, rng.choice(candidates, len(candidates)))

    copies = np.stack([copy() for _ in range(resamples)])
    estimate = found(values[np.concatenate(groups)], candidates)
    low, high = np.quantile(copies, [0.025, 0.975], axis=0)
    rows = pd.MultiIndex.from_product([["sampled", "fitted"], [-1, *levels]], names=["exposure", "count"])
    table = pd.DataFrame({"mean": estimate.ravel(), "low": low.ravel(), "high": high.ravel()}, index=rows).reset_index()
    table.insert(2, "canaries", 2 * [len(values), *sizes])
    return table


def _log_cdf(x: np.ndarray, shape: float) -> np.ndarray:
    """log of the standard skew normal distribution function; where it underflows its leading term, density over decay."""
    p = special.ndtr(x) - 2 * special.owens_t(x, shape)
    found, far = np.log(np.maximum(p, 1e-6)), p < 1e-6  # where the difference cancels: scipy's, 500 times slower
    found[far] = stats.skewnorm.logcdf(x[far], shape)
    decay = np.maximum(-x, 1.0) * (1 + max(shape, 0.0) ** 2)
    tail = np.log(2) + stats.norm.logpdf(x) + special.log_ndtr(shape * x) - np.log(decay)
    return np.where(found < -300, tail, found)


def _check_values(values: np.ndarray, candidates: np.ndarray) -> None:
    if not len(candidates):
        raise ParameterError("there is no candidate: exposure is a rank among the other members of the canary's space")
    if np.isnan(values).any() or np.isnan(candidates).any():
        raise ParameterError("a value is NaN: it has no rank")
