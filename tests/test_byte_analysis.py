"""What the tables per byte say, on languages where every token sequence can be listed; then what is committed."""

from hashlib import sha256

import numpy as np
import pandas as pd
import pytest

import aep
import aep.analysis.pairs
from aep import plotting
from aep.analysis import byte_tables as t
from aep.analysis import bytelevel as b
from aep.errors import ParameterError, PromptError, RecordError
from aep.languages import MarkovChain
from aep.neural.bytelevel import END, ByteLanguage
from aep.neural.training import corpus
from aep.outputs import committed
from aep.plotting import bytelevel as draw
from byte_oracles import CASES, CHAIN, byte_string_probability, masked, spelled
from oracles import language_next, strings
from tiny_models import one_thread  # noqa: F401

PIECES = CASES["chain, ambiguous"][1]
SIX = ByteLanguage(CHAIN, PIECES)
RNG = np.random.default_rng(5)
RIVAL = MarkovChain(RNG.dirichlet(np.ones(6), size=6), RNG.dirichlet(np.ones(6)), eos=5, name="rival")
THEIRS = ByteLanguage(RIVAL, PIECES)
LAWS = {
    "six": masked(language_next(CHAIN), spelled(PIECES, 5)),
    "rival": masked(language_next(RIVAL), spelled(PIECES, 5)),
}


def exact(s, law="six") -> float:
    return np.log(byte_string_probability(LAWS[law], spelled(PIECES, 5), tuple(int(x) for x in s)))


def some_texts(count: int = 12, length: int = 9, seed: int = 1) -> list[np.ndarray]:
    return list(aep.sample(SIX.with_width(None), texts=count, tokens=length, seed=seed).ids)


# ---------------------------------------------------------------------------------------------------- widths, Monte Carlo


def test_l_of_every_width_is_a_bound_of_the_exact_one_and_so_is_what_the_dropped_weight_leaves():
    texts = some_texts()
    table = b.by_width(SIX, texts, [1, 2, 4, 200])
    l_exact = np.tile([-exact(s) / len(s) for s in texts], 4)
    assert (table.l >= l_exact - 1e-12).all() and (table.l_least <= l_exact + 1e-12).all()
    assert (table.l_conditional <= table.l + 1e-12).all()
    wide = table[table.width == 200]
    np.testing.assert_allclose(wide.l, l_exact[:12], atol=1e-12)
    np.testing.assert_allclose(wide.l_conditional, wide.l, atol=1e-12)
    assert np.isneginf(wide.log_dropped).all() and (table.histories <= table.width).all()
    assert (table[table.width == 1].l > l_exact[:12] + 1e-3).any(), "a beam of one that loses nothing tests nothing"


def test_the_movement_of_a_step_is_the_mean_difference_over_the_same_texts_with_its_t_interval():
    table = b.by_width(SIX, some_texts(), [1, 2, 4]).assign(model="six")
    steps = b.width_steps(table).set_index("width")
    moved = table.l[table.width == 1].to_numpy() - table.l[table.width == 2].to_numpy()
    assert steps.moved[1] == pytest.approx(moved.mean()) and steps.moved_most[1] == pytest.approx(moved.max())
    half = 2.200985 * moved.std(ddof=1) / np.sqrt(12)  # t of 11 degrees of freedom
    assert steps.moved_high[1] - steps.moved[1] == pytest.approx(half, rel=1e-6)
    assert steps["next"].tolist()[:2] == [2, 4] and np.isnan(steps.moved[4])


def test_monte_carlo_of_all_histories_is_exact_and_of_few_has_the_exact_value_in_its_interval():
    texts = some_texts(20, 8)
    l_exact = np.array([-exact(s) / len(s) for s in texts])
    found = b.monte_carlo(SIX, texts, particles=100, replicates=2, seed=1)
    for name in ("l", "l_low", "l_high"):
        np.testing.assert_allclose(found[name], l_exact, atol=1e-9)
    few = b.monte_carlo(SIX, texts, particles=3, replicates=16, seed=1)
    assert ((few.l_low <= l_exact) & (l_exact <= few.l_high)).sum() >= 16  # 95% each: fewer with a chance of 1e-3
    assert (few.jensen >= 0).all() and (few.jensen > 0).any()


