"""The optimum of KL-regularised alignment: estimates from samples against finite languages and the word-tilted grammar."""

import functools

import numpy as np
import pytest
from scipy import optimize as roots
from scipy import special

from aep import optimum
from aep.errors import ParameterError
from aep.languages import Grammar
from aep.languages.grammar_algebra import least_fixed_point

STRINGS, BETA = 40, 0.5
P = np.random.default_rng(0).dirichlet(np.ones(STRINGS))
R = np.random.default_rng(1).normal(size=STRINGS)
LOG_P, LOG_Z = np.log(P), float(special.logsumexp(np.log(P) + R / BETA))
BEST = np.exp(LOG_P + R / BETA - LOG_Z)
SKEWED = special.softmax(np.log(BEST) + 0.3 * np.random.default_rng(2).normal(size=STRINGS))


def tilted(s):
    """p exp(s r), normalised, by enumeration."""
    return special.softmax(LOG_P + s * R)


def divergence(a, b):
    return float(a @ (np.log(a) - np.log(b)))


def drawn(law, n, rng):
    """Indices of n strings; log p, log of the law, reward."""
    i = rng.choice(STRINGS, n, p=law)
    return LOG_P[i], np.log(law)[i], R[i]


def check_calibrated(statistic, law, true, runs=200, n=1000, seed=0):
    """Over samples of n strings the intervals hold the true value about as often as they say, and are no wider than needed.

    176 of 200 or fewer has a chance of 1e-4 at a coverage of .95, and of 1% at .92; the mean width against the standard
    deviation of the estimates has a standard error of 5%.
    """
    rng = np.random.default_rng(seed)
    found = [statistic(*drawn(law, n, rng)) for _ in range(runs)]
    assert sum(f.low <= true <= f.high for f in found) >= 0.885 * runs
    width = np.mean([f.high - f.low for f in found])
    assert width == pytest.approx(2 * 1.96 * np.std([f.estimate for f in found]), rel=0.2)


def near(found, true, errors=4.0):
    """Whether an interval, widened to that many standard errors, holds the true value (chance of a miss 6e-5)."""
    half = (found.high - found.low) / 2 / 1.96
    return abs(found.estimate - true) < errors * half


def test_the_enumerated_objective_has_its_maximum_beta_log_z_at_the_tilted_law_and_falls_short_by_the_kl():
    for law in (P, BEST, SKEWED, tilted(0.7)):
        objective = law @ R - BETA * divergence(law, P)
        assert BETA * LOG_Z - objective == pytest.approx(BETA * divergence(law, BEST), abs=1e-12)


def test_at_the_optimum_every_text_gives_the_normaliser_and_nothing_falls_short():
    columns = drawn(BEST, 50, np.random.default_rng(0))
    found = optimum.log_normaliser(*columns, BETA)
    assert found[:3] == pytest.approx((LOG_Z,) * 3, abs=1e-12)
    assert found.effective == pytest.approx(50) and np.isnan(found.pareto_k)  # weights that are all equal have no tail
    assert found.optimum(BETA) == pytest.approx((BETA * LOG_Z,) * 3)
    assert optimum.shortfall(*columns, BETA).high == pytest.approx(0, abs=1e-12)
    slope, correlation, spread = optimum.slope_and_correlation(*columns, BETA)
    assert (slope.estimate, correlation.estimate, spread) == pytest.approx((1, 1, 0), abs=1e-9)
    assert optimum.reward_at_kl(*columns).beta == pytest.approx(BETA)


@pytest.mark.parametrize("law", [P, SKEWED], ids=["prior", "policy"])
def test_the_interval_of_the_log_normaliser_covers_it(law):
    check_calibrated(lambda *c: optimum.log_normaliser(*c, BETA), law, LOG_Z)


def test_the_policy_is_a_better_proposal_than_the_prior():
    rng = np.random.default_rng(0)
    prior, policy = (optimum.log_normaliser(*drawn(law, 4000, rng), BETA) for law in (P, SKEWED))
    assert prior.high - prior.low > 2 * (policy.high - policy.low)
    assert prior.effective < policy.effective


@pytest.mark.parametrize("known", [False, True])
def test_the_interval_of_the_shortfall_covers_it_with_and_without_a_known_normaliser(known):
    true = BETA * divergence(SKEWED, BEST)
    log_z = LOG_Z if known else None
    check_calibrated(lambda *c: optimum.shortfall(*c, BETA, log_z=log_z), SKEWED, true)


