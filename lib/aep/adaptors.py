"""Sampling adaptors: a scaling followed by truncations, as non-negative weights γ(p), and the local normaliser Z.

γ(p)(v) = p(v)^(1/τ) where v is kept, 0 elsewhere; Z = Σ_v γ(p)(v); q = γ(p)/Z is the locally normalised law.
Adaptors compose with ``|``. Whatever the order they are written in, they act in that of `transformers`: temperature,
top-k, top-p (nucleus), min-p, locally typical, ε, η, each on the renormalised output of the one before.
Source: paper 2406.10203, section 4 (Eq. 5-8) and App. E (Eq. 39-44).
"""

import math
import re
import sys
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from jaxtyping import Bool, Float

from ._array import ascending, gather, log_sum_exp, namespace, no_rounding_noise
from .errors import AdaptorError, shown, unknown_name
from .information import entropy

__all__ = [
    "Adaptor",
    "Adapted",
    "ancestral",
    "as_adaptor",
    "epsilon",
    "eta",
    "locally_typical",
    "min_p",
    "nucleus",
    "parse",
    "temperature",
    "top_k",
]

LogP = Float[Any, "*batch vocab"]
PerRow = Float[Any, "*batch"]
Kept = Bool[Any, "*batch vocab"]


def _keep_top_k(log_p: LogP, k: float) -> Kept:
    """The k most probable tokens and every tie of the k-th (as TopKLogitsWarper). Paper Eq. 42."""
    if k >= log_p.shape[-1]:
        return log_p == log_p
    return log_p >= ascending(log_p)[..., -int(k)][..., None]


def _keep_nucleus(log_p: LogP, mass: float) -> Kept:
    """The fewest most probable tokens whose mass reaches π; of tied tokens the lowest ids. Paper Eq. 40."""
    xp = namespace(log_p)
    ordered = ascending(log_p)
    inside = xp.cumulative_sum(xp.exp(ordered), axis=-1) > 1 - mass
    inside[..., -1] = True
    count = xp.sum(xp.astype(inside, xp.int64), axis=-1)
    least = gather(ordered, log_p.shape[-1] - count)[..., None]
    above, tied = log_p > least, log_p == least
    free = count[..., None] - xp.sum(xp.astype(above, xp.int64), axis=-1, keepdims=True)
    return above | (tied & (xp.cumulative_sum(xp.astype(tied, xp.int64), axis=-1) <= free))


def _keep_min_p(log_p: LogP, ratio: float) -> Kept:
    """Tokens at least `ratio` times as probable as the most probable one."""
    xp = namespace(log_p)
    p = xp.exp(log_p)
    return p >= ratio * xp.max(p, axis=-1, keepdims=True)


def _keep_typical(log_p: LogP, mass: float) -> Kept:
    """Tokens whose surprisal is closest to the entropy until their mass reaches π, ties of the last kept. Paper Eq. 43."""
    xp = namespace(log_p)
    distance = xp.abs(-log_p - entropy(log_p)[..., None])
    order = xp.argsort(distance, axis=-1, stable=True)
    cumulative = xp.cumulative_sum(xp.take_along_axis(xp.exp(log_p), order, axis=-1), axis=-1)
    last = xp.sum(xp.astype(cumulative < mass, xp.int64), axis=-1)
    last = xp.where(last < log_p.shape[-1], last, log_p.shape[-1] - 1)
    return distance <= gather(xp.take_along_axis(distance, order, axis=-1), last)[..., None]


def _keep_epsilon(log_p: LogP, threshold: float | Float[Any, "*batch 1"]) -> Kept:
    """Tokens of probability at least `threshold`; always the most probable one."""
    xp = namespace(log_p)
    return (xp.exp(log_p) >= threshold) | (log_p == xp.max(log_p, axis=-1, keepdims=True))


