"""A causal network as a `Language`: next-token log-probabilities, a cached state, and rows of logits in chunks."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

from .._array import as_float64
from ..errors import ModelError, PromptError, nearest
from ..information import log_normalise
from ..languages.protocol import row_order, vocabulary_hash
from .cache import new_cache, reach
from .compiled import fused

__all__ = ["NeuralLanguage", "with_exact_norms"]


_SMALL = 10**8  # products of a step: parameters x texts
_SEGMENT = 4096  # tokens (of all texts of a batch) that go through the network at once
_LEAST_SEGMENT = 256  # tokens of one text
_WINDOWS = 4  # sliding windows of a network in one segment


class _State(NamedTuple):
    cache: DynamicCache
    length: int


class NeuralLanguage:
    """A causal language model of `transformers` behind the `Language` protocol.

    `bos` and `eos` are token ids or None; `context_length` is the largest number of tokens of prompt and text together;
    `vocab_size` is that of the logits. Probabilities are those of the network at temperature 1: nothing of a checkpoint's
    generation config applies.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, *, name: str, fingerprint: str):
        self.model, self.tokenizer, self.name = with_exact_norms(model.eval()), tokenizer, name
        tokenizer.model_max_length = sys.maxsize  # lengths are checked here, not by the tokenizer's warning
        config = model.config.get_text_config()
        self.vocab_size, self.width = int(config.vocab_size), int(getattr(config, "hidden_size", None) or 0)
        self.bos, self.eos = (
            _single_id(config, tokenizer, "bos_token_id"),
            _single_id(config, tokenizer, "eos_token_id"),
        )
        if self.bos is not None and not 0 <= self.bos < self.vocab_size:
            raise ModelError(f"model {name!r}: its start token {self.bos} is outside its {self.vocab_size} tokens")
        limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        self.context_length = None if limit is None else int(limit) - (self.bos is not None) + 1
        self.fingerprint = fingerprint
        self.dtype_name = str(model.dtype).removeprefix("torch.")
        self._words = _word_list(tokenizer)
        self.vocabulary_hash = vocabulary_hash(tokenizer.get_vocab())
        self._reach = reach(model)
        self._head = _split_head(model, self.vocab_size)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.model.parameters())
        return f"{self.name} ({parameters:,} parameters, {self.vocab_size} tokens, {self.dtype_name} on {self.model.device})"

    @property
    def is_rolling(self) -> bool:
        """Whether every layer has a sliding window, so that a cache of fixed size is exact whatever the length."""
        return self._reach is not None

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.model.device

    def needs_context(self, bos: bool) -> bool:
        """Whether a text without a prompt must give its first token away as context."""
        return not bos or self.bos is None

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a string, without special tokens; PromptError for an empty string or an unknown word."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of every string, in one call of the tokenizer, which may take several at once."""
        for text in texts:
            if not text:
                raise PromptError("the text is empty: there is nothing to encode")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise PromptError(
                    f"the text is not Unicode ({error.reason} at {error.start}): read it as UTF-8"
                ) from None
        if not texts:
            return []
        if self._words is not None:
            self._check_words(texts)
        ids = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [np.asarray(row, dtype=np.int64) for row in ids]

    def _check_words(self, texts: Sequence[str]) -> None:
        """PromptError for the first word that is not in the list: the tokenizer would not say which one it is."""
        split = self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
        word = next((word for text in texts for word, _ in split(text) if word not in self._words), None)
        if word is not None:
            close = nearest(word, self._words)
            hint = f": did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise PromptError(f"{self.name} knows {len(self._words)} words, and {word!r} is none of them{hint}")

    def decode(self, ids: Sequence[int | np.integer] | np.ndarray) -> str:
        """The string of token ids, nothing skipped or cleaned."""
        return self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def fused(self, entries: int, wanted: bool | None = None) -> Callable | None:
        """What compiles the reduction for work of `entries` logits, None for eager (see `compiled.fused`)."""
        return fused(self.device, entries, wanted)

    @property
    def concurrent_batches(self) -> int:
        """Batches to work on at once, each on one thread: the threads that are set, if one is enough for a batch; else 1."""
        small = self.device.type == "cpu" and self.model.num_parameters() < _SMALL
        return torch.get_num_threads() if small else 1

    @contextmanager
    def stepping(self, texts: int) -> Iterator[None]:
        """The setting for many steps of `texts` texts side by side: one thread where a step is so small that it costs less
        than a second thread's start.

        Measured on two cores, 3 million parameters: two threads are 1.1 times as fast for 16 texts and 1.35 times for 64 on
        an idle machine, and up to 3 times slower on a busy one.
        """
        threads = torch.get_num_threads()
        if self.model.num_parameters() * texts < _SMALL:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def start(self, prompts: Sequence[np.ndarray]) -> tuple[torch.Tensor, _State]:
        """`log_p` (batch, vocab) after start token and prompt. The prompts of one batch have the same length."""
        lengths = {len(p) for p in prompts}
        if len(lengths) != 1:
            raise PromptError(f"prompts of {sorted(lengths)} tokens in one batch: group them by length")
        context = [self._context(p, bos=True) for p in prompts]
        if not len(context[0]):
            raise PromptError(f"{self.name} has no start token: give a prompt")
        return self._advance(torch.as_tensor(np.stack(context), device=self.device), new_cache(self.model), 0)

    @torch.inference_mode()
    def step(self, state: _State, ids: np.ndarray) -> tuple[torch.Tensor, _State]:
        """`log_p` (batch, vocab) after one more token per text; the state is consumed."""
        return self._advance(torch.as_tensor(ids, device=self.device)[:, None], state.cache, state.length)

    @torch.inference_mode()
    def select(self, state: _State, indices: np.ndarray) -> _State:
        """The state of the prefixes `indices`, repeats allowed: the cache is copied, nothing is computed again."""
        state.cache.batch_select_indices(torch.as_tensor(np.array(indices), device=self.device))
        return state

    def _advance(self, ids: torch.Tensor, cache: DynamicCache, length: int) -> tuple[torch.Tensor, _State]:
        positions = torch.arange(length, length + ids.shape[1], device=self.device)[None].expand(len(ids), -1)
        out = self.model(input_ids=ids, past_key_values=cache, position_ids=positions, use_cache=True, logits_to_keep=1)
        log_p = log_normalise(as_float64(out.logits[:, -1]))
        return log_p, _State(out.past_key_values, length + ids.shape[1])

    def _context(self, prompt: np.ndarray, bos: bool) -> np.ndarray:
        start = [self.bos] if bos and self.bos is not None else []
        return np.concatenate([np.array(start, dtype=np.int64), np.asarray(prompt, dtype=np.int64)])

    def rows(
        self, prompts: Sequence[np.ndarray], texts: Sequence[np.ndarray], *, bos: bool = True, chunk: int = 256
    ) -> Iterator[torch.Tensor]:
        """Logits (at most `chunk`, vocab) of scored positions in the order of `row_order`, texts padded on the right.

        Long texts go through the network in segments with a cache; what lies to the right of a token cannot change it, so
        the padding needs no mask. Only the hidden states of one segment (and of columns that wait for texts with a longer
        prompt) are held; the logits are valid until the next are asked for.
        """
        contexts = [self._context(p, bos) for p in prompts]
        inputs = [np.concatenate([c, t[:-1]]) for c, t in zip(contexts, texts, strict=True)]
        first = np.array([len(c) - 1 for c in contexts])  # the column that predicts position 0
        text, position = row_order(texts)
        base, done = 0, 0
        held = room = None
        for hidden, end in self._hidden(inputs):
            held = hidden if held is None else torch.cat([held, hidden], dim=1)
            whole = end == max(map(len, inputs))
            ready = len(text) if whole else int(np.searchsorted(position, end - first.max(), side="left"))
            ready -= 0 if whole else (ready - done) % chunk  # chunks are whole, so that those of two languages match
            column = first[text[done:ready]] + position[done:ready] - base
            where = torch.as_tensor(text[done:ready] * held.shape[1] + column, device=self.device)
            flat = held.reshape(-1, held.shape[-1])
            for i in range(0, len(where), chunk):
                with torch.inference_mode():  # not around the generator: its consumer would run in this mode too
                    part = flat[where[i : i + chunk]]
                    room = part.new_empty(min(chunk, len(text)), self.vocab_size) if room is None else room
                    logits = self._head(part, room[: len(part)])
                yield logits
            if not whole:
                done = ready
                keep = min(int(first.min() + position[done]) - base, held.shape[1])
                held, base = held[:, keep:], base + keep

    def _hidden(self, inputs: Sequence[np.ndarray]) -> Iterator[tuple[torch.Tensor, int]]:
        """Last hidden states (batch, columns, width) of consecutive segments, and the number of columns so far."""
        width = max(map(len, inputs))
        ids = np.zeros((len(inputs), width), dtype=np.int64)
        for i, row in enumerate(inputs):
            ids[i, : len(row)] = row
        size = max(_SEGMENT // len(inputs), _LEAST_SEGMENT)
        if self._reach is not None:  # attention is computed for a whole segment, of which a token sees its window alone
            size = min(size, max(_WINDOWS * self._reach, _LEAST_SEGMENT))
        cache = new_cache(self.model) if width > size else None
        for a in range(0, width, size):
            b = min(a + size, width)
            with torch.inference_mode():
                out = self.model.base_model(
                    input_ids=torch.as_tensor(ids[:, a:b], device=self.device),
                    past_key_values=cache,
                    use_cache=cache is not None,
                )
            yield out.last_hidden_state, b


def _single_id(config: Any, tokenizer: Any, name: str) -> int | None:
    """The id of the start or end token; of a list (some configs have several end tokens) the tokenizer's, else the first."""
    value = getattr(config, name, None)
    value = getattr(tokenizer, name, None) if value is None else value
    if isinstance(value, list | tuple):
        own = getattr(tokenizer, name, None)
        value = own if own in value else value[0]
    return None if value is None else int(value)


def _word_list(tokenizer: Any) -> frozenset[str] | None:
    """The words of a tokenizer that splits a text into words and has no token for an unknown one; None for all others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model, vocabulary = getattr(backend, "model", None), tokenizer.get_vocab()
    if type(model).__name__ != "WordLevel" or backend.pre_tokenizer is None or model.unk_token in vocabulary:
        return None
    return frozenset(vocabulary)


_SINGLE_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")


def with_exact_norms(model: torch.nn.Module) -> torch.nn.Module:
    """A double-precision network whose RMS norms compute in double precision too.

    `transformers` rounds their input to single precision whatever the dtype of the network: a cached step and a full pass
    then differ by 1e-9 at one token in 40,000 (measured), where the rounding goes the other way; without it, by 1e-14.
    """
    if model.dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__ in _SINGLE_NORMS:
                module.forward = partial(_rms_norm, module)
    return model


def _rms_norm(module: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return module.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + module.variance_epsilon)


@torch.inference_mode()
def _split_head(model: torch.nn.Module, vocab_size: int):
    """The map from hidden states to logits, checked on four tokens against the model's own logits.

    Some architectures scale or cap logits after the matrix; both are applied here, and an architecture whose logits still
    differ is refused rather than scored wrongly.
    """
    matrix, config = model.get_output_embeddings(), model.config.get_text_config()
    if matrix is None:
        raise ModelError(f"{type(model).__name__} has no output embeddings: it is not a causal language model")
    scale = getattr(config, "logit_scale", None) or 1.0
    divide = getattr(config, "logits_scaling", None) or 1.0
    cap = getattr(config, "final_logit_softcapping", None)

    def head(hidden: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
        if not plain:
            return changed(hidden)
        return torch.mm(hidden, matrix.weight.T, out=room)  # a new tensor would be new memory for every chunk

    def changed(hidden: torch.Tensor) -> torch.Tensor:
        logits = matrix(hidden) * scale / divide
        return logits if cap is None else cap * torch.tanh(logits / cap)

    plain = type(matrix) is torch.nn.Linear and matrix.bias is None and (scale, divide, cap) == (1.0, 1.0, None)
    plain = plain and matrix.weight.shape[0] == vocab_size

    ids = torch.arange(4, device=model.device)[None] % vocab_size
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    theirs = as_float64(model(input_ids=ids, use_cache=False).logits[0])
    ours = as_float64(head(hidden, hidden.new_empty(len(hidden), matrix.weight.shape[0])))
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-2 if model.dtype.itemsize < 4 else 1e-5, equal_nan=True):
        raise ModelError(
            f"{type(model).__name__} changes its logits after the output matrix in a way this version does not know"
        )
    return head
