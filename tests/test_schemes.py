"""Texts of many schemes in one pass: the same as `sample` and `score` give one by one; trios, openings, pools."""

import numpy as np
import pytest

import aep
from aep.adaptors import parse
from aep.analysis.grammar_tilts import tilted_by_words
from aep.analysis.joint_sampling import Job, draw_jobs, log_probabilities
from aep.analysis.schemes import Trio, measure, openings, pool, schemes
from aep.errors import DistributionError, ParameterError, PromptError, VocabularyMismatch
from aep.languages import Grammar, MarkovChain
from aep.neural.rewards import Reward, load_reward, word_points
from tiny_models import one_thread, tiny  # noqa: F401

NAMES = [
    "ancestral()",
    "temperature(0.5)|top_k(3)",
    "top_k(3)",
    "temperature(1.5)|nucleus(0.9)",
    "locally_typical(0.9)",
]
PROMPTS = [np.array([3, 4]), np.array([5]), np.array([6, 7])]
LETTERS = MarkovChain([[0.3, 0.1, 0.6], [0.15, 0.3, 0.55], [0, 0, 1]], [0.5, 0.3, 0.2], eos=2, symbols=["a", "b", "."])
OTHER = MarkovChain([[0.2, 0.3, 0.5], [0.4, 0.2, 0.4], [0, 0, 1]], [0.4, 0.4, 0.2], eos=2, symbols=["a", "b", "."])


def count_a(texts):
    return (
        np.array([np.sum(ids == 0) for ids in texts.ids])
        + np.array([np.sum(p == 0) for p in texts.prompts])[texts.prompt]
    )


A = Reward("count_a", count_a)


@pytest.mark.parametrize(("batch", "compact"), [(7, 0.75), (500, 0.75), (500, 0.0)])
def test_texts_are_those_of_sample_and_their_log_probabilities_those_of_score(tiny, batch, compact, monkeypatch):  # noqa: F811
    monkeypatch.setattr("aep.analysis.joint_sampling._COMPACT", compact)
    source = tiny("mistral", seed=1)
    jobs = [Job(parse(name), 10 + k, p, t) for k, name in enumerate(NAMES) for p in range(3) for t in range(4)]
    found = dict(draw_jobs(source, PROMPTS, jobs, tokens=20, batch=batch))
    assert sorted(found) == list(range(len(jobs)))
    for k, name in enumerate(NAMES):
        mine = [found[i] for i in range(12 * k, 12 * (k + 1))]
        texts = aep.sample(source, PROMPTS, texts=4, tokens=20, seed=10 + k, adaptor=name, stop="eos")
        assert [d.ids.tolist() for d in mine] == [ids.tolist() for ids in texts.ids]
        surprisal = aep.score(texts, source).by_text("surprisal")
        for column, expected in (
            ("log_q", texts.log_q),
            ("log_normaliser", texts.log_normaliser),
            ("log_p_plus", [-a for a in surprisal]),
        ):
            for d, e in zip(mine, expected, strict=True):
                np.testing.assert_allclose(getattr(d, column), e, atol=1e-10, err_msg=f"{name} {column}")


@pytest.mark.parametrize("kind", ["mistral", "gpt2"])
def test_log_probabilities_are_those_of_score_with_and_without_the_prompt(tiny, kind, monkeypatch):  # noqa: F811
    source, reader = tiny("mistral", seed=1), tiny(kind, seed=2)
    texts = aep.sample(source, PROMPTS, texts=8, tokens=20, seed=3, stop="eos")
    monkeypatch.setattr("aep.analysis.joint_sampling.batch_tokens", lambda language: 100)  # several batches
    contexts = [texts.prompts[p] for p in texts.prompt]
    for found, expected in (
        (log_probabilities(reader, contexts, texts.ids), aep.score(texts, reader)),
        (
            log_probabilities(reader, [np.empty(0, int)] * 24, texts.ids),
            aep.score([i.tolist() for i in texts.ids], reader),
        ),
    ):
        for mine, theirs in zip(found, expected.by_text("surprisal"), strict=True):
            np.testing.assert_allclose(mine, -theirs, atol=1e-10)


def test_what_the_reader_cannot_write_has_log_p_minus_infinity_from_there_on():
    never_b = MarkovChain([[0.5, 0, 0.5], [0.5, 0, 0.5], [0, 0, 1]], [1, 0, 0], eos=2, symbols=["a", "b", "."])
    texts = [np.array(t) for t in ([0, 0, 2], [0, 1, 0, 2], [1, 2])]
    found = log_probabilities(never_b, [np.array([0])] * 3, texts)
    assert [np.isneginf(f).tolist() for f in found] == [[False] * 3, [False, True, True, True], [True, True]]
    assert found[0].sum() == pytest.approx(3 * np.log(0.5))


