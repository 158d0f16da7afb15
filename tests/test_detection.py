"""Scores of one record against recomputation from full distributions, on exact languages and tiny networks; edge cases."""

import math
import zlib

import numpy as np
import pandas as pd
import pytest
import torch

import aep
import oracles
from aep.adaptors import ancestral, temperature, top_k
from aep.analysis import text_scores as ts
from aep.analysis.detection import SCORES, available, oriented, scores, window_scores
from aep.errors import ParameterError, RecordError
from aep.languages import MarkovChain
from aep.records import Records, Texts
from tiny_models import one_thread, tiny  # noqa: F401

SCORER = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], name="B")
SOURCE = MarkovChain([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], name="A")


def by_hand(p_next, q_next, ids, k, words, cut=None) -> dict[str, float]:
    """Every score of one text from full next-token laws: p of the scorer, q of the source; plain Python, token by token."""
    rows = []
    for t, x in enumerate(ids):
        p, q = p_next(tuple(ids[:t])), q_next(tuple(ids[:t]))
        row = {"a": -math.log(p[x]), "r": sum(y > p[x] for y in p), "H": oracles.entropy(p), "V": oracles.varentropy(p)}
        row |= {"b": oracles.cross_entropy(q, p), "v": oracles.cross_varentropy(q, p), "HA": oracles.entropy(q)}
        rows.append(row | {"a2": -math.log(q[x]), "q": cut(p)[x] if cut else p[x]})
    n, total = len(rows), {name: sum(row[name] for row in rows) for name in rows[0]}
    lowest = max(1, math.floor(k * n + 1e-9))
    ranks = sum(math.log(row["r"] + 1) for row in rows)
    return {
        "loss": total["a"] / n,
        "log_rank": ranks / n,
        "lrr": total["a"] / ranks if ranks else math.inf,
        "entropy_gap": (total["a"] - total["H"]) / n,
        "z": (total["a"] - total["H"]) / math.sqrt(total["V"]),
        "min_k": sum(sorted(-row["a"] for row in rows)[:lowest]) / lowest,
        "min_k_plus_plus": sum(sorted((r["H"] - r["a"]) / math.sqrt(r["V"]) for r in rows)[:lowest]) / lowest,
        "extraction": sum(math.log(row["q"]) if row["q"] else -math.inf for row in rows),
        "zlib_ratio": total["a"] / len(zlib.compress(words.encode())),
        "reference_ratio": total["a"] / total["a2"],
        "reference_difference": (total["a"] - total["a2"]) / n,
        "fast_detect_gpt": (total["b"] - total["a"]) / math.sqrt(total["v"]),
        "binoculars": total["a"] / total["b"],
        "rb_kl": (total["b"] - total["HA"]) / n,
    }


@pytest.fixture(scope="module")
def texts() -> Texts:
    rng = np.random.default_rng(5)
    return Texts.from_ids(SCORER, [rng.integers(3, size=n) for n in (1, 2, 5, 17, 40, 40)])


@pytest.fixture(scope="module")
def pair(texts) -> Records:
    return aep.score(texts, SCORER, source=SOURCE, adaptors=[top_k(2)])


