"""Pair records: every column against its definition, resumed after an interrupt, few loads, and what is refused.

Seeds were fixed before the first run.
"""

import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import aep
import oracles
from aep import information as info
from aep.adaptors import parse
from aep.analysis import pairs as pairs_module
from aep.analysis.pairs import PairRecords, pair_columns, pair_records, text_seed
from aep.analysis.typicality import calibration
from aep.errors import AdaptorError, ContextTooLong, ParameterError, PromptError, RecordError, VocabularyMismatch
from aep.languages import MarkovChain
from aep.neural import shelf
from aep.neural.shelf import Shelf
from exact_pairs import drawn_pair
from tiny_models import one_thread, save_model, tiny  # noqa: F401

P = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]]
Q = [[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]]
R = [[0.2, 0.4, 0.4], [0.4, 0.2, 0.4], [0.1, 0.1, 0.8]]
CHAINS = {"P": MarkovChain(P, name="P"), "Q": MarkovChain(Q, name="Q")}
SAMPLERS = {"ancestral": None, "cold": "temperature(0.8)", "top": aep.top_k(2)}
PROMPTS = [[0], [1, 2]]


@pytest.fixture(scope="module")
def pairs() -> PairRecords:
    return pair_records(CHAINS, PROMPTS, samplers=SAMPLERS, texts=20, tokens=60, seed=31)


@pytest.fixture(scope="module")
def table(pairs) -> pd.DataFrame:
    return pairs.per_text()


# ------------------------------------------------------------------------------------------------- columns and identities


def test_there_is_one_row_per_text_and_scorer_of_every_source_and_sampler(pairs, table):
    assert len(pairs) == 12 and len(table) == 12 * 40
    key = ["source", "sampler", "scorer", "prompt", "text"]
    assert not table.duplicated(key).any() and not table.duplicated([*key[:3], "record"]).any()
    assert table.groupby(["source", "sampler", "scorer", "prompt"]).size().eq(20).all()
    assert (table.tokens == 60).all()
    assert repr(pairs) == (
        "PairRecords: 2 languages, 3 samplers, 12 pairs, 40 texts of 60 tokens from each source and sampler"
    )
    for (source, sampler, scorer), records in pairs.items():
        assert records.meta["scorer"] == scorer and records.meta["source"] == source
        assert records.meta["adaptor"] == str(pairs.samplers[sampler])
        np.testing.assert_array_equal(records.matrix("token"), np.array(pairs.texts[source, sampler].ids))
    assert pairs.by_scorer("P", "cold") == {scorer: pairs["P", "cold", scorer] for scorer in CHAINS}


def test_every_column_is_its_definition_written_out_token_by_token(pairs, table):
    """Plain Python sums over the laws of source and scorer, the source's adapted, the prompt as context."""
    laws = {name: oracles.language_next(chain) for name, chain in CHAINS.items()}
    for row in table[table.record.isin([0, 25])].itertuples():
        texts, tokens = pairs.texts[row.source, row.sampler], row.tokens
        prefix = tuple(int(i) for i in texts.prompts[row.prompt])
        adapt, sums = parse(row.adaptor), np.zeros(8)
        for token in texts.ids[row.record]:
            raw, b = laws[row.source](prefix), laws[row.scorer](prefix)
            a = np.exp(adapt(np.log(np.array([raw])))[0]).tolist()
            cross, own = oracles.cross_entropy(a, b), oracles.entropy(a)
            spread = oracles.cross_varentropy(a, b)
            sums += [-math.log(b[token]), oracles.entropy(b), oracles.varentropy(b), cross, spread, own, cross - own, 0]
            sums[7] += math.log(a[token]) - math.log(b[token])
            prefix = (*prefix, int(token))
        l, h, big_v, cross, v, own, kl, llr = sums
        expected = {"l_B": l, "h_B": h, "h_AB": cross, "h_A": own, "kl": kl, "llr": llr, "l_A": l - llr}
        expected = {name: value / tokens for name, value in expected.items()}
        expected |= {"sigma_pair": math.sqrt(v) / tokens, "sigma_B": math.sqrt(big_v) / tokens}
        expected |= {"gap_pair": (l - cross) / tokens, "gap_B": (l - h) / tokens}
        expected |= {"fast_detect_gpt": (cross - l) / math.sqrt(v), "binoculars": l / cross}
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, abs=1e-10), name


