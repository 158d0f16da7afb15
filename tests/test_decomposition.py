"""The decomposition of h_(A,B): against hand-made designs, other people's ANOVA, exact Markov pairs, and its own nulls.

Seeds were fixed before the first run; every binomial test rejects a correct build with probability of at most .001.
"""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aep import plotting
from aep.adaptors import ancestral, temperature
from aep.analysis.decomposition import anova, decomposition, permuted_authors
from aep.analysis.markov_pairs import expected_pair
from aep.analysis.pairs import pair_columns
from aep.errors import ParameterError
from aep.languages import MarkovChain
from aep.plotting import decomposition as draw
from exact_pairs import drawn_pair

FACTORS = ["source", "sampler", "prompt", "scorer"]
EFFECTS = [":".join(c) for k in (1, 2, 3, 4) for c in combinations(FACTORS, k)]


def table(values: np.ndarray) -> pd.DataFrame:
    """A tidy table of an array (sources, samplers, prompts, texts, scorers), in no order."""
    index = np.indices(values.shape).reshape(5, -1)
    found = pd.DataFrame(dict(zip(["source", "sampler", "prompt", "text", "scorer"], index, strict=True)))
    names = np.array([f"m{i}" for i in range(10)])
    found = found.assign(source=names[found.source], scorer=names[found.scorer], h_AB=values.ravel())
    return found.sample(frac=1, random_state=3)


def noise(rng, shape, kind="normal"):
    """Texts differ by .3, their profiles by .1 with neighbouring scorers alike; "uneven": other variances in every cell."""
    sources, _, prompts, _, scorers = shape
    text, profile = rng.normal(size=(*shape[:4], 1)), rng.normal(size=shape) @ (np.eye(scorers) + 0.5)
    if kind == "uneven":
        text = text * (1 + 0.5 * np.arange(prompts)).reshape(1, 1, -1, 1, 1)
        profile = profile * (1 + 0.3 * np.arange(sources)).reshape(-1, 1, 1, 1, 1)
    return 0.3 * text + 0.1 * profile


def means(shape, seed=11) -> np.ndarray:
    """Cell means with effects of very different sizes, and none of the sampler."""
    rng = np.random.default_rng(seed)
    a, _, p, b = shape
    parts = [((a, 1, 1, 1), 0.2), ((1, 1, 1, b), 0.2), ((a, 1, 1, b), 0.06), ((1, 1, p, 1), 0.07), ((a, 1, p, b), 0.02)]
    return np.broadcast_to(sum(size * rng.normal(size=s) for s, size in parts), shape)


def exact(mu: np.ndarray) -> dict[str, float]:
    """Components of cell means (sources, samplers, prompts, scorers): centred along the factors of an effect, averaged
    over the others, squared."""
    found = {}
    for effect in EFFECTS:
        x = mu
        for axis, factor in enumerate(FACTORS):
            mean = x.mean(axis=axis, keepdims=True)
            x = x - mean if factor in effect.split(":") else mean
        found[effect] = float(np.mean(x**2))
    return found


# ------------------------------------------------------------------------------------------------------------ definitions


def test_without_noise_the_components_are_the_mean_squares_of_the_effects():
    shape = (3, 2, 2, 3)
    mu = means(shape) + 0.1 * np.random.default_rng(1).normal(size=shape)
    found = decomposition(table(np.repeat(mu[:, :, :, None], 4, axis=3)), rng=np.random.default_rng(0), resamples=9)
    by = found.set_index("effect")
    assert list(by.index) == [*EFFECTS, "text", "text:scorer"]
    for effect, size in exact(mu).items():
        assert by.component[effect] == pytest.approx(size, abs=1e-12), effect
    assert by.component[["text", "text:scorer"]].to_numpy() == pytest.approx(0, abs=1e-12)
    assert found.component.sum() == pytest.approx(np.var(mu)) and found.share.sum() == pytest.approx(1)