def test_texts_are_counted_on_both_sides_of_the_interval():
    widths = pd.DataFrame({"model": "m", "width": 8, "text": range(4), "bytes": 10, "l": [1.0, 1.2, 0.8, 1.0505]})
    widths["l_conditional"] = widths.l - 0.1
    estimates = pd.DataFrame({"model": "m", "text": range(4), "bytes": 10, "l": 1.0, "l_low": 0.95, "l_high": 1.05})
    row = b.beside_monte_carlo(widths, estimates).iloc[0]
    assert (row.below, row.above, row.inside, row.texts) == (1, 1, 0.5, 4)
    assert row.excess == pytest.approx(0.012625) and row.conditional == pytest.approx(-0.087375)
    assert row.noise == pytest.approx(0.05 * np.sqrt(4) / 4) and row.mean_inside
    estimates.loc[1, "l_high"] = np.inf
    assert b.beside_monte_carlo(widths, estimates).iloc[0][["above", "unbounded"]].tolist() == [0, 1]


# ---------------------------------------------------------------------------------------------------- bytes and tokens


def test_the_gap_is_minus_the_log_probability_of_the_tokens_given_the_bytes():
    tokens = aep.sample(CHAIN, texts=15, tokens=9, seed=3).ids
    table = b.gaps(SIX.with_width(500), tokens, [3, 9])
    for row in table.itertuples():
        ids = tokens[row.text][: row.tokens]
        spelled_out = [x for i in ids for x in ((END,) if i == 5 else PIECES[i])]
        without = [x for i in ids[:-1] for x in ((END,) if i == 5 else PIECES[i])]
        assert len(without) < row.bytes <= len(spelled_out)
        law = LAWS["six"]
        p = np.prod([law(tuple(ids[:k]))[v] for k, v in enumerate(ids)])
        assert row.log_p_tokens == pytest.approx(np.log(p))
        assert row.log_p_bytes == pytest.approx(exact(spelled_out[: row.bytes]))
        assert row.gap == pytest.approx(row.log_p_bytes - row.log_p_tokens) and row.gap >= 0
    assert (table.gap > 0.01).any()


def test_token_sequences_cut_at_a_number_of_bytes_add_up_to_the_probability_of_the_bytes():
    """What makes the data processing inequality hold: x -> s is a function, and P(s) is the sum over its fibre."""
    total = dict.fromkeys(strings(3, 3), 0.0)
    law = LAWS["six"]

    def grow(ids, p):
        symbols = [x for i in ids for x in ((END,) if i == 5 else PIECES[i])]
        if len(symbols) >= 3:
            assert b.cover(np.array([*ids, 0, 0, 0]), SIX, 3)[0] == len(ids)
            total[tuple({97: 0, 98: 1, END: 2}[x] for x in symbols[:3])] += p
            return
        for token in range(6):
            grow((*ids, token), p * law(ids)[token])

    grow((), 1.0)
    for s, p in total.items():
        assert p == pytest.approx(np.exp(exact([(97, 98, END)[i] for i in s])))


def test_kl_of_bytes_is_at_most_kl_of_tokens_exactly_and_the_table_estimates_both():
    drawn = aep.sample(CHAIN, texts=400, tokens=4, seed=4).ids
    wide = {"six": SIX.with_width(500), "rival": THEIRS.with_width(500)}
    parts = [b.gaps(x, drawn, [4]).assign(kind="sampled", source="six", scorer=name) for name, x in wide.items()]
    row = b.kl_summary(pd.concat(parts)).iloc[0]
    kl_bytes = kl_tokens = 0.0
    for s in strings(3, 4):
        symbols = [(97, 98, END)[i] for i in s]
        kl_bytes += np.exp(exact(symbols)) * (exact(symbols) - exact(symbols, "rival")) / 4

    def grow(ids, p, q):
        nonlocal kl_tokens
        if sum(1 if i == 5 else len(PIECES[i]) for i in ids) >= 4:
            kl_tokens += p * np.log(p / q) / 4
            return
        for token in range(6):
            grow((*ids, token), p * LAWS["six"](ids)[token], q * LAWS["rival"](ids)[token])

    grow((), 1.0, 1.0)
    assert kl_bytes < kl_tokens - 0.01
    # three estimates of one sample, each off by more than four standard errors with a chance of 6e-5
    for name, value in (("kl_tokens", kl_tokens), ("kl_bytes", kl_bytes), ("more", kl_tokens - kl_bytes)):
        assert abs(row[name] - value) < 2.04 * (row[f"{name}_high"] - row[name])
    assert row.holds and row.texts == 400


