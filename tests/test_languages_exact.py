"""Exact languages against brute force on three letters, and identities that hold for every distribution."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from aep.errors import DistributionError, PromptError, VocabularyMismatch
from aep.languages import FiniteLanguage, HiddenMarkov, InfiniteEntropy, Language, MarkovChain, Mixture, reversal, zipf

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
Q = np.array([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])
START = np.array([0.2, 0.5, 0.3])
EMISSION = np.array([[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]])
HIDDEN = np.array([[0.9, 0.1], [0.25, 0.75]])

LANGUAGES = [
    FiniteLanguage([0.5, 0.3, 0.2]),
    FiniteLanguage([0.5, 0.5, 0.0], name="with a zero"),
    MarkovChain(P),
    MarkovChain(P, START, name="markov(3), given start"),
    HiddenMarkov(HIDDEN, EMISSION),
    Mixture([MarkovChain(P), MarkovChain(Q)], [0.25, 0.75]),
    Mixture([MarkovChain(P), HiddenMarkov(HIDDEN, EMISSION)], [0.5, 0.5]),
    InfiniteEntropy(),
    reversal(),
]


def rows_of(n: int, size: int):
    """Stochastic matrices with entries bounded away from zero."""
    return arrays(float, (n, size), elements=st.floats(0.01, 1)).map(lambda w: w / w.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_next_symbol_laws_sum_to_one_after_every_prefix(language):
    next_p = oracles.language_next(language)
    for prefix in oracles.strings_up_to(language.vocab_size, 4):
        if oracles.probability(next_p, prefix) > 0:
            assert math.isclose(sum(next_p(prefix)), 1, abs_tol=1e-12)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_stepping_gives_the_same_law_as_a_prompt(language):
    rng = np.random.default_rng(0)
    next_p = oracles.language_next(language)
    possible = [s for s in oracles.strings(language.vocab_size, 5) if oracles.probability(next_p, s) > 0]
    texts = [possible[i] for i in rng.integers(len(possible), size=8)]
    log_p, state = language.start([[]] * 8)
    for t in range(5):
        prompted, _ = language.start([text[:t] for text in texts])
        np.testing.assert_allclose(np.exp(log_p), np.exp(prompted), atol=1e-13)
        log_p, state = language.step(state, np.array([text[t] for text in texts]))


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_rows_are_the_laws_along_the_texts_in_canonical_order(language):
    next_p = oracles.language_next(language)
    possible = [s for s in oracles.strings(language.vocab_size, 4) if oracles.probability(next_p, s) > 0]
    texts = [np.array(possible[0]), np.array(possible[-1][:2]), np.array([], dtype=int)]
    rows = np.concatenate(list(language.rows([[]] * 3, texts, chunk=4)))
    order = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (0, 3)]
    expected = [next_p(tuple(int(i) for i in texts[k][:t])) for k, t in order]
    np.testing.assert_allclose(np.exp(rows), expected, atol=1e-13)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_every_exact_language_is_a_language_and_reads_its_own_writing(language):
    assert isinstance(language, Language)
    ids = list(range(language.vocab_size)) * 2
    np.testing.assert_array_equal(language.encode(language.decode(ids)), ids)


@given(p=rows_of(1, 6), theta=st.floats(0.1, 3))
def test_finite_language_obeys_the_inequalities_of_entropy(p, theta):
    language = FiniteLanguage(p[0])
    assert 0 <= language.entropy() <= math.log(6) + 1e-12
    assert math.isclose(language.entropy(), oracles.entropy(p[0]), abs_tol=1e-12)
    assert math.isclose(language.varentropy(), oracles.varentropy(p[0]), abs_tol=1e-12)
    assert math.isclose(language.log_partition(theta), oracles.log_partition(p[0], theta), abs_tol=1e-12)


def test_finite_language_is_a_markov_chain_with_equal_rows():
    finite, chain = FiniteLanguage(START), MarkovChain([START] * 3)
    assert math.isclose(finite.entropy(), chain.entropy_rate(), abs_tol=1e-12)
    assert math.isclose(finite.varentropy(), chain.asymptotic_variance(), abs_tol=1e-12)
    assert math.isclose(finite.log_partition(1.7), chain.log_partition_rate(1.7), abs_tol=1e-12)


@pytest.mark.parametrize("prompt", [(), (2,), (0, 1)])
def test_markov_expectations_at_finite_length_are_sums_over_all_strings(prompt):
    chain = MarkovChain(P, START)
    markov = oracles.markov_next(P, START)

    def next_p(prefix):
        return markov(prompt + prefix)

    mean, variance = chain.expected(5, prompt=prompt)[1:]
    by_l = oracles.expectation(next_p, 3, 5, lambda s: oracles.log_perplexity(next_p, s))
    by_h = oracles.expectation(next_p, 3, 5, lambda s: oracles.empirical_entropy(next_p, s))
    assert math.isclose(mean, by_l, abs_tol=1e-12)
    assert math.isclose(mean, by_h, abs_tol=1e-12)
    by_v = oracles.expectation(next_p, 3, 5, lambda s: oracles.sum_varentropy(next_p, s))
    assert math.isclose(variance, by_v, abs_tol=1e-12)

    def squared_gap(s):
        return (oracles.log_perplexity(next_p, s) - oracles.empirical_entropy(next_p, s)) ** 2

    assert math.isclose(variance / 5**2, oracles.expectation(next_p, 3, 5, squared_gap), abs_tol=1e-12)


def test_markov_cross_expectations_are_sums_over_all_strings():
    source, scorer = MarkovChain(P, START), MarkovChain(Q, [0.4, 0.4, 0.2])
    a, b = oracles.markov_next(P, START), oracles.markov_next(Q, [0.4, 0.4, 0.2])
    mean, variance = source.expected(4, scorer=scorer)[1:]
    assert math.isclose(mean, oracles.expectation(a, 3, 4, lambda s: oracles.log_perplexity(b, s)), abs_tol=1e-12)

    def sum_v(s):
        return sum(oracles.cross_varentropy(a(s[:t]), b(s[:t])) for t in range(4))

    assert math.isclose(variance, oracles.expectation(a, 3, 4, sum_v), abs_tol=1e-12)


def test_markov_rates_are_the_limits_of_finite_length_values():
    chain, scorer = MarkovChain(P, START), MarkovChain(Q)
    h = [chain.expected(n).log_perplexity * n for n in (300, 301)]
    assert math.isclose(h[1] - h[0], chain.entropy_rate(), abs_tol=1e-10)
    b = [chain.expected(n, scorer=scorer).log_perplexity * n for n in (300, 301)]
    assert math.isclose(b[1] - b[0], chain.cross_entropy_rate(scorer), abs_tol=1e-10)
    v = [chain.expected(n).sum_varentropy for n in (300, 301)]
    assert math.isclose(v[1] - v[0], chain.asymptotic_variance_from_entropy(), abs_tol=1e-10)


def variance_of_sum(transition, initial, length: int) -> float:
    """Var of the sum of -log P(x_t | x_t-1) over texts, exactly, by propagating first and second moments."""
    log_p = np.log(transition)
    mass, first, second = initial, -initial * np.log(initial), initial * np.log(initial) ** 2
    for _ in range(length - 1):
        a = transition * -log_p
        second = second @ transition + 2 * (first @ a) + mass @ (transition * log_p**2)
        first = first @ transition + mass @ a
        mass = mass @ transition
    return second.sum() - first.sum() ** 2


@settings(max_examples=30)
@given(transition=rows_of(3, 3))
def test_asymptotic_variance_of_log_perplexity_is_the_growth_of_its_exact_variance(transition):
    chain = MarkovChain(transition)
    growth = (variance_of_sum(transition, chain.initial, 1200) - variance_of_sum(transition, chain.initial, 1000)) / 200
    assert math.isclose(chain.asymptotic_variance(), growth, rel_tol=1e-3, abs_tol=1e-5)


def test_exact_variance_by_moments_agrees_with_all_strings():
    chain = MarkovChain(P)
    next_p = oracles.markov_next(P, chain.initial)
    mean = chain.expected(4).log_perplexity
    brute = oracles.expectation(next_p, 3, 4, lambda s: (oracles.log_perplexity(next_p, s) - mean) ** 2)
    assert math.isclose(variance_of_sum(P, chain.initial, 4) / 16, brute, abs_tol=1e-12)


@pytest.mark.parametrize("theta", [0.5, 0.875, 1.125, 2.0])
def test_renyi_rate_is_the_growth_of_the_brute_force_partition_sum(theta):
    chain = MarkovChain(P)
    brute = oracles.distribution(oracles.markov_next(P, chain.initial), 3, 6).values()
    power = [chain.initial**theta @ np.linalg.matrix_power(P**theta, n - 1) for n in (6, 100, 101)]
    assert math.isclose(sum(p**theta for p in brute), power[0].sum(), rel_tol=1e-12)
    assert math.isclose(math.log(power[2].sum() / power[1].sum()), chain.log_partition_rate(theta), abs_tol=1e-12)


@given(transition=rows_of(3, 3))
def test_renyi_rates_decrease_in_the_order_and_meet_the_entropy_rate(transition):
    chain = MarkovChain(transition)
    rates = [chain.renyi_rate(order) for order in (0.5, 0.999, 1.0, 1.001, 2.0)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(rates))
    assert math.isclose(rates[1], rates[2], abs_tol=1e-2)


@given(transition=rows_of(3, 3), scorer=rows_of(3, 3))
def test_cross_entropy_rate_is_at_least_the_entropy_rate(transition, scorer):
    source = MarkovChain(transition)
    assert source.cross_entropy_rate(MarkovChain(scorer)) >= source.entropy_rate() - 1e-12


def test_hidden_markov_probability_is_the_sum_over_hidden_paths():
    language = HiddenMarkov(HIDDEN, EMISSION, [0.3, 0.7])
    next_p = oracles.language_next(language)
    for s in oracles.strings(3, 4):
        brute = oracles.hidden_markov_probability(HIDDEN, EMISSION, [0.3, 0.7], s)
        assert math.isclose(oracles.probability(next_p, s), brute, rel_tol=1e-12)
        assert math.isclose(math.exp(language.log_probability(s)), brute, rel_tol=1e-12)


def test_hidden_markov_rate_bounds_are_the_brute_force_conditional_entropies_and_meet():
    language = HiddenMarkov(HIDDEN, EMISSION)
    next_p = oracles.language_next(language)
    upper = [oracles.entropy(oracles.distribution(next_p, 3, n).values()) for n in (3, 4)]
    assert math.isclose(language.entropy_rate_bounds(4).upper, upper[1] - upper[0], abs_tol=1e-12)
    lower = 0.0
    for state, weight in enumerate(language.initial):
        known = oracles.language_next(HiddenMarkov(HIDDEN, EMISSION, np.eye(2)[state]))
        h = [oracles.entropy(oracles.distribution(known, 3, n).values()) for n in (3, 4)]
        lower += weight * (h[1] - h[0])
    assert math.isclose(language.entropy_rate_bounds(4).lower, lower, abs_tol=1e-12)
    gaps = [np.subtract(*reversed(language.entropy_rate_bounds(n))) for n in (1, 3, 6, 9)]
    assert all(a > b > 0 for a, b in itertools.pairwise(gaps))
    assert gaps[-1] < 1e-3


def test_hidden_markov_with_one_symbol_per_state_is_the_chain_itself():
    language = HiddenMarkov(P, np.eye(3))
    rate = MarkovChain(P).entropy_rate()
    np.testing.assert_allclose(language.entropy_rate_bounds(4), [rate, rate], atol=1e-12)


def test_mixture_probability_is_the_weighted_sum_of_its_components():
    language = LANGUAGES[5]
    parts = [oracles.markov_next(c.transition, c.initial) for c in language.components]
    next_p = oracles.language_next(language)
    for s in oracles.strings(3, 4):
        brute = oracles.mixture_probability([0.25, 0.75], parts, s)
        assert math.isclose(oracles.probability(next_p, s), brute, rel_tol=1e-12)


def test_mixture_posterior_is_bayes_rule():
    language = LANGUAGES[5]
    parts = [oracles.markov_next(c.transition, c.initial) for c in language.components]
    _, state = language.start([[0, 0, 1]])
    joint = [w * oracles.probability(part, (0, 0, 1)) for w, part in zip([0.25, 0.75], parts, strict=True)]
    np.testing.assert_allclose(language.posterior(state)[0], np.array(joint) / sum(joint), rtol=1e-12)


def test_infinite_entropy_language_has_the_stated_length_law_and_partial_entropies():
    language = InfiniteEntropy()
    next_p = oracles.language_next(language)
    for n in range(1, 12):
        direct = 1 / math.log2(n + 1) - 1 / math.log2(n + 2)
        assert math.isclose(oracles.probability(next_p, (0,) * n + (1,)), direct, rel_tol=1e-9)
        assert math.isclose(math.exp(language.log_p_length(n)), direct, rel_tol=1e-9)
    assert np.round(language.partial_entropy([10**4, 10**6]), 2).tolist() == [2.95, 3.36]
    assert math.isclose(language.tail(10**6), 0.05, abs_tol=2e-4)
    brute = -sum(p * math.log(p) for p in (1 / math.log2(n + 1) - 1 / math.log2(n + 2) for n in range(1, 51)))
    assert math.isclose(language.partial_entropy([50])[0], brute, rel_tol=1e-9)


def test_infinite_entropy_lengths_follow_their_law_and_say_where_they_were_cut():
    lengths = InfiniteEntropy.sample_lengths(np.random.default_rng(20), 40_000, cap=10**6)
    for n in (1, 10, 1000, 10**6 - 1):
        tail = float(InfiniteEntropy.tail(n))
        assert abs(np.mean(lengths.n > n) - tail) < 3.3 * math.sqrt(tail * (1 - tail) / 40_000)
    assert lengths.cut.any()
    assert (lengths.n[lengths.cut] == 10**6).all()


def test_top_2_reverses_two_strings_unless_the_second_place_is_tied():
    for language, reversed_ in ((reversal(), True), (reversal(tie=True), False)):
        next_p = oracles.language_next(language)
        local = {s: math.prod(oracles.top_k(next_p(s[:t]), 2)[s[t]] for t in range(2)) for s in ((0, 0), (1, 0))}
        assert math.isclose(oracles.probability(next_p, (0, 0)), 0.225)
        assert math.isclose(oracles.probability(next_p, (1, 0)), 0.2)
        assert (local[0, 0] < local[1, 0]) is reversed_
    assert math.isclose(local[1, 0], 0.2)


def test_equal_content_has_equal_fingerprints_and_other_content_another():
    assert MarkovChain(P).fingerprint == MarkovChain(P.copy(), name="other name").fingerprint
    prints = {language.fingerprint for language in [*LANGUAGES, MarkovChain(Q), zipf(3), zipf(4), reversal(tie=True)]}
    assert len(prints) == len(LANGUAGES) + 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FiniteLanguage([0.5, 0.4]), r"row 0 of p sums to 0\.9"),
        (lambda: FiniteLanguage([1.5, -0.5]), r"-0\.5"),
        (lambda: FiniteLanguage([0.5, math.nan]), "nan"),
        (lambda: FiniteLanguage([]), r"shape \(0,\)"),
        (lambda: MarkovChain([[0.5, 0.5], [0.5, 0.6]]), r"row 1 of transition sums to 1\.1"),
        (lambda: MarkovChain([[0.5, 0.5]]), r"square matrix, got shape \(1, 2\)"),
        (lambda: MarkovChain(np.eye(2)), "several recurrent classes"),
        (lambda: MarkovChain(P, [1.0]), "chain has 3 states"),
        (lambda: HiddenMarkov(HIDDEN, EMISSION[:1].tolist()), "emission"),
        (lambda: HiddenMarkov(HIDDEN, EMISSION).entropy_rate_bounds(40), "too many"),
        (lambda: Mixture([MarkovChain(P)], [0.5, 0.5]), "1 components but 2 weights"),
        (lambda: MarkovChain(P).log_partition_rate(0.0), "theta must be positive"),
    ],
)
def test_what_is_not_a_distribution_is_refused_by_name(make, message):
    with pytest.raises(DistributionError, match=message):
        make()


def test_foreign_vocabularies_prompts_and_symbols_are_refused():
    with pytest.raises(VocabularyMismatch, match="3 symbols"):
        MarkovChain(P).cross_entropy_rate(MarkovChain(HIDDEN))
    with pytest.raises(VocabularyMismatch, match=r"\[2, 3\]"):
        Mixture([MarkovChain(P), MarkovChain(HIDDEN)], [0.5, 0.5])
    with pytest.raises(PromptError, match="token id 3"):
        MarkovChain(P).start([[3]])
    with pytest.raises(PromptError, match=r"lengths \[1, 2\]"):
        MarkovChain(P).start([[0], [0, 1]])
    with pytest.raises(PromptError, match="'z'"):
        MarkovChain(P).encode("a z")


def test_an_impossible_text_gives_nan_rows_rather_than_an_invented_law():
    language = HiddenMarkov(HIDDEN, [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    assert np.isnan(language.start([[2]])[0]).all()
    assert language.log_probability([0, 2, 0]) == -math.inf
    mixture = Mixture([FiniteLanguage([1.0, 0.0, 0.0]), FiniteLanguage([0.0, 1.0, 0.0])], [0.5, 0.5])
    assert np.isnan(mixture.start([[2]])[0]).all()


def test_a_step_refuses_a_foreign_id():
    coin = MarkovChain([[0.5, 0.5], [0.5, 0.5]])
    hidden = HiddenMarkov([[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.1, 0.9]])
    for language in (coin, hidden, Mixture([coin, coin], [0.5, 0.5]), InfiniteEntropy()):
        _, state = language.start([[]])
        for bad in (-1, 2):
            with pytest.raises(PromptError, match=f"step holds token id {bad}, outside the vocabulary of 2"):
                language.step(state, np.array([bad]))
