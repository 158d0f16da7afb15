"""l - h -> 0 where h settles, where it does not and where there is no test; degenerate laws; the panels drawn from them.

Seeds were fixed before the first run. Statistical checks hold for a correct build except with probability .001 each.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import aep
from aep import intervals
from aep.adaptors import parse
from aep.analysis import panels, regimes, self_aep
from aep.analysis.eprocess import time_uniform_band
from aep.analysis.typicality import Paths, effective_tokens, z_test
from aep.errors import ParameterError
from aep.languages import FiniteLanguage, zipf
from aep.plotting import TEXT, colours
from aep.plotting import regimes as draw
from tiny_models import one_thread  # noqa: F401

TEXTS, TOKENS = 300, 600
LANGUAGES = regimes.exact_languages()


@pytest.fixture(scope="module")
def followed() -> dict[str, regimes.Regime]:
    return {
        name: regimes.regime_of(language, texts=TEXTS, tokens=TOKENS, seed=700 + i)
        for i, (name, language) in enumerate(LANGUAGES.items())
    }


@pytest.fixture(scope="module")
def finals(followed) -> pd.DataFrame:
    return pd.concat([regimes.final_states(regime) for regime in followed.values()], ignore_index=True)


@pytest.fixture(scope="module")
def running(followed) -> pd.DataFrame:
    at = self_aep.lengths(TOKENS, 5)
    return pd.concat([regimes.running_texts(regime, at) for regime in followed.values()], ignore_index=True)


# -------------------------------------------------------------------------------------- h settles, or not; l - h always


def test_the_limits_are_the_entropy_rates_of_what_wrote_the_text(followed):
    chain, mixture, loop = LANGUAGES.values()
    assert set(followed[chain.name].limit) == {chain.entropy_rate()}
    assert set(followed[mixture.name].limit) == set(mixture.entropy_rates())
    assert set(followed[loop.name].limit) == {0.0} and loop.entropy_rate() == 0
    assert intervals.share(followed[mixture.name].limit == mixture.entropy_rates()[0], level=0.999).low < 0.5
    assert intervals.share(followed[mixture.name].limit == mixture.entropy_rates()[0], level=0.999).high > 0.5


def test_a_component_of_the_mixture_keeps_its_mean_between_two_exact_bounds(followed):
    """E[l_T given component k] = E_k[-log p_k]/T + KL(p_k, mixture)/T, and 0 <= KL <= log(1/w_k)."""
    mixture, regime = LANGUAGES["mixture"], followed["mixture"]
    for component, weight in zip(mixture.components, mixture.weights, strict=True):
        own = regime.limit == component.entropy_rate()
        found = intervals.mean(regime.paths.surprisal[own].mean(axis=1), level=0.999)
        exact = component.expected(TOKENS).log_perplexity
        assert found.high >= exact and found.low <= exact + np.log(1 / weight) / TOKENS


def test_the_gap_closes_in_every_regime_and_the_spread_of_h_only_where_there_is_one_limit(running):
    table = regimes.settling(running).set_index(["regime", "tokens"])
    first, last = (table.xs(t, level="tokens") for t in (8, TOKENS))
    assert (last.gap_high < first.gap_low / 4).all()
    low, high = LANGUAGES["mixture"].entropy_rates()
    assert last.spread_low["mixture"] < (high - low) / 2 * 1.02 and last.spread["mixture"] > 0.9 * (high - low) / 2
    assert last.spread_high["ergodic chain"] < first.spread_low["ergodic chain"] / 3
    assert last.own_high["mixture"] < 0.02 < last.spread_low["mixture"]  # each text meets its own limit


def test_the_mean_square_of_the_gap_is_the_expected_sum_of_varentropies(followed):
    """By the closed form for the chain, by the sum along each path for the mixture; in the loop t fails (skewed)."""
    for name in ("ergodic chain", "mixture"):
        paths = followed[name].paths
        square = (paths.surprisal - paths.entropy).sum(axis=1) ** 2
        excess = intervals.mean(square - paths.varentropy.sum(axis=1), level=0.999)
        assert excess.low < 0 < excess.high
    chain = LANGUAGES["ergodic chain"]
    paths = followed[chain.name].paths
    square = intervals.mean((paths.surprisal - paths.entropy).sum(axis=1) ** 2, level=0.999)
    assert square.low < chain.expected(TOKENS).sum_varentropy < square.high


def test_the_information_of_the_loop_stays_bounded():
    loop = LANGUAGES["absorbing loop"]
    assert loop.expected(400).sum_varentropy == pytest.approx(loop.expected(4000).sum_varentropy, rel=1e-9)
    wander, steps = loop.row_varentropy()[:3], np.linalg.inv(np.eye(3) - loop.transition[:3, :3])
    assert loop.expected(4000).sum_varentropy == pytest.approx(
        loop.initial[:3] @ steps @ wander
    )  # the first symbol: V = 0


def test_z_is_normal_for_chain_and_mixture_and_the_loop_has_no_test_and_no_normal_ratio(finals):
    table = regimes.regime_calibration(finals).set_index("regime")
    for name in ("ergodic chain", "mixture"):
        assert table.tested[name] == 1
        assert table.loc[name, ["mean_p", "square_p", "shape_p"]].min() > 0.001 / 6
    assert table.tested["absorbing loop"] == 0 and np.isnan(table.mean_p["absorbing loop"])
    assert table.ratio_shape_p["absorbing loop"] < 0.001  # the control: what z would have claimed
    loop = finals[finals.regime == "absorbing loop"]
    assert set(loop.verdict) == {"no test: ΣV has stopped growing"} and set(loop.period) == {3}
    assert loop.z.isna().all() and loop.difference.abs().max() < 0.1 and loop.lyapunov.median() > 0.1


def test_running_rows_end_in_the_final_states(running, finals):
    end = running[running.tokens == TOKENS].reset_index(drop=True)
    for column in ("l", "h", "difference", "sum_varentropy"):
        np.testing.assert_allclose(end[column], finals[column], atol=1e-12)
    assert (end.verdict == finals.verdict).all()
    np.testing.assert_allclose(end.sigma, np.sqrt(end.sum_varentropy) / TOKENS, atol=1e-12)


def test_the_envelope_is_the_median_path(followed):
    paths, at = followed["mixture"].paths, np.array([4, 100, TOKENS])
    table = regimes.envelope(paths, at, alpha=0.05, band_texts=4)
    s2 = np.median(paths.varentropy.cumsum(axis=1)[:, 99])
    assert table.sigma[1] == pytest.approx(np.sqrt(s2) / 100)
    assert table.iterated_logarithm[1] == pytest.approx(np.sqrt(2 * s2 * np.log(np.log(s2))) / 100)
    assert np.isnan(table.iterated_logarithm[0])  # too early
    four = Paths(*(x[:4] for x in paths[:3]), {theta: x[:4] for theta, x in paths.log_partition.items()})
    margins = time_uniform_band(four, 0.05).high[:, 99] - four.entropy[:, :100].mean(axis=1)
    assert table.band_high[1] == pytest.approx(np.median(margins))
    assert (table.band_low < -table.sigma).all() and (table.band_high > table.sigma).all()
    assert regimes.envelope(paths._replace(log_partition={}), at).band_low.isna().all()


# ----------------------------------------------------------------------------------------------------- verdict and loop


def test_a_verdict_is_a_test_exactly_where_the_z_test_has_one():
    rng, n, steps = np.random.default_rng(5), 4000, np.arange(80)
    scale = np.exp(rng.uniform(np.log(1e-8), 4, (n, 1)))
    v = rng.gamma(rng.uniform(0.2, 3, (n, 1)), size=(n, 80)) * scale
    v *= np.where(steps < 40, 1, 10 ** rng.uniform(-3, 0.5, (n, 1)))  # what the second half adds
    v[: n // 4] *= steps < rng.integers(0, 81, (n // 4, 1))
    found, test = regimes.verdicts(v), z_test(v, v, v)
    assert set(found) == set(regimes.VERDICTS)
    np.testing.assert_array_equal(found == "test", test.has_test)
    assert regimes.verdicts(v[0]).shape == ()


@pytest.mark.parametrize("period", [1, 2, 7, 16, 17])
def test_a_period_is_found_if_the_last_quarter_holds_it_twice(period):
    rng = np.random.default_rng(period)
    ids = np.concatenate([rng.integers(50, 90, 96), np.resize(np.arange(period), 32)])
    assert regimes.loop_period(ids) == (period if period <= 16 else 0)
    assert regimes.loop_period(ids, longest=period - 1) == 0
    assert regimes.loop_period(ids[:96]) == 0 and regimes.loop_period([]) == 0


def test_a_network_falls_into_loops_at_low_temperature_and_has_no_test_there():
    language, prompts = aep.load("docs-100k"), ["The function", "Parameters"]
    followed = [
        regimes.sampler_regime(language, parse(label), prompts, texts=8, tokens=256, seed=710)
        for label in ("ancestral()", "temperature(0.03)", "top_k(1)")
    ]
    table = pd.concat([regimes.final_states(regime) for regime in followed])
    shares = regimes.loop_shares(table).set_index("regime")
    assert shares.tested.iloc[0] == 1 and shares.looping.iloc[0] == 0
    assert shares.looping["temperature(0.03)"] > 0 and shares.tested["temperature(0.03)"] < 1
    greedy = table[table.regime == "top_k(1)"]
    assert (greedy[["l", "h", "difference", "sum_varentropy"]].to_numpy() == 0).all()
    assert set(greedy.verdict) == {"no test: ΣV is zero or rounding"} and greedy.ratio.isna().all()
    assert table.lyapunov.isna().all() and table.limit.isna().all()


def test_under_the_law_it_was_drawn_from_text_of_a_low_temperature_has_a_calibrated_z():
    """300 texts of a chain at temperature .5, followed under q: three p-values above .001/3."""
    regime = regimes.sampler_regime(
        LANGUAGES["ergodic chain"], parse("temperature(0.5)"), texts=300, tokens=300, seed=711
    )
    row = regimes.regime_calibration(regimes.final_states(regime)).iloc[0]
    assert row.tested == 1 and min(row.mean_p, row.square_p, row.shape_p) > 0.001 / 3


# -------------------------------------------------------------------------------------------------- degenerate languages


def test_point_mass_and_uniform_are_exact_and_have_no_test():
    table = regimes.degenerate(regimes.degenerate_languages(16), texts=20, tokens=64, seed=720).set_index("language")
    point, uniform = table.loc["point mass"], table.loc["uniform"]
    assert point[["entropy", "varentropy", "l", "h", "largest_gap", "tested"]].tolist() == [0] * 6
    assert uniform[["entropy", "l", "h"]].tolist() == pytest.approx([np.log(16)] * 3, abs=1e-13)
    assert uniform.varentropy == pytest.approx(0, abs=1e-13) and uniform.largest_gap < 1e-13
    assert uniform.tested == 0 and {point.verdict, uniform.verdict} == {"no test: ΣV is zero or rounding"}
    assert np.isnan(point.shape_p) and np.isnan(point.lyapunov)


def test_a_rare_token_passes_as_a_test_and_the_lyapunov_fraction_says_that_z_is_not_normal():
    """One token of probability 1/T is expected once: Lyapunov's fraction is 1, the skewness of z is 1."""
    table = regimes.degenerate(regimes.degenerate_languages(16), texts=300, tokens=1000, seed=721).set_index("language")
    rare, common = table.loc["rare token, 0.001"], table.loc["rare token, 0.1"]
    assert rare.tested == common.tested == 1
    assert (
        rare.shape_p < 1e-6
        and rare.lyapunov == pytest.approx(1, rel=0.05)
        and rare.skew_exact == pytest.approx(1, rel=0.01)
    )
    assert common.lyapunov < 0.01 and common.skew_exact < 0.1


