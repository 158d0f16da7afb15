"""Rows about the scoring pass: its cost over that of forward passes, and its memory against the length of the text."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ..errors import ParameterError
from ..information import THETAS
from ..neural.language import NeuralLanguage
from ..records import Texts, theta_column
from ..scoring import score
from .registry import row

__all__ = ["interleaved", "language", "measured", "plain_columns", "texts"]

RUNS = 5
TEXTS, TOKENS = 4, 1024
GPT2 = {"n_embd": 384, "n_layer": 6, "n_head": 6, "vocab_size": 50257, "bos_token_id": None, "eos_token_id": None}
SIZE = "GPT2Config(n_embd=384, n_layer=6, n_head=6, vocab_size=50257), float32"


class NoTokenizer:
    """Stands in where only token ids are used."""

    bos_token_id = eos_token_id = None
    model_max_length = 0

    def get_vocab(self) -> dict[str, int]:
        return {}


@cache
def language(seed: int = 0) -> NeuralLanguage:
    """A network of GPT-2's kind with random weights, float32, without a start token."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**GPT2)).eval()
    return NeuralLanguage(model, NoTokenizer(), name=f"gpt2-like-{seed}", fingerprint=f"random weights, seed {seed}")


@cache
def texts(number: int = TEXTS, tokens: int = TOKENS) -> Texts:
    """Random token ids; a text gives its first token away as context."""
    ids = np.random.default_rng(0).integers(GPT2["vocab_size"], size=(number, tokens))
    return Texts(list(ids), [np.empty(0, np.int64)], np.zeros(number, int))


@torch.inference_mode()
def all_logits(lm: NeuralLanguage) -> torch.Tensor:
    """One forward pass that returns all logits, and nothing more."""
    return lm.model(input_ids=torch.as_tensor(np.array(texts().ids)), use_cache=False).logits


def all_columns(lm: NeuralLanguage) -> dict[str, torch.Tensor]:
    """The columns of a record from log_softmax of all logits: what one writes without this library."""
    return plain_columns(all_logits(lm)[:, :-1], torch.as_tensor(np.array(texts().ids))[:, 1:])


