"""Texts of many adaptors of one language, drawn side by side; and the log-probability of texts under any other.

Row for row what `sample` draws with the same adaptor, seed, prompt and number of text; but the schemes share the batches,
a prompt goes through a network once whatever the number of its texts, and texts that have ended leave the batch. Beside
log_q, the law that a token was drawn from, log p_plus(y_t | x, y_<t) of the language without its adaptor is at hand and
kept: no second pass. Another language reads all texts at once, without the columns of `score` that nobody needs here.
Nats.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .._array import as_float64, as_numpy, gather, like, log_sum_exp, namespace
from .._progress import progress
from ..adaptors import Adaptor
from ..errors import DistributionError
from ..information import check_distribution, log_normalise
from ..languages.protocol import Language, row_order
from ..sampling import draw, text_stream
from ..scoring import batch_tokens, chunk_rows

__all__ = ["Drawn", "Job", "draw_jobs", "log_probabilities"]

_HIDDEN = 2**17  # hidden values of one token of all texts of a batch
_COMPACT = 0.75  # the batch is cut when fewer of its texts than this share are still being written


class Job(NamedTuple):
    """One text: its adaptor, the seed of its sampler, its prompt (an index), and its number among those of the prompt."""

    adaptor: Adaptor
    seed: int
    prompt: int
    text: int


class Drawn(NamedTuple):
    """One text, token by token: `ids`, `log_q` and `log_normaliser` of the sampler, `log_p_plus` without its adaptor."""

    ids: np.ndarray
    log_q: np.ndarray
    log_normaliser: np.ndarray
    log_p_plus: np.ndarray


def draw_jobs(
    language: Language,
    prompts: Sequence[Int[np.ndarray, " _"]],
    jobs: Sequence[Job],
    *,
    tokens: int,
    batch: int | None = None,
) -> Iterator[tuple[int, Drawn]]:
    """(index, text) of every job, batch by batch; a text ends with the end token, or at `tokens` tokens.

    `batch` texts side by side: 512 unless given, fewer for a wide network (32 of width 4,096: its cache is the larger).
    Raises DistributionError for what is no law.
    """
    batch = batch or int(np.clip(_HIDDEN // max(getattr(language, "width", 1), 1), 16, 512))
    order = sorted(range(len(jobs)), key=lambda i: (len(prompts[jobs[i].prompt]), i))
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]

    def work(which: list[int]) -> tuple[list[int], list[Drawn]]:
        now = sorted(which, key=lambda i: str(_cut(jobs[i].adaptor)))  # a slice per truncation
        return now, _side_by_side(language, prompts, [jobs[i] for i in now], tokens)

    with progress(total=len(jobs), desc=f"texts of {language.name}", unit="text") as bar:
        for now, found in _concurrently(language, work, batches):
            bar.update(len(now))
            yield from zip(now, found, strict=True)


def _concurrently(language: Any, work: Callable, batches: Sequence) -> Iterator:
    """work(batch) of every batch, in their order, as many at once as suit the language, each on one thread."""
    at_once = min(getattr(language, "concurrent_batches", 1), len(batches))
    with getattr(language, "stepping", nullcontext)(1):
        if at_once < 2:
            yield from map(work, batches)
            return
        pool = ThreadPoolExecutor(at_once)
        try:
            yield from pool.map(work, batches)
        finally:
            pool.shutdown(cancel_futures=True)


def _side_by_side(language: Any, prompts: Sequence[np.ndarray], jobs: list[Job], tokens: int) -> list[Drawn]:
    """All texts start from the first token of their prompts: what is left of a longer prompt is fed while others draw."""
    n, least = len(jobs), min(len(prompts[job.prompt]) for job in jobs)
    uniforms = np.stack([text_stream(job.seed, job.prompt, job.text).random(tokens) for job in jobs])
    tau = np.array([job.adaptor.tau for job in jobs])
    cuts, rest = [_cut(job.adaptor) for job in jobs], [prompts[job.prompt][least:] for job in jobs]
    log_p, state = _begun(language, prompts, jobs, least)
    ids, columns = np.zeros((n, tokens), np.int64), np.zeros((3, n, tokens))
    length, alive, t = np.zeros(n, np.int64), np.arange(n), -np.array([len(r) for r in rest])
    while True:
        check_distribution(log_p, what=f"log_p of {language.name}")
        log_q, log_z = _adapted(log_p, tau[alive], [cuts[i] for i in alive])
        drawn = draw(log_q, uniforms[alive, np.maximum(t, 0)])
        own, token = (t >= 0) & (length[alive] == 0), as_numpy(drawn).copy()
        token[t < 0] = [rest[i][k] for i, k in zip(alive[t < 0], t[t < 0], strict=True)]  # k < 0 counts from the end
        for column, value in zip(columns, (gather(log_q, drawn), log_z, gather(log_p, drawn)), strict=True):
            column[alive[own], t[own]] = as_numpy(value)[own]
        ids[alive[own], t[own]] = token[own]
        ends = own & ((token == language.eos) | (t + 1 == tokens))
        length[alive[ends]] = t[ends] + 1
        going = length[alive] == 0
        if not going.any():
            break
        if going.mean() < _COMPACT:
            state = language.select(state, np.flatnonzero(going))
            alive, token, t = alive[going], token[going], t[going]
        log_p, state = language.step(state, token)
        t = np.minimum(t + 1, tokens - 1)
    return [Drawn(ids[i, :k], *columns[:, i, :k]) for i, k in enumerate(length)]


def _begun(language: Any, prompts: Sequence[np.ndarray], jobs: list[Job], least: int) -> tuple[Any, Any]:
    """Laws and state after the first `least` tokens of the prompts of all jobs: each distinct one is read once."""
    begun = [tuple(prompts[job.prompt][:least].tolist()) for job in jobs]
    distinct = {tokens: k for k, tokens in enumerate(dict.fromkeys(begun))}
    log_p, state = language.start([np.array(tokens, np.int64) for tokens in distinct])
    row = np.array([distinct[tokens] for tokens in begun])
    return log_p[like(row, log_p)], language.select(state, row)


def log_probabilities(
    language: Language, contexts: Sequence[Int[np.ndarray, " _"]], texts: Sequence[Int[np.ndarray, " _"]]
) -> list[Float[np.ndarray, " _"]]:
    """log p(y_t | context, y_<t) of every token of every text, nats, after its own context (none: the start token alone).

    A token that cannot be written makes the rest of its text -inf. Raises DistributionError for what is no number (an
    exact language may have no law after tokens that begin no text of it).
    """
    order = np.argsort([len(c) + len(y) for c, y in zip(contexts, texts, strict=True)], kind="stable")
    found: list[Any] = [None] * len(texts)
    room, batches = batch_tokens(language), []
    while order.size:
        lengths = np.array([len(contexts[i]) + len(texts[i]) for i in order])
        size = max(1, int(np.sum(np.arange(1, len(order) + 1) * lengths <= room)))
        batches.append(order[:size])
        order = order[size:]

    def work(now: np.ndarray) -> list[np.ndarray]:
        return _read(language, [contexts[i] for i in now], [texts[i] for i in now])

    with progress(total=len(texts), desc=f"reading by {language.name}", unit="text") as bar:
        for now, values in zip(batches, _concurrently(language, work, batches), strict=True):
            for i, log_p in zip(now, values, strict=True):
                found[i] = _checked(log_p, int(i), language)
            bar.update(len(now))
    return found


def _read(language: Any, contexts: list[np.ndarray], texts: list[np.ndarray]) -> list[np.ndarray]:
    text, position = row_order(texts)
    token = np.array([texts[i][t] for i, t in zip(text, position, strict=True)])
    values, done = np.empty(len(token)), 0
    for logits in language.rows(contexts, texts, chunk=chunk_rows(language.vocab_size)):
        rows = slice(done, done + logits.shape[0])
        log_p = log_normalise(as_float64(logits))
        values[rows], done = as_numpy(gather(log_p, like(token[rows], log_p))), rows.stop
    return [values[text == k] for k in range(len(texts))]


def _checked(log_p: np.ndarray, text: int, language: Language) -> np.ndarray:
    log_p = np.where(np.maximum.accumulate(np.isneginf(log_p)), -np.inf, log_p)
    if np.isnan(log_p).any():
        raise DistributionError(f"text {text} has a token whose log-probability under {language.name} is no number")
    return log_p


def _cut(adaptor: Adaptor) -> Adaptor:
    """The adaptor without its temperature."""
    return Adaptor(tuple(step for step in adaptor.steps if step[0] != "temperature"))


def _adapted(log_p: Any, tau: Float[np.ndarray, " batch"], cuts: list[Adaptor]) -> tuple[Any, Any]:
    """`Adaptor.transform` of every row with its own adaptor: the temperatures at once, a slice per truncation."""
    xp = namespace(log_p)
    scale = like(tau, log_p)[:, None]
    weights = log_p / scale
    total = xp.where(scale[:, 0] == 1, xp.zeros_like(log_p[:, 0]), log_sum_exp(weights))
    tempered = weights - total[:, None]
    ends = [i for i in range(1, len(cuts)) if cuts[i] != cuts[i - 1]]
    parts = [cuts[a].transform(tempered[a:b]) for a, b in zip([0, *ends], [*ends, len(cuts)], strict=True)]
    log_q, log_z = (xp.concat([getattr(p, name) for p in parts]) for name in ("log_q", "log_normaliser"))
    return log_q, log_z + total
