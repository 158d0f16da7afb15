"""Local and global means over pools of texts against exact laws of a Markov language, and what shortcuts give instead."""

import numpy as np
import pytest

from aep.analysis.deviations import corpus_correlations, left_on, left_on_table, local_and_global, pool_weights
from aep.analysis.metropolis import Proposals
from aep.analysis.normalisers import normaliser
from aep.analysis.schemes import Trio, measure, schemes
from aep.analysis.weighted_chains import Steps, adapted, expected_total, global_law, local_law
from aep.errors import ParameterError
from aep.languages import MarkovChain
from aep.neural.rewards import Reward

ROWS = [[0.3, 0.1, 0.6], [0.15, 0.3, 0.55], [0, 0, 1]]
SCHEME = "temperature(0.5)|top_k(30)"


def started(first):
    """The language of continuations after a letter: its laws are those of that state."""
    return MarkovChain(ROWS, ROWS[first], eos=2, symbols=["a", "b", "."])


LANGUAGE = started(0)
LENGTH = Reward("length", lambda texts: np.array([len(ids) for ids in texts.ids], float))


@pytest.fixture(scope="module")
def table():
    trio = Trio(LANGUAGE, LANGUAGE, (LENGTH,), 1.0)
    return measure(
        trio, [np.array([0]), np.array([1])], schemes(f"{SCHEME}, ancestral()"), texts=4000, tokens=40, seed=1
    )


@pytest.fixture(scope="module")
def found(table):
    return local_and_global(table, ["log_p", "reward_length"], rng=np.random.default_rng(0), chains=20, steps=1500)


def test_local_and_global_means_are_the_exact_ones_of_every_prompt(table, found):
    row, expected = found.loc[SCHEME], {"local": [], "global": []}
    for first in (0, 1):
        language = started(first)
        weights = adapted(language, SCHEME)
        laws = {"local": local_law(language, weights), "global": global_law(language, weights).chain}
        for name, law in laws.items():
            expected[name].append(expected_total(law, Steps.of(language)))
    error = table["log_p"].std() / np.sqrt(8000)
    for name, values in expected.items():
        assert abs(row[f"log_p_{name}"] - np.mean(values)) < 5 * error
    assert abs(np.mean(expected["global"]) - np.mean(expected["local"])) > 10 * error  # there is something to find
    assert row["log_p_chain"] == pytest.approx(row["log_p_global"], abs=0.03)


def test_a_chain_that_always_accepts_keeps_the_local_law(found):
    row = found.loc[SCHEME]
    assert row["log_p_always"] == pytest.approx(row["log_p_local"], abs=0.03)
    assert abs(row["log_p_always"] - row["log_p_global"]) > 0.1
    assert 0.3 < row["acceptance"] < 0.99


def test_a_pooled_chain_prefers_prompts_in_proportion_to_their_normaliser(table):
    mine = table[table["scheme"] == SCHEME]
    weight = np.exp(mine["log_z"])
    shares = weight.groupby(mine["prompt"]).sum() / weight.sum()
    z = np.exp([normaliser(started(first), SCHEME).log_z for first in (0, 1)])
    np.testing.assert_allclose(shares, z / z.sum(), atol=0.02)
    assert abs(z[0] / z.sum() - 0.5) > 0.01


def test_ancestral_texts_have_one_law_and_all_proposals_are_accepted(found):
    row = found.loc["ancestral()"]
    assert row["acceptance"] == 1 and row["kish"] == pytest.approx(4000) and np.isnan(row["pareto_k"])
    values = [row[f"log_p_{name}"] for name in ("local", "global", "pooled")]
    assert values == pytest.approx([values[0]] * 3)
    assert row["prompts_pooled"] == pytest.approx(2)


def test_weights_of_a_pool_by_hand():
    pool = Proposals(np.log(np.array([1.0, 3.0, 1.0, 1.0])), np.array([0, 0, 5, 5]))
    assert pool_weights(pool).tolist() == pytest.approx([0.125, 0.375, 0.25, 0.25])


