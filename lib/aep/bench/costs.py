"""Rows of notebook A2: where the time of a scoring pass goes, what the machine can do, and cost against size.

Times are per scored token, in microseconds. The network is `scoring.language()` unless a row says otherwise; a sweep
changes one size and keeps the others.
"""

import time
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ..neural.compiled import fused
from ..neural.language import NeuralLanguage
from ..records import Texts
from ..reduction import row_columns
from ..scoring import chunk_rows, score
from . import scoring
from .registry import row

__all__ = ["LENGTHS", "VOCABULARIES", "WIDTHS"]

RUNS = 5
CHUNK = chunk_rows(scoring.GPT2["vocab_size"])  # rows of a chunk of the pass
ROWS = 4 * CHUNK  # hidden states that go through the output matrix and the reduction in the parts below
LENGTHS = (256, 1024, 4096, 16384)
VOCABULARIES = (2048, 8192, 32768, 131072)
WIDTHS = (1, 2, 4, 8)  # texts of 512 tokens in a batch


def _times(work: Callable[[], object], per: float, runs: int = RUNS) -> list[float]:
    """Seconds of each run of `work` divided by `per`, in units of a microsecond; a first run does not count."""
    work()
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) / per * 1e6)
    return found


@cache
def _rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, their logits, and tokens."""
    lm = scoring.language()
    ids = torch.as_tensor(scoring.texts().ids[0][:ROWS])[None]
    with torch.inference_mode():
        hidden = lm.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        return hidden, lm.model.lm_head(hidden), ids[0]


@row("part_body", "microseconds per token", f"transformer body without the output matrix, 4 x 1024; {scoring.SIZE}")
def part_body() -> list[float]:
    """The network up to the last hidden states."""
    lm, ids = scoring.language(), torch.as_tensor(np.array(scoring.texts().ids))
    with torch.inference_mode():
        return _times(lambda: lm.model.base_model(input_ids=ids, use_cache=False), ids.numel())


@row("part_matrix", "microseconds per token", f"product with the output matrix in the chunks of a pass; {scoring.SIZE}")
def part_matrix() -> list[float]:
    """Hidden states to logits, as the scoring pass does it: chunk by chunk into one buffer."""
    hidden, _, _ = _rows()
    room = hidden.new_empty(CHUNK, scoring.GPT2["vocab_size"])
    weight = scoring.language().model.lm_head.weight.T
    with torch.inference_mode():
        return _times(lambda: [torch.mm(part, weight, out=room[: len(part)]) for part in hidden.split(CHUNK)], ROWS)


@row("part_reduction", "microseconds per token", f"logits to all columns, compiled; {scoring.SIZE}")
def part_reduction() -> list[float]:
    """The reduction after `torch.compile`."""
    return _reduction(compiled=True)


@row("part_reduction_eager", "microseconds per token", f"logits to all columns, eager, row by row; {scoring.SIZE}")
def part_reduction_eager() -> list[float]:
    """The reduction without a compiler."""
    return _reduction(compiled=False)


def _reduction(compiled: bool) -> list[float]:
    _, logits, token = _rows()
    reduce = partial(row_columns, fused=fused(logits.device, logits.numel(), compiled))
    return _times(lambda: [reduce(*part) for part in zip(logits.split(CHUNK), token.split(CHUNK), strict=True)], ROWS)


# ------------------------------------------------------------------------------------------- what the machine can do


@row("machine_products", "billion operations per second", "float32 matrix product 2048 x 2048 x 2048, all threads")
def machine_products() -> list[float]:
    """Multiplications and additions per second of a large matrix product: what body and output matrix are bound by."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return [2 * 2048**3 / (1e3 * t) for t in _times(lambda: a @ b, 1.0, 5)]


@row("machine_exponentials", "billion per second", "torch.exp of 64 x 50257 float32, all threads, result kept")
def machine_exponentials() -> list[float]:
    """Exponentials per second: the reduction needs one per logit."""
    x, out = -torch.rand(64, 50257), torch.empty(64, 50257)
    return [x.numel() / (1e3 * t) for t in _times(lambda: torch.exp(x, out=out), 1.0, 15)]


@row("machine_memory", "gigabytes per second", "copy of 256 MB, read and written, all threads")
def machine_memory() -> list[float]:
    """Bytes per second to and from memory."""
    x = torch.zeros(2**26)
    y = torch.empty_like(x)
    return [2 * x.numel() * 4 / (1e3 * t) for t in _times(lambda: y.copy_(x), 1.0, 5)]


# ----------------------------------------------------------------------------------------------------------- sweeps


@cache
def _with_vocabulary(size: int) -> NeuralLanguage:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**{**scoring.GPT2, "vocab_size": size})).eval()
    return NeuralLanguage(model, scoring.NoTokenizer(), name=f"vocabulary {size}", fingerprint=str(size))


def _length(tokens: int) -> list[float]:
    lm, texts = scoring.language(), scoring.texts(1, tokens)
    return _times(lambda: score(texts, lm, context="strided", compiled=True), tokens)


def _vocabulary(size: int) -> list[float]:
    lm, tokens = _with_vocabulary(size), 1024
    ids = np.random.default_rng(0).integers(size, size=tokens)
    texts = Texts([ids], [np.empty(0, np.int64)], np.zeros(1, int))
    return _times(lambda: score(texts, lm, compiled=True), tokens)


def _width(number: int) -> list[float]:
    lm, texts = scoring.language(), scoring.texts(number, 512)
    return _times(lambda: score(texts, lm, compiled=True), number * 512)


def _memory(tokens: int) -> list[float]:
    return [scoring.measured("ours", tokens) / 1e6 for _ in range(RUNS)]


for _n in LENGTHS:
    row(f"length_{_n}", "microseconds per token", f"one text of {_n} tokens, strided, compiled; {scoring.SIZE}")(
        partial(_length, _n)
    )
for _n in (2048, 4096, 8192, 16384):
    row(
        f"memory_{_n}",
        "megabytes",
        f"peak minus resident before, {_n} tokens, strided, eager; freed blocks go back at once; {scoring.SIZE}",
    )(partial(_memory, _n))
for _n in VOCABULARIES:
    row(
        f"vocabulary_{_n}",
        "microseconds per token",
        f"1024 tokens, compiled; {_n} tokens, else {scoring.SIZE}",
    )(partial(_vocabulary, _n))
for _n in WIDTHS:
    row(f"batch_{_n}", "microseconds per token", f"{_n} texts of 512 tokens, compiled; {scoring.SIZE}")(
        partial(_width, _n)
    )
