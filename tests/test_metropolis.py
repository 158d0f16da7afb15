"""The kernel, its vectorised form, and the law of the chains, against enumeration of every string."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

import aep
import oracles
from aep.analysis.chains import acceptance, diagnostics, goodness_of_fit
from aep.analysis.hypotheses import holm
from aep.analysis.metropolis import (
    SCHEMES,
    Proposals,
    State,
    fresh_chains,
    fresh_texts,
    from_pool,
    kernel,
    pool_chains,
    pool_target,
    proposals,
)
from aep.analysis.normalisers import normaliser
from aep.analysis.string_laws import enumerate_strings, expected_acceptance, mixing_steps
from aep.bench import metropolis
from aep.errors import DistributionError, ParameterError, PromptError, RecordError
from aep.languages import FiniteLanguage, HiddenMarkov, MarkovChain, Mixture, reversal
from aep.records import Texts
from tiny_models import tiny  # noqa: F401

CHAIN = MarkovChain([[0.3, 0.1, 0.6], [0.15, 0.3, 0.55], [0, 0, 1]], [0.5, 0.3, 0.2], eos=2, name="chain")
OTHER = MarkovChain([[0.1, 0.4, 0.5], [0.25, 0.15, 0.6], [0, 0, 1]], [0.2, 0.5, 0.3], eos=2, name="other")
HIDDEN = HiddenMarkov([[0.8, 0.2], [0.3, 0.7]], [[0.35, 0.1, 0.55], [0.1, 0.4, 0.5]], eos=2, name="hidden")
DRAWS = FiniteLanguage([0.3, 0.18, 0.52], name="draws")
DRAWS.eos = 2
MIXTURE = Mixture([CHAIN, OTHER], [0.6, 0.4], name="mixture")
TOKENS, CHAINS = 8, 100

CASES = [
    (CHAIN, "ancestral()"),
    (CHAIN, "temperature(0.5)"),
    (CHAIN, "temperature(1.25)"),
    (CHAIN, "temperature(1.5)"),
    (CHAIN, "top_k(2)"),
    (CHAIN, "temperature(1.25)|nucleus(0.9)"),
    (OTHER, "locally_typical(0.9)"),
    (OTHER, "temperature(0.75)|min_p(0.5)"),
    (OTHER, "eta(0.25)"),
    (DRAWS, "temperature(0.75)"),
    (HIDDEN, "top_k(2)"),
    (HIDDEN, "temperature(1.5)"),
    (MIXTURE, "temperature(0.5)"),
    (MIXTURE, "nucleus(0.8)"),
]


def named(value):
    return value if isinstance(value, str) else value.name


# ------------------------------------------------------------------------------------------------------------- kernel


def top_two(p):
    kept = sorted(p, reverse=True)[1]
    return [x if x >= kept else 0.0 for x in p]


def global_and_local(next_p, length):
    """{string: (π, q, w)} of top-2 by one multiplication at a time."""
    gamma, q = {}, {}
    for s in oracles.strings(3, length):
        gamma[s], q[s] = 1.0, 1.0
        for t, symbol in enumerate(s):
            row = top_two(next_p(s[:t]))
            gamma[s] *= row[symbol]
            q[s] *= row[symbol] / sum(row)
    z = sum(gamma.values())
    return {s: (gamma[s] / z, q[s], gamma[s] / q[s]) for s in gamma if gamma[s] > 0}


@pytest.mark.parametrize("language", [reversal(), reversal(tie=True)], ids=named)
def test_detailed_balance_is_exact(language):
    law = global_and_local(lambda s: language.transition[s[-1]] if s else language.initial, 3)
    assert len(law) >= 6 and len({round(w, 9) for _, _, w in law.values()}) > 2
    rng = np.random.default_rng(0)

    def acceptance_of(a, b):
        to = State(b, math.log(law[b][2]))
        state, info = kernel(lambda _: to)(rng, State(a, math.log(law[a][2])))
        assert info.proposal == to and state.text == (b if info.accepted else a)
        return math.exp(info.log_acceptance)

    for a, b in itertools.combinations(law, 2):
        forward = law[a][0] * law[b][1] * acceptance_of(a, b)
        back = law[b][0] * law[a][1] * acceptance_of(b, a)
        assert forward == pytest.approx(back, rel=1e-12)
        assert max(acceptance_of(a, b), acceptance_of(b, a)) == 1


def test_the_kernel_accepts_as_often_as_it_says():
    rng, n = np.random.default_rng(1), 20_000
    step = kernel(lambda _: State("b", math.log(0.3)))
    hits = sum(step(rng, State("a", 0.0))[1].accepted for _ in range(n))
    assert stats.binomtest(hits, n, 0.3).pvalue > 1e-3
    stay = kernel(lambda _: State("cut", -math.inf))(rng, State("a", 0.0))
    assert stay[0].text == "a" and not stay[1].accepted and stay[1].log_acceptance == -math.inf


def test_the_vectorised_form_is_the_kernel_with_the_same_stream():
    log_weight = np.append(np.random.default_rng(2).normal(size=9), -np.inf)
    found = pool_chains(Proposals(log_weight, np.zeros(10, int)), steps=300, rng=np.random.default_rng(3))
    rng = np.random.default_rng(3)
    rng.integers(9, size=1)  # the start
    state = State(int(found.start[0, 0]), float(log_weight[found.start[0, 0]]))
    step = kernel(from_pool(log_weight))
    for text, accepted in zip(found.text[0, 0], found.accepted[0, 0], strict=True):
        state, info = step(rng, state)
        assert (state.text, info.accepted) == (text, accepted)
    assert 0 < found.accepted.mean() < 1 and 9 not in found.text


def test_steps_of_the_chains_have_the_transition_law():
    w = np.array([1.0, 2.0, 5.0])
    found = pool_chains(Proposals(np.log(w), np.zeros(3, int)), chains=4000, steps=12, rng=np.random.default_rng(4))
    expected = np.minimum(1, w / w[:, None]) / 3
    expected[np.diag_indices(3)] += 1 - expected.sum(axis=1)
    before = np.concatenate([found.start[0][:, None], found.text[0, :, :-1]], axis=1).ravel()
    counts = np.zeros((3, 3))
    np.add.at(counts, (before, found.text[0].ravel()), 1)
    for row, law in zip(counts, expected, strict=True):
        assert stats.chisquare(row, row.sum() * law).pvalue > 1e-3


def test_fresh_texts_are_texts_of_the_local_sampler():
    step = kernel(fresh_texts(CHAIN, tokens=TOKENS, adaptor="top_k(2)"))
    strings = enumerate_strings(CHAIN, "top_k(2)", tokens=TOKENS)
    state, rng, seen = State((2,), 0.0), np.random.default_rng(5), set()
    for _ in range(40):
        state, info = step(rng, state)
        seen.add(info.proposal.text)
        (index,) = strings.index([info.proposal.text])
        if index >= 0:
            assert info.proposal.log_weight == pytest.approx(strings.log_weight[index], abs=1e-12)
        else:
            assert info.proposal.log_weight == -math.inf and not info.accepted
    assert len(seen) > 3


# --------------------------------------------------------------------------------------------------- law of the chains


def sampled(language, adaptor, seed, steps, chains=CHAINS):
    texts = chains * (steps + 1)
    return aep.sample(language, texts=texts, tokens=TOKENS, seed=seed, adaptor=adaptor, stop="eos", batch=texts)


def against_the_law(language, adaptor, seed):
    """p-values of the chains and of chains that always accept, against the exact global law; the acceptances."""
    strings = enumerate_strings(language, adaptor, tokens=TOKENS)
    burn = mixing_steps(strings.log_q, strings.log_weight, 1e-4)
    assert burn <= 80, (language, adaptor, burn)
    texts = sampled(language, adaptor, seed, burn + 80)
    pool, label, rng = proposals(texts), strings.index(texts.ids), np.random.default_rng(seed)
    found = fresh_chains(pool, chains=CHAINS, rng=rng).after(burn)
    p_value = goodness_of_fit(label[found.text[0]], np.exp(strings.log_target)).p_value
    careless = pool._replace(log_weight=np.where(label < 0, -np.inf, 0.0))  # accepts every text that ended
    always = label[fresh_chains(careless, chains=CHAINS, rng=rng).after(burn).text[0]]
    control = goodness_of_fit(always, np.exp(aep.information.log_normalise(strings.log_q))).p_value
    rejected = goodness_of_fit(always, np.exp(strings.log_target)).p_value
    (row,) = acceptance(found, level=1 - 1e-3 / len(CASES)).itertuples(index=False)
    exact = expected_acceptance(strings.log_q, strings.log_weight)
    return p_value, control, rejected, row.low <= exact <= row.high


def test_chains_reach_the_exact_global_law_and_accept_as_often_as_they_should():
    found = [against_the_law(language, adaptor, seed) for seed, (language, adaptor) in enumerate(CASES)]
    p_value, control, rejected, inside = (np.array(column) for column in zip(*found, strict=True))
    assert holm(p_value).min() > 1e-3, dict(zip(CASES, p_value, strict=True))
    assert holm(control).min() > 1e-3  # who always accepts has the local law
    assert rejected[0] > 1e-3 and holm(rejected[1:]).max() < 1e-3  # and not the global one, but for ancestral sampling
    assert inside.all()
    exists = [normaliser(language, adaptor).exists for language, adaptor in CASES if isinstance(language, MarkovChain)]
    assert len(exists) >= 8 and all(exists)


def test_the_chi_square_test_keeps_its_level_on_correlated_draws():
    strings = enumerate_strings(CHAIN, "temperature(0.5)", tokens=TOKENS)
    q, rng, p_values = np.exp(aep.information.log_normalise(strings.log_q)), np.random.default_rng(6), []
    for _ in range(200):
        drawn = rng.choice(len(q), size=60 * 100, p=q)
        pool = Proposals(strings.log_weight[drawn], np.zeros(len(drawn), int))
        found = fresh_chains(pool, chains=60, rng=rng).after(30)
        p_values.append(goodness_of_fit(drawn[found.text[0]], np.exp(strings.log_target)).p_value)
    assert stats.binomtest(int(np.sum(np.array(p_values) < 0.05)), 200, 0.05, alternative="greater").pvalue > 1e-3
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_a_chain_over_a_finite_pool_converges_to_the_weights_of_that_pool_and_not_to_the_global_law():
    strings = enumerate_strings(CHAIN, "temperature(1.5)", tokens=TOKENS)
    texts = aep.sample(CHAIN, texts=40, tokens=TOKENS, seed=7, adaptor="temperature(1.5)", stop="eos")
    pool, label = proposals(texts), strings.index(texts.ids)
    found = pool_chains(pool, chains=400, steps=200, rng=np.random.default_rng(7)).after(100)
    assert goodness_of_fit(found.text[0].astype(np.int64), pool_target(pool.log_weight)).p_value > 1e-3
    by_string = np.where(label[found.text[0]] < 0, -1, label[found.text[0]])
    assert goodness_of_fit(by_string, np.exp(strings.log_target)).p_value < 1e-6


def test_a_chain_stays_with_the_texts_of_its_prompt_and_a_pooled_chain_prefers_prompts_of_large_z():
    texts = aep.sample(CHAIN, [[0], [1]], texts=300, tokens=TOKENS, seed=8, adaptor="temperature(0.5)", stop="eos")
    pool, rng = proposals(texts), np.random.default_rng(8)
    found = pool_chains(pool, chains=7, steps=50, rng=rng)
    assert found.text.shape == (2, 7, 50) and found.prompt.tolist() == [0, 1]
    assert (texts.prompt[found.text] == found.prompt[:, None, None]).all()
    merged = pool_chains(pool._replace(prompt=0 * pool.prompt), chains=200, steps=400, rng=rng).after(100)
    z = [np.exp(normaliser(CHAIN, "temperature(0.5)", prompt=[first]).log_z) for first in (0, 1)]
    share = (texts.prompt[merged.text] == 0).mean()
    assert abs(share - z[0] / sum(z)) < 0.04 and abs(share - 0.5) > 0.04


def test_prompts_with_different_numbers_of_texts_in_any_order_have_chains_of_their_own():
    rng = np.random.default_rng(9)
    prompt = rng.permutation(np.repeat([0, 3, 5], [4, 9, 2]))
    pool = Proposals(rng.normal(size=15), prompt)
    found = pool_chains(pool, chains=300, steps=60, rng=rng).after(30)
    assert found.prompt.tolist() == [0, 3, 5]
    for index, of in enumerate(found.prompt):
        texts = np.flatnonzero(prompt == of)
        assert set(np.unique(found.text[index])) <= set(texts) and set(np.unique(found.start[index])) <= set(texts)
        share = np.array([(found.text[index] == t).mean() for t in texts])
        np.testing.assert_allclose(share, pool_target(pool.log_weight[texts]), atol=0.04)


def test_texts_that_were_cut_are_proposed_and_never_stored():
    texts = aep.sample(CHAIN, texts=200, tokens=2, seed=10, adaptor="temperature(1.5)", stop="eos")
    cut = ~texts.finished
    assert 0.05 < cut.mean() < 0.9
    pool, rng = proposals(texts), np.random.default_rng(10)
    assert (np.isneginf(pool.log_weight) == cut).all()
    in_pool = pool_chains(pool, chains=50, steps=100, rng=rng)
    assert not cut[in_pool.text].any() and not cut[in_pool.start].any()
    fresh = fresh_chains(pool, chains=10, rng=rng)
    assert not cut[fresh.text].any() and not cut[fresh.start].any()
    used = np.sort(np.concatenate([fresh.start[0], np.unique(fresh.text[0])]))
    assert set(used) <= set(range(200)) and fresh.text.shape == (1, 10, 19)


def test_fresh_chains_use_every_text_at_most_once_and_in_order():
    pool = Proposals(np.zeros(24), np.repeat([0, 1], 12))
    found = fresh_chains(pool, chains=3, rng=np.random.default_rng(0))
    every = np.concatenate([found.start[..., None], found.text], axis=-1)
    assert every.reshape(-1).tolist() == list(range(24)) and found.accepted.all()


def test_chains_depend_on_the_seed_alone():
    pool = Proposals(np.random.default_rng(0).normal(size=30), np.zeros(30, int))
    a, b, c = (pool_chains(pool, chains=3, steps=20, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    assert (a.text == b.text).all() and (a.text != c.text).any()


def test_means_and_burn_in():
    rng = np.random.default_rng(0)
    pool = Proposals(rng.normal(size=12), np.repeat([0, 1], 6))
    found, values = pool_chains(pool, chains=4, steps=9, rng=rng), rng.normal(size=12)
    np.testing.assert_allclose(found.mean(values), values[found.text].mean(axis=-1), atol=1e-14)
    later = found.after(4)
    assert (later.text == found.text[..., 4:]).all() and (later.start == found.text[..., 3]).all()
    assert (found.after(0).start == found.start).all()
    with pytest.raises(ParameterError, match="9 steps cannot be dropped from chains of 9"):
        found.after(9)


def test_weights_come_from_the_record_in_memory_and_from_a_file(tmp_path):
    texts = aep.sample(CHAIN, texts=50, tokens=TOKENS, seed=11, adaptor="top_k(2)", stop="eos")
    texts.to_parquet(tmp_path / "texts.parquet")
    again = proposals(Texts.from_parquet(tmp_path / "texts.parquet"))
    strings = enumerate_strings(CHAIN, "top_k(2)", tokens=TOKENS)
    index = strings.index(texts.ids)
    ended = index >= 0
    pool = proposals(texts)
    np.testing.assert_allclose(pool.log_weight[ended], strings.log_weight[index[ended]], atol=1e-12)
    np.testing.assert_allclose(again.log_weight[ended], pool.log_weight[ended], atol=1e-5)
    assert (np.isneginf(again.log_weight) == np.isneginf(pool.log_weight)).all()
    never = aep.sample(CHAIN, texts=5, tokens=3, seed=0, adaptor="top_k(2)")
    assert np.isfinite(proposals(never).log_weight).all()  # strings of three tokens, whatever they are


def test_a_network_needs_no_second_pass(tiny):  # noqa: F811
    language, adaptor = tiny("mistral"), aep.adaptors.parse("temperature(0.75)|top_k(5)")
    prompts = [np.array([4, 7]), np.array([9])]
    texts = aep.sample(language, prompts, texts=30, tokens=12, seed=0, adaptor=adaptor, stop="eos")
    pool = proposals(texts)
    for i in np.flatnonzero(texts.finished)[:5]:
        rows = np.concatenate([np.asarray(r) for r in language.rows([prompts[texts.prompt[i]]], [texts.ids[i]])])
        log_p = aep.information.log_normalise(rows.astype(np.float64))
        picked = np.arange(len(log_p)), texts.ids[i]
        log_gamma, log_q = adaptor.log_weights(log_p)[picked].sum(), texts.log_q[i].sum()
        assert pool.log_weight[i] == pytest.approx(log_gamma - log_q, abs=1e-9)
    found = pool_chains(pool, chains=20, steps=100, rng=np.random.default_rng(0))
    table = diagnostics(found, pool)
    assert table.index.tolist() == [0, 1] and table["acceptance"].between(0.01, 0.999).all()
    assert (table["effective"] > 0).all() and (table["texts"] == 30).all()


def test_the_loops_of_the_benchmark_are_the_same_chains():
    corpora, loop, plain = metropolis.corpora(400, 0), metropolis.loop(60, 1), metropolis.plain_loop(400, 2)
    assert stats.ks_2samp(corpora, plain).pvalue > 1e-3 and stats.ks_2samp(corpora, loop).pvalue > 1e-3
    _, values = metropolis.pools()
    local = values.reshape(metropolis.PROMPTS, -1).mean()
    assert abs(corpora.mean() - local) > 5 * corpora.std() / 20  # the chains are not the local law


def test_the_schemes_are_the_31_of_the_public_code():
    adaptors = [aep.adaptors.parse(scheme) for scheme in SCHEMES]
    assert len(set(adaptors)) == 31 and sum(a.is_ancestral for a in adaptors) == 1
    assert sum("temperature" not in dict(a.steps) for a in adaptors) == 7


# ---------------------------------------------------------------------------------------------------------- bad input


def some(**changes):
    texts = aep.sample(CHAIN, [[0], [1]], texts=4, tokens=TOKENS, seed=0, adaptor="top_k(2)", stop="eos")
    return dataclasses.replace(texts, **changes)


def test_texts_without_a_record_or_with_a_damaged_one_are_refused():
    with pytest.raises(RecordError, match="no log_normaliser: sample them with aep.sample"):
        proposals(Texts.from_ids(CHAIN, [[0, 2]]))
    for value, why in ((-np.inf, "its adaptor removed all tokens there"), (np.nan, "damaged"), (np.inf, "damaged")):
        log_z = [z.copy() for z in some().log_normaliser]
        log_z[3][-1] = value
        with pytest.raises(DistributionError, match=f"text 3 has log Z = {value} at position .*{why}"):
            proposals(some(log_normaliser=log_z))
    with pytest.raises(DistributionError, match="text 1 has log-weight nan"):
        pool_chains(Proposals(np.array([0, np.nan]), np.zeros(2, int)), steps=1, rng=np.random.default_rng(0))
    with pytest.raises(DistributionError, match="text 0 has log-weight inf"):
        from_pool(np.array([np.inf]))


def test_prompts_given_twice_are_refused():
    twice = aep.sample(CHAIN, [[0], [1], [0]], texts=2, tokens=TOKENS, seed=0, stop="eos")
    with pytest.raises(PromptError, match="prompts 0 and 2 are the same: give each once"):
        proposals(twice)
    proposals(twice.select([0, 1, 2, 3]))


def test_empty_pools_are_refused():
    empty, rng = Proposals(np.empty(0), np.empty(0, int)), np.random.default_rng(0)
    for call in (
        lambda: pool_chains(empty, steps=3, rng=rng),
        lambda: fresh_chains(empty, rng=rng),
        lambda: pool_target(empty.log_weight),
        lambda: from_pool(empty.log_weight),
        lambda: proposals(some().select([])),
    ):
        with pytest.raises(RecordError, match="the pool is empty: sample at least one text per prompt"):
            call()
    cut = Proposals(np.array([0.0, 0.0, -np.inf, -np.inf]), np.array([4, 4, 7, 7]))
    with pytest.raises(RecordError, match="none of the 2 texts of prompt 7 ended before the length cap: raise tokens="):
        pool_chains(cut, steps=3, rng=rng)
    with pytest.raises(RecordError, match="none of the 2 texts of a chain of prompt 7 ended"):
        fresh_chains(cut, rng=rng)
    with pytest.raises(RecordError, match="none of the 2 texts ended"):
        pool_target(cut.log_weight[2:])


@pytest.mark.parametrize("steps", [0, -1, True])
def test_a_chain_has_at_least_one_step(steps):
    pool = Proposals(np.zeros(3), np.zeros(3, int))
    with pytest.raises(ParameterError, match=f"steps={steps}: an integer of at least 1 is needed"):
        pool_chains(pool, steps=steps, rng=np.random.default_rng(0))


def test_fresh_chains_say_how_texts_must_be_dealt_out():
    rng = np.random.default_rng(0)
    with pytest.raises(ParameterError, match="prompts have 1 to 2 texts"):
        fresh_chains(Proposals(np.zeros(3), np.array([0, 0, 1])), rng=rng)
    for texts, chains in ((7, 2), (3, 3)):
        with pytest.raises(ParameterError, match=f"{texts} texts per prompt cannot be dealt out to {chains} chains"):
            fresh_chains(Proposals(np.zeros(texts), np.zeros(texts, int)), chains=chains, rng=rng)
    with pytest.raises(ParameterError, match="chains=0"):
        fresh_chains(Proposals(np.zeros(3), np.zeros(3, int)), chains=0, rng=rng)


def test_weights_that_are_no_weights_are_refused_by_the_kernel_and_by_pools():
    # otherwise: NaN is never accepted and reported with log_acceptance 0; a pool of cut texts stands still for ever
    rng = np.random.default_rng(0)
    for current, proposed in ((0.0, math.nan), (math.nan, 0.0), (0.0, math.inf), (math.inf, 0.0)):
        with pytest.raises(DistributionError, match=f"log-weights {current} and {proposed}: give numbers or -inf"):
            kernel(lambda _, w=proposed: State("b", w))(rng, State("a", current))
    state, info = kernel(lambda _: State("b", -math.inf))(rng, State("a", -math.inf))
    assert state.text == "a" and not info.accepted and info.log_acceptance == -math.inf
    with pytest.raises(RecordError, match="none of the 2 texts ended before the length cap"):
        from_pool(np.full(2, -np.inf))


@pytest.mark.parametrize(
    ("weights", "prompt"),
    [
        (np.zeros(3), np.zeros(2, int)),
        (np.zeros(2), np.zeros(3, int)),
        (np.zeros((2, 2)), np.zeros(2, int)),
        (np.zeros(2, int), np.zeros(2, int)),
        ([0.0, 1.0], [0, 0.5]),
    ],
)
def test_pools_have_one_weight_and_one_prompt_per_text(weights, prompt):
    # otherwise three weights and two prompts run without a word, the reverse is a bare IndexError
    with pytest.raises(ParameterError, match="one float log-weight and one integer prompt per text are needed, got "):
        pool_chains(Proposals(weights, prompt), steps=2, rng=np.random.default_rng(0))


def test_means_need_a_value_of_every_text():
    found = pool_chains(Proposals(np.zeros(4), np.zeros(4, int)), chains=9, steps=9, rng=np.random.default_rng(0))
    with pytest.raises(ParameterError, match=r"values of shape \(2,\): one per text is needed, 4 at least"):
        found.mean(np.ones(2))  # clipped to the last one otherwise
