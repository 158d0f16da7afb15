"""Sizes of typical sets against literal counts of strings, for raw p and for samplers; what is refused; the panel.

Seeds were fixed before the first run.
"""

import itertools
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import aep
from aep import plotting
from aep.adaptors import Adaptor, parse
from aep.analysis.set_sizes import is_believed, resampled_set_size, set_sizes
from aep.errors import ContextTooLong, ParameterError
from aep.languages import FiniteLanguage, MarkovChain
from aep.plotting import planning as draw
from exact_paths import P

CHAIN = MarkovChain(P)
SAMPLERS = ("ancestral()", "temperature(0.7)", "temperature(1.5)", "top_k(2)", "temperature(0.7)|top_k(2)")
TWO = MarkovChain([[0.95, 0.05], [0.4, 0.6]])


def count(adaptor: Adaptor, tokens: int, epsilon: float) -> int:
    """Strings with q(x) > 0 and |l - h| <= ε under q, one after the other."""
    laws = [np.exp(adaptor(log_p)) for log_p in (CHAIN.log_initial, *CHAIN.log_transition)]
    entropies = [-sum(q * math.log(q) for q in law if q > 0) for law in laws]
    inside = 0
    for x in itertools.product(range(3), repeat=tokens):
        before = [0, *(v + 1 for v in x[:-1])]
        q = [laws[b][v] for b, v in zip(before, x, strict=True)]
        if min(q) > 0:
            inside += abs(sum(-math.log(v) - entropies[b] for b, v in zip(before, q, strict=True))) <= tokens * epsilon
    return inside


def exact_log_size(tokens: int, epsilon: float) -> float:
    """log|A|/T of the chain of two symbols, by counting the strings of every number of transitions."""
    states = Counter({(0, (0, 0, 0, 0)): 1, (1, (0, 0, 0, 0)): 1})  # last symbol, transitions 00, 01, 10, 11
    for _ in range(tokens - 1):
        after: Counter = Counter()
        for (last, moves), strings in states.items():
            for v in (0, 1):
                after[v, tuple(n + (k == 2 * last + v) for k, n in enumerate(moves))] += strings
        states = after
    rows, first = TWO.row_entropy(), -np.log(TWO.initial) - FiniteLanguage(TWO.initial).entropy()
    deviation = (-TWO.log_transition - rows[:, None]).ravel()
    inside = 0
    for (last, moves), strings in states.items():
        start = last if moves[1] == moves[2] else 1 - last  # as many moves 0 -> 1 as 1 -> 0: it ends where it began
        inside += strings * bool(abs(first[start] + np.dot(moves, deviation)) <= tokens * epsilon)
    return math.log(inside) / tokens


def scored(language, adaptor: Adaptor, texts: int, tokens: int, seed: int):
    drawn = aep.sample(language, texts=texts, tokens=tokens, seed=seed, adaptor=adaptor, batch=texts)
    return drawn, aep.score(drawn, language, source=language, adaptor=adaptor, chunk=4096)


def sized(records, *, at, epsilon, seed=0, language=CHAIN):
    table = set_sizes(
        records, language.name, language.vocab_size, at=at, epsilon=epsilon, rng=np.random.default_rng(seed)
    )
    return table.set_index("tokens")


# ------------------------------------------------------------------------------------------------------ against counting


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_both_ways_count_the_typical_strings_of_the_sampler(sampler):
    """1,500 texts; T = 4 and 8. The relative error of |A| is a few percent, so .03 nats per token is more than four σ."""
    adaptor = parse(sampler)
    _, records = scored(CHAIN, adaptor, 1500, 8, seed=801)
    table = sized(records, at=[4, 8], epsilon=0.15)
    other = resampled_set_size(CHAIN, at=[4, 8], epsilon=0.15, seed=802, adaptor=adaptor, texts=150, runs=10).set_index(
        "tokens"
    )
    assert (table.sampler == sampler).all() and (other.sampler == sampler).all()
    for t in (4, 8):
        exact = math.log(count(adaptor, t, 0.15)) / t
        for row in (table.loc[t], other.loc[t]):
            assert row.log_size == pytest.approx(exact, abs=0.03)
            assert row.low - 0.01 <= exact <= row.high + 0.01
            assert row.share_of_strings == pytest.approx(row.log_size / math.log(3))
    if sampler != "ancestral()":  # negative control: it is not the set of raw p
        raw, own = (math.log(count(a, 8, 0.15)) / 8 for a in (parse("ancestral()"), adaptor))
        assert abs(raw - own) > 0.03 or sampler == "temperature(1.5)"


def test_a_truncated_sampler_counts_only_strings_it_can_write():
    adaptor = parse("top_k(2)")
    drawn, records = scored(CHAIN, adaptor, 800, 8, seed=803)
    table = sized(records, at=[8], epsilon=50.0)
    reachable = count(adaptor, 8, 50.0)
    assert reachable < 3**8 and table.inside[8] == 800
    assert table.log_size[8] == pytest.approx(math.log(reachable) / 8, abs=0.02)
    np.testing.assert_allclose([-q.sum() for q in drawn.log_q], records.matrix("source_surprisal").sum(1), atol=1e-9)


