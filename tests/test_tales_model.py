"""The model `tales`: what it is trained on, how its distance from the grammar is measured, and the committed one.

Measured first on pairs of small grammars, where every tale can be written down. Seeds were fixed before the first run; the
test of the committed model on fresh tales rejects a correct build with a probability of .001 for a new seed.
"""

import dataclasses
import hashlib
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import aep
from aep import intervals
from aep.__main__ import main
from aep.errors import ModelError, ParameterError, PromptError, VocabularyMismatch
from aep.languages import Grammar, embedded_grammars
from aep.neural.loading import card, embedded
from aep.neural.training import configs, optimizers, tales, train
from aep.neural.training.data import FreshBatches, fresh_rows
from aep.neural.training.tokenizer import word_tokenizer
from aep.outputs import committed
from tiny_models import one_thread  # noqa: F401

GRAMMAR = Grammar.load("tales")
TINY = configs.ModelSpec(
    "tiny", hidden=16, layers=2, heads=2, feed_forward=24, steps=10, warmup=3, validate_every=5,
    vocabulary=GRAMMAR.vocab_size, window=16, batch=2, length=32,
)  # fmt: skip
there = pytest.mark.skipif("tales" not in embedded(), reason="tales is not trained yet")


# -- what it is trained on


def tales_of(row):
    """The whole tales of a row with their end tokens, and the words of the one that was cut."""
    ends = np.flatnonzero(row == 0)
    return [row[a + 1 : b + 1] for a, b in itertools.pairwise(ends)], row[ends[-1] + 1 :]


def test_every_row_is_the_start_token_and_then_whole_tales_of_the_grammar_but_for_the_last():
    rows = fresh_rows(GRAMMAR.sample_strings, np.random.default_rng(1), 3, 200)
    assert rows.shape == (3, 201) and (rows[:, 0] == 0).all()
    for row in rows:
        whole, cut = tales_of(row)
        assert len(whole) >= 2 and all(math.isfinite(GRAMMAR.log_probability(ids)) for ids in whole)
        assert math.isfinite(GRAMMAR.log_probability(cut))


def test_a_row_whose_last_tale_fits_exactly_or_by_its_first_word_only():
    draw = lambda rng, n: [np.array([1, 2, 0])] * n  # noqa: E731
    rng = np.random.default_rng(0)
    assert fresh_rows(draw, rng, 1, 6).tolist() == [[0, 1, 2, 0, 1, 2, 0]]
    assert fresh_rows(draw, rng, 1, 4).tolist() == [[0, 1, 2, 0, 1]]


def test_a_batch_of_fresh_tales_is_a_function_of_seed_and_step_and_none_comes_twice():
    def batches(seed):
        return FreshBatches(GRAMMAR.sample_strings, batch=2, length=100, seed=seed)

    found = [batches(0)[step] for step in range(30)]
    assert np.array_equal(batches(0)[17], found[17])  # jumping there, as a resumed run does
    assert not np.array_equal(batches(1)[17], found[17])
    assert len({row.tobytes() for rows in found for row in rows}) == 60


def test_the_model_has_the_words_of_the_grammar_under_the_same_ids():
    material = tales.material(configs.get("tales"))
    vocabulary = material.tokenizer.get_vocab()
    assert vocabulary == {word: i for i, word in enumerate(GRAMMAR.symbols)}
    assert material.digest == hashlib.sha256(embedded_grammars()["tales"].read_bytes()).hexdigest()
    assert material.held.shape == (tales.VALIDATION_ROWS, configs.get("tales").length + 1)
    trained = {row.tobytes() for step in range(40) for row in material.batches[step]}
    assert not trained & {row.tobytes() for row in material.held}


def test_a_model_of_another_size_than_the_grammar_is_refused():
    with pytest.raises(ModelError, match=f"'tales' has a vocabulary of 300 tokens, its grammar {GRAMMAR.vocab_size}"):
        tales.material(dataclasses.replace(configs.get("tales"), vocabulary=300))


def test_the_window_holds_a_whole_tale_and_what_is_sampled_is_not_cut():
    spec, law = configs.get("tales"), GRAMMAR.length_law(300)
    assert spec.window >= tales.LONGEST and law[tales.LONGEST + 1 :].sum() < 1e-12


def test_interrupted_and_resumed_training_on_fresh_tales_is_that_of_one_run(tmp_path):
    batches = FreshBatches(GRAMMAR.sample_strings, batch=2, length=32, seed=0)
    held = fresh_rows(GRAMMAR.sample_strings, np.random.default_rng(5), 3, 32)
    whole = train.fit_batches(TINY, batches, held, tmp_path / "whole")
    train.fit_batches(TINY, batches, held, tmp_path / "cut", until=4)
    resumed = train.fit_batches(TINY, batches, held, tmp_path / "cut")
    assert resumed.step == whole.step == 10 and resumed.best_loss == whole.best_loss
    assert all(torch.equal(a, b) for a, b in zip(whole.best.values(), resumed.best.values(), strict=True))


