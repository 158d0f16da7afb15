"""`TokenRows` of a network: all histories of a text are one tree of tokens in one key-value cache, one pass per symbol.

Histories of a text differ in their last few tokens, so each token of the tree is computed and held once. A row of the batch
is a text; the tokens of its tree stand in *slots* in the order they came, each with its own position (its depth), and a mask
lets a token see its ancestors alone, within the sliding window where there is one. Slots that no history sees any more are
removed when they are a fifth of all. This is tree attention (Miao et al. 2024, SpecInfer), used here to sum.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .._array import as_float64, as_numpy
from ..errors import ModelError
from .byte_rows import check_before, check_length
from .cache import new_cache
from .language import NeuralLanguage

__all__ = ["TreeRows"]

_ROOM = 16  # slots allocated at least, and freed at least
_KINDS = {"full_attention": None, "sliding_attention": "sliding_window"}


class _Slots(DynamicLayer):
    """Keys and values of every slot, in buffers with room to grow; `keys` and `values` are views of them."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._used = 0
        self._buffers = [x.new_empty((*x.shape[:2], 0, x.shape[-1])) for x in (key_states, value_states)]

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used, end = self._used, self._used + key_states.shape[-2]
        for i, x in enumerate((key_states, value_states)):
            if end > self._buffers[i].shape[-2]:
                room = x.new_empty((*x.shape[:2], max(_ROOM, end + end // 2), x.shape[-1]))
                room[:, :, :used] = self._buffers[i][:, :, :used]
                self._buffers[i] = room
            self._buffers[i][:, :, used:end] = x
        self._view(end)
        return self.keys, self.values

    def _view(self, end: int) -> None:
        self._used = end
        self.keys, self.values = (x[:, :, :end] for x in self._buffers)

    def pick(self, texts: torch.Tensor, slots: torch.Tensor) -> None:
        """Row i becomes row texts[i], its slots those of slots[i], (texts, slots)."""
        for i, x in enumerate((self.keys, self.values)):
            heads = torch.arange(x.shape[1], device=x.device)[None, :, None]
            self._buffers[i] = x[texts[:, None, None], heads, slots[:, None, :]]
        self._view(slots.shape[1])


class TreeRows:
    """See the module. Raises ModelError for a network of other layers; `check` tries one whose attention may not follow."""

    def __init__(self, language: NeuralLanguage, before: Sequence[int] | np.ndarray = ()):
        self.language, self.before = language, check_before(language, before)
        windows = {getattr(layer, "sliding_window", None) for layer in new_cache(language.model).layers}
        self._windows = sorted(windows, key=lambda w: w or 0)  # no window at all is None, first
        kinds = set(getattr(language.model.config.get_text_config(), "layer_types", None) or ())
        if kinds - set(_KINDS) or len(windows) > 2 or (len(windows) == 2 and None not in windows):
            raise ModelError(
                f"{language.name} has layers of other kinds than full and sliding attention: give shared=False"
            )

    def check(self) -> None:
        """ModelError unless laws in a small tree of histories are those of `NeuralLanguage.start`."""
        some = np.arange(5) * 7 % self.language.vocab_size
        self.begin(1)
        self.extend(np.zeros(2, np.int64), some[:2])
        self.extend(np.array([2, 1]), some[2:4])
        ours = self.extend(np.array([4, 2, 3]), some[[4, 1, 0]])
        histories = [(some[0], some[3], some[4]), (some[1], some[1]), (some[1], some[2], some[0])]
        tolerance = 1e-2 if self.language.model.dtype.itemsize < 4 else 1e-5
        for law, history in zip(ours, histories, strict=True):
            theirs = as_numpy(self.language.start([np.append(self.before, history)])[0])[0]
            deviation = law - theirs
            if not np.ptp(deviation[np.isfinite(deviation)]) <= tolerance * 10:
                raise ModelError(
                    f"{self.language.name} does not follow the mask of a shared cache (its laws differ by "
                    f"{np.ptp(deviation):.2g} nats): give shared=False"
                )

    @torch.inference_mode()
    def begin(self, texts: int) -> Float[np.ndarray, "texts vocab"]:
        """See `TokenRows.begin`: start token and `before` go through the network once."""
        start = [] if self.language.bos is None else [self.language.bos]
        ids = np.array([*start, *self.before], dtype=np.int64)
        check_length(self.language, len(self.before))
        self._cache, self._enough = DynamicCache(), _ROOM
        self._cache.layers = [_Slots() for _ in new_cache(self.language.model).layers]
        self._slot_depth = np.arange(len(ids))[None]
        self._tokens, self._text = np.array([len(ids)]), np.zeros(1, np.int64)
        seen = np.tril(np.ones((len(ids), len(ids)), bool))
        logits = self._forward(ids[None], self._slot_depth, seen[None], np.array([len(ids) - 1]))
        self._seen = np.ones((1, len(ids)), bool)
        self.select(np.zeros(texts, np.int64), np.zeros(texts, np.int64), np.arange(texts))
        return np.repeat(logits, texts, axis=0)

    @torch.inference_mode()
    def extend(
        self, parents: Int[np.ndarray, " new"], tokens: Int[np.ndarray, " new"]
    ) -> Float[np.ndarray, "new vocab"]:
        """See `TokenRows.extend`: one pass, a row per text, its new tokens side by side. Raises ContextTooLong."""
        self._compact()
        text, depth = self._text[parents], self._tokens[parents]
        check_length(self.language, int(depth.max()) + 1 - (self.language.bos is not None))
        texts, slots = self._slot_depth.shape
        order = np.argsort(text, kind="stable")
        size = np.bincount(text, minlength=texts)
        column = np.empty(len(text), np.int64)
        column[order] = np.arange(len(text)) - np.repeat(np.cumsum(size) - size, size)
        new = int(size.max())
        ids, depths = np.zeros((texts, new), np.int64), np.full((texts, new), 0)
        ids[text, column], depths[text, column] = tokens, depth
        seen = np.zeros((texts, new, slots + new), bool)
        seen[:, np.arange(new), slots + np.arange(new)] = True  # itself; all that a padded column sees
        seen[text, column, :slots] = self._seen[parents]
        self._slot_depth = np.concatenate([self._slot_depth, depths], axis=1)
        logits = self._forward(ids, depths, seen, text * new + column)
        self._seen = np.concatenate([np.pad(self._seen, ((0, 0), (0, new))), seen[text, column]])
        self._tokens, self._text = np.append(self._tokens, depth + 1), np.append(self._text, text)
        return logits

    def keep(self, histories: Int[np.ndarray, " kept"]) -> None:
        """See `TokenRows.keep`."""
        self._seen, self._tokens, self._text = (x[histories] for x in (self._seen, self._tokens, self._text))

    @torch.inference_mode()
    def select(
        self, texts: Int[np.ndarray, " new_texts"], histories: Int[np.ndarray, " kept"], owner: np.ndarray
    ) -> None:
        """See `TokenRows.select`."""
        self.keep(histories)
        self._text = np.asarray(owner)
        slots = np.broadcast_to(np.arange(self._slot_depth.shape[1]), (len(texts), self._slot_depth.shape[1]))
        self._pick(texts, slots)

    def _pick(self, texts: np.ndarray, slots: np.ndarray) -> None:
        self._slot_depth = self._slot_depth[texts[:, None], slots]
        where = [torch.as_tensor(np.array(x), device=self.language.device) for x in (texts, slots)]
        for layer in self._cache.layers:
            layer.pick(*where)

    def _compact(self) -> None:
        """Remove the slots that no history can see, when they are about a fifth of all."""
        texts, slots = self._slot_depth.shape
        if slots <= self._enough:
            return
        reach = self._windows[0]  # None, a layer that sees everything, comes first
        if reach is not None:
            self._seen &= self._slot_depth[self._text] > (self._tokens - reach)[:, None]
        live = np.zeros((texts, slots), bool)
        np.logical_or.at(live, self._text, self._seen)
        most = max(int(live.sum(axis=1).max()), 1)
        self._enough = most + most // 4 + _ROOM
        if slots <= self._enough:
            return
        kept = np.argsort(~live, axis=1, kind="stable")[:, :most]  # live slots first, in their order
        self._seen = self._seen[np.arange(len(self._text))[:, None], kept[self._text]]
        self._pick(np.arange(texts), kept)

    def _forward(self, ids: np.ndarray, depths: np.ndarray, seen: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Logits of the `wanted` (indices into texts x columns) of new tokens that see the slots `seen`, their own last."""
        device, dtype = self.language.device, self.language.model.dtype
        masks = []
        for window in self._windows:
            inside = seen if window is None else seen & (self._slot_depth[:, None] > (depths - window)[:, :, None])
            mask = torch.zeros(inside.shape, dtype=dtype, device=device)
            mask.masked_fill_(~torch.as_tensor(inside, device=device), torch.finfo(dtype).min)
            masks.append(mask[:, None])
        kinds = zip(_KINDS, masks, strict=False)
        out = self.language.model.base_model(
            input_ids=torch.as_tensor(ids, device=device),
            attention_mask=masks[0] if len(masks) == 1 else dict(kinds),
            position_ids=torch.as_tensor(depths, device=device),
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden = out.last_hidden_state.reshape(-1, out.last_hidden_state.shape[-1])
        hidden = hidden[torch.as_tensor(wanted, device=device)]
        logits = self.language._head(hidden, hidden.new_empty(len(hidden), self.language.vocab_size))
        return as_float64(logits).cpu().numpy()