@pytest.mark.parametrize("k", [0.05, 0.2, 0.29, 0.5, 1.0])
def test_every_score_equals_its_formula_over_full_distributions(texts, pair, k):
    words = [SCORER.decode(ids) for ids in texts.ids]
    found = scores(pair, k=k, adaptor="top_k(2)", strings=words)
    assert found.zlib_ratio.equals(scores(pair, which="zlib_ratio").zlib_ratio)  # decoded
    assert list(found) == list(SCORES) and found.index.name == "text"
    p, q = oracles.language_next(SCORER), oracles.language_next(SOURCE)
    for i, ids in enumerate(texts.ids):
        wanted = by_hand(p, q, ids.tolist(), k, words[i], cut=lambda law: oracles.top_k(law, 2))
        for name in SCORES:
            np.testing.assert_allclose(found.loc[i, name], wanted[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_every_score_of_a_network_equals_its_formula_over_softmax_rows(tiny):  # noqa: F811
    scorer, source = tiny("llama", seed=1), tiny("llama", seed=2)
    ids = np.random.default_rng(0).integers(3, 23, size=(3, 12))

    def law(lm):
        def p_next(prefix):
            with torch.inference_mode():
                logits = lm.model(input_ids=torch.tensor([[1, *prefix]])).logits[0, -1]
            return torch.softmax(logits.double(), -1).tolist()

        return p_next

    found = scores(aep.score(ids, scorer, source=source), strings=["abc", "de", "f"])
    for i in range(3):
        wanted = by_hand(law(scorer), law(source), ids[i].tolist(), 0.2, ["abc", "de", "f"][i])
        for name in SCORES:
            np.testing.assert_allclose(found.loc[i, name], wanted[name], rtol=1e-7, err_msg=name)


def test_min_k_plus_plus_of_all_tokens_is_the_mean_standardised_surprisal(pair):
    a, h, v = (pair.by_text(name) for name in ("surprisal", "entropy", "varentropy"))
    wanted = [np.mean((y - x) / np.sqrt(w)) for x, y, w in zip(a, h, v, strict=True)]
    np.testing.assert_allclose(ts.min_k_plus_plus(pair, k=1.0), wanted)
    np.testing.assert_allclose(ts.min_k(pair, k=1.0), -ts.loss(pair))


def test_a_reference_record_and_the_source_of_a_pair_are_the_same_reference(texts, pair):
    other = aep.score(texts, SOURCE)
    plain = aep.score(texts, SCORER)
    for score in (ts.reference_ratio, ts.reference_difference):
        np.testing.assert_allclose(score(plain, other), score(pair))


def test_a_truncated_source_is_no_reference(texts):
    cold = aep.score(texts, SCORER, source=SOURCE, adaptor=temperature(0.5))
    assert "reference_ratio" not in available(cold) and "rb_kl" in available(cold)
    with pytest.raises(
        RecordError, match=r"reference_ratio needs the same texts.*reference=aep\.score\(texts, other\)"
    ):
        scores(cold, which="reference_ratio")


def test_fast_detect_gpt_is_minus_z_of_the_pair_and_rb_kl_is_not_negative(pair):
    a, b, v = (pair[name] for name in ("surprisal", "cross_entropy", "cross_varentropy"))
    last = slice(-40, None)
    z = (a[last].sum() - b[last].sum()) / np.sqrt(v[last].sum())
    np.testing.assert_allclose(ts.fast_detect_gpt(pair)[-1], -z)
    assert (ts.rb_kl(pair) >= 0).all()


def public_binoculars(p_next, q_next, ids) -> float:
    """Its public code: a_t of tokens 1 ... T over b of all T + 1 laws, the one after the last token among them."""
    a = [-math.log(p_next(tuple(ids[:t]))[x]) for t, x in enumerate(ids)]
    b = [oracles.cross_entropy(q_next(tuple(ids[:t])), p_next(tuple(ids[:t]))) for t in range(len(ids) + 1)]
    return (sum(a) / len(a)) / (sum(b) / len(b))


def test_upstream_binoculars_averages_over_one_law_more_and_differs(texts, pair):
    long = pair.select([1, 2, 3, 4])
    p, q = oracles.language_next(SCORER), oracles.language_next(SOURCE)
    upstream, aligned = (ts.binoculars(long, form=form) for form in ("upstream", "aligned"))
    wanted = [public_binoculars(p, q, texts.ids[i][:-1].tolist()) for i in (1, 2, 3, 4)]
    np.testing.assert_allclose(upstream, wanted)
    shorter = ts.binoculars(aep.score([texts.ids[i][:-1] for i in (1, 2, 3, 4)], SCORER, source=SOURCE))
    assert (np.abs(upstream - shorter) > 1e-4).all() and (np.abs(upstream - aligned) > 1e-4).all()
    # Where the law after the last token has the average cross-entropy, nothing differs.
    same = Records(long.columns | {"cross_entropy": np.ones(len(long))})
    cut = np.array([x[:-1].sum() / (len(x) - 1) for x in same.by_text("surprisal")])
    np.testing.assert_allclose(ts.binoculars(same, form="upstream"), cut)
    with pytest.raises(ParameterError, match="at least 2 scored tokens"):
        ts.binoculars(pair, form="upstream")
    with pytest.raises(ParameterError, match="did you mean 'aligned'"):
        ts.binoculars(pair, form="align")


def test_upstream_zlib_is_the_mean_over_the_compressed_size(pair):
    np.testing.assert_allclose(ts.zlib_ratio(pair, form="upstream") * pair.lengths, ts.zlib_ratio(pair))


# ---------------------------------------------------------------------------------------------------------- edge cases


def record(**columns) -> Records:
    """One text; unnamed columns are ordinary."""
    n = len(next(iter(columns.values())))
    base = {"text": np.zeros(n, int), "position": np.arange(n), "token": np.arange(n), "rank": np.arange(n)}
    names = ("surprisal", "entropy", "varentropy", "cross_entropy", "cross_varentropy", "source_surprisal")
    base |= {name: np.ones(n) for name in (*names, "source_entropy")}
    return Records(base | {name: np.asarray(x) for name, x in columns.items()})


def test_a_law_without_spread_gives_zero_not_a_quotient_of_zeros():
    certain = record(surprisal=np.zeros(3), entropy=np.zeros(3), varentropy=np.zeros(3), rank=np.zeros(3, int))
    assert ts.z(certain)[0] == 0 and ts.min_k_plus_plus(certain)[0] == 0
    assert ts.lrr(certain)[0] == np.inf and ts.log_rank(certain)[0] == 0
    uniform = record(surprisal=np.full(3, 2.0) + 1e-7, entropy=np.full(3, 2.0), varentropy=np.full(3, 1e-14))
    assert ts.z(uniform)[0] == 0 and ts.min_k_plus_plus(uniform)[0] == 0
    pair = record(
        surprisal=np.zeros(3), cross_entropy=np.zeros(3), cross_varentropy=np.zeros(3), source_surprisal=np.zeros(3)
    )
    assert ts.fast_detect_gpt(pair)[0] == 0 and ts.binoculars(pair)[0] == 1 and ts.reference_ratio(pair)[0] == 1


def test_a_forbidden_token_is_infinitely_untypical():
    cut = record(surprisal=np.array([1.0, np.inf]), entropy=np.ones(2), varentropy=np.array([1.0, 0.0]))
    found = scores(cut, which=["loss", "z", "min_k", "min_k_plus_plus", "extraction", "fast_detect_gpt", "binoculars"])
    assert found.iloc[0].tolist() == [np.inf, np.inf, -np.inf, -np.inf, -np.inf, -np.inf, np.inf]


def test_all_ranks_zero_make_lrr_infinite_whatever_the_surprisal():
    found = ts.lrr(record(surprisal=np.ones(4), rank=np.zeros(4, int)))
    assert found[0] == np.inf


def test_one_token_has_every_score(pair):
    one = scores(pair.select([0]), strings=["a"])
    assert np.isfinite(one.drop(columns="lrr")).all(axis=None)
    assert one["min_k"][0] == -one["loss"][0] and np.isclose(one["min_k_plus_plus"][0], -one["z"][0])


# ------------------------------------------------------------------------------------------------------------ the table


def test_signs_turn_every_score_so_that_greedy_text_is_larger():
    rng = np.random.default_rng(2)
    chain = MarkovChain(np.array([[0.8, 0.15, 0.05], [0.05, 0.8, 0.15], [0.15, 0.05, 0.8]]), name="peaked")
    flat = MarkovChain(np.array([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]]), name="flat")
    likely = [np.full(40, i % 3) for i in range(3)] + [np.append(np.full(39, 0), 1)]
    random = [rng.integers(3, size=40) for _ in range(4)]
    found = scores(aep.score([*likely, *random], chain, source=flat), which=[n for n in SCORES if n != "zlib_ratio"])
    turned = oriented(found)
    rest = turned.drop(columns="rb_kl")  # a property of the prefix, alike for all rows of this pair
    assert (rest.iloc[:4].min() > rest.iloc[4:].max()).all()
    with pytest.raises(ParameterError, match="no column"):
        oriented(pd.DataFrame({"x": [1.0]}))


def test_all_means_what_the_record_has_columns_for(texts, pair):
    plain = aep.score(texts, SCORER)
    own = ["loss", "log_rank", "lrr", "entropy_gap", "z", "min_k", "min_k_plus_plus", "extraction"]
    words = ["a"] * len(texts)
    assert list(scores(plain)) == own
    assert list(scores(plain, strings=words)) == [*own, "zlib_ratio"]
    assert list(scores(plain, reference=aep.score(texts, SOURCE))) == [*own, *list(SCORES)[9:11]]
    assert list(scores(pair, strings=words)) == available(pair, strings=words) == list(SCORES)
    assert "extraction" not in available(pair, adaptor="top_k(3)")


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("fast_detect_gpt", r"fast_detect_gpt needs.*'cross_entropy'.*aep\.score\(texts, scorer, source=\.\.\.\)"),
        ("rb_kl", r"rb_kl needs.*'cross_entropy'"),
        ("zlib_ratio", r"zlib_ratio needs the texts.*strings=\[\.\.\.\]"),
        ("reference_difference", r"reference_difference needs the same texts under a second model"),
        (
            "extraction",
            r"'log_q_temperature\(0.8\)\|top_k\(2\)'.*adaptors=\[aep\.temperature\(0\.8\)\|aep\.top_k\(2\)\]",
        ),
    ],
)
def test_a_score_without_its_columns_names_the_pass_that_writes_them(texts, which, message):
    plain = Records(aep.score(texts, SCORER).columns)
    with pytest.raises(RecordError, match=message):
        scores(plain, which=which, adaptor=temperature(0.8) | top_k(2))


