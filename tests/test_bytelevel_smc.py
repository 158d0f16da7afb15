"""The unbiased Monte Carlo estimate of the probability of a byte string: its mean, its interval, and what would bias it."""

import numpy as np
import pytest
from scipy import stats

from aep.errors import ParameterError
from aep.languages import FiniteLanguage
from aep.neural.byte_beam import Candidates, Kept, keep_best
from aep.neural.byte_smc import byte_monte_carlo, keep_unbiased
from aep.neural.bytelevel import ByteLanguage, byte_probability, follow
from byte_oracles import CASES, markov_byte_probability, spelled
from oracles import strings, strings_up_to
from test_bytelevel import END, letters, oracle

AMBIGUOUS = [letters(s) for s in strings(2, 7)][5::24]  # six strings of 7 bytes


def z_scores(estimates: np.ndarray, exact: np.ndarray) -> np.ndarray:
    error = estimates.std(axis=1, ddof=1) / np.sqrt(estimates.shape[1])
    return (estimates.mean(axis=1) - exact) / error


@pytest.mark.parametrize("case", CASES)
def test_with_as_many_particles_as_histories_it_is_exact_for_all_strings_to_length_8(case):
    texts = [letters(s) for s in strings_up_to(2, 8) if s]
    texts = [(*s, END) for s in texts] if CASES[case][0].eos is not None else texts
    language = ByteLanguage(*CASES[case])
    found = byte_monte_carlo(language, [np.array(s) for s in texts], particles=128, replicates=2, seed=0, batch=4000)
    np.testing.assert_allclose(np.exp(found.log_p), oracle(case, texts), rtol=1e-11, atol=0)
    np.testing.assert_allclose(found.jensen, 0, atol=1e-20)


@pytest.mark.parametrize("case", ["chain, ambiguous", "chain, two tokens of one string", "hidden states"])
@pytest.mark.parametrize("particles", [1, 2, 3])
def test_the_estimate_of_the_probability_is_unbiased(case, particles):
    """2,000 repetitions of six strings; a correct build fails with a chance of .001 over all nine cases (Bonferroni)."""
    texts = [(*s, END) for s in AMBIGUOUS]
    language, exact = ByteLanguage(*CASES[case]), oracle(case, texts)
    found = byte_monte_carlo(
        language, [np.array(s) for s in texts], particles=particles, replicates=2000, seed=7, batch=12000
    )
    estimates = np.exp(found.log_estimates)
    random = estimates.std(axis=1) > 1e-9 * exact  # with fewer histories than particles nothing is drawn
    assert random.any()
    np.testing.assert_allclose(estimates[~random], np.repeat(exact[~random, None], 2000, axis=1), rtol=1e-11)
    z = z_scores(estimates[random], exact[random])
    assert np.abs(z).max() < stats.norm.ppf(1 - 0.001 / 9 / 2 / len(z))


def test_a_beam_that_renormalises_is_recognised_as_biased():
    """The negative control: the heaviest history alone, weighted up to what there was, fails the same test."""
    case = "chain, ambiguous"
    texts = [(*s, END) for s in AMBIGUOUS]

    def heaviest(candidates: Candidates) -> Kept:
        kept = keep_best(1)(candidates)
        total = np.array(
            [np.logaddexp.reduce(candidates.log_weight[candidates.text == t]) for t in range(candidates.texts)]
        )
        return Kept(kept.index, total[candidates.text[kept.index]] - candidates.log_weight[kept.index])

    found = follow(ByteLanguage(*CASES[case]), [np.array(s) for s in texts], lambda t, active: heaviest)
    assert np.abs(np.exp([x[-1] for x in found["kept"]]) / oracle(case, texts) - 1).max() > 0.01


