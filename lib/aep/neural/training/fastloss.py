"""The training loss, fast on a processor: attention inside the window only, and a cross-entropy that stays in the cache.

Both compute what the plain formulas compute (tested); a step takes a fifth to a third less time. Where the processor
multiplies bfloat16 natively, the matrix products of a training step are made in it, which saves another fifth to a
third; weights, norms, softmax and the optimizers' state remain float32.
"""

from functools import cache

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, MistralForCausalLM

from aep.errors import ParameterError

__all__ = ["BANDED", "mean_surprisal", "training_loss", "uses_half"]

BANDED = "aep_banded"  # name of the attention in the registry of transformers
ROWS = 512  # tokens whose logits are held at once: 512 of 2,048 tokens are 4 MB


def uses_half(device: torch.device) -> bool:
    """Whether training on `device` multiplies in bfloat16: a processor that does so natively (others are slower so)."""
    native = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return device.type == "cpu" and native


@cache
def _mask(blocks: int, window: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(blocks, window, 2 window): 0 where a query of a block sees a key of the block before or its own, else -inf."""
    query = torch.arange(window, device=device)[:, None]
    key = torch.arange(-window, window, device=device)
    seen = (key <= query) & (query - key < window)
    seen = seen.repeat(blocks, 1, 1)
    seen[0, :, :window] = False  # before the first block there is nothing
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, float("-inf"))


def banded_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, sliding_window=None, **_):
    """Causal attention to the last `sliding_window` tokens of whole sequences, without a cache.

    Queries are cut into blocks as long as the window, which see their own block and the one before: work grows with
    length x window instead of length². query, key, value are (batch, heads, length, head size).
    """
    batch, heads, length, size = query.shape
    if length % sliding_window:
        raise ParameterError(f"sequences of {length} tokens: not a multiple of the window of {sliding_window}")
    blocks = length // sliding_window

    def around(x):
        x = pad(x.reshape(batch * heads, length, size), (0, 0, sliding_window, 0))
        x = x.view(batch * heads, blocks + 1, sliding_window, size)
        return torch.cat((x[:, :-1], x[:, 1:]), dim=2)

    half = torch.is_autocast_enabled("cpu")
    if half:
        query, key = query.bfloat16(), key.bfloat16()
    query, key, value = query.reshape(batch * heads, blocks, sliding_window, size), around(key), around(value)
    mask = _mask(blocks, sliding_window, query.dtype, query.device)
    if half:  # twice as fast as torch's own attention
        mixed = _attention(query, key, value, mask, scaling)
    else:
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return mixed.reshape(batch, heads, length, size).transpose(1, 2), None


def _attention(query, key, value, mask, scaling) -> torch.Tensor:
    """Softmax attention by batched products; (sequences, blocks, tokens, head size) and a `mask` for all sequences."""
    mask = mask.repeat(len(query), 1, 1)
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    weights = torch.softmax(torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scaling), -1).to(value.dtype)
    return torch.bmm(weights, value)


AttentionInterface.register(BANDED, banded_attention)


class _MeanSurprisal(torch.autograd.Function):
    """`mean_surprisal` with its gradient: one pass over the logits, a block of rows at a time."""

    @staticmethod
    def forward(ctx, hidden, embedding, targets, dtype):
        n = len(hidden)
        table = embedding.to(dtype)
        columns = table.T.contiguous()
        d_hidden = torch.empty_like(hidden, dtype=torch.float32)
        d_embedding = torch.zeros_like(embedding)
        total = torch.zeros((), device=hidden.device)
        for a in range(0, n, ROWS):
            rows, wanted = hidden[a : a + ROWS].to(dtype), targets[a : a + ROWS, None]
            z = (rows @ columns).float()
            z -= z.amax(1, keepdim=True)
            total -= z.gather(1, wanted).sum()
            sums = z.exp_().sum(1, keepdim=True)
            total += sums.log().sum()
            z.div_(sums * n).scatter_add_(1, wanted, torch.full_like(sums, -1 / n))  # (p - 1[target]) / n
            z = z.to(dtype)
            d_hidden[a : a + ROWS] = z @ table
            d_embedding += z.T @ rows
        ctx.save_for_backward(d_hidden.to(hidden.dtype), d_embedding)
        return total / n

    @staticmethod
    def backward(ctx, gradient):
        d_hidden, d_embedding = ctx.saved_tensors
        return d_hidden * gradient, d_embedding * gradient, None, None


def mean_surprisal(hidden, embedding, targets, dtype=torch.float32) -> torch.Tensor:
    """Mean of -log softmax(embedding @ hidden)[target] in nats, with products in `dtype`.

    `hidden` (n, d), `embedding` (vocabulary, d) in float32, `targets` (n,) token ids.
    """
    return _MeanSurprisal.apply(hidden, embedding, targets, dtype)


def training_loss(model: MistralForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy (nats per token) of `rows` (batch, length + 1): each token given its row before it."""
    half = uses_half(rows.device)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        hidden = model.model(input_ids=rows[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    dtype = torch.bfloat16 if half else torch.float32
    return mean_surprisal(hidden, model.lm_head.weight, rows[:, 1:].flatten(), dtype)
