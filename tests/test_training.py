"""Training: tokenizers, batches, resuming, checkpoints under faults, the written model and its card."""

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from aep import intervals
from aep.errors import ModelError, ParameterError
from aep.neural.training import cards, checkpoint, configs, corpus, evaluate, train
from aep.neural.training.data import Batches, pack, windows
from aep.neural.training.tokenizer import BYTES, encode, save_tokenizer, train_tokenizer
from tiny_models import one_thread  # noqa: F401

MODELS = corpus.ROOT / "data" / "models"
NAME = "docs-400k"
TINY = configs.ModelSpec(
    "tiny", hidden=16, layers=2, heads=2, feed_forward=24, steps=12, warmup=3, validate_every=4, vocabulary=300,
    window=8, batch=2, length=32,
)  # fmt: skip
TEXTS = [
    f"Return the {word} of array {i}.\n\nParameters\n----------\nx : ndarray\n" * 2 for i in range(12) for word in "ab"
]


@pytest.fixture(scope="module")
def tiny_tokens():
    tokenizer = train_tokenizer(TEXTS, TINY.vocabulary)
    return tokenizer, encode(tokenizer, TEXTS)


@pytest.fixture(scope="module")
def undisturbed(tiny_tokens, tmp_path_factory):
    tokens = tiny_tokens[1]
    return train.fit(TINY, tokens, tokens[:4], tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def card():
    return json.loads((MODELS / NAME / "card.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stored():
    return evaluate.load_stored(MODELS / NAME)


def same(a, b):
    """Whether weights, best weights and the state of both optimizers of two runs are equal, bit by bit."""
    a, b = a.state(), b.state()
    flat_a, flat_b = (
        [*s["model"].values(), *s["best"].values()]
        + [v for o in s["optimizers"].values() for row in o["state"].values() for v in row.values()]
        for s in (a, b)
    )
    return len(flat_a) == len(flat_b) and all(torch.equal(x, y) for x, y in zip(flat_a, flat_b))


# -- tokenizers


@pytest.fixture(scope="module")
def tokenizers(tiny_tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS, BYTES), folder)
    return [AutoTokenizer.from_pretrained(MODELS / NAME), AutoTokenizer.from_pretrained(folder), tiny_tokens[0]]


@given(st.text(max_size=60) | st.text(st.sampled_from(" \n\té'’s<|text>01"), max_size=40))
def test_any_text_can_be_encoded_and_decoding_gives_it_back(tokenizers, text):
    for tokenizer in tokenizers:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_tokenizer_adds_no_special_token_and_has_one_that_starts_and_ends(tokenizers):
    for tokenizer in tokenizers:
        assert tokenizer.encode("") == []
        assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
        assert tokenizer.all_special_ids == [0]
        assert 0 not in tokenizer.encode("Return the sum.\n\n    Notes")


def test_the_byte_tokenizer_has_one_token_per_byte(tokenizers):
    assert len(tokenizers[1]) == BYTES
    text = "naïve → 'x' \n\n    é"
    assert len(tokenizers[1].encode(text)) == len(text.encode())


def test_the_tokenizer_is_the_same_each_time_it_is_trained(tiny_tokens):
    assert (
        train_tokenizer(TEXTS, TINY.vocabulary).backend_tokenizer.to_str() == tiny_tokens[0].backend_tokenizer.to_str()
    )


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ParameterError, match="vocabulary of 200 tokens: at least 257"):
        train_tokenizer(TEXTS, 200)


# -- batches


def test_windows_predict_every_token_of_the_stream_but_the_first_once():
    stream = pack([np.arange(1, 6), np.arange(6, 12)])
    assert stream.tolist() == [0, 1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10, 11]
    rows = windows(stream, 4)
    assert rows[:, 1:].ravel().tolist() == stream[1:].tolist()
    assert rows[:, 0].tolist() == stream[[0, 4, 8]].tolist()


def test_a_batch_is_a_function_of_seed_and_step():
    documents = [np.arange(1, 40) + 50 * i for i in range(10)]
    first = Batches(documents, batch=2, length=16, seed=3)
    epoch = [first[step] for step in range(first.steps_per_epoch)]
    later = first[first.steps_per_epoch]
    again = Batches(documents, batch=2, length=16, seed=3)
    assert np.array_equal(again[first.steps_per_epoch], later)  # jumping there, as a resumed run does
    assert np.array_equal(again[0], epoch[0])
    targets = np.concatenate(epoch)[:, 1:].ravel()
    targets = targets[targets > 0]
    assert len(np.unique(targets)) == len(targets)  # nothing twice in an epoch
    assert not np.array_equal(Batches(documents, batch=2, length=16, seed=4)[0], epoch[0])


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [train.schedule(TINY, step) for step in range(TINY.steps + 1)]
    assert factors[0] < factors[1] < factors[2]
    assert all(a > b for a, b in pairwise(factors[3:]))
    assert factors[-1] == pytest.approx(0, abs=1e-12)


# -- runs


def test_training_lowers_the_loss_and_keeps_the_best_validated_weights(undisturbed):
    losses = {step: validation for step, _, validation, _ in undisturbed.log}
    assert list(losses) == [4, 8, 12]
    assert losses[12] < losses[4] < np.log(TINY.vocabulary) + 0.1
    assert undisturbed.best_loss == min(losses.values())
    assert undisturbed.best_step == min(losses, key=losses.get)


def test_interrupted_and_resumed_training_is_bit_identical_to_undisturbed(
    tiny_tokens, undisturbed, tmp_path, monkeypatch, capsys
):
    tokens = tiny_tokens[1]
    advance, calls = train.advance, []

    def interrupting(run, rows):  # as if Ctrl-C were pressed in the middle of the sixth step
        calls.append(run.step)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(run, rows)

    monkeypatch.setattr(train, "advance", interrupting)
    with pytest.raises(KeyboardInterrupt, match="tiny: stopped at step 6 of 12; the same command resumes"):
        train.fit(TINY, tokens, tokens[:4], tmp_path)
    resumed = train.fit(TINY, tokens, tokens[:4], tmp_path)
    assert "resuming at step 6 of 12" in capsys.readouterr().err
    assert calls == list(range(12))
    assert same(resumed, undisturbed)
    assert [row[:3] for row in resumed.log] == [row[:3] for row in undisturbed.log]


def test_another_seed_gives_another_model(tiny_tokens, undisturbed, tmp_path):
    spec = dataclasses.replace(TINY, seed=1)
    assert not same(train.fit(spec, tiny_tokens[1], tiny_tokens[1][:4], tmp_path), undisturbed)
    assert spec.hash() != TINY.hash()


def test_a_finished_run_is_not_trained_again(tiny_tokens, undisturbed, tmp_path, monkeypatch):
    checkpoint.save_checkpoint(tmp_path, undisturbed.state())
    monkeypatch.setattr(train, "advance", lambda *_: pytest.fail("trained beyond the last step"))
    assert same(train.fit(TINY, tiny_tokens[1], tiny_tokens[1][:4], tmp_path), undisturbed)


def test_divergence_stops_the_run_with_one_line(tiny_tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "training_loss", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(ModelError, match="training of 'tiny' diverged at step 0: loss nan"):
        train.fit(TINY, tiny_tokens[1], tiny_tokens[1][:4], tmp_path)


def test_an_unknown_model_is_named_with_the_valid_ones():
    with pytest.raises(ModelError, match="unknown model to train 'doc-400k': did you mean 'docs-400k'"):
        train.train("doc-400k")


# -- checkpoints


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_writing_a_checkpoint_keeps_the_last_good_one(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, {"step": step})
    monkeypatch.setattr(checkpoint.os, "fsync", full_disk)
    with pytest.raises(ModelError, match="could not be written .*No space left.* the last good one is kept"):
        checkpoint.save_checkpoint(tmp_path, {"step": 3})
    assert checkpoint.load_checkpoint(tmp_path) == {"step": 2}
    assert {p.name for p in tmp_path.iterdir()} == {checkpoint.CURRENT, checkpoint.PREVIOUS}


def test_a_full_disk_does_not_stop_the_run_before_its_end(tiny_tokens, undisturbed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 0.0)
    write, calls = os.fsync, []

    def sometimes(file):
        calls.append(file)
        return full_disk() if len(calls) in (2, 3, 4) else write(file)

    monkeypatch.setattr(checkpoint.os, "fsync", sometimes)
    run = train.fit(TINY, tiny_tokens[1], tiny_tokens[1][:4], tmp_path)
    assert same(run, undisturbed)
    assert capsys.readouterr().err.count("could not be written") == 3


@pytest.mark.parametrize("damage", ["truncated", "empty", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, tmp_path, caplog):
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, {"step": step, "weights": torch.ones(1000)})
    current = tmp_path / checkpoint.CURRENT
    if damage == "gone":  # killed between the two renames
        current.unlink()
    else:
        current.write_bytes(current.read_bytes()[: 2000 if damage == "truncated" else 0])
    assert checkpoint.load_checkpoint(tmp_path)["step"] == 1
    assert ("damaged" in caplog.text) == (damage != "gone")


def test_checkpoints_live_in_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("AEP_HOME", str(tmp_path))
    assert checkpoint.store() == tmp_path / "training"
    monkeypatch.delenv("AEP_HOME")
    assert checkpoint.store() == Path.home() / ".cache" / "aep" / "training"


_CHILD = """
import sys, test_training as t
from pathlib import Path
t.torch.set_num_threads(1)
t.train.CHECKPOINT_EVERY = 0.0
tokens = t.encode(t.train_tokenizer(t.TEXTS, t.TINY.vocabulary), t.TEXTS)
t.train.fit(t.dataclasses.replace(t.TINY, steps=400), tokens, tokens[:4], Path(sys.argv[1]))
"""


@pytest.mark.faults
def test_a_killed_run_resumes_and_ends_as_the_undisturbed_one(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))}

    def start(folder):
        return subprocess.Popen([sys.executable, "-c", _CHILD, str(folder)], env=environment)

    for _ in range(3):
        child = start(tmp_path / "killed")
        before = step_of(tmp_path / "killed")
        while step_of(tmp_path / "killed") < before + 40 and child.poll() is None:
            time.sleep(0.05)
        child.kill()
        child.wait()
    assert 0 < step_of(tmp_path / "killed") < 400
    for name in ("killed", "undisturbed"):
        assert start(tmp_path / name).wait() == 0
    a, b = (checkpoint.load_checkpoint(tmp_path / name) for name in ("killed", "undisturbed"))
    assert a["step"] == b["step"] == 400
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in b["model"])


