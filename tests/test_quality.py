"""Correlations of texts of many schemes: against repeated data, simulation, enumeration, and the toy of notebook 01."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aep.analysis import tradeoff
from aep.analysis.grammar_tilts import joint_sums, moments, tilted_by_words
from aep.analysis.quality import (
    bootstrap_corpora,
    columns,
    correlation_table,
    correlations,
    covariance_parts,
    covariance_table,
    effective_points,
    pooled_pearson,
    scheme_means,
    selected_correlation,
    weighted_spearman,
)
from aep.errors import ParameterError
from aep.languages import Grammar, toy


def made(prompts=60, schemes=4, texts=2, *, seed=0, shift=1.0, of_prompt=1.0):
    """Texts with a slope of -1 inside a scheme and +1 between schemes, and a prompt effect in both columns."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [range(schemes), range(prompts), range(texts)], names=["scheme", "prompt", "text"]
    )
    table = index.to_frame(index=False)
    effect = of_prompt * rng.normal(size=prompts)[table["prompt"]]
    x = rng.normal(size=len(table))
    table["x"] = x + shift * table["scheme"] + effect
    table["y"] = -x + 0.5 * rng.normal(size=len(table)) + shift * table["scheme"] + effect
    table["scheme"] = "s" + table["scheme"].astype(str)
    return table


def test_weighted_spearman_is_that_of_repeated_rows():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 80)).astype(float)
    y += x
    count = rng.integers(0, 4, 80)
    repeated = stats.spearmanr(np.repeat(x, count), np.repeat(y, count))[0]
    assert weighted_spearman(x, y, count.astype(float)) == pytest.approx(repeated, abs=1e-12)


def test_pooled_pearson_is_the_limit_of_bootstrap_corpora():
    data = columns(made(shift=0.05), "x", "y")
    drawn = bootstrap_corpora(data, 3000, rng=np.random.default_rng(1))
    assert len(drawn) == 4 * 3000
    assert pooled_pearson(data) == pytest.approx(np.corrcoef(drawn["x"], drawn["y"])[0, 1], abs=0.03)
    small = bootstrap_corpora(data, 3000, rng=np.random.default_rng(1), size=10)
    assert pooled_pearson(data, size=10) == pytest.approx(np.corrcoef(small["x"], small["y"])[0, 1], abs=0.03)
    assert pooled_pearson(data, size=10**9) == pytest.approx(np.corrcoef(scheme_means(data))[0, 1], abs=1e-6)


def test_string_and_corpus_level_differ_in_sign_where_they_were_made_to():
    found = correlations(columns(made(), "x", "y"), rng=np.random.default_rng(0), resamples=199)
    assert found["corpus_pearson"].low > 0.9 and found["corpus_spearman"].estimate == pytest.approx(1)
    inside = correlations(
        columns(made(shift=0.0, of_prompt=0.0), "x", "y"), rng=np.random.default_rng(0), resamples=199
    )
    assert inside["string_pearson"].high < -0.8 and inside["string_spearman"].high < -0.8
    assert all(i.low <= i.estimate <= i.high for i in inside.values())


def test_the_interval_covers_the_correlation_of_the_law_and_one_that_forgets_the_prompts_does_not():
    kept = forgot = 0
    truth = 0.0  # x and y share nothing but noise of their own and effects of their own of the prompt
    for seed in range(60):
        rng = np.random.default_rng(seed)
        table = made(50, 3, 4, seed=seed, shift=0.0, of_prompt=0.0)
        table["x"], table["y"] = rng.normal(size=(2, len(table))) * 0.3 + rng.normal(size=(2, 50))[:, table["prompt"]]
        found = correlations(columns(table, "x", "y"), rng=rng, resamples=199, which=("string_pearson",))
        low, high = found["string_pearson"][1:]
        kept += low <= truth <= high
        r = np.corrcoef(table["x"], table["y"])[0, 1]
        forgot += abs(np.arctanh(r)) <= 1.96 / np.sqrt(len(table) - 3)
    assert kept >= 49  # 95% of 60 is 57; missed by correct code with probability 1e-4
    assert forgot <= 35


