"""Rows about Metropolis-Hastings over stored texts: the vectorised chains against one text at a time, and the full scale."""

import time
from collections.abc import Callable
from functools import cache

import numpy as np

from ..analysis.metropolis import SCHEMES, Proposals, State, from_pool, kernel, pool_chains
from .peers import agree
from .registry import row

__all__ = ["corpora", "loop", "plain_loop", "pools"]

PROMPTS, TEXTS, CORPORA, STEPS, RUNS = 20, 100, 2000, 100, 3
LOOPED = 25  # corpora that the loop is timed on
SCALE = f"{CORPORA} corpora of {PROMPTS} prompts x {STEPS} steps over pools of {TEXTS} texts, NumPy on one core"


@cache
def pools() -> tuple[Proposals, np.ndarray]:
    """Stored texts with normal log-weights of standard deviation 1 (about half are rejected), and a value of each."""
    rng = np.random.default_rng(0)
    log_weight, values = rng.normal(size=(2, PROMPTS * TEXTS))
    return Proposals(log_weight, np.repeat(np.arange(PROMPTS), TEXTS)), values


def corpora(number: int, seed: int) -> np.ndarray:
    """Mean value of each corpus (corpora,): one chain per prompt and corpus, all side by side."""
    pool, values = pools()
    return pool_chains(pool, chains=number, steps=STEPS, rng=np.random.default_rng(seed)).mean(values).mean(axis=0)


def loop(number: int, seed: int) -> np.ndarray:
    """The same, one text at a time: the kernel of `aep.analysis.metropolis` in a Python loop, chain after chain."""
    pool, values = pools()
    rng = np.random.default_rng(seed)
    found = np.empty((number, PROMPTS))
    for prompt, texts in enumerate(np.arange(PROMPTS * TEXTS).reshape(PROMPTS, TEXTS)):
        log_weight, value = pool.log_weight[texts], values[texts]
        step = kernel(from_pool(log_weight))
        for corpus in range(number):
            start = int(rng.integers(TEXTS))
            state, total = State(start, float(log_weight[start])), 0.0
            for _ in range(STEPS):
                state, _ = step(rng, state)
                total += value[state.text]
            found[corpus, prompt] = total / STEPS
    return found.mean(axis=1)


@row("mh_vs_loop", "times faster", f"per step, against a loop over its own kernel, one text at a time; {SCALE}")
def mh_vs_loop() -> list[float]:
    """Time of a step in the loop over that of a step of the vectorised chains, in turns."""
    return _against(loop, LOOPED)


def _against(theirs: Callable[[int, int], np.ndarray], number: int) -> list[float]:
    """Time of `theirs` per corpus over ours, in turns; AepError unless the means of the corpora agree."""
    agree(corpora(CORPORA, 1).mean(), theirs(number, 2).mean(), "mean of the corpora", tolerance=0.05)
    ratios = []
    for run in range(RUNS + 2):
        start = time.perf_counter()
        theirs(number, run)
        middle = time.perf_counter()
        corpora(CORPORA, run)
        ratios.append((middle - start) / number / ((time.perf_counter() - middle) / CORPORA))
    return ratios


def plain_loop(number: int, seed: int) -> np.ndarray:
    """The same as `loop` written for speed: numbers drawn in advance, chain by chain, and nothing but lists and floats."""
    pool, values = pools()
    rng = np.random.default_rng(seed)
    found = np.empty((number, PROMPTS))
    for prompt, texts in enumerate(np.arange(PROMPTS * TEXTS).reshape(PROMPTS, TEXTS)):
        log_weight, value = pool.log_weight[texts].tolist(), values[texts].tolist()
        for corpus in range(number):
            state, *proposals = rng.integers(TEXTS, size=STEPS + 1).tolist()
            current, total = log_weight[state], 0.0
            for text, threshold in zip(proposals, rng.standard_exponential(STEPS).tolist(), strict=True):
                if log_weight[text] + threshold > current:
                    state, current = text, log_weight[text]
                total += value[state]
            found[corpus, prompt] = total / STEPS
    return found.mean(axis=1)


@row(
    "mh_vs_plain_loop",
    "times faster",
    f"the same against a loop over lists with random numbers drawn in advance; {SCALE}",
)
def mh_vs_plain_loop() -> list[float]:
    """Against the fastest loop in plain Python that we know of."""
    return _against(plain_loop, 10 * LOOPED)


@row(
    "mh_full_scale",
    "seconds",
    f"{len(SCHEMES) * CORPORA * PROMPTS * STEPS / 1e6:.0f} million steps: {len(SCHEMES)} schemes, {SCALE}",
)
def mh_full_scale() -> list[float]:
    """31 schemes x 2,000 corpora x 2,000 steps with the mean of every corpus."""
    times = []
    for run in range(RUNS):
        start = time.perf_counter()
        for scheme in range(len(SCHEMES)):
            corpora(CORPORA, 100 * run + scheme)
        times.append(time.perf_counter() - start)
    return times
