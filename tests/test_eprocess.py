"""The e-process has mean at most one at every stopping time, rejects no more often than it says, and has power.

Seeds were fixed before the first run. A one-sided binomial test at .1% per language and level: a correct build misses with
probability below .012, and in truth far less, because the e-process is conservative.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from aep import information as info
from aep.adaptors import temperature
from aep.analysis import eprocess
from aep.analysis.eprocess import EXPONENTS, first_rejection, log_e_process, log_mgf, time_uniform_band
from aep.analysis.typicality import Paths
from aep.errors import ParameterError
from aep.languages import FiniteLanguage, HiddenMarkov, MarkovChain, zipf
from aep.reduction import row_columns
from exact_paths import LANGUAGES, TEXTS, TOKENS, P, Q, every_string, of_steps, part, sampled

SEEDS = dict(zip(LANGUAGES, (601, 602, 603, 604), strict=True))
EXACT = tuple(s for s in EXPONENTS if 1 - s in info.THETAS)
SMALL = tuple(s for s in EXPONENTS if 1 - s not in info.THETAS)


def one_step(log_p: np.ndarray) -> Paths:
    """The path of every symbol as a text of one token: (vocab, 1)."""
    rows = np.tile(log_p, (len(log_p), 1))
    return of_steps([row_columns(rows, np.arange(len(log_p)))])


def null(name: str) -> Paths:
    """2,000 texts of 200 tokens of the language itself."""
    return sampled(name, SEEDS[name], tokens=200)


def wrong(name: str) -> Paths:
    """500 texts of 400 tokens of its temperature .8."""
    return sampled(name, SEEDS[name] + 100, "temperature(0.8)", texts=500)


LAWS = arrays(np.float64, st.integers(1, 9), elements=st.floats(-25, 0)).map(info.log_normalise)

# --------------------------------------------------------------------------------------------------- supermartingales


def test_the_exponents_are_the_stored_grid_and_both_signs_down_to_one_512th():
    assert sorted(EXACT) == [-1.0, -0.5, -0.25, -0.125, 0.125, 0.25, 0.5, 0.75]
    assert sorted(SMALL) == sorted(sign * 2.0**-k for k in range(4, 10) for sign in (1, -1))


@settings(max_examples=200)
@given(LAWS)
def test_log_mgf_is_never_below_the_logarithm_of_the_expectation(log_p):
    paths, p = one_step(log_p), np.exp(log_p)
    for s in EXPONENTS:
        exact = np.log(p @ np.exp(s * -np.maximum(log_p, -600)))
        bound = log_mgf(paths, s)
        assert np.all(bound >= exact - 1e-12), s
        if s in EXACT:
            np.testing.assert_allclose(bound, exact, atol=1e-11)


@settings(max_examples=60)
@given(LAWS, st.floats(1e-3, 0.125), st.sampled_from([1, -1]))
def test_log_mgf_bounds_the_expectation_at_every_small_exponent(log_p, size, sign):
    bound = log_mgf(one_step(log_p), sign * size)[0, 0]
    exact = np.log(np.exp(log_p) @ np.exp(-sign * size * log_p))
    assert bound >= exact - 1e-12
    # and it is not loose: an error of third order
    assert bound - exact <= 0.5 * (8 * size) ** 2 * max(1.0, np.exp(info.log_partition(log_p, 0.875)) - 1)


def test_a_bound_without_its_remainder_would_be_seen():
    """Negative control: the second-order series alone lies below the expectation for s > 0."""
    paths, log_p = one_step(zipf(64).log_p), zipf(64).log_p
    series = np.log1p(0.0625 * paths.entropy + 0.0625**2 * (paths.varentropy + paths.entropy**2) / 2)[0, 0]
    exact = info.log_partition(log_p, 1 - 0.0625)
    assert series < exact < log_mgf(paths, 0.0625)[0, 0]


@pytest.mark.parametrize("s", [0.0, 0.2, -0.3, 1.0, np.nan])
def test_an_exponent_that_is_neither_stored_nor_small_is_refused(s):
    with pytest.raises(ParameterError, match="either 1-s is in the stored grid"):
        log_mgf(one_step(np.log([0.5, 0.5])), s)


TINY = {
    "markov": MarkovChain(P),
    "hidden markov": LANGUAGES["hidden markov"],
    "mixture": LANGUAGES["mixture"],
    "nearly sure": MarkovChain([[0.98, 0.02, 0.0], [0.0, 0.98, 0.02], [0.02, 0.0, 0.98]]),
}


@pytest.mark.parametrize("name", TINY)
def test_the_expected_e_value_is_at_most_one_at_every_length_by_enumeration(name):
    with np.errstate(invalid="ignore"):
        p, paths = every_string(TINY[name], 6)
    possible = p > 0
    e = np.exp(
        log_e_process(
            Paths(*(x[possible] for x in paths[:3]), {k: v[possible] for k, v in paths.log_partition.items()})
        )
    )
    p = p[possible]
    expected = p @ e
    assert np.all(expected <= 1 + 1e-12)
    assert np.all(np.diff(expected) <= 1e-12)
    assert expected[-1] > 0.9


def test_given_any_prefix_the_e_process_does_not_rise_on_average():
    """The supermartingale property itself: E[e_(t+1) | x_1..x_t] <= e_t for each of the 81 prefixes of 4 symbols."""
    p, paths = every_string(TINY["markov"], 5)
    e = np.exp(log_e_process(paths)).reshape(81, 3, 5)
    weight = p.reshape(81, 3)
    after = (weight * e[:, :, 4]).sum(1) / weight.sum(1)
    assert np.all(after <= e[:, 0, 3] + 1e-12)


def test_under_a_wrong_language_the_expected_e_value_exceeds_one():
    """Negative control of the enumeration."""
    p, _ = every_string(MarkovChain(Q), 6)
    _, paths = every_string(MarkovChain(P), 6)
    assert p @ np.exp(log_e_process(paths))[:, -1] > 1.05


@pytest.mark.parametrize("s", EXACT)
def test_on_the_stored_grid_the_process_is_a_martingale_the_likelihood_ratio_of_a_temperature(s):
    p, paths = every_string(TINY["hidden markov"], 5)
    log_ratio = np.cumsum(s * paths.surprisal - log_mgf(paths, s), axis=1)
    np.testing.assert_allclose(p @ np.exp(log_ratio), 1, atol=1e-12)
    if s < 1:
        chain, ids = MarkovChain(P), np.indices((3,) * 4).reshape(4, -1)
        p, paths = every_string(chain, 4)
        tempered = temperature(1 / (1 - s))
        log_q = tempered(chain.log_initial)[ids[0]] + sum(
            tempered(chain.log_transition)[ids[t - 1], ids[t]] for t in range(1, 4)
        )
        ratio = np.sum(s * paths.surprisal - log_mgf(paths, s), axis=1)
        np.testing.assert_allclose(ratio, log_q - np.log(p), atol=1e-10)


# -------------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_e_process_rejects_no_more_often_than_its_level_at_any_stopping_time(name):
    log_e = log_e_process(null(name))
    for alpha in (0.05, 0.5):
        rejected = int(np.isfinite(first_rejection(log_e, alpha)).sum())
        assert stats.binomtest(rejected, TEXTS, alpha, alternative="greater").pvalue > 0.001
    assert rejected > 0


@pytest.mark.parametrize("name", LANGUAGES)
def test_an_e_process_with_bounds_that_are_too_small_is_caught(name, monkeypatch):
    """Negative control: only exp(s Σ(a - H)) rejects far too often."""
    monkeypatch.setattr(eprocess, "log_mgf", lambda paths, s: s * paths.entropy)
    paths = part(null(name), slice(500))
    rejected = int(np.isfinite(first_rejection(log_e_process(paths), 0.05)).sum())
    assert stats.binomtest(rejected, 500, 0.05, alternative="greater").pvalue < 1e-6


@pytest.mark.parametrize("name", LANGUAGES)
def test_text_of_temperature_0_8_is_rejected(name, capsys):
    paths = wrong(name)
    times = first_rejection(log_e_process(paths), 0.05)
    power = np.mean(np.isfinite(times))
    with capsys.disabled():
        print(f"\n{name}: temperature .8, {TOKENS} tokens: power of the e-process at 5% is {power:.3f}")
    assert stats.binomtest(int(np.isfinite(times).sum()), 500, 0.05, alternative="greater").pvalue < 1e-6


def test_the_e_process_has_power_against_a_small_deviation_where_the_exact_grid_has_none(capsys):
    """p(r) ∝ 1/r over 2,048 tokens, 20 texts of T = 20,000 at τ = .95; columns in closed form, one distribution.

    The log e-value per token is .0046 on average; the standard deviation of one text is about .0004, of the mean of 20 about
    .0001, so that a correct build falls below .004 with a chance below one in a million. The exact grid alone is negative.
    """
    log_p = zipf(2048).log_p
    log_q = temperature(0.95)(log_p)
    assert info.kl(log_q, log_p) == pytest.approx(0.0076, abs=5e-5)
    ids = np.random.default_rng(605).choice(2048, p=np.exp(log_q), size=(20, 20_000))
    constant = [np.broadcast_to(x, ids.shape) for x in (info.entropy(log_p), info.varentropy(log_p))]
    grid = {theta: np.broadcast_to(x, ids.shape) for theta, x in info.log_partition_grid(log_p).items()}
    paths = Paths(-log_p[ids], *constant, grid)
    per_token = log_e_process(paths)[:, -1] / 20_000
    total = paths.surprisal.sum(axis=1)
    exact = special.logsumexp([s * total - 20_000 * log_mgf(paths, s)[0, 0] for s in EXACT], axis=0) / 20_000
    with capsys.disabled():
        print(
            f"\nτ = .95: log e-value per token {per_token.mean():.4f} ± {per_token.std(ddof=1):.4f}; grid {exact.mean():.4f}"
        )
    assert per_token.mean() > 0.004
    assert exact.mean() < 0
    assert np.all(first_rejection(log_e_process(paths), 0.001) < 20_000)
    own = np.random.default_rng(606).choice(2048, p=np.exp(log_p), size=(20, 20_000))
    assert np.mean(log_e_process(paths._replace(surprisal=-log_p[own]))[:, -1]) < 0  # negative control


# --------------------------------------------------------------------------------------------------------------- band


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-4])
@pytest.mark.parametrize("name", LANGUAGES)
def test_a_text_is_inside_the_band_exactly_while_its_e_process_has_not_reached_the_level(name, alpha):
    for whole in (null(name), wrong(name)):
        paths = part(whole, slice(15), 100)
        log_e, band = log_e_process(paths), time_uniform_band(paths, alpha)
        running = np.cumsum(paths.surprisal, axis=1) / np.arange(1, 101)
        inside = (band.low < running) & (running < band.high)
        clear = np.abs(log_e + np.log(alpha)) > 1e-9
        np.testing.assert_array_equal(inside[clear], (log_e < -np.log(alpha))[clear])
        centre = np.cumsum(paths.entropy, axis=1) / np.arange(1, 101)
        assert np.all((band.low < centre) & (centre < band.high))


def test_the_ends_of_the_band_are_where_the_mixture_reaches_the_level():
    paths = part(null("markov"), slice(50), 40)
    band, steps = time_uniform_band(paths, 0.05), np.arange(1, 41)
    for end in band:
        value = [s * end * steps - np.cumsum(log_mgf(paths, s), axis=1) for s in EXPONENTS]
        np.testing.assert_allclose(special.logsumexp(value, axis=0) - np.log(len(EXPONENTS)), -np.log(0.05), atol=1e-8)
    wide = time_uniform_band(paths, 0.001)
    assert np.all((wide.low < band.low) & (band.high < wide.high))


def test_the_band_narrows_with_t():
    paths = part(null("zipf"), slice(20))
    width = np.subtract(*time_uniform_band(paths, 0.05)[::-1]).mean(axis=0)
    assert np.all(np.diff(width[10:]) < 0)
    assert width[-1] < 0.6 * width[40]


def test_a_sure_text_and_a_uniform_law_never_reject():
    for p in ([1.0, 0.0], [0.25] * 4):
        language = FiniteLanguage(p)
        ids = np.random.default_rng(607).choice(len(p), p=p, size=500)
        paths = of_steps([row_columns(language.log_p[None], ids[t : t + 1]) for t in range(500)])
        log_e = log_e_process(paths)
        assert np.all(log_e <= 1e-9)
        assert np.all(np.isinf(first_rejection(log_e, 0.05)))


def test_an_impossible_token_is_rejected_at_once():
    language = HiddenMarkov([[0.9, 0.1], [0.25, 0.75]], [[0.6, 0.4, 0.0], [0.5, 0.5, 0.0]])
    log_p, _ = language.start([[]])
    log_e = log_e_process(of_steps([row_columns(log_p, np.array([2]))]))
    assert first_rejection(log_e, 0.01)[0] == 1


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-5, 5)))
def test_the_first_rejection_is_the_first_time_at_or_above_the_level(log_e):
    limit = np.log(20)
    for row, time in zip(log_e, first_rejection(log_e, 0.05), strict=True):
        literal = next((t + 1 for t, value in enumerate(row) if value >= limit), np.inf)
        assert time == literal


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_level_outside_the_unit_interval_is_refused(alpha):
    paths = one_step(np.log([0.5, 0.5]))
    with pytest.raises(ParameterError, match=f"alpha={alpha!r}: a level in"):
        time_uniform_band(paths, alpha)
    with pytest.raises(ParameterError, match="alpha="):
        first_rejection(np.zeros(3), alpha)
