"""Rows about the record store: bytes per token, a query over all of it, and a request for what it has."""

import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..information import THETAS
from ..neural.loading import load
from ..records import Records, Texts, theta_column
from ..sampling import sample
from ..scoring import score
from ..store import SHARD, Store
from .registry import row

__all__ = ["filled"]

RUNS, SEEDS = 5, (0, 1, 2)
TOKENS = 1024
QUERY = "SELECT text_key, avg(surprisal), avg(entropy), sum(varentropy) FROM tokens GROUP BY text_key"


@cache
def _texts(seed: int = 0) -> Texts:
    return sample(load("docs-400k"), texts=64, tokens=256, seed=seed)


def _bytes(**options) -> list[float]:
    found = []
    for seed in SEEDS:
        with TemporaryDirectory() as folder:
            records = score(_texts(seed), load("docs-1m"), store=folder, **options)
            found.append(sum(path.stat().st_size for path in Store(folder).files("tokens")) / len(records))
    return found


@row("store_bytes", "bytes per token", "every column of one model; 64 texts of 256 tokens of docs-400k under docs-1m")
def store_bytes() -> list[float]:
    """What a scored token takes on the disk, with its share of everything else in the file."""
    return _bytes()


@row("store_bytes_pair", "bytes per token", "the same with the columns of the pair, source docs-400k")
def store_bytes_pair() -> list[float]:
    """What a token scored by a pair takes."""
    return _bytes(source=load("docs-400k"))


def filled(folder: str | Path, tokens: int) -> Store:
    """A store of at least so many tokens: whole shards of texts of 1,024 tokens, columns of random numbers."""
    store, rng, rows = Store(folder), np.random.default_rng(0), SHARD * TOKENS
    names = ["surprisal", "entropy", "varentropy", "mass_above", *map(theta_column, THETAS)]
    fixed = {"text": np.repeat(np.arange(SHARD), TOKENS), "position": np.tile(np.arange(TOKENS), SHARD)}
    for shard in range(-(-tokens // rows)):
        columns = {**fixed, **{name: rng.integers(2048, size=rows) for name in ("token", "rank", "greedy")}}
        columns |= {name: rng.random(rows) for name in names}
        keys = SHARD * shard + np.arange(SHARD)
        store.put("tokens", {"shard": shard}, Records(columns, {"scorer": "random numbers"}, text_keys=keys))
    return store


@row("store_group_by", "seconds", "three sums by text over 5 million scored tokens in 306 files (DuckDB)")
def store_group_by() -> list[float]:
    """A query that touches every row."""
    times = []
    with TemporaryDirectory() as folder:
        store = filled(folder, 5_000_000)
        for _ in range(RUNS):
            start = time.perf_counter()
            assert len(store.sql(QUERY)) >= 5_000_000 / TOKENS
            times.append(time.perf_counter() - start)
    return times


@row(
    "store_again", "times the cost", "records from the store over scoring them: 64 texts of 256 tokens under docs-400k"
)
def store_again() -> list[float]:
    """A second request for the same records."""
    texts, ratios = _texts(), []
    for _ in range(RUNS):
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            score(texts, load("docs-400k"), store=folder)
            middle = time.perf_counter()
            score(texts, load("docs-400k"), store=folder)
            ratios.append((time.perf_counter() - middle) / (middle - start))
    return ratios