@pytest.mark.parametrize("particles", [1, 2, 4, 5])
def test_every_weight_has_the_right_mean_over_the_uniform_number(particles):
    log_weight = np.log([0.4, 0.02, 0.3, 0.1, 0.15, 0.03, 5e-200, 0.7, 0.2, 0.1])
    text = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    candidates = Candidates(text, log_weight, np.zeros(10, bool), 2)
    grid = (np.arange(1000) + 0.5) / 1000
    mean = np.zeros(10)
    for u in grid:
        kept = keep_unbiased(particles, np.array([u, 1 - u]))(candidates)
        assert np.all(np.diff(kept.index) > 0)
        assert np.bincount(text[kept.index]).max() <= particles
        mean[kept.index] += np.exp(log_weight[kept.index] + kept.log_factor) / len(grid)
    np.testing.assert_allclose(mean, np.exp(log_weight), atol=2e-3)


def test_heavy_histories_stay_as_they_are():
    weight = np.array([10.0, 5.0, 0.1, 0.1, 0.1, 0.1])
    candidates = Candidates(np.zeros(6, int), np.log(weight), np.zeros(6, bool), 1)
    kept = keep_unbiased(3, np.array([0.3]))(candidates)
    assert kept.index[:2].tolist() == [0, 1] and (kept.log_factor[:2] == 0).all()
    np.testing.assert_allclose(np.exp(kept.log_factor[2]) * weight[kept.index[2]], 0.4)  # c: one place for .4


def test_the_interval_covers_the_probability_and_the_log_is_low_by_the_jensen_term():
    case, texts = "chain, ambiguous", [(*letters((0, 0, 1, 0, 0, 1, 0)), END)] * 400
    exact = np.log(oracle(case, texts[:1])[0])
    language = ByteLanguage(*CASES[case])
    found = byte_monte_carlo(language, [np.array(s) for s in texts], particles=2, replicates=20, seed=3, batch=8000)
    covered = int(((found.low <= exact) & (exact <= found.high)).sum())
    assert covered >= stats.binom.ppf(0.001, 400, 0.92)  # of intervals at .95; the estimates are skewed
    bias = exact - found.log_p.mean()
    error = found.log_p.std(ddof=1) / 20
    assert error < np.mean(found.jensen), "the test could not see the term"
    assert abs(bias - found.jensen.mean()) < 4 * error


def test_more_particles_vary_less_and_long_texts_are_estimated_where_the_bound_of_a_beam_is_far_below():
    text = (97, 97, 98) * 20
    chain, pieces = CASES["chain, ambiguous"]
    exact = np.log(markov_byte_probability(chain, spelled(pieces, 5), text))
    language = ByteLanguage(chain, pieces, width=16)
    spread = []
    for particles in (1, 4, 16):
        found = byte_monte_carlo(language, [np.array(text)], particles=particles, replicates=64, seed=1, level=0.999)
        assert found.low[0] < exact < found.high[0]
        spread.append(found.jensen[0])
    assert spread[0] > 4 * spread[1] > 16 * spread[2]
    bound = byte_probability(language, [np.array(text)]).log_p[0]
    assert bound < exact - 1 < found.low[0]


def test_the_same_seed_gives_the_same_estimates_whatever_the_batch():
    language = ByteLanguage(*CASES["chain, ambiguous"])
    texts = [b"aabab", b"aaaaaaab", b"ba"]
    options = {"particles": 2, "replicates": 5}
    first = byte_monte_carlo(language, texts, seed=1, **options)
    again = byte_monte_carlo(language, texts, seed=1, batch=4, **options)
    other = byte_monte_carlo(language, texts, seed=2, **options)
    np.testing.assert_allclose(first.log_estimates, again.log_estimates, atol=1e-12)
    assert np.abs(first.log_estimates - other.log_estimates).max() > 1e-3


def test_impossible_bytes_and_bad_options():
    never = ByteLanguage(FiniteLanguage([0.5, 0.5]), [b"ab", b"b"])
    found = byte_monte_carlo(never, [b"aa"], seed=0)
    assert np.isneginf([found.log_p[0], found.low[0]]).all()
    assert np.isposinf(found.high[0]) and np.isnan(found.jensen[0]), "not found is not impossible"
    for bad in ({"replicates": 1}, {"particles": 0}, {"level": 1.0}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            byte_monte_carlo(never, [b"b"], seed=0, **bad)
