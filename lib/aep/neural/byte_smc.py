"""Unbiased sequential Monte Carlo of the probability of a byte string: the beam with a random choice of histories.

The step from one byte to the next is linear in the weights of the histories. If every step keeps at most N of them so that
the weight of each has the right mean given the past (E[kept weight] = weight, 0 when dropped), the summed weight after the
last byte has the mean P(s) exactly, by induction, whatever N is. All weights are compared at one byte position, so
histories of many tokens are compared with those of few where they have spelled the same bytes.

The choice is the optimal one of Fearnhead and Clifford (2003, JRSS B 65, 887-899): weights above a threshold c stay as they
are; of the others, item i is kept with probability w_i/c by systematic sampling, and then weighs c. No history is held
twice, and with N of at least the number of histories the result is exact.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from ..errors import ParameterError
from ..sampling import text_stream
from .byte_beam import Candidates, Kept, Rule
from .bytelevel import ByteLanguage, as_symbols, follow, whole

__all__ = ["ByteMonteCarlo", "byte_monte_carlo", "keep_unbiased"]


def keep_unbiased(particles: int, uniform: Float[np.ndarray, " texts"]) -> Rule:
    """At most `particles` histories per text, each weight kept in the mean; one uniform number per text decides."""

    def rule(candidates: Candidates) -> Kept:
        text, log_weight, _, texts = candidates
        size = np.bincount(text, minlength=texts)
        if size.max(initial=0) <= particles:
            return Kept(np.arange(len(text)), np.zeros(len(text)))
        order = np.lexsort((-log_weight, text))
        rank = np.arange(len(text)) - np.repeat(np.cumsum(size) - size, size)
        top = log_weight[order][np.maximum(np.cumsum(size) - size, 0).clip(max=len(text) - 1)]
        weight = np.zeros((texts, size.max()))
        weight[text, rank] = np.exp(log_weight[order] - top[text])
        above, c = _threshold(weight, particles, size)
        few = (size <= particles)[:, None]
        kept = few | (np.arange(size.max()) < above[:, None])
        reached = np.cumsum(np.where(kept, 0.0, weight) / c[:, None], axis=1) + uniform[:texts, None]
        jumps = np.diff(np.floor(reached), axis=1, prepend=0.0) > 0  # the uniform number is below 1
        taken = (kept | jumps)[text, rank]
        factor = np.where(kept[text, rank], 0.0, np.log(c)[text] + top[text] - log_weight[order])[taken]
        index = order[taken]
        back = np.argsort(index)
        return Kept(index[back], factor[back])

    return rule


def _threshold(weight: np.ndarray, particles: int, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(how many of the falling weights of each row stay, c) with Σ min(w/c, 1) = particles; c = 1 where all stay."""
    rest = np.cumsum(weight[:, ::-1], axis=1)[:, ::-1][:, :particles]
    left = particles - np.arange(particles)
    below = weight[:, :particles] * left < rest
    below[:, -1] = True
    above = below.argmax(axis=1)
    rows = np.arange(len(weight))
    return above, np.where(size > particles, rest[rows, above] / left[above], 1.0)


class ByteMonteCarlo(NamedTuple):
    """Estimates of P(s) per text; nats.

    `log_p` : log of the mean of the replicates' estimates; the mean is unbiased, its log is low by about `jensen`
    `low`, `high` : logs of the ends of the t interval of the mean over replicates, on the scale of probabilities; `low` is
        -inf where that interval reaches 0, which says that more particles are needed
    `jensen` : half the squared relative standard error of the mean: log P(s) - E[log_p], to second order. Where the relative
        variance of a replicate is above about 0.5 they are skewed and the interval covers less than it says (85% at .9, 75%
        at 5, measured with 8 replicates): give more particles. NaN, with no upper end, where all are 0
    `log_estimates` : log of each replicate's estimate
    """

    log_p: Float[np.ndarray, " texts"]
    low: Float[np.ndarray, " texts"]
    high: Float[np.ndarray, " texts"]
    jensen: Float[np.ndarray, " texts"]
    log_estimates: Float[np.ndarray, "texts replicates"]


def byte_monte_carlo(
    language: ByteLanguage,
    texts: Sequence[str | bytes | np.ndarray] | np.ndarray,
    *,
    particles: int = 16,
    replicates: int = 16,
    seed: int,
    end: bool = False,
    level: float = 0.95,
    batch: int = 64,
) -> ByteMonteCarlo:
    """Unbiased estimates of P(s), the probability that a text of the language begins with the bytes s, with an interval.

    Each replicate carries `particles` histories along the text (see the module; the width of `language` plays no part) and
    has a random stream of its own, of (seed, text, replicate). `batch` of them go through the language side by side. `texts`
    and `end` as in `byte_probability`.

    Raises PromptError, ParameterError (counts, level; at least 2 replicates), ContextTooLong.

    >>> from aep.languages import FiniteLanguage
    >>> letters = ByteLanguage(FiniteLanguage([.5, .3, .2]), [b"a", b"b", b"ab"])
    >>> found = byte_monte_carlo(letters, [b"abab"], particles=2, replicates=2, seed=0)
    >>> bool(np.isclose(found.log_p[0], 2 * np.log(.5 * .3 + .2)))  # two histories at most: exact
    True
    """
    whole("particles", particles), whole("batch", batch)
    if whole("replicates", replicates) < 2:
        raise ParameterError(f"replicates={replicates}: an interval needs at least 2")
    if not 0 < level < 1:
        raise ParameterError(f"level={level!r}: a number between 0 and 1 is needed")
    ids = as_symbols(language, texts, end)
    jobs = sorted(((i, r) for i in range(len(ids)) for r in range(replicates)), key=lambda job: -len(ids[job[0]]))
    estimates = np.empty((len(ids), replicates))
    for k in range(0, len(jobs), batch):
        group = jobs[k : k + batch]
        longest = len(ids[group[0][0]])
        uniform = np.stack([text_stream(seed, *job).random(longest) for job in group])
        followed = follow(
            language, [ids[i] for i, _ in group], lambda t, active, u=uniform: keep_unbiased(particles, u[:active, t])
        )
        for job, kept in zip(group, followed["kept"], strict=True):
            estimates[job] = kept[-1]
    return _summary(estimates, level)


def _summary(log_estimates: np.ndarray, level: float) -> ByteMonteCarlo:
    """Mean and t interval of the estimates relative to their mean, whose logs are taken last."""
    replicates = log_estimates.shape[1]
    mean = np.logaddexp.reduce(log_estimates, axis=1) - np.log(replicates)
    relative = np.exp(log_estimates - np.where(np.isneginf(mean), 0, mean)[:, None])
    error = relative.std(axis=1, ddof=1) / np.sqrt(replicates)
    half = stats.t.ppf((1 + level) / 2, replicates - 1) * error
    with np.errstate(divide="ignore"):
        low = mean + np.log(np.maximum(1 - half, 0))
    none = np.isneginf(mean)  # nothing was found, which says nothing of how much there is
    high, jensen = np.where(none, np.inf, mean + np.log1p(half)), np.where(none, np.nan, error**2 / 2)
    return ByteMonteCarlo(mean, low, high, jensen, log_estimates)
