"""Conformal p-values and e-values: exact by enumeration of ranks, and the false discovery rate by simulation.

Seeds were fixed before the first run; every binomial test rejects a correct build with probability of at most .001.
"""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from aep.analysis.conformal import conformal_e, conformal_p, discoveries, e_benjamini_hochberg
from aep.analysis.hypotheses import benjamini_hochberg
from aep.errors import ParameterError


def leave_one(values):
    """Every value of an exchangeable sample in the place of the tested one."""
    return [(values[i : i + 1], np.delete(values, i)) for i in range(len(values))]


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 2.0, 2.0, 2.0], [0.0] * 5])
def test_p_values_are_super_uniform_and_e_values_have_mean_at_most_one(values):
    values = np.array(values)
    p = np.array([conformal_p(v, null)[0] for v, null in leave_one(values)])
    for u in np.arange(1, 6) / 5:
        assert np.mean(p <= u + 1e-12) <= u + 1e-12
    for level in (None, 0.2, 0.5):
        e = [conformal_e(v, null, level=level)[0] for v, null in leave_one(values)]
        assert np.mean(e) <= 1 + 1e-12
        if len(set(values)) == 5 and level != 0.5:
            assert np.mean(e) == pytest.approx(1)


def test_ranks_are_those_of_counting():
    rng = np.random.default_rng(0)
    null, values = rng.integers(0, 6, 40).astype(float), rng.integers(-1, 7, 30).astype(float)
    counted = [(1 + sum(n >= v for n in null)) / 41 for v in values]
    np.testing.assert_allclose(conformal_p(values, null), counted)
    np.testing.assert_allclose(conformal_p(values, np.tile(null, (30, 1))), counted)
    drawn = np.random.default_rng(3).uniform(size=30)
    ties = [(sum(null > v) + u * (1 + sum(null == v))) / 41 for v, u in zip(values, drawn, strict=True)]
    np.testing.assert_allclose(conformal_p(values, null, rng=np.random.default_rng(3)), ties)


def test_random_ties_are_exactly_uniform_and_conservative_ones_are_not():
    rng = np.random.default_rng(1)
    null, values = rng.integers(0, 3, (4000, 9)).astype(float), rng.integers(0, 3, 4000).astype(float)
    assert stats.kstest(conformal_p(values, null, rng=rng), "uniform").pvalue > 0.001
    assert stats.kstest(conformal_p(values, null), "uniform").pvalue < 1e-6


def test_matched_nulls_are_kept_apart():
    values, null = np.array([5.0, 5.0]), np.array([[0.0, 1.0, 2.0], [7.0, 8.0, 9.0]])
    assert conformal_p(values, null).tolist() == [0.25, 1.0]
    assert conformal_e(values, null, level=0.25).tolist() == [4.0, 0.0]


def by_the_book(e, alpha):
    """Wang and Ramdas 2022: the largest k with k e_[k]/m >= 1/alpha; the k largest are found."""
    order = np.argsort(-e)
    good = [k for k in range(1, len(e) + 1) if k * e[order[k - 1]] / len(e) >= 1 / alpha - 1e-12]
    found = np.zeros(len(e), bool)
    found[order[: max(good, default=0)]] = True
    return found


def test_e_bh_finds_what_the_book_finds_at_every_level():
    for values in product([0.0, 3.0, 12.0, 40.0, 200.0], repeat=4):
        e = np.array(values)
        for alpha in (0.01, 0.05, 0.1, 0.3, 0.7):
            assert (discoveries(alpha, e=e).found == by_the_book(e, alpha)).all()
    np.testing.assert_allclose(e_benjamini_hochberg(np.array([np.nan, 50.0, 2.0])), [np.nan, 0.04, 0.5])


def test_e_bh_takes_the_steps_of_bh_on_inverse_e_values():
    p = np.random.default_rng(2).uniform(size=50) ** 3
    np.testing.assert_allclose(e_benjamini_hochberg(1 / p), benjamini_hochberg(p))


@pytest.mark.parametrize("kind", ["p", "e"])
def test_the_false_discovery_rate_keeps_its_level_with_a_shared_null_sample(kind):
    rng, alpha, repeats = np.random.default_rng(4), 0.2, 400
    signal = np.arange(60) < 20
    rates, power = [], []
    for _ in range(repeats):
        null, values = rng.normal(size=300), rng.normal(size=60) + 3.5 * signal
        evidence = {"p": conformal_p(values, null)} if kind == "p" else {"e": conformal_e(values, null, level=0.02)}
        found = discoveries(alpha, **evidence).found
        rates.append(np.sum(found & ~signal) / max(1, found.sum()))
        power.append(np.mean(found[signal]))
    error = np.std(rates, ddof=1) / np.sqrt(repeats)
    assert np.mean(rates) <= alpha * 2 / 3 + 3.1 * error and np.mean(power) > 0.5
    if kind == "p":  # a share 2/3 of the hypotheses is null: BH is at 2/3 of its level, and not far below it
        assert np.mean(rates) > alpha / 2


def test_a_null_sample_of_easier_text_does_not_keep_the_level():
    rng, rates = np.random.default_rng(5), []
    for _ in range(100):
        found = discoveries(0.2, p=conformal_p(rng.normal(size=60) + 1.5, rng.normal(size=300))).found
        rates.append(found.any())
    assert np.mean(rates) > 0.5


def test_what_is_refused_is_named():
    some = np.ones(3)
    with pytest.raises(ParameterError, match="null sample is empty"):
        conformal_p(some, np.empty(0))
    with pytest.raises(ParameterError, match="values hold NaN"):
        conformal_p(np.array([np.nan]), some)
    with pytest.raises(ParameterError, match="null hold NaN"):
        conformal_e(some, np.array([np.nan]))
    with pytest.raises(ParameterError, match=r"null has shape \(2, 5\)"):
        conformal_p(some, np.ones((2, 5)))
    for level in (0.1, 1.0):
        with pytest.raises(ParameterError, match=r"from 1/\(n \+ 1\) = 0.25 for 3 null values"):
            conformal_e(some, some, level=level)
    with pytest.raises(ParameterError, match="an e-value is -1.0"):
        discoveries(0.1, e=np.array([1.0, -1.0]))
    with pytest.raises(ParameterError, match="alpha=0"):
        discoveries(0.0, p=some)
    for given in ({}, {"p": some, "e": some}):
        with pytest.raises(ParameterError, match="give either"):
            discoveries(0.1, **given)