def test_too_few_texts_for_the_global_part_are_said(table):
    few = table[table["text"] < 63]
    with pytest.raises(ParameterError, match="prompt 0 has 63 texts: the global law needs a pool of at least 64"):
        local_and_global(few, ["log_p"], rng=np.random.default_rng(0))
    assert len(local_and_global(few, ["log_p"], rng=np.random.default_rng(0), least=10, steps=20)) == 2


def test_top_k_left_on_changes_the_schemes_that_set_none_and_is_found_in_paired_means():
    named = schemes("ancestral(), temperature(1.5)|nucleus(0.95), temperature(1.5)|top_k(30), eta(0.0009)")
    changed = left_on(named, k=2)
    assert list(changed) == ["ancestral()", "temperature(1.5)|nucleus(0.95)", "eta(0.0009)"]
    trio, ask = Trio(LANGUAGE, LANGUAGE, (LENGTH,), 1.0), {"texts": 300, "tokens": 60, "seed": 1}
    prompts = [np.array(p) for p in ([0], [1], [0, 0], [0, 1], [1, 0], [1, 1])]
    right, wrong = (measure(trio, prompts, a, **ask) for a in (named, changed))
    found = left_on_table(right, wrong, ["log_p", "reward_length"])
    assert list(found.index) == list(changed)
    row = found.loc["ancestral()"]
    assert row["reward_length_top_k"] - row["reward_length"] == pytest.approx(row["reward_length_change"])
    assert row["reward_length_high"] < 0  # without its third symbol the language ends at once
    same = left_on_table(right, measure(trio, prompts, left_on(named, k=3), **(ask | {"seed": 2})), ["log_p"])
    assert (same["log_p_low"] < 0).all() and (same["log_p_high"] > 0).all()
    with pytest.raises(ParameterError, match="not of the same prompts"):
        left_on_table(right[right["prompt"] > 0], wrong, ["log_p"])


def _two_means(found, law):
    return np.corrcoef(found[f"log_p_{law}"], found[f"reward_length_{law}"])[0, 1]


@pytest.fixture(scope="module")
def three_schemes():
    trio = Trio(LANGUAGE, LANGUAGE, (LENGTH,), 1.0)
    prompts = [np.array([0] * k + [1]) for k in range(1, 7)] + [np.array([1] * k + [0]) for k in range(1, 7)]
    asked = schemes("ancestral(), temperature(0.5)|top_k(30), temperature(1.5)|top_k(30)")
    return measure(trio, prompts, asked, texts=70, tokens=60, seed=3)


def test_correlations_over_schemes_are_those_of_the_means(three_schemes):
    rng = np.random.default_rng(1)
    means = local_and_global(three_schemes, ["log_p", "reward_length"], rng=rng, chains=2, steps=4)
    found = corpus_correlations(three_schemes, "log_p", "reward_length", rng=rng, resamples=99)
    assert (found["unit"] == "prompts").all()
    for law in ("local", "global", "pooled"):
        assert found.loc[law, "correlation"] == pytest.approx(_two_means(means, law), abs=1e-12)
        assert found.loc[law, "low"] <= found.loc[law, "correlation"] <= found.loc[law, "high"]


def test_of_few_prompts_the_texts_are_drawn(three_schemes):
    few = three_schemes[three_schemes["prompt"] < 2]
    found = corpus_correlations(few, "log_p", "reward_length", rng=np.random.default_rng(2), resamples=99)
    assert (found["unit"] == "texts of these prompts").all() and (found["low"] < found["high"]).all()


def test_correlations_over_schemes_need_texts(three_schemes):
    with pytest.raises(ParameterError, match="64"):
        corpus_correlations(three_schemes[three_schemes["text"] < 10], "log_p", "tokens", rng=np.random.default_rng(2))
