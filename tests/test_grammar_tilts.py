"""Tilted grammars and the deviation of mean surprisals, against enumeration and closed forms."""

import math

import numpy as np
import pytest
from scipy import special, stats

from aep.analysis.concentration import renyi_chernoff
from aep.analysis.grammar_tilts import (
    chernoff_from,
    critical_order,
    joint_sums,
    moments,
    string_tail,
    sum_of_surprisals,
    tilted,
    tilted_by_words,
)
from aep.errors import DistributionError, ParameterError
from aep.languages import Grammar

END, LETTERS = 0.3, 2
LETTER = Grammar('S -> [0.3] | "a" S [0.35] | "b" S [0.35]', name="letters")  # equiprobable letters
CRITICAL = math.log(LETTERS) / (math.log(LETTERS) - math.log(1 - END))
PER_LETTER = math.log(LETTERS) - math.log(1 - END)


def log_partition(theta):
    return theta * math.log(END) - math.log1p(-(LETTERS ** (1 - theta)) * (1 - END) ** theta)


@pytest.mark.parametrize("theta", [0.8, 1.0, 1.7])
@pytest.mark.parametrize("name", ["palindromes", "tales"])
def test_the_tilted_grammar_has_the_powers_of_the_probabilities(name, theta):
    grammar = Grammar.load(name)
    law, log_z = tilted(grammar, theta), grammar.log_partition(theta)
    assert law.symbols == grammar.symbols
    for ids in grammar.sample_strings(np.random.default_rng(0), 40):
        assert law.log_probability(ids) == pytest.approx(theta * grammar.log_probability(ids) - log_z, abs=1e-9)
    if theta == 1:
        assert law.entropy() == pytest.approx(grammar.entropy(), rel=1e-12)


def test_the_mean_of_log_p_along_the_family_is_the_derivative_of_the_log_partition():
    grammar, theta, step = Grammar.load("tales"), 0.9, 1e-4
    law = tilted(grammar, theta)
    slope = (grammar.log_partition(theta + step) - grammar.log_partition(theta - step)) / (2 * step)
    assert (grammar.log_partition(theta) - law.entropy()) / theta == pytest.approx(slope, rel=1e-5)


def test_the_critical_order_of_equiprobable_letters_is_the_closed_form():
    assert critical_order(LETTER, tolerance=1e-6) == pytest.approx(CRITICAL, abs=2e-6)
    assert LETTER.log_partition(CRITICAL + 0.01) == pytest.approx(log_partition(CRITICAL + 0.01), rel=1e-9)
    assert critical_order(Grammar('S -> "a" [0.5] | "b" [0.5]')) == 0
    with pytest.raises(
        DistributionError, match="theta=0.5: the sum of p.theta over the strings of letters is infinite"
    ):
        tilted(LETTER, 0.5)
    with pytest.raises(DistributionError, match="ambiguous"):
        tilted(Grammar('S -> S S [.4] | "a" [.6]'), 2.0)
    assert critical_order(Grammar('S -> "a" S [0.5] | "b" [0.5]')) == 0  # infinitely many strings, one of each length


def test_a_tilt_that_underflows_or_has_other_rules_is_refused_by_name():
    # otherwise: "the sum is infinite" at 5000, where it is 0; "line 1: [0.0] is not a probability"; numbers without meaning
    with pytest.raises(
        DistributionError, match="theta=5000: the sum of p.theta over the strings of palindromes underflows"
    ):
        tilted(Grammar.load("palindromes"), 5000)
    steep = Grammar('S -> "a" [0.99] | "b" [0.01]', name="steep")
    with pytest.raises(
        DistributionError, match=r"steep\^500: the probability of an alternative on line 1 underflows to 0"
    ):
        tilted(steep, 500)
    even = Grammar(
        'S -> "a" S "a" [.2] | "b" S "b" [.2] | [.6]', name="even"
    )  # unambiguous, which no LALR parser proves
    with pytest.raises(DistributionError, match="even is not proved to be unambiguous"):
        tilted(even, 2.0)
    assert tilted(even, 2.0, checked_to=8).log_probability([0]) == pytest.approx(math.log(1 - 2 * 0.2**2))
    with pytest.raises(ParameterError, match="even does not have the rules of steep: tilt steep to get one"):
        sum_of_surprisals(steep, even, 3, 4, rng=np.random.default_rng(0))


