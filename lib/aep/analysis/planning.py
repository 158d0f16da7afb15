"""How many tokens |l - h| <= ε takes: planned from a pilot sample, observed on fresh texts. Tables for notebook 02.

l_T - h_T has mean 0 and variance v/T with v = E[Σ V_t]/T, so every plan is a number of tokens near v/ε². A plan is made
before the texts it speaks of are sampled; its coverage is then counted on texts that had no part in it.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from .. import information, intervals
from ..errors import ParameterError
from ..records import Records
from .bounds import plan_tokens
from .eprocess import EXPONENTS, log_mgf
from .typicality import Paths, running_mean

__all__ = ["ARGUMENTS", "Reached", "largest_deviation", "reached", "time_uniform_tokens", "tokens_needed"]

ARGUMENTS = ("CLT", "Chebyshev", "Freedman", "Rényi-Chernoff", "time-uniform")
"""What a plan can rest on. The first four speak of one T fixed before sampling, the last of every length from T on."""

_GROUPS, _LEAST = 20, 50


def largest_deviation(log_p: Float[np.ndarray, "*rows vocab"]) -> float:
    """max |a - H| over all rows and all tokens of positive probability, nats: the c of Freedman's bound.

    Of a language with finitely many next-token laws (finite, Markov). Where the laws are mixtures of such rows (hidden
    Markov), -log of their smallest entry is a bound if it is positive. A network has none unless its logits are bounded.

    >>> round(largest_deviation(np.log([[0.9, 0.1]])), 3)
    1.978
    """
    deviation = np.abs(-log_p - information.entropy(log_p)[..., None])
    return float(np.max(deviation[log_p > -np.inf]))


def time_uniform_tokens(pilot: Paths, epsilon: float, level: float) -> float:
    """The T from which on |l_t - h_t| <= ε at *every* t with probability at least 1 - level; inf if no exponent fits.

    The smallest T with Σ_k w_k exp(T(s_k(h ± ε) - m_k)) >= 1/level for both signs, where h and m_k are the pilot's means of
    H and log M(s_k): there the band of `eprocess.time_uniform_band` of a text with these means is inside ±ε. The left side
    is convex in T and below 1/level at 0, so it stays above from T on. Holds as far as a text's means are the pilot's.
    """
    entropy = float(np.mean(pilot.entropy))
    price = np.log(len(EXPONENTS)) - np.log(level)
    needed = 1.0
    for side in (epsilon, -epsilon):
        rates = np.array([s * (entropy + side) - float(np.mean(log_mgf(pilot, s))) for s in EXPONENTS])
        if rates.max() <= 0:
            return np.inf
        low, high = 0.0, np.ceil(price / rates.max())  # one exponent alone pays the price there
        while high - low > 1:
            middle = np.floor((low + high) / 2)
            enough = np.logaddexp.reduce(middle * rates) >= price
            low, high = (low, middle) if enough else (middle, high)
        needed = max(needed, high)
    return float(needed)


class Reached(NamedTuple):
    """The length from which on a share of texts is inside, and its interval; `tokens` NaN, `high` inf if never reached."""

    tokens: float
    low: float
    high: float


def reached(inside: Bool[np.ndarray, "texts tokens"], level: float, *, confidence: float = 0.95) -> Reached:
    """The smallest T from which on, to the end of the sample, at least a share 1 - level of the texts is inside.

    The interval is for T*, the same length with the exact probability c(t) that a text is inside at t in place of the share.
    `high` is the first length from which on the lower confidence limit of c(t) is at least 1 - level, `low` the first
    length at which its upper limit is (Clopper-Pearson, each at (1 + confidence)/2). If high < T*, the lower limit is
    wrong at T* - 1; if low > T*, the upper one is wrong at T*: each has a chance of at most (1 - confidence)/2, whether or
    not c is monotone. Nothing is extrapolated: T* is a statement about the sampled lengths only, and `low` is one more than
    their number where even the upper limit falls short.

    >>> reached(np.array([[False, True, True]] * 100), 0.05)
    Reached(tokens=2.0, low=2.0, high=2.0)
    """
    if not 0 < level < 1:
        raise ParameterError(f"level={level!r}: a chance in (0, 1) is needed")
    n, tokens = inside.shape
    count = inside.sum(axis=0)
    tail = (1 - confidence) / 2
    least = np.where(count > 0, stats.beta.ppf(tail, np.maximum(count, 1), n - count + 1), 0.0)
    most = np.where(count < n, stats.beta.isf(tail, count + 1, np.maximum(n - count, 1)), 1.0)

    def from_then_on(enough: np.ndarray) -> float:
        fails = np.flatnonzero(~enough)
        return 1.0 if not len(fails) else np.inf if fails[-1] == tokens - 1 else fails[-1] + 2.0

    found = from_then_on(count >= (1 - level) * n - 1e-9)
    low = float(np.argmax(most >= 1 - level)) + 1 if np.any(most >= 1 - level) else tokens + 1.0
    return Reached(float(found) if np.isfinite(found) else np.nan, low, float(from_then_on(least >= 1 - level)))


def tokens_needed(
    pilot: Records | Paths,
    fresh: Records | Paths,
    model: str,
    *,
    epsilons: Iterable[float] = (0.1,),
    level: float = 0.05,
    bound: float | None = None,
) -> pd.DataFrame:
    """Per ε: the T that |l - h| <= ε takes with probability 1 - level, by every argument, and as observed on `fresh` texts.

    Parameters
    ----------
    pilot, fresh : two samples of one language, at least 50 texts each, no text in both (another seed)
    model : what the column `model` says
    epsilons, level : tolerances in nats per token, and the chance of a miss that is allowed
    bound : a number that |a - H| never exceeds (`largest_deviation`), for Freedman; without it that row is inf

    Returns
    -------
    One row per ε and `argument`: those of `ARGUMENTS`, from the pilot alone, then "observed" (`reached` for
    |l_t - h_t| <= ε) and "observed, staying" (for |l_s - h_s| <= ε at every s from t to the end of the sample: texts that
    leave later count as staying, so this is at most the length after which they stay for ever).
    `tokens`, `low`, `high`: the length with its 95% interval; for a plan the interval of its pilot (t on log T over 20
    groups of texts, each left out in turn; at least one token to each side), for the observed ones that of `reached`.
    inf: the argument gives no length; NaN: not reached within the `sampled` length. `coverage` with its exact 95%
    interval: the share of fresh texts inside at the planned T, for "time-uniform" from T to the end of the sample; NaN
    where T lies beyond it. `variance`: mean of V_t in the pilot, nats². `texts`: number of fresh texts. `note`: why a
    number is missing, else empty.

    Raises
    ------
    ParameterError: fewer than 50 texts, samples that share texts or are of two languages, `epsilons` or `level` out of range
    """
    _check_different(pilot, fresh)
    before, after = (x if isinstance(x, Paths) else Paths.of(x) for x in (pilot, fresh))
    for what, paths in (("pilot", before), ("fresh", after)):
        if len(paths.surprisal) < _LEAST:
            raise ParameterError(f"{what}: {len(paths.surprisal)} texts are too few, at least {_LEAST} are needed")
    gap = np.abs(running_mean(after.surprisal - after.entropy))
    texts, sampled = gap.shape
    epsilons = list(epsilons)
    plans = _plans(before, epsilons, level, bound)
    about = {"variance": float(np.mean(before.varentropy)), "texts": texts, "sampled": sampled}
    rows = []
    for epsilon, planned in zip(epsilons, plans, strict=True):
        inside = gap <= epsilon
        staying = np.flip(np.logical_and.accumulate(np.flip(inside, axis=1), axis=1), axis=1)
        common = {"model": model, "epsilon": epsilon, "level": level}
        for argument, plan in zip(ARGUMENTS, planned, strict=True):
            hits = staying if argument == "time-uniform" else inside
            rows.append(
                common | {"argument": argument} | plan._asdict() | _covered(hits, plan.tokens, argument) | about
            )
        for argument, hits in (("observed", inside), ("observed, staying", staying)):
            found = reached(hits, level)
            note = f"not reached in {sampled} tokens" if np.isnan(found.tokens) else ""
            none = dict.fromkeys(("coverage", "coverage_low", "coverage_high"), np.nan)
            rows.append(common | {"argument": argument} | found._asdict() | none | {"note": note} | about)
    table = pd.DataFrame(rows)
    return table[[*(c for c in table if c != "note"), "note"]]


class _Planned(NamedTuple):
    tokens: float
    low: float
    high: float


def _plans(pilot: Paths, epsilons: list[float], level: float, bound: float | None) -> list[list[_Planned]]:
    """Per ε and argument the length, with its interval by leaving out each of 20 groups of texts in turn."""

    def lengths(paths: Paths) -> np.ndarray:
        found = [[*plan_tokens(paths, e, level, bound=bound), time_uniform_tokens(paths, e, level)] for e in epsilons]
        return np.maximum(np.array(found, dtype=np.float64).reshape(len(epsilons), len(ARGUMENTS)), 1.0)

    whole = lengths(pilot)
    group = np.arange(len(pilot.surprisal)) % _GROUPS  # takes the texts of a prompt, which stand together, in turn
    copies = np.log([lengths(_texts(pilot, group != g)) for g in range(_GROUPS)])
    half = np.full_like(whole, np.nan)
    known = np.isfinite(copies).all(axis=0) & np.isfinite(whole)
    spread = (_GROUPS - 1) * np.var(copies[:, known], axis=0)  # the delete-a-group jackknife: (g-1)/g Σ (copy - mean)²
    half[known] = stats.t.ppf(0.975, _GROUPS - 1) * np.sqrt(spread)
    # lengths are whole tokens, so that groups can agree by rounding: at least one token to each side
    low = np.maximum(np.minimum(whole * np.exp(-half), whole - 1), 1.0)
    high = np.maximum(whole * np.exp(half), whole + 1)
    return [
        [_Planned(*map(float, cell)) for cell in zip(*row, strict=True)] for row in zip(whole, low, high, strict=True)
    ]


def _texts(paths: Paths, kept: Bool[np.ndarray, " texts"]) -> Paths:
    return Paths(*(x[kept] for x in paths[:3]), {theta: x[kept] for theta, x in paths.log_partition.items()})


def _covered(hits: Bool[np.ndarray, "texts tokens"], tokens: float, argument: str) -> dict[str, float | str]:
    """The share of texts inside at `tokens`, or why there is none."""
    if np.isinf(tokens):
        note = "needs a bound on |a - H|" if argument == "Freedman" else "no exponent is small enough"
    elif tokens > hits.shape[1]:
        note = f"beyond the {hits.shape[1]} sampled tokens"
    else:
        return intervals.share(hits[:, int(tokens) - 1]).columns("coverage") | {"note": ""}
    return dict.fromkeys(("coverage", "coverage_low", "coverage_high"), np.nan) | {"note": note}


def _check_different(pilot: Records | Paths, fresh: Records | Paths) -> None:
    """ParameterError if two records share texts, or the beginnings of texts, or are of two scorers."""
    if not (isinstance(pilot, Records) and isinstance(fresh, Records)):
        return
    names = [(r.meta.get("scorer_fingerprint"), r.meta.get("scorer")) for r in (pilot, fresh)]
    if names[0][0] != names[1][0]:
        raise ParameterError(f"the pilot was scored under {names[0][1]}, the fresh texts under {names[1][1]}")
    samplers = [r.meta.get("sampler") or {} for r in (pilot, fresh)]
    drawn = [(s.get("fingerprint"), s.get("adaptor"), s.get("seed")) for s in samplers]
    begins = drawn[0] == drawn[1] and samplers[0].get("tokens") != samplers[1].get("tokens")
    keys = [r.text_keys for r in (pilot, fresh)]
    shared = 0 if any(k is None for k in keys) else len(np.intersect1d(*keys))
    if begins or shared:
        what = "are one sample cut at two lengths" if begins else f"share {shared} texts"
        raise ParameterError(
            f"pilot and fresh {what} (seed {samplers[1].get('seed')}): draw one of them with another seed"
        )
