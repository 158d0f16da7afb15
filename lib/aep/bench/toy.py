"""Rows about the Dirichlet toy of notebook 01."""

import time

import numpy as np

from ..analysis.tradeoff import legacy_corpora, sampled_corpora
from ..languages.finite import toy
from .registry import row

__all__ = ["toy_vs_legacy"]

CORPORA, SIZE, RUNS = 1000, 100_000, 3


@row(
    "toy_vs_legacy",
    unit="times faster",
    note=f"{CORPORA} corpora of {SIZE} draws, Generator.multinomial against np.random.choice",
)
def toy_vs_legacy() -> list[float]:
    """Time of the legacy loop over the time of the multinomial draw of the same table, at full scale, interleaved."""
    trio, rng = toy(), np.random.default_rng(1)
    sampled_corpora(trio, 10, SIZE, rng=rng)
    ratios = []
    for _ in range(RUNS):
        start = time.perf_counter()
        legacy_corpora(trio, CORPORA, SIZE)
        middle = time.perf_counter()
        sampled_corpora(trio, CORPORA, SIZE, rng=rng)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return ratios
