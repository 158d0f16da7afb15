"""Fixed points of alignment trainers: the losses as trl writes them, summed over every string; and the store of trials."""

import itertools
import sys

import numpy as np
import pytest
import torch
from scipy import special

from aep.errors import ModelError, ParameterError
from aep.neural.training import configs, fixed_points, trainer_trials, trainer_variants

LETTERS, LONGEST, BETA = 2, 3, 0.5
RNG = np.random.default_rng(0)
LAWS = [np.log(RNG.dirichlet(np.ones(LETTERS + 1), size=LETTERS**d)) for d in range(LONGEST)]
LOG_P = fixed_points.log_probabilities(LAWS)
REWARD = fixed_points.rewards(np.array([0.75, -0.5]), LONGEST)
LENGTH = fixed_points.lengths(LETTERS, LONGEST).astype(float)
STRINGS = [fixed_points.string(i, LETTERS, LONGEST) for i in range(len(LOG_P))]
BEST = special.log_softmax(LOG_P + REWARD / BETA)


def by_hand(laws, ids):
    """log p of a string, token by token."""
    total, prefix = 0.0, 0
    for d, token in enumerate(ids):
        total += laws[d][prefix, token]
        prefix = prefix * LETTERS + token - 1
    return total


def test_outcomes_are_all_strings_that_end_or_are_cut_each_once_with_their_law_reward_and_length():
    words = [w for d in range(LONGEST + 1) for w in itertools.product(range(1, LETTERS + 1), repeat=d)]
    assert [[*w, 0] if len(w) < LONGEST else [*w] for w in words] == STRINGS
    assert np.exp(LOG_P).sum() == pytest.approx(1, abs=1e-12)
    for i, ids in enumerate(STRINGS):
        assert LOG_P[i] == pytest.approx(by_hand(LAWS, ids), abs=1e-12)
        assert REWARD[i] == pytest.approx(0.75 * ids.count(1) - 0.5 * ids.count(2))
        assert LENGTH[i] == len(ids)


def test_outcomes_are_drawn_with_their_probabilities():
    drawn = fixed_points.draw(LOG_P, np.random.default_rng(0), 40_000)
    share = np.bincount(drawn, minlength=len(LOG_P)) / 40_000
    p = np.exp(LOG_P)
    assert (np.abs(share - p) / np.sqrt(p * (1 - p) / 40_000)).max() < 4.5


# ------------------------------------------------------------------------------- the losses, as trl 1.16 writes them


def tokens(laws):
    """log π of every token of every outcome (outcomes, LONGEST), the mask of tokens, and the weights of a tabular policy."""
    weights = [torch.tensor(law, requires_grad=True) for law in laws]
    normal = [torch.log_softmax(w, -1) for w in weights]
    rows, mask = [], torch.zeros(len(STRINGS), LONGEST, dtype=torch.float64)
    for i, ids in enumerate(STRINGS):
        prefix, row = 0, []
        for d, token in enumerate(ids):
            row.append(normal[d][prefix, token])
            prefix = prefix * LETTERS + token - 1
        mask[i, : len(ids)] = 1
        rows.append(torch.stack([*row, *[torch.zeros((), dtype=torch.float64)] * (LONGEST - len(row))]))
    return torch.stack(rows), mask, weights


def largest_gradient(loss, weights):
    return max(float(g.abs().max()) for g in torch.autograd.grad(loss, weights))


def grpo(laws, *, corrected=True, scaled=False, beta=BETA):
    """The largest expected gradient of GRPO's loss at a tabular policy: rewards less their mean, k3 per token."""
    log_pi, mask, weights = tokens(laws)
    ref = tokens(LAWS)[0].detach()
    pi, r = (log_pi.detach() * mask).sum(1).exp(), torch.tensor(REWARD)
    advantage = r - pi @ r
    if scaled:
        advantage = advantage / (pi @ advantage**2).sqrt()
    ratio = (log_pi - log_pi.detach()).exp()
    k3 = (ref - log_pi).exp() - (ref - log_pi) - 1
    per_token = -ratio * advantage[:, None] + beta * (k3 * ratio if corrected else k3)
    return largest_gradient(pi @ (per_token * mask).sum(1), weights)