def test_too_few_prompts_and_bad_columns_are_refused():
    with pytest.raises(ParameterError, match="49 prompts are too few for an interval"):
        correlations(columns(made(49), "x", "y"), rng=np.random.default_rng(0), which=("corpus_pearson",))
    with pytest.raises(ParameterError, match="no column 'z'"):
        columns(made(), "x", "z")
    table = made()
    table.loc[3, "y"] = np.nan
    with pytest.raises(ParameterError, match="y of row 3 is nan"):
        columns(table, "x", "y")
    with pytest.raises(ParameterError, match="1 to 2 texts per scheme and prompt"):
        covariance_parts(columns(made().drop(index=0), "x", "y"))


def test_the_parts_of_the_covariance_add_up_and_are_orthogonal():
    table = made(shift=0.7)
    data = columns(table, "x", "y")
    parts = covariance_parts(data)
    for column in ("var_x", "var_y", "covariance"):
        assert parts[column].iloc[1:].sum() == pytest.approx(parts.loc["total", column], rel=1e-12)
    assert parts["share"].iloc[1:].sum() == pytest.approx(1)
    assert parts.loc["total", "correlation"] == pytest.approx(np.corrcoef(data.x, data.y)[0, 1])
    assert parts.loc["between schemes", "correlation"] > 0.9 > 0 > parts.loc["within", "correlation"]
    means = table.groupby("scheme")[["x", "y"]].mean()
    assert parts.loc["between schemes", "covariance"] == pytest.approx(np.cov(means.T, ddof=0)[0, 1])


def test_effective_points_are_the_clusters_when_clouds_are_tight_and_all_points_when_there_are_none():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(31), 200)
    assert effective_points(groups, rng.normal(size=31)[groups] + 1e-3 * rng.normal(size=6200)) == pytest.approx(
        31, rel=1e-2
    )
    assert effective_points(groups, rng.normal(size=6200)) > 2000


def test_a_table_has_one_row_per_pair_and_statistic():
    found = correlation_table(
        made().rename(columns={"x": "log_p", "y": "rule"}),
        {"a": ("log_p", "rule"), "b": ("rule", "log_p")},
        rng=np.random.default_rng(0),
        resamples=99,
        which=("corpus_pearson", "pooled_pearson"),
    )
    assert found["pair"].tolist() == ["a", "a", "b", "b"]
    assert found["correlation"][0] == pytest.approx(found["correlation"][2])


def test_selection_by_typicality_is_that_of_the_toy_where_reward_and_log_p_add_up():
    trio, ratio = toy(), np.array([1e-3, 0.1, 1.0, 5.0, 50.0])
    three = np.cov([trio.log_p, trio.reward, trio.log_p_plus], aweights=trio.p_plus, ddof=0)
    np.testing.assert_allclose(
        selected_correlation(three, ratio), tradeoff.conditioned_correlation(trio, ratio), atol=1e-9
    )


def test_selection_by_typicality_is_what_corpora_of_the_exact_trio_show():
    grammar = Grammar('S -> [0.4] | "a" S [0.35] | "b" S [0.25]', name="letters")
    points, beta, n, rng = np.array([0.0, 0.6, -0.8]), 2.0, 2000, np.random.default_rng(0)
    law, log_z = tilted_by_words(grammar, points, beta)
    exact = moments(grammar, points, beta)
    lift = np.array([[1, 0], [0, 1], [1, 1 / beta]])
    three = lift @ exact.covariance @ lift.T
    sums = joint_sums(grammar, law, points, n, 40_000, rng=rng) / n
    of_plus = sums @ [1, 1 / beta] - log_z
    sigma = np.sqrt(three[2, 2] / n)
    for ratio in (0.3, 1.0, 3.0):
        typical = np.abs(of_plus - of_plus.mean()) < ratio * sigma
        r = np.corrcoef(sums[typical].T)[0, 1]
        assert abs(np.arctanh(r) - np.arctanh(selected_correlation(three, ratio))) < 4.5 / np.sqrt(typical.sum()) + 0.02


def test_intervals_of_the_parts_are_those_of_resampled_prompts():
    data = columns(made(shift=0.7), "x", "y")
    found = covariance_table(data, rng=np.random.default_rng(0), resamples=299).set_index("part")
    assert found["covariance"].to_numpy() == pytest.approx(covariance_parts(data)["covariance"].to_numpy())
    assert ((found["low"] < found["covariance"]) & (found["covariance"] < found["high"])).all()
    assert found.loc["between schemes", "low"] > 0 > found.loc["within", "high"]