@torch.inference_mode()
def plain_columns(logits: torch.Tensor, token: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same of any logits (texts, tokens, vocabulary) and the tokens (texts, tokens) that came."""
    log_p = torch.log_softmax(logits, -1)
    p, own = log_p.exp(), log_p.gather(-1, token[..., None])
    h = -(p * log_p).sum(-1)
    columns = {"surprisal": -own[..., 0], "entropy": h, "varentropy": (p * (log_p + h[..., None]) ** 2).sum(-1)}
    above = log_p > own
    columns |= {"greedy": log_p.argmax(-1), "rank": above.sum(-1), "mass_above": (p * above).sum(-1)}
    return columns | {theta_column(theta): torch.logsumexp(theta * log_p, -1) for theta in THETAS}


def interleaved(ours: Callable, theirs: Callable, runs: int = RUNS) -> list[float]:
    """Time of `ours` over time of `theirs`, once per pair of turns; each has had one turn before that does not count."""
    ours(), theirs()
    ratios = []
    for _ in range(runs):
        start = time.perf_counter()
        theirs()
        middle = time.perf_counter()
        ours()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return ratios


@row(
    "score_vs_logits", "times the cost", f"every column over a forward pass with all logits; compiled; {SIZE}, 4 x 1024"
)
def score_vs_logits() -> list[float]:
    """What the columns cost beyond the network."""
    lm = language()
    return interleaved(lambda: score(texts(), lm, compiled=True), lambda: all_logits(lm))


@row("score_eager_vs_logits", "times the cost", f"the same without a compiler; {SIZE}, 4 x 1024")
def score_eager_vs_logits() -> list[float]:
    """What a user without a compiler pays."""
    lm = language()
    return interleaved(lambda: score(texts(), lm, compiled=False), lambda: all_logits(lm))


@row(
    "score_vs_full",
    "times the cost",
    f"over the same columns from log_softmax of all logits; compiled; {SIZE}, 4 x 1024",
)
def score_vs_full() -> list[float]:
    """Against what one writes without this library."""
    lm = language()
    return interleaved(lambda: score(texts(), lm, compiled=True), lambda: all_columns(lm))


@row(
    "pair_vs_two_forwards", "times the cost", f"both networks' columns over two forward passes; compiled; two of {SIZE}"
)
def pair_vs_two_forwards() -> list[float]:
    """A pair in one pass against the two plain forward passes."""
    a, b = language(0), language(1)
    return interleaved(lambda: score(texts(), b, source=a, compiled=True), lambda: (all_logits(a), all_logits(b)))


# ----------------------------------------------------------------------------------------------------------- memory

_PROCESS = Path("/proc/self")
_PROGRAM = """
import sys
from aep.bench import scoring
print(scoring.peak(sys.argv[1], int(sys.argv[2])))
"""


def peak(kind: str, tokens: int) -> int:
    """Bytes by which the peak of this process exceeds what was resident before scoring one text of `tokens` tokens."""
    lm, text = language(), texts(1, tokens)
    score(texts(1, 1024), lm, context="strided", compiled=False)  # libraries load what they need and keep it
    with suppress(OSError):
        _PROCESS.joinpath("clear_refs").write_text("5", encoding="ascii")  # the peak of loading is forgotten
    before = _memory("VmRSS")
    if kind == "ours":
        score(text, lm, context="strided", compiled=False)
    else:
        _kept_logits(lm, text.ids[0])
    return _memory("VmHWM") - before


@torch.inference_mode()
def _kept_logits(lm: NeuralLanguage, ids: np.ndarray) -> torch.Tensor:
    """The logits of all positions from the same windows, in one array: what memory would be without chunks."""
    size = lm.model.config.n_positions
    kept = torch.empty(len(ids), lm.vocab_size)
    for begin in range(0, len(ids) - size // 2, size // 2):
        window = torch.as_tensor(ids[begin : begin + size])[None]
        new = slice(begin + size // 2 if begin else 0, begin + size)  # what the window before it did not have
        kept[new] = lm.model(input_ids=window).logits[0, -len(kept[new]) :]
    return kept


def _memory(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most. Not `ru_maxrss`, which begins at the peak of the parent process."""
    status = _PROCESS / "status"
    if not status.is_file():
        raise ParameterError("rows about memory are read from /proc/self/status: they need Linux")
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def measured(kind: str, tokens: int, *, kept: bool = False) -> int:
    """`peak` in a process of its own.

    With `kept` as the C library has it, which keeps freed blocks for later: of equal passes one may take three times the
    room of another. Without, blocks above 1 MB go back to the system when they are freed, and the peak is what is held.
    """
    setting = {} if kept else {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, kind, str(tokens)],
        env=os.environ | setting,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@row(
    "score_memory_16k_vs_2k",
    "times the memory",
    f"peak minus resident before, 16,384 over 2,048 tokens, strided; freed blocks go back at once; {SIZE}",
)
def score_memory_16k_vs_2k() -> list[float]:
    """Memory must not grow with the text. Each measurement in a process of its own."""
    return [measured("ours", 16384) / measured("ours", 2048) for _ in range(3)]


@row(
    "score_memory_16k_vs_2k_kept",
    "times the memory",
    f"the same where the C library keeps freed blocks, as it does if nothing is set; {SIZE}",
)
def score_memory_16k_vs_2k_kept() -> list[float]:
    """What a user sees: the peak of a process is that of its least fortunate pass."""
    return [measured("ours", 16384, kept=True) / measured("ours", 2048, kept=True) for _ in range(5)]


@row(
    "score_memory_vs_full",
    "times the memory",
    f"16,384 tokens, strided, over the same with all logits kept; {SIZE}",
)
def score_memory_vs_full() -> list[float]:
    """Against keeping the logits."""
    return [measured("ours", 16384) / measured("full", 16384) for _ in range(3)]
