"""Mixtures of languages: nature picks one component and keeps it. Stationary if they are, but not ergodic."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from ..errors import DistributionError, VocabularyMismatch
from .protocol import ExactLanguage, as_ids, content_hash
from .stochastic import log_of, prompt_batch, stochastic

__all__ = ["Mixture"]


class Mixture(ExactLanguage):
    """p(x) = sum_k w_k p_k(x): one component writes the whole text, the reader has to find out which.

    Parameters: `components`, exact languages over one vocabulary (Markov chains, say); `weights` (components,).
    The state holds the components' states and the log joint log w_k p_k(x_<t), (components, batch); its normalised form
    is the posterior. l_T - h_T goes to zero as in every language, while h_T goes to the rate of the component that was
    picked, which is random. Raises DistributionError on weights, VocabularyMismatch on components.

    >>> from aep.languages.finite import FiniteLanguage
    >>> two = Mixture([FiniteLanguage([1., 0.]), FiniteLanguage([0., 1.])], [.5, .5])
    >>> [float(round(v, 12)) for v in np.exp(two.start([[0]])[0][0])]
    [1.0, 0.0]
    """

    def __init__(
        self,
        components: Sequence[ExactLanguage],
        weights: Float[np.ndarray, " components"] | Sequence,
        *,
        name: str | None = None,
    ):
        self.components, self.weights = list(components), stochastic(weights, "weights")
        if len(self.components) != len(self.weights):
            raise DistributionError(f"{len(self.components)} components but {len(self.weights)} weights")
        sizes = sorted({c.vocab_size for c in self.components})
        if len(sizes) > 1:
            raise VocabularyMismatch(f"the components have vocabularies of {sizes} symbols")
        self.vocab_size, self.eos = sizes[0], self.components[0].eos
        self.name = name or f"mixture({', '.join(c.name for c in self.components)})"
        self.symbols = self.components[0].symbols
        self.fingerprint = content_hash("mixture", self.weights, *(c.fingerprint for c in self.components))

    def start(self, prompts: Sequence | np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], Any]:
        """`log_p` (batch, vocab) after each prompt; the prompt counts as evidence about the component."""
        ids = prompt_batch(prompts, self.vocab_size)
        empty = [np.empty(0, np.int64)] * len(ids)
        log_joint = np.repeat(log_of(self.weights)[:, None], len(ids), axis=1)
        parts = [c.start(empty) for c in self.components]
        log_p, state = self._combined(parts, log_joint)
        for column in ids.T:
            log_p, state = self.step(state, column)
        return log_p, state

    def step(self, state: Any, ids: np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], Any]:
        """`log_p` (batch, vocab) after one more symbol, NaN if no component allows it. PromptError for a foreign id."""
        laws, states, log_joint = state
        ids = as_ids(ids, self.vocab_size, "step")
        log_joint = log_joint + np.stack([law[np.arange(len(ids)), ids] for law in laws])
        parts = [c.step(s, ids) for c, s in zip(self.components, states, strict=True)]
        return self._combined(parts, log_joint)

    def select(self, state: Any, indices: np.ndarray) -> Any:
        """See `Language.select`."""
        laws, states, log_joint = state
        kept = [c.select(s, indices) for c, s in zip(self.components, states, strict=True)]
        return [law[indices] for law in laws], kept, log_joint[:, indices]

    def _combined(self, parts: Sequence, log_joint: np.ndarray):
        laws, states = [law for law, _ in parts], [s for _, s in parts]
        # a component that is ruled out may have undefined rows of its own: its weight is zero, so they do not count
        stacked = np.where(np.isneginf(log_joint)[:, :, None], -np.inf, np.stack(laws))
        with np.errstate(invalid="ignore"):
            log_weight = log_joint - logsumexp(log_joint, axis=0)
        return logsumexp(log_weight[:, :, None] + stacked, axis=0), (laws, states, log_joint)

    def posterior(self, state: Any) -> Float[np.ndarray, "batch components"]:
        """Posterior probability of each component given the text so far; rows sum to one."""
        log_joint = state[2]
        return np.exp(log_joint - logsumexp(log_joint, axis=0)).T

    def entropy_rates(self) -> Float[np.ndarray, " components"]:
        """Entropy rate of every component, nats per symbol: the possible limits of h_T."""
        return np.array([c.entropy_rate() for c in self.components])

    def entropy_rate(self) -> float:
        """sum_k w_k h_k, nats per symbol: the rate of the mixture and the mean of the random limit of h_T."""
        return float(self.weights @ self.entropy_rates())
