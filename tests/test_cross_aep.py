"""Tables of the cross-AEP: against exact expectations of Markov pairs, coverage of the intervals, and their figures.

Seeds were fixed before the first run; every binomial test rejects a correct build with probability of at most .001.
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import aep
import oracles
from aep import intervals, plotting
from aep.adaptors import parse
from aep.analysis import cross_aep as c
from aep.analysis.eprocess import time_uniform_band
from aep.analysis.markov_pairs import CASES, adapted, coverage, coverages, expected_pair
from aep.analysis.pairs import pair_columns, pair_records
from aep.analysis.typicality import Paths, running_mean
from aep.errors import ParameterError, VocabularyMismatch
from aep.languages import MarkovChain
from aep.neural.shelf import Shelf
from aep.plotting import cross_aep as draw
from exact_pairs import drawn_pair

A = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], name="A")
B = MarkovChain([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], name="B")
FAR = MarkovChain([[0.05, 0.05, 0.9], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], [0.2, 0.5, 0.3], name="far")
STICKY = MarkovChain([[0.95, 0.05], [0.1, 0.9]], [1, 0], name="sticky")
PAIRS = {"A, B": (A, B), "B, A": (B, A), "A, far": (A, FAR), "far, A": (FAR, A), "A, A": (A, A)}
SAMPLERS = {"ancestral": None, "cold": "temperature(0.5)", "warm": "temperature(2.0)", "top": "top_k(2)"}


@pytest.fixture(scope="module")
def pairs():
    return pair_records({"A": A, "B": B}, [[0], [1]], samplers=SAMPLERS, texts=12, tokens=40, seed=41)


@pytest.fixture(scope="module")
def per_text(pairs):
    return pairs.per_text()


@pytest.fixture(scope="module")
def foreign():
    """2,000 texts of A under B, 200 symbols."""
    return drawn_pair(A, B, texts=2000, tokens=200, seed=42)


# --------------------------------------------------------------------------------------------------- exact expectations


def brute(source, scorer, tokens, prompt, adaptor):
    """E h_(A,B), E h_A, E h_B and E Σv over every string of A's adapted law, one multiplication at a time."""
    a_next, b_next = oracles.language_next(source), oracles.language_next(scorer)

    def law(prefix):
        return np.exp(adaptor(np.log(np.array([a_next((*prompt, *prefix))])))[0]).tolist()

    totals = np.zeros(4)
    for string, p in oracles.distribution(law, source.vocab_size, tokens).items():
        for t in range(tokens if p else 0):
            a, b = law(string[:t]), b_next((*prompt, *string[:t]))
            totals += p * np.array([oracles.cross_entropy(a, b), oracles.entropy(a), oracles.entropy(b), 0])
            totals[3] += p * oracles.cross_varentropy(a, b)
    return [*totals[:3] / tokens, totals[3]]


@pytest.mark.parametrize("adaptor", ["ancestral()", "temperature(0.7)", "top_k(2)", "nucleus(0.75)|temperature(1.5)"])
@pytest.mark.parametrize("name", ["A, B", "far, A"])
def test_the_expectation_is_the_sum_over_every_string(name, adaptor):
    (source, scorer), adaptor = PAIRS[name], parse(adaptor)
    for tokens in (1, 2, 4):
        for prompt in ((), (1,)):
            found = expected_pair(source, scorer, tokens, prompt=prompt, adaptor=adaptor)
            expected = brute(source, scorer, tokens, prompt, adaptor)
            assert [found.h_AB, found.h_A, found.h_B, found.sum_cross_varentropy] == pytest.approx(expected, abs=1e-12)
            assert found.kl == pytest.approx(found.h_AB - found.h_A, abs=1e-12)


def test_the_expectation_to_length_six():
    found = expected_pair(A, FAR, 6, prompt=(2,), adaptor=parse("temperature(0.7)"))
    expected = brute(A, FAR, 6, (2,), parse("temperature(0.7)"))
    assert [found.h_AB, found.h_A, found.h_B, found.sum_cross_varentropy] == pytest.approx(expected, abs=1e-12)


