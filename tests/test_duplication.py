"""Curves against repetition: against scipy and brute force, and the tests of a fall by simulation.

Seeds were fixed before the first run; a correct build misses a simulated bound with probability of about .001.
"""

import numpy as np
import pytest
from scipy import stats

from aep.analysis.duplication import auroc_curve
from aep.analysis.roc import auroc, delong
from aep.errors import ParameterError
from aep.intervals import mann_whitney

COUNTS = (0, 1, 2, 4, 8)


def drawn(rng, gain=0.5, texts=60) -> tuple[np.ndarray, np.ndarray]:
    """Scores that rise by `gain` per doubling."""
    counts = np.repeat(COUNTS, texts)
    return gain * np.log2(1 + counts) + rng.normal(size=len(counts)), rng.permutation(counts) if gain == 0 else counts


def test_auroc_of_a_count_is_against_the_unseen_texts():
    values, counts = drawn(np.random.default_rng(1))
    table = auroc_curve(values, counts)
    unseen = values[counts == 0]
    np.testing.assert_allclose(table.auroc, [auroc(values[counts == c], unseen) for c in COUNTS[1:]])
    np.testing.assert_allclose(table.step[1:], np.diff(table.auroc))
    assert ((table.low < table.auroc) & (table.auroc < table.high)).all() and np.isnan(table.step[0])


def test_the_error_of_a_step_is_that_of_resampled_texts():
    rng = np.random.default_rng(2)
    values, counts = drawn(rng)
    table = auroc_curve(values, counts)
    parts = {c: values[counts == c] for c in (0, 2, 4)}
    copies = []
    for _ in range(600):
        again = {c: rng.choice(x, len(x)) for c, x in parts.items()}
        copies.append(auroc(again[4], again[0]) - auroc(again[2], again[0]))
    row = table.set_index("count").loc[4]
    assert np.std(copies) == pytest.approx((row.step_high - row.step_low) / 2 / stats.norm.isf(0.025), rel=0.12)


def test_a_step_of_paired_scores_is_delongs_where_the_seen_texts_are_the_same():
    rng = np.random.default_rng(3)
    unseen, seen = rng.normal(size=80), rng.normal(1, 1, 60)
    values, counts = np.concatenate([unseen, seen, seen]), np.repeat([0, 1, 2], [80, 60, 60])
    assert auroc_curve(values, counts).step[1] == 0
    label = np.arange(140) < 60
    x = np.concatenate([seen, unseen])
    assert delong(x, x, label).difference == 0


def test_intervals_of_auroc_cover_and_do_not_leave_zero_and_one():
    rng, hits, area = np.random.default_rng(4), 0, stats.norm.cdf(2 / 2**0.5)
    for _ in range(300):
        values = np.concatenate([rng.normal(size=50), rng.normal(2, 1, 50)])
        row = auroc_curve(values, np.repeat([0, 1], 50)).iloc[0]
        hits += row.low <= area <= row.high
        assert 0 <= row.low < row.high <= 1
    assert stats.binomtest(hits, 300, 0.93, alternative="less").pvalue > 0.001
    apart = auroc_curve(np.repeat([0.0, 1.0], 50), np.repeat([0, 4], 50)).iloc[0]
    assert apart.auroc == apart.high == 1 and apart.low == mann_whitney(1.0, 50, 50).low
    nearly = auroc_curve(np.repeat([0.0, 1.5, 1.0, 2.0], [49, 1, 1, 49]), np.repeat([0, 4], 50)).iloc[0]
    assert nearly.auroc == 1 - 1 / 2500 and nearly.low < apart.low < nearly.low + 0.002


def test_no_fall_is_found_where_scores_rise_or_stay_and_one_where_they_fall():
    rng, alarms = np.random.default_rng(5), np.zeros(2)
    for _ in range(150):
        values, counts = drawn(rng, gain=0.0)
        alarms[0] += (auroc_curve(values, counts).fall_p_holm <= 0.05).any()
        fall = np.array([stats.norm.rvs(size=60, random_state=rng) for _ in COUNTS]).ravel()
        alarms[1] += (auroc_curve(fall + 1.5 * (counts == 2), counts).fall_p_holm <= 0.05).any()
    assert stats.binomtest(int(alarms[0]), 150, 0.05, alternative="greater").pvalue > 0.001
    assert alarms[1] > 135


def test_curves_of_one_count_or_with_nan_are_refused():
    values, counts = drawn(np.random.default_rng(7))
    with pytest.raises(ParameterError, match="at least two different ones"):
        auroc_curve(values, np.ones(len(values), int))
    with pytest.raises(ParameterError, match="is NaN"):
        auroc_curve(np.append(values[:-1], np.nan), counts)
    with pytest.raises(ParameterError, match="no text has count 0"):
        auroc_curve(values, counts + 1)