def test_components_are_those_of_omega_squared_and_sum_to_the_variance():
    values = means((3, 2, 2, 4))[:, :, :, None] + noise(np.random.default_rng(2), (3, 2, 2, 6, 4))
    squares = anova(table(values)).set_index("effect")
    found = decomposition(table(values), rng=np.random.default_rng(0), resamples=9, permutations=9).set_index("effect")
    for effect in EFFECTS:
        error = squares.ms["text:scorer" if effect.endswith("scorer") else "text"]
        expected = (squares.ss[effect] - squares.df[effect] * error) / values.size
        assert found.component[effect] == pytest.approx(expected, abs=1e-12), effect
    assert found.component["text"] == pytest.approx(squares.ms["text"] / 4)
    assert found.component["text:scorer"] == pytest.approx(squares.ms["text:scorer"] * 3 / 4)
    assert squares.ss.sum() == pytest.approx(np.sum((values - values.mean()) ** 2))
    assert found.df.to_dict() == squares.df.to_dict() and squares.df.sum() == values.size - 1


def test_sums_of_squares_are_what_dummy_variables_explain_one_effect_after_the_other():
    values = means((3, 2, 2, 3))[:, :, :, None] + noise(np.random.default_rng(3), (3, 2, 2, 3, 3))
    rows, found = table(values), anova(table(values)).set_index("effect").ss
    columns, left = np.ones((len(rows), 1)), float(np.sum((rows.h_AB - rows.h_AB.mean()) ** 2))
    for effect in [*EFFECTS, "source:sampler:prompt:text"]:
        dummies = pd.get_dummies(rows[effect.split(":")].astype(str).agg("/".join, axis=1)).to_numpy(float)
        columns = np.hstack([columns, dummies])
        fit = columns @ np.linalg.lstsq(columns, rows.h_AB, rcond=1e-9)[0]
        residual = float(np.sum((rows.h_AB - fit) ** 2))
        assert found["text" if effect.endswith("text") else effect] == pytest.approx(left - residual, abs=1e-9), effect
        left = residual
    assert found["text:scorer"] == pytest.approx(left, abs=1e-9)


def test_the_anova_is_that_of_statsmodels():
    smf = pytest.importorskip("statsmodels.formula.api")
    from statsmodels.stats.anova import anova_lm

    values = means((3, 2, 2, 3))[:, :, :, None] + noise(np.random.default_rng(4), (3, 2, 2, 5, 3))
    rows = table(values)
    rows["unit"] = rows[["source", "sampler", "prompt", "text"]].astype(str).agg("/".join, axis=1)
    found = anova(rows).set_index("effect")
    of_texts = rows.groupby(["unit", "source", "sampler", "prompt"], as_index=False).h_AB.mean()
    between = anova_lm(smf.ols("h_AB ~ source * C(sampler) * C(prompt)", of_texts).fit())
    profiles = rows.assign(h_AB=rows.h_AB - rows.groupby("unit").h_AB.transform("mean"))
    within = anova_lm(smf.ols("h_AB ~ source * C(sampler) * C(prompt) * scorer", profiles).fit())
    for theirs, times, error in ((between, 3, "text"), (within, 1, "text:scorer")):
        residual = theirs.sum_sq["Residual"] / found.df[error]  # of profiles a fit does not know the degrees of freedom
        for name, row in theirs.drop("Residual").iterrows():
            effect = ":".join(sorted(name.replace("C(", "").replace(")", "").split(":"), key=FACTORS.index))
            if times == 3 or effect.endswith("scorer"):
                ours = list(found.loc[effect, ["ss", "f"]])
                assert [times * row.sum_sq, row.sum_sq / row.df / residual] == pytest.approx(ours), effect
            if times == 3:
                assert row["PR(>F)"] == pytest.approx(found.p[effect])
    mixed = smf.mixedlm("h_AB ~ source * C(sampler) * C(prompt) * scorer", rows, groups=rows.unit).fit(reml=True)
    ours = decomposition(rows, rng=np.random.default_rng(0), resamples=9, permutations=9).set_index("effect").component
    assert float(mixed.cov_re.iloc[0, 0]) + mixed.scale == pytest.approx(ours["text"] + ours["text:scorer"], rel=1e-3)
    assert 2 / 3 * mixed.scale == pytest.approx(ours["text:scorer"], rel=1e-3)