def test_a_source_under_itself_has_the_cross_entropy_of_its_entropy(pairs, table):
    own = table[(table.source == table.scorer) & (table.sampler == "ancestral")]
    assert (own.h_AB == own.h_A).all() and (own.kl == 0).all() and (own.llr == 0).all()
    assert own.z_pair.equals(own.z_B) and (own.h_A == own.h_B).all()
    for name in CHAINS:  # and it is what a pass over source and scorer gives
        texts = pairs.texts[name, "ancestral"].with_language(CHAINS[name])
        passed = aep.score(texts, CHAINS[name], source=CHAINS[name])
        for column, values in passed.columns.items():
            np.testing.assert_allclose(pairs[name, "ancestral", name][column], values, atol=1e-12, err_msg=column)
        assert pairs[name, "ancestral", name].meta == passed.meta


def test_fast_detect_gpt_is_minus_z_and_binoculars_the_ratio_of_the_means(table):
    tested = table[table.z_pair_has_test]
    assert len(tested) > 100
    np.testing.assert_allclose(tested.fast_detect_gpt, -tested.z_pair, atol=1e-12)
    np.testing.assert_allclose(table.binoculars, table.l_B / table.h_AB, atol=1e-12)
    np.testing.assert_allclose(table.gap_pair / table.sigma_pair, -table.fast_detect_gpt, atol=1e-10)
    assert table.z_pair.isna().equals(~table.z_pair_has_test)
    assert table.z_B.isna().equals(~table.z_B_has_test)


def laws(n):
    return arrays(np.float64, (n, n), elements=st.floats(0.01, 1)).map(lambda x: x / x.sum(axis=1, keepdims=True))


@settings(deadline=None, max_examples=40)
@given(
    laws(3),
    laws(3),
    st.sampled_from(["ancestral()", "temperature(0.5)", "top_k(2)", "nucleus(0.7)"]),
    st.integers(0, 99),
)
def test_the_cross_entropy_is_at_least_the_entropy_of_the_source_at_every_token(p, q, adaptor, seed):
    a, b, adaptor = MarkovChain(p), MarkovChain(q), parse(adaptor)
    drawn = aep.sample(a, [[0]], texts=2, tokens=20, seed=seed, adaptor=adaptor)
    records = aep.score(drawn, b, source=a, adaptor=adaptor)
    step = records["cross_entropy"] - records["source_entropy"]
    assert (step >= -1e-12).all()
    np.testing.assert_allclose(
        pair_columns(records, adaptor)["kl"],
        records.matrix("cross_entropy").mean(1) - records.matrix("source_entropy").mean(1),
        atol=1e-12,
    )


def test_the_log_likelihood_ratio_has_the_kl_rate_as_its_mean():
    """kl is llr with the token averaged out: equal means, less variance. A correct build misses with a chance of .001."""
    cold = aep.temperature(0.8)
    records = drawn_pair(CHAINS["P"], CHAINS["Q"], texts=2000, tokens=40, seed=32, adaptor=cold)
    found = pair_columns(records, cold)
    gap = found["llr"] - found["kl"]
    assert abs(gap.mean()) < 3.3 * gap.std(ddof=1) / np.sqrt(len(gap))
    assert found["kl"].var() < found["llr"].var()


def test_both_adapted_is_the_pair_of_the_adapted_chains(pairs, table):
    """kl_same = KL(q_A, q_B) of the same temperature; for ancestral sampling it is kl; for top-k the record lacks it."""
    cold = table[table.sampler == "cold"]
    adapt = parse("temperature(0.8)")
    tempered = {name: MarkovChain(np.exp(adapt(chain.log_transition))) for name, chain in CHAINS.items()}
    for (source, scorer), part in cold.groupby(["source", "scorer"]):
        texts = pairs.texts[source, "cold"].with_language(tempered[source])
        records = aep.score(texts, tempered[scorer], source=tempered[source])
        np.testing.assert_allclose(part.kl_same, pair_columns(records)["kl"], atol=1e-10)
    assert abs(cold.kl_same[cold.source == cold.scorer]).max() < 1e-12
    ancestral = table[table.sampler == "ancestral"]
    assert ancestral.kl_same.equals(ancestral.kl)
    assert table.kl_same[table.sampler == "top"].isna().all()


def test_z_of_a_pair_is_standard_normal_whoever_scores_and_z_of_the_scorer_is_not():
    """2,000 texts of Q at temperature .8 under P, 400 symbols. Controls: σ a quarter too large; the scorer's own z."""
    records = drawn_pair(CHAINS["Q"], CHAINS["P"], texts=2000, tokens=400, seed=33, adaptor=aep.temperature(0.8))
    found = pair_columns(records, aep.temperature(0.8))
    assert found["z_pair_has_test"].all() and found["z_B_has_test"].all()
    assert calibration(found["z_pair"]).is_calibrated
    assert not calibration(found["z_pair"] / 1.25).is_calibrated
    assert not calibration(found["z_B"]).is_calibrated


