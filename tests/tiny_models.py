"""Tiny networks with random weights and a tiny tokenizer, saved as folders and loaded as a user would."""

import os
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCAB = 23
WINDOW = 5
LETTERS = "abcdefghijklmnopqrst"

_SHARED = {
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.35,  # far from uniform, so that errors show
}
_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 96,
    "pad_token_id": None,
}
CONFIGS = {
    "mistral": ("Mistral", {**_LLAMA, "sliding_window": WINDOW}),
    "llama": ("Llama", {**_LLAMA, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96}),
    "gpt_neox": (
        "GPTNeoX",
        {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 96,
            "rotary_pct": 0.5,
        },
    ),
}


def save_tokenizer(folder: Path, *, bos: bool = True) -> None:
    """One token per letter a...t, and <unk>, <s>, </s> as 0, 1, 2."""
    special = {"unk_token": "<unk>", "eos_token": "</s>"} | ({"bos_token": "<s>"} if bos else {})
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def save_model(
    folder: Path, kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, bos: bool = True, **config
) -> Path:
    """A folder with the weights, config and tokenizer of a tiny model of `kind`; `config` changes entries."""
    name, settings = CONFIGS[kind]
    settings = {**_SHARED, **settings, **({} if bos else {"bos_token_id": None}), **config}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        configuration = getattr(transformers, f"{name}Config")(**settings)
        model = getattr(transformers, "GPT2LMHeadModel" if kind == "gpt2" else f"{name}ForCausalLM")(configuration)
    model.to(dtype).save_pretrained(folder)
    save_tokenizer(folder, bos=bos)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny operations on one thread, in every test file that imports this fixture: many times faster on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """tiny(kind, **options) loads a tiny model from its folder; the same one for the same arguments."""
    import aep

    loaded = {}

    def load(kind: str, **options):
        key = (kind, *sorted((k, str(v)) for k, v in options.items()))
        if key not in loaded:
            loaded[key] = aep.load(
                save_model(tmp_path_factory.mktemp("tiny") / "-".join(map(str, key))[:60], kind, **options)
            )
        return loaded[key]

    return load


assert os.environ.get("TQDM_DISABLE") == "1", "tests/conftest.py is imported first"
