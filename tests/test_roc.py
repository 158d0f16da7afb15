"""ROC, AUROC and TPR at a fixed FPR against brute force and scikit-learn; intervals and paired tests by simulation.

Seeds were fixed before the first run; a correct build misses a simulated bound with probability of about .001.
"""

import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from aep.analysis.hypotheses import holm
from aep.analysis.roc import auroc, compare, components, delong, paired_tests, roc, tpr_at
from aep.errors import ParameterError
from aep.intervals import mann_whitney

CASES = {
    "continuous": lambda rng: (rng.normal(1, 1, 40), rng.normal(size=55)),
    "ties": lambda rng: (rng.integers(0, 4, 40).astype(float), rng.integers(0, 3, 55).astype(float)),
    "all equal": lambda rng: (np.zeros(5), np.zeros(7)),
    "apart": lambda rng: (np.arange(5) + 10.0, np.arange(7.0)),
    "infinite": lambda rng: (np.array([np.inf, np.inf, 1.0, -np.inf]), np.array([np.inf, 0.0, -np.inf])),
}


@pytest.fixture(params=CASES)
def sample(request):
    return CASES[request.param](np.random.default_rng(7))


def test_auroc_is_the_share_of_pairs_in_order_ties_one_half(sample):
    positive, negative = sample
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_tpr_is_the_best_of_all_thresholds_within_the_fpr(sample):
    positive, negative = sample
    for fpr in (0, 0.01, 0.1, 1 / 3, 0.5, 1):
        best = 0.0
        for c in [*positive, *negative]:
            if np.mean(negative >= c) <= fpr:
                best = max(best, np.mean(positive >= c))
        assert tpr_at(positive, negative, fpr) == best


def test_the_curve_is_that_of_scikit_learn(sample):
    positive, negative = sample
    values = np.concatenate([positive, negative])
    rank = np.unique(values, return_inverse=True)[1]  # scikit-learn refuses infinite scores
    label = np.arange(len(values)) < len(positive)
    fpr, tpr, _ = metrics.roc_curve(label, rank, drop_intermediate=False)
    found = roc(positive, negative)
    np.testing.assert_allclose(found.fpr, fpr)
    np.testing.assert_allclose(found.tpr, tpr)
    for c, f, t in zip(found.threshold[1:], found.fpr[1:], found.tpr[1:], strict=True):
        assert np.mean(negative >= c) == pytest.approx(f) and np.mean(positive >= c) == pytest.approx(t)
    assert auroc(positive, negative) == pytest.approx(metrics.roc_auc_score(label, rank))
    assert auroc(positive, negative) == pytest.approx(metrics.auc(found.fpr, found.tpr))


def test_components_are_the_shares_of_the_other_class(sample):
    positive, negative = sample
    seen, other = components(positive, negative)
    np.testing.assert_allclose(seen, [np.mean((p > negative) + (p == negative) / 2) for p in positive])
    np.testing.assert_allclose(other, [np.mean((n < positive) + (n == positive) / 2) for n in negative])


# ------------------------------------------------------------------------------------------------------------ intervals


def drawn(rng, n, m, shift=1.0, ties=False) -> tuple[pd.DataFrame, np.ndarray]:
    values = np.concatenate([rng.normal(shift, 1, n), rng.normal(size=m)])
    return pd.DataFrame({"x": np.round(values) if ties else values}), np.arange(n + m) < n


@pytest.mark.parametrize("ties", [False, True])
def test_resamples_of_compare_have_the_statistics_of_resampled_texts(monkeypatch, ties):
    from aep.analysis import roc as module

    table, label = drawn(np.random.default_rng(0), 60, 80, ties=ties)
    kept = {}
    statistic = module._Statistic.__call__
    monkeypatch.setattr(
        module._Statistic, "__call__", lambda self, w: kept.update(weights=w, found=statistic(self, w)) or kept["found"]
    )
    compare(table, label, rng=np.random.default_rng(1), fpr=(0.05, 0.3), resamples=40)
    for weights, (area, *rates) in zip(kept["weights"], kept["found"], strict=True):
        values = np.repeat(table.x.to_numpy(), weights)
        positive, negative = (values[np.repeat(label, weights) == side] for side in (True, False))
        assert (len(positive), len(negative)) == (60, 80)
        assert area == pytest.approx(auroc(positive, negative), abs=1e-12)
        assert rates == pytest.approx([tpr_at(positive, negative, f) for f in (0.05, 0.3)], abs=1e-12)


