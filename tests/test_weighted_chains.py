"""Global laws as Markov chains, against enumeration of every string; the tables of schemes made of them."""

import itertools
import math

import numpy as np
import pytest

import aep
from aep.analysis import scheme_laws
from aep.analysis.hypotheses import holm
from aep.analysis.normalisers import normaliser
from aep.analysis.string_laws import enumerate_strings, pool_bias
from aep.analysis.weighted_chains import (
    Steps,
    adapted,
    class_means,
    class_strings,
    divergence,
    expected_total,
    global_law,
    is_tight,
    local_law,
    lumped,
    shared_mass,
    string_values,
)
from aep.errors import AdaptorError, DistributionError, ParameterError
from aep.languages import MarkovChain

CHAIN = MarkovChain([[0.3, 0.1, 0.6], [0.15, 0.3, 0.55], [0, 0, 1]], [0.5, 0.3, 0.2], eos=2, name="chain")
WIDE = MarkovChain(
    [[0.1, 0.2, 0.1, 0.6], [0.25, 0.05, 0.2, 0.5], [0.02, 0.08, 0.1, 0.8], [0, 0, 0, 1]],
    [0.5, 0.2, 0.2, 0.1],
    eos=3,
    name="wide",
)
ADAPTORS = ["ancestral()", "temperature(0.5)", "temperature(1.25)", "top_k(2)", "temperature(0.75)|nucleus(0.8)"]
LONGEST = 12


def by_products(chain, weights, longest=LONGEST):
    """{string: product of its weights}, one multiplication at a time, end token last."""
    first, step = (np.exp(w) for w in weights)
    end, found = chain.eos, {}
    words = [v for v in range(chain.vocab_size) if v != end]
    for n in range(longest):
        for s in itertools.product(words, repeat=n):
            whole = (*s, end)
            product = first[whole[0]]
            for a, b in itertools.pairwise(whole):
                product *= step[a, b]
            if product > 0:
                found[whole] = product
    return found


@pytest.mark.parametrize("adaptor", ADAPTORS)
def test_the_global_law_is_the_product_of_weights_over_their_sum(adaptor):
    weights = adapted(CHAIN, adaptor)
    law, log_z = global_law(CHAIN, weights)
    products = by_products(CHAIN, weights)
    assert log_z == pytest.approx(normaliser(CHAIN, adaptor).log_z, abs=1e-12)
    for s, product in products.items():
        assert string_values([np.array(s)], Steps.of(law))[0] == pytest.approx(math.log(product) - log_z, abs=1e-9)
    q = local_law(CHAIN, weights)
    strings = enumerate_strings(CHAIN, adaptor, tokens=6)
    np.testing.assert_allclose(string_values(strings.ids, Steps.of(q)), strings.log_q, atol=1e-12)


@pytest.mark.parametrize("adaptor", ADAPTORS)
def test_expectations_and_divergences_are_sums_over_strings(adaptor):
    rng, n = np.random.default_rng(0), WIDE.vocab_size
    values = Steps(rng.normal(size=n), rng.normal(size=(n, n)))
    weights = adapted(WIDE, adaptor)
    law, local = global_law(WIDE, weights).chain, local_law(WIDE, weights)
    strings = enumerate_strings(WIDE, adaptor, tokens=10)
    p, f = np.exp(strings.log_target), string_values(strings.ids, values)
    slack = 60 * strings.omitted + 1e-9
    assert abs(expected_total(law, values) - p @ f) < slack
    of_local, of_global = (string_values(strings.ids, Steps.of(chain)) for chain in (local, law))
    assert abs(divergence(law, local) - p @ (of_global - of_local)) < slack
    assert divergence(law, law) == 0 and divergence(law, local) >= 0


def test_the_mass_two_laws_share_is_that_of_the_common_strings():
    top, bottom = adapted(WIDE, "top_k(2)"), adapted(WIDE, "ancestral()")
    narrow, wide = global_law(WIDE, top).chain, global_law(WIDE, bottom).chain
    kept = set(by_products(WIDE, top, 10))
    mass = sum(product for s, product in by_products(WIDE, bottom, 10).items() if s in kept)
    assert shared_mass(wide, narrow) == pytest.approx(mass, abs=1e-4)
    assert shared_mass(narrow, wide) == pytest.approx(1, abs=1e-12)
    assert divergence(wide, narrow) == math.inf
    apart = [MarkovChain([[0, 0, 1.0]] * 3, first, eos=2) for first in ([1, 0, 0], [0, 1, 0])]
    assert shared_mass(*apart) == 0


