"""Every column of `aep.Records` from full float64 distributions, one token at a time: slow and literal."""

import math
from collections.abc import Sequence

import oracles

THETAS = (0.25, 0.5, 0.75, 0.875, 1.125, 1.25, 1.5, 2.0)


def row(
    p: Sequence[float],
    token: int,
    p_source: Sequence[float] | None = None,
    adapted: dict[str, Sequence[float]] | None = None,
) -> dict[str, float]:
    """The columns of one scored token: `p` of the scorer, `p_source` of the source under its adaptor, `adapted` by name."""
    p = [float(x) for x in p]
    columns = {
        "surprisal": -_log(p[token]),
        "entropy": oracles.entropy(p),
        "varentropy": oracles.varentropy(p),
        "rank": sum(x > p[token] for x in p),
        "greedy": p.index(max(p)),
        "mass_above": math.fsum(x for x in p if x > p[token]),
    }
    for theta in THETAS:
        columns[f"log_partition_{theta:g}".replace(".", "_")] = oracles.log_partition(p, theta)
    for name, q in (adapted or {}).items():
        columns[f"log_q_{name}"] = _log(float(q[token]))
    if p_source is not None:
        a = [float(x) for x in p_source]
        columns["cross_entropy"] = oracles.cross_entropy(a, p)
        columns["cross_varentropy"] = oracles.cross_varentropy(a, p)
        columns["source_surprisal"] = -_log(a[token])
        columns["source_entropy"] = oracles.entropy(a)
        columns["source_varentropy"] = oracles.varentropy(a)
    return columns


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def temperature(p: Sequence[float], tau: float) -> list[float]:
    """p^(1/τ), normalised."""
    weights = [x ** (1 / tau) for x in map(float, p)]
    return [w / math.fsum(weights) for w in weights]


def nucleus(p: Sequence[float], mass: float) -> list[float]:
    """The most probable tokens, lowest id first among ties, until their mass reaches `mass`; normalised."""
    p = [float(x) for x in p]
    kept, total = set(), 0.0
    for v in sorted(range(len(p)), key=lambda v: (-p[v], v)):
        if total < mass:
            kept.add(v)
            total += p[v]
    return [x / total if v in kept else 0.0 for v, x in enumerate(p)]
