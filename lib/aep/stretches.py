"""Stretches of texts that are scored in one go: contexts, windows and batches of the three context policies."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .errors import ContextTooLong, ParameterError, PromptError
from .languages.protocol import Language, as_ids

__all__ = ["Stretch", "batches_of", "choose_context", "stretches_of"]


class Stretch(NamedTuple):
    """A stretch of one text that is scored in one go: what comes before it, its tokens, and where they stand."""

    context: np.ndarray
    ids: np.ndarray
    text: int
    offset: int  # position of ids[0] in the text
    bos: bool  # whether the start token comes before `context`


def stretches_of(texts, languages, context, bos, overlap) -> list[Stretch]:
    """The stretches of each text; a text without any context gives its first token away as one."""
    vocab, give_away = languages[0].vocab_size, any(x.needs_context(bool(bos)) for x in languages)
    if context == "rolling":
        _check_rolling(languages)
    limits = [n for x in languages if (n := getattr(x, "context_length", None)) is not None]
    jobs = []
    for i, ids in enumerate(texts.ids):
        ids = as_ids(ids, vocab, f"text {i}")
        before = as_ids(texts.prompts[texts.prompt[i]], vocab, f"prompt of text {i}")
        if give_away and not len(before):
            before, ids = ids[:1], ids[1:]
        if not len(ids):
            raise PromptError(f"text {i} has no token to score: without a start token the first one is only context")
        if context == "strided" and limits:
            jobs += _windows(Stretch(before, ids, i, 0, bool(bos)), min(limits), overlap, bos == "every")
        else:
            jobs.append(Stretch(before, ids, i, 0, bool(bos)))
    if context == "full":
        _check_lengths(jobs, languages)
    return jobs


def _windows(job: Stretch, size: int, overlap: int | None, every: bool) -> Iterator[Stretch]:
    """Windows of at most `size` tokens that share `overlap`; each token is scored in the first window that holds it."""
    overlap = size // 2 if overlap is None else overlap
    if isinstance(overlap, bool) or not isinstance(overlap, int | np.integer) or not 1 <= overlap < size:
        raise ParameterError(f"overlap={overlap!r}: from 1 to {size - 1} tokens for windows of {size}")
    context, bos, done = job.context, job.bos, 0
    if len(context) >= size:  # even the prompt fills a window: its end is the context
        context, bos = context[-overlap:], every and bos
    everything = np.concatenate([job.context, job.ids])
    while done < len(job.ids):
        scored = job.ids[done : done + size - len(context)]
        yield Stretch(context, scored, job.text, job.offset + done, bos)
        done += len(scored)
        end = len(job.context) + done
        context, bos = everything[end - overlap : end], every and job.bos


def _check_rolling(languages) -> None:
    for language in languages:
        if getattr(language, "context_length", None) is not None and not language.is_rolling:
            raise ParameterError(
                f"context='rolling': {language.name} has layers without a sliding window, so no cache of fixed size is "
                "exact; use 'full', or 'strided' for texts beyond its context"
            )


def _check_lengths(jobs, languages) -> None:
    for language in languages:
        limit = getattr(language, "context_length", None)
        for job in jobs:
            if limit is not None and len(job.context) + len(job.ids) > limit:
                other = "'rolling'" if language.is_rolling else "'strided'"
                raise ContextTooLong(
                    f"text {job.text} has {len(job.context) + len(job.ids)} tokens with its prompt, {language.name} has a "
                    f"context of {limit}: context='full' needs shorter texts; {other} takes any length"
                )


def batches_of(jobs: list[Stretch], tokens: int) -> Iterator[list[Stretch]]:
    """Stretches sorted by length, in batches of at most `tokens` padded tokens and one start-token policy."""
    order = sorted(range(len(jobs)), key=lambda i: (jobs[i].bos, len(jobs[i].context) + len(jobs[i].ids), i))
    batch: list[Stretch] = []
    for job in (jobs[i] for i in order):
        width = len(job.context) + len(job.ids)
        if batch and ((len(batch) + 1) * width > tokens or batch[0].bos != job.bos):
            yield batch
            batch = []
        batch.append(job)
    yield batch


def choose_context(language: Language, tokens: int) -> str:
    """The policy for one text of `tokens` tokens: "full" if it fits, else "rolling" if that is exact, else "strided"."""
    limit = getattr(language, "context_length", None)
    if limit is None or tokens <= limit:
        return "full"
    return "rolling" if language.is_rolling else "strided"