def test_a_scorer_that_forbids_what_the_source_does_is_infinitely_far_and_has_no_test():
    strict = MarkovChain([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]], name="strict")
    found = pair_records({"P": CHAINS["P"], "strict": strict}, [[0]], texts=5, tokens=50, seed=34)
    table = found.per_text()
    far = table[(table.source == "P") & (table.scorer == "strict")]
    assert np.isinf(far.h_AB).all() and np.isinf(far.kl).all() and far.l_B.gt(0).all()
    assert not far.z_pair_has_test.any() and far.z_pair.isna().all() and far.fast_detect_gpt.isna().all()
    near = table[(table.source == "strict") & (table.scorer == "P")]
    assert np.isfinite(near.kl).all()


# ------------------------------------------------------------------------------------------ how the records come about


class Counted(MarkovChain):
    """A chain that counts its passes, and is interrupted before one of them."""

    passes, steps, stop = 0, 0, None

    def rows(self, *asked, **options):
        if Counted.passes == Counted.stop:
            raise KeyboardInterrupt
        Counted.passes += 1
        return super().rows(*asked, **options)

    def start(self, prompts):
        Counted.steps += 1
        return super().start(prompts)


@pytest.fixture
def counted():
    Counted.passes, Counted.steps, Counted.stop = 0, 0, None
    yield {name: Counted(rows, name=name) for name, rows in (("P", P), ("Q", Q), ("R", R))}
    Counted.stop = None


def test_an_ancestral_source_needs_no_pass_for_its_own_record(counted):
    """Three languages: 6 pairs of two, each one pass over both; a sampler makes 3 pairs (A, A) to be passed over as well."""
    pair_records(counted, None, texts=2, tokens=5, seed=1)
    assert Counted.passes == 2 * 6
    Counted.passes = 0
    pair_records(counted, None, samplers={"cold": "temperature(.5)"}, texts=2, tokens=5, seed=1)
    assert 2 * 6 + 3 <= Counted.passes <= 2 * 9  # a language that is source and scorer may go once


@pytest.mark.parametrize("stop", [0, 5, 13])
def test_an_interrupted_call_goes_on_with_what_is_missing(counted, tmp_path, stop):
    counted.pop("R")
    options = {"samplers": SAMPLERS, "texts": 17, "tokens": 5, "seed": 35, "store": tmp_path / "store"}
    whole = pair_records(counted, PROMPTS, **options | {"store": tmp_path / "other"})
    total, Counted.passes, Counted.stop = Counted.passes, 0, stop
    with pytest.raises(KeyboardInterrupt):
        pair_records(counted, PROMPTS, **options)
    assert Counted.passes == stop
    Counted.stop = None
    found = pair_records(counted, PROMPTS, **options)
    assert Counted.passes <= total + 1  # the source of the pass that was cut off may have gone before
    done, Counted.steps = Counted.passes, 0
    again = pair_records(counted, PROMPTS, **options)
    assert Counted.passes == done and Counted.steps == 0
    for each in (found, again):
        pd.testing.assert_frame_equal(each.per_text(), whole.per_text())
        assert all(
            (each[pair][column] == whole[pair][column]).all() for pair in whole for column in whole[pair].columns
        )


def test_a_longer_list_of_languages_or_texts_finds_what_a_shorter_one_has_stored(counted, tmp_path):
    two = {name: counted[name] for name in ("P", "Q")}
    options = {"tokens": 12, "seed": 36, "store": tmp_path}
    short = pair_records(two, None, texts=16, **options).per_text()
    Counted.passes = 0
    longer = pair_records(counted, None, texts=32, **options).per_text()
    assert Counted.passes == 2 * 6  # one batch per pair, of the new texts alone
    first = longer[(longer.text < 16) & longer.source.isin(two) & longer.scorer.isin(two)].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, short)


