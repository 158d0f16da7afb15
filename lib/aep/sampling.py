"""Sampling from any language, exact or neural: inverse CDF in token-id order, one random stream per text."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ._array import as_float64, as_numpy, gather, like, namespace
from ._failures import Failures
from ._progress import progress
from .adaptors import Adapted, Adaptor, as_adaptor
from .errors import AdaptorError, ContextTooLong, DistributionError, ParameterError, PromptError, shown, unknown_name
from .information import check_distribution
from .languages.protocol import Language, as_ids, check_count
from .records import Records, Texts
from .reduction import row_columns
from .scoring import check_languages, description, key_parts
from .store import SHARD, Store, open_store

__all__ = ["draw", "sample", "text_stream"]

_STOPS = ("never", "eos")


def text_stream(seed: int, prompt: int, text: int) -> np.random.Generator:
    """The random stream of one text: it depends on the seed and on the indices of prompt and text alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(prompt, text)))


def draw(log_q: Float[Any, "batch vocab"], uniform: Float[np.ndarray, " batch"]) -> Int[Any, " batch"]:
    """One token per row by inverse CDF in token-id order: the first v with Σ_{w<=v} q(w) > u.

    DistributionError if a row does not sum to one (1e-6), so that a broken language cannot go unnoticed.
    """
    xp = namespace(log_q)
    cdf = xp.cumulative_sum(xp.exp(as_float64(log_q)), axis=-1)
    total = cdf[..., -1:]
    fits = as_numpy(xp.abs(total - 1))[..., 0] <= (1e-6 if cdf.dtype == xp.float64 else 1e-3)
    if not fits.all():
        row = int(np.argmin(fits))
        found = float(total[row, 0])
        raise DistributionError(f"next-token probabilities of text {row} in the batch sum to {found:.9g}, not to 1")
    threshold = xp.astype(like(uniform, cdf), cdf.dtype)[..., None] * total
    token = xp.sum(xp.astype(cdf <= threshold, xp.int64), axis=-1)
    last = xp.sum(xp.astype(cdf < total, xp.int64), axis=-1)  # u·total can round up to total
    return xp.where(token < last, token, last)


def sample(
    language: Language,
    prompts: Sequence[str | Sequence[int | np.integer] | np.ndarray] | np.ndarray | str | None = None,
    *,
    texts: int = 1,
    tokens: int,
    seed: int,
    adaptor: Adaptor | str | None = None,
    stop: str = "never",
    store: Any = None,
    record: bool = False,
    batch: int = 64,
) -> Texts:
    """Sample `texts` texts of at most `tokens` tokens after each prompt.

    Parameters
    ----------
    prompts : strings or id arrays; None is the start token alone (for an exact language: its initial law)
    texts : number per prompt
    seed : with the indices of prompt and text it determines a text, whatever `batch` is in double precision; in single or
        half a probability may round differently in another batch, and a text with it
    adaptor : an adaptor or its string ("temperature(.8)|top_k(50)"), `ancestral()` unless given; never inherited from a
        model's generation config
    stop : "never" samples on past an end token, so that every text has `tokens` tokens; "eos" ends a text after it
    store : a folder, or True for the store of this user: texts are kept there in shards of 16, each as soon as it is
        complete, and found again by any request that contains them. Where the language fails on a prompt, the texts of the
        others are drawn and kept before the error is raised
    record : reduce the laws that are sampled from to the columns of `Records` (of the language itself, without the adaptor):
        `score(texts, language)` then returns `texts.records` without a second pass over the network

    Returns
    -------
    Texts, ordered by prompt and text, with `log_q` and `log_normaliser` (nats) of every token as it was drawn.

    Raises
    ------
    PromptError, ParameterError, AdaptorError, ContextTooLong, DistributionError, RecordError (the store)
    """
    check_languages(language)
    adaptor = checked_adaptor(texts, tokens, seed, batch, adaptor, stop, language)
    prompt_ids = ids_of_prompts(language, prompts)
    check_context(language, prompt_ids, tokens)
    sampler = _description(language, adaptor, seed, stop, tokens)
    request = _Request(language, prompt_ids, tokens, seed, adaptor, stop, batch, record, sampler)
    shards = [
        _Shard(p, first, min(SHARD, texts - first)) for p in range(len(prompt_ids)) for first in range(0, texts, SHARD)
    ]
    found = _drawn(request, shards, open_store(store))
    drawn = Texts.concatenate([found[shard] for shard in shards])
    # Prompts stay those of the call: two equal ones have different streams. Versions are those of the drawing.
    sampler |= {"versions": drawn.sampler["versions"]}
    drawn = replace(drawn, prompts=prompt_ids, prompt=drawn.stream[:, 0].copy(), sampler=sampler, language=language)
    if not record:
        return drawn
    records = Records.concatenate([found[shard].records for shard in shards])
    records = replace(records, meta=description(drawn, language), language=language, text_keys=drawn.keys())
    return replace(drawn, records=records)


