"""The small REINFORCE loop: its gradient by enumeration, where it ends on languages whose optimum is known exactly."""

import copy
import itertools

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from aep.errors import ModelError
from aep.neural.training.policy_gradient import NetworkPolicy, SoftmaxPolicy, align, leave_one_out_loss

P = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
R = np.array([-1.0, 0.0, 0.5, 1.0, 1.0, 2.0])
BETA = 0.5
BEST = P * np.exp(R / BETA) / (P @ np.exp(R / BETA))
OPTIMUM = BETA * np.log(P @ np.exp(R / BETA))


def objective(policy, beta=BETA):
    """J by enumeration, with its gradient."""
    log_pi = torch.log_softmax(policy.weight, 0)
    return log_pi.exp() @ (torch.tensor(R) - beta * (log_pi - torch.tensor(np.log(P))))


def aligned(steps=400, texts=64, seed=0, rate=0.05, **more):
    policy = SoftmaxPolicy(np.log(P))
    log_p, r = torch.tensor(np.log(P)), torch.tensor(R)
    align(policy, log_p.__getitem__, r.__getitem__, beta=BETA, steps=steps, texts=texts, rate=rate, seed=seed, **more)
    return policy


@pytest.mark.parametrize("texts", [2, 3])
def test_the_expected_gradient_of_the_loss_is_that_of_the_objective(texts):
    policy = SoftmaxPolicy(np.log(np.array([0.1, 0.3, 0.2, 0.1, 0.2, 0.1])))
    exact = torch.autograd.grad(objective(policy), policy.weight)[0]
    pi = torch.softmax(policy.weight, 0).detach()
    total = torch.zeros_like(exact)
    for batch in itertools.product(range(6), repeat=texts):  # every batch that can be drawn, with its probability
        drawn = torch.tensor(batch)
        log_pi = policy.log_probability(drawn)
        loss = leave_one_out_loss(log_pi, torch.tensor(np.log(P))[drawn], torch.tensor(R)[drawn], BETA)
        total -= pi[drawn].prod() * torch.autograd.grad(loss, policy.weight)[0]
    assert torch.allclose(total, exact, atol=1e-12)
    assert exact.abs().max() > 0.01


def test_at_the_optimum_every_batch_has_no_gradient_at_all():
    policy, drawn = SoftmaxPolicy(np.log(BEST)), torch.arange(6)
    loss = leave_one_out_loss(
        policy.log_probability(drawn), torch.tensor(np.log(P))[drawn], torch.tensor(R)[drawn], BETA
    )
    assert torch.autograd.grad(loss, policy.weight)[0].abs().max() < 1e-12


def test_the_loop_ends_within_two_thousandths_of_the_exact_optimum():
    policies = SoftmaxPolicy(np.log(P)), aligned(steps=5), aligned()
    start, early, gap = (OPTIMUM - objective(policy).item() for policy in policies)
    assert start > 0.3 and early > 0.02  # the controls: not there from the beginning, nor after a few steps
    assert 0 <= gap < 0.002


def test_the_same_seed_gives_the_same_policy_another_one_another_and_the_global_state_stays():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, same, other = (aligned(steps=5, seed=s).weight.detach().numpy() for s in (0, 0, 1))
    assert (one == same).all() and not (one == other).all()
    assert (torch.random.get_rng_state() == before).all()


def test_a_policy_that_is_no_longer_finite_is_refused_and_every_step_is_watched():
    seen = []
    aligned(steps=3, watch=seen.append)
    assert seen == [1, 2, 3]
    policy = SoftmaxPolicy(np.log(P))
    with pytest.raises(ModelError, match=r"diverged at step 1: the norm of its gradient is nan"):
        align(
            policy,
            torch.tensor(np.log(P)).__getitem__,
            lambda drawn: torch.full((len(drawn),), torch.nan),
            beta=BETA,
            steps=3,
            texts=8,
            rate=0.1,
            seed=0,
        )


# ---------------------------------------------------------------------------------------------------------- a network


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=3,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        sliding_window=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = MistralForCausalLM(config).double()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # far from uniform
    return NetworkPolicy(model.eval(), longest=4)


def every_text(longest=4, letters=2):
    """All texts: those that end, and those that are cut."""
    found = []
    for d in range(longest + 1):
        for word in itertools.product(range(1, letters + 1), repeat=d):
            found.append([*word, *[0] * (longest - d)])
    return torch.tensor(found)


def test_the_law_of_a_network_sums_to_one_over_its_texts_and_is_that_of_its_tokens(network):
    texts = every_text()
    log_pi = network.log_probability(texts).detach()
    assert float(log_pi.exp().sum()) == pytest.approx(1, abs=1e-12)
    for text, total in zip(texts.tolist(), log_pi.tolist(), strict=True):
        ids, by_hand = [0], 0.0
        for token in text:
            logits = network.model(input_ids=torch.tensor([ids])).logits[0, -1]
            by_hand += float(torch.log_softmax(logits, -1)[token].detach())
            ids.append(token)
            if token == 0:
                break
        assert total == pytest.approx(by_hand, abs=1e-10)


def test_texts_are_drawn_with_their_probabilities_and_are_empty_after_their_end(network):
    torch.manual_seed(0)
    drawn = network.draw(40_000)
    assert drawn.shape == (40_000, 4)
    assert not (drawn * ((drawn == 0).cumsum(1) > 0)).any()
    texts, pi = every_text(), network.log_probability(every_text()).exp().detach().numpy()
    code = (drawn * 3 ** torch.arange(4)).sum(1)
    share = np.array([(code == c).double().mean() for c in (texts * 3 ** torch.arange(4)).sum(1)])
    assert np.abs(share - pi).max() < 4.5 * np.sqrt(pi.max() / 40_000)
    assert (np.abs(share - pi) / np.sqrt(pi * (1 - pi) / 40_000)).max() < 4.5  # 31 texts: chance of a miss 2e-4


def test_a_network_is_aligned_to_within_a_hundredth_of_its_exact_optimum(network):
    policy = NetworkPolicy(copy.deepcopy(network.model), longest=4)
    points, texts = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64), every_text()
    with torch.no_grad():
        log_p, r = network.log_probability(texts), points[texts].sum(1)
        best = BETA * torch.logsumexp(log_p + r / BETA, 0)

    def gap():
        log_pi = policy.log_probability(texts).detach()
        return float(best - log_pi.exp() @ (r - BETA * (log_pi - log_p)))

    start = gap()
    rule = {"beta": BETA, "steps": 150, "texts": 64, "rate": 0.02, "seed": 0}
    align(policy, network.log_probability, lambda drawn: points[drawn].sum(1), **rule)
    assert start > 0.1 and 0 <= gap() < 0.01
