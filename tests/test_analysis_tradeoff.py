"""The toy of 2406.10203: the published numbers to their digits, then theory against brute force and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import oracles
from aep import information, temperature, top_k
from aep.analysis import tradeoff
from aep.analysis.bounds import chebyshev
from aep.analysis.concentration import renyi_chernoff, tail_probability
from aep.errors import AepError
from aep.intervals import bootstrap, fisher, mean, weighted_correlation
from aep.languages import Toy, toy

EPSILON = 0.001


@pytest.fixture(scope="module")
def trio():
    return toy()


@pytest.fixture(scope="module")
def legacy(trio):
    """The 1,000 corpora of 100,000 draws of the public code."""
    table = tradeoff.legacy_corpora(trio, 1000, 100_000)
    return table.assign(typical=tradeoff.is_typical(table, trio, EPSILON))


def correlation(table):
    return table["mean_log_p"].corr(table["mean_reward"])


def test_toy_has_the_published_entropies_and_string_level_correlations(trio):
    assert round(float(information.entropy(trio.log_p_plus)), 4) == 5.0053
    assert round(float(information.entropy(trio.log_p)), 4) == 6.8690
    assert round(float(information.varentropy(trio.log_p_plus)), 4) == 1.4241
    assert round(weighted_correlation(trio.log_p, trio.reward), 3) == 0.486
    assert round(float(stats.spearmanr(trio.log_p, trio.reward).statistic), 3) == 0.427
    assert round(weighted_correlation(trio.log_p, trio.reward, trio.p_plus), 4) == -0.1294


def test_toy_draws_from_the_global_legacy_stream_without_touching_it(trio):
    np.random.seed(42)
    p_plus = np.random.dirichlet(alpha=[0.1] * 1000, size=1).flatten()
    logits = p_plus ** (1 / 42) + np.random.uniform(-0.42, 0.42, size=1000)
    state = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(toy().p_plus, p_plus)
    np.testing.assert_allclose(trio.prior, np.exp(logits) / np.exp(logits).sum(), rtol=1e-13)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_published_corpora_are_reproduced_digit_by_digit(legacy):
    typical, atypical = legacy[legacy.typical], legacy[~legacy.typical]
    assert len(typical) == 213
    assert round(correlation(typical), 3) == -0.816
    assert round(correlation(legacy), 4) == -0.1205
    assert round(typical["log_p_plus"].median(), 2) == -500_537.11
    assert round(atypical["log_p_plus"].median(), 2) == -500_638.90


def test_published_banded_corpora_are_reproduced_digit_by_digit(legacy):
    typical, atypical = (tradeoff.banded(legacy[legacy.typical == flag]) for flag in (True, False))
    assert len(typical) == len(atypical) == 1000
    assert round(correlation(typical), 2) == -0.92
    assert round(typical["log_p_plus"].median(), 2) == -500_523.78
    assert round(atypical["log_p_plus"].median(), 2) == -500_718.75
    # further figures printed by the public notebook
    assert np.round(typical["mean_log_p"].describe()[1:3], 6).tolist() == [-6.781878, 0.001489]
    assert np.round(atypical["mean_reward"].describe()[1:3], 6).tolist() == [1.775201, 0.004189]


def test_typical_predicate_is_the_paper_s_sentence(trio, legacy):
    entropy = oracles.entropy(trio.p_plus)
    for _, row in legacy.head(50).iterrows():
        assert row["typical"] == (abs(row["log_p_plus"] / 100_000 + entropy) < EPSILON)


def test_legacy_corpora_are_those_of_the_global_seed(trio, legacy):
    np.random.seed(7)
    ids = np.random.choice(range(1000), size=100_000, p=trio.p_plus)
    assert math.isclose(np.mean(trio.reward[ids]), legacy["mean_reward"][7], rel_tol=1e-12)


def test_log_p_plus_reward_equals_log_p_plus_in_every_corpus(legacy):
    np.testing.assert_allclose(legacy["mean_log_p"] + legacy["mean_reward"], legacy["mean_log_p_plus"], atol=1e-12)


def test_multinomial_corpora_have_the_law_of_the_legacy_loop(trio, legacy):
    fast = tradeoff.sampled_corpora(trio, 2000, 100_000, rng=np.random.default_rng(31))
    for column in ("mean_log_p", "mean_reward", "mean_log_p_plus"):
        assert stats.ks_2samp(fast[column], legacy[column]).pvalue > 0.001
    shifted = fast["mean_reward"] + 0.3 * fast["mean_reward"].std()
    assert stats.ks_2samp(shifted, legacy["mean_reward"]).pvalue < 0.001


def test_equal_seeds_give_equal_corpora_and_other_seeds_others(trio):
    a, b, c = (tradeoff.sampled_corpora(trio, 5, 100, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b)
    assert not np.allclose(a, c)


def test_conditioned_correlation_gives_the_published_sweep(trio):
    sigma = np.sqrt(float(information.varentropy(trio.log_p_plus)) / 10.0 ** np.arange(4, 9))
    theory = tradeoff.conditioned_correlation(trio, EPSILON / sigma)
    assert np.round(theory, 3).tolist() == [-0.975, -0.812, -0.391, -0.139, -0.129]


def test_conditioned_correlation_is_continuous_and_runs_from_minus_one_to_the_population_value(trio):
    ratios = np.geomspace(1e-4, 30, 400)
    values = tradeoff.conditioned_correlation(trio, ratios)
    assert (np.diff(values) > -1e-6).all()
    assert np.abs(np.diff(values)).max() < 0.02
    assert abs(values[0] + 1) < 1e-6
    assert abs(values[-1] - weighted_correlation(trio.log_p, trio.reward, trio.p_plus)) < 1e-12


def test_conditioned_correlation_agrees_with_a_truncated_normal_sample(trio):
    rng = np.random.default_rng(32)
    cov = np.cov([trio.log_p, trio.log_p_plus], aweights=trio.p_plus, ddof=0)
    x, s = rng.multivariate_normal([0, 0], cov, size=400_000).T
    for ratio in (0.3, 1.0):
        kept = np.abs(s) < ratio * np.sqrt(cov[1, 1])
        seen = fisher(np.corrcoef(x[kept], (s - x)[kept])[0, 1], int(kept.sum()), level=0.999)
        assert seen.low < float(tradeoff.conditioned_correlation(trio, ratio)) < seen.high


def test_sweep_lies_about_the_theory(trio):
    table = tradeoff.sweep(
        trio, [10_000, 1_000_000], corpora=2000, epsilon=EPSILON, rng=np.random.default_rng(33), resamples=199
    )
    assert (table["low"] - 0.02 < table["theory"]).all()
    assert (table["theory"] < table["high"] + 0.02).all()


def test_law_of_total_covariance_holds_for_the_bands(legacy):
    parts = tradeoff.covariance_by_band(legacy)
    for column in ("var_log_p", "var_reward", "covariance"):
        total = parts.loc["between bands", column] + parts.loc["within bands", column]
        assert math.isclose(parts.loc["total", column], total, rel_tol=1e-9)
    assert math.isclose(parts.loc["total", "correlation"], correlation(legacy), rel_tol=1e-9)


def test_banded_correlation_is_the_limit_of_the_banded_bootstrap(legacy):
    typical = legacy[legacy.typical]
    limit = tradeoff.banded_correlation(typical["mean_log_p"].to_numpy(), typical["mean_reward"].to_numpy())
    assert abs(limit - correlation(tradeoff.banded(typical, per_band=20_000, seed=1))) < 0.002


def test_selection_on_x_changes_the_correlation_by_pearson_s_formula():
    rng = np.random.default_rng(34)
    x = rng.normal(size=200_000)
    y = -0.4 * x + rng.normal(size=200_000)
    kept = rng.random(200_000) < np.minimum(1, x**2 / 4)
    predicted = tradeoff.correlation_of_selected_range(np.corrcoef(x, y)[0, 1], x[kept].std() / x.std())
    assert abs(predicted - np.corrcoef(x[kept], y[kept])[0, 1]) < 0.01


def test_conditional_mean_reward_follows_the_tilted_family_and_not_the_tempered_one(trio):
    seen = tradeoff.conditional_mean_reward(
        trio, corpora=200_000, size=30, edges=np.linspace(-6.9, -6.66, 9), rng=np.random.default_rng(35)
    )
    tilted = tradeoff.tilted_family(trio, np.linspace(-5, 5, 401))
    gibbs = np.interp(seen["mean_log_p"], tilted["mean_log_p"], tilted["mean_reward"])
    error = (seen["high"] - seen["low"]) / 3.92
    assert (np.abs(seen["mean_reward"] - gibbs) < 4 * error + 0.002).all()
    tempered = tradeoff.tempered_family(trio, np.array([0.5, 2.0]))
    assert tempered["mean_reward"][0] > 1.7765 > tempered["mean_reward"][1]
    assert tempered["mean_log_p"][0] > -6.7818 > tempered["mean_log_p"][1]


def test_an_adaptor_is_pushed_to_the_prior_only_if_it_sees_the_same_order_and_no_temperature():
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    p_plus = prior**2 / (prior**2).sum()
    same_order = Toy(p_plus, prior, np.log(p_plus / prior))
    table = tradeoff.pushed_to_the_prior(same_order, [temperature(1.0), top_k(2), temperature(0.5)])
    assert np.round(table["total_variation"], 12).tolist()[:2] == [0, 0]
    assert table["total_variation"][2] > 0.05
    other_order = Toy(p_plus[::-1], prior, np.log(p_plus[::-1] / prior))
    assert tradeoff.pushed_to_the_prior(other_order, [top_k(2)])["total_variation"][0] == 1


# ------------------------------------------------------------------------------------------------------ concentration


def test_chebyshev_and_chernoff_of_the_toy_have_the_published_values(trio):
    assert round(chebyshev(float(information.varentropy(trio.log_p_plus)), 1000, 0.2), 3) == 0.036
    assert f"{renyi_chernoff(trio.log_p_plus, 1000, 0.2).bound:.1e}" == "2.1e-06"


def exact_tail(p, n, epsilon):
    """By all strings of n letters."""
    entropy = oracles.entropy(p)
    return sum(
        math.prod(p[i] for i in s)
        for s in oracles.strings(len(p), n)
        if abs(-sum(math.log(p[i]) for i in s) / n - entropy) > epsilon
    )


@pytest.mark.parametrize("epsilon", [0.15, 0.3, 0.6])
def test_bounds_lie_above_the_exact_tail_and_importance_sampling_on_it(epsilon):
    p = [0.7, 0.25, 0.05]
    tail = exact_tail(p, 8, epsilon)
    log_p = np.log(p)
    assert tail <= chebyshev(oracles.varentropy(p), 8, epsilon)
    assert tail <= renyi_chernoff(log_p, 8, epsilon).bound
    estimate = tail_probability(log_p, 8, epsilon, rng=np.random.default_rng(36), samples=20_000)
    assert abs(estimate.estimate - tail) < 2 * (estimate.high - estimate.low)


@given(weights=arrays(float, 4, elements=st.floats(0.05, 1)), epsilon=st.floats(0.02, 0.5), s=st.floats(0.01, 3))
def test_no_fixed_s_beats_the_optimised_chernoff_bound(weights, epsilon, s):
    log_p = np.log(weights / weights.sum())
    best = renyi_chernoff(log_p, 50, epsilon)
    entropy = float(information.entropy(log_p))
    for side, tail in ((1, best.upper), (-1, best.lower)):
        exponent = s * (epsilon + side * entropy) - float(information.log_partition(log_p, 1 - side * s))
        assert tail <= math.exp(-50 * exponent) * (1 + 1e-6)


# ---------------------------------------------------------------------------------------------------------- intervals


def test_bootstrap_and_fisher_intervals_cover_a_known_correlation():
    rng = np.random.default_rng(37)
    hits = np.zeros(2)
    for _ in range(200):
        x, y = rng.multivariate_normal([0, 0], [[1, -0.6], [-0.6, 1]], size=80).T
        intervals = (bootstrap(weighted_correlation, x, y, rng=rng, resamples=199), fisher(np.corrcoef(x, y)[0, 1], 80))
        hits += [i.low < -0.6 < i.high for i in intervals]
    assert (hits >= stats.binom(200, 0.93).ppf(0.001)).all()


def test_mean_interval_is_the_t_interval_of_scipy():
    x = np.random.default_rng(38).exponential(size=30)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean(x)[1:], [expected.low, expected.high])


def test_a_bootstrap_of_few_units_is_refused():
    with pytest.raises(AepError, match="20 units"):
        bootstrap(np.mean, np.arange(20.0), rng=np.random.default_rng(0))


def test_a_bootstrap_of_many_units_needs_no_quadratic_memory():
    x = np.random.default_rng(39).normal(size=50_000)
    interval = bootstrap(np.mean, x, rng=np.random.default_rng(40), resamples=99)
    np.testing.assert_allclose(interval[1:], mean(x)[1:], atol=0.003)
