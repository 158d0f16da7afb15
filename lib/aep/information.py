"""Every information quantity of a next-token distribution, defined once for NumPy and torch.

All functions take normalised log-probabilities `log_p` (..., vocab) in nats and reduce the last axis. Zero probabilities
(`-inf`) contribute nothing. The same line serves the float64 oracle of a notebook and a tensor inside the scoring loop.
"""

from typing import Any, NamedTuple

from jaxtyping import Float, Int

from ._array import as_numpy, device, gather, log_sum_exp, namespace, no_rounding_noise, resolution
from .errors import DistributionError

__all__ = [
    "THETAS",
    "Moments",
    "check_distribution",
    "check_log_total",
    "check_probabilities",
    "cross_entropy",
    "cross_moments",
    "cross_varentropy",
    "entropy",
    "expectation",
    "greedy",
    "kl",
    "log_normalise",
    "log_partition",
    "log_partition_grid",
    "mass_above",
    "rank",
    "renyi_entropy",
    "surprisal",
    "varentropy",
]

THETAS = (0.25, 0.5, 0.75, 0.875, 1.125, 1.25, 1.5, 2.0)
"""Orders of the log-partition grid that every record holds (multiples of 1/8)."""

LogP = Float[Any, "*batch vocab"]
PerRow = Float[Any, "*batch"]
Tokens = Int[Any, "*batch"]


class Moments(NamedTuple):
    """Mean and variance of a surprisal over the tokens that could have come: nats, nats²."""

    entropy: PerRow
    varentropy: PerRow


def expectation(log_p: LogP, values: LogP) -> PerRow:
    """Σ_v p(v) f(v) with 0·(±inf) = 0. Unit: that of `values`.

    >>> import numpy as np
    >>> float(expectation(np.log(np.array([0.5, 0.5])), np.array([1.0, 3.0])))
    2.0
    """
    with no_rounding_noise():
        return _weighted_sum(namespace(log_p).exp(log_p), values)


def _weighted_sum(p: LogP, values: LogP) -> PerRow:
    """Σ_v p(v) f(v), where p(v) = 0 leaves f(v) out even if it is infinite."""
    xp = namespace(p)
    return xp.sum(xp.where(p > 0, p * values, 0.0), axis=-1)


def surprisal(log_p: LogP, token: Tokens) -> PerRow:
    """Surprisal a = -log p(x) in nats, in [0, inf], a_t of the token at t; (1/T) Σ a_t is the log-perplexity.

    >>> import numpy as np
    >>> bool(surprisal(np.log(np.array([0.25, 0.75])), np.array(0)) == np.log(4))
    True
    """
    return -gather(log_p, token)


def entropy(log_p: LogP) -> PerRow:
    """Shannon entropy H = -Σ p log p in nats, in [0, log vocab]. Cover & Thomas 2006, Eq. 2.1.

    >>> import numpy as np
    >>> bool(np.isclose(entropy(np.log(np.full(8, 1 / 8))), np.log(8)))
    True
    """
    return expectation(log_p, -log_p)


def varentropy(log_p: LogP) -> PerRow:
    """Varentropy V = Var_{v~p}[-log p(v)] in nats², at least 0; zero for a uniform law on its support.

    Computed from centred surprisals, so that it does not cancel. Fradelizi, Madiman & Wang 2016.

    >>> import numpy as np
    >>> bool(varentropy(np.log(np.full(8, 1 / 8))) < 1e-30)
    True
    """
    return cross_varentropy(log_p, log_p)


def cross_entropy(log_p: LogP, log_q: LogP) -> PerRow:
    """Cross-entropy b = -Σ p log q in nats, in [H(p), inf]; +inf where q cuts a token that p allows.

    >>> import numpy as np
    >>> p = np.log(np.array([0.2, 0.3, 0.5]))
    >>> bool(cross_entropy(p, p) == entropy(p))
    True
    """
    return expectation(log_p, -log_q)