@pytest.mark.parametrize("corrected", [True, False])
def test_grpo_with_its_own_penalty_rests_at_the_backward_recursion_and_not_at_the_optimum(corrected):
    laws = fixed_points.per_token_optimum(LAWS, REWARD, BETA, corrected=corrected)
    best = fixed_points.per_token_optimum(LAWS, REWARD, BETA, soft=True)
    assert grpo(laws, corrected=corrected) < 1e-10
    assert grpo(best, corrected=corrected) > 0.01
    assert grpo(laws, corrected=not corrected) > 0.01


def test_with_the_soft_value_the_recursion_gives_the_optimum():
    laws = fixed_points.per_token_optimum(LAWS, REWARD, BETA, soft=True)
    assert fixed_points.log_probabilities(laws) == pytest.approx(BEST, abs=1e-12)


def at_rest(beta, reward=REWARD):
    return fixed_points.per_token_optimum(LAWS, reward, beta)


def test_rewards_divided_by_their_standard_deviation_multiply_beta_by_it():
    scaled = fixed_points.scaled_beta(at_rest, REWARD, 1.0)
    pi = np.exp(fixed_points.log_probabilities(at_rest(scaled)))
    assert scaled == pytest.approx(np.sqrt(pi @ (REWARD - pi @ REWARD) ** 2), rel=1e-5)
    assert abs(scaled - 1) > 0.05
    assert grpo(at_rest(scaled), scaled=True, beta=1.0) < 1e-5
    assert grpo(at_rest(1.0), scaled=True, beta=1.0) > 0.01


def test_then_the_scale_of_the_reward_does_not_matter_and_too_small_a_beta_has_no_point_of_rest():
    scaled = fixed_points.scaled_beta(at_rest, REWARD, 1.0)
    tenfold = fixed_points.scaled_beta(lambda beta: at_rest(beta, 10 * REWARD), 10 * REWARD, 1.0)
    assert tenfold == pytest.approx(10 * scaled, rel=1e-5)
    assert fixed_points.scaled_beta(at_rest, REWARD, 0.1) == 0


def dpo(log_ratio, loss):
    """The largest gradient in log π/p of the expected loss over pairs of the prior, labels of probability σ(r - r')."""
    s = torch.tensor(log_ratio, requires_grad=True)
    p, r, n = np.exp(LOG_P), REWARD, torch.tensor(LENGTH)
    delta = {"sigmoid": s[:, None] - s, "norm": (s / n)[:, None] - s / n}[loss.partition("-")[0]]
    first = torch.tensor(special.expit(r[:, None] - r))
    if loss.endswith("ipo"):
        won, lost = (delta - 1 / (2 * BETA)) ** 2, (-delta - 1 / (2 * BETA)) ** 2
    else:
        won, lost = (-torch.nn.functional.logsigmoid(sign * BETA * delta) for sign in (1, -1))
    total = (torch.tensor(np.outer(p, p)) * (first * won + (1 - first) * lost)).sum()
    return np.abs(torch.autograd.grad(total, s)[0].numpy()).max()


def test_dpo_losses_are_flat_at_the_laws_that_are_given_for_them_and_only_there():
    norm = fixed_points.normalised_dpo(LOG_P, REWARD, LENGTH, BETA)
    ipo = fixed_points.normalised_ipo(LOG_P, REWARD, LENGTH, BETA)
    for law in (norm, ipo):
        assert np.exp(law).sum() == pytest.approx(1, abs=1e-9)
    assert dpo(BEST - LOG_P, "sigmoid") < 1e-10
    assert dpo(norm - LOG_P, "norm") < 1e-10
    assert dpo(ipo - LOG_P, "norm-ipo") < 1e-10
    assert min(dpo(BEST - LOG_P, "norm"), dpo(BEST - LOG_P, "norm-ipo"), dpo(norm - LOG_P, "sigmoid")) > 0.01