def test_the_critical_order_of_tales_makes_their_renyi_entropy_of_order_one_half_infinite():
    tales = Grammar.load("tales")
    found = critical_order(tales)
    assert found == pytest.approx(0.73122, abs=2e-5)
    assert math.isinf(tales.log_partition(found - 1e-3)) and math.isfinite(tales.log_partition(found + 1e-3))


def test_the_chernoff_bound_from_orders_is_that_of_finitely_many_strings():
    log_p = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05]))
    orders = np.r_[np.linspace(-1, 0.9999, 4001), np.linspace(1.0001, 12, 4001)]
    partition = np.array([np.log(np.exp(theta * log_p).sum()) for theta in orders])
    entropy = float(-np.exp(log_p) @ log_p)
    ours, theirs = chernoff_from(orders, partition, entropy, 50, 0.2), renyi_chernoff(log_p, 50, 0.2)
    np.testing.assert_allclose(ours, theirs, rtol=2e-2)
    assert ours.bound >= theirs.bound * (1 - 1e-9)
    with pytest.raises(ParameterError, match="at least one on either side of 1"):
        chernoff_from(np.array([0.5, 0.6]), np.array([np.inf, np.inf]), 1.0, 10, 0.1)


def test_sums_of_surprisals_have_the_law_of_sampled_strings():
    grammar, rng = Grammar.load("palindromes"), np.random.default_rng(1)
    drawn = [sum(-grammar.log_probability(s) for s in grammar.sample_strings(rng, 3)) for _ in range(1500)]
    ours = sum_of_surprisals(grammar, grammar, 3, 1500, rng=rng)
    drawn, ours = np.round(drawn, 9), np.round(ours, 9)  # few values: a last digit apart, they would not be ties
    assert stats.ks_2samp(drawn, ours).pvalue > 1e-3
    assert stats.ks_2samp(drawn, 1.2 * ours).pvalue < 1e-3
    tales = Grammar.load("tales")
    mean = sum_of_surprisals(tales, tales, 200, 400, rng=rng) / 200
    assert abs(mean.mean() - tales.entropy()) < 4 * math.sqrt(tales.varentropy() / 200 / 400)
    assert mean.var(ddof=1) * 200 == pytest.approx(tales.varentropy(), rel=0.3)


def test_the_tail_of_equiprobable_letters_is_negative_binomial():
    n, mean, rng = 60, (1 - END) / END, np.random.default_rng(2)
    orders = np.r_[np.linspace(CRITICAL + 1e-3, 0.999, 200), np.linspace(1.001, 4, 200)]
    partition, entropy = np.array([log_partition(t) for t in orders]), mean * PER_LETTER - math.log(END)
    assert LETTER.entropy() == pytest.approx(entropy, rel=1e-12)
    total = stats.nbinom(n, END)
    for epsilon in (0.8, 1.6, 2.4):
        low, high = (n * (mean + side * epsilon / PER_LETTER) for side in (-1, 1))
        exact = total.cdf(math.ceil(low) - 1) + total.sf(math.floor(high))
        bound = chernoff_from(orders, partition, entropy, n, epsilon)
        found = string_tail(LETTER, n, epsilon, bound, rng=rng, samples=4000)
        assert abs(found.estimate - exact) < 4 * (found.high - found.low) / 3.92
        assert exact <= bound.bound < 60 * exact


# ---------------------------------------------------------------------------------------------------- tilted by words


def enumerated(beta):
    """Weights of strings by their numbers of a and b, log Z, and log p and reward of such a string."""
    k, b = np.meshgrid(np.arange(80), np.arange(80))
    binomial = special.gammaln(k + b + 1) - special.gammaln(k + 1) - special.gammaln(b + 1)
    log_p = k * math.log(0.3) + b * math.log(0.2) + math.log(0.5)
    reward = 1.0 * k - 0.5 * b + 0.25
    mass = np.exp(binomial + log_p + reward / beta)
    return mass / mass.sum(), math.log(mass.sum()), log_p, reward


