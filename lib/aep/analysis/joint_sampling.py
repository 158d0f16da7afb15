"""Texts of many adaptors of one language, drawn side by side and read by another language in the same pass.

Row for row what `sample` draws with the same adaptor, seed, prompt and number of text; but the schemes share the batches,
a prompt goes through a network once whatever the number of its texts, and texts that have ended leave the batch. While a
token is drawn from the adapted law of `source`, three log-probabilities of it are at hand and kept (nats): that of the
source without its adaptor, log p_plus(y_t | x, y_<t); that of the reader, log p(y_t | x, y_<t); and, if asked for, that
of the reader who did not see the prompt, log p(y_t | y_<t).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .._array import as_numpy, gather, like, log_sum_exp, namespace
from .._progress import progress
from ..adaptors import Adaptor
from ..errors import DistributionError
from ..information import check_distribution
from ..languages.protocol import Language
from ..sampling import draw, text_stream

__all__ = ["Drawn", "Job", "draw_jobs"]

_COMPACT = 0.75  # the batch is cut when fewer of its texts than this share are still being written


class Job(NamedTuple):
    """One text: its adaptor, the seed of its sampler, its prompt (an index), and its number among those of the prompt."""

    adaptor: Adaptor
    seed: int
    prompt: int
    text: int


class Drawn(NamedTuple):
    """One text, token by token: `ids`, `log_q` and `log_normaliser` of the sampler, and what `module` says of the others."""

    ids: np.ndarray
    log_q: np.ndarray
    log_normaliser: np.ndarray
    log_p_plus: np.ndarray
    log_p: np.ndarray
    log_p_alone: np.ndarray


def draw_jobs(
    source: Language,
    reader: Language,
    prompts: Sequence[Int[np.ndarray, " _"]],
    jobs: Sequence[Job],
    *,
    tokens: int,
    alone: bool = True,
    batch: int = 224,
) -> Iterator[tuple[int, Drawn]]:
    """(index, text) of every job, batch by batch; a text ends with the end token of `source`, or at `tokens` tokens.

    With ``alone=False`` log_p_alone is NaN: an exact language may have no law after tokens that begin no text of it. A
    token that the reader cannot write makes log_p -inf from there on. Raises DistributionError for what is no law or a
    NaN.
    """
    order = sorted(range(len(jobs)), key=lambda i: (len(prompts[jobs[i].prompt]), i))
    with ExitStack() as stack, progress(total=len(jobs), desc=f"texts of {source.name}", unit="text") as bar:
        for language in {id(x): x for x in (source, reader)}.values():
            stack.enter_context(getattr(language, "stepping", nullcontext)(min(batch, max(len(jobs), 1))))
        while order:
            length = len(prompts[jobs[order[0]].prompt])
            now = [i for i in order[:batch] if len(prompts[jobs[i].prompt]) == length]
            order = order[len(now) :]
            now.sort(key=lambda i: str(_cut(jobs[i].adaptor)))  # one slice of the batch per truncation
            found = _side_by_side(source, reader, prompts, [jobs[i] for i in now], tokens, alone)
            bar.update(len(now))
            yield from zip(now, found, strict=True)


def _side_by_side(source, reader, prompts, jobs: list[Job], tokens: int, alone: bool) -> list[Drawn]:
    n = len(jobs)
    uniforms = np.stack([text_stream(job.seed, job.prompt, job.text).random(tokens) for job in jobs])
    tau = np.array([dict(job.adaptor.steps).get("temperature", 1.0) for job in jobs])
    cuts = [_cut(job.adaptor) for job in jobs]
    readers = [_begun(language, prompts, jobs) for language in (source, reader)]
    readers += [_Reader(reader, *reader.start([np.empty(0, np.int64)] * n))] if alone else []
    ids, length, alive = np.zeros((n, tokens), np.int64), np.full(n, tokens), np.arange(n)
    columns = np.full((5, n, tokens), np.nan)
    for t in range(tokens):
        log_p = check_distribution(readers[0].log_p, what=f"log_p of {source.name}")
        log_q, log_z = _adapted(log_p, tau[alive], [cuts[i] for i in alive])
        token = draw(log_q, uniforms[alive, t])
        values = [gather(log_q, token), log_z, *(gather(r.log_p, like(as_numpy(token), r.log_p)) for r in readers)]
        token = as_numpy(token)
        ids[alive, t] = token
        for column, value in zip(columns, values, strict=False):
            column[alive, t] = as_numpy(value)
        ended = (token == source.eos) & (length[alive] == tokens)
        length[alive[ended]] = t + 1
        going = length[alive] == tokens
        if not going.any() or t + 1 == tokens:
            break
        if going.mean() < _COMPACT:
            readers = [r.selected(np.flatnonzero(going)) for r in readers]
            alive, token = alive[going], token[going]
        readers = [r.stepped(token) for r in readers]
    return [_text(i, ids[i, :k], columns[:, i, :k], 5 if alone else 4) for i, k in enumerate(length)]


class _Reader(NamedTuple):
    """A language with the law after every text of the batch, and its state."""

    language: Any
    log_p: Any
    state: Any

    def selected(self, rows: np.ndarray) -> "_Reader":
        return self._replace(log_p=None, state=self.language.select(self.state, rows))

    def stepped(self, token: np.ndarray) -> "_Reader":
        return _Reader(self.language, *self.language.step(self.state, token))


def _begun(language: Language, prompts: Sequence[np.ndarray], jobs: list[Job]) -> _Reader:
    """After the prompts: each distinct one is read once."""
    distinct, row = np.unique([job.prompt for job in jobs], return_inverse=True)
    log_p, state = language.start([prompts[p] for p in distinct])
    rows = like(row, log_p) if not isinstance(log_p, np.ndarray) else row
    return _Reader(language, log_p[rows], language.select(state, row))


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


def _text(i: int, ids: np.ndarray, columns: Float[np.ndarray, "5 tokens"], read: int) -> Drawn:
    """Checked: finite under the sampler and under the source; -inf under the reader stays so to the end of the text."""
    columns = columns.copy()
    for k in range(3, read):
        columns[k, np.maximum.accumulate(np.isneginf(columns[k]))] = -np.inf
    bad = np.isnan(columns[:read]).any() or np.isneginf(columns[:3]).any()
    if bad:
        raise DistributionError(f"text {i} of a batch has a log-probability that is no number")
    return Drawn(ids, *columns)