def test_the_fourth_moment_from_stored_columns_is_that_of_the_law():
    laws = [FiniteLanguage(p) for p in ([0.5, 0.3, 0.2], [0.99, 0.01], [0.999, 0.001])] + [zipf(64), zipf(2048)]
    for language in laws:
        texts = aep.Texts.from_ids(language, [[0]])
        paths = Paths.of(aep.score(texts, language))
        exact = language.p @ (-language.log_p - language.entropy()) ** 4
        assert exact <= regimes.fourth_moment(paths).item() <= 1.07 * exact
        assert regimes.lyapunov(paths).item() >= 1 / effective_tokens(paths.varentropy).item()


# --------------------------------------------------------------------------------------------------------------- panels


def test_the_histogram_predicts_a_mixture_of_normal_laws():
    rng = np.random.default_rng(730)
    sigma = rng.uniform(0.05, 0.3, 5000)
    table = panels.final_histogram(sigma * rng.normal(size=5000), sigma, bins=20)
    width = table.right - table.left
    assert table.texts.sum() == 5000 and (table.density * width).sum() == pytest.approx(1)
    assert (table.predicted * width).sum() == pytest.approx(1, abs=1e-3)
    literal = np.mean([stats.norm.cdf(table.right[12], 0, s) - stats.norm.cdf(table.left[12], 0, s) for s in sigma])
    assert table.predicted[12] * width[12] == pytest.approx(literal)
    assert table.density.between(table.low, table.high).mean() >= 0.8  # of 20 bins at 95%: fewer with chance 3e-4
    wrong = panels.final_histogram(0.8 * sigma * rng.normal(size=5000), sigma, bins=20)
    assert not wrong.density.between(wrong.low, wrong.high).mean() >= 0.8
    assert panels.final_histogram(np.zeros(4), np.array([0.0, 0.1, 0.1, 0.1]), bins=3).texts.tolist() == [0, 4, 0]


