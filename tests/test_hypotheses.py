"""Hypotheses of the cross-AEP: against scipy, exact permutation, their family-wise error, and permuted authors.

Seeds were fixed before the first run; every binomial test rejects a correct build with probability of at most .001.
"""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aep import plotting
from aep.analysis.calibration import is_accepted
from aep.analysis.cross_aep import stratified_mean
from aep.analysis.decomposition import permuted_authors
from aep.analysis.hypotheses import CLAIMS, benjamini_hochberg, holm, hypotheses, verdicts
from aep.analysis.markov_pairs import expected_pair
from aep.analysis.pairs import pair_records
from aep.errors import ParameterError
from aep.languages import MarkovChain
from aep.plotting import decomposition as draw

CHAINS = {
    "A": MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], name="A"),
    "B": MarkovChain([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], name="B"),
    "C": MarkovChain([[0.2, 0.4, 0.4], [0.4, 0.2, 0.4], [0.3, 0.1, 0.6]], name="C"),
}


@pytest.fixture(scope="module")
def per_text() -> pd.DataFrame:
    samplers = {"ancestral": None, "cold": "temperature(0.8)"}
    return pair_records(CHAINS, [[0], [1]], samplers=samplers, texts=30, tokens=60, seed=51).per_text()


@pytest.fixture(scope="module")
def found(per_text) -> pd.DataFrame:
    return hypotheses(per_text, rng=np.random.default_rng(0), permutations=999)


def null(rng, names=("a", "b", "c"), prompts=2, texts=8, skew=0.0) -> pd.DataFrame:
    """Every hypothesis of every claim true: one law for all pairs, KL rates with mean .01, scorers alike within a text."""
    keys = list(product(names, range(prompts), range(texts)))
    parts = []
    for scorer in names:
        part = pd.DataFrame(keys, columns=["source", "prompt", "text"]).assign(scorer=scorer, sampler="ancestral")
        for name in ("gap_pair", "gap_B"):
            part[name] = rng.normal(size=len(part))
        parts.append(part.assign(kl=0.01 + 0.002 * rng.normal(size=len(part)), h_AB=rng.normal(size=len(part))))
    shared = np.tile(2 * rng.normal(size=len(keys)) + skew * rng.standard_exponential(len(keys)), len(names))
    return pd.concat(parts, ignore_index=True).assign(h_AB=lambda t: t.h_AB + shared)


# ------------------------------------------------------------------------------------------------------------ adjustments


def by_the_book(p: np.ndarray, level: float) -> np.ndarray:
    """Holm as it is taught: from the smallest, stop at the first that stays."""
    rejected = np.zeros(len(p), bool)
    for k, i in enumerate(np.argsort(p)):
        if p[i] > level / (len(p) - k):
            break
        rejected[i] = True
    return rejected


def test_holm_rejects_what_the_procedure_rejects_at_every_level():
    rng = np.random.default_rng(1)
    for _ in range(200):
        p = rng.random(rng.integers(1, 12)) ** 3
        for level in (0.001, 0.05, 0.3):
            assert np.array_equal(holm(p) <= level, by_the_book(p, level))


def test_holm_agrees_with_the_one_of_the_calibration():
    rng = np.random.default_rng(2)
    for _ in range(100):
        rows = pd.DataFrame(rng.random((4, 3)) ** 4, columns=["mean_p", "square_p", "shape_p"])
        ours = ~(holm(rows.to_numpy().ravel()).reshape(4, 3) <= 0.05).any(axis=1)
        assert is_accepted(rows, level=0.05).tolist() == ours.tolist()


def test_the_adjustments_are_those_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(3).random(40) ** 2
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multitest.multipletests(p, method="fdr_bh")[1])


def test_what_has_no_test_is_not_of_the_family():
    p = np.array([0.02, np.nan, 0.01])
    assert holm(p) == pytest.approx([0.02, np.nan, 0.02], nan_ok=True)
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all() and np.isnan(holm(np.array([np.nan]))).all()


# ---------------------------------------------------------------------------------------------------------------- the rows


def test_there_is_one_row_per_hypothesis_and_the_diagonal_only_where_it_is_no_algebra(found):
    counts = found.groupby("claim", sort=False).size().to_dict()  # 2 samplers, 3 sources, 3 scorers
    assert counts == {"calibrated": 18, "typical": 12, "margin": 12, "scorers": 6, "sources": 6, "symmetric": 6}
    assert list(counts) == list(CLAIMS)
    assert not found.duplicated(["claim", "sampler", "source", "scorer", "other"]).any()
    foreign = found[found.claim != "calibrated"]
    assert (foreign.source != foreign.scorer).all() and (foreign.other != foreign.scorer).all()
    assert (found.texts == np.where(found.claim.isin(["sources", "symmetric"]), 120, 60)).all()


