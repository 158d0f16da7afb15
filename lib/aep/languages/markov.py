"""Markov chains: entropy rate, asymptotic variances, Rényi rates and exact expectations at finite length."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .. import information
from ..errors import DistributionError, VocabularyMismatch
from .protocol import ExactLanguage, as_ids, content_hash
from .stochastic import LETTERS, log_of, prompt_batch, stationary_distribution, stochastic

__all__ = ["Expected", "MarkovChain", "reversal"]


class Expected(NamedTuple):
    """Exact expectations over texts of `tokens` symbols.

    `log_perplexity` = E[l_T] = E[h_T] (nats per symbol; equal because l_T - h_T is a sum of martingale differences)
    and `sum_varentropy` = E[sum V_t] (nats squared), so that Var(l_T - h_T) = sum_varentropy / tokens^2.
    """

    tokens: int
    log_perplexity: float
    sum_varentropy: float


class MarkovChain(ExactLanguage):
    """A Markov chain on n symbols: the smallest language with memory.

    Parameters: `transition` (n, n), row i the law of the next symbol after i; `initial` (n,), the law of the first
    symbol, stationary by default; `eos`, `name`, `symbols` (letters by default up to 26). After a prompt the chain goes
    on from its last symbol. Raises DistributionError naming the row and its sum. Nats throughout; rates are per symbol.

    >>> coin = MarkovChain([[.5, .5], [.5, .5]])
    >>> bool(np.isclose(coin.entropy_rate(), np.log(2)))
    True
    """

    def __init__(
        self,
        transition: Float[np.ndarray, "n n"] | Sequence,
        initial: Float[np.ndarray, " n"] | Sequence | None = None,
        *,
        eos: int | None = None,
        name: str | None = None,
        symbols: Sequence[str] | None = None,
    ):
        self.transition = stochastic(transition, "transition")
        n = len(self.transition)
        if self.transition.shape != (n, n):
            raise DistributionError(f"transition must be a square matrix, got shape {self.transition.shape}")
        self.initial = self.stationary() if initial is None else stochastic(initial, "initial")
        if self.initial.shape != (n,):
            raise DistributionError(f"initial has shape {self.initial.shape}, the chain has {n} states")
        self.log_transition, self.log_initial = log_of(self.transition), log_of(self.initial)
        self.vocab_size, self.eos = n, eos
        self.name = name or f"markov({n})"
        self.symbols = symbols or (list(LETTERS[:n]) if n <= len(LETTERS) else None)
        self.fingerprint = content_hash("markov", self.transition, self.initial)

    def start(self, prompts: Sequence | np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], None]:
        """`log_p` (batch, vocab): the row of each prompt's last symbol, the initial law after empty prompts."""
        ids = prompt_batch(prompts, self.vocab_size)
        if not ids.shape[1]:
            return np.tile(self.log_initial, (len(ids), 1)), None
        return self.log_transition[ids[:, -1]], None

    def step(self, state: None, ids: np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], None]:
        """`log_p` (batch, vocab): the rows of the last symbols, all there is to remember. PromptError for a foreign id."""
        return self.log_transition[as_ids(ids, self.vocab_size, "step")], None

    def stationary(self) -> Float[np.ndarray, " n"]:
        """Stationary distribution pi = pi P. Raises DistributionError when there are several."""
        return stationary_distribution(self.transition)

    def row_entropy(self) -> Float[np.ndarray, " n"]:
        """H_i = -sum_j P_ij log P_ij, nats: the entropy H_t of every step that leaves symbol i."""
        return information.entropy(self.log_transition)

    def row_varentropy(self) -> Float[np.ndarray, " n"]:
        """V_i = Var[-log P_ij], nats squared."""
        return information.varentropy(self.log_transition)

    def entropy_rate(self) -> float:
        """h = sum_i pi_i H_i, nats per symbol (Cover and Thomas, Theorem 4.2.4).

        >>> bool(np.isclose(MarkovChain([[0., 1.], [1., 0.]]).entropy_rate(), 0))
        True
        """
        return float(self.stationary() @ self.row_entropy())

    def asymptotic_variance_from_entropy(self) -> float:
        """lim Var(sqrt(T) (l_T - h_T)) = sum_i pi_i V_i, nats squared: the stationary varentropy."""
        return float(self.stationary() @ self.row_varentropy())

    def asymptotic_variance(self) -> float:
        """lim Var(sqrt(T) (l_T - h)), h the entropy rate; nats squared.

        With g solving the Poisson equation g - P g = H - h, the sum of a_t - h is, up to a bounded term, a sum of the
        martingale differences D_ij = -log P_ij - H_i + g_j - (P g)_i, so the limit is sum pi_i P_ij D_ij^2
        (Gordin's decomposition; Kemeny and Snell, section 4.4, for the fundamental matrix).

        >>> chain = MarkovChain([[.5, .3, .2], [.2, .5, .3], [.3, .2, .5]])   # rows permute each other: H is constant
        >>> bool(np.isclose(chain.asymptotic_variance(), chain.asymptotic_variance_from_entropy()))
        True
        """
        pi, n = self.stationary(), self.vocab_size
        excess = self.row_entropy() - self.entropy_rate()
        g = np.linalg.solve(np.eye(n) - self.transition + np.outer(np.ones(n), pi), excess)
        surprisal = np.where(self.transition > 0, -self.log_transition, 0.0)
        d = surprisal - self.row_entropy()[:, None] + g[None, :] - (self.transition @ g)[:, None]
        return float(pi @ (self.transition * d**2).sum(axis=1))

    def log_partition_rate(self, theta: float) -> float:
        """lim (1/T) log sum_x p(x_1 ... x_T)^theta = log rho([P_ij^theta]), nats per symbol; 0 at theta = 1.

        The spectral radius rho is taken over all states, hence over every class the start can reach when the chain is
        irreducible. Zero entries stay zero at every theta. Raises DistributionError unless theta > 0.
        (Rached, Alajaji and Campbell 2001, Lemma 1.)

        >>> chain = MarkovChain([[.9, .1], [.3, .7]])
        >>> bool(np.isclose(chain.log_partition_rate(1.0), 0))
        True
        """
        if not theta > 0:
            raise DistributionError(f"theta must be positive, got {theta}")
        power = np.where(self.transition > 0, np.exp(theta * np.where(self.transition > 0, self.log_transition, 0)), 0)
        return float(np.log(np.abs(np.linalg.eigvals(power)).max()))

    def renyi_rate(self, order: float) -> float:
        """Rényi entropy rate log rho([P_ij^order]) / (1 - order), nats per symbol; the entropy rate at order 1.

        >>> float(round(MarkovChain([[.5, .5], [.5, .5]]).renyi_rate(2.0) / np.log(2), 12))
        1.0
        """
        return self.entropy_rate() if order == 1 else self.log_partition_rate(order) / (1 - order)

    def cross_entropy_rate(self, scorer: "MarkovChain") -> float:
        """sum_i pi_i sum_j P_ij (-log Q_ij), nats per symbol: lim h_(A,B) of this source A under the scorer B.

        At least the entropy rate; infinite when the scorer forbids a transition that happens.

        >>> chain = MarkovChain([[.9, .1], [.3, .7]])
        >>> bool(np.isclose(chain.cross_entropy_rate(chain), chain.entropy_rate()))
        True
        """
        self._same_vocabulary(scorer)
        pi = self.stationary()
        seen = pi > 0
        cross = information.cross_entropy(self.log_transition[seen], scorer.log_transition[seen])
        return float(pi[seen] @ cross)

    def marginals(self, tokens: int, prompt: Sequence | np.ndarray = ()) -> Float[np.ndarray, "tokens n"]:
        """Exact law of the symbol at positions 0 ... tokens-1 after `prompt`: rows of mu P^t."""
        log_p, _ = self.start([prompt])
        out = np.empty((tokens, self.vocab_size))
        mu = np.exp(log_p[0])
        for t in range(tokens):
            out[t] = mu
            mu = mu @ self.transition
        return out

    def expected(
        self, tokens: int, *, prompt: Sequence | np.ndarray = (), scorer: "MarkovChain | None" = None
    ) -> Expected:
        """Exact E[l_T] = E[h_T] and E[sum V_t] for texts of `tokens` >= 1 symbols drawn after `prompt`.

        Position t > 0 contributes mu_(t-1) . H with mu_t = mu_0 P^t; position 0 the entropy of the initial law (or of
        the row of the last prompt symbol). With a `scorer`, the cross-entropy b_t and cross-varentropy v_t instead.

        >>> chain = MarkovChain([[.9, .1], [.3, .7]])
        >>> bool(np.isclose(chain.expected(50, prompt=[0]).log_perplexity, chain.entropy_rate(), atol=.05))
        True
        """
        scorer = self if scorer is None else scorer
        self._same_vocabulary(scorer)
        (log_p, _), (log_q, _) = self.start([prompt]), scorer.start([prompt])
        before = self.marginals(tokens, prompt)[:-1].sum(axis=0)
        seen = before > 0
        laws = np.concatenate([log_p, self.log_transition[seen]]), np.concatenate([log_q, scorer.log_transition[seen]])
        weight = np.append(1.0, before[seen])
        mean = weight @ information.cross_entropy(*laws)
        variance = weight @ information.cross_varentropy(*laws)
        return Expected(tokens, float(mean / tokens), float(variance))

    def _same_vocabulary(self, scorer: "MarkovChain"):
        if scorer.vocab_size != self.vocab_size:
            raise VocabularyMismatch(f"{self.name} has {self.vocab_size} symbols, {scorer.name} {scorer.vocab_size}")


def reversal(*, tie: bool = False) -> MarkovChain:
    """Three symbols a, b, c on which local top-2 reverses the order of two strings (2406.10203, App. A).

    p(.|start) = (.5, .5, 0), p(.|a) = (.45, .45, .10), p(.|b) = (.40, .35, .25); the row after c plays no part and is
    uniform. Raw p(aa) = .225 > p(ba) = .200, but locally normalised top-2 gives .25 < .2667. With `tie`, p(.|b) =
    (.40, .30, .30): the k-th value is tied, top-2 keeps all three symbols, and nothing is reversed.

    >>> p = reversal().transition
    >>> bool(.5 * p[0, 0] > .5 * p[1, 0] and .5 * p[0, 0] / p[0, :2].sum() < .5 * p[1, 0] / p[1, :2].sum())
    True
    """
    after_b = [0.40, 0.30, 0.30] if tie else [0.40, 0.35, 0.25]
    rows = [[0.45, 0.45, 0.10], after_b, [1 / 3, 1 / 3, 1 / 3]]
    return MarkovChain(rows, [0.5, 0.5, 0.0], name="reversal with a tie" if tie else "reversal")