def test_sums_of_a_measured_table_are_those_of_the_exact_laws():
    trio = Trio(LETTERS, OTHER, (A,), 2.0)
    prompts = [np.array([0]), np.array([1, 0])]
    table = measure(trio, prompts, schemes("ancestral(), temperature(0.5)|nucleus(0.9)"), texts=20, tokens=40, seed=3)
    assert table["scheme"].value_counts(sort=False).to_dict() == {
        "ancestral()": 40,
        "temperature(0.5)|nucleus(0.9)": 40,
    }
    plain = table[table["scheme"] == "ancestral()"]
    np.testing.assert_allclose(plain["log_q"], plain["log_p_plus"], atol=1e-12)
    np.testing.assert_allclose(plain["log_z"], 0)
    np.testing.assert_allclose(table["secret"], 2 * (table["log_p_plus"] - table["log_p"]))
    assert table["finished"].all() and (table["reward_count_a"] >= 1).all()


def test_a_scheme_has_the_same_texts_whatever_stands_beside_it_and_another_seed_has_others():
    trio, prompts = Trio(LETTERS, OTHER, (A,), 1.0), [np.array([0]), np.array([1])]
    ask = {"texts": 5, "tokens": 30}
    both = measure(trio, prompts, schemes("top_k(30), nucleus(0.95)"), seed=1, **ask)
    one = measure(trio, prompts, schemes("nucleus(0.95)"), seed=1, **ask)
    assert one.equals(both[both["scheme"] == "nucleus(0.95)"].reset_index(drop=True))
    other = measure(trio, prompts, schemes("nucleus(0.95)"), seed=2, **ask)
    assert not np.allclose(other["log_p"], one["log_p"])


def test_the_store_gives_back_the_same_table_and_draws_only_what_is_missing(tmp_path, monkeypatch):
    counted = []
    reward = Reward("count_a", lambda texts: counted.append(len(texts)) or count_a(texts), fingerprint="a")
    trio, prompts = Trio(LETTERS, OTHER, (reward,), 1.0), [np.array([0]), np.array([1]), np.array([0, 1])]
    ask = {"texts": 200, "tokens": 30, "seed": 1, "store": tmp_path}
    first = measure(trio, prompts, schemes("top_k(30)"), **ask)
    again = measure(trio, prompts, schemes("top_k(30), nucleus(0.9)"), **ask)
    assert again[again["scheme"] == "top_k(30)"].reset_index(drop=True).equals(first)
    assert counted == [200] * 6  # a block per prompt; nothing was measured twice
    exact = measure(trio, prompts, schemes("top_k(30)"), **(ask | {"store": None}))
    for column in ("log_p", "log_p_plus", "log_z", "reward_count_a"):
        np.testing.assert_allclose(first[column], exact[column], atol=1e-5)
    assert len(list((tmp_path / "tokens").glob("*.parquet"))) == 12
    with pytest.raises(DistributionError):  # nothing is drawn any more, but what is new
        monkeypatch.setattr("aep.analysis.schemes.draw_jobs", lambda *a, **k: iter(()) if not a[2] else 1 / 0)
        bad = Reward("bad", lambda texts: np.full(len(texts), np.nan))
        measure(trio._replace(rewards=(bad,)), prompts, schemes("top_k(30)"), **ask)


def test_proposition_1_is_an_identity_on_the_exact_trio_of_tales():
    grammar = Grammar.load("tales")
    law, _ = tilted_by_words(grammar, word_points(grammar.symbols), 1.0)
    trio, prompts = Trio(grammar, law, (load_reward("tales-rule"),), 1.0), openings(grammar, 5, seed=1)
    names = "ancestral(), temperature(1.5)|top_k(50), temperature(0.5)|nucleus(0.9)"
    table = measure(trio, prompts, schemes(names), texts=6, tokens=150, seed=1, alone=False)
    constant = table["log_p"] + table["reward_tales-rule"] / 1.0 - table["log_p_plus"]
    spread = constant.groupby(table["prompt"]).agg(np.ptp)
    assert spread.max() < 1e-9 and np.ptp(constant) > 0.1
    assert table["log_p_alone"].isna().all()


