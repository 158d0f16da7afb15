"""Rows about detectors: every score from one pass over two networks, against each method alone; all scores of records."""

import time
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import torch

from ..analysis.detection import scores
from ..neural.language import NeuralLanguage
from ..records import Records, Texts
from ..scoring import score
from . import scoring
from .peers import agree
from .registry import row

__all__ = ["METHODS", "one_pass", "random_records", "separate"]

RUNS, TEXTS, TOKENS, SHARE = 3, 4, 256, 0.2
MANY, LONG = 1000, 512  # texts, and tokens of each, whose records are scored


@cache
def _pair() -> tuple[NeuralLanguage, NeuralLanguage]:
    """The scorer and the reference model."""
    return scoring.language(0), scoring.language(1)


def strings(texts: Texts) -> list[bytes]:
    """Stands in for the texts, whose ids are random: what `zlib_ratio` compresses."""
    return [ids.astype(np.uint16).tobytes() for ids in texts.ids]


def one_pass(texts: Texts, compiled: bool = True) -> pd.DataFrame:
    """Every score of every text from one pass over scorer and reference."""
    scorer, reference = _pair()
    records = score(texts, scorer, source=reference, compiled=compiled)
    return scores(records, strings=strings(texts), k=SHARE)


# ------------------------------------------------------------------------------------------------- each method alone

Laws = Callable[[int], torch.Tensor]
"""Normalised log-probabilities (tokens, vocabulary) of a text under network 0 (the scorer) or 1, by a forward pass."""


def _own(log_p: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return log_p.gather(-1, token[:, None])[:, 0]


def _ranks(log_p: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """log of ranks from 1; the public code sorts the vocabulary, counting is cheaper."""
    return torch.log1p((log_p > _own(log_p, token)[:, None]).sum(-1).float())


def _moments(log_q: torch.Tensor, log_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of log p under q, per token."""
    q = log_q.exp()
    mean = (q * log_p).sum(-1)
    return mean, (q * log_p**2).sum(-1) - mean**2


def _lowest(values: torch.Tensor) -> torch.Tensor:
    return values.sort().values[: max(1, int(SHARE * len(values)))].mean()


def _lrr(laws: Laws, token: torch.Tensor, text: bytes) -> list:
    log_p = laws(0)
    return [-_own(log_p, token).sum() / _ranks(log_p, token).sum()]


def _gap(laws: Laws, token: torch.Tensor, text: bytes) -> list:
    log_p = laws(0)
    return [(-_own(log_p, token) + (log_p.exp() * log_p).sum(-1)).mean()]


def _z(laws: Laws, token: torch.Tensor, text: bytes) -> list:
    log_p = laws(0)
    mean, variance = _moments(log_p, log_p)
    return [(mean - _own(log_p, token)).sum() / variance.sum().sqrt()]


def _min_k_plus_plus(laws: Laws, token: torch.Tensor, text: bytes) -> list:
    log_p = laws(0)
    mean, variance = _moments(log_p, log_p)
    return [_lowest((_own(log_p, token) - mean) / variance.sqrt())]


def _reference(laws: Laws, token: torch.Tensor, text: bytes) -> list:
    a, other = (-_own(laws(i), token).sum() for i in (0, 1))
    return [a / other, (a - other) / len(token)]


def _fast_detect_gpt(laws: Laws, token: torch.Tensor, text: bytes) -> list:
    log_p = laws(0)
    mean, variance = _moments(laws(1), log_p)
    return [(_own(log_p, token).sum() - mean.sum()) / variance.sum().sqrt()]


def _binoculars(laws: Laws, token: torch.Tensor, text: bytes) -> list:
    log_p = laws(0)
    return [_own(log_p, token).sum() / (laws(1).exp() * log_p).sum()]


def _kl(laws: Laws, token: torch.Tensor, text: bytes) -> list:
    log_p, log_q = laws(0), laws(1)
    return [(log_q.exp() * (log_q - log_p)).sum(-1).mean()]


METHODS: dict[tuple[str, ...], Callable[[Laws, torch.Tensor, bytes], list]] = {
    ("loss",): lambda laws, token, text: [-_own(laws(0), token).mean()],
    ("log_rank",): lambda laws, token, text: [_ranks(laws(0), token).mean()],
    ("lrr",): _lrr,
    ("entropy_gap",): _gap,
    ("z",): _z,
    ("min_k",): lambda laws, token, text: [_lowest(_own(laws(0), token))],
    ("min_k_plus_plus",): _min_k_plus_plus,
    ("extraction",): lambda laws, token, text: [_own(laws(0), token).sum()],
    ("zlib_ratio",): lambda laws, token, text: [-_own(laws(0), token).sum() / len(zlib.compress(text))],
    ("reference_ratio", "reference_difference"): _reference,
    ("fast_detect_gpt",): _fast_detect_gpt,
    ("binoculars",): _binoculars,
    ("rb_kl",): _kl,
}
"""What each method computes of one text by itself, as the public implementations do: its forward passes, then full rows."""


@torch.inference_mode()
def separate(texts: Texts) -> pd.DataFrame:
    """The same scores, each method with forward passes of its own, text by text."""
    found: dict[str, list[float]] = {}
    for names, method in METHODS.items():
        for ids, text in zip(texts.ids, strings(texts), strict=True):
            whole = torch.as_tensor(ids)

            def laws(i: int, whole: torch.Tensor = whole) -> torch.Tensor:
                return torch.log_softmax(_pair()[i].model(input_ids=whole[None], use_cache=False).logits[0, :-1], -1)

            for name, value in zip(names, method(laws, whole[1:], text), strict=True):
                found.setdefault(name, []).append(float(value))
    return pd.DataFrame(found)


@row(
    "scores_vs_separate",
    "times as fast",
    f"14 scores from one pass over a pair, compiled, over each of 13 methods alone from full logits, counting instead of "
    f"sorting; numbers agree to 1e-3; two of {scoring.SIZE}, {TEXTS} x {TOKENS}",
)
def scores_vs_separate() -> list[float]:
    """All scores of a record against one forward pass (of two networks: two) per method."""
    texts = scoring.texts(TEXTS, TOKENS)
    ours, theirs = one_pass(texts), separate(texts)
    agree(ours[theirs.columns].to_numpy(), theirs.to_numpy(), "scores of separate methods", tolerance=1e-3)
    return scoring.interleaved(lambda: separate(texts), lambda: one_pass(texts), runs=RUNS)


def random_records(texts: int = MANY, tokens: int = LONG) -> tuple[Records, list[bytes]]:
    """A record with every column that a score needs, filled at random, and a string for each text."""
    rng, n = np.random.default_rng(0), texts * tokens
    columns = {"text": np.repeat(np.arange(texts), tokens), "position": np.tile(np.arange(tokens), texts)}
    columns |= {"token": rng.integers(90, size=n), "rank": rng.integers(50, size=n)}
    own = ("surprisal", "entropy", "varentropy", "cross_entropy", "cross_varentropy")
    columns |= {name: rng.exponential(size=n) for name in (*own, "source_surprisal", "source_entropy")}
    record = Records(columns)
    return record, [bytes(ids.astype(np.uint8)) * 4 for ids in record.by_text("token")]


@row(
    "scores_from_records",
    "seconds",
    f"14 scores of {MANY} texts of {LONG} tokens from their records, strings of 4 bytes a token",
)
def scores_from_records() -> list[float]:
    """Every score of a thousand texts that were passed through a network before."""
    record, texts = random_records()
    found = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        scores(record, strings=texts, k=SHARE)
        found.append(time.perf_counter() - start)
    return found[1:]