def test_factors_with_one_level_have_no_row():
    values = noise(np.random.default_rng(5), (3, 1, 1, 6, 3))
    assert list(anova(table(values)).effect) == ["source", "text", "scorer", "source:scorer", "text:scorer"]
    one = decomposition(table(values[..., :1]), rng=np.random.default_rng(0), resamples=9, permutations=9)
    assert list(one.effect) == ["source", "text"]
    assert list(anova(table(values[..., :1])).effect) == ["source", "text"]


# ------------------------------------------------------------------------------------------------------- off the diagonal


def test_off_the_diagonal_source_and_scorer_are_fitted_together():
    """Noiseless and additive: the effects come back whatever stands on the diagonal, with their covariance."""
    a, b = np.array([0.5, -0.1, -0.3, -0.1]), np.array([0.2, 0.1, -0.4, 0.1])
    mu = 3 + a[:, None] + b[None]
    np.fill_diagonal(mu, -7)
    rows = table(np.repeat(mu[:, None, None, None], 3, axis=3))
    found = decomposition(rows, rng=np.random.default_rng(0), diagonal=False, resamples=9, permutations=9)
    by = found.set_index("effect").component
    assert by["source"] == pytest.approx(np.mean(a**2)) and by["scorer"] == pytest.approx(np.mean(b**2))
    assert by["source & scorer"] == pytest.approx(-2 * np.sum(a * b) / 12)
    assert by["source:scorer"] == pytest.approx(0, abs=1e-12)
    assert by.sum() == pytest.approx(np.var(mu[~np.eye(4, dtype=bool)]))


def test_the_effects_are_those_of_a_round_robin():
    """Warner, Kenny & Stoto 1979, equations for actor and partner effects in a group of n."""
    mu, n = np.random.default_rng(6).normal(size=(5, 5)), 5
    off = np.where(np.eye(n, dtype=bool), np.nan, mu)
    row, column, whole = np.nanmean(off, axis=1), np.nanmean(off, axis=0), np.nanmean(off)
    weights = np.array([(n - 1) ** 2, n - 1, -n * (n - 1)]) / (n * (n - 2))
    actor, partner = (weights @ np.stack([x, y, np.full(n, whole)]) for x, y in ((row, column), (column, row)))
    rest = off - whole - actor[:, None] - partner
    rows = table(np.repeat(mu[:, None, None, None], 2, axis=3))
    by = decomposition(rows, rng=np.random.default_rng(0), diagonal=False, resamples=9, permutations=9)
    by = by.set_index("effect").component
    assert by["source"] == pytest.approx(np.mean(actor**2)) and by["scorer"] == pytest.approx(np.mean(partner**2))
    assert by["source:scorer"] == pytest.approx(np.nanmean(rest**2))
    assert by.sum() == pytest.approx(np.nanvar(off))


def test_off_the_diagonal_the_components_are_unbiased():
    shape, rng = (4, 1, 2, 4), np.random.default_rng(7)
    mu = means(shape)
    options = {"rng": rng, "diagonal": False, "resamples": 1, "permutations": 1}
    clean = decomposition(table(np.repeat(mu[:, :, :, None], 2, axis=3)), **options).set_index("effect").component
    found = []
    for _ in range(80):
        values = mu[:, :, :, None] + noise(rng, (4, 1, 2, 3, 4), "uneven")
        found.append(decomposition(table(values), **options).set_index("effect").component)
    found = pd.DataFrame(found)
    z = (found.mean() - clean) / found.sem()
    assert (np.abs(z[[name for name in z.index if not name.startswith("text")]]) < 4).all()  # of 11: a chance of 7e-4