UNEQUAL = Grammar('S -> [0.5] | "a" S [0.3] | "b" S [0.2]', name="unequal")
POINTS = np.array([0.25, 1.0, -0.5])


@pytest.mark.parametrize("beta", [1.5, 4.0, math.inf])
def test_log_z_and_moments_of_a_tilt_by_words_are_those_of_the_enumerated_law(beta):
    weight, log_z, log_p, reward = enumerated(beta)
    assert tilted_by_words(UNEQUAL, POINTS, beta).log_z == pytest.approx(log_z, abs=1e-9)
    found = moments(UNEQUAL, POINTS, beta)
    mean = [(weight * f).sum() for f in (log_p, reward)]
    centred = [f - m for f, m in zip((log_p, reward), mean, strict=True)]
    covariance = [[(weight * f * g).sum() for g in centred] for f in centred]
    assert found.mean == pytest.approx(np.array(mean), rel=1e-6)
    assert found.covariance == pytest.approx(np.array(covariance), rel=1e-4)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_tilt_of_the_tales_by_words_is_the_optimum_of_equation_1(beta):
    grammar, rng = Grammar.load("tales"), np.random.default_rng(0)
    points = rng.integers(-1, 2, grammar.vocab_size).astype(float) / 4
    law, log_z = tilted_by_words(grammar, points, beta)
    assert law.symbols == grammar.symbols and law.eos == grammar.eos
    for ids in law.sample_strings(rng, 30) + grammar.sample_strings(rng, 10):
        expected = grammar.log_probability(ids) + points[ids].sum() / beta - log_z
        assert law.log_probability(ids) == pytest.approx(expected, abs=1e-9)
    assert moments(grammar, points, beta).mean[0] == pytest.approx(
        -law.entropy() + log_z - moments(grammar, points, beta).mean[1] / beta, rel=1e-6
    )


def test_a_tilt_by_words_needs_no_unambiguous_grammar_and_scales_every_derivation():
    grammar = Grammar('S -> S S [.3] | "a" [.4] | "b" [.3]')
    law, log_z = tilted_by_words(grammar, np.array([0.0, -0.7, 0.2]), 1.0)
    for ids in ([1, 0], [1, 2, 0], [2, 2, 1, 0]):
        expected = grammar.log_probability(ids) + (-0.7 * ids.count(1) + 0.2 * ids.count(2)) - log_z
        assert law.log_probability(ids) == pytest.approx(expected, abs=1e-9)


def test_sums_over_corpora_have_the_moments_of_the_law():
    beta, n = 1.5, 50
    law, found = tilted_by_words(UNEQUAL, POINTS, beta).grammar, moments(UNEQUAL, POINTS, beta)
    sums = joint_sums(UNEQUAL, law, POINTS, n, 4000, rng=np.random.default_rng(1))
    error = np.sqrt(np.diag(found.covariance) * n / 4000)
    assert (np.abs(sums.mean(axis=0) - n * found.mean) < 4.5 * error).all()
    assert np.corrcoef(sums.T)[0, 1] == pytest.approx(np.corrcoef(sums.T)[1, 0])
    rho = found.covariance[0, 1] / np.sqrt(np.prod(np.diag(found.covariance)))
    assert abs(np.arctanh(np.corrcoef(sums.T)[0, 1]) - np.arctanh(rho)) < 4.5 / np.sqrt(4000)


def test_points_that_make_the_sum_infinite_or_do_not_fit_are_refused():
    with pytest.raises(DistributionError, match="the sum of its weights over the strings of unequal is infinite"):
        tilted_by_words(UNEQUAL, np.array([0.0, 5.0, 0.0]), 1.0)
    with pytest.raises(ParameterError, match="2 points for 3 words: unequal has one id per word"):
        tilted_by_words(UNEQUAL, np.zeros(2), 1.0)
    with pytest.raises(ParameterError, match="beta=0.0: a strength above 0 is needed"):
        moments(UNEQUAL, POINTS, 0.0)