def test_the_expectation_of_a_source_under_itself_is_its_entropy_and_long_texts_have_the_rate():
    own = expected_pair(A, A, 30, prompt=[2])
    assert own.h_AB == pytest.approx(own.h_A) == pytest.approx(own.h_B) and own.kl == pytest.approx(0)
    assert own.h_AB == pytest.approx(A.expected(30, prompt=[2]).log_perplexity)
    long = expected_pair(A, B, 100_000)
    assert long.h_AB == pytest.approx(A.cross_entropy_rate(B), abs=1e-4)
    assert long.kl == pytest.approx(A.cross_entropy_rate(B) - A.entropy_rate(), abs=1e-4)


def test_an_adapted_chain_has_the_adapted_rows_and_start():
    top = adapted(FAR, parse("top_k(1)"))
    np.testing.assert_array_equal(top.transition, np.eye(3)[[2, 0, 1]])
    np.testing.assert_array_equal(top.initial, [0, 1, 0])
    same = adapted(FAR)
    np.testing.assert_allclose(same.transition, FAR.transition, atol=1e-15)


def test_a_scorer_that_forbids_is_infinitely_far_and_other_symbols_are_refused():
    assert expected_pair(A, adapted(B, parse("top_k(1)")), 5).h_AB == np.inf
    with pytest.raises(VocabularyMismatch, match="sticky 2"):
        expected_pair(A, STICKY, 5)


# ------------------------------------------------------------------------------------------------------------ intervals


