"""Probability vectors and matrices that a user hands over: checked, never repaired."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from .. import information
from ..errors import DistributionError, PromptError
from .protocol import as_ids

__all__ = ["log_of", "prompt_batch", "stationary_distribution", "stochastic"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def stochastic(p: np.ndarray | Sequence, what: str) -> Float[np.ndarray, "*rows vocab"]:
    """`p` as float64, after a check that every row is a distribution. Nothing is renormalised.

    Returns a copy, (vocab,) or (rows, vocab). Raises DistributionError with the row, its value or its sum.

    >>> float(stochastic([.25, .75], "p").sum())
    1.0
    """
    array = np.array(p, dtype=np.float64)
    if array.ndim not in (1, 2) or not array.size:
        raise DistributionError(f"{what} must be a non-empty vector or matrix, got shape {array.shape}")
    information.check_probabilities(array, what=what)
    return array


def log_of(p: Float[np.ndarray, "*rows"]) -> Float[np.ndarray, "*rows"]:
    """log p in nats, -inf where p = 0, without a warning.

    >>> [float(v) for v in np.exp(log_of(np.array([0., 1.])))]
    [0.0, 1.0]
    """
    with np.errstate(divide="ignore"):
        return np.log(p)


def prompt_batch(prompts: Sequence | np.ndarray, vocab_size: int) -> Int[np.ndarray, "batch length"]:
    """Prompts of one common length as one integer matrix (batch, length). Raises PromptError otherwise.

    >>> prompt_batch([[0, 1], [1, 1]], 2).shape
    (2, 2)
    """
    rows = [as_ids(p, vocab_size) for p in prompts]
    lengths = sorted({len(r) for r in rows})
    if len(lengths) > 1:
        raise PromptError(f"prompts of one batch must have one length, got lengths {lengths}")
    return np.array(rows, dtype=np.int64).reshape(len(rows), lengths[0] if lengths else 0)


def stationary_distribution(transition: Float[np.ndarray, "state state"]) -> Float[np.ndarray, " state"]:
    """The probability vector with pi P = pi: solution of (P' - I) pi = 0 with sum(pi) = 1.

    Raises DistributionError when there is more than one (several recurrent classes).

    >>> P = np.array([[.9, .1], [.3, .7]])
    >>> bool(np.allclose(stationary_distribution(P) @ P, stationary_distribution(P)))
    True
    """
    n = len(transition)
    system = np.vstack([transition.T - np.eye(n), np.ones(n)])
    pi, _, rank, _ = np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)
    if rank < n:
        raise DistributionError(
            f"the chain on {n} states has several recurrent classes: no unique stationary distribution"
        )
    # lstsq leaves transient states at the order of 1e-17 on either side of zero
    pi = np.where(pi < 1e-14, 0.0, pi)
    return pi / pi.sum()