def _keep_eta(log_p: LogP, epsilon: float) -> Kept:
    """Tokens of probability at least min(ε, sqrt(ε)·exp(-H)); always the most probable one. Paper Eq. 44."""
    xp = namespace(log_p)
    threshold = math.sqrt(epsilon) * xp.exp(-entropy(log_p))[..., None]
    return _keep_epsilon(log_p, xp.where(threshold < epsilon, threshold, epsilon))


_POSITIVE = ("a number above 0", lambda x: 0 < x <= sys.float_info.max)
_SHARE = ("a number in (0, 1]", lambda x: 0 < x <= 1)
_OPEN = ("a number in (0, 1)", lambda x: 0 < x < 1)
_COUNT = ("an integer of at least 1 and below 2**63", lambda x: 1 <= x < 2**63 and x == int(x))

_KINDS = {  # in the order of transformers
    "temperature": (_POSITIVE, None),
    "top_k": (_COUNT, _keep_top_k),
    "nucleus": (_SHARE, _keep_nucleus),
    "min_p": (_SHARE, _keep_min_p),
    "locally_typical": (_SHARE, _keep_typical),
    "epsilon": (_OPEN, _keep_epsilon),
    "eta": (_OPEN, _keep_eta),
}


class Adapted(NamedTuple):
    """`log_q` (..., vocab), normalised, -inf outside the kept set; `log_normaliser` (...), log Z of the same rows. Nats."""

    log_q: Any
    log_normaliser: Any


@dataclass(frozen=True)
class Adaptor:
    """A sampling adaptor. Build one with `ancestral`, `temperature`, `top_k`, ...; compose with ``|``.

    >>> str(top_k(50) | temperature(.8))
    'temperature(0.8)|top_k(50)'
    """

    steps: tuple[tuple[str, float], ...] = ()

    def __or__(self, other: "Adaptor") -> "Adaptor":
        if not isinstance(other, Adaptor):
            return NotImplemented
        steps = dict(self.steps)
        for kind, value in other.steps:
            if steps.get(kind, value) != value:
                raise AdaptorError(f"{kind} is given twice, as {steps[kind]} and as {value}: name each adaptor once")
            steps[kind] = value
        return Adaptor(tuple((kind, steps[kind]) for kind in _KINDS if kind in steps))

    def __str__(self) -> str:
        return "|".join(f"{kind}({value!r})" for kind, value in self.steps) or "ancestral()"

    @property
    def is_ancestral(self) -> bool:
        """Whether the adaptor changes nothing."""
        return not self.steps

    @property
    def tau(self) -> float:
        """Its temperature τ, 1 where it has none."""
        return dict(self.steps).get("temperature", 1.0)

    def log_weights(self, log_p: LogP) -> LogP:
        """log γ(p)(v), -inf for a token that is cut. Not normalised; ties, order and edges as the module says.

        >>> import numpy as np
        >>> p = np.log(np.array([0.45, 0.45, 0.10]))
        >>> np.exp(top_k(2).log_weights(p)).round(2).tolist()
        [0.45, 0.45, 0.0]
        """
        xp = namespace(log_p)
        weights = log_p
        for kind, value in self.steps:
            if kind == "temperature":
                weights = weights / value
                continue
            with no_rounding_noise():
                kept = _KINDS[kind][1](weights - log_sum_exp(weights)[..., None], value)
            weights = xp.where(kept, weights, -xp.inf)
        return weights

    def log_normaliser(self, log_p: LogP) -> PerRow:
        """log Z = log Σ_v γ(p)(v) in nats: at most 0 without temperature and for τ < 1, at least 0 for τ > 1 alone."""
        return self.transform(log_p).log_normaliser

    def transform(self, log_p: LogP) -> Adapted:
        """The locally normalised law and its log-normaliser in one go. Paper Eq. 5."""
        if self.is_ancestral:
            return Adapted(log_p, namespace(log_p).zeros_like(log_p[..., 0]))
        weights = self.log_weights(log_p)
        total = log_sum_exp(weights)
        return Adapted(weights - total[..., None], total)

    def __call__(self, log_p: LogP) -> LogP:
        """`log_q` (..., vocab): the law the sampler draws from.

        >>> import numpy as np
        >>> p = np.log(np.array([0.45, 0.45, 0.10]))
        >>> np.exp(top_k(2)(p)).round(3).tolist()
        [0.5, 0.5, 0.0]
        """
        return self.transform(log_p).log_q


