"""Is the global normaliser finite? Exactly for Markov languages, by growth against length for networks.

The global normaliser of an adaptor is Z = Σ_y Π_t γ(p_t)(y_t) over finite strings y, each closed by the end token. A local
adaptor always defines a sampler; its globally normalised law exists only for 0 < Z < ∞. Z is 0 where the end token is cut
everywhere (the local sampler never stops) and can be infinite for τ > 1, where γ adds mass at every step.
Source: paper 2406.10203, section 4 (Eq. 6-7, where Z < ∞ is assumed).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import optimize, special

from .. import information
from ..adaptors import Adaptor, as_adaptor, parse, temperature
from ..errors import AdaptorError, DistributionError, ParameterError, PromptError, RecordError
from ..importance import pareto_k
from ..intervals import Interval, bootstrap, mean
from ..languages import ExactLanguage, FiniteLanguage, HiddenMarkov, MarkovChain, Mixture
from ..languages.protocol import as_ids
from ..records import Texts

__all__ = [
    "Growth",
    "Normaliser",
    "Solution",
    "checked_weights",
    "critical_temperature",
    "growth",
    "growth_rate",
    "least_end_probability",
    "normaliser",
    "reaching",
    "solved",
]

FEWEST_OPEN = 50


class Normaliser(NamedTuple):
    """log Z (nats; -inf for Z = 0, +inf where it diverges) and the spectral radius that decides between them."""

    log_z: float
    spectral_radius: float

    @property
    def exists(self) -> bool:
        """Whether 0 < Z < ∞: only then is there a globally normalised law."""
        return bool(np.isfinite(self.log_z))


def checked_weights(adaptor: Adaptor, log_p: Float[np.ndarray, "rows vocab"]) -> Float[np.ndarray, "rows vocab"]:
    """log γ(p) of every row; AdaptorError where the adaptor removes all tokens."""
    weights = adaptor.log_weights(log_p)
    empty = np.flatnonzero(np.isneginf(weights.max(axis=-1)) | np.isnan(weights).any(axis=-1))
    if empty.size:
        raise AdaptorError(f"{adaptor} removes all tokens of row {empty[0]}: an adaptor has to keep at least one")
    return weights


# ------------------------------------------------------------------------------------------------------- exact languages


def as_chain(language: ExactLanguage) -> MarkovChain:
    """The Markov chain that a language is: itself, or independent symbols as a chain without memory.

    ParameterError for a language without end token or whose laws are not those of finitely many states.
    """
    if isinstance(language, FiniteLanguage):
        rows = np.tile(language.p, (language.vocab_size, 1))
        language = MarkovChain(rows, language.p, eos=language.eos, name=language.name, symbols=language.symbols)
    if not isinstance(language, MarkovChain):
        raise ParameterError(
            f"{language.name} is no Markov chain and Z has no closed form: bound it by string_laws.enumerate_strings, "
            "or look at growth(sample(...))"
        )
    if language.eos is None:
        raise ParameterError(f"{language.name} has no end token: there are no finite strings to sum over")
    return language


class Solution(NamedTuple):
    """Z of weights on the steps of a Markov language; `h`, of each symbol the weight of all ways to the end; `live` symbols.

    h is 1 for the end token, else 0 where Z is infinite; a symbol is live if the start reaches it and it reaches the end.
    """

    normaliser: Normaliser
    h: np.ndarray
    live: np.ndarray


def solved(first: Float[np.ndarray, " vocab"], step: Float[np.ndarray, "vocab vocab"], end: int) -> Solution:
    """Z = g·h with h = (1 - G)^{-1} e over live symbols, from log-weights of the first symbol and of every step, nats.

    G are the weights between symbols, e those of the end token, g those of the start. DistributionError for NaN or +inf.
    """
    if not (first.max() < np.inf and step.max() < np.inf):
        raise DistributionError("log-weights of a step are NaN or +inf: numbers or -inf are needed")
    start, moves = np.exp(first), np.exp(step)
    others = np.arange(len(start)) != end
    ends = moves[:, end] * others
    moves[:, end] = moves[end] = 0.0
    live = reaching(ends > 0, moves > 0) & reaching((start > 0) & others, (moves > 0).T)
    inner = moves[np.ix_(live, live)]
    radius = float(np.abs(np.linalg.eigvals(inner)).max()) if live.any() else 0.0
    h = 1.0 - others
    if radius >= 1:
        return Solution(Normaliser(np.inf, radius), h, live)
    h[live] = np.linalg.solve(np.eye(len(inner)) - inner, ends[live])
    total = float(start @ h)
    return Solution(Normaliser(float(np.log(total)) if total > 0 else -np.inf, radius), h, live)


def reaching(targets: Bool[np.ndarray, " n"], allowed: Bool[np.ndarray, "n n"]) -> Bool[np.ndarray, " n"]:
    """The states from which allowed steps i -> j lead to `targets`, these included."""
    while (more := targets | (allowed @ targets)).sum() > targets.sum():
        targets = more
    return targets


def normaliser(
    language: ExactLanguage,
    adaptor: Adaptor | str | None = None,
    *,
    prompt: np.ndarray | list[int] | tuple[int, ...] = (),
) -> Normaliser:
    """Z of a Markov language (or of independent symbols) under an adaptor, in closed form.

    With G_ij = γ(p(·|i))(j) over symbols that are not the end token, e_i = γ(p(·|i))(end), g and e_0 the same of the
    start (or of the last symbol of `prompt`): Z = e_0 + Σ_n g G^n e = e_0 + g (1 - G)^{-1} e, finite if and only if the
    spectral radius of G is below 1, taken over the states that the start reaches and that reach the end.

    Returns (log Z, spectral radius): log Z = -inf where no string ends, +inf where the sum diverges.
    Raises ParameterError for a language that is no Markov chain or has no end token, AdaptorError where the adaptor
    removes all tokens of a row.

    >>> coin = MarkovChain([[.25, .75], [0, 1]], [.5, .5], eos=1)
    >>> bool(np.isclose(normaliser(coin).log_z, 0)), normaliser(coin, "top_k(1)").spectral_radius
    (True, 0.0)
    """
    chain = as_chain(language)
    ids = as_ids(prompt, chain.vocab_size)
    first = chain.log_transition[ids[-1]] if ids.size else chain.log_initial
    rows = checked_weights(as_adaptor(adaptor), np.vstack([chain.log_transition, first]))
    return solved(rows[-1], rows[:-1], chain.eos).normaliser


def critical_temperature(language: ExactLanguage, *, prompt: np.ndarray | list[int] | tuple[int, ...] = ()) -> float:
    """The temperature at and above which Z of a Markov language is infinite: the root of ρ([P_ij^(1/τ)]) = 1.

    inf if there is none (the symbols form no loop, or none with a choice in it). For n independent symbols of probability
    (1-e)/n each and an end token of probability e it is 1 - log(1-e)/log n.

    >>> language = FiniteLanguage([.3, .3, .4])
    >>> language.eos = 2
    >>> bool(np.isclose(critical_temperature(language), 1 - np.log(.6) / np.log(2)))
    True
    """
    chain = as_chain(language)

    def excess(inverse: float) -> float:
        radius = normaliser(chain, temperature(1 / inverse), prompt=prompt).spectral_radius
        return np.log(radius) if radius > 0 else -np.inf

    least = 1e-6
    if not excess(least) > 1e-5:  # the limit of ρ is that of the 0/1 matrix: 0, 1 or more
        return np.inf
    return float(1 / optimize.brentq(excess, least, 1.0, xtol=1e-14))


def least_end_probability(language: ExactLanguage) -> float:
    """A lower bound on p(end token) after any prefix of an exact language: 0 if it has no end token or is of another kind.

    The least entry of the end token's column: a hidden Markov model or a mixture averages over its rows.

    >>> least_end_probability(MarkovChain([[.25, .75], [0, 1]], [.5, .5], eos=1))
    0.5
    """
    if isinstance(language, Mixture):
        return min(least_end_probability(part) for part in language.components)
    if language.eos is None:
        return 0.0
    if isinstance(language, FiniteLanguage):
        return float(language.p[language.eos])
    if isinstance(language, HiddenMarkov):
        return float(language.emission[:, language.eos].min())
    if isinstance(language, MarkovChain):
        others = np.delete(language.transition[:, language.eos], language.eos)
        return float(min(others.min(initial=1.0), language.initial[language.eos]))
    return 0.0


# -------------------------------------------------------------------------------------------------------------- networks


class Growth(NamedTuple):
    """Growth of the mass of open prefixes, nats per token, between two lengths, with a bootstrap interval over texts.

    `pareto_k` of the weights at the longer length: above 0.7 neither rate nor interval can be relied on. `verdict`:
    "zero" (no text ended, and none could: the end token has no weight after any prefix of these texts), "finite" (texts
    ended, and the interval lies below 0), "infinite" (above), "undecided". With no text that ended and a possible end the
    cap was too short to say anything, hence "undecided".
    """

    rate: float
    low: float
    high: float
    pareto_k: float
    verdict: str


def _paths(texts: Texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """C_n = Σ_{t<=n} log Z_t (texts, cap), lengths, and whether each text ended."""
    if texts.log_normaliser is None or texts.finished is None:
        raise RecordError("these texts have no log_normaliser: sample them with aep.sample, which records log Z_t")
    if len(prompts := np.unique(texts.prompt)) > 1:
        raise PromptError(
            f"these are texts of {len(prompts)} prompts, each with a Z of its own: give one prompt's at a time, "
            f"texts.select(np.flatnonzero(texts.prompt == {prompts[0]}))"
        )
    damaged = next((i for i, z in enumerate(texts.log_normaliser) if not np.isfinite(z).all()), None)
    if damaged is not None:
        raise RecordError(
            f"text {damaged} has a log Z that is not finite: its adaptor removed all tokens, or it is damaged"
        )
    lengths = np.array([len(z) for z in texts.log_normaliser])
    total = np.full((len(lengths), lengths.max()), np.nan)
    for row, z in zip(total, texts.log_normaliser, strict=True):
        row[: len(z)] = np.cumsum(z)
    ended = np.asarray(texts.finished) & (texts.sampler.get("stop") == "eos")
    return total, lengths, ended


def _log_open(n: int, paths: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """log-weight C_n of every text that is still open after n tokens, -inf of the others."""
    total, lengths, ended = paths
    is_open = (lengths > n) | ((lengths == n) & ~ended)
    return np.where(is_open, total[:, n - 1], -np.inf)


def growth(texts: Texts, lengths: list[int] | tuple[int, ...] | np.ndarray) -> pd.DataFrame:
    """Growth of Σ log Z_t against length, from the record of a local sampler; nats.

    Let A_n be the sum of Π γ over all prefixes of n tokens that have not ended. Since A_n = E_q[e^{C_n}; open after n],
    C_n = Σ_{t<=n} log Z_t, it is estimated from texts that the local sampler drew. Z is finite where A_n falls
    geometrically; for a Markov language A_n ~ ρ^n, the spectral radius of `normaliser`.

    One row per length n: `open` (share of texts still open), `sum_log_z` (mean C_n of those, t interval `low`, `high`),
    `log_mass` = log A_n by importance weights, `log_mass_least` = log(open) + mean C_n, below it by Jensen's inequality,
    and `pareto_k` of the weights. NaN where fewer than two texts are open.
    Raises RecordError for texts without a record, PromptError for texts of several prompts, ParameterError for a length
    outside 1 ... cap.
    """
    paths = _paths(texts)
    rows = []
    cap = int(paths[1].max())
    for n in lengths:
        if not 1 <= n <= cap:
            raise ParameterError(f"length {n}: these texts have 1 to {cap} tokens")
        log_weight = _log_open(n, paths)
        kept = log_weight[np.isfinite(log_weight)]
        share = len(kept) / len(log_weight)
        centre = mean(kept) if len(kept) > 1 else (np.nan,) * 3
        log_mass = float(special.logsumexp(log_weight)) - np.log(len(log_weight)) if len(kept) else -np.inf
        least = np.log(share) + centre[0] if len(kept) > 1 else np.nan
        rows.append((int(n), share, *centre, log_mass, least, pareto_k(kept)))
    names = ["length", "open", "sum_log_z", "low", "high", "log_mass", "log_mass_least", "pareto_k"]
    return pd.DataFrame(rows, columns=names).set_index("length")


def growth_rate(
    texts: Texts, *, rng: np.random.Generator, between: tuple[int, int] | None = None, level: float = 0.99
) -> Growth:
    """(log A_n - log A_m)/(n - m), A_n as in `growth`: does the mass of open prefixes grow with their length?

    `between` = (m, n); by default n is the largest length at which 50 texts are still open and m its half. The interval is
    a bootstrap over texts (`intervals.bootstrap`), the statement one about these lengths: evidence about Z, not a proof.
    The end token cut everywhere shows as "zero", with a rate all the same; where no text ended, that is looked up by a pass
    over the texts with their `language`, which stops at the first prefix that can end. Where the weights do not vary the
    interval is the point.

    Raises ParameterError where lengths do not fit or fewer than 50 texts are open at n, RecordError without a record,
    PromptError for texts of several prompts.
    """
    paths = _paths(texts)
    _, lengths, ended = paths
    counts = [int(np.isfinite(_log_open(n, paths)).sum()) for n in range(1, int(lengths.max()) + 1)]
    if between is None:
        last = max((n for n, count in enumerate(counts, 1) if count >= FEWEST_OPEN), default=0)
        between = (last // 2, last)
    first, last = between
    if not 1 <= first < last <= len(counts) or counts[last - 1] < FEWEST_OPEN:
        raise ParameterError(
            f"growth between lengths {first} and {last}: give 1 <= m < n <= {len(counts)} with at least {FEWEST_OPEN} texts "
            "open at n; sample more texts"
        )
    early, late = _log_open(first, paths), _log_open(last, paths)
    shift = late.max() - early.max()

    def rate(a: np.ndarray, b: np.ndarray) -> float:
        return float((np.log(b.sum()) - np.log(a.sum()) + shift) / (last - first))

    a, b = np.exp(early - early.max()), np.exp(late - late.max())
    if np.allclose(a * b.sum(), b * a.sum(), rtol=1e-12, atol=0):  # the same for every resample
        found = Interval(*3 * (rate(a, b),))
    else:
        found = bootstrap(rate, a, b, rng=rng, level=level)
    if texts.sampler.get("stop") == "eos" and not ended.any():
        verdict = "zero" if _never_ends(texts) else "undecided"
    else:
        verdict = "finite" if found.high < 0 else "infinite" if found.low > 0 else "undecided"
    return Growth(*found, pareto_k(late[np.isfinite(late)]), verdict)


def _never_ends(texts: Texts) -> bool:
    """Whether the end token has weight 0 after every prefix of the texts; False without their language or its adaptor."""
    language = texts.language
    try:
        adaptor = parse(texts.sampler["adaptor"])
    except (AdaptorError, KeyError):
        return False
    if language is None or language.eos is None:
        return False
    rows = language.rows([texts.prompts[i] for i in texts.prompt], texts.ids)
    weights = (adaptor.log_weights(information.log_normalise(np.asarray(row, np.float64))) for row in rows)
    return all(np.isneginf(w[:, language.eos]).all() for w in weights)
