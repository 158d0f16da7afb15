"""Scoring: one pass over a language yields, per token, every column of `Records`. Memory is O(chunk x vocab)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any
from warnings import warn

import numpy as np

from ._array import as_numpy, like
from ._failures import Failures
from ._progress import progress
from .adaptors import Adaptor, ancestral, as_adaptor
from .errors import AdaptorError, ParameterError, PromptError, VocabularyMismatch, unknown_name
from .languages.protocol import Language, row_order
from .records import Records, Texts
from .reduction import row_columns
from .store import Store, open_store, shards_of
from .stretches import batches_of, stretches_of

__all__ = ["batch_tokens", "chunk_rows", "description", "key_parts", "score"]

_CONTEXTS = ("full", "rolling", "strided")
_HIDDEN = 2**20  # hidden values of a batch: texts that go through a network side by side
_SINGLE = float(np.finfo(np.float32).max)  # of a record
_ENTRIES = 2**23  # of a chunk of logits


def score(
    texts: Texts | str | Sequence[str] | Sequence[Sequence[int | np.integer] | np.ndarray] | np.ndarray,
    scorer: Language,
    *,
    source: Language | None = None,
    adaptor: Adaptor | str | None = None,
    adaptors: Sequence[Adaptor] = (),
    context: str = "full",
    bos: bool | str = True,
    store: Any = None,
    chunk: int | None = None,
    overlap: int | None = None,
    compiled: bool | None = None,
) -> Records:
    """Score every token of every text under `scorer`, and against `source` if one is given.

    Parameters
    ----------
    texts : `Texts` of `sample` (prompts are context and never scored), or strings or id sequences without prompt
    source, adaptor : the language that wrote the texts and the adaptor it used. b_t and v_t then use its adapted law
        p_A ("source-masked": the source's own support mask applies to p_A, the scorer stays untruncated). The adaptor is
        the one that `Texts` of that source record, unless given (with a warning where it differs); ancestral for others
    adaptors : further adaptors of the *scorer* whose `log_q_<adaptor>` columns are wanted
    context : "full": prompt and text within the context length. "rolling": the model's own sliding window, any length,
        exact; only for models whose every layer has one. "strided": windows of the context length that share `overlap`
        tokens (half a window unless given); a token is scored once, in the first window that holds it, so the second
        window on sees at least `overlap` tokens before it. Recorded, as is `bos`
    bos : True puts the start token before a text, "every" before each of its windows too; without one (False, or a model
        that has none) and without a prompt, the first token of a text is context and not scored
    chunk : rows whose full distributions are held at once (by default about 2^23 entries); changes no value
    compiled : None compiles the reduction for large work only (`neural.compiled`); True, False: whenever possible, never
    store : a folder, or True for the store of this user: records are kept there in shards and found again. Where the
        scorer fails on a text, the other shards are scored and kept before the error is raised

    Returns
    -------
    Records, sorted by text and position. All quantities in nats (varentropies in nats²).

    Raises
    ------
    VocabularyMismatch, ContextTooLong, PromptError, ParameterError, AdaptorError, DistributionError
    """
    check_languages(scorer, source)
    texts = texts if isinstance(texts, Texts) else _as_texts(texts, scorer)
    adaptor = _of_source(texts, source, adaptor)
    chunk = chunk_rows(scorer.vocab_size) if chunk is None else chunk
    _check_options(context, bos, chunk, overlap, compiled, adaptors)
    check_pair(texts.language, scorer, "the texts of ")
    check_pair(source, scorer)
    languages = [x for x in (scorer, source) if x is not None]
    jobs = stretches_of(texts, languages, context, bos, overlap)
    meta, batch = description(texts, scorer, source, adaptor, adaptors, context, bos, overlap), batch_tokens(*languages)
    opened, written = open_store(store), _written(texts, meta)
    if written is not None and opened is None:
        return written
    options = {"adaptor": adaptor, "adaptors": adaptors, "chunk": chunk, "compiled": compiled, "batch": batch}
    compute = partial(_score, scorer=scorer, source=source, **options)
    if opened is None:
        return replace(compute(jobs), meta=meta, language=scorer, text_keys=texts.keys())
    return _through_store(opened, texts, jobs, compute, meta, scorer, batch, written)


def key_parts(meta: dict[str, Any], texts: Texts | None = None) -> dict[str, Any]:
    """What determines the record that `meta` (of `description`) describes, with the ids and prompts of its texts."""
    parts = {k: v for k, v in meta.items() if k not in ("sampler", "scorer", "source")}
    return parts if texts is None else parts | {"ids": texts.ids, "before": [texts.prompts[p] for p in texts.prompt]}


def _written(texts: Texts, meta: dict[str, Any]) -> Records | None:
    """The record that was written while the texts were sampled, if it is the one that `meta` describes."""
    records = texts.records
    if records is None or key_parts(records.meta) != key_parts(meta):
        return None
    return records if np.array_equal(records.text_keys, texts.keys()) else None  # ids or prompts were replaced


def _through_store(store: Store, texts, jobs, compute, meta, scorer, batch, written) -> Records:
    """What the store has, and the rest scored (or as `written` while sampling) in groups of shards that fill a batch; each
    is put into the store when it is done. The shards of a group that fails are tried one by one."""
    shards = shards_of(texts)
    selected = [texts.select(shard) for shard in shards]
    found = [store.get("tokens", key_parts(meta, part), scorer) for part in selected]
    groups: list[list[int]] = [[]]
    for i in (i for i, records in enumerate(found) if records is None):
        if sum(len(ids) for k in groups[-1] for ids in selected[k].ids) >= batch:
            groups.append([])
        groups[-1].append(i)
    failures = Failures(scorer, len(shards) > 1, store.folder)
    groups = [group for group in groups if group]
    while groups:
        group = groups.pop(0)
        wanted = np.concatenate([shards[i] for i in group])
        new = {text: k for k, text in enumerate(wanted.tolist())}
        parts = [job._replace(text=new[job.text]) for job in jobs if job.text in new]
        with failures:
            scored = compute(parts) if written is None else written.select(wanted)
        if failures.caught is not None and len(group) > 1:
            groups[:0] = [[i] for i in group]
            continue
        if failures.caught is not None:
            failures.note(f"texts {wanted[0]} to {wanted[-1]} (of prompt {texts.prompt[wanted[0]]})")
            continue
        ends = np.cumsum([len(shards[i]) for i in group])
        for i, end in zip(group, ends, strict=True):
            part = scored.select(np.arange(end - len(shards[i]), end))
            part = replace(part, meta=meta, language=scorer, text_keys=selected[i].keys())
            found[i] = store.put("tokens", key_parts(meta, selected[i]), part)
    failures.finish()
    return replace(Records.concatenate(found), meta=meta, language=scorer)


def chunk_rows(vocab_size: int) -> int:
    """Rows whose full distributions are held at once: about 2^23 entries."""
    return min(max(_ENTRIES // vocab_size, 64), 1024)


def batch_tokens(*languages: Language) -> int:
    """Padded tokens of the texts that go through the networks side by side: about 2^20 hidden values, so that what a wider
    network holds at once does not grow, and what a narrow one works on stays in the processor's cache."""
    width = max(getattr(language, "width", 0) for language in languages)
    return min(max(_HIDDEN // max(width, 1), 1024), 4096)


def check_languages(*languages) -> None:
    """ParameterError for a name in the place of a language."""
    for language in languages:
        if language is not None and not hasattr(language, "vocab_size"):
            raise ParameterError(f"{language!r} is not a language: a model is loaded by aep.load({str(language)!r})")


def _check_options(context, bos, chunk, overlap, compiled, adaptors) -> None:
    if context not in _CONTEXTS:
        raise ParameterError(unknown_name("context", context, _CONTEXTS))
    if overlap is not None and context != "strided":
        raise ParameterError(f"overlap={overlap!r} belongs to windows: give context='strided' too")
    if compiled not in (None, True, False):
        raise ParameterError(f"compiled={compiled!r}: None, True or False is needed")
    if not isinstance(bos, bool) and bos != "every":
        raise ParameterError(f"bos={bos!r}: True, False or 'every' is needed")
    if isinstance(chunk, bool) or not isinstance(chunk, int | np.integer) or chunk < 1:
        raise ParameterError(f"chunk={chunk!r}: at least 1 row is needed")
    if not isinstance(adaptors, list | tuple):
        raise AdaptorError(f"adaptors={adaptors!r}: give a list, such as adaptors=[aep.temperature(.8)]")
    for a in adaptors:
        if not isinstance(a, Adaptor):
            raise AdaptorError(f"adaptor={a!r}: give an adaptor such as aep.temperature(.8)")


def _of_source(texts: Texts, source: Language | None, adaptor: Adaptor | str | None) -> Adaptor | None:
    """The adaptor that was given, else the one that texts of this source record, else ancestral; None without a source."""
    if source is None:
        if adaptor is not None:
            raise AdaptorError(
                f"adaptor={adaptor}: an adaptor belongs to a source; for log_q columns use adaptors=[...]"
            )
        return None
    recorded, is_its = texts.sampler.get("adaptor"), texts.sampler.get("fingerprint") == source.fingerprint
    used = as_adaptor(recorded if is_its and adaptor is None else adaptor)
    if adaptor is None and not is_its and recorded not in (None, str(used)):
        who = texts.sampler.get("language")
        warn(f"{who} drew these texts with {recorded}; the source {source.name} is taken with {used}", stacklevel=3)
    if is_its and recorded not in (None, str(used)):
        warn(
            f"{source.name} drew these texts with {recorded}, and adaptor={used} was given: b and v are of {used}",
            stacklevel=3,
        )
    return None if used.is_ancestral else used


def _as_texts(texts, scorer) -> Texts:
    one = isinstance(texts, str)
    strings = 0 if one or not hasattr(texts, "__len__") else sum(isinstance(t, str) for t in texts)
    if not hasattr(texts, "__len__") or isinstance(texts, dict) or strings not in (0, len(texts)):
        raise PromptError(f"texts={texts!r}: give Texts, a string, or a list of strings or of id sequences")
    if one or strings:
        return Texts.from_strings(scorer, texts)
    return Texts.from_ids(scorer, texts)


def check_pair(source, scorer, what: str = "") -> None:
    """VocabularyMismatch unless the ids of two languages mean the same tokens, as far as they say; None fits any."""
    if source is None:
        return
    same = source.vocab_size == scorer.vocab_size
    a, b = (getattr(x, "vocabulary_hash", None) for x in (source, scorer))
    if not same or (a and b and a != b):
        raise VocabularyMismatch(
            f"{what}{source.name} ({source.vocab_size} tokens) and {scorer.name} ({scorer.vocab_size} tokens) have "
            "different vocabularies, so h_(A,B) per token is undefined: compare them per byte, each as aep.per_byte(model)"
        )


def _score(jobs, *, scorer, source, adaptor, adaptors, chunk, compiled, batch) -> Records:
    parts: list[dict[str, np.ndarray]] = []
    total = sum(len(job.ids) for job in jobs)
    fused = scorer.fused(total * scorer.vocab_size, compiled) if hasattr(scorer, "fused") else None
    reduce = partial(row_columns, adaptor=adaptor, adaptors=tuple(adaptors), fused=fused)
    with progress(total=total, desc=f"scoring under {scorer.name}", unit="token") as bar:
        for group in batches_of(jobs, batch):
            text, position = row_order([job.ids for job in group])
            starts = np.cumsum([0, *(len(job.ids) for job in group)])
            token = np.concatenate([job.ids for job in group])[starts[text] + position]
            blocks = _reduced(scorer, source, group, token, chunk, reduce, bar)
            values = {n: np.concatenate([block.pop(n) for block in blocks]) for n in list(blocks[0])}
            which, offset = (np.array([getattr(job, name) for job in group])[text] for name in ("text", "offset"))
            parts.append({"text": which, "position": offset + position, "token": token, **values})
    order = np.lexsort([np.concatenate([p[n] for p in parts]) for n in ("position", "text")])
    # A column at a time, so that a long text is held once and not three times.
    columns = {n: np.concatenate([p.pop(n) for p in parts])[order] for n in list(parts[0])}
    for a in adaptors:
        log_q = columns[f"log_q_{a}"]
        if np.isnan(log_q).any() or (np.isfinite(log_q) & (log_q < -_SINGLE)).any():
            raise AdaptorError(f"adaptor={a}: log q is NaN or beyond single precision; its parameters are out of reach")
    return Records(columns)


def _reduced(scorer, source, batch, token, chunk, reduce, bar) -> list[dict[str, np.ndarray]]:
    """The columns of one batch in the order of `row_order`, chunk by chunk; source and scorer go side by side, and a
    language that is both goes once."""
    asked = ([job.context for job in batch], [job.ids for job in batch])
    rows = scorer.rows(*asked, bos=batch[0].bos, chunk=chunk)
    alone = source is None or source is scorer
    other = repeat(None) if alone else source.rows(*asked, bos=batch[0].bos, chunk=chunk)
    reduced, done = [], 0
    for logits, source_logits in zip(rows, other, strict=False):
        n = logits.shape[0]
        if source is scorer:
            source_logits = logits.clone() if hasattr(logits, "clone") else logits.copy()
        columns = reduce(logits, like(token[done : done + n], logits), source_logits)
        reduced.append({name: as_numpy(c) for name, c in columns.items()})
        done += n
        bar.update(n)
    return reduced


def description(
    texts: Texts, scorer, source=None, adaptor=None, adaptors=(), context="full", bos=True, overlap=None
) -> dict[str, Any]:
    """The `meta` of a record: who scored, under which policies, and who sampled the texts."""
    described = {
        "scorer": scorer.name,
        "scorer_fingerprint": scorer.fingerprint,
        "context": context,
        "bos": bos,
        "dtype": getattr(scorer, "dtype_name", "float64"),
        "adaptors": [str(a) for a in adaptors],
        "sampler": texts.sampler,
    }
    if context == "strided":
        described["overlap"] = "half a window" if overlap is None else int(overlap)
    if source is not None:
        described |= {
            "source": source.name,
            "source_fingerprint": source.fingerprint,
            "source_dtype": getattr(source, "dtype_name", "float64"),
            "adaptor": str(adaptor or ancestral()),
        }
    return described
