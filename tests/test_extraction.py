"""Extraction by decoding against extraction by p_z, and both against enumeration; exposure against ranks and exact tails.

Seeds were fixed before the first run; a correct build misses a simulated bound with probability of about .001.
"""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import aep
import oracles
from aep.adaptors import nucleus, temperature, top_k
from aep.analysis import extraction as ex
from aep.errors import ParameterError, RecordError
from aep.languages import MarkovChain
from aep.records import Texts
from tiny_models import one_thread, tiny  # noqa: F401

CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.27, 0.23]], name="chain")
PREFIX, SUFFIX = 3, 2


@pytest.fixture(scope="module")
def texts() -> Texts:
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, size=n) for n in [5] * 8 + [9] * 8]
    return Texts.from_ids(CHAIN, [*ids, np.array([1, 0, 0, 0, 0])])


@pytest.fixture(scope="module")
def records(texts):
    return aep.score(texts, CHAIN, adaptors=[temperature(0.5), top_k(2), temperature(2.0) | top_k(2)])


def test_p_z_is_the_probability_of_the_suffix_by_enumeration(texts, records):
    p_next = oracles.language_next(CHAIN)
    for adaptor, change in ((None, lambda p: p), ("top_k(2)", lambda p: oracles.top_k(p, 2))):
        found = ex.log_extraction_probability(records, adaptor, prefix=PREFIX, suffix=SUFFIX)
        for ids, log_p in zip(texts.ids, found, strict=True):
            before = tuple(ids[:PREFIX].tolist())
            law = oracles.distribution(lambda s, b=before, f=change: f(p_next(b + s)), 3, SUFFIX)
            assert sum(law.values()) == pytest.approx(1)
            assert math.exp(log_p) == pytest.approx(law[tuple(ids[PREFIX : PREFIX + SUFFIX].tolist())], abs=1e-12)


def test_greedy_extraction_by_record_and_by_decoding_agree(texts, records):
    by_record = ex.is_greedily_extractable(records, prefix=PREFIX, suffix=SUFFIX)
    assert by_record.tolist() == ex.greedily_extracted(CHAIN, texts, prefix=PREFIX, suffix=SUFFIX).tolist()
    assert by_record[-1] and not by_record.all()
    one = ex.log_extraction_probability(
        aep.score(texts, CHAIN, adaptors=[top_k(1)]), top_k(1), prefix=PREFIX, suffix=SUFFIX
    )
    assert (ex.is_discoverable(one, 1, 1.0) == by_record).all()


def test_a_network_reproduces_its_own_greedy_text_and_no_other(tiny):  # noqa: F811
    lm = tiny("llama", seed=1)
    greedy = aep.sample(lm, [[5, 6, 7], [9, 10, 11]], tokens=8, seed=0, adaptor=top_k(1))
    own = [np.concatenate([greedy.prompts[p], ids]) for p, ids in zip(greedy.prompt, greedy.ids, strict=True)]
    changed = [np.where(np.arange(11) == 10, (ids + 1) % 20 + 3, ids) for ids in own]
    texts = Texts.from_ids(lm, [*own, *changed])
    records = aep.score(texts, lm, adaptors=[nucleus(0.9)])
    assert ex.greedily_extracted(lm, texts, prefix=3, suffix=8).tolist() == [True, True, False, False]
    assert ex.is_greedily_extractable(records, prefix=3, suffix=8).tolist() == [True, True, False, False]
    assert ex.is_greedily_extractable(records, prefix=3, suffix=7).all()
    log_p = ex.log_extraction_probability(records, "nucleus(0.9)", prefix=9, suffix=2)
    hits = ex.sampled_extractions(lm, texts, prefix=9, suffix=2, n=300, seed=4, adaptor="nucleus(0.9)")
    assert (ex.agreement(log_p, hits, 300).p_holm > 0.001).all()


def test_prompts_stand_before_the_prefix():
    chained = aep.sample(CHAIN, [[2, 0], [1]], texts=3, tokens=6, seed=1)
    by_record = ex.is_greedily_extractable(aep.score(chained, CHAIN), prefix=0, suffix=2)
    assert by_record.tolist() == ex.greedily_extracted(CHAIN, chained, prefix=0, suffix=2).tolist()