@pytest.mark.parametrize(("sigma", "bins"), [(0.0, 8), (0.1, 1)])
def test_nothing_to_draw_is_refused(sigma, bins):
    with pytest.raises(ParameterError, match=f"bins={bins}: at least 2 are needed, and texts whose σ is above 0"):
        panels.final_histogram(np.zeros(5), np.full(5, sigma), bins)


@pytest.fixture(scope="module")
def tables() -> panels.Panel:
    language = LANGUAGES["ergodic chain"]
    records = aep.score(aep.sample(language, texts=60, tokens=64, seed=731, batch=60), language)
    return panels.panel(records, records, at=self_aep.lengths(64, 4))


@pytest.mark.parametrize("models", [1, 2, 3, 6])
def test_a_grid_holds_four_panels_per_model_at_the_width_of_the_text(tables, models):
    names = [f"model {i}" for i in range(models)]
    figure = draw.panel_grid(dict.fromkeys(names, tables), colours(names))
    figure.canvas.draw()
    assert len(figure.get_axes()) == 4 * models and figure.get_figwidth() == TEXT and figure.get_figheight() < 9.5
    for ax in figure.get_axes():
        box = ax.get_window_extent()
        assert box.width > 0.9 * figure.dpi and box.height > 0.6 * figure.dpi and ax.get_xlabel() and ax.get_ylabel()
    plt.close(figure)