def test_a_summary_of_gaps_has_its_growth_free_of_the_last_token():
    tokens = aep.sample(CHAIN, texts=30, tokens=12, seed=6).ids
    table = b.gaps(SIX.with_width(2000), tokens, [4, 10]).assign(kind="sampled", source="six", scorer="six")
    row = b.gap_summary(table).iloc[0]
    far, near = (table[table.bytes == n].gap.to_numpy() for n in (10, 4))
    assert row.gap == pytest.approx(far.mean() / 10) and row.growth == pytest.approx((far - near).mean() / 6)
    assert row.l_tokens - row.l_bytes == pytest.approx(row.gap) and row.least == table.gap.min() >= 0
    assert row.canonical == pytest.approx(np.exp(-far).mean())
    other = b.gaps(THEIRS.with_width(2000), tokens, [4, 10]).assign(kind="sampled", source="six", scorer="rival")
    assert len(b.gap_summary(pd.concat([table.assign(scorer="six"), other]))) == 1  # not of text of another model


def test_one_token_per_byte_has_no_gap():
    chain = MarkovChain([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.15, 0.8]])
    letters = ByteLanguage(chain, [b"x", b"y", b"z"], width=1)
    table = b.gaps(letters, aep.sample(chain, texts=3, tokens=20, seed=1).ids, [20])
    np.testing.assert_allclose(table.gap, 0, atol=1e-12)
    assert (table.tokens == 20).all()


def test_what_has_no_gap_is_said():
    with pytest.raises(PromptError, match="2 tokens spell 3 bytes, 9 are needed"):
        b.gaps(SIX, [np.array([0, 2])], [9])
    special = ByteLanguage(CHAIN, [b"a", b"b", b"ab", None, b"aa", None])
    with pytest.raises(PromptError, match="token 3 of markov"):
        b.gaps(special, [np.array([0, 3, 0])], [3])


def test_a_beam_too_narrow_for_a_text_shows_as_a_negative_gap():
    narrow = b.gaps(ByteLanguage(CHAIN, PIECES, width=1), aep.sample(CHAIN, texts=60, tokens=8, seed=8).ids, [8])
    assert (narrow.gap < 0).any()


def test_the_prefix_of_a_tokenizer_is_part_of_the_text_of_a_gap():
    pieces = [b"a", b"b", b" ", b" a", b"ab", None]
    plain, with_prefix = (ByteLanguage(CHAIN, pieces, width=200, prefix=p) for p in (b"", b" "))
    ids = [np.array([3, 1, 0, 4]), np.array([2, 0, 1, 1])]
    pd.testing.assert_frame_equal(b.gaps(with_prefix, ids, [4]), b.gaps(plain, ids, [4]))


# ---------------------------------------------------------------------------------------------------- normalised laws


def test_entropies_of_a_wide_beam_are_those_of_enumeration_and_of_a_narrow_one_are_not():
    texts = some_texts(6, 8)
    table = b.enumerated(SIX, THEIRS, texts, [1, 300])
    wide, narrow = table[table.width == 300], table[table.width == 1]
    for name in ("h_A", "h_AB", "kl", "l_B"):
        np.testing.assert_allclose(wide[name], wide[f"{name}_exact"], atol=1e-12)
    assert np.abs(narrow.h_AB - narrow.h_AB_exact).max() > 1e-3
    off = b.deviations(table).set_index(["width", "quantity"])
    assert off.deviation[1, "h_AB"] == pytest.approx((narrow.h_AB - narrow.h_AB_exact).mean())
    assert off.largest[1, "h_AB"] == pytest.approx(np.abs(narrow.h_AB - narrow.h_AB_exact).max())
    assert (off.largest[300] < 1e-12).all() and off.exact[300, "kl"] == pytest.approx(wide.kl_exact.mean())
    s = tuple(int(x) for x in texts[0])
    h = h_cross = 0.0
    for n in range(len(s)):
        ps, qs = (
            [np.exp(exact((*s[:n], v), law) - (exact(s[:n], law) if n else 0)) for v in (97, 98, END)]
            for law in ("six", "rival")
        )
        h, h_cross = h - np.sum(ps * np.log(ps)) / len(s), h_cross - np.sum(ps * np.log(qs)) / len(s)
    assert wide.h_A_exact.iloc[0] == pytest.approx(h) and wide.h_AB_exact.iloc[0] == pytest.approx(h_cross)