def test_columns_are_their_definitions():
    _, records = scored(CHAIN, parse("temperature(0.7)"), 200, 12, seed=804)
    row = sized(records, at=[5, 12], epsilon=0.2).loc[5]
    a, h = (records.matrix(f"source_{n}")[:, :5] for n in ("surprisal", "entropy"))
    assert row.h == pytest.approx(h.mean()) and row.l == pytest.approx(a.mean())
    assert row.h_low < row.h < row.h_high
    inside = abs(a.mean(1) - h.mean(1)) <= 0.2
    assert row.inside == inside.sum() and row.texts == 200
    assert row.log_size == pytest.approx(np.log(np.sum(np.exp(a.sum(1)) * inside) / 200) / 5)
    assert row.log_vocabulary == pytest.approx(math.log(3))


def test_a_plain_record_of_ancestral_text_gives_the_same_as_a_pair_record():
    drawn, pair = scored(CHAIN, parse("ancestral()"), 100, 6, seed=805)
    plain = aep.score(drawn, CHAIN)
    one, other = (sized(r, at=[6], epsilon=0.2) for r in (plain, pair))
    assert one.log_size[6] == pytest.approx(other.log_size[6], abs=1e-12)


# -------------------------------------------------------------------------------------------- long texts, heavy weights


def test_on_long_texts_own_texts_give_a_lower_limit_and_resampling_the_size():
    """Two symbols, T = 60, ε = .1: exact count by transitions. Most typical strings lie on paths of high entropy."""
    exact = exact_log_size(60, 0.1)
    records = aep.score(aep.sample(TWO, texts=300, tokens=60, seed=806, batch=300), TWO)
    own = sized(records, at=[60], epsilon=0.1, language=TWO).loc[60]
    assert own.h_high < exact - 0.1  # the entropy is no stand-in for the size
    assert own.effective < 10 and own.interval == "one-sided"
    assert own.low <= exact <= own.high
    assert own.log_size < exact - 0.02  # the estimate alone is too low
    other = resampled_set_size(TWO, at=[60], epsilon=0.1, seed=807, texts=100, runs=10).iloc[0]
    assert other.low <= exact <= other.high
    assert other.log_size == pytest.approx(exact, abs=0.01)


def test_the_exact_count_by_transitions_is_that_of_all_strings():
    for t in (3, 9):
        rows, inside = TWO.row_entropy(), 0
        for x in itertools.product((0, 1), repeat=t):
            gap = -np.log(TWO.initial[x[0]]) - FiniteLanguage(TWO.initial).entropy()
            gap += sum(-TWO.log_transition[a, b] - rows[a] for a, b in itertools.pairwise(x))
            inside += abs(gap) <= t * 0.3
        assert exact_log_size(t, 0.3) == pytest.approx(math.log(inside) / t)


def test_the_lower_limit_of_heavy_weights_holds_nearly_always():
    """100 samples of 100 texts, T = 40, few effective: the limit misses with probability .025; the estimate is low."""
    exact, rng = exact_log_size(40, 0.1), np.random.default_rng(808)
    records = aep.score(aep.sample(TWO, texts=10_000, tokens=40, seed=809, batch=10_000), TWO, chunk=4096)
    wrong, unbelieved, short = 0, 0, 0
    for k in range(100):
        part = records.select(range(100 * k, 100 * k + 100))
        row = set_sizes(part, "two", 2, at=[40], epsilon=0.1, rng=rng).iloc[0]
        wrong += row.low > exact
        unbelieved += row.interval == "one-sided"
        short += row.log_size < exact
    assert unbelieved > 75
    assert stats.binomtest(wrong, 100, 0.025, alternative="greater").pvalue > 0.001
    assert stats.binomtest(short, 100, 0.5, alternative="greater").pvalue < 0.001  # why it is only a lower limit


def test_the_interval_of_the_resampled_size_covers_it_nearly_as_often_as_it_says():
    """40 intervals of 95%; at a coverage of 90% rejected with probability .001. Half the count must be seen to be wrong."""
    exact, hits, half = exact_log_size(30, 0.1), 0, 0
    for k in range(40):
        row = resampled_set_size(TWO, at=[30], epsilon=0.1, seed=820 + k, texts=60, runs=10).iloc[0]
        hits += row.low <= exact <= row.high
        half += row.low <= exact - math.log(2) / 30 <= row.high
    assert stats.binomtest(hits, 40, 0.9, alternative="less").pvalue > 0.001
    assert half < 30


def test_a_uniform_law_is_counted_exactly():
    language = FiniteLanguage([0.25] * 4)
    records = aep.score(aep.sample(language, texts=60, tokens=50, seed=810), language)
    row = set_sizes(records, "uniform", 4, at=[50], epsilon=0.01, rng=np.random.default_rng(1)).iloc[0]
    assert row.log_size == pytest.approx(math.log(4)) and row.interval == "bootstrap"
    assert row.low == pytest.approx(row.high) and row.share_of_strings == pytest.approx(1)
    other = resampled_set_size(language, at=[50], epsilon=0.01, seed=1, texts=20).iloc[0]
    assert other.log_size == pytest.approx(math.log(4)) and other.spread < 1e-9