def test_what_is_refused_is_named(pair, texts):
    with pytest.raises(ParameterError, match="unknown score 'mink': did you mean 'min_k'"):
        scores(pair, which=["loss", "mink"])
    for k in (0.0, 1.5, -1.0, float("nan")):
        with pytest.raises(ParameterError, match="share of the tokens in"):
            scores(pair, k=k)
    for suffix in (0, 2, True):
        with pytest.raises(ParameterError, match="from 1 to 1 tokens"):
            scores(pair, suffix=suffix)
    empty = Records({name: values[:0] for name, values in pair.columns.items()})
    with pytest.raises(RecordError, match="no scored token"):
        scores(empty, which="loss")
    with pytest.raises(RecordError, match="reference holds other tokens"):
        scores(pair, reference=aep.score(texts.select([1, 0, 2, 3, 4, 5]), SOURCE))
    with pytest.raises(RecordError, match="does not know its language"):
        scores(Records(pair.columns), which="zlib_ratio")
    with pytest.raises(RecordError, match="strings has 1 entries, the record 6 texts"):
        scores(pair, strings=["a"])


def test_extraction_of_a_suffix_is_the_sum_of_its_log_q(pair):
    long = pair.select([3, 4])
    wanted = [x[-5:].sum() for x in long.by_text("log_q_top_k(2)")]
    np.testing.assert_allclose(ts.extraction(long, "top_k(2)", suffix=5), wanted)
    np.testing.assert_allclose(ts.extraction(long, ancestral()), -ts.loss(long) * long.lengths)


