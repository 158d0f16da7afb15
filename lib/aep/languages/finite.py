"""Independent draws from a finite set, and the toy of 2406.10203, section 6.1."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from .. import information
from .protocol import ExactLanguage, content_hash, row_order
from .stochastic import LETTERS, log_of, prompt_batch, stochastic

__all__ = ["FiniteLanguage", "Toy", "toy", "zipf"]


class FiniteLanguage(ExactLanguage):
    """Independent, identically distributed symbols: the language in which every formula is a finite sum.

    Parameters: `p` (vocab,) probabilities, zeros allowed; `name`; `symbols`, letters by default up to 26 of them.
    Raises DistributionError when `p` is not a distribution. Quantities are per symbol, in nats.

    >>> language = FiniteLanguage([.5, .25, .25])
    >>> bool(np.isclose(language.entropy(), 1.5 * np.log(2)))
    True
    """

    def __init__(
        self,
        p: Float[np.ndarray, " vocab"] | Sequence,
        *,
        name: str | None = None,
        symbols: Sequence[str] | None = None,
    ):
        self.p = stochastic(p, "p")
        self.log_p = log_of(self.p)
        self.vocab_size = len(self.p)
        self.name = name or f"finite({self.vocab_size})"
        self.symbols = symbols or (list(LETTERS[: self.vocab_size]) if self.vocab_size <= len(LETTERS) else None)
        self.fingerprint = content_hash("finite", self.p)

    def start(self, prompts: Sequence | np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], None]:
        """`log_p` (batch, vocab), the same whatever the prompt, and no state."""
        return self._tiled(len(prompt_batch(prompts, self.vocab_size))), None

    def step(self, state: None, ids: np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], None]:
        """`log_p` (batch, vocab), the same whatever was drawn."""
        return self._tiled(len(ids)), None

    def rows(self, prompts, texts, *, bos=True, chunk=256) -> Iterator[Float[np.ndarray, "rows vocab"]]:
        """See `Language.rows`; closed form, no stepping."""
        left = len(row_order(texts)[0])
        while left > 0:
            yield self._tiled(min(left, chunk))
            left -= chunk

    def _tiled(self, rows: int) -> np.ndarray:
        return np.tile(self.log_p, (rows, 1))

    def entropy(self) -> float:
        """Entropy H = -sum p log p, nats per symbol, in [0, log vocab_size]."""
        return float(information.entropy(self.log_p))

    def entropy_rate(self) -> float:
        """The entropy: draws are independent."""
        return self.entropy()

    def varentropy(self) -> float:
        """Varentropy V = Var[-log p], nats squared; also the asymptotic variance of sqrt(T) (l_T - H)."""
        return float(information.varentropy(self.log_p))

    def log_partition(self, theta: float) -> float:
        """Log-partition Lambda(theta) = log sum p^theta, nats; 0 at theta = 1."""
        return float(information.log_partition(self.log_p, theta))


def zipf(n: int, exponent: float = 1.0) -> FiniteLanguage:
    """Zipf's law on n symbols: p(r) proportional to r^-exponent, r = 1 ... n.

    >>> bool(np.isclose(zipf(8).p[1] / zipf(8).p[3], 2))
    True
    """
    weight = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return FiniteLanguage(weight / weight.sum(), name=f"zipf({n})")


class Toy(NamedTuple):
    """The toy trio on a finite set of objects: aligned p_plus, prior p, reward r (nats, beta = 1); each (objects,)."""

    p_plus: np.ndarray
    prior: np.ndarray
    reward: np.ndarray

    @property
    def log_p_plus(self) -> np.ndarray:
        """log p_plus, nats."""
        return np.log(self.p_plus)

    @property
    def log_p(self) -> np.ndarray:
        """Logarithm of the prior, nats."""
        return np.log(self.prior)


def toy(
    objects: int = 1000, *, concentration: float = 0.1, scaling: float = 42.0, noise: float = 0.42, seed: int = 42
) -> Toy:
    """The Dirichlet toy of 2406.10203, section 6.1, in the random stream of its public code.

    p_plus ~ Dirichlet(concentration); p = softmax(p_plus^(1/scaling) + Uniform(-noise, noise)); r = log(p_plus / p).
    Both draws come, in this order, from one legacy ``RandomState(seed)``: the stream of ``numpy.random.seed``, which
    NumPy guarantees never to change. Eq. 4 with beta = 1 and no constant, so log p + r = log p_plus is an identity.

    >>> t = toy()
    >>> bool(np.allclose(t.log_p + t.reward, t.log_p_plus, atol=1e-12))
    True
    """
    rng = np.random.RandomState(seed)
    p_plus = rng.dirichlet(np.full(objects, concentration))
    prior = softmax(p_plus ** (1 / scaling) + rng.uniform(-noise, noise, size=objects))
    return Toy(p_plus, prior, np.log(p_plus / prior))