def test_the_same_seed_gives_the_same_size_and_another_one_another():
    one, same, other = (
        resampled_set_size(TWO, [0, 1], at=[10, 20], epsilon=0.1, seed=s, texts=20, runs=5) for s in (1, 1, 2)
    )
    assert one.equals(same) and not one.log_size.equals(other.log_size)
    assert one.tokens.tolist() == [10, 20]


def test_an_interval_is_believed_only_with_enough_weights_of_light_tails():
    assert is_believed(5000, 100, 0.69) and not is_believed(5000, 100, 0.71)
    assert is_believed(100, 10, 0.49) and not is_believed(100, 10, 0.51)  # 1 - 1/log10(100)
    assert not is_believed(24, 24, 0.0) and not is_believed(100, 9.9, 0.0)
    assert is_believed(100, 50, float("nan"))  # ties: no tail


def test_an_empty_set_is_said_to_be_unknown():
    language = FiniteLanguage([0.9, 0.1])  # at T = 1 both |a - H| are larger
    row = resampled_set_size(language, at=[1], epsilon=0.01, seed=1, texts=20).iloc[0]
    assert row.interval == "none" and row.inside == 0 and np.isinf(row.high) and row.low == 0
    records = aep.score(aep.sample(language, texts=60, tokens=1, seed=1), language)
    own = set_sizes(records, "two", 2, at=[1], epsilon=0.01, rng=np.random.default_rng(1)).iloc[0]
    assert np.isnan(own.log_size) and own.inside == 0 and own.low == 0 and own.high == math.log(2)


def test_resampling_follows_a_network_and_agrees_with_its_own_texts_where_these_suffice():
    """docs-100k with the 20 most probable tokens, T = 3: 300 texts each way, intervals overlap."""
    language, adaptor = aep.load("docs-100k"), aep.top_k(20)
    drawn = aep.sample(language, "The function", texts=300, tokens=3, seed=811, adaptor=adaptor, batch=300)
    records = aep.score(drawn, language, source=language, adaptor=adaptor)
    own = sized(records, at=[3], epsilon=0.5, language=language).loc[3]
    other = resampled_set_size(
        language, "The function", at=[3, 8], epsilon=0.5, seed=812, adaptor=adaptor, texts=40, runs=5
    ).set_index("tokens")
    assert own.interval == "bootstrap"
    assert other.low[3] <= own.high and own.low <= other.high[3]
    assert other.log_size[8] < math.log(20) < own.log_vocabulary


# ------------------------------------------------------------------------------------------------------- what is refused


def test_texts_of_a_sampler_scored_under_another_law_are_refused():
    drawn, _ = scored(CHAIN, parse("top_k(2)"), 60, 6, seed=813)
    with pytest.warns(UserWarning, match="drew these texts with top_k"):
        claimed = aep.score(drawn, CHAIN, source=CHAIN, adaptor="ancestral()")
    for record in (aep.score(drawn, CHAIN), claimed):
        with pytest.raises(
            ParameterError, match=r"texts of markov\(3\) with top_k\(2\), scored under .* with ancestral"
        ):
            sized(record, at=[6], epsilon=0.1)
    other = MarkovChain(P[::-1])
    with pytest.raises(ParameterError, match="scored under"):
        sized(aep.score(aep.sample(CHAIN, texts=60, tokens=6, seed=1), other), at=[6], epsilon=0.1)


def test_lengths_and_tolerances_that_make_no_sense_are_refused():
    _, records = scored(CHAIN, parse("ancestral()"), 60, 6, seed=814)
    for at in ([7], [0, 3], []):
        with pytest.raises(ParameterError, match=r"lengths from 1 to 6, the length of the texts are needed"):
            sized(records, at=at, epsilon=0.1)
    with pytest.raises(ParameterError, match="epsilon=0"):
        sized(records, at=[6], epsilon=0)
    with pytest.raises(ParameterError, match=r"runs=2, texts=100: at least 5 runs of 2 texts"):
        resampled_set_size(CHAIN, at=[6], epsilon=0.1, seed=1, runs=2)
    with pytest.raises(ContextTooLong, match="docs-100k has a context of"):
        resampled_set_size(aep.load("docs-100k"), at=[10**6], epsilon=0.1, seed=1)


# ---------------------------------------------------------------------------------------------------------------- drawing


def test_the_panel_of_set_sizes_shows_every_row_beside_the_vocabulary():
    plotting.use_style()
    parts = []
    for sampler in ("ancestral()", "top_k(2)"):
        _, records = scored(CHAIN, parse(sampler), 100, 6, seed=815)
        parts.append(sized(records, at=[6], epsilon=0.2).reset_index())
    table = pd.concat(parts)
    figure, ax = plotting.figure()
    draw.plot_set_sizes(ax, table, plotting.colours(table.model))
    assert [label.get_text() for label in ax.get_yticklabels()][:1] == ["ancestral()"]
    assert ax.get_xlim()[1] >= math.log(3)
    plotting.plt.close(figure)
