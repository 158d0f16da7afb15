"""KL-regularised policy gradient in a few lines: REINFORCE with the mean of the other texts as baseline. No trainer library.

J(π) = E_π[r] - β KL(π||p) over whole texts. Since E_π[∇ log π] = 0, its gradient is E_π[v ∇ log π], v = r - β (log π - log
p); with the leave-one-out baseline, b_i = mean of v over the other texts of the batch, the estimate stays unbiased (Williams
1992; Kool, van Hoof and Welling 2019). The only law at which the gradient vanishes is p* ∝ p exp(r/β): there v is the same
for every text. It is the oracle of the trainers in `trainer_trials`. Rewards are in the unit of β (nats), texts are drawn on
the policy.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from transformers import get_cosine_schedule_with_warmup

from aep.errors import ModelError
from aep.neural.cache import new_cache

__all__ = ["NetworkPolicy", "Policy", "SoftmaxPolicy", "align", "leave_one_out_loss"]


@runtime_checkable
class Policy(Protocol):
    """A law of texts that can be trained. What `draw` returns is up to the policy; `log_probability` reads it."""

    def parameters(self) -> Any: ...

    def draw(self, texts: int) -> torch.Tensor:
        """So many texts from the policy, by torch's random numbers."""
        ...

    def log_probability(self, drawn: torch.Tensor) -> torch.Tensor:
        """log π of whole texts (texts,), nats, with its gradient."""
        ...


def leave_one_out_loss(
    log_policy: torch.Tensor, log_p: torch.Tensor, reward: torch.Tensor, beta: float
) -> torch.Tensor:
    """-(1/n) Σ (v_i - mean of the other v) log π(y_i): minus its gradient estimates that of J without bias.

    v = r - β (log π - log p), without gradient. All arrays (texts,), at least two texts drawn from π.
    """
    value = reward - beta * (log_policy.detach() - log_p)
    baseline = (value.sum() - value) / (len(value) - 1)
    return -((value - baseline) * log_policy).mean()


def align(
    policy: Policy,
    prior: Callable[[torch.Tensor], torch.Tensor],
    reward: Callable[[torch.Tensor], torch.Tensor],
    *,
    beta: float,
    steps: int,
    texts: int,
    rate: float,
    seed: int,
    watch: Callable[[int], None] = lambda step: None,
) -> None:
    """Train `policy` towards p* in place: `steps` of AdamW on `texts` fresh texts each, cosine schedule after a warm-up.

    `prior` gives log p of what the policy draws, `reward` its reward, each (texts,). `watch` is called after every step.
    The global random state is left as it was. Raises ModelError if the policy is no longer finite.
    """
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 25), steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(1, steps + 1):
            drawn = policy.draw(texts)
            with torch.no_grad():
                log_p, r = prior(drawn), reward(drawn)
            loss = leave_one_out_loss(policy.log_probability(drawn), log_p, r, beta)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            if not torch.isfinite(norm):
                raise ModelError(
                    f"the policy diverged at step {step}: the norm of its gradient is {norm}; lower the rate"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            watch(step)


class SoftmaxPolicy(torch.nn.Module):
    """One weight for each of finitely many strings: log π = log softmax. `log_p` (strings,) is where it starts.

    A text is the index of its string, so that every expectation is a finite sum.
    """

    def __init__(self, log_p: np.ndarray):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(np.asarray(log_p), dtype=torch.float64))

    def draw(self, texts: int) -> torch.Tensor:
        """Indices of strings (texts,)."""
        with torch.no_grad():
            return torch.multinomial(torch.softmax(self.weight, 0), texts, replacement=True)

    def log_probability(self, drawn: torch.Tensor) -> torch.Tensor:
        """log π of the strings with these indices."""
        return torch.log_softmax(self.weight, 0)[drawn]


class NetworkPolicy:
    """A causal network of `transformers` that writes texts of at most `longest` tokens after its start token.

    Token `end` starts and ends a text. A text that reaches `longest` is cut there, and its probability is that of its
    tokens: the cut is part of the law, as it is for the trainers. Texts are (texts, `longest`) ids, filled with `end` after
    their end.
    """

    def __init__(self, model: torch.nn.Module, *, longest: int, end: int = 0):
        self.model, self.longest, self.end = model, longest, end

    def parameters(self) -> Any:
        """Those of the network."""
        return self.model.parameters()

    @torch.no_grad()
    def draw(self, texts: int) -> torch.Tensor:
        """Texts by ancestral sampling at temperature 1 over the whole vocabulary."""
        cache, found = new_cache(self.model), torch.full((texts, self.longest + 1), self.end)
        ended = torch.zeros(texts, dtype=torch.bool)
        for t in range(self.longest):
            logits = self.model(input_ids=found[:, t : t + 1], past_key_values=cache, use_cache=True).logits[:, -1]
            token = torch.multinomial(torch.softmax(logits, -1), 1)[:, 0]
            found[:, t + 1] = torch.where(ended, self.end, token)
            ended |= found[:, t + 1] == self.end
            if ended.all():
                break
        return found[:, 1:]

    def log_probability(self, drawn: torch.Tensor) -> torch.Tensor:
        """Σ_t log π(y_t | y_<t) up to the end of every text, its end token counted."""
        rows = torch.cat([torch.full_like(drawn[:, :1], self.end), drawn[:, :-1]], dim=1)
        log_pi = torch.log_softmax(self.model(input_ids=rows, use_cache=False).logits, -1)
        log_pi = log_pi.gather(-1, drawn[..., None])[..., 0]
        before = (drawn == self.end).cumsum(-1) - (drawn == self.end).long()  # ends before this token
        return (log_pi * (before == 0)).sum(-1)