def _single(kind: str, value: Real) -> Adaptor:
    domain, valid = _KINDS[kind][0]
    if isinstance(value, bool) or not isinstance(value, Real) or not valid(value):  # NumPy's numbers are Real
        raise AdaptorError(f"{kind}({shown(value)}): the parameter must be {domain}")
    return Adaptor(((kind, int(value) if kind == "top_k" else float(value)),))


def ancestral() -> Adaptor:
    """No change: γ(p) = p, Z = 1."""
    return Adaptor()


def temperature(tau: float) -> Adaptor:
    """γ(p) = p^(1/τ), τ > 0; log Z = Λ(1/τ)."""
    return _single("temperature", tau)


def top_k(k: int) -> Adaptor:
    """Keeps the k most probable tokens and all ties of the k-th (Fan et al. 2018)."""
    return _single("top_k", k)


def nucleus(mass: float) -> Adaptor:
    """Keeps the fewest most probable tokens whose mass is at least π in (0, 1] (top-p; Holtzman et al. 2020)."""
    return _single("nucleus", mass)


def min_p(ratio: float) -> Adaptor:
    """Keeps tokens at least `ratio` in (0, 1] times as probable as the greedy one (Nguyen et al. 2024)."""
    return _single("min_p", ratio)


def locally_typical(mass: float) -> Adaptor:
    """Keeps tokens of surprisal closest to the entropy until their mass is at least π (Meister et al. 2023)."""
    return _single("locally_typical", mass)


def epsilon(threshold: float) -> Adaptor:
    """Keeps tokens of probability at least ε in (0, 1), and the greedy one (Hewitt et al. 2022)."""
    return _single("epsilon", threshold)


def eta(threshold: float) -> Adaptor:
    """Keeps tokens of probability at least min(ε, sqrt(ε)·exp(-H)), and the greedy one (Hewitt et al. 2022)."""
    return _single("eta", threshold)


def parse(text: str) -> Adaptor:
    """The adaptor of a string such as ``"temperature(.8)|top_k(50)"``; the inverse of `str`.

    >>> parse("top_k(50)|temperature(.8)") == temperature(.8) | top_k(50)
    True
    """
    adaptor = ancestral()
    for part in text.split("|"):
        match = re.fullmatch(r"\s*(\w+)\s*\(\s*([^()]*?)\s*\)\s*", part)
        if not match:
            raise AdaptorError(
                f"adaptor {part.strip()!r} is not of the form name(value), e.g. 'temperature(.8)|top_k(50)'"
            )
        kind, value = match.groups()
        if kind == "ancestral" and not value:
            continue
        if kind == "ancestral":
            raise AdaptorError(f"ancestral({value}): ancestral sampling takes no parameter")
        if kind not in _KINDS:
            raise AdaptorError(unknown_name("adaptor", kind, ["ancestral", *_KINDS]))
        try:
            number = int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
        except ValueError:
            text = value if len(value) < 80 else f"{value[:40]}...{value[-20:]}"
            raise AdaptorError(f"{kind}({text}): the parameter must be {_KINDS[kind][0][0]}") from None
        adaptor = adaptor | _single(kind, number)
    return adaptor


def as_adaptor(value: Any) -> Adaptor:
    """An adaptor, the adaptor of a string, or `ancestral()` for None; AdaptorError for anything else.

    >>> as_adaptor("top_k(50)") == top_k(50)
    True
    """
    if isinstance(value, str):
        return parse(value)
    if not isinstance(value, Adaptor | None):
        raise AdaptorError(f"adaptor={value!r}: give an adaptor such as aep.temperature(.8), or its string")
    return value or ancestral()