def test_z_is_calibrated_and_a_foreign_one_against_its_own_h_is_not():
    languages = {"six": CHAIN, "rival": RIVAL}
    pairs = aep.analysis.pairs.pair_records(languages, texts=150, tokens=100, seed=9, batch=150)
    found = b.calibrations(pairs.per_text()).set_index(["scorer", "kind"])
    for scorer in languages:
        assert found.is_calibrated[scorer, "own"] and found.is_calibrated[scorer, "pair"]
        assert not found.is_calibrated[scorer, "foreign, own h"]
    assert found.texts["six", "pair"] == 300


# ---------------------------------------------------------------------------------------------------- the command


def test_excerpts_are_the_beginnings_of_held_out_documents_of_different_clusters():
    found = t.excerpts(3)
    listed = {d["id"]: (d["sha256"], d["split"]) for d in corpus.manifest()["documents"]}
    clusters = committed("A1_losses").set_index("document").cluster
    assert [listed[d.id] for d in found] == [(sha256(d.text.encode()).hexdigest(), "held-out") for d in found]
    assert len({clusters[d.id] for d in found}) == 3 and all(len(d.text.encode()) >= t.BYTES for d in found)
    assert [d.sha256 for d in found] == sorted(d.sha256 for d in found)
    with pytest.raises(RecordError, match="not installed identically"):
        t._document(found[0].id, "0" * 64)


def test_an_interrupted_command_goes_on_with_the_part_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(t, "repository", lambda: tmp_path)
    monkeypatch.setattr(t, "language", lambda name: SIX)
    done = []

    def measure(model, width):
        if width == 3:
            raise KeyboardInterrupt
        done.append((model, width))
        return pd.DataFrame({"l": [0.1 + 0.2], "text": [0], "model": model, "width": width, "kind": "x"})

    with pytest.raises(KeyboardInterrupt):
        t._Parts({"six": "six"}).of("widths", [("six", 2), ("six", 3)], measure)
    table = t._Parts({"six": "six"}).of("widths", [("six", 2), ("six", 4)], measure)
    assert done == [("six", 2), ("six", 4)] and list(table.columns[:4]) == ["model", "kind", "width", "text"]
    assert t._Parts({"rival": "six", "six": "six"}).folder != t._Parts({"six": "six"}).folder


def test_a_table_of_more_models_than_were_given_stays_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(t, "repository", lambda: tmp_path)
    both, one = (pd.DataFrame({"source": names, "scorer": names, "l_B": 1.0}) for names in (["a", "b"], ["a"]))
    t._write("pairs", both)
    path = tmp_path / "data" / "results" / "bytes_pairs.csv"
    before = path.read_bytes()
    t._write("pairs", one)
    assert path.read_bytes() == before and "it also has b" in capsys.readouterr().out
    t._write("pairs", both.assign(l_B=2.0))
    assert path.read_bytes() != before


def test_a_slice_is_compared_row_by_row(monkeypatch):
    table = pd.DataFrame({"source": "a", "width": [1, 1, 2], "text": [0, 1, 0], "h_A": [1.0, np.inf, 3.0]})
    monkeypatch.setattr(t, "slices", lambda: {"exact": lambda: table.iloc[1:].assign(h_A=[np.inf, 3.5])})
    row = t.measured_again(tables={"exact": table}).iloc[0]
    assert (row["rows"], row["columns"], row.largest_difference) == (2, 1, 0.5)
    with pytest.raises(RecordError, match="has no row"):
        t.measured_again(tables={"exact": table.iloc[:2]})
    with pytest.raises(ParameterError, match="exact"):
        t.measured_again(["exakt"])


