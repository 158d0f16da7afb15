"""Windows against matched held-out windows: exact nulls, the false discovery rate by simulation, spans by brute force.

Seeds were fixed before the first run; a correct build misses a simulated bound with probability of about .001.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import aep
from aep.analysis.detection import window_scores
from aep.analysis.memorization import false_discovery_proportion, found_spans, least_tokens, span_errors, window_audit
from aep.errors import ParameterError
from aep.languages import MarkovChain
from aep.records import Records

TEXTS, HELD, TOKENS, SIZE = 30, 150, 60, 10


def simulated(rng, texts, planted=(), tokens=TOKENS, ease=0.4) -> Records:
    """Human text: easier than the model expects by `ease` nats a token, its spread larger in the first third of a text.

    `planted` are (text, start, stop) whose tokens are 2 nats easier still.
    """
    spread = np.where(np.arange(tokens) < tokens // 3, 2.5, 1.0)
    a = 3 - ease + spread * rng.normal(size=(texts, tokens))
    for text, start, stop in planted:
        a[text, start:stop] -= 2.0 * spread[start:stop]
    flat = {"text": np.repeat(np.arange(texts), tokens), "position": np.tile(np.arange(tokens), texts)}
    flat |= {"surprisal": a.ravel(), "entropy": np.full(a.size, 3.0), "varentropy": np.ones(a.size)}
    return Records(flat)


def planted_spans(rng, texts=TEXTS) -> list[tuple[int, int, int]]:
    starts = rng.integers(0, TOKENS - 2 * SIZE, size=texts // 2)
    return [(text, int(start), int(start) + 2 * SIZE) for text, start in enumerate(starts)]


def frame(spans) -> pd.DataFrame:
    return pd.DataFrame(spans, columns=["text", "start", "stop"])


def test_p_values_of_unseen_windows_are_uniform_at_every_position_whatever_z_is():
    rng = np.random.default_rng(0)
    found = window_audit(simulated(rng, 2000), simulated(rng, 999), SIZE)
    assert (found.null == 999).all()
    for _, part in found.groupby("start"):  # they share the null sample, as two samples of 2000 and 999 do
        distance = stats.kstest(part.p, "uniform").statistic
        assert stats.kstwo.sf(distance, 2000 * 999 // 2999) > 0.001 / 6
    # The naive null: z against N(0,1) calls the ease of the text memorisation.
    assert np.mean(stats.norm.cdf(found.z) < 0.05) > 0.3
    # A null that is not matched: the first windows spread more than others.
    pooled = window_audit(simulated(rng, 2000), simulated(rng, 999), SIZE, match="any", rng=rng)
    assert stats.kstest(pooled.p[pooled.start == 0], "uniform").pvalue < 1e-4


def test_p_and_e_of_a_window_are_those_of_the_windows_at_its_place():
    rng = np.random.default_rng(1)
    here, there = simulated(rng, 3), simulated(rng, 7)
    found = window_audit(here, there, SIZE, step=5, procedure="e-bh", score="loss")
    own, other = (window_scores(x, SIZE, 5, which="loss") for x in (here, there))
    for row, value in zip(found.itertuples(), own.loss, strict=True):
        p = (1 + sum(other.loss[other.start == row.start] <= value)) / 8
        assert row.p == pytest.approx(p) and row.null == 7
        assert row.e == pytest.approx(8 / round(8 * p) / sum(1 / j for j in range(1, 9)))


@pytest.mark.parametrize(("procedure", "step"), [("bh", SIZE), ("e-bh", 5)])
def test_the_false_discovery_rate_keeps_its_level_and_planted_spans_are_found(procedure, step):
    rng, alpha, repeats = np.random.default_rng(2), 0.2, 40
    rates, recall = [], []
    for _ in range(repeats):
        planted = planted_spans(rng)
        options = {"step": step, "procedure": procedure, "alpha": alpha, "level": 0.03}
        found = window_audit(simulated(rng, TEXTS, planted), simulated(rng, HELD), SIZE, **options)
        rates.append(false_discovery_proportion(found, frame(planted)))
        recall.append(span_errors(found_spans(found), frame(planted)).spans_found)
    assert np.mean(rates) <= alpha + 3.1 * np.std(rates, ddof=1) / np.sqrt(repeats)
    assert np.mean(recall) > 0.5


def test_where_nothing_is_planted_nothing_is_found_at_the_level():
    rng, alpha, hits = np.random.default_rng(3), 0.2, 0
    for _ in range(60):
        hits += window_audit(simulated(rng, 10), simulated(rng, 100), SIZE, alpha=alpha).found.any()
    assert stats.binomtest(hits, 60, alpha, alternative="greater").pvalue > 0.001
    # Negative control: held-out texts that are harder than the audited ones are not matched.
    hits = sum(window_audit(simulated(rng, 10), simulated(rng, 100, ease=-0.6), SIZE).found.any() for _ in range(20))
    assert hits > 15


def test_one_window_of_each_held_out_text_is_drawn_where_position_does_not_matter():
    rng = np.random.default_rng(4)
    here, there = simulated(rng, 5), simulated(rng, 40, tokens=50)
    found = window_audit(here, there, SIZE, match="any", rng=np.random.default_rng(0))
    assert (found.null == 40).all() and len(found) == 30
    again = window_audit(here, there, SIZE, match="any", rng=np.random.default_rng(0))
    pd.testing.assert_frame_equal(found, again)
    with pytest.raises(ParameterError, match=r"give rng=np\.random\.default_rng"):
        window_audit(here, there, SIZE, match="any")


def test_held_out_texts_without_the_context_of_the_audited_ones_are_refused():
    rng = np.random.default_rng(5)
    long, short = simulated(rng, 5), simulated(rng, 20, tokens=49)
    with pytest.raises(
        ParameterError, match="held-out text 0 has 49 scored tokens: match='any' with windows of 10 needs 50"
    ):
        window_audit(long, short, SIZE, match="any", rng=rng)
    window_audit(simulated(rng, 5, tokens=49), short, SIZE, match="any", rng=rng)  # of one length: nothing to miss
    assert (least_tokens(32, 2000), least_tokens(32, 100)) == (160, 100)


def test_a_chain_that_has_learnt_a_phrase_gives_it_away():
    """Texts of one chain, scored by one that goes round a cycle more often; planted are stretches of the cycle."""
    chain = MarkovChain(np.full((4, 4), 0.1) + 0.6 * np.eye(4)[[1, 2, 3, 0]], name="learnt")
    texts = aep.sample(MarkovChain(np.full((4, 4), 0.25)), None, texts=120, tokens=60, seed=0)
    planted = [(i, 20, 40) for i in range(10)]
    for text, start, stop in planted:
        texts.ids[text][start:stop] = np.arange(stop - start) % 4
    records = aep.score(texts, chain)
    found = window_audit(records.select(range(20)), records.select(range(20, 120)), 10, alpha=0.1)
    errors = span_errors(found_spans(found), frame(planted))
    assert errors.spans_found == 1 and errors.recall > 0.9 and errors.precision > 0.8


# ---------------------------------------------------------------------------------------------------------------- spans


def windows(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["text", "start", "stop", "fdr", "found"])


def test_windows_that_overlap_or_touch_are_one_span():
    table = windows(
        (0, 0, 10, 0.04, True),
        (0, 5, 15, 0.01, True),
        (0, 15, 25, 0.09, True),
        (0, 26, 36, 0.05, True),
        (0, 40, 50, 0.9, False),
        (1, 30, 40, 0.02, True),
        (2, 0, 10, 0.5, False),
    )
    found = found_spans(table.sample(frac=1, random_state=0))
    assert found.to_dict("list") == {
        "text": [0, 0, 1],
        "start": [0, 26, 30],
        "stop": [25, 36, 40],
        "windows": [3, 1, 1],
        "fdr": [0.01, 0.05, 0.02],
    }
    assert len(found_spans(table[~table.found])) == 0


def test_span_errors_are_those_of_sets_of_tokens():
    rng = np.random.default_rng(6)

    def spans():
        rows = []
        for text in range(4):
            cuts = np.sort(rng.choice(40, size=6, replace=False))
            rows += [(text, int(cuts[i]), int(cuts[i + 1])) for i in (0, 2, 4) if rng.uniform() < 0.6]
        return rows or [(0, 1, 2)]

    def tokens(rows):
        return {(text, i) for text, start, stop in rows for i in range(start, stop)}

    for _ in range(20):
        here, there = spans(), spans()
        found = span_errors(frame(here), frame(there))
        both = tokens(here) & tokens(there)
        hits = [
            np.mean([bool(tokens([x]) & tokens(other)) for x in rows]) for rows, other in ((here, there), (there, here))
        ]
        wanted = (len(both) / len(tokens(here)), len(both) / len(tokens(there)), 1 - hits[0], hits[1])
        np.testing.assert_allclose(found, wanted)
        table = frame(here).assign(found=True)
        assert false_discovery_proportion(table, frame(there)) == pytest.approx(1 - hits[0])


def test_nothing_found_has_no_precision_and_no_false_discovery():
    table = windows((0, 0, 10, 0.5, False))
    errors = span_errors(found_spans(table), frame([(0, 3, 5)]))
    assert np.isnan(errors.precision) and errors[1:] == (0.0, 0.0, 0.0)
    assert false_discovery_proportion(table, frame([(0, 3, 5)])) == 0.0


def test_what_is_refused_is_named():
    rng = np.random.default_rng(7)
    here, there = simulated(rng, 3), simulated(rng, 60, tokens=30)
    for options, message in (
        ({"step": 5}, r"step=5 with windows of 10: overlapping windows need procedure='e-bh'"),
        ({"match": "positions"}, "unknown match 'positions': did you mean 'position'"),
        ({"procedure": "ebh"}, "unknown procedure 'ebh': did you mean 'e-bh'"),
        ({"score": "zz"}, "unknown score 'zz'"),
        ({}, "no held-out text reaches the window at position 30"),
        ({"alpha": 1.0}, None),
    ):
        with pytest.raises(ParameterError, match=message):
            window_audit(here, simulated(rng, 60) if "alpha" in options else there, SIZE, **options)
    with pytest.raises(ParameterError, match="text 0 has 30 scored tokens, fewer than a window of 31"):
        window_audit(here, there, 31)
    broken = Records(here.columns | {"surprisal": np.full(len(here), np.nan)})
    with pytest.raises(ParameterError, match="values hold NaN"):
        window_audit(broken, simulated(rng, 60), SIZE)
    with pytest.raises(ParameterError, match="no span was planted"):
        span_errors(frame([]), frame([]))
    with pytest.raises(ParameterError, match="a span is empty"):
        span_errors(frame([(0, 1, 2)]), frame([(0, 4, 4)]))