def test_without_a_known_normaliser_the_shortfall_is_sharper_near_the_optimum_and_never_negative():
    close = special.softmax(np.log(BEST) + 0.02 * np.random.default_rng(3).normal(size=STRINGS))
    columns = drawn(close, 1000, np.random.default_rng(0))
    own, known = optimum.shortfall(*columns, BETA), optimum.shortfall(*columns, BETA, log_z=LOG_Z)
    assert own.low >= 0 and near(own, BETA * divergence(close, BEST))
    assert known.high - known.low > 10 * (own.high - own.low)


def test_a_policy_that_leaves_out_half_of_the_optimum_hides_it_from_its_own_estimate_only():
    half = np.where(np.arange(STRINGS) % 2, 0, BEST)
    half /= half.sum()
    with np.errstate(divide="ignore"):
        columns = drawn(half, 1000, np.random.default_rng(0))
    assert optimum.shortfall(*columns, BETA).high < 1e-9
    missing = -BETA * np.log(BEST[::2].sum())
    assert optimum.shortfall(*columns, BETA, log_z=LOG_Z).estimate == pytest.approx(missing, abs=1e-9)


def test_weights_turn_the_texts_of_a_proposal_into_texts_of_the_optimum():
    rng = np.random.default_rng(0)
    i = rng.choice(STRINGS, 20_000, p=SKEWED)
    weight = optimum.weights(LOG_P[i], np.log(SKEWED)[i], R[i], BETA)
    assert weight.sum() == pytest.approx(1)
    found = optimum.expectation(R[i], weight)
    assert near(found, BEST @ R)
    counts = np.bincount(i[optimum.resample(rng, weight, 20_000)], minlength=STRINGS)
    assert np.abs(counts / 20_000 - BEST).max() < 0.01
    assert np.abs(np.bincount(i, minlength=STRINGS) / 20_000 - BEST).max() > 0.03  # the control: not resampled