def test_the_figures_draw_what_the_tables_hold():
    texts, colours = some_texts(6, 9), {"six": "C0", "docs-400k": "C1"}
    kinds = {"kind": "held-out", "model": "six"}
    widths = b.by_width(SIX, texts, [1, 2, 4]).assign(**kinds)
    estimates = b.monte_carlo(SIX, texts, particles=2, replicates=4, seed=1).assign(**kinds)
    figure, axes = plotting.figure(2, 2)
    draw.plot_movement(axes[0, 0], b.width_steps(widths), colours)
    assert len(axes[0, 0].lines[0].get_xdata()) == 2  # two steps of three widths
    draw.plot_excess(axes[0, 1], b.beside_monte_carlo(widths, estimates), colours)
    draw.plot_beside(axes[1, 0], widths, estimates, colours, 2)
    assert [x.get_text() for x in axes[1, 0].get_xticklabels()] == ["six"]
    drawn = aep.sample(CHAIN, texts=6, tokens=9, seed=3).ids
    table = b.gaps(SIX.with_width(500), drawn, [4, 9]).assign(kind="sampled", source="six", scorer="six")
    draw.plot_gaps(axes[1, 1], table, b.gap_summary(table), colours)
    np.testing.assert_allclose(axes[1, 1].lines[0].get_ydata(), np.sort(table.gap[table.bytes == 9]) / 9)
    with pytest.raises(ParameterError, match="h_AB, kl, gap_pair"):
        draw.plot_byte_matrix(axes[0, 0], widths, "l")
    figure.canvas.draw()
    plotting.plt.close(figure)


# ---------------------------------------------------------------------------------------------------- as committed


def test_a_slice_of_the_exact_table_is_measured_again():
    assert (t.measured_again(["exact"]).largest_difference < 1e-9).all()


@pytest.mark.slow
def test_a_slice_of_every_committed_table_is_measured_again_by_itself():
    """One text or two where the tables had 24 or 50: a number does not depend on its batch. Pairs went through the store."""
    found = t.measured_again()
    assert set(found.table) == {f"bytes_{name}" for name in t.TABLES} - {"bytes_accuracy", "bytes_confusion"}
    assert (found.largest_difference < 1e-6).all()


def test_the_committed_widths_converge_on_held_out_text_and_the_byte_model_is_itself():
    widths = committed("bytes_widths")
    steps = b.width_steps(widths).set_index(["kind", "model", "width"])
    assert (steps.moved.loc["held-out", :, 8] <= 1e-3).all()
    byte_model = widths[widths.model == t.IDENTITY]
    assert byte_model.groupby("text").l.nunique().eq(1).all() and (byte_model.histories == 1).all()
    np.testing.assert_allclose(byte_model.l, byte_model.l_conditional, atol=1e-9)
    beside = b.beside_monte_carlo(widths, committed("bytes_monte_carlo"))
    texts, below = beside.groupby("width").texts.sum(), beside.groupby("width").below.sum()
    assert (
        below <= 0.1 * texts
    ).all()  # a certified bound lies under the interval where the interval misses, 2.5% of texts


def test_no_committed_text_has_more_probability_as_tokens_than_as_bytes_and_kl_falls():
    table = committed("bytes_gap")
    assert (table.gap >= 0).all() and len(table) == 2 * (24 * 3 + 24 * 9)
    np.testing.assert_allclose(table.gap, table.log_p_bytes - table.log_p_tokens, atol=1e-6)
    assert b.kl_summary(table).holds.all()


def test_the_committed_pairs_are_calibrated_and_agree_with_the_attribution():
    pairs, accuracy = committed("bytes_pairs"), committed("bytes_accuracy")
    found = b.calibrations(pairs).set_index("kind").is_calibrated
    assert found["own"].all() and found["pair"].all() and not found["foreign, own h"].any()
    assert (pairs.kl >= 0).all() and (pairs.kl[pairs.source == pairs.scorer] == 0).all()
    nearest = pairs.loc[pairs.groupby(["source", "text"]).l_B.idxmin()]
    said = accuracy[(accuracy.rule == "maximum likelihood") & (accuracy.bytes == t.BYTES)].set_index("author").accuracy
    assert said["all"] == pytest.approx((nearest.source == nearest.scorer).mean())