def cell(per_text, column, sampler, source, scorer):
    rows = per_text[(per_text.sampler == sampler) & (per_text.source == source) & (per_text.scorer == scorer)]
    rows = rows.sort_values(["prompt", "text"])
    return rows[column].to_numpy(), rows.prompt.to_numpy()


def test_estimates_and_intervals_are_those_of_the_stratified_mean(per_text, found):
    columns = {"calibrated": "gap_pair", "typical": "gap_B", "margin": "kl"}
    for row in found[found.claim.isin([*columns, "scorers"])].itertuples():
        values, prompt = cell(per_text, columns.get(row.claim, "h_AB"), row.sampler, row.source, row.scorer)
        if row.claim == "scorers":
            values = values - cell(per_text, "h_AB", row.sampler, row.source, row.other)[0]
        assert [row.estimate, row.low, row.high] == pytest.approx(list(stratified_mean(values, prompt)))
        assert row.low_all < row.low < row.high < row.high_all


def test_with_one_prompt_the_tests_are_those_of_scipy(per_text):
    one = per_text[per_text.prompt == 0]
    found = hypotheses(one, rng=np.random.default_rng(0), permutations=9, margin=0.05)
    for row in found.itertuples():
        x = cell(one, {"calibrated": "gap_pair", "typical": "gap_B", "margin": "kl"}.get(row.claim, "h_AB"),
                 row.sampler, row.source, row.scorer)[0]  # fmt: skip
        if row.claim == "margin":
            theirs = stats.ttest_1samp(x, 0.05, alternative="greater")
        elif row.claim in ("calibrated", "typical"):
            theirs = stats.ttest_1samp(x, 0)
        elif row.claim == "scorers":
            theirs = stats.ttest_rel(x, cell(one, "h_AB", row.sampler, row.source, row.other)[0])
        else:
            second = (row.other, row.scorer) if row.claim == "sources" else (row.scorer, row.source)
            theirs = stats.ttest_ind(x, cell(one, "h_AB", row.sampler, *second)[0], equal_var=False)
        assert [row.t, row.p] == pytest.approx([theirs.statistic, theirs.pvalue]), row
        if row.claim in ("calibrated", "typical"):
            assert row.effect == pytest.approx(x.mean() / x.std(ddof=1))


def test_random_signs_and_exchanged_texts_are_those_of_all_ways():
    rows = null(np.random.default_rng(4), prompts=1, texts=5)
    found = hypotheses(rows, rng=np.random.default_rng(5), permutations=19_999)
    for row in found[found.claim.isin(["scorers", "symmetric"])].itertuples():
        x = cell(rows, "h_AB", "ancestral", row.source, row.scorer)[0]
        if row.claim == "scorers":
            d = (x - cell(rows, "h_AB", "ancestral", row.source, row.other)[0],)
            exact = stats.permutation_test(d, np.mean, permutation_type="samples", n_resamples=np.inf)
        else:
            y = cell(rows, "h_AB", "ancestral", row.scorer, row.source)[0]
            exact = stats.permutation_test((x, y), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf)
        p = exact.pvalue
        assert row.p_random == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 19_999) + 1e-4)


# ---------------------------------------------------------------------------------------------------- exact Markov pairs


def test_on_markov_pairs_what_is_true_stays_and_what_is_false_falls(per_text, found):
    """Family-wise 5% for the true claim; expected values inside simultaneous intervals; false ones with power."""
    by = found.set_index("claim")
    assert not by.rejected["calibrated"].any()
    assert by.rejected["typical"].mean() > 0.5 and by.rejected["margin"].mean() > 0.5
    ancestral = found[(found.sampler == "ancestral") & found.claim.isin(["typical", "margin"])]
    for row in ancestral.itertuples():
        expected = [expected_pair(CHAINS[row.source], CHAINS[row.scorer], 60, prompt=[p]) for p in (0, 1)]
        truth = np.mean([e.kl if row.claim == "margin" else e.h_AB - e.h_B for e in expected])
        assert row.low_all <= truth <= row.high_all
        if abs(truth - 0.01 * (row.claim == "margin")) > 1.5 * row.detectable:
            assert row.rejected
    table = verdicts(found)
    assert table.hypotheses.sum() == len(found) and table.rejected.sum() == found.rejected.sum()


def test_permuted_authors_leave_no_difference_between_sources(per_text, found):
    """The negative control, 40 times: a family-wise rate above 5% is not to be had; with the true authors many fall."""
    assert found[found.claim == "sources"].rejected.mean() > 0.5
    rng, any_rejected = np.random.default_rng(6), 0
    for _ in range(40):
        control = hypotheses(permuted_authors(per_text, rng), rng=rng, claims=["sources"], permutations=1)
        any_rejected += control.rejected.any()
    assert stats.binom.sf(any_rejected - 1, 40, 0.05) > 0.001


