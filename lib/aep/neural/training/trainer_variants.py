"""The trainers of `trl` 1.16 as they are tried in `trainer_trials`, with every setting that decides where they come to rest.

All have the same start, rate, schedule, number of texts and random seeds; nothing is left to a default that changes between
versions, except in "grpo-defaults", which is about them. `trl` is imported when a run begins (extra [train]).
"""

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer, MistralForCausalLM, PrinterCallback, TrainerCallback

from .policy_gradient import NetworkPolicy
from .trl_runs import ON_POLICY, UNSCALED, trl

__all__ = ["VARIANTS", "Setting", "Variant", "train_with_trl"]


class Setting(NamedTuple):
    """Of a run: β, the cut-off in tokens, `steps` of `texts` texts (half as many pairs for DPO), the peak learning rate."""

    beta: float
    longest: int
    steps: int
    texts: int
    rate: float


class Variant(NamedTuple):
    """A trainer (`kind`: loop, rloo, grpo or dpo), what it is, and the settings of its configuration that are its own."""

    kind: str
    what: str
    options: dict[str, Any]


_WHOLE = {"scale_rewards": "none", "loss_type": "luspo"}  # Σ over tokens of advantage · ∇ log π, not rescaled
VARIANTS = {
    "loop": Variant("loop", "the small loop of policy_gradient", {}),
    "rloo": Variant("rloo", "RLOOTrainer, KL in the reward of whole texts", {}),
    "grpo-in-reward": Variant("grpo", "GRPOTrainer, beta=0 and the KL in a custom reward", {"beta": 0.0, **_WHOLE}),
    "grpo-beta": Variant("grpo", "GRPOTrainer with its own beta, rewards not scaled", _WHOLE),
    "grpo-k3": Variant(
        "grpo", "the same with use_bias_correction_kl=False", {**_WHOLE, "use_bias_correction_kl": False}
    ),
    "grpo-defaults": Variant(
        "grpo", "GRPOTrainer with its own beta, rewards scaled by group and loss as by default", {}
    ),
    "dpo": Variant("dpo", 'DPOTrainer, loss_type=["sigmoid"]', {"loss_type": ["sigmoid"]}),
    "dpo-norm": Variant("dpo", 'DPOTrainer, loss_type=["sigmoid_norm"]', {"loss_type": ["sigmoid_norm"]}),
    "dpo-ipo": Variant("dpo", 'DPOTrainer, loss_type=["ipo"]', {"loss_type": ["ipo"]}),
}


class _Watch(TrainerCallback):
    """Calls `watch(model, step)` after every step."""

    def __init__(self, watch: Callable[[Any, int], None]):
        self.watch = watch

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.watch(model, state.global_step)


def train_with_trl(
    variant: str,
    prior: Path,
    points: Sequence[float],
    seed: int,
    setting: Setting,
    *,
    watch: Callable[[Any, int], None],
    pairs: tuple[list, list] | None = None,
) -> Any:
    """The model that a variant ends at, from the network in `prior`; `points` of every token; `pairs` of ids for DPO."""
    kind, options = VARIANTS[variant].kind, VARIANTS[variant].options
    tokenizer, model = AutoTokenizer.from_pretrained(prior), MistralForCausalLM.from_pretrained(prior)
    tokenizer.pad_token = tokenizer.eos_token
    with tempfile.TemporaryDirectory() as folder:
        common = _common(seed, setting, folder)
        if kind == "dpo":
            trainer = _dpo(model, tokenizer, prior, pairs, {**common, **options})
        else:
            trainer = _online(kind, model, tokenizer, prior, points, {**common, **options}, setting)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Watch(watch))
        trainer.train()
    return trainer.model


def _online(
    kind: str, model: Any, tokenizer: Any, prior: Path, points: Sequence[float], options: dict, setting: Setting
) -> Any:
    t, data = trl(), {"prompt": [tokenizer.convert_ids_to_tokens(0)] * 1024}
    from datasets import Dataset

    def reward(completion_ids: list, **_: Any) -> list[float]:
        return [sum(points[i] for i in ids) for ids in completion_ids]

    functions = [reward]
    if options["beta"] == 0:

        def penalty(completion_ids: list, **_: Any) -> list[float]:
            return _penalty(model, prior, setting, completion_ids)

        functions.append(penalty)
    own = UNSCALED if kind == "rloo" else {}
    config = (t.RLOOConfig if kind == "rloo" else t.GRPOConfig)(
        num_generations=setting.texts, max_completion_length=setting.longest, **{**ON_POLICY, **own, **options}
    )
    make = t.RLOOTrainer if kind == "rloo" else t.GRPOTrainer
    return make(
        model=model,
        reward_funcs=functions,
        args=config,
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
    )


def _penalty(model: Any, prior: Path, setting: Setting, completion_ids: list) -> list[float]:
    """-β (log π - log p) of every text, π the policy as it is now."""
    drawn = torch.zeros((len(completion_ids), setting.longest), dtype=torch.long)
    for row, ids in zip(drawn, completion_ids, strict=True):
        row[: len(ids)] = torch.as_tensor(ids)
    with torch.no_grad():
        log_pi, log_p = (
            NetworkPolicy(m, longest=setting.longest).log_probability(drawn) for m in (model, _frozen(prior))
        )
    return (-setting.beta * (log_pi - log_p)).tolist()


@functools.cache
def _frozen(prior: Path) -> MistralForCausalLM:
    return MistralForCausalLM.from_pretrained(prior).eval()


def _dpo(model: Any, tokenizer: Any, prior: Path, pairs: tuple[list, list], options: dict) -> Any:
    t = trl()
    from datasets import Dataset

    class OfIds(t.DPOTrainer):
        """Takes token ids as they are: a string that was cut would be given an end token, and texts encoded again."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    chosen, rejected = pairs
    data = Dataset.from_dict({"prompt_ids": [[0]] * len(chosen), "chosen_ids": chosen, "rejected_ids": rejected})
    options["per_device_train_batch_size"] //= 2
    return OfIds(
        model=model,
        ref_model=MistralForCausalLM.from_pretrained(prior),
        args=t.DPOConfig(max_length=None, label_smoothing=0.0, disable_dropout=True, **options),
        train_dataset=data,
        processing_class=tokenizer,
    )


def _common(seed: int, setting: Setting, folder: str) -> dict[str, Any]:
    """What all trainers share with each other and with the small loop."""
    return {
        "output_dir": folder,
        "beta": setting.beta,
        "per_device_train_batch_size": setting.texts,
        "max_steps": setting.steps,
        "learning_rate": setting.rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, setting.steps // 25),
        "weight_decay": 0.0,
        "adam_beta2": 0.99,
        "max_grad_norm": 1.0,
        "seed": seed,
        "data_seed": seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": setting.steps,
        "disable_tqdm": True,
        "use_cpu": True,
    }
