"""The family: sizes as their names say, one architecture, and every model that is committed as its card says."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, DynamicCache, MistralForCausalLM

from aep.languages import Grammar
from aep.neural.training import cards, configs, corpus, evaluate
from aep.neural.training.tokenizer import BYTES, encode, train_tokenizer

MODELS = corpus.ROOT / "data" / "models"
SIZES = {
    "docs-100k": 1e5, "docs-400k": 4e5, "docs-400k-twin": 4e5, "docs-1m": 1e6, "docs-3m": 3e6, "docs-bytes": 1e6,
    "tales": 4e5, "tales-mem-400k": 4e5, "tales-mem-400k-twin": 4e5, "tales-mem-1m": 1e6, "tales-mem-1m-twin": 1e6,
}  # fmt: skip
TALES = [name for name in SIZES if name.startswith("tales")]
HELD_OUT = {"docs-1m": 2.95, "docs-3m": 2.78}  # nats per token, at most
CARDS = sorted(p.parent.name for p in MODELS.glob("*/card.json"))
COMMITTED = [name for name in CARDS if name not in configs.ALIGNED]
ALIGNED = [name for name in CARDS if name in configs.ALIGNED]
DOCUMENTS = [name for name in COMMITTED if name.startswith("docs-")]
HASHES = {  # of the checkpoints in the store: a change would train all of them anew
    "docs-100k": "a50a6a5dd73f", "docs-400k": "550c5608c670", "docs-400k-twin": "6f483ab54c1d",
    "docs-1m": "c028cb751031", "docs-3m": "f107cdb4eaf9", "docs-bytes": "ca9b52f57d4e",
}  # fmt: skip


def card_of(name):
    return json.loads((MODELS / name / "card.json").read_text(encoding="utf-8"))


def test_the_family_is_what_its_names_say():
    assert set(configs.FAMILY) == set(SIZES)
    for name, size in SIZES.items():
        spec = configs.get(name)
        with torch.device("meta"):
            model = MistralForCausalLM(spec.config())
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(size, rel=0.12)


def test_the_hash_of_a_committed_recipe_has_not_changed():
    assert {name: configs.get(name).hash("corpus") for name in HASHES} == HASHES


def test_the_twin_differs_by_its_seed_and_name_only():
    one, two = (dataclasses.asdict(configs.get(name)) for name in ("docs-400k", "docs-400k-twin"))
    assert {key for key in one if one[key] != two[key]} == {"name", "seed"}


@pytest.mark.parametrize("spec", configs.FAMILY.values(), ids=lambda spec: spec.name)
def test_every_model_is_trained_on_its_whole_receptive_field_with_the_same_window(spec):
    assert spec.window == 128 and spec.config().max_position_embeddings >= 32768
    assert spec.length % spec.window == 0
    assert spec.length >= spec.layers * (spec.window - 1) + 1
    expected = {"docs-bytes": BYTES} | dict.fromkeys(TALES, Grammar.load("tales").vocab_size)
    assert spec.vocabulary == expected.get(spec.name, 2048)


@given(st.text(max_size=80))
def test_the_bytes_of_any_text_are_its_tokens_and_decode_to_it(text):
    tokenizer = _byte_tokenizer()
    (ids,) = encode(tokenizer, [text])
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text


def _byte_tokenizer(kept=[]):  # noqa: B006  trained once
    if not kept:
        kept.append(train_tokenizer(["Whatever the text, there is nothing to merge. " * 5], BYTES))
    return kept[0]


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_model_is_the_one_its_card_describes(name):
    card, folder, spec = card_of(name), MODELS / name, configs.get(name)
    for file, digest in card["sha256"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    assert card["sizes"] == {key: getattr(spec, key) for key in card["sizes"]}
    assert card["steps"] == spec.steps
    assert (folder / "README.md").read_text(encoding="utf-8") == cards.readme(card)
    assert card["held_out_loss"] <= HELD_OUT.get(name, np.inf)
    config = AutoConfig.from_pretrained(folder)
    assert config.architectures == ["MistralForCausalLM"]
    assert (config.sliding_window, config.tie_word_embeddings) == (128, True)
    assert config.max_position_embeddings >= 32768
    assert config.bos_token_id == config.eos_token_id == 0


@pytest.mark.parametrize("name", ALIGNED)
def test_a_committed_aligned_model_is_the_one_its_card_describes(name):
    card, folder, spec = card_of(name), MODELS / name, configs.ALIGNED[name]
    for file, digest in card["sha256"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    assert card["recipe"] == dataclasses.asdict(spec) and card["steps"] == spec.steps
    assert (folder / "README.md").read_text(encoding="utf-8") == cards.readme(card)
    assert card["prior"]["sha256"] == card_of("tales")["sha256"]["model.safetensors"]
    assert card["sha256"]["tokenizer.json"] == card_of("tales")["sha256"]["tokenizer.json"]
    kind = "SequenceClassification" if spec.kind == "reward" else "CausalLM"
    assert AutoConfig.from_pretrained(folder).architectures == [f"MistralFor{kind}"]


@pytest.mark.parametrize("how", ["products", "threads", "device"])
def test_all_committed_models_of_documentation_were_trained_in_the_same_way(how):
    found = {name: card_of(name)["training"].get(how) for name in DOCUMENTS}
    assert None not in found.values() and len(set(found.values())) == 1, f"training.{how} of the cards: {found}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_models_over_bpe_share_one_tokenizer_and_the_other_has_bytes(name):
    if name == "docs-bytes":
        tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
        for text in ("naïve → 'x' \n\n\té", "<|text|", "\U0001f600 end"):
            assert len(tokenizer.encode(text)) == len(text.encode())
            assert tokenizer.decode(tokenizer.encode(text)) == text
    else:
        assert card_of(name)["sha256"]["tokenizer.json"] == card_of("docs-400k")["sha256"]["tokenizer.json"]


@pytest.mark.parametrize("name", COMMITTED)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_cached_chunks_equal_one_full_pass(name, chunk):
    model = evaluate.load_stored(MODELS / name)
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, model.config.vocab_size, size=(1, 600)))
    with torch.no_grad():
        full = model(input_ids=ids, use_cache=False).logits
        cache, parts = DynamicCache(config=model.config), []
        for part in ids.split(chunk, dim=1):
            parts.append(model(input_ids=part, past_key_values=cache, use_cache=True).logits)
    assert (torch.cat(parts, dim=1) - full).abs().max() < 1e-12


def test_all_weights_together_are_small():
    assert sum(p.stat().st_size for p in MODELS.glob("*/model.safetensors")) < 30e6
