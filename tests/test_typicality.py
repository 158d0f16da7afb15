"""z is standard normal on exact languages and is seen not to be when it should not; typical sets and their sizes.

Seeds were fixed before the first run. Each language passes three checks at level .001/4 (Bonferroni over four languages), so
a correct build misses with probability of at most .003 for new seeds.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import aep
from aep.analysis import typicality
from aep.analysis.typicality import (
    Paths,
    calibration,
    effective_tokens,
    is_locally_typical,
    is_model_typical,
    is_weakly_typical,
    log_set_size,
    running_mean,
    running_sigma,
    z_test,
)
from aep.languages import FiniteLanguage, MarkovChain
from exact_paths import LANGUAGES, TOKENS, every_string, sampled

LEVEL = 0.001 / len(LANGUAGES)
SEEDS = dict(zip(LANGUAGES, (501, 502, 503, 504), strict=True))
POSITIVE = arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 20)), elements=st.floats(0, 10))


# -------------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("name", LANGUAGES)
def test_z_is_calibrated_on_texts_of_the_language_itself(name):
    z = z_test(*sampled(name, SEEDS[name])[:3])
    assert z.has_test.all()
    assert calibration(z.z, level=LEVEL).is_calibrated


@pytest.mark.parametrize("name", LANGUAGES)
def test_z_with_a_sigma_a_quarter_too_large_is_rejected(name):
    z = z_test(*sampled(name, SEEDS[name])[:3]).z
    for factor in (1.25, 1 / 1.25):
        found = calibration(z / factor, level=LEVEL)
        assert not found.is_calibrated
        assert not found.mean_square_low <= found.mean_square <= found.mean_square_high


@pytest.mark.parametrize("name", LANGUAGES)
def test_text_of_a_lower_temperature_is_rejected_as_over_typical(name, capsys):
    paths = sampled(name, SEEDS[name] + 100, "temperature(0.8)", texts=500)
    z = z_test(*paths[:3])
    power = float(np.mean(z.p_value < 0.05))
    with capsys.disabled():
        print(f"\n{name}: temperature .8, {TOKENS} tokens: power of z at 5% is {power:.3f}, mean z {z.z.mean():.2f}")
    assert z.z.mean() < -1  # each z has standard deviation near 1, their mean one of about .05
    assert not calibration(z.z, level=LEVEL).is_calibrated


def test_sampling_and_scoring_give_the_same_z_as_the_paths_of_these_tests():
    """End to end: `sample`, `score`, `Paths.of`. Mean and Σz² inside their bands, n = 200, chance of a miss .0005."""
    language = LANGUAGES["markov"]
    records = aep.score(aep.sample(language, texts=200, tokens=100, seed=505, batch=200), language, chunk=4096)
    paths = Paths.of(records)
    found = calibration(z_test(*paths[:3]).z, level=LEVEL)
    assert found.is_calibrated
    one = Paths.of(records, 7)
    np.testing.assert_array_equal(one.surprisal, paths.surprisal[7])
    np.testing.assert_array_equal(one.log_partition[0.5], paths.log_partition[0.5][7])
    assert z_test(*one[:3]).z == pytest.approx(z_test(*paths[:3]).z[7], abs=1e-12)
    np.testing.assert_array_equal(paths.first(30).log_partition[2.0], paths.log_partition[2.0][:, :30])


def test_the_bands_of_the_calibration_hold_their_level_on_normal_numbers():
    """1,500 samples of 50 normal numbers at level .05 per check: at most 3 x .05, and each check alone near .05."""
    rng = np.random.default_rng(506)
    found = [calibration(rng.normal(size=50), level=0.05) for _ in range(1500)]
    missed = {
        "mean": sum(abs(f.mean) > f.mean_band for f in found),
        "square": sum(not f.mean_square_low <= f.mean_square <= f.mean_square_high for f in found),
        "shape": sum(f.ks_p <= 0.05 for f in found),
    }
    for check, k in missed.items():
        assert stats.binomtest(k, 1500, 0.05).pvalue > 0.001, check
    rate = np.mean([not f.is_calibrated for f in found])
    assert 0.05 < rate < 0.15
    assert not calibration(rng.normal(0.3, size=1000)).is_calibrated
    assert not calibration(rng.laplace(scale=0.5**0.5, size=2000)).is_calibrated


def test_mean_square_of_l_minus_h_is_the_expected_varentropy_over_t_squared():
    """Var(l_T - h_T) = E[Σ V]/T² at every T, exactly, by enumeration of every string."""
    for name in ("markov", "hidden markov", "mixture"):
        p, paths = every_string(LANGUAGES[name], 6)
        gap = running_mean(paths.surprisal - paths.entropy)
        predicted = running_sigma(paths.varentropy) ** 2
        np.testing.assert_allclose(p @ gap, 0, atol=1e-12)
        np.testing.assert_allclose(p @ gap**2, p @ predicted, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ no test


def z_of(language, ids) -> typicality.ZTest:
    paths = Paths.of(aep.score([ids], language), 0)
    return z_test(*paths[:3])


def test_a_point_mass_and_a_uniform_law_have_no_test():
    for p in ([1.0, 0.0], [0.5, 0.5], [1 / 7] * 7, [1 / 3, 1 / 3, 1 / 3, 0.0]):
        language = FiniteLanguage(p)
        found = z_of(language, aep.sample(language, tokens=300, seed=1).ids[0])
        assert not found.has_test
        assert np.isnan(found.z)
        assert np.isnan(found.p_value)


@pytest.mark.parametrize("before", [5, 100])
def test_a_repetition_loop_has_no_test_however_long_it_is(before):
    """A chain that falls into a sure loop: Σ V stays what it was before."""
    varied = np.resize([0, 1, 2, 0, 0, 1], before)
    rows = [[0.39, 0.3, 0.3, 0.01]] * 3
    language = MarkovChain([*rows, [0.0, 0.0, 0.0, 1.0]], [1.0, 0.0, 0.0, 0.0])
    for loop in (400, 4000):
        found = z_of(language, [*varied, *[3] * loop])
        assert not found.has_test
        assert np.isnan(found.z)
    assert z_of(language, np.resize(varied, 300)).has_test


def test_few_tokens_that_carry_all_the_variance_are_no_test():
    v = np.full(1000, 1e-5)
    v[::50] = 1.0
    d = np.zeros(1000)
    assert effective_tokens(v) == pytest.approx(20, rel=0.1)
    assert not z_test(d, d, v).has_test
    assert z_test(d, d, v, least=10).has_test


def test_z_is_its_formula():
    a, h, v = np.random.default_rng(507).exponential(size=(3, 5, 200))
    found = z_test(a, h, v)
    np.testing.assert_allclose(found.z, (a - h).sum(1) / np.sqrt(v.sum(1)))
    np.testing.assert_allclose(found.z, (running_mean(a) - running_mean(h))[:, -1] / running_sigma(v)[:, -1])
    np.testing.assert_allclose(found.p_value, 2 * stats.norm.cdf(-np.abs(found.z)))


def test_the_effective_number_of_tokens_has_no_scale():
    for scale in (1e-300, 1e-162, 1.0, 1e200):
        np.testing.assert_allclose(effective_tokens(scale * np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])), [2, 1, 0])


@given(POSITIVE)
def test_running_quantities_end_at_the_quantities_of_the_whole_text(x):
    np.testing.assert_allclose(running_mean(x)[..., -1], x.mean(axis=-1), atol=1e-12)
    np.testing.assert_allclose(running_mean(x)[..., 0], x[..., 0])
    np.testing.assert_allclose(running_sigma(x)[..., -1] * x.shape[-1], np.sqrt(x.sum(axis=-1)), atol=1e-12)
    assert np.all(effective_tokens(x) <= x.shape[-1] + 1e-9)
    assert np.all((effective_tokens(x) >= 1 - 1e-9) | (np.sum(x**2, axis=-1) == 0))


# ------------------------------------------------------------------------------------------------------- typical sets


def test_the_three_typical_sets_are_three_sets():
    """A slow language: after a rare symbol the entropy is high. ε = .2, entropy rate .5."""
    steady = (np.full(4, 0.9), np.full(4, 0.9))  # always as expected, but far from the rate
    swinging = (np.array([0.1, 0.9, 0.1, 0.9]), np.full(4, 0.5))  # as expected on average, at no single position
    lucky = (np.full(4, 0.5), np.full(4, 1.5))  # at the rate, but not as the model expected
    for (a, h), model, weak, local in ((steady, 1, 0, 1), (swinging, 1, 1, 0), (lucky, 0, 1, 0)):
        assert is_model_typical(a, h, 0.2) == model
        assert is_weakly_typical(a, 0.5, 0.2) == weak
        assert is_locally_typical(a, h, 0.2) == local


def test_locally_typical_texts_are_typical_of_the_model_and_weak_equals_model_typical_for_independent_symbols():
    p, paths = every_string(LANGUAGES["markov"], 5)
    local = is_locally_typical(paths.surprisal, paths.entropy, 0.5)
    model = is_model_typical(paths.surprisal, paths.entropy, 0.5)
    assert np.all(model[local])
    assert local.sum() < model.sum() < len(p)
    language = FiniteLanguage([0.5, 0.3, 0.2])
    _, paths = every_string(language, 5)
    weak = is_weakly_typical(paths.surprisal, language.entropy(), 0.1)
    np.testing.assert_array_equal(weak, is_model_typical(paths.surprisal, paths.entropy, 0.1))
    chain = LANGUAGES["markov"]
    _, paths = every_string(chain, 5)
    weak = is_weakly_typical(paths.surprisal, chain.entropy_rate(), 0.2)
    assert np.any(weak != is_model_typical(paths.surprisal, paths.entropy, 0.2))


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_the_size_of_a_typical_set_is_the_count_of_its_strings(epsilon):
    """2,000 texts of 9 symbols; relative error of |A| a few percent, so .015 nats per token is more than four of its σ."""
    language, tokens = LANGUAGES["markov"], 9
    _, every = every_string(language, tokens)
    inside = is_model_typical(every.surprisal, every.entropy, epsilon)
    exact = math.log(inside.sum()) / tokens
    drawn = sampled("markov", 508, tokens=tokens)
    kept = is_model_typical(drawn.surprisal, drawn.entropy, epsilon)
    found = log_set_size(drawn.surprisal.sum(1), kept, tokens, rng=np.random.default_rng(509))
    assert found.log_size == pytest.approx(exact, abs=0.015)
    assert found.low - 0.003 <= exact <= found.high + 0.003
    assert found.low < found.log_size < found.high
    assert 25 < found.effective <= kept.sum()
    assert np.isfinite(found.pareto_k)
    control = log_set_size(drawn.surprisal.sum(1), drawn.surprisal.sum(1) > 0, tokens, rng=np.random.default_rng(509))
    assert control.log_size == pytest.approx(math.log(3), abs=0.05)  # the set of all strings
    assert abs(control.log_size - exact) > 0.02


def test_the_interval_of_a_set_size_covers_it_nearly_as_often_as_it_says():
    """60 intervals of 95%, 500 texts each; at a coverage of 93% rejected with probability .001."""
    language, tokens = LANGUAGES["markov"], 6
    _, every = every_string(language, tokens)
    exact = math.log(is_model_typical(every.surprisal, every.entropy, 0.2).sum()) / tokens
    drawn = sampled("markov", 510, texts=30_000, tokens=tokens)
    total, rng, hits = drawn.surprisal.sum(1), np.random.default_rng(511), 0
    kept = is_model_typical(drawn.surprisal, drawn.entropy, 0.2)
    for part in range(60):
        rows = slice(500 * part, 500 * (part + 1))
        found = log_set_size(total[rows], kept[rows], tokens, rng=rng)
        hits += found.low <= exact <= found.high
    assert stats.binomtest(hits, 60, 0.93, alternative="less").pvalue > 0.001


def test_an_empty_set_has_no_size():
    found = log_set_size(np.ones(10), np.zeros(10, bool), 5, rng=np.random.default_rng(0))
    assert np.isnan(found.log_size)
    assert found.effective == 0
    few = log_set_size(np.ones(10), np.ones(10, bool), 1, rng=np.random.default_rng(0))
    assert few.log_size == pytest.approx(1.0)
    assert np.isnan(few.pareto_k)


def test_k_is_that_of_the_largest_weights():
    weight = np.random.default_rng(3).pareto(1 / 0.6, size=20_000) + 1  # P(w > x) = x^(-1/k)
    found = log_set_size(np.log(weight), np.ones(20_000, bool), 1, rng=np.random.default_rng(0))
    assert found.pareto_k == pytest.approx(0.6, abs=0.1)


def test_k_is_nan_where_all_weights_are_ties():
    found = log_set_size(np.full(100, 3.0), np.ones(100, bool), 2, rng=np.random.default_rng(0))
    assert np.isnan(found.pareto_k)
    assert found[:3] == pytest.approx((1.5, 1.5, 1.5))
