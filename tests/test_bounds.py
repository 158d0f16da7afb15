"""Bounds are never below the exact probability, bands hold their level, and the planner's T covers at its level.

Seeds were fixed before the first run; every binomial test rejects a correct build with probability of at most .001.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aep import information as info
from aep.analysis import bounds
from aep.analysis.bounds import chebyshev, coverage_at, freedman, plan_tokens, renyi_chernoff_band
from aep.analysis.eprocess import EXPONENTS, time_uniform_band
from aep.analysis.typicality import Paths, running_mean
from aep.errors import ParameterError
from aep.languages import FiniteLanguage, MarkovChain
from aep.reduction import row_columns
from exact_paths import LANGUAGES, TEXTS, P, every_string, of_steps, part, sampled

SEEDS = dict(zip(LANGUAGES, (501, 502, 503, 504), strict=True))  # the texts of test_typicality
PILOT = dict(zip(LANGUAGES, (701, 702, 703, 704), strict=True))
EPSILONS = (0.02, 0.1, 0.2, 0.4, 0.8, 1.5)
SMALL = {
    "markov": MarkovChain(P),
    "skewed": MarkovChain([[0.9, 0.08, 0.02], [0.3, 0.65, 0.05], [0.05, 0.05, 0.9]]),
    "hidden markov": LANGUAGES["hidden markov"],
}


# ------------------------------------------------------------------------------------------- against the exact tail


@pytest.mark.parametrize("name", SMALL)
def test_chebyshev_is_at_least_the_exact_tail_at_every_length(name):
    p, paths = every_string(SMALL[name], 7)
    gap = np.abs(running_mean(paths.surprisal - paths.entropy))
    too_small = []
    for t in range(1, 8):
        variance = p @ paths.varentropy[:, :t].sum(1) / t
        for epsilon in EPSILONS:
            exact = p @ (gap[:, t - 1] > epsilon)
            assert chebyshev(variance, t, epsilon) >= exact - 1e-12
            too_small.append(chebyshev(variance / 4, t, epsilon) < exact)
    assert any(too_small)  # negative control: a quarter of the variance is not enough


@pytest.mark.parametrize("name", SMALL)
def test_freedman_is_at_least_the_exact_tail_on_paths_of_bounded_variance(name):
    p, paths = every_string(SMALL[name], 7)
    difference = paths.surprisal - paths.entropy
    largest = np.abs(difference).max()
    too_small = []
    for t in range(1, 8):
        gap, information = np.abs(difference[:, :t].mean(1)), paths.varentropy[:, :t].sum(1)
        for variance in np.quantile(information / t, [0.1, 0.5, 0.9, 1.0]):
            for epsilon in EPSILONS:
                exact = p @ ((gap > epsilon) & (information <= t * variance + 1e-12))
                assert freedman(variance, t, epsilon, largest) >= exact - 1e-12
                too_small.append(freedman(variance / 10, t, epsilon, 0.0) < exact)
    assert any(too_small)  # negative control


@given(st.floats(1e-3, 10), st.integers(1, 10**6), st.floats(1e-3, 5), st.floats(0, 20))
def test_bounds_are_probabilities_that_fall_with_t(variance, tokens, epsilon, bound):
    for function in (lambda t: chebyshev(variance, t, epsilon), lambda t: freedman(variance, t, epsilon, bound)):
        assert 0 <= function(2 * tokens) <= function(tokens) <= 1
    wide = freedman(variance, tokens, epsilon, 0.0)
    assert wide == pytest.approx(min(1, 2 * np.exp(-tokens * epsilon**2 / 2 / variance)), rel=1e-9)


# -------------------------------------------------------------------------------------------------------------- bands


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_renyi_chernoff_band_holds_its_level_at_all_lengths_at_once(name, monkeypatch):
    paths = part(sampled(name, SEEDS[name]), slice(None), 200)
    running = running_mean(paths.surprisal)
    for alpha in (0.05, 0.5):
        band = renyi_chernoff_band(paths, alpha)
        left = int(np.any((running < band.low) | (running > band.high), axis=1).sum())
        assert stats.binomtest(left, TEXTS, alpha, alternative="greater").pvalue > 0.001
    monkeypatch.setattr(bounds, "log_mgf", lambda x, s: s * x.entropy)  # negative control: no Rényi gap
    band = renyi_chernoff_band(paths, 0.5)
    left = int(np.any((running < band.low) | (running > band.high), axis=1).sum())
    assert stats.binomtest(left, TEXTS, 0.5, alternative="greater").pvalue < 1e-6


def test_text_of_another_sampler_leaves_the_band():
    paths = sampled("zipf", 601, "temperature(0.8)", texts=200)
    band = renyi_chernoff_band(paths, 0.05)
    assert np.mean(np.any(running_mean(paths.surprisal) < band.low, axis=1)) > 0.9


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_mixture_band_lies_inside_the_band_of_single_exponents(name):
    """Where one line pays log(K/α) the mixture of K equal weights has reached 1/α too."""
    paths = part(sampled(name, SEEDS[name]), slice(20), 100)
    inner, outer = time_uniform_band(paths, 0.05), renyi_chernoff_band(paths, 0.05)
    assert np.all(inner.low >= outer.low - 1e-9)
    assert np.all(inner.high <= outer.high + 1e-9)
    assert np.all(outer.low < running_mean(paths.entropy))
    assert np.all(outer.high > running_mean(paths.entropy))


def test_the_margin_of_one_exponent_is_its_price_and_the_mean_renyi_gap(monkeypatch):
    """For s = 1/4: l - h < log(K/α)/(sT) + mean(H_(3/4) - H); for s = -1/4 minus the same with H - H_(5/4)."""
    paths = part(sampled("markov", SEEDS["markov"]), slice(5), 50)
    monkeypatch.setattr(bounds, "EXPONENTS", (0.25, -0.25))
    band, steps, h = renyi_chernoff_band(paths, 0.1), np.arange(1, 51), running_mean(paths.entropy)
    price = np.log(2 / 0.1) / (0.25 * steps)
    above = running_mean(paths.log_partition[0.75] / 0.25 - paths.entropy)
    below = running_mean(paths.entropy - paths.log_partition[1.25] / -0.25)
    np.testing.assert_allclose(band.high - h, price + above, atol=1e-12)
    np.testing.assert_allclose(band.low - h, -(price + below), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ planner


def columns_of(log_p: np.ndarray) -> Paths:
    """A pilot of one token per symbol: every token has the same law."""
    return of_steps([row_columns(np.tile(log_p, (len(log_p), 1)), np.arange(len(log_p)))])


def exact_miss(p: float, tokens: float, epsilon: float) -> float:
    """P(|l_T - H| > ε) for independent symbols of probabilities p, 1-p: a sum over how often the first one came."""
    count = np.arange(int(tokens) + 1)
    l = -(count * np.log(p) + (tokens - count) * np.log1p(-p)) / tokens
    entropy = -p * np.log(p) - (1 - p) * np.log1p(-p)
    return float(stats.binom(int(tokens), p).pmf(count) @ (np.abs(l - entropy) > epsilon))


@pytest.mark.parametrize("p", [0.6, 0.8, 0.97])
@pytest.mark.parametrize("epsilon", [0.05, 0.2])
@pytest.mark.parametrize("delta", [0.2, 0.05, 0.001])
def test_every_planned_length_but_the_normal_one_covers_exactly_on_independent_symbols(p, epsilon, delta):
    log_p = np.log([p, 1 - p])
    largest = np.abs(-log_p - info.entropy(log_p)).max()
    plan = plan_tokens(columns_of(log_p), epsilon, delta, bound=float(largest))
    for name in ("chebyshev", "freedman", "renyi_chernoff"):
        tokens = getattr(plan, name)
        assert np.isfinite(tokens)
        assert exact_miss(p, tokens, epsilon) <= delta, name
    # the normal approximation: right to the width of one lattice step where np(1-p) is not small
    if plan.clt * p * (1 - p) > 20:
        step = stats.norm.pdf(stats.norm.isf(delta / 2)) / np.sqrt(plan.clt * p * (1 - p))
        assert abs(exact_miss(p, plan.clt, epsilon) - delta) <= 2 * step
        assert exact_miss(p, np.ceil(plan.clt / 4), epsilon) > delta  # negative control


EPSILON = {"zipf": 0.25, "markov": 0.1, "hidden markov": 0.1, "mixture": 0.1}


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_planned_length_covers_at_its_level_on_fresh_texts(name, capsys):
    """δ = .1; one-sided binomial tests over 2,000 texts; a quarter of the normal length must be rejected."""
    pilot = sampled(name, PILOT[name], texts=300, tokens=100)
    difference = np.abs(pilot.surprisal - pilot.entropy).max()
    plan = plan_tokens(pilot, EPSILON[name], 0.1, bound=float(difference))
    fresh = sampled(name, SEEDS[name])

    def p_value(tokens: float) -> float:
        missed = round((1 - coverage_at(fresh, int(tokens), EPSILON[name])) * TEXTS)
        return stats.binomtest(missed, TEXTS, 0.1, alternative="greater").pvalue

    with capsys.disabled():
        print(f"\n{name}, |l-h| <= {EPSILON[name]} at δ = .1: {plan}")
    for tokens in plan:
        if tokens <= fresh.surprisal.shape[-1]:
            assert p_value(tokens) > 0.001
    assert plan.clt <= fresh.surprisal.shape[-1]
    assert p_value(plan.clt / 4) < 1e-6
    assert plan.clt < min(plan.chebyshev, plan.freedman, plan.renyi_chernoff)


def test_a_plan_is_its_formulas_and_says_inf_where_an_argument_gives_none():
    log_p = np.log([0.6, 0.3, 0.1])
    h, v = info.entropy(log_p), info.varentropy(log_p)
    plan = plan_tokens(columns_of(log_p), 0.1, 0.05, bound=2.0)
    assert plan.clt == np.ceil(stats.norm.ppf(0.975) ** 2 * v / 0.01)
    assert plan.chebyshev == np.ceil(v / (0.05 * 0.01))
    assert plan.freedman == np.ceil(2 * (v + 0.2 / 3) * np.log(40) / 0.01)
    tails = [
        min(
            np.log(40) / (abs(s) * (0.1 - gap))
            for s in EXPONENTS
            if s * sign > 0 and (gap := abs(bounds.log_mgf(columns_of(log_p), s)[0, 0] / s - h)) < 0.1
        )
        for sign in (1, -1)
    ]
    assert plan.renyi_chernoff == np.ceil(max(tails))
    assert plan_tokens(columns_of(log_p), 0.1, 0.05).freedman == np.inf
    fine = plan_tokens(columns_of(log_p), 1e-5, 0.05)
    assert fine.renyi_chernoff == np.inf  # every gap of the mixture's exponents is larger
    assert np.isfinite(fine.clt)
    sure = plan_tokens(columns_of(np.log([0.5, 0.5])), 0.1, 0.05)
    assert sure.clt <= 1
    assert np.isfinite(sure.renyi_chernoff)


def test_coverage_is_the_share_of_texts_within_the_tolerance():
    paths = sampled("markov", PILOT["markov"], texts=300, tokens=100)
    for tokens in (1, 37, 100):
        literal = [abs(sum(a[:tokens] - h[:tokens])) / tokens <= 0.1 for a, h in zip(*paths[:2], strict=True)]
        assert coverage_at(paths, tokens, 0.1) == pytest.approx(np.mean(literal))


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.1), (-1.0, 0.1), (float("nan"), 0.1), (0.1, 0.0), (0.1, 1.0)])
def test_a_tolerance_or_level_that_makes_no_sense_is_refused(epsilon, delta):
    with pytest.raises(ParameterError, match=f"epsilon={epsilon!r}, delta={delta!r}: a tolerance above 0"):
        plan_tokens(columns_of(np.log([0.5, 0.5])), epsilon, delta)


def test_independent_symbols_make_every_length_a_multinomial_and_the_band_agrees():
    """One law at every token: the margins are those of the closed form at every t."""
    language = FiniteLanguage([0.5, 0.3, 0.2])
    paths = of_steps([row_columns(language.log_p[None], np.array([t % 3])) for t in range(60)])
    band, steps = renyi_chernoff_band(paths, 0.05), np.arange(1, 61)
    prices = [(np.log(len(EXPONENTS) / 0.05) / steps + bounds.log_mgf(paths, s)[0, 0]) / s for s in EXPONENTS if s > 0]
    np.testing.assert_allclose(band.high[0], np.min(prices, axis=0), atol=1e-12)