class _Request(NamedTuple):
    language: Language
    prompts: list[np.ndarray]
    tokens: int
    seed: int
    adaptor: Adaptor
    stop: str
    batch: int
    record: bool
    sampler: dict[str, Any]


class _Row(NamedTuple):
    """One sampled text."""

    ids: np.ndarray
    log_q: np.ndarray
    log_normaliser: np.ndarray
    finished: bool
    columns: dict[str, np.ndarray]


class _Shard(NamedTuple):
    """`count` texts of one prompt, from number `first` on."""

    prompt: int
    first: int
    count: int

    def jobs(self) -> list[tuple[int, int]]:
        return [(self.prompt, text) for text in range(self.first, self.first + self.count)]

    def parts(self, request: _Request) -> dict[str, Any]:
        """Everything that determines the shard. The index of the prompt is part of it: the random stream depends on it. So
        is the end token, which fingerprints of exact languages leave out, where texts end with it."""
        named = {k: v for k, v in request.sampler.items() if k not in ("language", "versions")}
        named |= {"eos": request.language.eos} if request.stop == "eos" else {}
        return named | {"prompt": request.prompts[self.prompt], **{f"shard_{k}": v for k, v in self._asdict().items()}}


def _drawn(request: _Request, shards: list[_Shard], store: Store | None) -> dict[_Shard, Texts]:
    """What the store has, and the rest drawn in common batches; a shard is written as soon as its texts are complete."""
    found = {shard: texts for shard in shards if store and (texts := _found(store, request, shard)) is not None}
    rows: dict[_Shard, list[_Row]] = {shard: [] for shard in shards if shard not in found}
    owner = {job: shard for shard in rows for job in shard.jobs()}
    failures = Failures(request.language, len(request.prompts) > 1, store and store.folder)
    for job, row in _rows(request, list(owner), failures):
        shard = owner[job]
        rows[shard].append(row)
        if len(rows[shard]) == shard.count:
            texts = _as_texts(request, shard, rows.pop(shard))
            found[shard] = _put(store, request, shard, texts) if store else texts
    failures.finish()
    return found


def _found(store: Store, request: _Request, shard: _Shard) -> Texts | None:
    """The shard from the store; the last of a request, which may be short, also from the whole one that begins with it."""
    texts = store.get("texts", shard.parts(request))
    if texts is None and shard.count < SHARD:
        whole = store.get("texts", shard._replace(count=SHARD).parts(request))
        texts = None if whole is None else whole.select(range(shard.count))
    if texts is None or not request.record:
        return texts
    records = store.get("tokens", key_parts(description(texts, request.language), texts))
    return None if records is None else replace(texts, records=records)


def _put(store: Store, request: _Request, shard: _Shard, texts: Texts) -> Texts:
    """Write the texts, and their record under the key that `score` asks for; what the files hold."""
    records = texts.records
    if records is not None:
        records = store.put("tokens", key_parts(records.meta, texts), records)
    return replace(store.put("texts", shard.parts(request), texts), records=records)