def test_weights_without_a_global_law_are_refused():
    with pytest.raises(ParameterError, match="Z is infinite: the spectral radius .* is not below 1"):
        global_law(CHAIN, adapted(CHAIN, "temperature(8.0)"))
    never = MarkovChain([[0.45, 0.45, 0.1], [0.45, 0.45, 0.1], [0, 0, 1]], [0.5, 0.5, 0], eos=2, name="never")
    cut = adapted(never, "top_k(2)")
    with pytest.raises(ParameterError, match="Z is 0: no string ends"):
        global_law(never, cut)
    endless = local_law(never, cut, name="cut")
    assert not is_tight(endless) and is_tight(never)
    with pytest.raises(ParameterError, match="cut need not end"):
        expected_total(endless, Steps.of(never))
    with pytest.raises(ParameterError, match="has no end token"):
        global_law(MarkovChain([[0.5, 0.5], [0.5, 0.5]]), Steps(np.zeros(2), np.zeros((2, 2))))
    with pytest.raises(AdaptorError, match="removes all tokens"):
        adapted(CHAIN, type("Nothing", (aep.adaptors.Adaptor,), {"log_weights": lambda self, p: p - np.inf})())


# ----------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("adaptor", ["temperature(0.5)", "top_k(3)", "temperature(1.1)|nucleus(0.9)"])
def test_strings_of_classes_have_the_mass_of_their_texts(adaptor):
    chain, groups = scheme_laws.two_classes(2)
    weights = adapted(chain, adaptor)
    texts, found = enumerate_strings(chain, adaptor, tokens=6), class_strings(chain, weights, groups, tokens=6)
    index = found.index([groups[ids] for ids in texts.ids])
    assert (index >= 0).all()
    for ours, theirs in ((found.log_q, texts.log_q), (found.log_gamma, texts.log_gamma)):
        np.testing.assert_allclose(np.exp(ours), np.bincount(index, np.exp(theirs), len(found)), atol=1e-12)
    np.testing.assert_allclose(found.log_weight[index], texts.log_weight, atol=1e-9)
    np.testing.assert_allclose([found.open_q, found.omitted], [texts.open_q, texts.omitted], atol=1e-9)
    means = string_values(found.ids, class_means(local_law(chain, weights), Steps.of(chain), groups))
    q = np.exp(texts.log_q)
    expected = np.bincount(index, q * texts.log_p, len(found)) / np.bincount(index, q, len(found))
    np.testing.assert_allclose(means, expected, atol=1e-9)


def test_classes_whose_symbols_go_on_differently_are_refused():
    with pytest.raises(ParameterError, match="do not go on alike"):
        lumped(CHAIN, [0, 0, 1])
    with pytest.raises(ParameterError, match="the end token shares its class"):
        lumped(CHAIN, [0, 1, 1])


# ------------------------------------------------------------------------------------------------------------ tables


def test_the_table_of_schemes_is_that_of_enumeration():
    language = scheme_laws.two_classes(2)
    names = ["ancestral()", "temperature(0.5)", "temperature(3.0)"]
    table = scheme_laws.scheme_table(language, names, tokens=8)
    cold = enumerate_strings(language.chain, "temperature(0.5)", tokens=8)
    assert table.loc["temperature(0.5)", "log_p_global"] == pytest.approx(
        np.exp(cold.log_target) @ cold.log_p, abs=1e-4
    )
    assert table.loc["ancestral()", ["kl", "variation"]].tolist() == [0, 0]
    assert math.isinf(table.loc["temperature(3.0)", "log_z"]) and math.isnan(table.loc["temperature(3.0)", "kl"])


def test_chains_reach_the_law_of_every_scheme_and_careless_ones_do_not():
    names = ["ancestral()", "temperature(0.5)", "temperature(1.25)|nucleus(0.9)"]
    found = scheme_laws.reach_table(scheme_laws.two_classes(), names, tokens=9, chains=60, steps=50, seed=5)
    assert holm(found["p_value"].to_numpy()).min() > 1e-3 and holm(found["always_local"].to_numpy()).min() > 1e-3
    assert (
        (found["power"][1:] > 0.999).all() and (found["always"][1:] < 1e-3 / 3).all() and found["always"].iloc[0] > 1e-3
    )
    assert ((found["low"] <= found["expected"]) & (found["expected"] <= found["high"])).all()


def test_the_power_is_the_share_of_rejections():
    law, drawn = np.array([0.5, 0.3]), np.array([0.45, 0.33])
    rng, n = np.random.default_rng(0), 400
    counts = rng.multinomial(n, [*drawn, 1 - drawn.sum()], size=4000)
    expected = n * np.array([*law, 1 - law.sum()])
    far = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert abs((far > scheme_laws.stats.chi2.isf(0.05, 2)).mean() - scheme_laws._power(law, drawn, n, 0.05)) < 0.03
    assert scheme_laws._power(law, law, n, 0.05) == 0.05
    with np.errstate(all="raise"):  # categories without probability: 0/0 otherwise, and the level for a power of 1
        assert scheme_laws._power(np.array([0.6, 0.4, 0]), np.array([0.6, 0.4, 0]), n, 0.05) == 0.05
        assert scheme_laws._power(np.array([0.6, 0.4]), np.array([0.5, 0.4]), n, 0.05) == 1
        some, other = np.array([0.6, 0.4]), np.array([0.3, 0.7])
        assert scheme_laws._power(np.append(some, 0), np.append(other, 0), n, 0.05) == scheme_laws._power(
            some, other, n, 0.05
        )