# -------------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize(("size", "step"), [(1, 1), (5, 1), (5, 3), (17, 17)])
def test_a_window_has_the_scores_of_a_text_of_its_rows(pair, size, step):
    long = pair.select([3, 4, 5])
    names = [name for name in SCORES if name != "zlib_ratio"]
    found = window_scores(long, size, step, which=names, adaptor="top_k(2)")
    wanted = [(t, s) for t, n in enumerate(long.lengths) for s in range(0, n - size + 1, step)]
    assert list(zip(found.text, found.start, strict=True)) == wanted and (found.stop - found.start == size).all()
    for row in found.itertuples():
        first = np.flatnonzero(long["text"] == row.text)[0]
        rows = slice(first + row.start, first + row.stop)
        alone = Records({n: c[rows] for n, c in long.columns.items()} | {"text": np.zeros(size, int)})
        one = scores(alone, which=names, adaptor="top_k(2)").iloc[0]
        np.testing.assert_allclose([getattr(row, n) for n in names], one, rtol=1e-9)
    assert "zlib_ratio" not in window_scores(long, size, step, which="all")


def test_a_loop_after_ordinary_text_keeps_its_small_variance():
    v = np.concatenate([np.full(1000, 9.0), np.full(64, 1e-9)])
    a = np.concatenate([np.full(1000, 5.0), np.full(64, 1e-10)])
    loop = record(surprisal=a, entropy=np.where(v > 1, 4.0, 3e-10), varentropy=v)
    last = window_scores(loop, 64).z.iloc[-1]
    np.testing.assert_allclose(last, -64 * 2e-10 / np.sqrt(64e-9), rtol=1e-9)


def test_the_same_ranks_in_another_order_have_the_same_score():
    rng = np.random.default_rng(0)
    ranks = rng.integers(40, size=37)
    both = np.concatenate([rng.permutation(ranks) for _ in range(200)])
    text = np.repeat(np.arange(200), 37)
    record = Records({"text": text, "position": np.tile(np.arange(37), 200), "rank": both, "surprisal": both + 1.0})
    assert len(set(ts.log_rank(record))) == 1


def test_windows_are_refused_where_a_text_is_shorter_and_for_zlib(pair):
    with pytest.raises(ParameterError, match=r"text 0 has 1 scored tokens, fewer than a window of 4.*records\.select"):
        window_scores(pair, 4)
    for size, step in ((0, 1), (4, 0), (True, 1)):
        with pytest.raises(ParameterError, match="at least 1 token"):
            window_scores(pair, size, step)
    with pytest.raises(ParameterError, match="zlib_ratio has no windows"):
        window_scores(pair, 1, which="zlib_ratio")