def _as_texts(request: _Request, shard: _Shard, rows: list[_Row]) -> Texts:
    texts = Texts(
        [row.ids for row in rows],
        [request.prompts[shard.prompt]],
        np.zeros(shard.count, np.int64),
        request.sampler,
        np.array([row.finished for row in rows]),
        [row.log_q for row in rows],
        [row.log_normaliser for row in rows],
        stream=np.array(shard.jobs()),
    )
    if not request.record:
        return texts
    lengths = [len(row.ids) for row in rows]
    columns = {
        "text": np.repeat(np.arange(len(rows)), lengths),
        "position": np.concatenate([np.arange(n) for n in lengths]),
        "token": np.concatenate(texts.ids),
    }
    columns |= {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}
    meta = description(texts, request.language)
    return replace(texts, records=Records(columns, meta, request.language, texts.keys()))


def _rows(request: _Request, jobs: list[tuple], failures: Failures) -> Iterator[tuple[tuple[int, int], _Row]]:
    """(prompt, text) and `_sample_batch`'s row of every job, batch by batch: prompts in order of length. The prompts of a
    batch that fails are tried one by one, and those that fail alone are noted and left out."""
    language, prompts = request.language, request.prompts
    jobs = sorted(jobs, key=lambda job: (len(prompts[job[0]]), job))  # a batch holds prompts of one length
    stepping = getattr(language, "stepping", nullcontext)(min(request.batch, max(len(jobs), 1)))
    total, alone = len(jobs) * request.tokens, set()
    with stepping, progress(total=total, desc=f"sampling {language.name}", unit="token") as bar:
        while jobs:
            first = jobs[0][0]
            length = len(prompts[first])
            now = [job for job in jobs[: request.batch] if len(prompts[job[0]]) == length]
            now = [job for job in now if job[0] == first] if first in alone else now
            uniforms = np.stack([text_stream(request.seed, *job).random(request.tokens) for job in now])
            contexts = [prompts[p] for p, _ in now]
            with failures:
                rows = _sample_batch(request, contexts, uniforms, bar)
            if failures.caught is None:
                jobs = jobs[len(now) :]
                yield from zip(now, rows, strict=True)
            elif len(here := {p for p, _ in now}) > 1:
                alone |= here
            else:
                failures.note(f"prompt {first} (ids {shown(prompts[first].tolist())})")
                jobs = [job for job in jobs if job[0] != first]


def _sample_batch(request: _Request, prompts: list[np.ndarray], uniforms: np.ndarray, bar: Any) -> list[_Row]:
    """The texts of one batch, drawn side by side."""
    language, adaptor = request.language, request.adaptor
    n, tokens = uniforms.shape
    ids = np.zeros((n, tokens), np.int64)
    log_q, log_z = np.zeros((n, tokens)), np.zeros((n, tokens))
    columns: dict[str, np.ndarray] = {}
    length = np.full(n, tokens)
    log_p, state = language.start(prompts)
    for t in range(tokens):
        adapted = adapted_law(adaptor, log_p)
        token = draw(adapted.log_q, uniforms[:, t])
        ids[:, t] = as_numpy(token)
        log_q[:, t] = as_numpy(gather(adapted.log_q, token))
        log_z[:, t] = as_numpy(adapted.log_normaliser)
        for name, value in step_columns(language, log_p, token).items() if request.record else ():
            value = as_numpy(value)
            columns.setdefault(name, np.zeros((n, tokens), value.dtype))[:, t] = value
        bar.update(n)
        if request.stop == "eos":
            length = np.where((ids[:, t] == language.eos) & (length == tokens), t + 1, length)
            if (length <= t + 1).all():
                break
        if t + 1 < tokens:
            log_p, state = language.step(state, ids[:, t])
    ended = ids[np.arange(n), length - 1] == language.eos if language.eos is not None else np.zeros(n, bool)
    return [
        _Row(ids[i, :k], log_q[i, :k], log_z[i, :k], bool(ended[i]), {name: c[i, :k] for name, c in columns.items()})
        for i, k in enumerate(length)
    ]


