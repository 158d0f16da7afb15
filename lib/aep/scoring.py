"""Scoring: one pass over a language yields, per token, every column of SPEC 1.1. Memory is O(chunk x vocab)."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import Any

import numpy as np

from ._array import as_numpy, gather, like, namespace
from ._progress import progress
from .adaptors import Adaptor, ancestral
from .errors import AdaptorError, ContextTooLong, ParameterError, PromptError, VocabularyMismatch, unknown_name
from .information import (
    cross_moments,
    greedy,
    log_normalise,
    log_partition_grid,
    mass_above,
    rank,
    surprisal,
)
from .languages.protocol import Language, as_ids, row_order
from .records import Records, Texts, stored, theta_column

__all__ = ["row_columns", "score"]

_CONTEXTS = ("full",)
_BATCH_TOKENS = 8192


def score(
    texts: Texts | str | Sequence[str] | Sequence[Sequence[int | np.integer] | np.ndarray] | np.ndarray,
    scorer: Language,
    *,
    source: Language | None = None,
    adaptor: Adaptor | None = None,
    adaptors: Sequence[Adaptor] = (),
    context: str = "full",
    bos: bool = True,
    store: Any = None,
    chunk: int = 256,
) -> Records:
    """Score every token of every text under `scorer`, and against `source` if one is given.

    Parameters
    ----------
    texts : `Texts` of `sample` (prompts are context and never scored), or strings or id sequences without prompt
    source, adaptor : the language that wrote the texts and the adaptor it used. b_t and v_t then use its adapted law
        p_A ("source-masked": the source's own support mask applies to p_A, the scorer stays untruncated)
    adaptors : further adaptors of the *scorer* whose `log_q_<adaptor>` columns are wanted
    context : "full" (text and prompt within the context length)
    bos : put the start token first; without one (or for a model that has none) and without a prompt, the first token of a
        text is context and not scored
    chunk : rows whose full distributions are held at once; changes no value

    Returns
    -------
    Records, sorted by text and position. All quantities in nats (varentropies in nats²).

    Raises
    ------
    VocabularyMismatch, ContextTooLong, PromptError, ParameterError, AdaptorError, DistributionError
    """
    texts = texts if isinstance(texts, Texts) else _as_texts(texts, scorer)
    if context not in _CONTEXTS:
        raise ParameterError(unknown_name("context", context, _CONTEXTS))
    if chunk < 1:
        raise ParameterError(f"chunk={chunk}: at least 1 row is needed")
    for a in (adaptor, *([adaptors] if isinstance(adaptors, Adaptor) else adaptors)):
        if a is not None and not isinstance(a, Adaptor):
            raise AdaptorError(f"adaptor={a!r}: give an adaptor such as aep.temperature(.8)")
    if adaptor is not None and source is None:
        raise AdaptorError(f"adaptor={adaptor}: an adaptor belongs to a source; for log_q columns use adaptors=[...]")
    if isinstance(adaptors, Adaptor):
        raise AdaptorError(f"adaptors={adaptors}: give a list, adaptors=[{adaptors}]")
    _check_pair(source, scorer)
    jobs = _jobs(texts, scorer, source, bos)
    _check_lengths(jobs, [x for x in (scorer, source) if x is not None])
    meta = _description(texts, scorer, source, adaptor, adaptors, context, bos)
    parts = meta | {"ids": texts.ids, "prompts": texts.prompts, "prompt": texts.prompt}
    make = lambda: _score(jobs, scorer, source, adaptor, tuple(adaptors), bos, chunk, meta)  # noqa: E731
    return stored(Records, store, parts, make, scorer)


def row_columns(
    logits: Any, token: Any, source_logits: Any = None, adaptor: Adaptor | None = None, adaptors: Sequence[Adaptor] = ()
) -> dict[str, Any]:
    """Every column of SPEC 1.1 for rows of unnormalised log-probabilities (rows, vocab) and the tokens (rows,) that came.

    The one reduction of the scoring pass, for NumPy and torch; never in less than single precision.
    """
    log_p = log_normalise(_at_least_single(logits))
    own = cross_moments(log_p, log_p)
    columns = {
        "surprisal": surprisal(log_p, token),
        "entropy": own.entropy,
        "varentropy": own.varentropy,
        "rank": rank(log_p, token),
        "greedy": greedy(log_p),
        "mass_above": mass_above(log_p, token),
    }
    columns |= {theta_column(theta): value for theta, value in log_partition_grid(log_p).items()}
    columns |= {f"log_q_{a}": gather(a(log_p), token) for a in adaptors}
    if source_logits is not None:
        log_a = (adaptor or ancestral())(log_normalise(_at_least_single(source_logits)))
        log_a = like(as_numpy(log_a), log_p)  # source and scorer may live on different backends or devices
        cross, own = cross_moments(log_a, log_p), cross_moments(log_a, log_a)
        columns |= {
            "cross_entropy": cross.entropy,
            "cross_varentropy": cross.varentropy,
            "source_surprisal": surprisal(log_a, token),
            "source_entropy": own.entropy,
            "source_varentropy": own.varentropy,
        }
    return columns


def _at_least_single(logits: Any) -> Any:
    xp = namespace(logits)
    return logits if logits.dtype in (xp.float32, xp.float64) else xp.astype(logits, xp.float32)


def _as_texts(texts, scorer) -> Texts:
    if not hasattr(texts, "__len__"):
        raise PromptError(f"texts={texts!r}: give Texts, a string, or a list of strings or of id sequences")
    if isinstance(texts, str) or (len(texts) and isinstance(texts[0], str)):
        return Texts.from_strings(scorer, texts)
    return Texts.from_ids(scorer, texts)


def _jobs(texts, scorer, source, bos) -> list[tuple[np.ndarray, np.ndarray]]:
    """(context, scored ids) of each text; a text without any context gives its first token away as one."""
    give_away = any(x.needs_context(bos) for x in (scorer, source) if x is not None)
    jobs = []
    for i, ids in enumerate(texts.ids):
        ids = as_ids(ids, scorer.vocab_size, f"text {i}")
        context = texts.prompts[texts.prompt[i]]
        if give_away and not len(context):
            context, ids = ids[:1], ids[1:]
        if not len(ids):
            raise PromptError(f"text {i} has no token to score: without a start token the first one is only context")
        jobs.append((as_ids(context, scorer.vocab_size, f"prompt of text {i}"), ids))
    return jobs


def _check_pair(source, scorer) -> None:
    if source is None:
        return
    same = source.vocab_size == scorer.vocab_size
    a, b = (getattr(x, "vocabulary_hash", None) for x in (source, scorer))
    if not same or (a and b and a != b):
        raise VocabularyMismatch(
            f"{source.name} ({source.vocab_size} tokens) and {scorer.name} ({scorer.vocab_size} tokens) have different "
            "vocabularies, so h_(A,B) per token is undefined: compare them per byte"
        )


def _check_lengths(jobs, languages) -> None:
    for language in languages:
        limit = getattr(language, "context_length", None)
        for i, (context, ids) in enumerate(jobs):
            if limit is not None and len(context) + len(ids) > limit:
                raise ContextTooLong(
                    f"text {i} has {len(context) + len(ids)} tokens with its prompt, {language.name} has a context of "
                    f"{limit}: context='full' needs shorter texts"
                )


def _score(jobs, scorer, source, adaptor, adaptors, bos, chunk, meta) -> Records:
    parts: list[dict[str, np.ndarray]] = []
    stepping, total = getattr(scorer, "stepping", nullcontext), sum(len(ids) for _, ids in jobs)
    with stepping(), progress(total=total, desc=f"scoring under {scorer.name}", unit="token") as bar:
        for batch in _batches(jobs):
            prompts, ids = [jobs[i][0] for i in batch], [jobs[i][1] for i in batch]
            text, position = row_order(ids)
            token = np.array([ids[k][t] for k, t in zip(text, position, strict=True)])
            reduced = _reduced(scorer, source, adaptor, adaptors, prompts, ids, token, bos, chunk, bar)
            values = {n: np.concatenate([r[n] for r in reduced]) for n in reduced[0]}
            parts.append({"text": np.array(batch)[text], "position": position, "token": token, **values})
    columns = {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
    order = np.lexsort((columns["position"], columns["text"]))
    return Records({n: c[order] for n, c in columns.items()}, meta, scorer)


def _reduced(scorer, source, adaptor, adaptors, prompts, ids, token, bos, chunk, bar) -> list[dict[str, np.ndarray]]:
    rows = scorer.rows(prompts, ids, bos=bos, chunk=chunk)
    other = repeat(None) if source is None else source.rows(prompts, ids, bos=bos, chunk=chunk)
    reduced, done = [], 0
    for logits, source_logits in zip(rows, other, strict=False):
        n = logits.shape[0]
        columns = row_columns(logits, like(token[done : done + n], logits), source_logits, adaptor, adaptors)
        reduced.append({name: as_numpy(c) for name, c in columns.items()})
        done += n
        bar.update(n)
    return reduced


def _batches(jobs) -> Iterator[list[int]]:
    """Indices of texts, sorted by length, in batches of at most `_BATCH_TOKENS` padded tokens."""
    order = sorted(range(len(jobs)), key=lambda i: (len(jobs[i][0]) + len(jobs[i][1]), i))
    batch: list[int] = []
    for i in order:
        width = len(jobs[i][0]) + len(jobs[i][1])
        if batch and (len(batch) + 1) * width > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _description(texts, scorer, source, adaptor, adaptors, context, bos) -> dict[str, Any]:
    described = {
        "scorer": scorer.name,
        "scorer_fingerprint": scorer.fingerprint,
        "context": context,
        "bos": bos,
        "dtype": getattr(scorer, "dtype_name", "float64"),
        "adaptors": [str(a) for a in adaptors],
        "sampler": texts.sampler,
    }
    if source is not None:
        described |= {
            "source": source.name,
            "source_fingerprint": source.fingerprint,
            "source_dtype": getattr(source, "dtype_name", "float64"),
            "adaptor": str(adaptor or ancestral()),
        }
    return described