@pytest.mark.parametrize("models", [0, 7])
def test_a_grid_of_no_model_or_too_many_is_refused(tables, models):
    with pytest.raises(ParameterError, match=f"{models} models: a grid of panels shows 1 to 6"):
        draw.panel_grid({str(i): tables for i in range(models)}, {})


def test_the_drift_panels_draw_one_line_per_text_and_the_limits(followed, running, finals):
    figure, axes = plt.subplots(1, 5)
    table = regimes.running_texts(followed["mixture"], self_aep.lengths(TOKENS, 6), shown=10)
    draw.plot_entropy_paths(axes[0], table)
    lines = [line for line in axes[0].lines if len(line.get_xdata()) == 6]
    assert len(lines) == 10 and len(axes[0].lines) - 10 == table.limit.nunique()
    assert {line.get_ydata()[-1] for line in lines} == set(table[table.tokens == TOKENS].h)
    envelope = regimes.envelope(followed["absorbing loop"].paths, self_aep.lengths(TOKENS, 6))
    loop = regimes.running_texts(followed["absorbing loop"], self_aep.lengths(TOKENS, 6), shown=10)
    draw.plot_gaps(axes[1], loop, envelope)
    assert [text.get_text() for text in axes[1].texts] == ["no test: 10 of 10"]
    draw.plot_settling(axes[2], regimes.settling(running))
    draw.plot_information(axes[3], pd.concat([table, loop]))
    assert len(axes[3].lines) == 20
    draw.plot_loops(axes[4], regimes.loop_shares(finals))
    assert [tick.get_text() for tick in axes[4].get_yticklabels()] == list(LANGUAGES)
    figure.canvas.draw()
    plt.close(figure)


def test_a_chance_of_leaving_outside_0_and_1_is_refused():
    with pytest.raises(ParameterError, match=r"leave=1.0: a probability in \(0, 1\) is needed"):
        regimes.exact_languages(1.0)
