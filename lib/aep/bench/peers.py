"""Rows against other libraries: the same texts scored by minicons and by lm-eval (the extra ``[bench]``)."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..errors import AepError, ParameterError
from ..neural.language import NeuralLanguage
from ..scoring import score
from .registry import row
from .scoring import interleaved

__all__ = ["agree", "fastest", "on_threads"]

TEXTS, TOKENS, VOCABULARY = 64, 256, 512
RUNS = 15  # half a second each
BATCHES = (16, 32, 64)
NOTE = (
    f"every column, compiled, over their log-probabilities alone; {TEXTS} equal strings of {TOKENS} tokens, one network: "
    "LlamaConfig(hidden_size=64, num_hidden_layers=5, num_attention_heads=8, num_key_value_heads=4, vocab_size=512), "
    "float32; theirs with the fastest of batches of 16, 32, 64 on one or all threads; numbers agree to 1e-4"
)


@cache
def language() -> NeuralLanguage:
    """A network of the shape of stories260K with random weights, float32, and a tokenizer of 510 words and two marks."""
    words = {"<s>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.1,  # log-probabilities vary by 0.8 nats: a shift by one token would show
    )
    torch.manual_seed(0)
    return NeuralLanguage(
        LlamaForCausalLM(config).eval(),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks),
        name="stories-like",
        fingerprint="random weights, seed 0",
    )


@cache
def strings() -> list[str]:
    """Random words; every library tokenizes them itself."""
    ids = np.random.default_rng(0).integers(2, VOCABULARY, size=(TEXTS, TOKENS))
    return [" ".join(f"w{i}" for i in text) for text in ids]


def ours() -> np.ndarray:
    """Log-probability of every token, (texts, tokens), from a call that computes every column."""
    return -score(strings(), language(), compiled=True)["surprisal"].reshape(TEXTS, TOKENS)


def minicons(batch: int) -> np.ndarray:
    """Log-probability of every token after the start token, (texts, tokens), by `token_score`."""
    scored: list[list[tuple[str, float]]] = []
    for i in range(0, TEXTS, batch):
        scored += _minicons().token_score(strings()[i : i + batch], bos_token=True)
    return np.array([[log_p for _, log_p in text[1:]] for text in scored])


@cache
def _minicons() -> Any:
    scorer, lm = _needed("minicons.scorer"), language()
    return scorer.IncrementalLMScorer(lm.model, "cpu", tokenizer=lm.tokenizer)


def lm_eval(batch: int) -> np.ndarray:
    """Log-probability of every text after the start token, (texts,), by `loglikelihood` with an empty context."""
    model, requests = _lm_eval(batch)
    return np.array([log_p for log_p, _ in model.loglikelihood(requests, disable_tqdm=True)])


@cache
def _lm_eval(batch: int) -> tuple[Any, list[Any]]:
    harness, lm = _needed("lm_eval.models.huggingface"), language()
    instance = _needed("lm_eval.api.instance").Instance
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of a network that is given as an object
    requests = [instance("loglikelihood", {}, ("", text), i) for i, text in enumerate(strings())]
    return harness.HFLM(lm.model, tokenizer=lm.tokenizer, batch_size=batch), requests


def _needed(module: str) -> Any:
    """The module of an optional package; ParameterError in one line where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ParameterError(
            f'this row needs {module.partition(".")[0]} ({error}): pip install -e ".[bench]"'
        ) from None


def agree(found: np.ndarray, theirs: np.ndarray, what: str, tolerance: float = 1e-4) -> None:
    """AepError unless two arrays of one shape agree: a ratio of times means nothing between different numbers."""
    found, theirs = np.asarray(found), np.asarray(theirs)
    gap = np.abs(found - theirs).max() if found.shape == theirs.shape else np.inf
    if not gap <= tolerance:
        raise AepError(f"{what}: shapes {found.shape} and {theirs.shape}, largest difference {gap:.3g} > {tolerance:g}")


def on_threads(threads: int, work: Callable[[], Any]) -> Any:
    """What `work` returns when PyTorch uses so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


def fastest(ways: Sequence[Callable[[], Any]]) -> int:
    """Index of the way that takes least time in its second turn (the first does not count)."""
    times = []
    for way in ways:
        way()
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return int(np.argmin(times))


def _against(theirs: Callable[[int], np.ndarray]) -> list[float]:
    """Our time over that of the fastest way to call `theirs`."""
    threads = sorted({1, torch.get_num_threads()})  # several threads are slower than one where another process runs
    ways = [partial(on_threads, n, partial(theirs, batch)) for n in threads for batch in BATCHES]
    return interleaved(ours, ways[fastest(ways)], runs=RUNS)


@row("score_vs_minicons", "times the cost", NOTE)
def score_vs_minicons() -> list[float]:
    """Against the token log-probabilities of minicons."""
    agree(ours(), minicons(BATCHES[0]), "token log-probabilities of minicons (nats)")
    return _against(minicons)


@row("score_vs_lm_eval", "times the cost", NOTE)
def score_vs_lm_eval() -> list[float]:
    """Against the sums of lm-eval. They are of single precision, so they are compared per token."""
    agree(ours().sum(1) / TOKENS, lm_eval(BATCHES[0]) / TOKENS, "log-probability per token of lm-eval (nats)")
    return _against(lm_eval)
