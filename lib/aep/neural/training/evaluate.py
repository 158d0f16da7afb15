"""Losses of a stored model, document by document (nats, summed over the tokens of a document)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from aep import _progress

__all__ = ["document_losses", "load_stored", "unigram_losses"]

CHUNK = 512  # tokens that go through the network at once


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
