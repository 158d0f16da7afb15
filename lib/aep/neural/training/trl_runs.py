"""The trainers of `trl` with every setting that decides their optimum written out; extra [train].

What each optimises, measured over several seeds, is in notebook A3. Runs on one machine, in single precision, and resumes
from the last whole checkpoint in its folder.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MistralForCausalLM, MistralForSequenceClassification

from aep import _progress
from aep.errors import ModelError
from aep.languages import Grammar
from aep.neural.rewards import word_points

__all__ = ["ON_POLICY", "UNSCALED", "dpo", "preferences", "reward_model", "rloo", "trl"]

LONGEST = 96  # tokens of a tale: a longer one has a probability of 1e-8
SAVE_EVERY = 100  # steps
#: Texts of the policy itself, used once. Defaults have been others.
ON_POLICY = {
    "num_iterations": 1,
    "steps_per_generation": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "mask_truncated_completions": False,
    "disable_dropout": True,
}
UNSCALED = {"normalize_advantages": False, "reward_clip_range": None}  # of RLOOConfig: rewards as they are


def trl() -> Any:
    """The module; ModelError with the command that installs it where it is missing."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        import trl as module
    except ImportError:
        raise ModelError("training aligned models needs trl: pip install -e '.[train]' -c constraints.txt") from None
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return module


def preferences(grammar: Grammar, pairs: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Chosen and rejected tales: two drawn from `grammar`, the first chosen with probability σ(r1 - r0) under the rule.

    Bradley and Terry's model with the points of `rewards.word_points` as r.
    """
    rng = np.random.default_rng([seed, 4])
    tales = grammar.sample_strings(rng, 2 * pairs)
    points = word_points(grammar.symbols)
    r = np.array([points[t].sum() for t in tales]).reshape(pairs, 2)
    first = rng.random(pairs) < 1 / (1 + np.exp(r[:, 1] - r[:, 0]))
    both = [(tales[2 * i + (not f)].tolist(), tales[2 * i + bool(f)].tolist()) for i, f in enumerate(first)]
    return [chosen for chosen, _ in both], [rejected for _, rejected in both]


def reward_model(
    prior: Path, tokenizer: Any, pairs: tuple[list, list], folder: Path, *, clock: Any = None, **options: Any
) -> Any:
    """A scalar head on the body of the model in `prior`, by Bradley and Terry's likelihood of the `pairs`."""
    t = trl()
    from datasets import Dataset

    chosen, rejected = (
        [[0, *text[:-1]] for text in part] for part in pairs
    )  # read at the full stop that ends the tale
    data = Dataset.from_dict({"chosen_ids": chosen, "rejected_ids": rejected})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options["seed"])
        model = MistralForSequenceClassification.from_pretrained(prior, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = 0
    config = t.RewardConfig(output_dir=str(folder), max_length=LONGEST + 1, disable_dropout=True, **_common(**options))
    return _run(
        t.RewardTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer), folder, clock
    )


def rloo(
    prior: Path,
    tokenizer: Any,
    reward: Callable[[Sequence[Sequence[int]]], Sequence[float]],
    folder: Path,
    *,
    beta: float,
    batch: int,
    clock: Any = None,
    **options: Any,
) -> Any:
    """The policy that maximises E[r] - β KL(π‖p) over whole texts, by REINFORCE with the other texts as baseline.

    `reward` maps the ids of whole texts to numbers. Every text follows the start token alone.
    """
    t = trl()
    from datasets import Dataset

    def of_completions(completion_ids: list, **_: Any) -> list[float]:
        return [float(x) for x in reward(completion_ids)]

    config = t.RLOOConfig(
        output_dir=str(folder),
        beta=beta,
        num_generations=batch,
        max_completion_length=LONGEST,
        **ON_POLICY,
        **UNSCALED,
        **_common(batch=batch, **options),
    )
    trainer = t.RLOOTrainer(
        model=_policy(prior),
        reward_funcs=of_completions,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [tokenizer.convert_ids_to_tokens(0)] * 1024}),
        processing_class=tokenizer,
    )
    return _run(trainer, folder, clock)


def dpo(
    prior: Path,
    tokenizer: Any,
    pairs: tuple[list, list],
    folder: Path,
    *,
    beta: float,
    clock: Any = None,
    **options: Any,
) -> Any:
    """The policy whose β log(π/p) is the reward under which the `pairs` are most likely (DPO, sigmoid loss)."""
    t = trl()
    from datasets import Dataset

    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    chosen, rejected = ([" " + " ".join(words[i] for i in text) for text in part] for part in pairs)
    data = Dataset.from_dict({"prompt": words[:1] * len(chosen), "chosen": chosen, "rejected": rejected})
    config = t.DPOConfig(
        output_dir=str(folder),
        beta=beta,
        loss_type=["sigmoid"],
        label_smoothing=0.0,
        max_length=LONGEST + 2,
        disable_dropout=True,
        **_common(**options),
    )
    trainer = t.DPOTrainer(
        model=_policy(prior), ref_model=_policy(prior), args=config, train_dataset=data, processing_class=tokenizer
    )
    first = trainer.train_dataset[0]
    if (first["prompt_ids"], first["chosen_ids"]) != ([0], pairs[0][0]):  # what it made of the strings
        raise ModelError(f"DPOTrainer reads the first tale as {first['prompt_ids']} and {first['chosen_ids']}")
    return _run(trainer, folder, clock)


def _policy(prior: Path) -> MistralForCausalLM:
    return MistralForCausalLM.from_pretrained(prior, dtype=torch.float32)


def _common(*, batch: int, steps: int, rate: float, seed: int) -> dict[str, Any]:
    """What all trainers share: AdamW without decay, a cosine after a warm-up, single precision, no reports."""
    return {
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, steps // 25),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "adam_beta2": 0.99,
        "seed": seed,
        "data_seed": seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "logging_steps": 25,
        "save_steps": SAVE_EVERY,
        "save_total_limit": 2,
        "disable_tqdm": not _progress.enabled(),
        "use_cpu": not torch.cuda.is_available(),
    }


def _run(trainer: Any, folder: Path, clock: Any) -> Any:
    """Train from the last whole checkpoint in `folder`; `trainer`, whose `.model` is the result, `.seconds` the `clock`."""
    if clock is not None:
        trainer.add_callback(clock)
        trainer.seconds = clock
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    last = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    return trainer