def step_of(folder):
    state = checkpoint.load_checkpoint(folder)
    return state["step"] if state else 0


# -- evaluation and export


def test_document_losses_are_those_of_one_full_pass(stored):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 2048, size=n) for n in (1, 7, 700)]
    for document, loss in zip(documents, evaluate.document_losses(stored, documents)):
        ids = torch.from_numpy(np.concatenate([[0], document]))[None]
        with torch.no_grad():
            log_p = stored(input_ids=ids[:, :-1], use_cache=False).logits[0].log_softmax(-1)
        assert loss == pytest.approx(-log_p[torch.arange(len(document)), ids[0, 1:]].sum().item(), rel=1e-12)


def test_the_interval_over_documents_agrees_with_the_bootstrap():
    rng = np.random.default_rng(2)
    size = rng.integers(20, 400, size=500)
    total = size * 3 + rng.normal(size=500) * size
    found = intervals.ratio(total, size)
    draws = rng.integers(0, 500, size=(2000, 500))
    low, high = np.quantile(total[draws].sum(1) / size[draws].sum(1), [0.025, 0.975])
    assert found.estimate == total.sum() / size.sum()
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))


def test_unigram_losses_are_surprisals_under_smoothed_frequencies():
    losses = evaluate.unigram_losses(np.array([1, 0, 5]), [np.array([0, 2]), np.array([1])])
    assert losses == pytest.approx([-np.log(2 / 9) - np.log(6 / 9), -np.log(1 / 9)])