# -------------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(("diagonal", "kind", "repetitions"), [(True, "normal", 60), (False, "uneven", 60)])
def test_intervals_cover_components_and_shares(diagonal, kind, repetitions):
    """Nominal 95%; over all effects and repetitions together at least 92.5%, no effect rejected as below 95% at 1e-4.

    Intervals of effects that are zero may cover more: their lower end is cut off at 0.
    """
    shape, rng = (4, 1, 2, 4), np.random.default_rng(8)
    mu, size = means(shape), (4, 1, 2, 12, 4)
    options = {"diagonal": diagonal, "permutations": 1}
    clean = decomposition(table(np.repeat(mu[:, :, :, None], 2, axis=3)), rng=rng, resamples=1, **options)
    large = table(noise(rng, (4, 1, 2, 20_000, 4), kind))
    spread = decomposition(large, rng=rng, resamples=1, **options).component.to_numpy()[-2:]
    truth = np.append(clean.component.to_numpy()[:-2], spread)
    hits = np.zeros((2, len(truth)))
    for _ in range(repetitions):
        values = mu[:, :, :, None] + noise(rng, size, kind)
        found = decomposition(table(values), rng=rng, resamples=399, **options)
        for k, (low, high, x) in enumerate(
            (("component_low", "component_high", truth), ("low", "high", truth / truth.sum()))
        ):
            hits[k] += ((found[low] <= x + 1e-9) & (x - 1e-9 <= found[high])).to_numpy()
    assert (hits.mean(axis=1) >= 0.925 * repetitions).all()
    assert (stats.binom.cdf(hits, repetitions, 0.95) > 1e-4).all(), dict(zip(clean.effect, hits.T, strict=True))


A = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], name="A")
B = MarkovChain([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], name="B")
FAR = MarkovChain([[0.05, 0.05, 0.9], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], [0.2, 0.5, 0.3], name="far")
CHAINS = {"A": A, "B": B, "far": FAR}


SAMPLERS, PROMPTS = {"ancestral": ancestral(), "cold": temperature(0.7)}, ((0,), (1,))
TEXTS, EXPERIMENTS = 20, 40


@pytest.fixture(scope="module")
def markov() -> pd.DataFrame:
    """Texts of 30 symbols of every chain, with both samplers after both prompts, under every chain."""
    parts = []
    cells = [(a, s, p) for a in CHAINS for s in SAMPLERS for p in PROMPTS]
    for seed, (a, s, p) in enumerate(cells):
        for b in CHAINS:
            options = {
                "texts": TEXTS * EXPERIMENTS,
                "tokens": 30,
                "seed": 900 + seed,
                "adaptor": SAMPLERS[s],
                "prompt": p,
            }
            columns = pair_columns(drawn_pair(CHAINS[a], CHAINS[b], **options), SAMPLERS[s])
            part = pd.DataFrame({name: columns[name] for name in ("h_AB", "kl")})
            parts.append(part.assign(source=a, sampler=s, prompt=p[0], scorer=b, text=np.arange(len(part))))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("value", ["h_AB", "kl"])
