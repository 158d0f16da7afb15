"""From a record to the self-AEP: running l and h, σ, z with its "no test" case, typical sets and their sizes.

All arrays are (..., T): the last axis is the position in a text. Nats; varentropies in nats².
With a_t the surprisal and H_t, V_t the conditional entropy and varentropy, D_t = a_t - H_t is a martingale difference when
the text was sampled from the scorer: l_T - h_T = (1/T) Σ D_t has mean 0 and variance E[Σ V_t]/T² at every T.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

from ..importance import kish, pareto_k
from ..information import THETAS
from ..records import Records, theta_column

__all__ = [
    "Calibration",
    "Paths",
    "SetSize",
    "ZTest",
    "calibration",
    "effective_tokens",
    "is_locally_typical",
    "is_model_typical",
    "is_weakly_typical",
    "log_set_size",
    "running_mean",
    "running_sigma",
    "z_test",
]

# Where `z_test` has no test: tokens that share the variance, share of it in the second half, mean varentropy (nats²).
LEAST_TOKENS, LATE_SHARE, NOISE = 30.0, 0.01, 1e-6

Steps = Float[np.ndarray, "*batch tokens"]
PerText = Float[np.ndarray, "*batch"]


class Paths(NamedTuple):
    """The columns the tests need, each (..., T); `log_partition` maps θ to Λ_t(θ)."""

    surprisal: Steps
    entropy: Steps
    varentropy: Steps
    log_partition: dict[float, Steps]

    @classmethod
    def of(cls, records: Records, text: int | None = None) -> "Paths":
        """Of all texts, (texts, T), if they are equally long; or of one text, (T,)."""

        def read(name: str) -> np.ndarray:
            return records.matrix(name) if text is None else records.by_text(name)[text]

        grid = {theta: read(theta_column(theta)) for theta in THETAS}
        return cls(read("surprisal"), read("entropy"), read("varentropy"), grid)

    @classmethod
    def concatenate(cls, parts: "Sequence[Paths]") -> "Paths":
        """The paths of several samples of one length as one sample, in the order given: texts of several models pooled."""
        grid = {theta: np.concatenate([p.log_partition[theta] for p in parts]) for theta in parts[0].log_partition}
        return cls(*(np.concatenate(columns) for columns in zip(*(p[:3] for p in parts), strict=True)), grid)

    def first(self, tokens: int) -> "Paths":
        """The same paths cut after `tokens` positions."""
        cut = [x[..., :tokens] for x in self[:3]]
        return Paths(*cut, {theta: x[..., :tokens] for theta, x in self.log_partition.items()})


def running_mean(x: Steps) -> Steps:
    """(1/t) Σ_{i<=t} x_i at every t: of surprisals the running log-perplexity l_t, of entropies the running h_t.

    >>> running_mean(np.array([1.0, 3.0, 5.0])).tolist()
    [1.0, 2.0, 3.0]
    """
    return np.cumsum(x, axis=-1) / np.arange(1, x.shape[-1] + 1)


def running_sigma(varentropy: Steps) -> Steps:
    """σ_t = sqrt(Σ_{i<=t} V_i)/t, the standard deviation of l_t - h_t that the path itself predicts, at every t.

    >>> running_sigma(np.ones(4)).tolist() == [1.0, 2**0.5 / 2, 3**0.5 / 3, 0.5]
    True
    """
    return np.sqrt(np.cumsum(varentropy, axis=-1)) / np.arange(1, varentropy.shape[-1] + 1)


def effective_tokens(varentropy: Steps) -> PerText:
    """(Σ V_t)²/Σ V_t²: how many tokens share the variance; T if all V_t are equal, 0 if all are 0.

    >>> float(effective_tokens(np.array([2.0, 2.0, 0.0])))
    2.0
    """
    largest = np.max(varentropy, axis=-1, keepdims=True, initial=0.0)  # V of 1e-170 has no square
    share = np.divide(varentropy, largest, out=np.zeros_like(varentropy), where=largest > 0)
    squares, total = np.sum(share**2, axis=-1), np.sum(share, axis=-1) ** 2
    return np.divide(total, squares, out=np.zeros_like(total), where=squares > 0)


class ZTest(NamedTuple):
    """`z` = (l - h)/σ; `has_test` False where no normal approximation is available (z is NaN there); two-sided `p_value`."""

    z: PerText
    has_test: Bool[np.ndarray, "*batch"]
    p_value: PerText


def z_test(surprisal: Steps, entropy: Steps, varentropy: Steps, *, least: float = LEAST_TOKENS) -> ZTest:
    """z_T = Σ(a_t - H_t)/sqrt(Σ V_t), N(0,1) under the null by the martingale central limit theorem.

    The theorem wants Σ V_t to grow and no token to dominate it. A text has "no test" when fewer than `least` tokens
    effectively share the variance (`effective_tokens`), or when the second half of the text adds less than 1% of it:
    in a repetition loop Σ V_t stays bounded, and z says nothing about the loop. Nor is there one when the mean of V_t is
    below 1e-6 (a uniform law): a - H is then rounding noise. z < 0 is over-typical, z > 0 under-typical.
    """
    drift = np.sum(surprisal - entropy, axis=-1)
    information = np.sum(varentropy, axis=-1)
    late = np.sum(varentropy[..., varentropy.shape[-1] // 2 :], axis=-1)
    noise = NOISE * varentropy.shape[-1]
    has_test = (effective_tokens(varentropy) >= least) & (late >= LATE_SHARE * information) & (information >= noise)
    z = np.divide(drift, np.sqrt(information), out=np.full_like(drift, np.nan), where=has_test)
    return ZTest(z, np.asarray(has_test), 2 * stats.norm.sf(np.abs(z)))


class Calibration(NamedTuple):
    """Whether z-scores look like N(0,1): each statistic with its exact band, the Kolmogorov-Smirnov p-value, the verdict."""

    texts: int
    mean: float
    mean_band: float
    mean_square: float
    mean_square_low: float
    mean_square_high: float
    ks_p: float
    is_calibrated: bool


def calibration(z: Float[np.ndarray, " texts"], *, level: float = 0.001) -> Calibration:
    """Is z normal: mean z inside ±Φ^{-1}(1 - level/2)/sqrt(n), Σz² inside the central χ²_n interval, KS p-value > level.

    A correct build misses with a chance of at most 3·level; pass level/m for m models (Bonferroni; Holm rejects no less).
    """
    n = len(z)
    band = stats.norm.isf(level / 2) / np.sqrt(n)
    low, high = stats.chi2.ppf([level / 2, 1 - level / 2], n) / n
    mean, square = float(np.mean(z)), float(np.mean(z**2))
    ks_p = float(stats.kstest(z, "norm").pvalue)
    good = abs(mean) <= band and low <= square <= high and ks_p > level
    return Calibration(n, mean, float(band), square, float(low), float(high), ks_p, bool(good))


def is_model_typical(surprisal: Steps, entropy: Steps, epsilon: float) -> Bool[np.ndarray, "*batch"]:
    """|l_T - h_T| <= ε: typical relative to the model. Paper 2405.13798."""
    return np.asarray(np.abs(np.mean(surprisal - entropy, axis=-1)) <= epsilon)


def is_weakly_typical(surprisal: Steps, entropy_rate: float, epsilon: float) -> Bool[np.ndarray, "*batch"]:
    """|l_T - h| <= ε with the entropy rate h of a stationary source. Cover & Thomas 2006, section 3.1."""
    return np.asarray(np.abs(np.mean(surprisal, axis=-1) - entropy_rate) <= epsilon)


def is_locally_typical(surprisal: Steps, entropy: Steps, epsilon: float) -> Bool[np.ndarray, "*batch"]:
    """|a_t - H_t| <= ε at every position. Meister et al. 2023, Def. 4.1."""
    return np.asarray(np.all(np.abs(surprisal - entropy) <= epsilon, axis=-1))


class SetSize(NamedTuple):
    """(1/T) log|A|, nats per token, with a bootstrap interval; `effective` sample size of the weights and `pareto_k`."""

    log_size: float
    low: float
    high: float
    effective: float
    pareto_k: float


def log_set_size(
    total: Float[np.ndarray, " texts"],
    inside: Bool[np.ndarray, " texts"],
    tokens: int,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
) -> SetSize:
    """(1/T) log|A| by importance sampling: |A| = E_p[1{x in A}/p(x)], from texts sampled from p.

    `total` is Σ a_t = -log p(x) per text. Weights 1/p(x) are heavy-tailed: the interval (bootstrap over
    texts) is only to be believed when `pareto_k` is below 0.7 (Vehtari et al. 2024); above it the estimate is a lower-tail
    guess. NaN if no text is inside.
    """
    n = len(total)
    if not inside.any():
        return SetSize(np.nan, np.nan, np.nan, 0.0, np.nan)
    log_weight = np.where(inside, total, -np.inf)

    def estimate(index: Any) -> Any:
        return (special.logsumexp(log_weight[index], axis=-1) - np.log(n)) / tokens

    copies = estimate(rng.integers(0, n, size=(2000, n)))
    low, high = np.quantile(copies, [(1 - level) / 2, (1 + level) / 2])
    kept = total[inside]
    k = pareto_k(kept - special.logsumexp(kept))
    return SetSize(float(estimate(np.arange(n))), float(low), float(high), float(kish(kept)), k)