def test_openings_are_distinct_first_sentences_and_their_number_is_limited():
    grammar = Grammar.load("tales")
    found = openings(grammar, 40, seed=1)
    stop = grammar.symbols.index(".")
    assert len({tuple(o) for o in found}) == 40 and all(
        (o == stop).tolist() == [False] * (len(o) - 1) + [True] for o in found
    )
    assert all(np.array_equal(a, b) for a, b in zip(found, openings(grammar, 20, seed=1), strict=False))
    small = Grammar('S -> "a" "." S [.2] | "b" "." [.8]')
    with pytest.raises(ParameterError, match="count=3: grammar showed 2 different openings"):
        openings(small, 3, seed=1)
    with pytest.raises(ParameterError, match="has no word '!'"):
        openings(small, 1, seed=1, end="!")


@pytest.mark.parametrize("name", ["nucleus(0.91)", "nucleous(0.9)", "top_k(31)", "min_p(0.1)", "nonsense"])
def test_a_scheme_that_does_not_exist_is_refused_with_the_nearest(name):
    with pytest.raises(ParameterError, match="unknown scheme .*valid names are ancestral"):
        schemes([name])
    with pytest.raises(ParameterError, match=r"did you mean 'nucleus\(0.9\)'"):
        schemes("nucleus(0.91)")


def test_bad_trios_prompts_and_pools_are_refused():
    prompts = [np.array([0])]
    ask = {"texts": 2, "tokens": 5, "seed": 1}
    rules = 'S -> "{}" S [0.4] | "b" [0.6]'
    here, there = (Grammar(rules.format(word)) for word in "ac")
    assert here.vocab_size == there.vocab_size
    with pytest.raises(VocabularyMismatch, match="different vocabularies"):
        measure(Trio(here, there, (A,), 1.0), prompts, schemes("ancestral()"), **ask)
    with pytest.raises(ParameterError, match="beta=0: a strength above 0"):
        measure(Trio(LETTERS, OTHER, (A,), 0), prompts, schemes("ancestral()"), **ask)
    with pytest.raises(ParameterError, match="at least one reward"):
        Trio(LETTERS, OTHER, (), 1.0).check()
    trio = Trio(LETTERS, OTHER, (A,), 1.0)
    with pytest.raises(PromptError, match="distinct"):
        measure(trio, prompts * 2, schemes("ancestral()"), **ask)
    with pytest.raises(ParameterError, match="texts=0"):
        measure(trio, prompts, schemes("ancestral()"), **(ask | {"texts": 0}))
    table = measure(trio, prompts, schemes("ancestral(), top_k(30)"), **ask)
    with pytest.raises(ParameterError, match="texts of 2 schemes"):
        pool(table)
    with pytest.raises(ParameterError, match="prompt 0 has 2 texts: the global law needs a pool of at least 64"):
        pool(table[table["scheme"] == "top_k(30)"])
    bad = Reward("bad", lambda texts: np.where(np.arange(len(texts)) == 1, np.inf, 0.0))
    with pytest.raises(DistributionError, match="reward 'bad' of text 1 is inf"):
        measure(trio._replace(rewards=(bad,)), prompts, schemes("ancestral()"), **ask)


def test_a_text_that_reaches_the_cap_is_no_string_and_never_accepted():
    trio = Trio(LETTERS, OTHER, (A,), 1.0)
    table = measure(trio, [np.array([0])], schemes("top_k(30)"), texts=200, tokens=2, seed=1)
    cut = ~table["finished"]
    assert 0 < cut.mean() < 1 and (table["tokens"] <= 2).all() and (table.loc[cut, "tokens"] == 2).all()
    assert (np.isneginf(pool(table).log_weight) == cut).all()


def test_texts_of_another_end_token_are_not_those_of_the_store(tmp_path):
    rows = [[0.3, 0.3, 0.4], [0.3, 0.3, 0.4], [0.3, 0.3, 0.4]]
    ask = {"texts": 20, "tokens": 30, "seed": 1}
    for end in (2, 1):
        chain = MarkovChain(rows, [0.4, 0.3, 0.3], eos=end, symbols=["a", "b", "c"])
        trio, prompts = Trio(chain, chain, (A,), 1.0), [np.array([0])]
        fresh = measure(trio, prompts, schemes("ancestral()"), **ask)
        again = measure(trio, prompts, schemes("ancestral()"), store=tmp_path, **ask)
        np.testing.assert_allclose(again["log_p"], fresh["log_p"], atol=1e-5)
