"""Hidden Markov models: a language whose next-symbol law depends on the whole past, by the forward algorithm."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .. import information
from ..errors import DistributionError
from .protocol import ExactLanguage, as_ids, content_hash
from .stochastic import LETTERS, log_of, prompt_batch, stationary_distribution, stochastic

__all__ = ["HiddenMarkov", "RateBounds"]

LARGEST_ENUMERATION = 2_000_000


class RateBounds(NamedTuple):
    """lower <= entropy rate <= upper, nats per symbol."""

    lower: float
    upper: float


class HiddenMarkov(ExactLanguage):
    """Symbols emitted by a hidden chain: state s_1 ~ initial, x_t ~ emission[s_t], s_(t+1) ~ transition[s_t].

    Parameters: `transition` (n, n); `emission` (n, vocab); `initial` (n,), the law of s_1, stationary by default.
    The state of the language is the filtered belief P(s_t | x_1 ... x_(t-1)), (batch, n). After a symbol of probability
    zero the belief is undefined and the next rows are NaN, which scoring refuses. Raises DistributionError on rows that
    are not distributions.

    >>> loaded = HiddenMarkov([[.9, .1], [.2, .8]], [[.5, .5], [.1, .9]])
    >>> bool(np.isclose(np.exp(loaded.start([[]])[0]).sum(), 1))
    True
    """

    def __init__(
        self,
        transition: Float[np.ndarray, "n n"] | Sequence,
        emission: Float[np.ndarray, "n vocab"] | Sequence,
        initial: Float[np.ndarray, " n"] | Sequence | None = None,
        *,
        eos: int | None = None,
        name: str | None = None,
        symbols: Sequence[str] | None = None,
    ):
        self.transition, self.emission = stochastic(transition, "transition"), stochastic(emission, "emission")
        n = len(self.transition)
        if self.transition.shape != (n, n) or self.emission.ndim != 2 or len(self.emission) != n:
            raise DistributionError(
                f"transition {self.transition.shape} must be square and emission {self.emission.shape} have its {n} rows"
            )
        self.initial = stationary_distribution(self.transition) if initial is None else stochastic(initial, "initial")
        if self.initial.shape != (n,):
            raise DistributionError(f"initial has shape {self.initial.shape}, the chain has {n} states")
        self.vocab_size, self.eos = self.emission.shape[1], eos
        self.name = name or f"hidden_markov({n}, {self.vocab_size})"
        self.symbols = symbols or (list(LETTERS[: self.vocab_size]) if self.vocab_size <= len(LETTERS) else None)
        self.fingerprint = content_hash("hidden_markov", self.transition, self.emission, self.initial)

    def start(
        self, prompts: Sequence | np.ndarray
    ) -> tuple[Float[np.ndarray, "batch vocab"], Float[np.ndarray, "batch n"]]:
        """`log_p` (batch, vocab) after each prompt, and the belief about the hidden state that emits next."""
        ids = prompt_batch(prompts, self.vocab_size)
        belief = np.tile(self.initial, (len(ids), 1))
        for column in ids.T:
            belief = self._updated(belief, column)
        return log_of(belief @ self.emission), belief

    def step(self, state: Float[np.ndarray, "batch n"], ids: np.ndarray):
        """`log_p` (batch, vocab) after one more symbol, and the next belief (batch, n). PromptError for a foreign id."""
        belief = self._updated(state, as_ids(ids, self.vocab_size, "step"))
        return log_of(belief @ self.emission), belief

    def _updated(self, belief: np.ndarray, ids: np.ndarray) -> np.ndarray:
        joint = belief * self.emission[:, ids].T
        with np.errstate(invalid="ignore"):
            return (joint / joint.sum(axis=1, keepdims=True)) @ self.transition

    def log_probability(self, ids: Sequence | np.ndarray) -> float:
        """log p(x_1 ... x_T), nats, by the forward algorithm: the sum over all hidden paths; -inf if impossible.

        >>> fair = HiddenMarkov([[.5, .5], [.5, .5]], [[.5, .5], [.5, .5]])
        >>> bool(np.isclose(fair.log_probability([0, 1, 1]), 3 * np.log(.5)))
        True
        """
        belief, total = self.initial, 0.0
        for symbol in as_ids(ids, self.vocab_size, "text"):
            joint = belief * self.emission[:, symbol]
            if not joint.sum() > 0:
                return -np.inf
            total += np.log(joint.sum())
            belief = (joint / joint.sum()) @ self.transition
        return float(total)

    def entropy_rate_bounds(self, n: int) -> RateBounds:
        """H(X_n | X_1 ... X_(n-1), S_1) <= rate <= H(X_n | X_1 ... X_(n-1)), nats, from the stationary start.

        By enumeration of all vocab^n strings (Cover and Thomas, Theorem 4.5.1); both bounds are monotone in n and meet.
        Raises DistributionError when there would be more than two million strings times pairs of hidden states.

        >>> bounds = HiddenMarkov([[.9, .1], [.2, .8]], [[.5, .5], [.1, .9]]).entropy_rate_bounds(6)
        >>> bounds.lower <= bounds.upper
        True
        """
        states = len(self.transition)
        if n < 1 or self.vocab_size**n * states**2 > LARGEST_ENUMERATION:
            most = f"{self.vocab_size}^n strings times {states}² pairs of states may be {LARGEST_ENUMERATION:,}"
            raise DistributionError(f"n={n}: too many, or below 1; {most}")
        pi = stationary_distribution(self.transition)
        upper, lower = [0.0], [0.0]
        # forward[first, string, state] = P(string so far, next hidden state | s_1 = first)
        forward = np.eye(states)[:, None, :]
        for _ in range(n):
            emitted = forward[:, :, None, :] * self.emission.T[None, None, :, :]
            forward = (emitted @ self.transition).reshape(states, -1, states)
            given = forward.sum(axis=2)
            upper.append(float(information.entropy(log_of(pi @ given))))
            lower.append(float(pi @ information.entropy(log_of(given))))
        return RateBounds(lower[-1] - lower[-2], upper[-1] - upper[-2])
