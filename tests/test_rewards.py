"""Rewards of whole texts: the rule of the tales against a count by hand, classifiers against a plain call, and refusals."""

import math
import re

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MistralConfig, MistralForSequenceClassification

import aep
from aep.errors import DeviceError, DistributionError, ModelError, ParameterError, VocabularyMismatch
from aep.languages import Grammar, MarkovChain
from aep.neural import loading, rewards
from aep.neural.language import with_exact_norms
from aep.neural.rewards import JOY, RULE, SORROW, load_reward, word_points
from aep.records import Texts
from tiny_models import one_thread, save_tokenizer, tiny  # noqa: F401

GRAMMAR = Grammar.load("tales")
LETTERS = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "initializer_range": 0.35,
}  # fmt: skip


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(loading.huggingface_hub.HfApi, "model_info", refuse)


def tales(n=40, prompts=None):
    return aep.sample(GRAMMAR, prompts, texts=n, tokens=96, seed=3, stop="eos")


def classifier(folder, labels=1, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MistralForSequenceClassification(MistralConfig(**LETTERS, num_labels=labels)).double()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


# -- the rule


def test_the_rule_counts_words_of_joy_and_of_sorrow_in_prompt_and_text():
    prompts = [GRAMMAR.encode("once there was a kind girl named anna ."), GRAMMAR.encode("once")]
    found = tales(5, prompts)
    words = [(GRAMMAR.decode(found.prompts[p]) + " " + found.decode(i)).split() for i, p in enumerate(found.prompt)]
    by_hand = [sum(w in JOY for w in text) - sum(w in SORROW for w in text) for text in words]
    assert load_reward(RULE)(found).tolist() == by_hand
    assert len(set(by_hand)) > 2


def test_every_word_of_the_rule_is_a_word_of_the_tales_and_none_is_both():
    assert not JOY & SORROW and set(GRAMMAR.symbols) >= JOY | SORROW
    points = word_points(GRAMMAR.symbols)
    assert ((points == 1).sum(), (points == -1).sum()) == (len(JOY), len(SORROW))


def test_the_rule_refuses_texts_that_are_no_tales():
    chain = MarkovChain([[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(VocabularyMismatch, match="counts words of the grammar of tales"):
        load_reward(RULE)(aep.sample(chain, None, tokens=3, seed=0))


# -- any function


def test_a_callable_is_a_reward_with_its_name():
    def length(texts):
        return [len(ids) for ids in texts.ids]

    reward = load_reward(length)
    assert reward.name == "length" and load_reward(reward) is reward
    assert reward(tales(3)).tolist() == [len(ids) for ids in tales(3).ids]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused_with_its_text(bad):
    reward = load_reward(lambda texts: [0.0, bad, 0.0])
    with pytest.raises(DistributionError, match=r"of text 1 is (nan|inf|-inf): a reward has to be finite"):
        reward(tales(3))


def test_a_reward_of_another_shape_is_refused():
    with pytest.raises(DistributionError, match=r"shape \(2,\) for 3 texts"):
        load_reward(lambda texts: [0.0, 1.0])(tales(3))


# -- a classifier


def test_a_classifier_reads_the_ids_of_its_own_tokenizer_as_transformers_would(tmp_path, tiny):  # noqa: F811
    folder = classifier(tmp_path / "judge")
    reward = load_reward(folder)
    texts = aep.sample(tiny("mistral"), ["ab", "c"], texts=3, tokens=7, seed=1)
    model = with_exact_norms(MistralForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval())
    for i, found in enumerate(reward(texts)):
        ids = [1, *texts.prompts[texts.prompt[i]].tolist(), *texts.ids[i].tolist()]
        with torch.no_grad():
            assert found == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-12)


def test_a_classifier_of_another_tokenizer_reads_strings(tmp_path):
    reward = load_reward(classifier(tmp_path / "judge"))
    language = MarkovChain([[0.5, 0.5], [0.5, 0.5]], symbols=["a", "b"])
    texts = Texts.from_ids(language, [[0, 1, 1], [1, 0]])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "judge")
    model = MistralForSequenceClassification.from_pretrained(tmp_path / "judge", dtype=torch.float64).eval()
    model = with_exact_norms(model)
    with torch.no_grad():
        expected = [model(torch.tensor([tokenizer(s).input_ids])).logits.item() for s in ("a b b", "b a")]
    np.testing.assert_allclose(reward(texts), expected, atol=1e-12)


def test_a_reward_does_not_depend_on_the_texts_beside_it(tmp_path, tiny):  # noqa: F811
    reward = load_reward(classifier(tmp_path / "judge"))
    texts = aep.sample(tiny("mistral"), ["ab", "c"], texts=4, tokens=9, seed=2)
    together = reward(texts)
    np.testing.assert_allclose([reward(texts.select([i]))[0] for i in range(len(texts))], together, atol=1e-12)


def test_a_model_with_two_outputs_is_no_reward(tmp_path):
    with pytest.raises(ModelError, match="has 2 outputs: a reward model has one"):
        load_reward(classifier(tmp_path / "judge", labels=2))


# -- refusals


@pytest.mark.parametrize(
    ("which", "options", "error", "message"),
    [
        ("tales-rul", {}, ModelError, "did you mean 'tales-rule'"),
        (3, {}, ParameterError, "reward=3: give 'tales-rule'"),
        ("", {}, ModelError, "empty"),
        ("judge/of-nothing", {"dtype": "float8"}, DeviceError, "float8"),
    ],
)
def test_what_is_no_reward_is_refused_in_one_line(which, options, error, message, offline):
    with pytest.raises(error, match=re.escape(message)) as raised:
        load_reward(which, **options)
    assert "\n" not in str(raised.value)


def test_texts_without_a_language_cannot_be_read(tmp_path, tiny):  # noqa: F811
    texts = aep.sample(tiny("mistral"), ["ab"], tokens=3, seed=1).with_language(None)
    with pytest.raises(ModelError, match="with_language"):
        load_reward(classifier(tmp_path / "judge"))(texts)


@pytest.mark.skipif("tales-reward" not in rewards.embedded_rewards(), reason="tales-reward is not trained yet")
def test_the_reward_model_is_no_language_and_is_not_listed_as_one():
    with pytest.raises(ModelError, match="is a reward model, not a language"):
        aep.load("tales-reward")
    assert "tales-reward" not in aep.models().index
    drawn = tales(200)
    assert np.corrcoef(load_reward("tales-reward")(drawn), load_reward(RULE)(drawn))[0, 1] > 0.95
