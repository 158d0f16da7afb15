"""Held-out loss of a stored model, in nats per token and per byte, with intervals over documents."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from aep import _progress

__all__ = ["Interval", "document_losses", "load_stored", "ratio", "unigram_losses"]

CHUNK = 512  # tokens that go through the network at once


class Interval(NamedTuple):
    """An estimate with the two ends of its 95% interval, in the unit of the estimate."""

    value: float
    low: float
    high: float


def load_stored(folder: Path) -> torch.nn.Module:
    """The model stored in `folder` in float64 (every float16 number is a float64 number: nothing is rounded)."""
    from_bar = logging.enable_progress_bar if _progress.enabled() else logging.disable_progress_bar
    from_bar()  # transformers has a bar of its own for loading; it obeys the same switch
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, local_files_only=True).eval()


@torch.no_grad()
def document_losses(model: torch.nn.Module, documents: Sequence[np.ndarray]) -> np.ndarray:
    """Surprisal of each document (nats, summed over its tokens), given the start token; its end is not scored.

    A document goes through the model's own sliding cache in chunks, so its length does not matter.
    """
    device = model.get_input_embeddings().weight.device
    losses = np.zeros(len(documents))
    for i, document in enumerate(_progress.progress(documents, desc="held-out", unit="document")):
        ids = torch.from_numpy(np.concatenate([[0], document]))[None].to(device)
        cache = DynamicCache(config=model.config)
        for a in range(0, len(document), CHUNK):
            b = min(a + CHUNK, len(document))
            logits = model(input_ids=ids[:, a:b], past_key_values=cache, use_cache=True).logits[0]
            losses[i] += torch.nn.functional.cross_entropy(logits, ids[0, a + 1 : b + 1], reduction="sum").item()
    return losses


def unigram_losses(counts: np.ndarray, documents: Sequence[np.ndarray]) -> np.ndarray:
    """Surprisal of each document (nats, summed) under token frequencies `counts`, with one added to each count."""
    log_p = np.log(counts + 1.0) - np.log(np.sum(counts + 1.0))
    return np.array([-log_p[document].sum() for document in documents])


def ratio(total: np.ndarray, size: np.ndarray) -> Interval:
    """Σ `total` / Σ `size` over documents, with its 95% interval: the document is the unit of sampling.

    Delta method for a ratio of means: the variance is that of the residuals ``total - ratio · size``.
    """
    n, value = len(total), float(np.sum(total) / np.sum(size))
    residual = np.asarray(total) - value * np.asarray(size)
    error = float(np.sqrt(np.sum(residual**2) / (n - 1) / n) / np.mean(size)) if n > 1 else float("inf")
    return Interval(value, value - 1.959964 * error, value + 1.959964 * error)