def test_intervals_cover_the_exact_components_of_markov_pairs(markov, value):
    """40 experiments of 20 texts per cell; skewed and uneven by nature. Over all effects at least 92.5%,
    and none rejected as below 90%."""
    cells = [[[(a, b, s, p) for b in CHAINS] for p in PROMPTS] for a in CHAINS for s in SAMPLERS]
    expected = {
        (a, b, s, p): getattr(expected_pair(CHAINS[a], CHAINS[b], 30, prompt=p, adaptor=SAMPLERS[s]), value)
        for a in CHAINS
        for b in CHAINS
        for s in SAMPLERS
        for p in PROMPTS
    }
    mu = np.array([[[expected[key] for key in row] for row in cell] for cell in cells]).reshape(3, 2, 2, 3)
    truth, rng, hits = exact(mu), np.random.default_rng(10), dict.fromkeys(EFFECTS, 0)
    for r in range(EXPERIMENTS):
        part = markov[markov.text // TEXTS == r]
        found = decomposition(part, value, rng=rng, resamples=399, permutations=1).set_index("effect")
        for effect, size in truth.items():
            hits[effect] += bool(found.component_low[effect] - 1e-9 <= size <= found.component_high[effect] + 1e-9)
    assert sum(hits.values()) >= 0.925 * EXPERIMENTS * len(hits), hits
    assert stats.binom.cdf(min(hits.values()), EXPERIMENTS, 0.9) > 1e-3 / len(hits), hits


# ------------------------------------------------------------------------------------------------------------------ tests


def test_p_values_of_a_complete_null_are_uniform():
    """Exact tests by Kolmogorov-Smirnov, sign flips by their level."""
    rng, repetitions, m = np.random.default_rng(12), 100, 59
    found = []
    for _ in range(repetitions):
        rows = table(rng.normal(size=(2, 2, 2, 4, 3)) + rng.standard_exponential((2, 2, 2, 4, 1)))
        found.append(decomposition(rows, rng=rng, resamples=1, permutations=m).set_index("effect"))
    p, exact_p = (pd.DataFrame([x[name] for x in found])[EFFECTS] for name in ("p", "p_exact"))
    exactly = [*FACTORS, "source:scorer", "sampler:scorer", "prompt:scorer"]
    assert list(exact_p.columns[exact_p.notna().all()]) == [e for e in EFFECTS if e in exactly]
    for effect in EFFECTS:
        below = int((p[effect] <= 0.05).sum())
        assert stats.binom.sf(below - 1, repetitions, 0.05) > 1e-4 / 3, (effect, below)
    for effect in exactly:  # uniform on {1/(m+1), ..., 1}
        jittered = exact_p[effect] - rng.random(repetitions) / (m + 1)
        assert stats.kstest(jittered, "uniform").pvalue > 1e-4 / 3, effect


def test_the_scorer_is_found_under_an_interaction_by_the_test_of_its_own_effect_only():
    values = noise(np.random.default_rng(18), (3, 1, 1, 12, 3)) - 2 * np.eye(3)[:, None, None, None, :]
    values[..., 0] += 0.15
    found = decomposition(table(values), rng=np.random.default_rng(0), resamples=9, permutations=199).set_index(
        "effect"
    )
    assert found.p["scorer"] == 1 / 200 and found.p_exact["scorer"] > 0.2


def test_strong_effects_have_the_smallest_p_value_there_is():
    values = means((3, 2, 2, 3))[:, :, :, None] + 0.1 * noise(np.random.default_rng(13), (3, 2, 2, 8, 3))
    for diagonal in (True, False):
        found = decomposition(
            table(values), rng=np.random.default_rng(0), diagonal=diagonal, resamples=9, permutations=199
        )
        p = found.set_index("effect").p
        assert (p[["source", "scorer", "source:scorer"]] == 1 / 200).all() and p["prompt"] < 0.05
        assert p["sampler"] > 1 / 200 and p[["text", "text:scorer"]].isna().all()


def test_permuting_by_hand_gives_the_same_test():
    """Two sources, one cell each: all 70 ways to share 8 texts out, against 9,999 random ones."""
    values = noise(np.random.default_rng(14), (2, 1, 1, 4, 2))
    values[0] += 0.25
    text = values.mean(axis=-1).ravel()
    ways = [abs(text[list(c)].mean() - np.delete(text, c).mean()) for c in combinations(range(8), 4)]
    exact_p = np.mean(np.array(ways) >= ways[0] * (1 - 1e-9))
    found = decomposition(table(values), rng=np.random.default_rng(0), resamples=9, permutations=9999)
    assert found.p_exact[0] == pytest.approx(exact_p, abs=4 * np.sqrt(exact_p * (1 - exact_p) / 9999))


def test_permuted_authors_leave_nothing_to_the_source():
    """The negative control; what is between scorers and prompts stays."""
    rng, p = np.random.default_rng(15), []
    values = means((3, 2, 2, 3))[:, :, :, None] + noise(rng, (3, 2, 2, 6, 3))
    rows = table(values).assign(record=1)
    for _ in range(60):
        control = permuted_authors(rows, rng)
        found = decomposition(control, rng=rng, resamples=1, permutations=59).set_index("effect")
        p.append(found.p_exact[["source", "source:scorer", "scorer"]])
    p = pd.DataFrame(p)
    for effect in ("source", "source:scorer"):
        assert stats.kstest(p[effect] - rng.random(60) / 60, "uniform").pvalue > 5e-4
    assert (p.scorer <= 0.05).mean() > 0.95
    assert "record" not in control and control.groupby(["source", "sampler", "prompt", "scorer"]).size().eq(6).all()
    key = ["sampler", "prompt", "scorer"]
    for name, part in control.groupby(key):
        before = rows.set_index(key).loc[name].h_AB
        assert sorted(part.h_AB) == sorted(before)  # whole texts, within sampler and prompt


# ----------------------------------------------------------------------------------------------------------- what is refused


def test_the_same_generator_gives_the_same_table():
    rows = table(noise(np.random.default_rng(16), (3, 1, 2, 4, 3)))
    options = {"resamples": 49, "permutations": 49}
    one, two, other = (decomposition(rows, rng=np.random.default_rng(s), **options) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(other)


def test_what_cannot_be_decomposed_is_refused_in_one_line():
    rows, rng = table(noise(np.random.default_rng(17), (2, 1, 2, 3, 2))), np.random.default_rng(0)
    with pytest.raises(ParameterError, match="not balanced"):
        decomposition(rows.iloc[1:], rng=rng)
    with pytest.raises(ParameterError, match="not balanced"):
        decomposition(pd.concat([rows, rows]), rng=rng)
    with pytest.raises(ParameterError, match="not balanced"):
        anova(rows[(rows.source == "m0") | (rows.prompt == 0)])
    with pytest.raises(ParameterError, match="1 text in every cell"):
        anova(rows[rows.text == 0])
    with pytest.raises(ParameterError, match="unknown column 'h_ab': did you mean 'h_AB'"):
        decomposition(rows, "h_ab", rng=rng)
    with pytest.raises(ParameterError, match="'h_AB' has 12 values that are not finite"):
        decomposition(rows.assign(h_AB=rows.h_AB.where(rows.scorer == "m0", np.inf)), rng=rng)
    with pytest.raises(ParameterError, match="the same three or more"):
        decomposition(rows, rng=rng, diagonal=False)
    with pytest.raises(ParameterError, match="does not vary"):
        decomposition(rows.assign(h_AB=1.0), rng=rng)
    with pytest.raises(ParameterError, match="permutations=0"):
        decomposition(rows, rng=rng, permutations=0)
    with pytest.raises(ParameterError, match="unknown column 'source'"):
        permuted_authors(rows.drop(columns="source"), rng)


# ---------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("diagonal", [True, False])
def test_the_shares_are_drawn_with_a_row_per_effect_and_open_where_there_is_no_evidence(diagonal):
    values = means((3, 2, 2, 3))[:, :, :, None] + noise(np.random.default_rng(19), (3, 2, 2, 8, 3))
    found = decomposition(table(values), rng=np.random.default_rng(0), diagonal=diagonal, resamples=49, permutations=49)
    figure, ax = plotting.figure()
    draw.plot_shares(ax, found)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [effect.replace(":", " × ") for effect in found.effect]
    marks = [line for line in ax.get_lines() if line.get_marker() not in ("None", "")]
    assert len(marks) == len(found)
    for mark, row in zip(marks, found.itertuples(), strict=True):
        x, y = (float(np.ravel(v)[0]) for v in mark.get_data())
        assert y == row.Index and x == pytest.approx(100 * (row.share if "&" in row.effect else max(row.share, 0)))
        untested = row.effect.startswith("text") or "&" in row.effect
        assert (mark.get_markerfacecolor() != "white") == (untested or row.p <= 0.05)
    assert ax.get_xlabel() == "share of the variance (%)"
    plotting.plt.close(figure)
