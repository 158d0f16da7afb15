"""Markov languages under multiplicative weights: the local and the global law of an adaptor, and alignment, all exact.

Give every step i -> j of a Markov language a weight w_ij >= 0 (γ(p)(j), or p e^{r/β}, or both) and every string the product
of its weights. Normalised over strings, w(y)/Z, this is again a Markov language (Doob's h-transform): with G the weights
between symbols that are not the end token and e those of the end token, h = (1 - G)^{-1} e,

    π_ij = G_ij h_j / h_i,   π_i,end = e_i / h_i,   π_start,j = w_start,j h_j / Z,   Z = w_start,end + Σ_j w_start,j h_j.

Everything about the global law is then linear algebra, whatever the size of the vocabulary. Sources: 2406.10203, Eq. 1, 5-8,
13; Chi 1999 (weighted grammars as probabilistic ones); Levin and Peres 2017, section 17.6, for the transform.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from .. import information
from ..adaptors import Adaptor, as_adaptor
from ..errors import ParameterError
from ..languages import MarkovChain
from .normalisers import Normaliser, Solution, checked_weights, reaching, solved
from .string_laws import Strings, enumerate_strings

__all__ = [
    "GlobalLaw",
    "Steps",
    "adapted",
    "class_means",
    "class_strings",
    "divergence",
    "expected_total",
    "global_law",
    "is_tight",
    "local_law",
    "lumped",
    "shared_mass",
    "string_values",
    "weighted_normaliser",
]


class Steps(NamedTuple):
    """A value of every first symbol, (vocab,), and of every step from one symbol to the next, (vocab, vocab)."""

    first: np.ndarray
    step: np.ndarray

    @classmethod
    def of(cls, chain: MarkovChain) -> "Steps":
        """log p of every step of the chain, nats."""
        return cls(chain.log_initial, chain.log_transition)

    def __add__(self, other: "Steps") -> "Steps":
        with np.errstate(invalid="ignore"):  # inf - inf: NaN, which `solved` refuses
            return Steps(self.first + other.first, self.step + other.step)

    def times(self, factor: float) -> "Steps":
        """Every value multiplied by `factor`; -inf stays -inf."""
        return Steps(*(np.where(np.isneginf(x), x, factor * x) for x in self))


class GlobalLaw(NamedTuple):
    """The chain that π is, and log Z, nats."""

    chain: MarkovChain
    log_z: float


def _end(chain: MarkovChain) -> int:
    if chain.eos is None:
        raise ParameterError(f"{chain.name} has no end token: there are no finite strings to normalise over")
    return chain.eos


def adapted(chain: MarkovChain, adaptor: Adaptor | str | None = None) -> Steps:
    """log γ(p) of every step, nats; AdaptorError where the adaptor removes all tokens of a row."""
    rows = checked_weights(as_adaptor(adaptor), np.vstack([chain.log_initial, chain.log_transition]))
    return Steps(rows[0], rows[1:])


def local_law(chain: MarkovChain, weights: Steps, *, name: str = "local") -> MarkovChain:
    """q = w/Z_t at every step: the law that a local sampler draws from. `chain` gives the end token and the symbols."""
    rows = [np.exp(information.log_normalise(x)) for x in weights]
    rows[1][_end(chain)] = np.eye(chain.vocab_size)[_end(chain)]
    return MarkovChain(rows[1], rows[0], eos=chain.eos, name=name, symbols=chain.symbols)


def global_law(chain: MarkovChain, weights: Steps, *, name: str = "global") -> GlobalLaw:
    """π = w/Z over strings as a Markov chain, and log Z; see the module for the formula.

    Raises ParameterError where Z is 0 or infinite: `normaliser` and `critical_temperature` say where that is;
    DistributionError for weights that are NaN or +inf.

    >>> coin = MarkovChain([[.25, .75], [0, 1]], [.5, .5], eos=1)
    >>> law, log_z = global_law(coin, adapted(coin, "temperature(0.5)"))
    >>> bool(np.isclose(np.exp(log_z), .25 + .25 * .75**2 / (1 - .25**2)))
    True
    """
    end, n = _end(chain), chain.vocab_size
    found, h, live = _solved(chain, weights)
    if found.spectral_radius >= 1:
        raise ParameterError(f"Z is infinite: the spectral radius {found.spectral_radius:.6g} is not below 1")
    if not found.exists:
        raise ParameterError("Z is 0: no string ends under these weights")
    start, moves = (np.exp(x) * h for x in weights)
    moves[~live] = np.eye(n)[end]
    rows = moves / moves.sum(axis=1, keepdims=True)
    law = MarkovChain(rows, start / start.sum(), eos=end, name=name, symbols=chain.symbols)
    return GlobalLaw(law, found.log_z)


def weighted_normaliser(chain: MarkovChain, weights: Steps) -> Normaliser:
    """log Z and spectral radius as `normaliser` gives them, for weights of any kind."""
    return _solved(chain, weights)[0]


def _solved(chain: MarkovChain, weights: Steps) -> Solution:
    return solved(weights.first, weights.step, _end(chain))


def _but(values: np.ndarray, index: int) -> np.ndarray:
    """A copy with the entry of the end token set to zero."""
    values = values.copy()
    values[index] = 0
    return values


# ---------------------------------------------------------------------------------------------------- expectations


def expected_total(law: MarkovChain, values: Steps) -> float:
    """E[Σ_t f(x_{t-1}, x_t)] over the strings of `law`, the step to the end token counted.

    With u = π_start (1 - Q)^{-1} the mean number of visits to each symbol, it is Σ_j π_start,j f_start,j + Σ_i u_i Σ_j π_ij
    f_ij. Values of steps that the law never takes do not count, whatever they are; -inf on one that it takes gives -inf.
    ParameterError for a law that need not end (`is_tight`).

    >>> coin = MarkovChain([[.25, .75], [0, 1]], [.5, .5], eos=1)
    >>> one = Steps(np.ones(2), np.ones((2, 2)))
    >>> float(round(expected_total(coin, one), 12)) == round(1 + .5 / .75, 12)     # expected length, the end counted
    True
    """
    if not is_tight(law):
        raise ParameterError(f"{law.name} need not end: expectations over its strings do not exist")
    seen = _reached(law)
    visits = np.linalg.solve(np.eye(len(seen)) - law.transition[np.ix_(seen, seen)].T, law.initial[seen])
    used = law.transition > 0
    rows = (law.transition * np.where(used, values.step, 0)).sum(axis=1)
    start = (law.initial * np.where(law.initial > 0, values.first, 0)).sum()
    return float(start + visits @ rows[seen])


def _reached(law: MarkovChain) -> np.ndarray:
    """The symbols but the end token that strings of the law can hold."""
    seen = reaching(_but(law.initial > 0, _end(law)), (law.transition > 0).T)
    return np.flatnonzero(_but(seen, _end(law)))


def is_tight(law: MarkovChain) -> bool:
    """Whether strings of the law end with probability one: spectral radius of the steps that do not end below 1.

    >>> is_tight(MarkovChain([[1., 0], [0, 1]], [.5, .5], eos=1))
    False
    """
    seen = _reached(law)
    return not len(seen) or float(np.abs(np.linalg.eigvals(law.transition[np.ix_(seen, seen)])).max()) < 1 - 1e-12


def divergence(law: MarkovChain, other: MarkovChain) -> float:
    """KL(law ‖ other) between strings, nats; inf where the other forbids a string of `law`.

    >>> coin = MarkovChain([[.25, .75], [0, 1]], [.5, .5], eos=1)
    >>> divergence(coin, coin)
    0.0
    """
    with np.errstate(invalid="ignore"):
        gap = Steps(*(a - b for a, b in zip(Steps.of(law), Steps.of(other), strict=True)))
    return max(0.0, expected_total(law, gap))


def shared_mass(law: MarkovChain, other: MarkovChain) -> float:
    """The probability under `law` of the strings that `other` can write, in [0, 1]."""
    keep = [np.where(np.isneginf(b), -np.inf, a) for a, b in zip(Steps.of(law), Steps.of(other), strict=True)]
    return float(np.exp(weighted_normaliser(law, Steps(*keep)).log_z))


# ------------------------------------------------------------------------------------------------ classes of symbols


def lumped(chain: MarkovChain, groups: Sequence[int] | Int[np.ndarray, " vocab"]) -> MarkovChain:
    """The chain of the classes of its symbols, `groups` (vocab,): exact where rows of one class have the same law.

    ParameterError where they do not (Kemeny and Snell 1960, section 6.3). The end token is a class of its own.
    """
    groups = np.asarray(groups)
    member, first, seen = _members(chain, groups)
    rows, end = chain.transition @ member, int(groups[_end(chain)])
    if (groups == end).sum() != 1:
        raise ParameterError("the end token shares its class with another symbol")
    if not np.allclose(rows[seen], rows[first][groups][seen], atol=1e-9):
        raise ParameterError(f"{chain.name}: symbols of one class do not go on alike, so their classes are no chain")
    return MarkovChain(rows[first], chain.initial @ member, eos=end, name=f"classes of {chain.name}")


def _members(chain: MarkovChain, groups: np.ndarray) -> tuple[np.ndarray, list[int], np.ndarray]:
    """One-hot classes (vocab, classes), one symbol of each class that is ever reached, and which symbols are."""
    if groups.shape != (chain.vocab_size,) or groups.dtype.kind not in "iu" or groups.min() < 0:
        raise ParameterError(
            f"groups, {groups.dtype} of shape {groups.shape}: the class of each of the {chain.vocab_size} symbols is needed"
        )
    seen = reaching(chain.initial > 0, (chain.transition > 0).T)
    seen[_end(chain)] = True
    first = [int(np.argmax((groups == k) * (1 + seen))) for k in range(int(groups.max()) + 1)]
    return np.eye(len(first))[groups], first, seen


def class_means(chain: MarkovChain, values: Steps, groups: Sequence[int] | Int[np.ndarray, " vocab"]) -> Steps:
    """Mean of f over the symbols of a class that a step may lead to, given the class: a value of every step of classes."""
    member, first, _ = _members(chain, np.asarray(groups))

    def mean(p: np.ndarray, f: np.ndarray) -> np.ndarray:
        mass = p @ member
        total = np.where(p > 0, p * np.where(p > 0, f, 0), 0) @ member
        return np.divide(total, mass, out=np.zeros_like(mass), where=mass > 0)

    return Steps(mean(chain.initial, values.first), mean(chain.transition[first], values.step[first]))


def string_values(ids: Sequence[np.ndarray], values: Steps) -> Float[np.ndarray, " strings"]:
    """Σ_t f(x_{t-1}, x_t) of each string."""
    return np.array([values.first[s[0]] + values.step[s[:-1], s[1:]].sum() for s in ids])


def class_strings(
    chain: MarkovChain, weights: Steps, groups: Sequence[int] | Int[np.ndarray, " vocab"], *, tokens: int
) -> Strings:
    """All strings of classes up to a length with their local and global laws: enumeration for any number of symbols.

    Where the rows of `weights` depend on the class of a symbol alone, so do Σ log Z_t and with it the acceptance of
    Metropolis-Hastings: a chain over texts is right if and only if it is right over their classes (given its classes, a
    text has the same law locally and globally). `log_p` is that of the class string under `chain`.
    """
    local, law = local_law(chain, weights), global_law(chain, weights)
    found = enumerate_strings(lumped(local, groups), tokens=tokens)
    of_global = string_values(found.ids, Steps.of(lumped(law.chain, groups)))
    of_chain = string_values(found.ids, Steps.of(lumped(chain, groups)))
    log_gamma = of_global + law.log_z
    covered = float(np.exp(special.logsumexp(of_global)))
    log_open = law.log_z + np.log(max(1 - covered, 1e-300))
    return Strings(found.ids, of_chain, log_gamma, found.log_q, log_open, found.open_q, max(0.0, 1 - covered))
