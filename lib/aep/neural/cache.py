"""Key-value caches with room to grow: what `DynamicCache` holds, without copying everything at every token.

The values that attention sees are those of transformers' own dynamic layers, in the same order; only where they are kept
differs. A state is consumed by the next step, as the `Language` protocol says.
"""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["reach", "new_cache"]

_ROOM = 16  # positions allocated at least


class _Buffers:
    """Keys and values in buffers twice as large as needed; `self.keys` and `self.values` are views of them."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._end = 0
        self._buffers = tuple(x.new_empty((*x.shape[:2], 0, x.shape[-1])) for x in (key_states, value_states))

    def _append(self, states: tuple[torch.Tensor, torch.Tensor], keep: int) -> list[torch.Tensor]:
        """Write `states` after the last `keep` positions and return all of them together, as views."""
        new = states[0].shape[-2]
        if self._end + new > self._buffers[0].shape[-2]:
            size = max(_ROOM, 2 * (keep + new))
            grown = []
            for buffer, x in zip(self._buffers, states, strict=True):
                room = buffer if buffer.shape[-2] >= size else x.new_empty((*x.shape[:2], size, x.shape[-1]))
                room[:, :, :keep] = buffer[:, :, self._end - keep : self._end].clone()
                grown.append(room)
            self._buffers, self._end = tuple(grown), keep
        seen = []
        for buffer, x in zip(self._buffers, states, strict=True):
            buffer[:, :, self._end : self._end + new] = x
            seen.append(buffer[:, :, self._end - keep : self._end + new])
        self._end += new
        return seen

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` of the batch, in that order, repeats allowed; only positions in use are copied."""
        if self.is_initialized:
            used = self.keys.shape[-2]
            self._buffers = tuple(x[:, :, self._end - used : self._end][indices] for x in self._buffers)
            self.keys, self.values, self._end = *self._buffers, used


class _Growing(_Buffers, DynamicLayer):
    """A layer that keeps every position."""

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = self._append((key_states, value_states), keep=self._end)
        return self.keys, self.values


class _Sliding(_Buffers, DynamicSlidingWindowLayer):
    """A layer that keeps the last `sliding_window` - 1 positions."""

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keep = min(self.cumulative_length, self.sliding_window - 1)
        keys, values = self._append((key_states, value_states), keep=keep)
        self.cumulative_length += key_states.shape[-2]
        self.keys, self.values = (x[:, :, -self.sliding_window + 1 :] for x in (keys, values))
        return keys, values


def new_cache(model: torch.nn.Module) -> DynamicCache:
    """An empty cache that forgets what the mask of `model` hides, and nothing else.

    Llama's mask ignores `sliding_window`, so its cache must not forget; layers of other kinds than full and sliding
    attention stay as transformers makes them.
    """
    cache = DynamicCache(config=model.config)
    if model.config.model_type == "llama":
        cache.layers = [_Growing() for _ in range(model.config.num_hidden_layers)]
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = _Growing()
        elif type(layer) is DynamicSlidingWindowLayer:
            cache.layers[i] = _Sliding(layer.sliding_window)
    return cache


def reach(model: torch.nn.Module) -> int | None:
    """The longest window of a network whose every layer has sliding attention, else None.

    With one, a cache of fixed size is exact for texts of any length.
    """
    layers = new_cache(model).layers
    windows = [layer.sliding_window for layer in layers if isinstance(layer, _Sliding)]
    return max(windows) if windows and len(windows) == len(layers) else None
