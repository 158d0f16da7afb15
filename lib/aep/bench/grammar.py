"""A row about the grammar of tales: next-token laws per second."""

import time

import numpy as np

from ..languages import Grammar
from .registry import row

__all__ = ["grammar_rate"]

TALES, RUNS = 256, 3


@row(
    "grammar_rate",
    "laws per second",
    f"Grammar.rows over {TALES} tales side by side that were not met before, laws of 339 words; one core (2,000 asked)",
)
def grammar_rate() -> list[float]:
    """Next-token laws per second over new tales, each run with other ones and a chart that knows none of them."""
    rates = []
    for run in range(RUNS):
        grammar = Grammar.load("tales")
        tales = Grammar.load("tales").sample_strings(np.random.default_rng([5, run]), TALES)
        _ = grammar.chart  # its tables are made once
        start, laws = time.perf_counter(), 0
        for log_p in grammar.rows([[]] * TALES, tales):
            laws += len(log_p)
        rates.append(laws / (time.perf_counter() - start))
    return rates