def test_two_stored_texts_recover_what_the_exact_sum_says():
    language, scheme = scheme_laws.two_classes(), "temperature(1.25)|nucleus(0.9)"
    pair = scheme_laws.pair_table(language, [scheme, "top_k(50)", "ancestral()"], tokens=8)
    strings, values = scheme_laws._log_p_of_classes(language, scheme, 8)
    (drawn,) = pool_bias(strings, values, [2], pools=20_000, rng=np.random.default_rng(0)).itertuples()
    assert abs(drawn.estimate - pair.loc[scheme, "pair"]) < 4 * (drawn.high - drawn.low) / 3.92
    assert pair.loc["top_k(50)", "recovered"] == pytest.approx(0.5, abs=0.01)
    assert math.isnan(pair.loc["ancestral()", "recovered"])
    q = np.exp(strings.log_q) / np.exp(strings.log_q).sum()
    w, some = np.exp(strings.log_weight), np.argsort(-q)[:40]
    by_hand = sum(
        q[i] * q[j] * (w[i] * values[i] + w[j] * values[j]) / (w[i] + w[j]) for i in some for j in some
    )  # all but the rare pairs
    assert abs(by_hand - pair.loc[scheme, "pair"]) < 60 * (1 - q[some].sum() ** 2)


def test_pushing_to_the_prior_is_exact_for_ancestral_sampling_and_for_beta_times_tau():
    chain, _ = scheme_laws.two_classes()
    reward = Steps(
        np.linspace(-0.5, 0.5, 61) * (np.arange(61) < 60),
        np.tile(np.linspace(-0.5, 0.5, 61) * (np.arange(61) < 60), (61, 1)),
    )
    table = scheme_laws.pushed_table(
        chain, reward, ["ancestral()", "temperature(0.75)", "top_k(30)", "temperature(3.0)"], beta=2.0
    )
    assert table.loc["ancestral()", "kl"] == 0 and table.loc["ancestral()", "shared"] == 1
    assert table.loc["temperature(0.75)", "kl"] > 1e-3 and table.loc["top_k(30)", "kl"] == math.inf
    assert math.isnan(table.loc["temperature(3.0)", "log_p"])
    aligned = global_law(chain, Steps.of(chain) + reward.times(0.5)).chain
    tempered = global_law(chain, adapted(aligned, "temperature(0.75)")).chain
    same = global_law(chain, Steps.of(chain).times(1 / 0.75) + reward.times(1 / (2 * 0.75))).chain
    assert divergence(tempered, same) < 1e-12


def test_a_local_law_that_need_not_end_has_no_means_in_the_table():
    never = MarkovChain([[0.45, 0.45, 0.1], [0.45, 0.45, 0.1], [0, 0, 1]], [0.5, 0.5, 0], eos=2, name="never")
    zero = Steps(np.zeros(3), np.zeros((3, 3)))
    table = scheme_laws.pushed_table(never, zero, ["ancestral()", "top_k(2)"])
    assert table.loc["top_k(2)"].isna().all() and table.loc["ancestral()", "kl"] == 0


def test_the_total_variation_of_the_table_has_no_cap():
    # given that strings fit below the cap it is .305 here, and .402 in truth
    language, name = scheme_laws.two_classes(), "temperature(1.25)|top_k(50)"
    found = [scheme_laws.scheme_table(language, [name], tokens=n).loc[name, "variation"] for n in (6, 10, 13)]
    assert found == pytest.approx([0.402045] * 3, abs=1e-6)


def test_tables_without_schemes_and_weights_that_are_no_numbers_are_refused():
    language = scheme_laws.two_classes(2)
    chain, n = language.chain, language.chain.vocab_size
    zero = Steps(np.zeros(n), np.zeros((n, n)))
    for call in (
        lambda: scheme_laws.scheme_table(language, [], tokens=4),
        lambda: scheme_laws.pushed_table(chain, zero, []),
    ):
        with pytest.raises(ParameterError, match="no scheme is given"):
            call()
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ParameterError, match=f"beta={beta}: a strength above 0"):
            scheme_laws.pushed_table(chain, zero, ["ancestral()"], beta=beta)
    for bad in (math.nan, math.inf):  # "Z is 0" otherwise
        with pytest.raises(DistributionError, match="log-weights of a step are NaN or .inf"):
            scheme_laws.pushed_table(chain, Steps(np.full(n, bad), np.zeros((n, n))), ["ancestral()"])
    with pytest.raises(ParameterError, match="the class of each of the 3 symbols is needed"):
        lumped(CHAIN, [0, 1])