def test_the_loss_of_ipo_is_the_mean_over_pairs_and_least_at_its_law():
    law = fixed_points.normalised_ipo(LOG_P, REWARD, LENGTH, BETA)
    for log_pi in (law, BEST, LOG_P):
        h, p = (log_pi - LOG_P) / LENGTH, np.exp(LOG_P)
        by_hand = sum(
            2 * p[i] * p[j] * special.expit(REWARD[i] - REWARD[j]) * (h[i] - h[j] - 1 / (2 * BETA)) ** 2
            for i, j in itertools.product(range(len(p)), repeat=2)
        )
        assert fixed_points.ipo_loss(log_pi, LOG_P, REWARD, LENGTH, BETA) == pytest.approx(by_hand)
    losses = [fixed_points.ipo_loss(x, LOG_P, REWARD, LENGTH, BETA) for x in (law, BEST, LOG_P)]
    assert losses[0] < min(losses[1:]) and losses[2] == pytest.approx(1 / (4 * BETA**2))


def test_the_distance_is_that_of_the_definitions():
    laws = fixed_points.per_token_optimum(LAWS, REWARD, BETA)
    log_pi = fixed_points.log_probabilities(laws)
    pi, found = np.exp(log_pi), fixed_points.distance(log_pi, LOG_P, REWARD, LENGTH, BETA)
    assert found.gap == pytest.approx(BETA * pi @ (log_pi - BEST), abs=1e-12) and found.gap > 0
    assert found.kl == pytest.approx(pi @ (log_pi - LOG_P))
    assert (found.reward, found.tokens) == pytest.approx((pi @ REWARD, pi @ LENGTH))
    member = np.exp(special.log_softmax(LOG_P + REWARD / found.beta_at_kl))
    assert member @ (np.log(member) - LOG_P) == pytest.approx(found.kl)
    start = np.exp(LOG_P) @ REWARD
    assert found.share == pytest.approx((pi @ REWARD - start) / (member @ REWARD - start)) and found.share < 1
    line = np.polyfit(REWARD / BETA, log_pi - LOG_P, 1, w=np.sqrt(pi))
    assert found.slope == pytest.approx(line[0])
    best = fixed_points.distance(BEST, LOG_P, REWARD, LENGTH, BETA)
    assert best[:1] + best[4:8] == pytest.approx((0, 1, 1, BETA, 1), abs=1e-9)
    still = fixed_points.distance(LOG_P, LOG_P, REWARD, LENGTH, BETA)
    assert still.kl == 0 and np.isnan(still.share) and np.isnan(still.correlation)


# --------------------------------------------------------------------------------------------------------- the trials

TINY = configs.ModelSpec(
    "tiny", hidden=8, layers=1, heads=2, feed_forward=16, vocabulary=4, steps=3, batch=8, length=trainer_trials.LONGEST
)
SHORT = trainer_trials.SETTING._replace(steps=2, texts=8)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return trainer_trials.problem(tmp_path_factory.mktemp("trials"), TINY)


def test_the_prior_is_a_law_over_all_its_strings_and_is_trained_once(given, monkeypatch):
    assert np.exp(given.log_p).sum() == pytest.approx(1, abs=1e-9) and len(given.log_p) == 88_573
    monkeypatch.setattr(trainer_trials, "advance", None)
    again = trainer_trials.problem(given.folder.parent, TINY)
    assert (again.log_p == given.log_p).all()
    i = 54_321
    ids = fixed_points.string(i, 3, trainer_trials.LONGEST)
    logits = trainer_trials._model(given.folder / "prior").double()(input_ids=torch.tensor([[0, *ids[:-1]]])).logits
    whole = torch.log_softmax(logits[0], -1)[range(len(ids)), ids].sum()
    assert given.log_p[i] == pytest.approx(whole.item(), abs=1e-6)