def test_the_interval_of_auroc_is_that_of_scipys_bootstrap():
    table, label = drawn(np.random.default_rng(3), 70, 90)
    found = compare(table, label, rng=np.random.default_rng(4), fpr=(), resamples=9999).iloc[0]
    samples = (table.x[label].to_numpy(), table.x[~label].to_numpy())
    theirs = stats.bootstrap(
        samples, lambda p, n: auroc(p, n), n_resamples=999, method="BCa", vectorized=False, rng=np.random.default_rng(5)
    ).confidence_interval
    assert found.auroc == pytest.approx(auroc(*samples))
    assert abs(found.auroc_low - theirs.low) < 0.01 and abs(found.auroc_high - theirs.high) < 0.01


def test_intervals_cover_the_exact_auroc_and_tpr():
    rng, n, repeats = np.random.default_rng(11), 100, 200
    area, rate = stats.norm.cdf(1 / 2**0.5), stats.norm.sf(stats.norm.isf(0.1) - 1)
    hits = np.zeros(2)
    for _ in range(repeats):
        row = compare(*drawn(rng, n, n), rng=rng, fpr=(0.1,), resamples=299).iloc[0]
        hits += [row.auroc_low <= area <= row.auroc_high, row["tpr_0.1_low"] <= rate <= row["tpr_0.1_high"]]
    for covered in hits.astype(int):
        assert stats.binomtest(int(covered), repeats, 0.92, alternative="less").pvalue > 0.001
    # Negative control: an interval for another AUROC does not cover this one.
    rows = [compare(*drawn(rng, n, n, shift=0.4), rng=rng, fpr=(), resamples=299).iloc[0] for _ in range(40)]
    assert np.mean([row.auroc_low <= area <= row.auroc_high for row in rows]) < 0.5


def test_intervals_over_clusters_are_wider_where_texts_of_a_cluster_are_alike():
    rng, clusters, size = np.random.default_rng(12), 60, 6
    values = np.concatenate([np.repeat(rng.normal(shift, 1, clusters), size) for shift in (1.0, 0.0)])
    table, label = pd.DataFrame({"x": values}), np.arange(len(values)) < clusters * size
    group = np.repeat(np.arange(2 * clusters), size)
    alone, together = (compare(table, label, rng=np.random.default_rng(0), cluster=c).iloc[0] for c in (None, group))
    ratio = (together.auroc_high - together.auroc_low) / (alone.auroc_high - alone.auroc_low)
    assert ratio == pytest.approx(np.sqrt(size), rel=0.15)
    one = compare(table[::size], label[::size], rng=np.random.default_rng(0), fpr=(0.05,)).iloc[0]
    assert together.auroc == pytest.approx(one.auroc) and abs(together.auroc_low - one.auroc_low) < 0.01


def test_intervals_do_not_collapse_near_zero_and_one_and_are_continuous_there():
    def row(missed):
        """Positives above all 300 negatives, but the last `missed` of 60, which are below one, two, ... of them."""
        x = np.concatenate([np.full(60 - missed, 400.0), 300.5 - np.arange(1, missed + 1), np.arange(1, 301.0)])
        return compare(pd.DataFrame({"x": x}), np.arange(360) < 60, rng=np.random.default_rng(0)).iloc[0]

    whole, exact = row(0), stats.binomtest(60, 60).proportion_ci()
    assert (whole.auroc, whole["tpr_0.01"]) == (1, 1) and whole.auroc_high == whole["tpr_0.01_high"] == 1
    assert whole["tpr_0.01_low"] == pytest.approx(exact.low) and 0.97 < whole.auroc_low < 0.99
    nearly, less = row(1), row(5)
    assert whole.auroc > nearly.auroc > less.auroc > 0.999
    assert 0 < whole.auroc_low - nearly.auroc_low < 2e-4 and less.auroc_low < nearly.auroc_low
    assert less["tpr_0.01_low"] <= stats.binomtest(58, 60).proportion_ci().low