def test_the_power_to_find_the_detectable_distance_is_four_in_five():
    """One claim of a single hypothesis: 200 experiments at a distance known beforehand, 40 texts each."""
    rng, hits, detectable = np.random.default_rng(7), 0, []
    for _ in range(200):
        rows = null(rng, names=("a", "b"), prompts=1, texts=40)
        rows = rows[rows.source == "a"]
        rows["gap_B"] += 0.4545  # (t_.975 + t_.8)/sqrt(40) of standard deviation 1, 39 degrees of freedom
        found = hypotheses(rows, rng=rng, claims=["typical"], permutations=1)
        hits += found.rejected.sum()
        detectable.append(found.detectable.item())
    assert np.mean(detectable) == pytest.approx(0.4545, rel=0.02)
    assert stats.binomtest(int(hits), 200, 0.8).pvalue > 0.001


# ------------------------------------------------------------------------------------------------------ family-wise error


def test_the_family_wise_error_is_at_most_its_level_and_without_holm_it_is_not():
    """150 complete nulls; rate of any rejection by Holm per claim <= 5%, none rejected at .001/6; unadjusted it is more."""
    rng, holm_any, raw_any, p_random = np.random.default_rng(8), [], [], []
    for _ in range(150):
        found = hypotheses(null(rng, skew=1.0), rng=rng, permutations=39)
        by = found.groupby("claim", sort=False)
        holm_any.append(by.rejected.any())
        raw_any.append(by.p.min() <= 0.05)
        p_random.append(found.groupby("claim", sort=False).p_random.first())
    holm_any, raw_any, p_random = pd.DataFrame(holm_any), pd.DataFrame(raw_any), pd.DataFrame(p_random)
    for claim in CLAIMS:
        assert stats.binom.sf(holm_any[claim].sum() - 1, 150, 0.05) > 0.001 / 6, claim
        assert stats.binom.sf((p_random[claim] <= 0.05).sum() - 1, 150, 0.05) > 0.001 / 6, claim
        low = stats.binomtest(int(raw_any[claim].sum()), 150).proportion_ci(0.999).low
        assert low > 0.05 or claim in ("scorers", "sources", "symmetric"), claim  # 3 hypotheses each: too few to tell


# ----------------------------------------------------------------------------------------------------------- what is refused


def test_no_spread_and_no_finite_value_is_no_test():
    rows = null(np.random.default_rng(9))
    pair = (rows.source == "a") & (rows.scorer == "b")
    rows.loc[pair, "gap_B"], rows.loc[pair, "kl"] = 0.25, np.inf
    found = hypotheses(rows, rng=np.random.default_rng(0), permutations=9).set_index(["claim", "source", "scorer"])
    for claim, estimate in (("typical", 0.25), ("margin", np.inf)):
        row = found.loc[(claim, "a", "b")]
        row = row.iloc[0] if isinstance(row, pd.DataFrame) else row
        assert (
            row.estimate == pytest.approx(estimate) and np.isnan(row[["p", "p_holm", "p_random"]].astype(float)).all()
        )
        assert not row.rejected
    assert found.loc["typical"].p_holm.notna().sum() == 5


def test_what_cannot_be_tested_is_refused_in_one_line():
    rows, rng = null(np.random.default_rng(10)), np.random.default_rng(0)
    with pytest.raises(ParameterError, match="margin=0: .* algebra"):
        hypotheses(rows, rng=rng, margin=0)
    with pytest.raises(ParameterError, match="unknown claim 'scorer': did you mean 'scorers'"):
        hypotheses(rows, rng=rng, claims=["scorer"])
    with pytest.raises(ParameterError, match="alpha=1"):
        hypotheses(rows, rng=rng, alpha=1)
    with pytest.raises(ParameterError, match="unknown column 'gap_B'"):
        hypotheses(rows.drop(columns="gap_B"), rng=rng)
    with pytest.raises(ParameterError, match="a prompt has 1 text"):
        hypotheses(rows[rows.text == 0], rng=rng)


# ---------------------------------------------------------------------------------------------------------------- figures


def test_a_forest_has_a_row_per_pair_and_a_filled_mark_per_rejection(found):
    for claim in CLAIMS:
        rows = found[found.claim == claim]
        figure, ax = plotting.figure()
        draw.plot_forest(ax, rows, null=0.01 if claim == "margin" else 0.0, legend=False)
        assert len(ax.get_yticklabels()) == len(rows) / 2  # two samplers
        marks = [line for line in ax.get_lines() if line.get_marker() == "o"]
        assert len(marks) == len(rows)
        assert sum(mark.get_markerfacecolor() != "white" for mark in marks) == rows.rejected.sum()
        assert "nats per token" in ax.get_xlabel()
        plotting.plt.close(figure)
    with pytest.raises(ParameterError, match="needs the rows of one claim"):
        draw.plot_forest(ax, found)