# Ancestral, tempered and truncated sampling all have to match their own record, and none the record of another.
@pytest.mark.parametrize("adaptor", [None, "temperature(0.5)", "temperature(2)|top_k(2)"])
def test_samples_agree_with_p_z_of_their_adaptor_and_not_with_another(texts, records, adaptor):
    n = 400
    hits = ex.sampled_extractions(CHAIN, texts, prefix=PREFIX, suffix=SUFFIX, n=n, seed=2, adaptor=adaptor)
    log_p = ex.log_extraction_probability(records, adaptor, prefix=PREFIX, suffix=SUFFIX)
    found = ex.agreement(log_p, hits, n)
    assert (found.p_holm > 0.001).all() and found.expected.tolist() == (n * found.p_z).tolist()
    assert (found.hits[found.p_z == 0] == 0).all()
    other = "temperature(0.5)" if adaptor is None else None
    wrong = ex.log_extraction_probability(records, other, prefix=PREFIX, suffix=SUFFIX)
    assert (ex.agreement(wrong, hits, n).p_holm < 1e-3).any()


def test_np_discovery_by_decoding_has_the_probability_that_p_z_says(texts, records):
    n, repeats = 5, 80
    log_p = ex.log_extraction_probability(records, prefix=PREFIX, suffix=SUFFIX)
    hits = np.array(
        [ex.sampled_extractions(CHAIN, texts, prefix=PREFIX, suffix=SUFFIX, n=n, seed=s) > 0 for s in range(repeats)]
    )
    wanted = ex.discovery_probability(log_p, n)
    for k, p in zip(hits.sum(axis=0), wanted, strict=True):
        assert stats.binomtest(int(k), repeats, float(p)).pvalue > 0.001 / len(wanted)


def test_queries_needed_is_the_smallest_n_that_is_discoverable():
    p_z = np.array([1.0, 0.999, 0.5, 0.3, 1e-3, 1e-8, 1e-11])
    for p in (0.1, 0.5, 0.9, 0.999):
        n = ex.queries_needed(np.log(p_z), p)
        for q, k in zip(p_z, n, strict=True):
            assert -math.expm1(k * math.log1p(-q)) >= p - 1e-9 if q < 1 else k == 1
            assert k == 1 or -math.expm1((k - 1) * math.log1p(-q)) < p
    assert ex.is_discoverable(np.log(np.array([0.5])), 2, 0.75).all()
    assert not ex.is_discoverable(np.log(np.array([0.5])), 2, 0.76).any()
    assert np.isclose(ex.queries_needed(np.array([-200.0]), 0.5), math.log(2) * math.exp(200))
    assert (
        ex.queries_needed(np.array([-np.inf]), 0.5)[0] == np.inf
        and ex.discovery_probability(np.array([-np.inf]), 9)[0] == 0
    )


# ------------------------------------------------------------------------------------------------------------- exposure


def test_exposure_is_the_rank_among_all_members_of_a_space():
    # Every string of 4 symbols is a candidate; the planted one's rank is counted in the whole space.
    p_next = oracles.language_next(CHAIN)
    space = {s: -math.log(p) for s, p in oracles.distribution(p_next, 3, 4).items()}
    canary = (0, 0, 1, 1)
    others = np.array([value for s, value in space.items() if s != canary])
    rank = sorted(space.values()).index(space[canary]) + 1
    ties = sum(np.isclose(others, space[canary]))
    found = ex.exposure(np.array([space[canary]]), others)[0]
    assert math.log2(81) - math.log2(rank + ties) <= found + 1e-9 <= math.log2(81) - math.log2(rank) + 2e-9


def test_a_canary_that_was_never_planted_has_the_exposure_of_chance():
    rng = np.random.default_rng(3)
    found = ex.exposure(rng.normal(size=2000), rng.normal(size=9999))
    assert abs(found.mean() - 1 / math.log(2)) < 3.3 * found.std() / np.sqrt(2000)
    assert found.max() <= math.log2(10000)