def test_systematic_resampling_takes_every_text_n_w_times_up_to_one_and_never_one_without_weight():
    weight = np.array([0.0, 0.1, 0.25, 0.0, 0.65, 0.0])
    for seed in range(50):
        chosen = optimum.resample(np.random.default_rng(seed), weight, 30)
        assert (np.abs(np.bincount(chosen, minlength=6) - 30 * weight) < 1 + 1e-9).all()
        assert weight[chosen].all()
    assert not (np.diff(chosen) >= 0).all()  # in random order
    same = [optimum.resample(np.random.default_rng(s), weight, 30).tolist() for s in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_the_interval_of_a_weighted_mean_covers_it():
    def mean(log_p, log_q, reward):
        return optimum.expectation(reward, optimum.weights(log_p, log_q, reward, BETA))

    check_calibrated(mean, SKEWED, float(BEST @ R))


def test_the_tilted_family_has_the_rewards_and_divergences_of_the_enumerated_one():
    betas = np.array([np.inf, 2.0, 1.0, 0.5])
    table = optimum.tilted_family(*drawn(SKEWED, 20_000, np.random.default_rng(0)), betas)
    for row in table.itertuples():
        law = tilted(1 / row.beta)
        true = {"log_z": special.logsumexp(LOG_P + R / row.beta), "reward": law @ R, "kl": divergence(law, P)}
        for name, value in true.items():
            ends = [getattr(row, name + end) for end in ("", "_low", "_high")]
            assert near(optimum.Interval(*ends), value)
    assert table.reward.is_monotonic_increasing and table.kl.is_monotonic_increasing
    for name, true in (("reward", tilted(1.0) @ R), ("kl", divergence(tilted(1.0), P))):

        def member(*columns, name=name):
            row = optimum.tilted_family(*columns, np.array([1.0])).loc[0]
            return optimum.Interval(*row[[name, f"{name}_low", f"{name}_high"]])

        check_calibrated(member, SKEWED, true)


def at_equal_kl(law):
    """s, E[r] of the member p exp(s r) with the KL of a law, and the share of its gain that the law has, by enumeration."""
    s = roots.brentq(lambda s: divergence(tilted(s), P) - divergence(law, P), 0, 20)
    return s, float(tilted(s) @ R), float((law - P) @ R / ((tilted(s) - P) @ R))


def test_the_share_of_the_gain_at_equal_kl_is_that_of_enumeration():
    s, family, share = at_equal_kl(SKEWED)
    found = optimum.reward_at_kl(*drawn(SKEWED, 100_000, np.random.default_rng(0)))
    assert found.beta == pytest.approx(1 / s, rel=0.02)
    assert near(found.family, family) and near(found.kl, divergence(SKEWED, P))
    assert share - 0.01 < found.share.estimate < 1


@pytest.mark.parametrize("name", ["family", "share"])
def test_the_intervals_at_equal_kl_are_calibrated(name):
    law = special.softmax(
        np.log(BEST) - 0.8 * R + np.random.default_rng(2).normal(size=STRINGS)
    )  # wastes much of its KL
    _, family, share = at_equal_kl(law)
    assert share < 0.9
    rng = np.random.default_rng(7)

    def statistic(*columns):
        return getattr(optimum.reward_at_kl(*columns, prior=R[rng.choice(STRINGS, 1000, p=P)]), name)

    check_calibrated(statistic, law, {"family": family, "share": share}[name])


def test_a_member_of_the_family_has_all_of_the_gain_and_a_slope_of_beta_over_its_own():
    columns = drawn(tilted(0.8), 500, np.random.default_rng(0))
    found = optimum.reward_at_kl(*columns)
    assert (found.beta, found.share.estimate) == pytest.approx((1.25, 1))
    slope, correlation, _ = optimum.slope_and_correlation(*columns, BETA)
    assert (slope.estimate, correlation.estimate) == pytest.approx((BETA / 1.25, 1))


def test_intervals_of_slope_and_correlation_cover_their_values_under_the_policy():
    x, y = R / BETA, np.log(SKEWED) - LOG_P
    dx, dy = x - SKEWED @ x, y - SKEWED @ y
    slope = SKEWED @ (dx * dy) / (SKEWED @ dx**2)
    correlation = SKEWED @ (dx * dy) / np.sqrt((SKEWED @ dx**2) * (SKEWED @ dy**2))
    check_calibrated(lambda *c: optimum.slope_and_correlation(*c, BETA).slope, SKEWED, slope)
    check_calibrated(lambda *c: optimum.slope_and_correlation(*c, BETA).correlation, SKEWED, correlation)


def test_a_policy_that_has_not_moved_or_writes_what_the_prior_cannot_has_plain_answers():
    columns = drawn(P, 100, np.random.default_rng(0))
    assert np.isnan(optimum.reward_at_kl(*columns).share.estimate)
    assert np.isnan(optimum.slope_and_correlation(*columns, BETA).slope.estimate)
    impossible = (np.where(np.arange(100) == 7, -np.inf, columns[0]), *columns[1:])
    assert optimum.shortfall(*impossible, BETA).estimate == np.inf == optimum.kl(impossible[1], impossible[0]).estimate
    assert optimum.weights(*impossible, BETA)[7] == 0
    assert np.isfinite(optimum.log_normaliser(*impossible, BETA).estimate)
    with pytest.raises(ParameterError, match="text 7: the prior cannot write it"):
        optimum.slope_and_correlation(*impossible, BETA)
    with pytest.raises(ParameterError, match="every log_p is -inf: the prior can write none of these texts"):
        optimum.weights(np.full(100, -np.inf), *columns[1:], BETA)
    with pytest.raises(ParameterError, match="KL inf nats: no member of the family reaches it"):
        optimum.reward_at_kl(*impossible)


def test_errors_name_the_text_and_the_value():
    log_p, log_q, reward = drawn(P, 60, np.random.default_rng(0))
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ParameterError, match=f"text 3: its reward is {bad}, not a finite number"):
            optimum.log_normaliser(log_p, log_q, np.where(np.arange(60) == 3, bad, reward), BETA)
    with pytest.raises(ParameterError, match="text 5: its log_p is nan"):
        optimum.shortfall(np.where(np.arange(60) == 5, np.nan, log_p), log_q, reward, BETA)
    with pytest.raises(ParameterError, match="text 5: its log-probability it was drawn with is -inf"):
        optimum.shortfall(log_p, np.where(np.arange(60) == 5, -np.inf, log_q), reward, BETA)
    with pytest.raises(ParameterError, match="beta=0.0: a strength above 0"):
        optimum.weights(log_p, log_q, reward, 0.0)
    with pytest.raises(ParameterError, match="1, 1, 1 values: arrays of the same texts"):
        optimum.log_normaliser(log_p[:1], log_q[:1], reward[:1], BETA)
    with pytest.raises(ParameterError, match="size=0"):
        optimum.resample(np.random.default_rng(0), np.ones(3) / 3, 0)