# -- the optimizer


def test_newton_schulz_maps_the_singular_values_by_its_polynomial():
    a, b, c = coefficients = (3.4445, -4.7750, 2.0315)
    for shape in ((5, 8), (8, 5), (6, 6)):
        matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        u, s, v = np.linalg.svd(matrix.numpy(), full_matrices=False)
        s = s / np.sqrt((s**2).sum())
        for _ in range(5):
            s = a * s + b * s**3 + c * s**5
        found = optimizers.orthogonalised(matrix, coefficients, 5, 1e-7).numpy()
        np.testing.assert_allclose(found, (u * s) @ v, atol=1e-10)


def test_muon_in_single_precision_is_torchs_muon_but_for_the_precision(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in ((12, 7), (7, 12))]
    gradients = [[torch.randn(w.shape, generator=generator) for w in start] for _ in range(4)]

    def after(kind):
        weights = [torch.nn.Parameter(w.clone()) for w in start]
        optimizer = kind(weights, lr=0.02, weight_decay=0.1)
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
        return [w.detach() for w in weights], optimizer.state_dict()

    ours, state = after(optimizers.SingleMuon)
    rough, theirs = after(torch.optim.Muon)
    for a, b, w in zip(ours, rough, start, strict=True):
        assert (a - b).norm() < 0.02 * (a - w).norm()  # bfloat16 has eight bits
    assert {k: list(v) for k, v in state["state"].items()} == {k: list(v) for k, v in theirs["state"].items()}
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", optimizers.orthogonalised)
    for a, b in zip(ours, after(torch.optim.Muon)[0], strict=True):
        torch.testing.assert_close(a, b)


# -- the tokenizer


@given(st.lists(st.sampled_from(GRAMMAR.symbols), min_size=1, max_size=30))
def test_words_are_encoded_by_white_space_and_decode_to_the_same_string(words):
    tokenizer, text = _tokenizer(), " ".join(words)
    ids = tokenizer.encode(text)
    assert ids == GRAMMAR.encode(text).tolist() and tokenizer.decode(ids) == GRAMMAR.decode(ids) == text
    assert tokenizer.encode("\n".join(words) + " ") == ids


def _tokenizer(kept=[]):  # noqa: B006  made once
    if not kept:
        kept.append(word_tokenizer(GRAMMAR.symbols))
    return kept[0]


@pytest.mark.parametrize("words", [["<end>", "a", "a"], ["<end>", "teddy bear"], ["<end>", ""], ["<end>"], []])
def test_a_list_of_words_that_is_none_is_refused(words):
    with pytest.raises(ParameterError, match="words="):
        word_tokenizer(words)


# -- the measurement, on grammars whose tales can be written down

RULES = """Tale -> SheName "sang ." [{0}] | SheName "sang ." SheName "slept ." [{1}]
SheName -> "lily" [{2}] | "anna" [{3}]"""


@pytest.fixture(scope="module")
def pair():
    """Two grammars of the same words, and every tale of the first as often as its probability, in 64ths, says."""
    p, q = (Grammar(RULES.format(*w)) for w in (("3/4", "1/4", "1/4", "3/4"), ("1/2", "1/2", "5/8", "3/8")))
    strings = [f"{w} sang . <end>" for w in ("lily", "anna")]
    strings += [f"{a} sang . {b} slept . <end>" for a in ("lily", "anna") for b in ("lily", "anna")]
    times = {s: 64 * math.exp(p.log_probability(p.encode(s))) for s in strings}
    assert sum(times.values()) == pytest.approx(64) and all(n == pytest.approx(round(n)) for n in times.values())
    texts = [p.encode(s) for s, n in times.items() for _ in range(round(n))]
    return p, q, texts


def test_the_gap_is_the_divergence_of_the_tales_over_their_length(pair):
    p, q, texts = pair
    table = tales.gap_table(aep.score(texts, q, source=p), p)
    divergence = np.mean([p.log_probability(ids) - q.log_probability(ids) for ids in texts])
    whole = table[table.by == "tale"].iloc[0]
    assert whole.gap == pytest.approx(divergence / p.expected_length(), rel=1e-12)
    assert whole.entropy == pytest.approx(p.entropy_rate(), rel=1e-12)
    assert whole.tokens == sum(map(len, texts)) and whole.share == pytest.approx(1)
    sums = table.assign(total=table.gap * table.tokens).groupby("by")[["tokens", "share", "total"]].sum()
    assert (sums.tokens == whole.tokens).all() and np.allclose(sums.share, 1)
    assert np.allclose(sums.total, whole.gap * whole.tokens)
    assert (table.low <= table.gap).all() and (table.gap <= table.high).all()