def adapted_law(adaptor: Adaptor, log_p: Any) -> Adapted:
    """The law to draw from; AdaptorError where log Z is NaN or beyond single precision, in which it is kept."""
    if adaptor.is_ancestral:
        return adaptor.transform(log_p)
    with np.errstate(over="ignore", invalid="ignore"):  # refused in the next line
        adapted = adaptor.transform(check_distribution(log_p, what="log_p"))
    if not (abs(as_numpy(adapted.log_normaliser)) <= np.finfo(np.float32).max).all():
        raise AdaptorError(
            f"adaptor={adaptor}: log Z is NaN or beyond single precision; its parameters are out of reach"
        )
    return adapted


def step_columns(language: Language, log_p: Any, token: Any) -> dict[str, Any]:
    """The columns of one step, in double precision only for a network that computes in it: as `score` gives them."""
    xp = namespace(log_p)
    double = getattr(language, "dtype_name", "float64") == "float64"
    return row_columns(log_p if double else xp.astype(log_p, xp.float32), token)


def checked_adaptor(texts, tokens, seed, batch, adaptor, stop, language) -> Adaptor:
    """The adaptor of a call of `sample`; ParameterError or AdaptorError, before any work, for options out of range."""
    check_count(1, texts=texts, tokens=tokens, batch=batch)
    check_count(0, seed=seed)
    if stop not in _STOPS:
        raise ParameterError(unknown_name("stop rule", stop, _STOPS))
    if stop == "eos" and language.eos is None:
        raise ParameterError(f"stop='eos': {language.name} has no end token; use stop='never'")
    return as_adaptor(adaptor)


def ids_of_prompts(language, prompts) -> list[np.ndarray]:
    """The prompts of a call of `sample` as token ids, an empty one for None; PromptError for what is none."""
    if prompts is None:
        if language.needs_context(True):
            raise PromptError(f"{language.name} has no start token: give at least one prompt")
        return [np.empty(0, np.int64)]
    if not hasattr(prompts, "__len__"):
        raise PromptError(f"prompts={prompts!r}: give strings or id arrays, or None for the start token alone")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise PromptError("prompts is an empty list: give at least one prompt, or None for the start token alone")
    ids = [
        as_ids(language.encode(p) if isinstance(p, str) else p, language.vocab_size, f"prompt {i}")
        for i, p in enumerate(prompts)
    ]
    empty = next((i for i, p in enumerate(ids) if not len(p)), None)
    if empty is not None:
        raise PromptError(f"prompt {empty} is empty: give None to sample from the start token alone")
    return ids


def check_context(language, prompts, tokens) -> None:
    """ContextTooLong unless the longest prompt and `tokens` tokens fit into the context of the language."""
    limit = getattr(language, "context_length", None)
    prompt = max(map(len, prompts))
    if limit is not None and prompt + tokens > limit:
        mend = f"ask for at most {limit - prompt} tokens" if prompt < limit else f"shorten the prompt of {prompt}"
        raise ContextTooLong(
            f"prompt and text have {prompt + tokens} tokens, {language.name} has a context of {limit}: {mend}"
        )


def _description(language, adaptor, seed, stop, tokens) -> dict[str, Any]:
    described = {
        "language": language.name,
        "fingerprint": language.fingerprint,
        "adaptor": str(adaptor),
        "seed": int(seed),
        "stop": stop,
        "tokens": int(tokens),
        "dtype": getattr(language, "dtype_name", "float64"),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    if hasattr(language, "dtype_name"):
        described["versions"] |= {name: version(name) for name in ("torch", "transformers")}
    return described