def cross_varentropy(log_p: LogP, log_q: LogP) -> PerRow:
    """Cross-varentropy v = Var_{v~p}[-log q(v)] in nats², at least 0 (NaN where the cross-entropy is infinite).

    >>> import numpy as np
    >>> p = np.log(np.array([0.2, 0.3, 0.5]))
    >>> bool(cross_varentropy(p, p) == varentropy(p))
    True
    """
    return cross_moments(log_p, log_q).varentropy


def cross_moments(log_p: LogP, log_q: LogP) -> Moments:
    """Cross-entropy and cross-varentropy of one pass over the rows: mean and variance of -log q(v) for v ~ p.

    >>> import numpy as np
    >>> p, q = np.log(np.array([0.2, 0.3, 0.5])), np.log(np.array([0.3, 0.3, 0.4]))
    >>> bool(cross_moments(p, q).entropy == cross_entropy(p, q))
    True
    """
    xp = namespace(log_p)
    p = xp.exp(log_p)
    with no_rounding_noise():
        mean = _weighted_sum(p, -log_q)
        return Moments(mean, _weighted_sum(p, (log_q + mean[..., None]) ** 2))


def kl(log_p: LogP, log_q: LogP) -> PerRow:
    """Kullback-Leibler divergence KL(p‖q) = Σ p log(p/q) in nats, in [0, inf]. Cover & Thomas 2006, Eq. 2.26.

    >>> import numpy as np
    >>> p = np.log(np.array([0.2, 0.3, 0.5]))
    >>> float(kl(p, p))
    0.0
    """
    with no_rounding_noise():
        return expectation(log_p, log_p - log_q)


def log_partition(log_p: LogP, theta: float) -> PerRow:
    """Log-partition Λ(θ) = log Σ_v p(v)^θ in nats, over the support of p; Λ(1) = 0. Convex in θ.

    >>> import numpy as np
    >>> bool(np.isclose(log_partition(np.log(np.full(8, 1 / 8)), 0.5), 0.5 * np.log(8)))
    True
    """
    with no_rounding_noise():
        return log_sum_exp(namespace(log_p).where(log_p == -float("inf"), log_p, theta * log_p))


def log_partition_grid(log_p: LogP) -> dict[float, PerRow]:
    """Λ(θ) of every θ in `THETAS`, from one exponential: e = exp((log_p - max)/8), then products and row sums.

    >>> import numpy as np
    >>> p = np.log(np.array([0.2, 0.3, 0.5]))
    >>> all(np.isclose(value, log_partition(p, theta)) for theta, value in log_partition_grid(p).items())
    True
    """
    xp = namespace(log_p)
    top = xp.max(log_p, axis=-1, keepdims=True)
    power = {1: xp.exp((log_p - top) / 8)}
    for n, (a, b) in _CHAIN.items():
        power[n] = power[a] * power[b]
    return {theta: xp.log(xp.sum(power[round(8 * theta)], axis=-1)) + theta * top[..., 0] for theta in THETAS}


_CHAIN = {2: (1, 1), 4: (2, 2), 6: (4, 2), 7: (6, 1), 9: (7, 2), 10: (6, 4), 12: (6, 6), 16: (10, 6)}


def renyi_entropy(log_p: LogP, order: float) -> PerRow:
    """Rényi entropy H_θ = Λ(θ)/(1-θ) in nats; θ = 1 is the Shannon entropy, θ = inf the min-entropy.

    Non-increasing in θ. Paper 2406.10203, Def. 2.

    >>> import numpy as np
    >>> p = np.log(np.array([0.2, 0.3, 0.5]))
    >>> bool(renyi_entropy(p, 1) == entropy(p))
    True
    """
    if order == 1:
        return entropy(log_p)
    if order == float("inf"):
        return -namespace(log_p).max(log_p, axis=-1)
    return log_partition(log_p, order) / (1 - order)


