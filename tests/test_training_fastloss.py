"""The fast training loss is the plain one: attention in blocks, cross-entropy in chunks, products in bfloat16."""

import numpy as np
import pytest
import torch

from aep.errors import ParameterError
from aep.neural.training import configs, fastloss, train

SPEC = configs.ModelSpec(
    "tiny", hidden=16, layers=3, heads=2, feed_forward=24, steps=1, vocabulary=300, window=8, batch=3, length=32
)


@pytest.fixture
def model():
    model = train.begin(SPEC, "cpu").model
    with torch.no_grad():  # far from uniform, so that every position matters
        for p in model.parameters():
            p.mul_(4)
    return model


@pytest.fixture
def rows():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 300, size=(3, 33)))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_attention_in_blocks_is_the_sliding_window_of_transformers(model, rows):
    banded = model(input_ids=rows[:, :-1], use_cache=False).logits
    model.set_attn_implementation("eager")
    plain = model(input_ids=rows[:, :-1], use_cache=False).logits
    assert torch.allclose(banded, plain, rtol=0, atol=1e-4 * plain.abs().max().item())
    model.config.sliding_window = 9  # one token more is another model
    other = model(input_ids=rows[:, :-1], use_cache=False).logits
    assert torch.allclose(plain[:, :8], other[:, :8], atol=1e-5)
    assert not torch.allclose(plain, other, atol=1e-3 * plain.abs().max().item())


def test_the_loss_and_its_gradient_are_those_of_the_plain_formula(model, rows, monkeypatch):
    monkeypatch.setattr(fastloss, "uses_half", lambda device: False)
    monkeypatch.setattr(fastloss, "ROWS", 7)
    fast = fastloss.training_loss(model, rows)
    found = gradients(model, fast)
    model.set_attn_implementation("eager")
    plain = train.loss_of(model, rows)
    wanted = gradients(model, plain)
    assert fast.item() == pytest.approx(plain.item(), rel=1e-6)
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_products_in_bfloat16_move_loss_and_gradient_by_its_rounding_only(model, rows, monkeypatch):
    plain = train.loss_of(model, rows)
    wanted = gradients(model, plain)
    monkeypatch.setattr(fastloss, "uses_half", lambda device: True)
    half = fastloss.training_loss(model, rows)
    found = gradients(model, half)
    assert half.item() == pytest.approx(plain.item(), rel=5e-3)
    assert 1e-5 * wanted.norm() < (found - wanted).norm() < 0.1 * wanted.norm()
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_gradient_scales_with_what_comes_after(model, rows):
    hidden = torch.randn(5, 16, requires_grad=True)
    table, targets = torch.randn(300, 16), torch.arange(5)
    (once,) = torch.autograd.grad(fastloss.mean_surprisal(hidden, table, targets), hidden)
    (twice,) = torch.autograd.grad(2 * fastloss.mean_surprisal(hidden, table, targets), hidden)
    assert torch.allclose(2 * once, twice)


def test_a_length_that_is_no_multiple_of_the_window_is_refused(model, rows):
    with pytest.raises(ParameterError, match="sequences of 33 tokens: not a multiple of the window of 8"):
        model(input_ids=rows, use_cache=False)