def test_the_gap_sits_where_the_two_grammars_differ(pair):
    p, q, texts = pair
    table = tales.gap_table(aep.score(texts, q, source=p), p).set_index(["by", "part"])
    who = 1 / 4 * math.log(2 / 5) + 3 / 4 * math.log(2)  # (1/4, 3/4) against (5/8, 3/8)
    ends = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert table.gap["tokens before", "0 to 1"] == pytest.approx(who, rel=1e-12)
    assert table.gap["sentence", "1"] == pytest.approx(who / 3, rel=1e-12)
    # After the first full stop the end comes (3/4 of the tales) or a name: one law, in which both differ.
    after = ends + 1 / 4 * who
    assert table.gap["sentence", "2"] == pytest.approx(after / 3, rel=1e-12)
    assert table.gap["sentence", "end"] == table.gap["next word", "end"] == pytest.approx(3 / 4 * after, rel=1e-12)
    assert table.gap["next word", "name"] == pytest.approx((who + after / 4) / (5 / 4), rel=1e-12)
    assert table.gap["entropy of the grammar", "0"] == pytest.approx(0, abs=1e-12)
    assert table.gap["next word", "full stop"] == pytest.approx(0, abs=1e-12)


def test_a_language_has_no_gap_from_itself(pair):
    p, _, texts = pair
    assert np.allclose(tales.gap_table(aep.score(texts, p, source=p), p).iloc[0][["gap", "low"]].astype(float), 0)


def test_what_is_grammatical_is_a_whole_tale_with_a_probability(pair):
    p = pair[0]
    texts = [
        p.encode(s) for s in ("anna sang . <end>", "anna sang .", "anna slept . <end>", "sang anna . <end>", "anna")
    ]
    assert tales.grammatical(aep.Texts.from_ids(p, texts), p).tolist() == [True, False, False, False, False]


def test_every_word_of_the_grammar_has_one_kind():
    kinds = dict(zip(GRAMMAR.symbols, tales.kinds_of_words(GRAMMAR), strict=True))
    assert set(kinds.values()) == {*tales._KINDS, *tales._WORDS, "other"}
    expected = {"anna": "name", "she": "pronoun", ".": "full stop", "<end>": "end", "owl": "animal", "mice": "animal"}
    expected |= {
        "mother": "relative",
        "garden": "place",
        "drum": "thing",
        "sad": "feeling",
        "shy": "trait",
        "upon": "other",
    }
    assert {word: kinds[word] for word in expected} == expected


# -- the committed model


@pytest.fixture(scope="module")
def model():
    return aep.load("tales")


@there
def test_the_card_names_the_grammar_and_a_gap_below_three_percent():
    facts = card("tales")
    held, data = facts["held_out"], facts["data"]
    assert data["sha256"] == hashlib.sha256(embedded_grammars()["tales"].read_bytes()).hexdigest()
    assert data["fingerprint"] == GRAMMAR.fingerprint
    assert facts["parameters"] == pytest.approx(400_000, rel=0.1) and facts["vocab_size"] == GRAMMAR.vocab_size
    assert facts["training"]["cpu_seconds"] <= 2 * 45 * 60
    assert held["entropy_rate"] == pytest.approx(GRAMMAR.entropy_rate(), abs=1e-6)
    assert held["kl_rate"]["high"] < 0.03 * GRAMMAR.entropy_rate()
    assert facts["held_out_loss"] < 1.03 * GRAMMAR.entropy_rate()
    assert abs(held["kl_rate_lost_by_float16"]["value"]) < 0.05 * held["kl_rate"]["value"]
    assert held["log_perplexity"]["value"] == pytest.approx(GRAMMAR.entropy_rate() + held["kl_rate"]["value"], abs=1e-6)
    for said, exact in (
        ((facts["held_out_loss"], facts["held_out_high"]), held["log_perplexity"]["value"]),
        ((held["grammar_nats_per_token"]["value"], held["grammar_nats_per_token"]["high"]), GRAMMAR.entropy_rate()),
    ):
        assert abs(said[0] - exact) < 3.29 / 1.96 * (said[1] - said[0])  # both are of the same 5,000 tales


@there
def test_grammar_and_model_score_each_others_texts_and_fresh_tales_have_the_gap_of_the_card(model):
    texts = aep.sample(GRAMMAR, None, texts=400, tokens=tales.LONGEST, seed=77, stop="eos")
    read, back = aep.score(texts, model, source=GRAMMAR), aep.score(texts, GRAMMAR, source=model)
    np.testing.assert_allclose(read["source_entropy"], back["entropy"], atol=1e-9)
    np.testing.assert_allclose(read["entropy"], back["source_entropy"], atol=1e-9)
    assert np.isinf(back["cross_entropy"]).any()  # the network gives something to every word, the grammar does not
    losses, gaps = tales._sums(read)
    found = intervals.ratio(gaps, np.array([len(ids) for ids in texts.ids]), level=0.999)
    said = card("tales")["held_out"]["kl_rate"]
    wide = stats.norm.ppf(0.9995) / stats.norm.ppf(0.975) * (said["high"] - said["low"]) / 2
    assert abs(found.estimate - said["value"]) < math.hypot(found.high - found.estimate, wide)
    assert (read["cross_entropy"] - read["source_entropy"] > -1e-9).all() and len(losses) == 400