def rank(log_p: LogP, token: Tokens) -> Tokens:
    """Rank r: the number of tokens with strictly larger probability (0 = a greedy token; ties share a rank).

    >>> import numpy as np
    >>> int(rank(np.log(np.array([0.2, 0.3, 0.5])), np.array(1)))
    1
    """
    xp = namespace(log_p)
    return xp.sum(xp.astype(log_p > gather(log_p, token)[..., None], xp.int64), axis=-1)


def greedy(log_p: LogP) -> Tokens:
    """Greedy token g = argmax_v p(v); the lowest id among ties.

    >>> import numpy as np
    >>> int(greedy(np.log(np.array([0.2, 0.4, 0.4]))))
    1
    """
    xp = namespace(log_p)
    ids = xp.arange(log_p.shape[-1], dtype=xp.int64, device=device(log_p))
    top = log_p == xp.max(log_p, axis=-1, keepdims=True)
    return xp.min(xp.where(top, ids, log_p.shape[-1] - 1), axis=-1)  # argmax leaves ties open in torch


def mass_above(log_p: LogP, token: Tokens) -> PerRow:
    """Mass above m: Σ p(v) over tokens strictly more probable than x, in [0, 1). Zero for a greedy token.

    >>> import numpy as np
    >>> float(mass_above(np.log(np.array([0.2, 0.3, 0.5])), np.array(1)))
    0.5
    """
    xp = namespace(log_p)
    above = log_p > gather(log_p, token)[..., None]
    return xp.sum(xp.where(above, xp.exp(log_p), xp.zeros_like(log_p)), axis=-1)


def log_normalise(logits: LogP) -> LogP:
    """Normalised log-probabilities: logits - log Σ exp(logits). DistributionError on NaN, +inf or an empty support.

    >>> import numpy as np
    >>> float(np.exp(log_normalise(np.array([0.0, 0.0]))).sum())
    1.0
    """
    return logits - check_log_total(log_sum_exp(logits))[..., None]


def check_log_total(log_total: PerRow, what: str = "logits") -> PerRow:
    """log Σ exp(logits) of rows (...), nats, itself; DistributionError, naming the row, where it is not finite."""
    finite = as_numpy(namespace(log_total).isfinite(log_total)).reshape(-1)
    if not finite.all():
        row = int((~finite).argmax())
        raise DistributionError(
            f"{what} of row {row} hold NaN or +inf, or no finite value: no distribution can be read from them"
        )
    return log_total


def check_distribution(log_p: LogP, *, what: str = "log_p", tolerance: float | None = None) -> LogP:
    """`log_p` itself if every row is a distribution, else DistributionError naming the row and its sum. Never renormalises.

    The default tolerance of the sum is 1e-9 in double precision and 1e-4 in single.
    """
    tolerance = max(1e-9, 1e3 * resolution(log_p)) if tolerance is None else tolerance
    deviation = as_numpy(log_sum_exp(log_p)).reshape(-1)
    bad = ~(abs(deviation) <= tolerance)
    if bad.any():
        row = int(bad.argmax())
        total = float(namespace(log_p).exp(log_sum_exp(log_p)).reshape(-1)[row])
        raise DistributionError(
            f"row {row} of {what} sums to {total:.9g}, not to 1: log-probabilities must be normalised"
        )
    return log_p


def check_probabilities(p: LogP, *, what: str = "p", tolerance: float | None = None) -> LogP:
    """log p (..., vocab) of probabilities `p`; DistributionError on NaN, negative values or a sum that is not one."""
    rows = as_numpy(p).reshape(-1, p.shape[-1])
    bad = ~(rows >= 0)
    if bad.any():
        row, column = (int(i[0]) for i in bad.nonzero())
        raise DistributionError(f"{what}: entry {column} of row {row} is {rows[row, column]}, which is negative or NaN")
    xp = namespace(p)
    with no_rounding_noise():
        return check_distribution(xp.log(p), what=what, tolerance=tolerance)
