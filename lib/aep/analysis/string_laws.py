"""Local and global laws of an adaptor over whole strings of an exact language, by enumeration.

Strings end with the end token (or, without one, have a fixed length). Local: q(y) = Π γ(p_t)(y_t)/Z_t. Global:
π(y) = Π γ(p_t)(y_t) / Σ_y' Π γ(p_t)(y'_t). Here every sum is a finite one: what independent Metropolis-Hastings
(`metropolis`) is checked against. Source: paper 2406.10203, section 4 (Eq. 5-8) and App. A.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import special

from .. import information
from ..adaptors import Adaptor, as_adaptor
from ..errors import ParameterError, unknown_name
from ..intervals import mean
from ..languages import ExactLanguage, FiniteLanguage, MarkovChain
from ..languages.protocol import as_ids, check_count
from .metropolis import Proposals, fresh_chains
from .normalisers import checked_weights, least_end_probability, normaliser

__all__ = ["Strings", "enumerate_strings", "expected_acceptance", "mixing_steps", "pool_bias"]

LARGEST_ENUMERATION = 1_000_000


@dataclass(frozen=True)
class Strings:
    """Every string that an adaptor allows, up to a length cap, with its log-probabilities in nats, each (strings,).

    `ids`: token ids, the end token last; `log_p` under the language itself; `log_gamma` = Σ log γ; `log_q` under the local
    law; `log_open`: log Σ Π γ over prefixes still open at the cap; `open_q`: their local probability, the share of texts
    that are cut; `omitted`: the share of the global law that longer strings have, or an upper bound (1 where there is none).
    """

    ids: list[np.ndarray]
    log_p: np.ndarray
    log_gamma: np.ndarray
    log_q: np.ndarray
    log_open: float
    open_q: float
    omitted: float

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def log_weight(self) -> np.ndarray:
        """log w = Σ_t log Z_t of each string, nats."""
        return self.log_gamma - self.log_q

    @property
    def log_z(self) -> float:
        """log Σ Π γ over the strings below the cap, nats: at most the log of the global normaliser."""
        return float(special.logsumexp(self.log_gamma)) if len(self) else -np.inf

    @property
    def log_target(self) -> np.ndarray:
        """log π of each string given that it fits below the cap, nats: what Metropolis-Hastings on such texts tends to."""
        return information.log_normalise(self.log_gamma)

    def index(self, texts: Sequence[Any]) -> Int[np.ndarray, " found"]:
        """Index of each text among the strings; -1 for one that is not among them (cut at the cap, or not allowed)."""
        found = {tuple(ids.tolist()): i for i, ids in enumerate(self.ids)}
        return np.array([found.get(tuple(int(v) for v in text), -1) for text in texts], np.int64)

    def table(self, language: ExactLanguage) -> pd.DataFrame:
        """One row per string: `string`, its symbols; probabilities `p`, `gamma`, `local` = q and `globally` = π."""
        columns = {"p": self.log_p, "gamma": self.log_gamma, "local": self.log_q, "globally": self.log_target}
        names = [language.decode(ids) for ids in self.ids]
        return pd.DataFrame({"string": names} | {name: np.exp(column) for name, column in columns.items()})


def enumerate_strings(
    language: ExactLanguage,
    adaptor: Adaptor | str | None = None,
    *,
    tokens: int,
    prompt: Sequence[int] | np.ndarray = (),
    stop: str = "eos",
    limit: int = LARGEST_ENUMERATION,
) -> Strings:
    """All strings of at most `tokens` tokens that end with the end token (``stop="eos"``), or all of exactly that length.

    What is omitted is exact for Markov languages (`normalisers.normaliser`). Of others it is bounded: an open prefix of
    weight γ(x) has completions of total weight at most γ(x) if τ <= 1, and at most γ(x)/(1 - M) if M = (vocab - 1)^(1-1/τ)
    (1 - δ)^(1/τ) < 1, with δ the least probability of the end token; so the omitted share of the global law is at most
    b/(Z_cap + b), b the sum of these bounds over open prefixes (power means; a truncation only lowers γ).

    Raises ParameterError where more than `limit` prefixes would be open at once or strings found, for a language without
    end token under ``stop="eos"``, or where no string ends; AdaptorError where the adaptor removes all tokens.

    >>> from aep.languages import reversal
    >>> pairs = enumerate_strings(reversal(), "top_k(2)", tokens=2, stop="never").table(reversal()).set_index("string")
    >>> pairs.loc[["a a", "b a"], ["p", "local", "globally"]].round(3).values.tolist()
    [[0.225, 0.25, 0.273], [0.2, 0.267, 0.242]]
    """
    adaptor, prompt = as_adaptor(adaptor), as_ids(prompt, language.vocab_size)
    _check(language, tokens, stop)
    log_p, state = language.start([prompt])
    ids, sums = np.empty((1, 0), np.int64), np.zeros((3, 1))  # log p, log gamma, log q of every open prefix
    texts: list[np.ndarray] = []
    ended = [np.empty((3, 0))]
    for length in range(1, tokens + 1):
        weights = checked_weights(adaptor, log_p)
        row, token = np.nonzero(np.isfinite(weights))
        steps = np.stack([log_p, weights, information.log_normalise(weights)])[:, row, token]
        ids, sums = np.column_stack([ids[row], token]), sums[:, row] + steps
        ends = token == language.eos if stop == "eos" else np.full(len(token), length == tokens)
        texts += list(ids[ends])
        ended.append(sums[:, ends])
        ids, sums, row = ids[~ends], sums[:, ~ends], row[~ends]
        if max(len(texts), len(ids)) > limit:
            raise ParameterError(
                f"more than {limit} strings of at most {tokens} tokens: lower tokens=, or raise limit="
            )
        if not len(ids) or length == tokens:
            break
        log_p, state = language.step(language.select(state, row), ids[:, -1])
    if not texts:
        raise ParameterError(
            f"no string of {language.name} under {adaptor} ends within {tokens} tokens: Z up to there is 0"
        )
    log_p, gamma, q = np.concatenate(ended, axis=1)
    log_open = float(special.logsumexp(sums[1])) if len(ids) else -np.inf
    omitted = _omitted(language, adaptor, float(special.logsumexp(gamma)), log_open, prompt)
    return Strings(texts, log_p, gamma, q, log_open, float(np.exp(sums[2]).sum()), omitted)


def _check(language: ExactLanguage, tokens: int, stop: str) -> None:
    if stop not in ("eos", "never"):
        raise ParameterError(unknown_name("stop rule", stop, ["eos", "never"]))
    if stop == "eos" and language.eos is None:
        raise ParameterError(f"stop='eos': {language.name} has no end token; use stop='never'")
    check_count(1, tokens=tokens)


def _omitted(language: ExactLanguage, adaptor: Adaptor, log_z: float, log_open: float, prompt: np.ndarray) -> float:
    """The share of the global law beyond the cap (Markov languages), or the bound b/(Z_cap + b) of `enumerate_strings`."""
    if np.isneginf(log_open):
        return 0.0
    if isinstance(language, MarkovChain | FiniteLanguage):
        return float(np.clip(-np.expm1(log_z - normaliser(language, adaptor, prompt=prompt).log_z), 0, 1))
    tau = adaptor.tau
    log_bound = 0.0
    if tau > 1:
        inverse = 1 / tau
        ratio = (language.vocab_size - 1.0) ** (1 - inverse) * (1 - least_end_probability(language)) ** inverse
        log_bound = -np.log1p(-ratio) if ratio < 1 else np.inf
    return float(special.expit(log_bound + log_open - log_z))


def expected_acceptance(log_q: Float[np.ndarray, " strings"], log_weight: Float[np.ndarray, " strings"]) -> float:
    """Probability that a stationary chain accepts: Σ_y Σ_y' π(y) q(y') min{1, w(y')/w(y)} = E_q[min(W, W')]/E_q[W].

    `log_q` may sum to less than one: the rest are proposals that are always rejected (texts cut at the cap). For a finite
    pool of n texts ``log_q = -log n`` for each. In O(n log n), by sorting the weights. ParameterError without a string.

    >>> q, w = np.array([.5, .5]), np.array([1., 3.])
    >>> float(round(expected_acceptance(np.log(q), np.log(w)), 12))       # (.25·1 + .5·1 + .25·3) / 2
    0.75
    """
    if not len(log_q) == len(log_weight) > 0:
        raise ParameterError(
            f"{len(log_q)} log_q and {len(log_weight)} log-weights: one of each per string, at least one"
        )
    order = np.argsort(log_weight)
    q, w = np.exp(log_q[order]), np.exp(log_weight[order] - log_weight.max())
    above = np.cumsum(q[::-1])[::-1] - q
    return float(np.sum(q * w * (q + 2 * above)) / np.sum(q * w))


def mixing_steps(
    log_q: Float[np.ndarray, " strings"], log_weight: Float[np.ndarray, " strings"], distance: float = 1e-3
) -> int:
    """Steps after which a chain of fresh proposals is within `distance` of π in total variation, from any start.

    The least s with (1 - 1/w*)^s <= distance, w* = max π/q; from the string of largest weight it is exactly that slow.
    Source: Mengersen and Tweedie 1996, Theorem 2.1; Wang 2022, Theorem 1. ParameterError for a distance outside (0, 1).

    >>> mixing_steps(np.log(np.array([.5, .5])), np.log(np.array([1., 3.])))     # π/q = .5 and 1.5
    7
    """
    if not 0 < distance < 1:
        raise ParameterError(f"distance={distance!r}: a total variation distance between 0 and 1 is needed")
    w = np.exp(log_weight - log_weight.max())
    accepted = float(np.sum(np.exp(log_q) * w))  # 1/w*
    return 1 if accepted >= 1 - 1e-12 else max(1, int(np.ceil(np.log(distance) / np.log1p(-accepted))))


def pool_bias(
    strings: Strings,
    values: Float[np.ndarray, " strings"],
    sizes: Sequence[int],
    *,
    pools: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> pd.DataFrame:
    """How far a chain over a finite pool gets from the local to the global law, against the size of the pool.

    For each size, `pools` pools are drawn from the local law (texts that ended) and the limit of the chain on each is
    Σ w_i f_i / Σ w_i, f = `values`. Columns: `estimate` (mean over pools, t interval `low`, `high`), `first_order` =
    E_π[f] - E_q[w̄²(f - E_π f)]/size with w̄ = π/q, the delta method's prediction; `recovered` = (estimate - local)/(global
    - local) with `recovered_low`, `recovered_high`; `fresh`, `fresh_low`, `fresh_high`: the same texts used once each, as
    fresh proposals of one chain, f of its last text; and `local`, `globally`, the two exact expectations. Index `size`.
    Raises ParameterError for a size below 2, no size, or fewer than 2 pools.
    """
    check_count(2, pools=pools)
    if min(sizes, default=0) < 2:
        raise ParameterError(f"sizes={list(sizes)}: a pool has at least 2 texts here, and one size is needed")
    q, target = np.exp(information.log_normalise(strings.log_q)), np.exp(strings.log_target)
    local, globally = float(q @ values), float(target @ values)
    second = float(np.sum(target**2 / q * (values - globally)))
    rows = []
    for size in sizes:
        drawn = rng.choice(len(q), size=(pools, size), p=q)
        log_weight = strings.log_weight[drawn]
        w = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
        estimate = mean(np.sum(w * values[drawn], axis=1) / w.sum(axis=1), level)
        chain = fresh_chains(Proposals(log_weight.ravel(), np.zeros(pools * size, np.int64)), chains=pools, rng=rng)
        fresh = mean(values.ravel()[drawn.ravel()[chain.text[0, :, -1]]], level)
        recovered = [(end - local) / (globally - local) if globally != local else np.nan for end in estimate]
        ends = sorted(recovered[1:])
        rows.append((size, *estimate, globally - second / size, recovered[0], *ends, *fresh, local, globally))
    names = ["size", "estimate", "low", "high", "first_order", "recovered", "recovered_low", "recovered_high"]
    names += ["fresh", "fresh_low", "fresh_high", "local", "globally"]
    return pd.DataFrame(rows, columns=names).set_index("size")
