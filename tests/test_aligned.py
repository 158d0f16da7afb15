"""The relatives of `tales`: preferences by Bradley and Terry, and the measures of cards on an exact trio first."""

import builtins
import json
import math

import numpy as np
import pytest

import aep
from aep.__main__ import main
from aep.analysis.grammar_tilts import tilted_by_words
from aep.languages import Grammar
from aep.neural.loading import card, embedded
from aep.neural.rewards import RULE, load_reward, word_points
from aep.neural.training import aligned, aligned_facts, configs, trl_runs
from tiny_models import one_thread  # noqa: F401

GRAMMAR = Grammar.load("tales")
POINTS = word_points(GRAMMAR.symbols)
POLICIES = [name for name, spec in configs.ALIGNED.items() if spec.kind != "reward" and name in embedded()]


def test_preferences_are_drawn_by_bradley_and_terry():
    chosen, rejected = trl_runs.preferences(GRAMMAR, 6000, seed=3)
    assert all(text[-1] == GRAMMAR.eos and math.isfinite(GRAMMAR.log_probability(text)) for text in chosen[:20])
    gap = np.array([POINTS[a].sum() - POINTS[b].sum() for a, b in zip(chosen, rejected, strict=True)])
    for size in (1, 2, 3, 4):  # given the size of the gap, it is positive with probability σ(size)
        at = np.abs(gap) == size
        share, expected = np.mean(gap[at] > 0), 1 / (1 + math.exp(-size))
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / at.sum())
    again = trl_runs.preferences(GRAMMAR, 100, seed=3)[0]
    assert again == trl_runs.preferences(GRAMMAR, 100, seed=3)[0] != trl_runs.preferences(GRAMMAR, 100, seed=4)[0]


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_the_measures_find_an_exact_optimum_to_be_one(beta):
    best = tilted_by_words(GRAMMAR, POINTS, beta)
    language = getattr(best, "grammar", best)
    texts = aep.sample(language, None, texts=600, tokens=96, seed=2, stop="eos")
    (row,) = aligned_facts.policy_table(language, GRAMMAR, [load_reward(RULE)], beta, texts).to_dict("records")
    exact = {1.0: 2.666001, 2.0: 0.741824}[beta]
    assert row["log_z"] == pytest.approx(exact, abs=1e-5) and row["optimum"] == pytest.approx(beta * exact, abs=1e-5)
    assert row["shortfall"] == pytest.approx(0, abs=1e-9) and row["share"] == pytest.approx(1, abs=1e-6)
    assert (row["slope"], row["correlation"]) == (pytest.approx(1), pytest.approx(1))
    assert row["beta_at_kl"] == pytest.approx(beta, rel=1e-5) and row["spread"] < 1e-9


def test_the_measures_find_the_prior_to_be_far_from_the_optimum():
    texts = aep.sample(GRAMMAR, None, texts=600, tokens=96, seed=2, stop="eos")
    (row,) = aligned_facts.policy_table(GRAMMAR, GRAMMAR, [load_reward(RULE)], 1.0, texts).to_dict("records")
    assert abs(row["kl"]) < 1e-12 and row["shortfall_low"] > 1.5 and math.isnan(row["slope"])


def test_the_rule_as_reward_model_has_the_accuracy_of_the_rule():
    table = aligned_facts.reward_table(load_reward(RULE), GRAMMAR, GRAMMAR, pairs=800).set_index("quantity").value
    assert table["accuracy"] == table["accuracy of the rule"] and 0.78 < table["accuracy"] < 0.88
    assert table["slope on the rule"] == pytest.approx(1) and table["spread about the rule"] < 1e-9


def test_a_missing_trl_is_one_line_with_the_command(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "trl":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["train", "tales-dpo"]) == 2
    said = capsys.readouterr().err
    assert "needs trl" in said and "pip install" in said and said.count("\n") == 1


def test_a_misspelt_model_to_train_gets_the_nearest_name(capsys):
    assert main(["train", "tales-rlo"]) == 2
    assert "'tales-rloo'" in capsys.readouterr().err


def test_the_clock_goes_on_from_the_checkpoint(tmp_path):
    class State:
        global_step = 0

    state = State()
    first = aligned.Clock(tmp_path)
    first.on_train_begin(None, state, None)
    state.global_step = trl_runs.SAVE_EVERY
    first.on_step_end(None, state, None)
    noted = json.loads((tmp_path / "clock.json").read_text())[str(trl_runs.SAVE_EVERY)]
    state.global_step += 1
    first.on_step_end(None, state, None)  # killed after this step
    second, state.global_step = aligned.Clock(tmp_path), trl_runs.SAVE_EVERY
    second.on_train_begin(None, state, None)
    assert second.total == noted <= first.total


# -- the committed models


@pytest.mark.parametrize("name", POLICIES)
def test_a_committed_policy_is_where_its_card_says_it_is(name):
    said, spec = card(name)["alignment"], configs.ALIGNED[name]
    policy, prior, reward = aep.load(name), aep.load("tales"), load_reward(RULE)
    texts = aep.sample(policy, None, texts=400, tokens=96, seed=77, stop="eos")
    (row,) = aligned_facts.policy_table(policy, prior, [reward], spec.beta, texts).to_dict("records")
    for quantity in ("mean_reward", "kl", "slope"):  # six standard errors of the fresh texts and the card's
        width = row[f"{quantity}_high"] - row[f"{quantity}_low"]
        assert abs(row[quantity] - said[RULE][quantity]) < 1.8 * width
    assert row["shortfall_high"] > said[RULE]["shortfall_low"]


@pytest.mark.skipif("tales-rloo" not in POLICIES, reason="tales-rloo is not trained yet")
def test_tales_rloo_is_near_its_optimum():
    said = card("tales-rloo")["alignment"][RULE]
    assert said["shortfall"] <= 0.03 and said["share"] >= 0.9