def test_strings_of_the_training_text_are_those_of_the_chain():
    rng = np.random.default_rng(0)
    texts = [trainer_trials._string(rng) for _ in range(4000)]
    assert all(t[-1] == 0 and (t[:-1] > 0).all() for t in texts)
    first = np.bincount([t[0] for t in texts], minlength=4) / 4000
    assert np.abs(first - trainer_trials.CHAIN.initial).max() < 0.04


def test_a_finished_run_is_not_repeated_and_an_interrupted_one_leaves_nothing(given, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer_trials, "_with_loop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer_trials.run(given, "loop", 7, SHORT)
    assert not list(given.folder.glob("*loop-7*"))
    first = trainer_trials.run(given, "loop", 7, SHORT)
    assert first.curve.shape == (1, 2) and first.curve[0, 0] == 2
    with monkeypatch.context() as patch:
        patch.setattr(trainer_trials, "_with_loop", interrupted)
        again = trainer_trials.run(given, "loop", 7, SHORT)
        with pytest.raises(KeyboardInterrupt):  # other settings are another run
            trainer_trials.run(given, "loop", 7, SHORT._replace(rate=2e-3))
    assert (again.log_pi == first.log_pi).all() and again.seconds == first.seconds
    assert ("loop", 7) in [(r.variant, r.seed) for r in trainer_trials.finished(given, SHORT)]
    assert not trainer_trials.finished(given)


def test_tables_have_a_row_per_run_with_estimates_beside_exact_values(given):
    runs = [trainer_trials.run(given, "loop", seed, SHORT) for seed in (1, 0)]
    tables = trainer_trials.tables(given, runs)
    rows = tables["trainers"]
    assert list(rows.seed) == [0, 1] and set(tables["fixed_points"].variant) >= {"prior", "loop", "dpo-norm"}
    for row in rows.itertuples():
        half = (row.gap_high - row.gap_low) / 2
        assert abs(row.gap - row.gap_exact) < 2.5 * half
        assert row.kl_to_fixed_point == pytest.approx(row.gap_exact / trainer_trials.BETA, rel=1e-6)


def test_preferences_are_those_of_bradley_and_terry(given):
    chosen, rejected = trainer_trials._preferences(given, SHORT._replace(steps=400, texts=100), 0)
    points = np.array([0, *trainer_trials.POINTS])
    gain = np.array([points[a].sum() - points[b].sum() for a, b in zip(chosen, rejected, strict=True)])
    # P(the better one is chosen) = σ(d) for a difference of d
    for d in (0.5, 1.0, 2.0):
        won, lost = (gain == d).sum(), (gain == -d).sum()
        p = special.expit(d)
        assert abs(won - p * (won + lost)) < 4.5 * np.sqrt(p * (1 - p) * (won + lost))


def test_without_trl_one_line_says_what_to_install(given, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ModelError, match=r"needs trl: pip install -e '.\[train\]'"):
        trainer_trials.run(given, "rloo", 0, SHORT)
    with pytest.raises(ModelError, match="needs trl"):
        trainer_trials.main(["--seeds", "0"])
    with pytest.raises(ParameterError, match="unknown variant 'rlo': did you mean 'rloo'"):
        trainer_trials.main(["--variants", "rlo"])


@pytest.mark.slow
@pytest.mark.parametrize("variant", [name for name in trainer_variants.VARIANTS if name != "loop"])
def test_every_trainer_takes_a_step_from_the_prior(given, variant):
    pytest.importorskip("trl")
    run = trainer_trials.run(given, variant, 0, SHORT)
    assert np.exp(run.log_pi).sum() == pytest.approx(1, abs=1e-6) and not np.allclose(run.log_pi, given.log_p)