def test_train_writes_a_loadable_model_with_a_card_that_matches(monkeypatch, tmp_path):
    documents = [corpus.Document(f"d{i}", text, "") for i, text in enumerate(TEXTS)]
    monkeypatch.setattr(corpus, "load_split", lambda name: documents if name == "training" else documents[:4])
    monkeypatch.setitem(configs.FAMILY, "tiny", TINY)
    monkeypatch.setenv("AEP_HOME", str(tmp_path / "home"))
    folder = train.train("tiny", out=tmp_path / "tiny", threads=torch.get_num_threads())
    written = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "tiny"]
    check_card(folder)
    best = checkpoint.load_checkpoint(next((tmp_path / "home" / "training").iterdir()))["best"]
    weights = load_file(folder / "model.safetensors")
    assert set(best) - set(weights) == {"lm_head.weight"}
    assert all(
        torch.equal(weights[name], best[name].half()) and weights[name].dtype == torch.float16 for name in weights
    )
    card = json.loads(written["card.json"])
    assert card["held_out_low"] < card["held_out_loss"] < card["held_out_high"]
    assert card["steps"] == 12
    train.train("tiny", out=folder)  # finished: the same files again
    assert written == {p.name: p.read_bytes() for p in folder.iterdir()}


def check_card(folder):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    files = {p.name for p in folder.iterdir()} - {"card.json", "README.md"}
    assert (
        files == set(card["sha256"]) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    )
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