def test_sources_and_samplers_have_texts_of_their_own(pairs):
    """Two labels of one chain: independent texts. And a text does not depend on the samplers around it."""
    same = pair_records({"a": CHAINS["P"], "b": CHAINS["P"]}, None, texts=20, tokens=30, seed=3)
    a, b = (np.array(same.texts[name, "ancestral"].ids) for name in "ab")
    assert 0.2 < np.mean(a == b) < 0.6  # as two independent texts of the chain
    assert abs(same.per_text().kl).max() < 1e-12
    alone = pair_records({"P": CHAINS["P"]}, PROMPTS, samplers={"x": "top_k(2)"}, texts=20, tokens=60, seed=31)
    np.testing.assert_array_equal(np.array(alone.texts["P", "x"].ids), np.array(pairs.texts["P", "top"].ids))
    assert text_seed(31, "P", parse("top_k(2)")) == pairs.texts["P", "top"].sampler["seed"]


def test_a_record_does_not_depend_on_the_texts_around_it(pairs):
    for source, sampler, scorer in pairs:
        texts = pairs.texts[source, sampler].select([3, 27])
        options = {"source": CHAINS[source], "adaptor": pairs.samplers[sampler]}
        alone = aep.score(texts, CHAINS[scorer], **options)
        kept = pairs[source, sampler, scorer].select([3, 27])
        for name, values in alone.columns.items():
            np.testing.assert_allclose(values, kept[name], atol=1e-12, err_msg=name)


def test_adaptors_of_the_scorers_are_columns_of_every_record():
    known = parse("top_k(2)")
    found = pair_records(
        CHAINS, [[0]], samplers={"ancestral": None, "top": known}, texts=4, tokens=30, seed=5, adaptors=[known]
    )
    for (source, sampler, _), records in found.items():
        assert np.isfinite(records["log_q_top_k(2)"]).any()
        if (source, sampler) == ("P", "top"):
            own = found["P", "top", "P"]
            np.testing.assert_allclose(own["log_q_top_k(2)"], -own["source_surprisal"], atol=1e-12)


@pytest.mark.parametrize(("held", "times"), [(1, 6), (2, 6), (3, 3)])
def test_models_are_loaded_rarely_and_leave_the_memory(tmp_path, monkeypatch, held, times):
    """Three networks: K(K+1)/2 loads where one is kept, K where all are; never more alive than kept and one more."""
    names, alive, most, load = [], weakref.WeakSet(), [], shelf.load

    def noted(place, **options):
        network = load(place, **options)
        names.append(network.name)
        alive.add(network)
        gc.collect()
        most.append(len(alive))
        return network

    monkeypatch.setattr(shelf, "load", noted)
    folders = [str(save_model(tmp_path / name, "gpt2", seed=seed)) for seed, name in enumerate("abc")]
    found = pair_records(Shelf(folders, held=held), None, texts=2, tokens=4, seed=1)
    assert list(found)[:3] == [("a", "ancestral", scorer) for scorer in "abc"] and len(found) == 9
    assert len(names) <= times and len(set(names)) == 3
    assert max(most) <= held + 1
    assert all(records.language is None for records in found.values())


# ---------------------------------------------------------------------------------------------------------------- refused


class Short(MarkovChain):
    context_length = 10


