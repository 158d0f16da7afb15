"""The planner on exact languages and on a small network: plans cover at their level, the observed length has its interval.

Seeds were fixed before the first run; every binomial test rejects a correct build with probability of at most .001.
"""

import numpy as np
import pytest
from scipy import stats

import aep
from aep import plotting
from aep.analysis.bounds import coverage_at, plan_tokens
from aep.analysis.eprocess import time_uniform_band
from aep.analysis.planning import ARGUMENTS, largest_deviation, reached, time_uniform_tokens, tokens_needed
from aep.analysis.typicality import Paths, running_mean
from aep.errors import ParameterError
from aep.languages import FiniteLanguage
from aep.plotting import planning as draw
from aep.reduction import row_columns
from exact_paths import LANGUAGES, of_steps, part, sampled

LEVEL, TEXTS, TOKENS = 0.1, 2000, 200
EPSILON = {"zipf": 0.4, "markov": 0.15, "hidden markov": 0.14, "mixture": 0.13}
PILOT = dict(zip(LANGUAGES, (721, 722, 723, 724), strict=True))
FRESH = dict(zip(LANGUAGES, (731, 732, 733, 734), strict=True))
BOUND = {
    "zipf": largest_deviation(LANGUAGES["zipf"].log_p[None]),
    "markov": largest_deviation(LANGUAGES["markov"].log_transition),
    "hidden markov": float(-np.log(LANGUAGES["hidden markov"].emission.min())),
}


def table_of(name: str, **options):
    """Pilots of 200 texts of 150 tokens, 2,000 fresh texts of 200."""
    pilot = sampled(name, PILOT[name], texts=200, tokens=150)
    found = tokens_needed(
        pilot,
        sampled(name, FRESH[name], tokens=TOKENS),
        name,
        epsilons=[EPSILON[name]],
        level=LEVEL,
        bound=BOUND.get(name),
        **options,
    )
    return found.set_index("argument")


# ----------------------------------------------------------------------------------------- coverage at the planned length


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_plan_covers_at_its_level_on_fresh_texts_of_an_exact_language(name, capsys):
    """One-sided at .1% for the bounds; two-sided for the CLT, whose coverage is to be 1 - level and no more."""
    table = table_of(name)
    with capsys.disabled():
        print(f"\n{name}\n{table[['tokens', 'low', 'high', 'coverage', 'note']].round(3)}")
    for argument in ARGUMENTS:
        row = table.loc[argument]
        if np.isnan(row.coverage):
            assert (argument, name) == ("Freedman", "mixture") or "beyond" in row.note
            continue
        missed = round((1 - row.coverage) * TEXTS)
        assert stats.binomtest(missed, TEXTS, LEVEL, alternative="greater").pvalue > 0.001, argument
        assert row.coverage_low < row.coverage <= row.coverage_high
    assert table.loc[["CLT", "Chebyshev", "Rényi-Chernoff"]].coverage.notna().all()
    if name != "mixture":  # two chains of different varentropy: a mixture of two normal laws, not one
        missed = round((1 - table.coverage["CLT"]) * TEXTS)
        assert stats.binomtest(missed, TEXTS, LEVEL).pvalue > 0.001
    assert table.tokens["CLT"] == table.tokens[list(ARGUMENTS)].min()


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_plan_made_of_half_the_variance_is_seen_not_to_cover(name):
    """Negative control, for each argument that is near enough to the truth to fail: the normal one."""
    pilot = sampled(name, PILOT[name], texts=200, tokens=150)
    half = pilot._replace(varentropy=pilot.varentropy / 2)
    table = tokens_needed(half, sampled(name, FRESH[name], tokens=TOKENS), name, epsilons=[EPSILON[name]], level=LEVEL)
    missed = round((1 - table.set_index("argument").coverage["CLT"]) * TEXTS)
    assert stats.binomtest(missed, TEXTS, LEVEL, alternative="greater").pvalue < 1e-6


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_observed_length_lies_where_the_normal_plan_said_and_below_every_bound(name):
    table = table_of(name)
    seen = table.loc["observed"]
    assert seen.low <= seen.tokens <= seen.high
    assert 0.75 * seen.low <= table.tokens["CLT"] <= 1.25 * seen.high
    for argument in ("Chebyshev", "Rényi-Chernoff"):
        assert seen.low < table.tokens[argument]
    assert table.tokens["observed, staying"] > seen.tokens
    assert np.isnan(seen.coverage)  # a share counted on the texts that chose T is no coverage