# -- the committed model


def test_the_committed_card_matches_the_files(card):
    check_card(MODELS / NAME)
    assert card["data"]["sha256"] == hashlib.sha256(corpus.MANIFEST.read_bytes()).hexdigest()
    assert card["seconds"] <= 1800
    assert card["parameters"] == pytest.approx(400_000, rel=0.1)
    page = (MODELS / NAME / "README.md").read_text(encoding="utf-8")
    assert page == cards.readme(card)
    assert f"**{card['held_out_loss']:.3f} (" in page


def test_the_committed_model_is_the_one_that_the_family_describes(card):
    spec = configs.get(NAME)
    assert card["sizes"] == {k: getattr(spec, k) for k in card["sizes"]}
    config = AutoConfig.from_pretrained(MODELS / NAME)
    assert config.architectures == ["MistralForCausalLM"]
    assert (config.sliding_window, config.tie_word_embeddings) == (128, True)
    assert (config.bos_token_id, config.eos_token_id) == (0, 0)
    assert config.max_position_embeddings >= 32768
    assert config.head_dim % 2 == 0


def test_stored_weights_are_float16_and_load_exactly_into_float64(stored):
    weights = load_file(MODELS / NAME / "model.safetensors")
    assert {v.dtype for v in weights.values()} == {torch.float16}
    loaded = stored.state_dict()
    assert set(loaded) - set(weights) == {"lm_head.weight"}
    assert torch.equal(loaded["lm_head.weight"], loaded["model.embed_tokens.weight"])
    for name, value in weights.items():
        assert loaded[name].dtype == torch.float64
        assert torch.equal(loaded[name], value.double())


def test_the_committed_model_writes_better_than_token_frequencies(card, stored):
    assert card["held_out_high"] < card["held_out"]["unigram_nats_per_token"]["low"] - 2
    text = "Parameters\n----------\nx : array_like\n    Input array."
    tokens = encode(AutoTokenizer.from_pretrained(MODELS / NAME), [text])
    assert evaluate.document_losses(stored, tokens)[0] / len(tokens[0]) < card["held_out_loss"]


@pytest.mark.slow
def test_the_held_out_loss_of_the_card_is_measured_again(card, stored):
    tokens = encode(AutoTokenizer.from_pretrained(MODELS / NAME), [d.text for d in corpus.load_split("held-out")])
    loss = intervals.ratio(evaluate.document_losses(stored, tokens), np.array([len(t) for t in tokens]))
    assert tuple(loss) == pytest.approx([card[f"held_out_{key}"] for key in ("loss", "low", "high")], abs=1e-4)


def test_no_default_of_a_checkpoint_generation_config_is_shipped():
    assert not (MODELS / NAME / "generation_config.json").exists()
    options = AutoModelForCausalLM.from_pretrained(MODELS / NAME).generation_config.to_diff_dict()
    assert set(options) <= {"_from_model_config", "bos_token_id", "eos_token_id", "transformers_version", "use_cache"}
