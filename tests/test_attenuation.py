"""Correlations over schemes without the noise of their means: against laws whose expectations are known."""

import numpy as np
import pytest

from aep.analysis.attenuation import between_schemes, between_table
from aep.analysis.quality import Columns, scheme_means
from aep.errors import ParameterError

SCHEMES, PROMPTS = 31, 60


def drawn(rng, between, within, schemes=SCHEMES, prompts=PROMPTS, texts=1):
    """Texts whose scheme means have exactly the covariance `between` and whose noise has that of `within`."""
    raw = rng.normal(size=(schemes, 2))
    raw -= raw.mean(axis=0)
    exact = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T @ np.linalg.cholesky(between).T
    scheme = np.repeat(np.arange(schemes), prompts * texts)
    prompt = np.tile(np.repeat(np.arange(prompts), texts), schemes)
    of_prompt = rng.multivariate_normal([0, 0], [[4, -3], [-3, 9]], size=prompts)
    x, y = (exact[scheme] + of_prompt[prompt] + rng.multivariate_normal([0, 0], within, size=len(scheme))).T
    return Columns(x, y, scheme, prompt)


BETWEEN = np.array([[1.0, 0.8], [0.8, 1.0]])
WITHIN = np.array(
    [[30.0, -24.0], [-24.0, 30.0]]
)  # as much noise in a mean of 60 texts as there is difference of schemes


def test_the_correction_finds_the_correlation_that_the_means_hide():
    found, raw, covered = [], [], 0
    for seed in range(60):
        data = drawn(np.random.default_rng(seed), BETWEEN, WITHIN)
        between = between_schemes(data)
        raw.append(np.corrcoef(scheme_means(data))[0, 1])
        found.append(between.correlation.estimate)
        covered += between.correlation.low <= 0.8 <= between.correlation.high
    assert abs(np.nanmean(found) - 0.8) < 0.06 and np.mean(raw) < 0.5
    assert covered >= 48  # 80% at least where a third of the variance is noise, as the docstring warns


def test_with_little_noise_the_interval_covers():
    covered = 0
    for seed in range(60):
        found = between_schemes(drawn(np.random.default_rng(seed), BETWEEN, WITHIN / 5)).correlation
        covered += found.low <= 0.8 <= found.high
    assert covered >= 53


def test_more_texts_per_cell_are_less_noise():
    one, four = (between_schemes(drawn(np.random.default_rng(3), BETWEEN, WITHIN, texts=n)) for n in (1, 4))
    assert four.noise_x == pytest.approx(one.noise_x / 4 / (1 - 0.75 * one.noise_x), rel=0.35)


def test_without_noise_nothing_is_corrected():
    data = drawn(np.random.default_rng(5), BETWEEN, 1e-12 * np.eye(2))
    found = between_schemes(data)
    assert found.correlation.estimate == pytest.approx(0.8, abs=1e-6) and found.noise_x < 1e-9


def test_schemes_that_do_not_differ_have_no_correlation():
    same = [between_schemes(drawn(np.random.default_rng(s), 1e-9 * BETWEEN, WITHIN)) for s in range(8)]
    assert all(0.4 < f.noise_x < 2.5 for f in same)
    assert any(np.isnan(f.correlation.estimate) for f in same)  # a variance that comes out negative is said


def test_too_few_schemes_or_prompts_or_an_unbalanced_table_are_refused():
    data = drawn(np.random.default_rng(0), BETWEEN, WITHIN)
    few = Columns(*(column[data.scheme < 2] for column in data))
    with pytest.raises(ParameterError, match="2 schemes"):
        between_schemes(few)
    with pytest.raises(ParameterError, match="same number"):
        between_schemes(Columns(*(column[1:] for column in data)))


def test_a_table_has_a_row_per_pair():
    data = drawn(np.random.default_rng(0), BETWEEN, WITHIN)
    table = between_table({("exact", "reward"): data})
    assert table.loc[0, ["schemes", "prompts"]].tolist() == [SCHEMES, PROMPTS]
    assert table.loc[0, "low"] < table.loc[0, "correlation"] < table.loc[0, "high"]