def test_pareto_k_recognises_the_exponent_of_a_tail():
    uniform = np.random.default_rng(0).random(20_000)
    for k in (0.3, 0.9):
        assert optimum.pareto_k(-k * np.log(uniform)) == pytest.approx(k, abs=0.1)
    assert optimum.pareto_k(np.log(uniform)) < 0


# ----------------------------------------------------------------------------------------------- the word-tilted grammar

GLAD = ("glad", "happy", "cheerful", "laughed", "smiled", "friends")
SORRY = ("sad", "afraid", "broken", "alone", "cried", "lost")


@functools.cache
def tales():
    """The tales; the tales with e for every glad word and 1/e for every sorry one; log Z; the points of the words."""
    grammar = Grammar.load("tales")
    points = np.array([(w in GLAD) - (w in SORRY) for w in grammar.symbols], float)
    rules = grammar.rules
    words = [[s for s in rule.right if s < rules.start] for rule in rules.rules]
    raised = np.array([r.probability * np.exp(points[w].sum()) for r, w in zip(rules.rules, words, strict=True)])
    z = least_fixed_point(rules, raised, 1.0)
    inner = [np.prod([z[s - rules.start] for s in rule.right if s >= rules.start]) for rule in rules.rules]
    share = raised * inner / z[[rule.left - rules.start for rule in rules.rules]]
    lines = [
        f"{rules.name(r.left)} -> {' '.join(rules.name(s) for s in r.right)} [{float(p)!r}]"
        for r, p in zip(rules.rules, share, strict=True)
    ]
    return grammar, Grammar("\n".join(lines), name="tilted tales"), float(np.log(z[0])), points


def columns_of(source, n, seed):
    grammar, best, _, points = tales()
    texts = source.sample_strings(np.random.default_rng(seed), n)
    columns = [np.array([law.log_probability(ids) for ids in texts]) for law in (grammar, best)]
    return *columns, np.array([points[ids].sum() for ids in texts])


def test_the_tilted_grammar_is_the_optimum_text_by_text_and_its_kl_is_known():
    _, best, log_z, _ = tales()
    log_p, log_best, reward = columns_of(best, 300, 0)
    assert np.abs(log_p + reward - log_z - log_best).max() < 1e-9
    assert optimum.log_normaliser(log_p, log_best, reward, 1.0).estimate == pytest.approx(log_z, abs=1e-9)
    assert optimum.shortfall(log_p, log_best, reward, 1.0).high < 1e-9
    found = optimum.reward_at_kl(log_p, log_best, reward)
    assert found.beta == pytest.approx(1) and found.share.estimate == pytest.approx(1)
    # of an exact optimum KL(p*||p) = E*[r]/β - log Z, text by text in the sample
    assert found.kl.estimate == pytest.approx(reward.mean() - log_z)


def test_tales_of_the_prior_give_the_normaliser_and_rewards_of_the_tilted_grammar():
    grammar, best, log_z, points = tales()
    ours, theirs = (
        np.array([points[ids].sum() for ids in law.sample_strings(np.random.default_rng(seed), 4000)])
        for law, seed in ((grammar, 1), (best, 2))
    )
    same = np.zeros(4000)  # only log p - log of the proposal counts, and the proposal is the prior
    found = optimum.log_normaliser(same, same, ours, 1.0)
    assert near(found, log_z) and found.effective < 2000
    row = optimum.tilted_family(same, same, ours, np.array([1.0])).loc[0]
    assert near(optimum.Interval(row.reward, row.reward_low, row.reward_high), theirs.mean(), errors=5)
    # the prior falls short by β KL(p||p*) = β log Z - E_p[r]
    assert optimum.shortfall(same, same, ours, 1.0, log_z=log_z).estimate == pytest.approx(log_z - ours.mean())