def test_intervals_cover_near_zero_and_one():
    rng, n, m, repeats = np.random.default_rng(13), 50, 350, 100
    for area, rate in ((0.99, None), (None, 0.03), (None, 0.985)):
        shift = stats.norm.ppf(area) * 2**0.5 if area else stats.norm.isf(0.01) - stats.norm.isf(rate)
        rows = [compare(*drawn(rng, n, m, shift=shift), rng=rng, resamples=199).iloc[0] for _ in range(repeats)]
        name, truth = ("auroc", area) if area else ("tpr_0.01", rate)
        hits = sum(row[f"{name}_low"] <= truth <= row[f"{name}_high"] for row in rows)
        assert stats.binomtest(hits, repeats, 0.94, alternative="less").pvalue > 0.001


def test_the_interval_from_the_area_alone_solves_its_equation_and_mirrors():
    for area, n, m in ((0.5, 60, 60), (0.9, 50, 350), (0.9996, 50, 350)):
        found, z2 = mann_whitney(area, n, m), stats.norm.isf(0.025) ** 2
        for end in (found.low, found.high):  # Hanley & McNeil's variance, with (n + m)/2 for both sizes
            q, s = (end / (2 - end) - end**2, 2 * end**2 / (1 + end) - end**2), (n + m) / 2 - 1
            assert (end - area) ** 2 == pytest.approx(
                z2 * (end * (1 - end) + s * sum(q)) / (n * m), rel=1e-6, abs=1e-14
            )
        assert found.low < area < found.high
        assert mann_whitney(1 - area, n, m)[1:] == pytest.approx((1 - found.high, 1 - found.low))
    assert mann_whitney(0.0, 50, 50).low == 0 and 0.03 < mann_whitney(0.0, 50, 50).high < 0.05


def test_compare_is_fast_enough_for_a_notebook():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(1400, 14)), columns=[f"s{i}" for i in range(14)])
    start = time.perf_counter()
    found = compare(table, np.arange(1400) < 400, rng=rng, resamples=999)
    assert time.perf_counter() - start < 8 and list(found.auroc) == sorted(found.auroc, reverse=True)


# ---------------------------------------------------------------------------------------------------------- paired tests


def test_delong_is_its_definition_by_double_loops():
    rng = np.random.default_rng(1)
    label = np.arange(23) < 9
    one, two = rng.normal(size=23) + label, np.round(rng.normal(size=23) + label)

    def kernel(x):
        return np.array([[(p > n) + (p == n) / 2 for n in x[~label]] for p in x[label]])

    gap = kernel(one) - kernel(two)
    variance = np.var(gap.mean(axis=1), ddof=1) / 9 + np.var(gap.mean(axis=0), ddof=1) / 14
    found = delong(one, two, label)
    assert found.difference == pytest.approx(gap.mean())
    assert found.z == pytest.approx(gap.mean() / np.sqrt(variance))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.z)))
    assert (found.high - found.low) / 2 == pytest.approx(stats.norm.isf(0.025) * np.sqrt(variance))


def test_delong_agrees_with_the_paired_bootstrap():
    rng = np.random.default_rng(2)
    label = np.arange(300) < 120
    one = rng.normal(size=300) + label
    two = one + rng.normal(size=300)
    gaps = []
    for _ in range(400):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(label == side), np.sum(label == side)) for side in (True, False)]
        )
        p, n = rows[:120], rows[120:]
        gaps.append(auroc(one[p], one[n]) - auroc(two[p], two[n]))
    found = delong(one, two, label)
    assert np.std(gaps) == pytest.approx((found.high - found.low) / 2 / stats.norm.isf(0.025), rel=0.15)