@pytest.mark.parametrize("shape", [0.0, -3.0, 3.0])
def test_fitted_exposure_extrapolates_the_tail_of_the_law(shape):
    law = stats.skewnorm(shape, 40.0, 5.0)
    fitted = ex.fitted_exposure(np.array([38.0, 30.0]), law.rvs(50_000, random_state=np.random.default_rng(4)))
    np.testing.assert_allclose(fitted.exposure, -law.logcdf([38.0, 30.0]) / math.log(2), rtol=0.15)
    assert fitted.ks_p > 0.001
    values = law.rvs(400, random_state=np.random.default_rng(5))
    by_rank, by_fit = ex.exposure(values, law.rvs(9999, random_state=np.random.default_rng(6))), None
    by_fit = ex.fitted_exposure(values, law.rvs(9999, random_state=np.random.default_rng(6))).exposure
    assert np.abs(by_rank - by_fit)[by_rank < 6].max() < 0.7
    # A law of another kind is not accepted.
    assert ex.fitted_exposure(np.zeros(1), np.random.default_rng(7).uniform(size=2000)).ks_p < 1e-3


@pytest.mark.parametrize("shape", [0.0, -3.0, 3.0])
def test_the_tail_of_the_skew_normal_law_goes_on_where_its_distribution_function_underflows(shape):
    x = -np.arange(1.0, 200.0)
    found = ex._log_cdf(x, shape)
    assert np.isfinite(found).all() and (np.diff(found) < 0).all()
    good = stats.skewnorm.logcdf(x, shape)
    near = (good < -150) & (good > -290)
    tail = np.log(2) + stats.norm.logpdf(x) + stats.norm.logcdf(shape * x) - np.log(-x * (1 + max(shape, 0) ** 2))
    np.testing.assert_allclose(tail[near], good[near], atol=0.01)
    np.testing.assert_allclose(found[x < -60], tail[x < -60])


# ------------------------------------------------------------------------------------------------------ what is refused


def test_lengths_levels_and_empty_spaces_are_refused(texts, records):
    for prefix, suffix in ((4, 2), (-1, 2), (3, 0), (True, 1), (0, 6)):
        with pytest.raises(ParameterError, match="together at most the 5 tokens of the shortest text"):
            ex.is_greedily_extractable(records, prefix=prefix, suffix=suffix)
        with pytest.raises(ParameterError, match="together at most the 5 tokens of the shortest text"):
            ex.greedily_extracted(CHAIN, texts, prefix=prefix, suffix=suffix)
    with pytest.raises(RecordError, match=r"extraction needs.*'log_q_top_k\(1\)'.*adaptors=\[aep\.top_k\(1\)\]"):
        ex.log_extraction_probability(records, top_k(1), prefix=1, suffix=1)
    some = np.log(np.array([0.5]))
    for call in (lambda: ex.discovery_probability(some, 0), lambda: ex.discovery_probability(some + 2, 1)):
        with pytest.raises(ParameterError, match="at least 1 sample"):
            call()
    with pytest.raises(ParameterError, match=r"p=0"):
        ex.is_discoverable(some, 1, 0.0)
    with pytest.raises(ParameterError, match=r"p=1"):
        ex.queries_needed(some, 1.0)
    with pytest.raises(ParameterError, match="no candidate"):
        ex.exposure(some, np.empty(0))
    with pytest.raises(ParameterError, match="is NaN"):
        ex.exposure(some, np.array([np.nan]))
    for candidates in (np.arange(49.0), np.ones(60)):
        with pytest.raises(ParameterError, match="at least 50"):
            ex.fitted_exposure(some, candidates)


def test_the_interval_of_a_fitted_slope_knows_of_the_error_of_the_fit():
    """Slopes of 30 sets of candidates scatter far beyond an interval over canaries alone; the joint one is about as wide."""
    rng = np.random.default_rng(11)
    counts = np.repeat([0, 1, 4, 16, 64], 50)
    values = rng.normal(size=250) - np.log2(1 + counts)
    tables = [ex.exposure_by_count(values, counts, rng.normal(size=300), rng=rng, resamples=99) for _ in range(30)]
    slopes = pd.concat([t[(t["exposure"] == "fitted") & (t["count"] == -1)] for t in tables])
    width = (slopes["high"] - slopes["low"]).mean()
    assert 2 * slopes["mean"].std() < width < 8 * slopes["mean"].std()
    first = tables[0].set_index(["exposure", "count"])
    assert (first.loc["sampled", "mean"] <= np.log2(301)).all() and first.loc[("sampled", 64), "canaries"] == 50
    by_hand = ex.exposure(values[counts == 4], np.arange(-9.0, 9.0)).mean()
    again = ex.exposure_by_count(values, counts, np.linspace(-9, 8, 60).round(2), rng=rng, resamples=9)
    assert by_hand > 0 and (again["low"] <= again["mean"]).all() and (again["mean"] <= again["high"]).all()