@there
def test_most_tales_of_the_model_are_grammatical(model):
    drawn = aep.sample(model, None, texts=200, tokens=tales.LONGEST, seed=78, stop="eos")
    share = tales.grammatical(drawn, GRAMMAR).mean()
    said = card("tales")["held_out"]["grammatical"]
    assert stats.binomtest(round(200 * share), 200, said["value"]).pvalue > 0.001 and said["low"] > 0.5


@there
def test_a_tale_is_read_by_its_words_and_an_unknown_one_is_named(model, tmp_path, capsys):
    text = "once upon a time there was a girl named anna ."
    assert model.encode(text).tolist() == GRAMMAR.encode(text).tolist() and model.decode(model.encode(text)) == text
    assert (model.bos, model.eos) == (0, 0) and model.is_rolling
    with pytest.raises(PromptError, match="tales knows 339 words, and 'Once' is none of them: did you mean 'once'"):
        model.encode("Once upon a time zzz")
    with pytest.raises(PromptError, match="and 'wizard' is none of them"):
        aep.score(["there was a girl", "there was a wizard"], model)
    path = tmp_path / "tale.txt"
    path.write_text("once there was a wizard named tom .")
    assert main(["score", "tales", str(path), "-o", str(tmp_path / "out.parquet")]) == 2
    said = capsys.readouterr().err
    assert "'wizard' is none of them" in said and said.count("\n") == 1
    path.write_text("once there was a boy named tom .")
    assert main(["score", "tales", str(path), "-o", str(tmp_path / "out.parquet")]) == 0
    assert main(["sample", "tales", "--prompt", "one daay", "-o", str(tmp_path / "out.parquet")]) == 2
    assert "'daay' is none of them: did you mean 'day'" in capsys.readouterr().err


@there
def test_a_model_of_words_has_no_bytes_and_no_vocabulary_in_common_with_the_others(model):
    with pytest.raises(VocabularyMismatch, match="WordLevel"):
        aep.per_byte(model)
    with pytest.raises(VocabularyMismatch, match=r"tales \(339 tokens\)"):
        aep.score([[1, 2]], model, source=aep.load("docs-100k"))


@there
def test_the_committed_table_is_that_of_the_card():
    table = committed("A1_tales_gap")
    whole, held = table[table.by == "tale"].iloc[0], card("tales")["held_out"]
    assert whole.tokens == held["tokens"]
    assert [whole.gap, whole.low, whole.high] == pytest.approx(
        [held["kl_rate"][k] for k in ("value", "low", "high")], abs=2e-6
    )
    for _, part in table.groupby("by"):
        assert part.tokens.sum() == whole.tokens and part.share.sum() == pytest.approx(1, abs=1e-4)
    shown = committed("A1_tales_samples")
    for row in shown.itertuples():
        ids = GRAMMAR.encode(row.tale)
        assert row.grammatical == (ids[-1] == 0 and math.isfinite(GRAMMAR.log_probability(ids)))


@there
@pytest.mark.slow
def test_the_committed_table_is_measured_again(monkeypatch, tmp_path, model):
    found = tales.gap_table(aep.score(tales.held_out_tales(GRAMMAR), model, source=GRAMMAR), GRAMMAR)
    pd.testing.assert_frame_equal(found, committed("A1_tales_gap"), rtol=2e-5, atol=1e-9, check_dtype=False)


@there
def test_the_learning_curve_falls_to_the_gap():
    curve = np.array(json.loads((embedded()["tales"] / "card.json").read_text())["training"]["curve"])
    assert (curve[:, 0] == np.unique(curve[:, 0])).all() and curve[-1, 2] == curve[:, 2].min() < curve[0, 2]


def test_a_grammar_of_as_many_other_words_cannot_be_the_source_of_the_model():
    model = aep.load("tales")
    assert model.vocabulary_hash == GRAMMAR.vocabulary_hash
    path = embedded_grammars()["tales"]
    other = Grammar(path.read_text(encoding="utf-8").replace('"elephant"', '"tiger"'), name="tigers")
    assert other.vocab_size == model.vocab_size
    with pytest.raises(VocabularyMismatch, match="tigers .* and tales .* different vocabularies"):
        aep.score(aep.sample(other, None, tokens=60, seed=1, stop="eos"), model, source=other)