SHORT, COIN = CHAINS | {"S": Short(P, name="short")}, MarkovChain([[0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"languages": {}}, ParameterError, "languages is empty"),
        ({"samplers": {}}, ParameterError, "samplers is empty"),
        ({"texts": 0}, ParameterError, "texts=0: an integer of at least 1"),
        ({"tokens": 0}, ParameterError, "tokens=0"),
        ({"prompts": []}, PromptError, "empty list"),
        ({"prompts": [[]]}, PromptError, "prompt 0 is empty"),
        ({"prompts": [[0], [7]]}, PromptError, "token id 7"),
        ({"samplers": {"x": "topk(50)"}}, AdaptorError, "unknown adaptor 'topk': did you mean 'top_k'"),
        ({"samplers": {"x": 0.8}}, AdaptorError, "adaptor=0.8: give an adaptor such as"),
        ({"languages": CHAINS | {"two": COIN}}, VocabularyMismatch, "compare them per byte"),
        ({"languages": SHORT, "prompts": [[0] * 12]}, ContextTooLong, "prompt 0 has 12 tokens, short a context of 10"),
        ({"languages": SHORT, "prompts": [[0] * 10]}, ContextTooLong, "prompt 0 has 10"),
        ({"languages": SHORT, "prompts": [[0] * 8]}, ContextTooLong, "ask for at most 2 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line_before_anything_is_drawn(change, error, message, monkeypatch):
    monkeypatch.setattr("aep.analysis.pairs.sample", lambda *a, **k: pytest.fail("something was drawn"))
    asked = {"languages": CHAINS, "prompts": None, "texts": 2, "tokens": 5, "seed": 0} | change
    with pytest.raises(error, match=message) as caught:
        pair_records(asked.pop("languages"), asked.pop("prompts"), **asked)
    assert "\n" not in str(caught.value)


def test_a_list_in_the_place_of_labels_is_named():
    with pytest.raises(ParameterError, match=r"samplers=\['top_k\(2\)'\]: give a label for each, such as {'cold'"):
        pairs_module._labelled("samplers", ["top_k(2)"], "{'cold': 'temperature(.5)'}")


def test_an_unknown_pair_is_named_with_the_nearest_one(pairs):
    with pytest.raises(KeyError, match=r"unknown pair 'P/warm/Q': did you mean 'P/top/Q'|'P/cold/Q'"):
        pairs["P", "warm", "Q"]
    with pytest.raises(KeyError, match=r"unknown source and sampler 'P/warm': did you mean"):
        pairs.by_scorer("P", "warm")
    assert pairs.get(("P", "warm", "Q")) is None and ("P", "cold", "Q") in pairs


def test_a_record_of_one_language_or_of_unequal_texts_is_refused(pairs):
    texts = pairs.texts["P", "cold"].select([0, 1])
    with pytest.raises(RecordError, match="source=..., adaptor=..."):
        pair_columns(aep.score(texts, CHAINS["P"]))
    uneven = replace(texts, ids=[texts.ids[0], texts.ids[1][:9]], log_q=None, log_normaliser=None)
    with pytest.raises(RecordError, match="9 to 60 tokens"):
        pair_columns(aep.score(uneven, CHAINS["Q"], source=CHAINS["P"]))


# --------------------------------------------------------------------------------------------------------------- networks


@pytest.fixture(scope="module")
def networks():
    """Two embedded models of one tokenizer, 3 texts of 24 tokens after each of two prompts."""
    models = Shelf(["docs-100k", "docs-400k"])
    options = {
        "samplers": {"ancestral": None, "cold": "temperature(0.8)|top_k(50)"},
        "texts": 3,
        "tokens": 24,
        "seed": 37,
    }
    return models, options, pair_records(models, ["The function", "In this"], **options)


def test_the_identities_hold_for_networks(networks):
    models, _, found = networks
    table = found.per_text()
    own = table[(table.source == table.scorer) & (table.sampler == "ancestral")]
    assert (own.h_AB == own.h_A).all() and (table.kl >= 0).all()
    np.testing.assert_allclose(table.fast_detect_gpt, (table.h_AB - table.l_B) / table.sigma_pair, atol=1e-9)
    for (source, sampler, scorer), records in found.items():
        step = records["cross_entropy"] - records["source_entropy"]
        assert (step >= -1e-9).all()
        adaptor, texts = found.samplers[sampler], found.texts[source, sampler]
        context, ids = texts.prompts[texts.prompt[4]], texts.ids[4]
        a, b = (np.concatenate([np.asarray(x) for x in models[m].rows([context], [ids])]) for m in (source, scorer))
        log_a, log_b = adaptor(info.log_normalise(a)), info.log_normalise(b)
        here = records.select([4])
        np.testing.assert_allclose(here["cross_entropy"], info.cross_entropy(log_a, log_b), atol=1e-9)
        np.testing.assert_allclose(here["cross_varentropy"], info.cross_varentropy(log_a, log_b), atol=1e-7)
        np.testing.assert_allclose(here["source_entropy"], info.entropy(log_a), atol=1e-9)
        np.testing.assert_allclose(here["source_surprisal"], info.surprisal(log_a, ids), atol=1e-9)


def test_networks_give_the_same_pairs_in_other_batches(networks):
    models, options, found = networks
    other = pair_records(models, ["The function", "In this"], **options, batch=1)
    for pair, records in found.items():
        for name, values in records.columns.items():
            np.testing.assert_allclose(other[pair][name], values, atol=1e-9, err_msg=name)


def test_models_of_two_tokenizers_are_refused_with_the_advice_to_use_bytes():
    models = Shelf(["docs-100k", "docs-bytes"])
    with pytest.raises(VocabularyMismatch, match="docs-bytes .257 tokens. and docs-100k .2048 tokens.*per byte"):
        pair_records(models, None, texts=1, tokens=4, seed=0)


def test_a_prompt_longer_than_the_context_of_a_network_is_refused(tiny):  # noqa: F811
    models = {"a": tiny("mistral"), "b": tiny("mistral", seed=1)}
    with pytest.raises(ContextTooLong, match="prompt 0 has 120 tokens, mistral.* a context of 96: shorten it"):
        pair_records(models, ["abcdefgh" * 15], texts=1, tokens=4, seed=0)