def test_the_plans_cover_on_a_network():
    """docs-100k, ε = .8 at level .1: 400 fresh texts, plans of 80 others; a sixth of the normal length does not cover."""
    language = aep.load("docs-100k")

    def scored(seed: int, texts: int, tokens: int):
        drawn = aep.sample(language, "The function", texts=texts, tokens=tokens, seed=seed, record=True, batch=400)
        return drawn.records

    pilot, fresh = scored(741, 80, 40), scored(742, 400, 50)
    table = tokens_needed(pilot, fresh, language.name, epsilons=[0.8], level=0.1).set_index("argument")
    reachable = table[table.coverage.notna()]
    assert {"CLT", "Rényi-Chernoff"} <= set(reachable.index)
    for row in reachable.itertuples():
        missed = round((1 - row.coverage) * 400)
        assert stats.binomtest(missed, 400, 0.1, alternative="greater").pvalue > 0.001, row.Index
    assert table.note["Freedman"] == "needs a bound on |a - H|" and np.isinf(table.tokens["Freedman"])
    covered = coverage_at(Paths.of(fresh), max(1, int(table.tokens["CLT"]) // 6), 0.8)
    assert stats.binomtest(round((1 - covered) * 400), 400, 0.1, alternative="greater").pvalue < 1e-6


# --------------------------------------------------------------------------------------------------- the observed length


def literal(inside: np.ndarray, least: float) -> float:
    """The smallest T with a share of at least `least` at every t >= T; NaN if there is none."""
    n, tokens = inside.shape
    good = [
        t for t in range(1, tokens + 1) if all(inside[:, s].sum() >= least * n - 1e-9 for s in range(t - 1, tokens))
    ]
    return min(good, default=np.nan)


def two_letters(p: float, epsilon: float, tokens: int) -> np.ndarray:
    """P(|l_t - H| <= ε) at t = 1 ... tokens for independent symbols of probabilities p and 1-p: sums over binomial laws."""
    entropy = -p * np.log(p) - (1 - p) * np.log1p(-p)
    exact = []
    for t in range(1, tokens + 1):
        k = np.arange(t + 1)
        l = -(k * np.log(p) + (t - k) * np.log1p(-p)) / t
        exact.append(stats.binom(t, p).pmf(k) @ (np.abs(l - entropy) <= epsilon))
    return np.array(exact)


def test_the_interval_of_the_observed_length_covers_the_exact_one_on_each_side():
    """600 samples of 200 texts of two letters, whose exact c(t) is a sawtooth: each end misses at most 2.5% of the time."""
    p, epsilon, tokens, texts, level = 0.7, 0.15, 120, 200, 0.1
    exact = two_letters(p, epsilon, tokens)
    assert np.any(np.diff(exact) < -0.03)  # not monotone
    true = 2 + int(np.flatnonzero(exact < 1 - level)[-1])
    other = 2 + int(np.flatnonzero(exact < 1 - 3 * level)[-1])
    rng, a = np.random.default_rng(751), -np.log([p, 1 - p])
    entropy, below, above, wrong = p * a[0] + (1 - p) * a[1], 0, 0, 0
    for _ in range(600):
        surprisal = a[(rng.random((texts, tokens)) >= p).astype(int)]
        gap = np.cumsum(surprisal - entropy, axis=1) / np.arange(1, tokens + 1)
        found = reached(np.abs(gap) <= epsilon, level)
        below, above = below + (found.high < true), above + (found.low > true)
        wrong += not found.low <= other <= found.high
    for missed in (below, above):
        assert stats.binomtest(missed, 600, 0.025, alternative="greater").pvalue > 0.001
    assert wrong > 0.5 * 600  # negative control: it is not so wide as to hold the length of another level


def test_the_observed_length_is_its_definition_and_is_never_extrapolated():
    rng = np.random.default_rng(752)
    for scale in (0.05, 0.2, 0.6, 3.0):
        inside = np.abs(np.cumsum(rng.normal(0, scale, (60, 40)), axis=1) / np.arange(1, 41)) <= 0.1
        for level in (0.05, 0.3):
            found = reached(inside, level)
            np.testing.assert_equal(found.tokens, literal(inside, 1 - level))
            assert np.isnan(found.tokens) or found.low <= found.tokens <= found.high
            limits = [stats.binomtest(int(k), 60).proportion_ci(0.95) for k in inside.sum(axis=0)]
            low = [t + 1 for t, ci in enumerate(limits) if ci.high >= 1 - level]
            assert found.low == min(low, default=41)
            fails = [t + 1 for t, ci in enumerate(limits) if ci.low < 1 - level]
            assert found.high == (np.inf if fails and fails[-1] == 40 else max(fails, default=0) + 1)
    none = reached(np.zeros((60, 5), bool), 0.05)
    assert np.isnan(none.tokens) and none.low == 6 and none.high == np.inf
    few = reached(np.ones((20, 5), bool), 0.05)  # 20 hits of 20 do not show a share of 95%
    assert few == (1.0, 1.0, np.inf)
    with pytest.raises(ParameterError, match="level=1.5"):
        reached(np.ones((20, 5), bool), 1.5)


def test_a_length_beyond_the_sample_is_said_to_be_so():
    pilot, fresh = (
        sampled("markov", 722, texts=200, tokens=150),
        part(sampled("markov", 732, tokens=TOKENS), slice(300), 20),
    )
    table = tokens_needed(pilot, fresh, "chain", epsilons=[0.05], level=0.05).set_index("argument")
    assert (table.sampled == 20).all()
    for argument in ("CLT", "Chebyshev"):
        assert table.note[argument] == "beyond the 20 sampled tokens"
        assert np.isnan(table.coverage[argument]) and np.isfinite(table.tokens[argument])
    seen = table.loc["observed"]
    assert np.isnan(seen.tokens) and seen.low == 21 and np.isinf(seen.high)
    assert seen.note == "not reached in 20 tokens"
    fine = tokens_needed(pilot, fresh, "chain", epsilons=[1e-5], level=0.05).set_index("argument")
    for argument in ("Rényi-Chernoff", "time-uniform"):
        assert np.isinf(fine.tokens[argument]) and fine.note[argument] == "no exponent is small enough"


# --------------------------------------------------------------------------------------------------------------- the plans


def test_plans_are_those_of_the_planner_and_carry_the_interval_of_their_pilot():
    pilot, fresh = (
        sampled("markov", 722, texts=200, tokens=150),
        part(sampled("markov", 732, tokens=TOKENS), slice(100), 50),
    )
    table = tokens_needed(pilot, fresh, "chain", epsilons=[0.1, 0.2], level=0.05, bound=1.0)
    assert len(table) == 2 * (len(ARGUMENTS) + 2)
    for epsilon, part_ in table.groupby("epsilon"):
        rows = part_.set_index("argument")
        assert tuple(rows.tokens[list(ARGUMENTS[:4])]) == plan_tokens(pilot, epsilon, 0.05, bound=1.0)
        assert rows.tokens["time-uniform"] == time_uniform_tokens(pilot, epsilon, 0.05)
        plans = rows.loc[list(ARGUMENTS)]
        assert (plans.low < plans.tokens).all() and (plans.tokens < plans.high).all()
        assert (rows.variance == np.mean(pilot.varentropy)).all()


def test_coverage_is_counted_at_the_planned_length_and_for_the_time_uniform_plan_from_there_on():
    """A plan made of a twentieth of the true spread, so that texts leave again after the planned length."""
    pilot, fresh = (
        sampled("markov", 722, texts=200, tokens=150),
        part(sampled("markov", 732, tokens=TOKENS), slice(300)),
    )
    mean = float(np.mean(pilot.entropy))
    flat = pilot._replace(varentropy=pilot.varentropy / 20)
    flat = flat._replace(log_partition={s: (1 - s) * mean + 0 * x for s, x in pilot.log_partition.items()})
    table = tokens_needed(flat, fresh, "chain", epsilons=[0.2], level=0.05).set_index("argument")
    gap = np.abs(running_mean(fresh.surprisal - fresh.entropy)) <= 0.2
    at, uniform = int(table.tokens["CLT"]), int(table.tokens["time-uniform"])
    assert table.coverage["CLT"] == np.mean(gap[:, at - 1])
    assert table.coverage["time-uniform"] == np.mean(gap[:, uniform - 1 :].all(axis=1)) < np.mean(gap[:, uniform - 1])


def test_the_interval_of_a_plan_covers_the_plan_of_the_exact_variance():
    """50 pilots of 60 texts of 25 symbols; at a coverage of 93% rejected with probability .001."""
    chain, hits = LANGUAGES["markov"], 0
    exact = stats.norm.isf(0.05) ** 2 * chain.expected(25).sum_varentropy / 25 / 1e-4
    drawn, fresh = (
        sampled("markov", 753, texts=3000, tokens=25),
        part(sampled("markov", 732, tokens=TOKENS), slice(50), 5),
    )
    for k in range(50):
        table = tokens_needed(part(drawn, slice(60 * k, 60 * k + 60)), fresh, "chain", epsilons=[0.01], level=0.1)
        hits += table.low[0] <= exact <= table.high[0]
    assert stats.binomtest(hits, 50, 0.93, alternative="less").pvalue > 0.001
    assert not table.low[0] <= exact / 2 <= table.high[0]


@pytest.mark.parametrize("p", [[0.6, 0.3, 0.1], [0.97, 0.03]])
def test_the_time_uniform_length_is_where_the_band_of_such_a_text_enters_the_tolerance(p):
    log_p = FiniteLanguage(p).log_p
    steps = [row_columns(log_p[None], np.array([0])) for _ in range(3000)]
    band, entropy = time_uniform_band(of_steps(steps), 0.05), steps[0]["entropy"][0]
    wide = np.maximum(band.high[0] - entropy, entropy - band.low[0])
    for epsilon in (0.15, 0.3):
        tokens = int(time_uniform_tokens(of_steps(steps[:1]), epsilon, 0.05))
        assert wide[tokens - 2] > epsilon >= wide[tokens - 1]
        assert np.all(wide[tokens - 1 :] <= epsilon)


def test_the_largest_deviation_is_a_maximum_over_tokens_that_can_come():
    rows = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    literal = [abs(-np.log(p) + sum(q * np.log(q) for q in row if q)) for row in rows for p in row if p]
    with np.errstate(divide="ignore"):
        assert largest_deviation(np.log(rows)) == pytest.approx(max(literal))
    fresh = sampled("markov", 732, tokens=TOKENS)
    assert np.abs(fresh.surprisal - fresh.entropy).max() <= BOUND["markov"] + 1e-12
    fresh = sampled("hidden markov", 733, tokens=TOKENS)
    assert np.abs(fresh.surprisal - fresh.entropy).max() <= BOUND["hidden markov"]


def test_texts_without_any_variance_need_one_token():
    steps = [row_columns(np.log(np.full((60, 4), 0.25)), np.zeros(60, int)) for _ in range(30)]
    table = tokens_needed(of_steps(steps), of_steps(steps), "uniform").set_index("argument")
    assert table.tokens["CLT"] == table.tokens["Chebyshev"] == table.tokens["observed"] == 1
    assert table.coverage["CLT"] == 1


# ------------------------------------------------------------------------------------------------------- what is refused


def records(language, seed: int, texts: int = 60, tokens: int = 20):
    return aep.score(aep.sample(language, texts=texts, tokens=tokens, seed=seed), language)


def test_a_pilot_that_shares_texts_with_the_fresh_sample_is_refused():
    chain = LANGUAGES["markov"]
    pilot = records(chain, 1)
    assert len(tokens_needed(pilot, records(chain, 2), "chain")) == len(ARGUMENTS) + 2
    with pytest.raises(ParameterError, match=r"share 60 texts \(seed 1\): draw one of them with another seed"):
        tokens_needed(pilot, records(chain, 1, texts=100), "chain")
    with pytest.raises(ParameterError, match="one sample cut at two lengths"):
        tokens_needed(pilot, records(chain, 1, tokens=30), "chain")
    whole = records(chain, 3, texts=120)
    tokens_needed(whole.select(range(60)), whole.select(range(60, 120)), "chain")  # one sample, split: no text in both


def test_other_misuse_is_refused_in_one_line():
    chain, other = LANGUAGES["markov"], LANGUAGES["hidden markov"]
    with pytest.raises(ParameterError, match=r"under markov\(3\), the fresh texts under hidden_markov"):
        tokens_needed(records(chain, 1), records(other, 2), "chain")
    with pytest.raises(ParameterError, match="pilot: 20 texts are too few, at least 50"):
        tokens_needed(records(chain, 1, texts=20), records(chain, 2), "chain")
    with pytest.raises(ParameterError, match="fresh: 20 texts are too few"):
        tokens_needed(records(chain, 1), records(chain, 2, texts=20), "chain")
    with pytest.raises(ParameterError, match="epsilon=-0.1"):
        tokens_needed(records(chain, 1), records(chain, 2), "chain", epsilons=[-0.1])


# ---------------------------------------------------------------------------------------------------------------- drawing


def test_the_panel_shows_every_finite_length_and_marks_what_was_not_reached():
    plotting.use_style()
    pilot, fresh = (
        sampled("markov", 722, texts=200, tokens=150),
        part(sampled("markov", 732, tokens=TOKENS), slice(300), 60),
    )
    table = tokens_needed(pilot, fresh, "chain", epsilons=[0.1], level=0.05)
    figure, ax = plotting.figure()
    draw.plot_tokens_needed(ax, table)
    labels = ax.get_legend_handles_labels()[1]
    assert "Freedman" not in labels and {"CLT", "Chebyshev", "observed"} <= set(labels)
    assert ax.get_yscale() == "log" and ax.get_ylim()[1] > table.tokens[np.isfinite(table.tokens)].max()
    plotting.plt.close(figure)