def covered(name: str, repetitions: int) -> pd.DataFrame:
    source, scorer, options = CASES[name]
    seed = 900 + list(CASES).index(name)
    found = coverage(source, scorer, **{"tokens": 16} | options, texts=50, repetitions=repetitions, seed=seed)
    return found.set_index(["quantity", "unit"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_interval_covers_the_exact_expectation_in_93_to_97_of_100_experiments(name, capsys):
    """2,000 experiments of 50 texts each. At a coverage of 95% this misses with a chance below 1e-4."""
    found = covered(name, 2000)
    with capsys.disabled():
        print(f"\n{name}\n{found[['expected', 'mean', 'coverage', 'low', 'high', 'above', 'below']].round(4)}")
    for quantity in ("h_AB", "kl"):
        assert 0.93 <= found.coverage[quantity, "text"] <= 0.97
        assert found["mean"][quantity, "text"] == pytest.approx(found.expected[quantity, "text"], abs=3e-3)
    control = round(2000 * found.coverage["h_AB", "token"])  # tokens are not independent
    assert stats.binomtest(control, 2000, 0.95).pvalue < 1e-6


@pytest.mark.parametrize("name", ["A, B, top-k, two prompts"])
def test_the_interval_covers_the_exact_expectation_in_short(name):
    """200 experiments: 95% not rejected at .1% two-sided, 90% and 99% would mostly be. Tokens as units are rejected."""
    found = covered(name, 200)
    hits = {key: round(200 * share) for key, share in found.coverage.items()}
    for quantity in ("h_AB", "kl"):
        assert stats.binomtest(hits[quantity, "text"], 200, 0.95).pvalue > 0.001
        assert stats.binomtest(hits[quantity, "token"], 200, 0.95).pvalue < 1e-4
    row = found.loc["h_AB", "text"]
    assert row.low <= row.coverage <= row.high and row.coverage + row.above + row.below == pytest.approx(1)
    assert row.expected != pytest.approx(adapted(A, aep.top_k(2)).cross_entropy_rate(B), abs=0.01)  # not the limit


def test_the_coverages_of_all_cases_stand_one_below_the_other():
    table = coverages(repetitions=20, seed=7, texts=8)
    assert len(table) == 4 * len(CASES) and table.prompts.tolist()[::4] == [1, 2, 1, 1, 2]
    source, scorer, options = CASES["sticky, flat"]
    alone = coverage(source, scorer, **options, texts=8, repetitions=20, seed=9)
    pd.testing.assert_frame_equal(table[8:12].reset_index(drop=True), alone)


def test_a_coverage_of_uneven_strata_is_refused():
    with pytest.raises(ParameterError, match="texts=51 after 2 prompts"):
        coverage(A, B, tokens=4, texts=51, repetitions=2, seed=0, prompts=[[0], [1]])


def test_a_stratified_mean_is_its_formula_and_without_strata_the_t_interval():
    rng = np.random.default_rng(43)
    x, y = rng.normal(size=9), rng.normal(3, 4, size=5)
    found = c.stratified_mean(np.concatenate([x, y]), ["x"] * 9 + ["y"] * 5)
    welch = stats.ttest_ind(x, -y, equal_var=False).confidence_interval()  # mean x + mean y
    assert found == pytest.approx((((x.mean() + y.mean()) / 2), welch.low / 2, welch.high / 2))
    assert c.stratified_mean(x, np.zeros(9)) == intervals.mean(x)
    shifted = c.stratified_mean(np.concatenate([x, x + 100]), np.repeat([0, 1], 9))
    assert shifted.high - shifted.low < 2 < intervals.mean(np.concatenate([x, x + 100])).high  # prompts are fixed
    assert c.stratified_mean(np.ones(4), [0, 0, 1, 1]) == (1, 1, 1)
    assert np.isnan(c.stratified_mean(np.array([1.0, np.inf, 2.0]), [0, 0, 0]).low)
    with pytest.raises(ParameterError, match="1 text"):
        c.stratified_mean(np.ones(3), [0, 0, 1])


def test_the_matrix_has_the_interval_of_every_pair_and_quantity(per_text):
    table = c.matrix(per_text)
    assert len(table) == 4 * len(SAMPLERS) * 4 and (table.texts == 24).all() and (table.prompts == 2).all()
    key = ["source", "scorer", "sampler", "quantity"]
    row = table.set_index(key).loc[("A", "B", "cold", "kl")]
    part = per_text[(per_text.source == "A") & (per_text.scorer == "B") & (per_text.sampler == "cold")]
    assert tuple(row[["estimate", "low", "high"]]) == c.stratified_mean(part.kl.to_numpy(), part.prompt.to_numpy())
    own = table[(table.source == table.scorer) & (table.sampler == "ancestral") & (table.quantity == "kl")]
    assert (own[["estimate", "low", "high"]] == 0).all(axis=None)
    with pytest.raises(ParameterError, match="unknown quantity 'h_BA': did you mean .*'h_AB'"):
        c.matrix(per_text, ["h_BA"])


def test_the_share_inside_is_95_percent_for_the_pair_and_not_for_the_scorer(foreign):
    """2,000 texts of A under B."""
    table = pd.DataFrame({"source": "A", "scorer": "B", "sampler": "ancestral"} | pair_columns(foreign))
    found = c.inside(table).set_index("statistic")
    assert found.tested["z_pair"] > 1990
    hits = round(found.share["z_pair"] * found.tested["z_pair"])
    assert stats.binomtest(hits, found.tested["z_pair"], 0.95).pvalue > 0.001
    assert found.share["z_B"] < 0.9 and found.high["z_B"] < 0.93 and found.mean_z["z_B"] > 0.5
    none = c.inside(table.assign(z_pair_has_test=False))
    assert np.isnan(none.share[0]) and none.tested[0] == 0


# ---------------------------------------------------------------------------------------------------- beside the report


def test_the_histogram_counts_every_comparison_of_two_languages_in_bits(per_text):
    table = c.histogram(per_text, 0.1)
    bits = per_text.h_AB[per_text.source != per_text.scorer] / np.log(2)
    assert table.comparisons.sum() == len(bits) == len(per_text) / 2 and table.share.sum() == pytest.approx(1)
    assert table.left.iloc[0] <= bits.min() and bits.max() <= table.right.iloc[-1]
    np.testing.assert_allclose(table.right - table.left, 0.1)
    for row in table.itertuples():
        assert row.comparisons == ((bits >= row.left) & (bits < row.right)).sum()
    with pytest.raises(ParameterError, match="no pair of two languages"):
        c.histogram(per_text[per_text.source == per_text.scorer])


def test_ours_stands_beside_the_four_numbers_of_the_report(per_text):
    table = c.beside_report(per_text).set_index("set")
    bits = per_text.h_AB[per_text.source != per_text.scorer] / np.log(2)
    assert table.loc["report", ["mean", "median", "min", "max"]].tolist() == [4.1315, 4.178, 0.6547, 8.3482]
    assert table.comparisons.tolist() == [len(bits), 444] and table.skipped.tolist() == [0, 6]
    ours = table.loc["ours"]
    assert [ours["mean"], ours["median"], ours["min"], ours["max"]] == pytest.approx(
        [bits.mean(), bits.median(), bits.min(), bits.max()]
    )
    assert ours.mean_low < ours["mean"] < ours.mean_high
    assert ours.mean_high - ours["mean"] == pytest.approx(ours["mean"] - ours.mean_low)
    one = per_text.copy()
    one.loc[one.index[one.source != one.scorer][0], "h_AB"] = np.inf
    assert c.beside_report(one).skipped[0] == 1


def test_the_shown_texts_are_order_statistics_of_the_kl_rate(per_text):
    foreign = per_text[per_text.source != per_text.scorer]
    chosen = c.chosen_texts(per_text, (0, 0.5, 1))
    assert chosen.divergence.tolist() == ["low", "mid", "high"]
    assert chosen.kl.iloc[[0, 2]].tolist() == [foreign.kl.min(), foreign.kl.max()]
    assert (foreign.kl < chosen.kl[1]).sum() == round(0.5 * (len(foreign) - 1))
    for row in chosen.itertuples():
        same = (
            foreign[["source", "sampler", "scorer", "record"]] == [row.source, row.sampler, row.scorer, row.record]
        ).all(axis=1)
        assert foreign.kl[same].tolist() == [row.kl]
    assert c.chosen_texts(per_text, (0.1,)).divergence.tolist() == ["0.1"]


# --------------------------------------------------------------------------------------------------------- along a text


def test_the_inequality_behind_the_band_holds():
    """exp(x - x²/6) <= 1 + x + x²/3; with a sixth replaced by an eighth it fails."""
    x = np.linspace(-40, 40, 800_001)
    assert (np.exp(x - x**2 / 6) <= 1 + x + x**2 / 3 + 1e-15).all()
    assert (np.exp(x - x**2 / 8) > 1 + x + x**2 / 3).any()


@settings(deadline=None, max_examples=30)
@given(
    arrays(np.float64, (2, 3, 3), elements=st.floats(0.02, 1)).map(lambda x: x / x.sum(axis=-1, keepdims=True)),
    st.floats(0.1, 100),
)
def test_the_e_process_of_a_pair_has_a_mean_of_at_most_one(rows, best):
    """Exactly, over every string of five symbols; the factor exp(λD - λ²W/2) for single λ too."""
    source, scorer = MarkovChain(rows[0]), MarkovChain(rows[1])
    strings = np.indices((3,) * 5).reshape(5, -1).T
    records = aep.score(list(strings), scorer, source=source)
    p = np.exp(-records.matrix("source_surprisal").sum(axis=1))
    a, b, v = map(records.matrix, ("surprisal", "cross_entropy", "cross_varentropy"))
    assert p.sum() == pytest.approx(1)
    for t in (0, 4):
        assert p @ np.exp(c.log_pair_e_process(a, b, v, best)[:, t]) <= 1 + 1e-9
    s, w = np.sum(a - b, axis=1), np.sum((a - b) ** 2 + 2 * v, axis=1) / 3
    for x in (-3.0, -0.3, 0.5, 2.0):
        assert p @ np.exp(x * s - x**2 * w / 2) <= 1 + 1e-9


def test_the_band_of_a_pair_holds_its_level_at_all_positions_at_once(foreign):
    """2,000 texts of A: under (A, B) at most 5% ever leave it; under the claim that FAR wrote them nearly all do."""
    a, b, v = map(foreign.matrix, ("surprisal", "cross_entropy", "cross_varentropy"))
    band, running = c.pair_band(a, b, v, 0.05, best=50.0), running_mean(a)
    left = (running < band.low) | (running > band.high)
    np.testing.assert_array_equal(left, c.log_pair_e_process(a, b, v, 50.0) > np.log(20))
    hits = int(left.any(axis=1).sum())
    assert stats.binomtest(hits, 2000, 0.05, alternative="greater").pvalue > 0.001
    token = foreign.matrix("token")[:300]
    claimed = aep.score(list(token[:, :60]), B, source=FAR)
    claim = c.pair_band(*map(claimed.matrix, ("surprisal", "cross_entropy", "cross_varentropy")), 0.05, best=50.0)
    outside = (running[:300, :60] < claim.low) | (running[:300, :60] > claim.high)
    assert outside.any(axis=1).mean() > 0.2 > left.any(axis=1).mean()


def test_the_band_is_narrowest_where_it_was_asked_to_be():
    ones = np.ones(2000)  # W_t = t
    half = {
        best: (c.pair_band(ones, 0 * ones, ones, best=best).high * np.arange(1, 2001)) for best in (50.0, 100.0, 200.0)
    }
    a = (np.cumsum(ones**2 + 2 * ones) / 3).searchsorted(100.0)
    assert half[100.0][a] <= min(half[50.0][a], half[200.0][a])
    for bad in ({"alpha": 0.0}, {"alpha": 1.5}, {"best": 0.0}):
        with pytest.raises(ParameterError, match="is needed"):
            c.pair_band(ones, ones, ones, **bad)


def test_running_ends_at_the_columns_of_the_text_and_has_both_bands(pairs, per_text):
    records = pairs["A", "top", "B"]
    table, row = c.running(records, 5), per_text[(per_text.source == "A") & (per_text.scorer == "B")]
    last, final = table.iloc[-1], row[(row.sampler == "top") & (row.record == 5)].iloc[0]
    for name in ("l_B", "h_AB", "h_B", "h_A", "sigma_pair", "sigma_B"):
        assert last[name] == pytest.approx(final[name], abs=1e-12)
    assert table.position.tolist() == list(range(1, 41))
    scorer = time_uniform_band(Paths.of(records, 5), 0.05)
    np.testing.assert_array_equal(table.B_low, scorer.low)
    assert (table.pair_low < table.h_AB).all() and (table.h_AB < table.pair_high).all()


def test_a_foreign_text_leaves_the_band_of_the_scorer_and_not_that_of_the_pair():
    records = drawn_pair(A, FAR, texts=10, tokens=400, seed=44)
    for text in range(10):
        table = c.running(records, text, best=200.0)
        assert ((table.l_B < table.B_low) | (table.l_B > table.B_high)).iloc[-1]
        assert ((table.l_B >= table.pair_low) & (table.l_B <= table.pair_high)).iloc[-1]


def test_a_profile_is_the_mean_of_its_window_and_its_divergence_is_not_negative(pairs):
    records = pairs["A", "cold", "B"]
    raw, smooth = c.profile(records, 3), c.profile(records, 3, 7)
    np.testing.assert_array_equal(raw.surprisal, records.by_text("surprisal")[3])
    np.testing.assert_array_equal(raw.scorer_entropy, records.by_text("entropy")[3])
    assert raw.position.tolist() == list(range(1, 41)) and len(smooth) == 34 and (smooth.window == 7).all()
    for name in ("surprisal", "cross_entropy", "source_entropy", "scorer_entropy", "kl"):
        assert smooth[name][10] == pytest.approx(raw[name][10:17].mean())
    assert smooth.position[10] == 14 and (raw.kl >= -1e-12).all()
    for bad in (0, 41, True):
        with pytest.raises(ParameterError, match="an integer from 1 to 40"):
            c.profile(records, 3, bad)


# ----------------------------------------------------------------------------------------------------------- many texts


def test_the_mean_square_of_l_minus_h_is_the_expected_cross_varentropy_exactly():
    """E (l_B - h_(A,B))² = E[Σ v]/T², by every string; predicted sqrt(E Σv)/T of `expected_pair`."""
    strings = np.indices((3,) * 6).reshape(6, -1).T
    adaptor = parse("temperature(0.6)")
    records = aep.score(list(strings), B, source=A, adaptor=adaptor)
    p = np.exp(-records.matrix("source_surprisal").sum(axis=1))
    gap = (records.matrix("surprisal") - records.matrix("cross_entropy")).mean(axis=1)
    assert p @ gap == pytest.approx(0, abs=1e-12)
    assert p @ gap**2 == pytest.approx(expected_pair(A, B, 6, adaptor=adaptor).sum_cross_varentropy / 36)


def test_convergence_follows_its_prediction_and_the_gap_to_the_scorer_does_not_vanish(foreign):
    """The predicted root mean square inside 99.9% of the measured one at each of four lengths."""
    table = c.convergence(foreign, [5, 20, 80, 200])
    gap = running_mean(foreign.matrix("surprisal") - foreign.matrix("cross_entropy"))
    for row in table.itertuples():
        wide = intervals.mean(gap[:, row.tokens - 1] ** 2, 0.999)
        exact = expected_pair(A, B, row.tokens).sum_cross_varentropy
        assert wide.low <= exact / row.tokens**2 <= wide.high
        assert row.predicted == pytest.approx(np.sqrt(exact) / row.tokens, rel=0.05)
        assert row.rms_low <= row.rms <= row.rms_high and row.in_1_sigma_low < row.in_1_sigma < row.in_1_sigma_high
    assert table.rms[3] < 0.3 * table.rms[0]
    drift = expected_pair(A, FAR, 200)
    control = c.convergence(drawn_pair(A, FAR, texts=200, tokens=200, seed=47), [200]).iloc[0]
    assert control.foreign > 0.9 * abs(drift.h_AB - drift.h_B) > 5 * control.rms
    assert table.in_2_sigma[3] == pytest.approx(0.954, abs=0.02)


def test_the_divergence_per_block_of_positions_is_the_exact_one(foreign):
    """Each of four blocks inside 99.9%; the first symbol comes from another law than the rest."""
    edges = [1, 4, 20, 200]
    table = c.by_position(foreign, edges)
    kl = foreign.matrix("cross_entropy") - foreign.matrix("source_entropy")
    before = 0.0
    for row in table.itertuples():
        total = row.last * expected_pair(A, B, row.last).kl
        wide = intervals.mean(kl[:, row.first - 1 : row.last].mean(axis=1), 0.9998)
        assert wide.low - 1e-12 <= (total - before) / (row.last - row.first + 1) <= wide.high + 1e-12
        before = total
    assert table["first"].tolist() == [1, 2, 5, 21]
    half = c.by_position(foreign, [200], np.arange(2000) % 2)
    assert half.kl[0] == pytest.approx(kl.mean())
    for bad in ([], [3, 3], [0, 5], [5, 201]):
        with pytest.raises(ParameterError, match="rise"):
            c.by_position(foreign, bad)


def test_by_adaptor_pairs_each_text_with_itself_and_puts_ancestral_into_every_family(per_text):
    table = c.by_adaptor(per_text)
    assert set(table.family) == {"temperature", "top_k"}
    temperature = table[(table.family == "temperature") & (table.source == "A") & (table.scorer == "B")]
    assert temperature[temperature.quantity == "kl"].parameter.tolist() == [0.5, 1.0, 2.0]
    assert table[(table.family == "top_k") & (table.quantity == "kl")].parameter.unique().tolist() == [2, np.inf]
    cold = temperature[(temperature.parameter == 0.5)].set_index("quantity")
    here = per_text[(per_text.source == "A") & (per_text.sampler == "cold")]
    kl = {scorer: part.kl.to_numpy() for scorer, part in here.groupby("scorer")}
    expected = c.stratified_mean(kl["B"] - kl["A"], here.prompt[here.scorer == "B"].to_numpy())
    assert tuple(cold.loc["excess", ["estimate", "low", "high"]]) == pytest.approx(expected)
    own = table[(table.source == table.scorer) & (table.quantity == "excess")]
    assert (own.estimate == 0).all() and table.estimate.notna().all()
    assert set(table[(table.family == "top_k") & (table.quantity == "kl_same")].parameter) == {np.inf}
    with pytest.raises(ParameterError, match="no sampler of the table has an adaptor of one step"):
        c.by_adaptor(per_text[per_text.sampler == "ancestral"])
    with pytest.raises(ParameterError, match="unknown quantity 'cl'"):
        c.by_adaptor(per_text, ["cl"])


def test_the_divergence_against_temperature_is_the_exact_one():
    """400 texts at each of three temperatures: exact kl, both adapted and not, inside 99.9%."""
    for tau in (0.5, 2.0):
        adaptor = aep.temperature(tau)
        records = drawn_pair(A, B, texts=400, tokens=30, seed=45, adaptor=adaptor)
        found = pair_columns(records, adaptor)
        exact = {"kl": expected_pair(A, B, 30, adaptor=adaptor).kl}
        exact["kl_same"] = expected_pair(adapted(A, adaptor), adapted(B, adaptor), 30).kl
        for name, value in exact.items():
            wide = intervals.mean(found[name], 0.9998)
            assert wide.low <= value <= wide.high, (tau, name)


# -------------------------------------------------------------------------------------------------------------- figures


@pytest.fixture
def ax():
    plotting.use_style()
    figure, axes = plotting.figure()
    yield axes
    figure.canvas.draw()
    for text in (axes.get_xlabel(), axes.get_ylabel()):
        assert ("(" in text and ")" in text) or text in ("", "scorer $B$", "source $A$")
    plotting.plt.close(figure)


@pytest.fixture(scope="module")
def tables(pairs, per_text):
    return {
        "matrix": c.matrix(per_text[per_text.sampler == "ancestral"]),
        "running": c.running(pairs["A", "ancestral", "B"], 0),
        "rate": {"A under B": c.convergence(pairs["A", "ancestral", "B"], [5, 10, 40])},
        "position": {"A under B": c.by_position(pairs["A", "ancestral", "B"], [5, 10, 40])},
        "colours": plotting.colours(["A", "B"]),
    }


def test_a_histogram_has_the_shares_and_two_rows_of_marks(ax, per_text):
    table, beside = c.histogram(per_text), c.beside_report(per_text)
    draw.plot_histogram(ax, table, beside)
    assert ax.patches[0].get_data().values.tolist() == table.share.tolist()
    assert [t.get_text() for t in ax.texts] == [f"ours, {len(per_text) // 2}", "report, 444"]
    assert "bits" in ax.get_xlabel()


def test_a_matrix_has_a_number_and_a_half_width_in_every_cell(ax, tables):
    draw.plot_matrix(ax, tables["matrix"], "kl")
    texts = [t.get_text() for t in ax.texts]
    row = tables["matrix"].set_index(["source", "scorer", "quantity"]).loc[("A", "B", "kl")]
    assert texts[0] == "0" == texts[-1] and texts[1:3] == [f"{row.estimate:.2f}", f"±{row.high - row.estimate:.2f}"]
    with pytest.raises(ParameterError, match="one sampler"):
        draw.plot_matrix(ax, pd.concat([tables["matrix"]] * 2), "kl")


def test_running_curves_and_bands_are_drawn(ax, tables):
    draw.plot_running_pair(ax, tables["running"], "C0")
    drawn = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(drawn["log-perplexity $l_B$"].get_ydata(), tables["running"].l_B)
    np.testing.assert_array_equal(drawn["cross-entropy $h_{(A,B)}$"].get_ydata(), tables["running"].h_AB)
    assert len(ax.collections) == 2 and ax.get_xscale() == "log"


def test_a_foreign_text_is_drawn_against_the_band_of_the_scorer(ax, tables):
    draw.plot_foreign_band(ax, tables["running"], "C1")
    drawn = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(drawn["entropy of the scorer $h_B$"].get_ydata(), tables["running"].h_B)
    assert ax.get_ylim()[0] <= tables["running"].l_B[4:].min() and tables["running"].l_B[4:].max() <= ax.get_ylim()[1]


@pytest.mark.parametrize(("window", "label"), [(1, "per token (nats)"), (8, "mean over 8 tokens (nats)")])
def test_a_profile_says_over_how_many_tokens_it_is_smoothed(ax, pairs, window, label):
    draw.plot_profile(ax, c.profile(pairs["A", "cold", "B"], 0, window), "C0", "C1")
    assert ax.get_ylabel() == label and len(ax.lines) == 4


@pytest.mark.parametrize("against", ["h_AB", "h_B"])
def test_a_scatter_has_every_text_and_the_diagonal(ax, per_text, tables, against):
    part = per_text[per_text.sampler == "ancestral"]
    draw.plot_scatter(ax, part, against, tables["colours"])
    assert sum(len(line.get_xdata()) for line in ax.lines) == len(part) + 2
    assert list(ax.get_legend_handles_labels()[1]) == ["A", "B"]
    with pytest.raises(ParameterError, match="h_AB or h_B"):
        draw.plot_scatter(ax, part, "kl", tables["colours"])


def test_the_rate_is_drawn_with_its_prediction_and_its_control(ax, tables):
    draw.plot_rate(ax, tables["rate"], {"A under B": "C0"})
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "A under B" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_the_divergence_by_position_is_drawn(ax, tables):
    draw.plot_by_position(ax, tables["position"], {"A under B": "C0"})
    assert ax.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("family", "quantity"), [("temperature", "kl"), ("temperature", "kl_same"), ("top_k", "excess")]
)
def test_a_quantity_is_drawn_against_the_parameter_of_a_family(ax, per_text, tables, family, quantity):
    table = c.by_adaptor(per_text)
    draw.plot_adaptor(ax, table, family, quantity, tables["colours"])
    if family == "top_k":
        assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "all"]
    with pytest.raises(ParameterError, match="no 'kl' of family 'eta'"):
        draw.plot_adaptor(ax, table, "eta", "kl", tables["colours"])


# ------------------------------------------------------------------------------------------------------------- networks


def test_networks_follow_the_cross_entropy_and_leave_the_entropy_of_the_scorer():
    """8 texts of 64 tokens. A correct build misses the first line with a chance of about 1e-3."""
    found = pair_records(Shelf(["docs-100k", "docs-400k"]), None, texts=8, tokens=64, seed=46)
    table = found.per_text()
    foreign = table[(table.source == "docs-100k") & (table.scorer == "docs-400k")]
    assert abs(foreign.z_pair.sum()) / np.sqrt(8) < 3.3
    assert (foreign.z_B > 2).all() and foreign.kl.min() > 0.5
    beside = c.beside_report(table)
    assert beside.comparisons[0] == 16
