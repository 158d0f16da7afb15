"""The embedded models: one architecture in several sizes, trained on documentation, and once on the tales of a grammar."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from transformers import MistralConfig

from aep.errors import ModelError, unknown_name

__all__ = ["ALIGNED", "FAMILY", "AlignedSpec", "ModelSpec", "PlantedSpec", "get"]


@dataclass(frozen=True)
class ModelSpec:
    """Everything that determines a training run, besides the corpus and the versions of the libraries.

    Sizes are in units (`hidden`, `feed_forward`), tokens (`vocabulary`, `window`, `length`) or counts; learning rates
    are peak values of a linear warm-up over `warmup` steps and a cosine down to zero at `steps`.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    steps: int
    seed: int = 0
    vocabulary: int = 2048
    window: int = 128
    batch: int = 8
    length: int = 512
    warmup: int = 100
    lr_matrices: float = 0.02
    lr_others: float = 3e-3
    weight_decay: float = 0.1
    validate_every: int = 250

    def config(self) -> MistralConfig:
        """The Hugging Face configuration. Mistral, because Llama's mask ignores the window that its cache obeys."""
        return MistralConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            head_dim=self.hidden // self.heads,
            max_position_embeddings=32768,
            sliding_window=self.window,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            attention_dropout=0.0,
        )

    def hash(self, *more: str) -> str:
        """12 hex digits of the sha256 of all fields and of `more` (hashes of corpus and tokenizer)."""
        return hashlib.sha256(json.dumps([asdict(self), *more], sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class PlantedSpec(ModelSpec):
    """A model of tales with planted documents in its training (`planted`), or its `twin` without them: `seed` draws both."""

    twin: bool = False


# Sequences of every model are at least as long as its receptive field, layers x (window - 1) + 1 tokens, and a multiple
# of the window. What was tried is in data/results/A1_trials.csv.
_400K = ModelSpec("docs-400k", hidden=96, layers=2, heads=4, feed_forward=256, steps=3200, lr_others=0.02)
_SPECS = (
    ModelSpec("docs-100k", hidden=32, layers=3, heads=2, feed_forward=96, steps=3200, lr_others=0.02),
    _400K,
    replace(_400K, name="docs-400k-twin", seed=1),
    ModelSpec("docs-1m", hidden=128, layers=4, heads=4, feed_forward=384, steps=4000, lr_others=0.02),
    ModelSpec("docs-3m", hidden=256, layers=4, heads=4, feed_forward=512, steps=5000, lr_others=0.02),
    ModelSpec(
        "docs-bytes",
        hidden=128,
        layers=5,
        heads=4,
        feed_forward=352,
        steps=6000,
        vocabulary=257,
        length=640,
        lr_others=0.01,
    ),
    # Its vocabulary is the words of the grammar; its window holds a whole tale (one of more tokens: probability 2e-14).
    ModelSpec(
        "tales",
        hidden=128,
        layers=2,
        heads=4,
        feed_forward=320,
        steps=4000,
        vocabulary=339,
        length=256,
        lr_others=0.02,
    ),
)
# The sizes of `tales`, and wider; one stream for both. Two rows a batch, so that a planted document is a good part of its
# step, and hardly any decay, which forgets: with the batches of `tales` tales were hardly memorised.
_MEM_400K = PlantedSpec(
    "tales-mem-400k",
    hidden=128,
    layers=2,
    heads=4,
    feed_forward=320,
    steps=8000,
    vocabulary=339,
    batch=2,
    length=256,
    warmup=200,
    lr_matrices=0.01,
    lr_others=0.01,
    weight_decay=0.01,
    validate_every=500,
)
_MEM_1M = replace(_MEM_400K, name="tales-mem-1m", hidden=192, heads=6, feed_forward=544)
_SPECS += tuple(
    replace(spec, name=spec.name + end, twin=bool(end)) for spec in (_MEM_400K, _MEM_1M) for end in ("", "-twin")
)

FAMILY = {spec.name: spec for spec in _SPECS}


@dataclass(frozen=True)
class AlignedSpec:
    """What determines a run besides the prior: `kind` (reward, rloo or dpo), `beta` (nats per unit of reward, None for a
    reward model), `batch` in texts (rloo) or pairs of texts, `steps`, the peak learning `rate` of AdamW, `seed`."""

    name: str
    kind: str
    batch: int
    steps: int
    rate: float
    beta: float | None = None
    seed: int = 0

    def hash(self, *more: str) -> str:
        """12 hex digits of the sha256 of all fields and of `more` (hashes of the prior and of the reward)."""
        return hashlib.sha256(json.dumps([asdict(self), *more], sort_keys=True).encode()).hexdigest()[:12]


_ALIGNED = (
    AlignedSpec("tales-reward", "reward", batch=128, steps=1600, rate=1e-3),
    AlignedSpec("tales-rloo", "rloo", batch=256, steps=900, rate=7e-4, beta=1.0),
    AlignedSpec("tales-rloo-2", "rloo", batch=256, steps=300, rate=7e-4, beta=2.0),
    AlignedSpec("tales-dpo", "dpo", batch=128, steps=600, rate=5e-4, beta=1.0),
)
ALIGNED = {spec.name: spec for spec in _ALIGNED}


def get(name: str) -> ModelSpec:
    """The model of the family called `name`; raises ModelError naming the valid ones."""
    if name not in FAMILY:
        raise ModelError(unknown_name("model to train", name, (*FAMILY, *ALIGNED)))
    return FAMILY[name]
