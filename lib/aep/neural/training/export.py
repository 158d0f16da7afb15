"""From a finished training run to the files of an embedded model: float16 weights, tokenizer, card."""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import MistralForCausalLM, PreTrainedTokenizerFast

from aep.errors import ModelError, make_room
from aep.intervals import ratio
from aep.neural.training import corpus, fastloss
from aep.neural.training.cards import LICENCES, readme
from aep.neural.training.evaluate import document_losses, load_stored, unigram_losses
from aep.neural.training.tokenizer import BYTES, encode, save_tokenizer
from aep.outputs import sweep

__all__ = [
    "Facts",
    "Material",
    "card",
    "export",
    "facts_of_documents",
    "publish",
    "rounded",
    "sha256_of",
    "versions",
    "write_model",
    "write_weights",
]


class Facts(NamedTuple):
    """What a card says that depends on the kind of text: `loss` has value, low and high (nats per token)."""

    tokenizer: str
    data: dict
    loss: dict[str, float]
    held_out: dict
    licences: dict[str, str]


class Material(NamedTuple):
    """What a model is trained on: batches by step, validation rows, tokenizer, a hash of the source, and the facts of a
    finished run from its stored files. `last`: the weights of the last step are stored, not the best validated ones."""

    batches: Any
    held: np.ndarray
    tokenizer: PreTrainedTokenizerFast
    digest: str
    facts: Callable[[Any, Path], Facts]
    last: bool = False


def sha256_of(path: Path) -> str:
    """The sha256 of the bytes of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_model(run, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the best validated weights of `run` (a `train.Run`) as float16, configuration and tokenizer to `folder`."""
    if not run.best:
        raise ModelError(f"run of {run.spec.name!r} has no validated weights: it stopped at step {run.step}")
    config = run.spec.config()
    config.architectures = [MistralForCausalLM.__name__]
    write_weights(run.best, config, tokenizer, folder)


def write_weights(
    state: dict[str, torch.Tensor], config: Any, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write `state` as float16, without an output layer that is the embedding, `config` and tokenizer to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().to(torch.float16).contiguous() for k, v in state.items() if k != "lm_head.weight"}
    if not all(torch.isfinite(v).all() for v in weights.values()):
        raise ModelError(f"weights for {folder.name} do not fit into float16")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.dtype = torch.float16
    config.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def card(run, facts: Facts, folder: Path) -> dict:
    """The machine-readable card of the model of `run` stored in `folder`."""
    spec, loss = run.spec, facts.loss
    return {
        "name": spec.name,
        "architecture": MistralForCausalLM.__name__,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "vocab_size": spec.vocabulary,
        "held_out_loss": loss["value"],
        "held_out_low": loss["low"],
        "held_out_high": loss["high"],
        "steps": run.step,
        "seconds": round(run.seconds, 1),
        "seed": spec.seed,
        "sizes": asdict(spec),
        "tokenizer": facts.tokenizer,
        "data": facts.data,
        "training": _training(run),
        "held_out": facts.held_out,
        "sha256": {p.name: sha256_of(p) for p in sorted(folder.iterdir())},
        "versions": versions(),
        "licence": {"weights": "MIT", "text": facts.licences},
    }


def facts_of_documents(run, folder: Path, tokenizer: PreTrainedTokenizerFast, counts: np.ndarray) -> Facts:
    """The facts of a model of documentation stored in `folder`; `counts` are the training tokens by id."""
    size, listed = run.spec.vocabulary, corpus.manifest()
    data = {
        "what": listed["description"],
        "manifest": "data/models/corpus.json",
        "sha256": sha256_of(corpus.MANIFEST),
        "versions": listed["versions"],
        "training_tokens": int(counts.sum()),
    }
    loss, held_out = _held_out(load_stored(folder), tokenizer, counts)
    return Facts("raw bytes" if size == BYTES else f"byte-level BPE, {size} tokens", data, loss, held_out, LICENCES)


def _training(run) -> dict:
    """How `run` went: command, cost, and the learning curve (losses in nats per token)."""
    return {
        "command": f"python -m aep train {run.spec.name}",
        "tokens": run.step * run.spec.batch * run.spec.length,
        "cpu_seconds": round(run.cpu_seconds, 1),
        "threads": run.threads,
        "device": run.model.device.type,
        "products": "bfloat16" if fastloss.uses_half(run.model.device) else "float32",
        "best_step": run.best_step,
        "validation_loss": round(run.best_loss, 4),
        "curve_columns": ["step", "training loss", "validation loss", "seconds"],
        "curve": [[s, round(a, 4), round(b, 4), round(t, 1)] for s, a, b, t in run.log],
    }


def _held_out(model, tokenizer: PreTrainedTokenizerFast, counts: np.ndarray) -> tuple[dict, dict]:
    """The held-out loss of `model` (nats per token), and what else is said about the held-out documents."""
    held = corpus.load_split("held-out")
    tokens = encode(tokenizer, [d.text for d in held])
    n_tokens = np.array([len(t) for t in tokens])
    n_bytes = np.array([len(d.text.encode()) for d in held])
    losses = document_losses(model, tokens)
    return rounded(losses, n_tokens), {
        "documents": len(held),
        "tokens": int(n_tokens.sum()),
        "bytes": int(n_bytes.sum()),
        "intervals": "95%, ratio estimator, documents as units",
        "nats_per_byte": rounded(losses, n_bytes),
        "unigram_nats_per_token": rounded(unigram_losses(counts, tokens), n_tokens),
        "evaluated_on": "the stored float16 weights, in float64; each document alone after the start token",
    }


def rounded(total: np.ndarray, size: np.ndarray, decimals: int = 6) -> dict[str, float]:
    """Σ `total` / Σ `size` with its 95% interval, to so many decimals."""
    return {name: round(x, decimals) for name, x in zip(("value", "low", "high"), ratio(total, size), strict=True)}


def export(run, material: Material, out: Path) -> Path:
    """Write the model of `run`, its card and its page to the folder `out`, and return it."""

    def write(draft: Path) -> dict:
        write_model(run, material.tokenizer, draft)
        return card(run, material.facts(run, draft), draft)

    return publish(out, write)


def publish(out: Path, write: Callable[[Path], dict]) -> Path:
    """Fill `out` with what `write` puts into the folder it is given, and with the card that it returns and its page.

    Everything is made in a folder beside `out` first; a half-replaced model does not match its card and is refused.
    ModelError, in one line, for a full disk: the training itself is in its checkpoint.
    """
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")  # of this process: another may train the same
    sweep(out.parent)
    shutil.rmtree(draft, ignore_errors=True)
    with _FullDisk(out):
        return _published(draft, out, write)


class _FullDisk:
    """Turns what Python and libraries in Rust raise over a full disk, a plain `Exception` among it, into a ModelError."""

    def __init__(self, out: Path):
        self.out = out

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, Exception) and (mend := make_room(error)):
            said = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise ModelError(f"model {self.out.name!r} cannot be written to {self.out}: {said}{mend}") from None


def _published(draft: Path, out: Path, write: Callable[[Path], dict]) -> Path:
    said = write(draft)
    (draft / "README.md").write_text(readme(said), encoding="utf-8", newline="\n")
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(draft.iterdir()):
        path.chmod(0o644)
        os.replace(path, out / path.name)
    # The card last, and never in the draft: a folder with a card is a model.
    text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    (draft / "card.json.tmp").write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft / "card.json.tmp", out / "card.json")
    draft.rmdir()
    return out


def versions(*names: str) -> dict[str, str]:
    """Of Python and the packages a model was made with, and of `names`."""
    usual = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in (*usual, *names)}}
