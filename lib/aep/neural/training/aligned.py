"""The relatives of `tales`: a reward model, and policies aligned to it, whose optimum is known.

``python -m aep train NAME`` trains one (extra [train]); ``python -m aep.neural.training.aligned_facts`` measures all. A
policy aims at p*(y) ∝ p(y) exp(r(y)/β), 2406.10203, Eq. 1: p is `tales`, y a whole tale, and r the rule itself. (A reward
model has quirks of its own far from its data; they would be part of the optimum.)
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, MistralForCausalLM, TrainerCallback

from aep._folders import require_writable
from aep.languages import Grammar
from aep.neural.loading import card
from aep.neural.rewards import word_points
from aep.outputs import repository

from . import trl_runs
from .checkpoint import store
from .configs import ALIGNED, AlignedSpec
from .export import publish, sha256_of, versions, write_weights

__all__ = ["Clock", "train"]

PRIOR = "tales"


def train(name: str, *, out: Path | str | None = None, threads: int | None = None) -> Path:
    """Train the aligned model or reward model `name`, or resume; write it with its card to `out`, and return that folder.

    Raises ModelError where trl is missing, and ParameterError if `out` cannot be written to.
    """
    spec = ALIGNED[name]
    trl_runs.trl()
    target = Path(out) if out is not None else repository() / "data" / "models" / name
    require_writable(target)
    if threads is not None:
        torch.set_num_threads(threads)
    folder = store() / f"{name}-{spec.hash(card(PRIOR)['sha256']['model.safetensors'])}"
    trainer = _fit(spec, folder)
    seconds = trainer.seconds.total
    written = publish(target, lambda draft: _write(spec, trainer, draft, seconds))
    print(f"{name}: {spec.steps} steps in {seconds / 60:.1f} minutes, written to {written}", file=sys.stderr)
    return written


def _fit(spec: AlignedSpec, folder: Path) -> Any:
    """The trainer of `spec` at its end."""
    prior, tokenizer = _single_precision(folder / "prior")
    options = {"batch": spec.batch, "steps": spec.steps, "rate": spec.rate, "seed": spec.seed, "clock": Clock(folder)}
    if spec.kind == "rloo":
        return trl_runs.rloo(prior, tokenizer, _rule_of_ids(), folder, beta=spec.beta, **options)
    pairs = trl_runs.preferences(Grammar.load(PRIOR), spec.batch * spec.steps, spec.seed)
    if spec.kind == "reward":
        return trl_runs.reward_model(prior, tokenizer, pairs, folder, **options)
    return trl_runs.dpo(prior, tokenizer, pairs, folder, beta=spec.beta, **options)


def _single_precision(folder: Path) -> tuple[Path, Any]:
    """The prior in float32 in `folder`, which a trainer loads again as its reference, and its tokenizer."""
    source = repository() / "data" / "models" / PRIOR
    tokenizer = AutoTokenizer.from_pretrained(source)
    if not (folder / "config.json").is_file():  # written last
        model = MistralForCausalLM.from_pretrained(source, dtype=torch.float32)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder, tokenizer


def _rule_of_ids() -> Any:
    """The rule as a function of the ids of whole tales."""
    points = word_points(Grammar.load(PRIOR).symbols)
    return lambda tales: [points[ids].sum() for ids in tales]


class Clock(TrainerCallback):
    """Seconds of training over all sittings of a run, kept in clock.json of its folder at every checkpoint."""

    def __init__(self, folder: Path):
        self.file, self.total, self.began = folder / "clock.json", 0.0, time.monotonic()

    def on_train_begin(self, args, state, control, **_):
        """Take up the seconds of the checkpoint that the run resumes from."""
        if state.global_step and self.file.is_file():
            self.total = json.loads(self.file.read_text()).get(str(state.global_step), 0.0)
        self.began = time.monotonic()

    def on_step_end(self, args, state, control, **_):
        """Count the step, and note the total where a checkpoint follows."""
        now = time.monotonic()
        self.total, self.began = self.total + now - self.began, now
        if state.global_step % trl_runs.SAVE_EVERY == 0:
            known = json.loads(self.file.read_text()) if self.file.is_file() else {}
            self.file.write_text(json.dumps(known | {str(state.global_step): self.total}))


def _write(spec: AlignedSpec, trainer: Any, draft: Path, seconds: float) -> dict:
    """The files of the model in `draft`, and its card."""
    from .aligned_facts import facts_of  # it loads what is written here

    model = trainer.model
    config = model.config.__class__.from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
    config.use_cache = True  # trainers turn it off
    _, tokenizer = _single_precision(Path(trainer.args.output_dir) / "prior")
    write_weights(model.state_dict(), config, tokenizer, draft)
    logs = [row for row in trainer.state.log_history if "loss" in row]
    keep = ("step", "loss", "reward", "rewards/of_completions/mean", "kl", "accuracy")
    return {
        "name": spec.name,
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab_size": int(config.vocab_size),
        "steps": spec.steps,
        "seconds": round(seconds, 1),
        "seed": spec.seed,
        "recipe": asdict(spec),
        "prior": {"name": PRIOR, "sha256": card(PRIOR)["sha256"]["model.safetensors"]},
        "training": {
            "command": f"python -m aep train {spec.name}",
            "trainer": f"trl.{type(trainer).__name__}",
            "threads": torch.get_num_threads(),
            "device": model.device.type,
            "curve": [{k: float(row[k]) for k in keep if k in row} for row in logs],
        },
        **facts_of(spec, draft),
        "sha256": {p.name: sha256_of(p) for p in sorted(draft.iterdir())},
        "versions": versions("trl", "accelerate", "datasets"),
        "licence": {"weights": "MIT", "text": {"the grammar": "MIT"}},
    }