def test_delong_keeps_its_level_and_finds_a_better_score():
    rng, label, alarms, found = np.random.default_rng(3), np.arange(160) < 80, 0, 0
    for _ in range(300):
        shared = rng.normal(size=160) + label
        one, two = (shared + rng.normal(size=160) for _ in range(2))
        alarms += delong(one, two, label).p_value <= 0.05
        found += delong(shared, one, label).p_value <= 0.05
    assert stats.binomtest(alarms, 300, 0.05, alternative="greater").pvalue > 0.001 and found > 150


def test_delong_over_clusters_is_delong_of_one_text_each_where_they_are_copies():
    rng = np.random.default_rng(4)
    label = np.arange(100) < 40
    one, two = (rng.normal(size=100) + label for _ in range(2))
    single = delong(one, two, label)
    copied = delong(np.repeat(one, 5), np.repeat(two, 5), np.repeat(label, 5), cluster=np.repeat(np.arange(100), 5))
    np.testing.assert_allclose(copied, single)
    assert delong(np.repeat(one, 5), np.repeat(two, 5), np.repeat(label, 5)).p_value < single.p_value


def test_scores_that_order_texts_alike_do_not_differ():
    rng = np.random.default_rng(5)
    label, x = np.arange(50) < 20, rng.normal(size=50)
    found = delong(x, np.exp(x), label)
    assert (found.difference, found.z, found.p_value) == (0.0, 0.0, 1.0)


def test_paired_tests_are_all_pairs_with_holms_p_values():
    rng = np.random.default_rng(6)
    label = np.arange(120) < 60
    table = pd.DataFrame({name: rng.normal(size=120) + label * i for i, name in enumerate("abc")})
    found = paired_tests(table, label)
    assert list(zip(found["first"], found["second"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    np.testing.assert_allclose(found.p_holm, holm(found.p.to_numpy()))
    assert found.p[1] == delong(table.a.to_numpy(), table.c.to_numpy(), label).p_value


# ------------------------------------------------------------------------------------------------------ what is refused


def test_an_empty_class_nan_and_too_few_texts_are_refused():
    some, none, nan = np.ones(3), np.empty(0), np.array([1.0, np.nan])
    for call in (roc, auroc, lambda p, n: tpr_at(p, n, 0.1)):
        with pytest.raises(ParameterError, match="no positive text"):
            call(none, some)
        with pytest.raises(ParameterError, match="no negative text"):
            call(some, none)
        with pytest.raises(ParameterError, match="negative text 1 is NaN"):
            call(some, nan)
    with pytest.raises(ParameterError, match=r"fpr=1\.5"):
        tpr_at(some, some, 1.5)
    table, label = drawn(np.random.default_rng(0), 60, 60)
    rng = np.random.default_rng(0)
    with pytest.raises(ParameterError, match="needs at least 3000 negatives, there are 60"):
        compare(table, label, rng=rng, fpr=(0.001,))
    with pytest.raises(ParameterError, match="49 units of one class"):
        compare(table, np.arange(120) < 49, rng=rng, fpr=(0.1,))
    with pytest.raises(ParameterError, match="12 units of one class"):
        compare(table, label, rng=rng, fpr=(0.1,), cluster=np.arange(120) // 5)
    with pytest.raises(ParameterError, match="no negative text"):
        compare(table, label | True, rng=rng)
    with pytest.raises(ParameterError, match="score 'x' of text 5 is NaN"):
        compare(table.assign(x=table.x.where(table.index != 5)), label, rng=rng, fpr=(0.1,))
    with pytest.raises(ParameterError, match="7 entries for 120 texts"):
        compare(table, label[:7], rng=rng)
    with pytest.raises(ParameterError, match="7 labels for 120 texts"):
        compare(table, label, rng=rng, fpr=(0.1,), cluster=np.arange(7))
