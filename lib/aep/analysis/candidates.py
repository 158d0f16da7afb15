"""What each model of a list says of the same texts, with each sampler it may have used: the evidence of an attribution.

A hypothesis is a candidate k with a sampler j, so that q_(k,j) is k's law under the adaptor j. Everything the rules of
`attribution` need is read off records, one per candidate: log q at every token, a self e-process, and entropies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..adaptors import Adaptor, ancestral, parse
from ..errors import ParameterError, RecordError, unknown_name
from ..information import THETAS
from ..languages.protocol import Language
from ..records import Records, Texts
from ..scoring import score
from .eprocess import log_e_process
from .pairs import PairRecords
from .typicality import Paths, Steps

__all__ = [
    "Evidence",
    "PairEvidence",
    "PerToken",
    "evidence",
    "log_ratio",
    "pair_evidence",
    "place",
    "score_candidates",
]

PerToken = Float[np.ndarray, "texts candidates samplers tokens"]


@dataclass(frozen=True)
class Evidence:
    """What each candidate says of the same texts under each sampler; arrays (texts, candidates, samplers, T), nats.

    `log_q`: log-probability of each token, -inf where the sampler cuts it; `log_self`: log of the self e-process at every
    T; `entropy`, `varentropy`: of the adapted law, NaN where they are not known (they serve the smallest |z| alone).
    """

    candidates: tuple[str, ...]
    samplers: tuple[str, ...]
    log_q: PerToken
    log_self: PerToken
    entropy: PerToken
    varentropy: PerToken

    def __len__(self) -> int:
        return len(self.log_q)

    @property
    def tokens(self) -> int:
        """T, the length of every text."""
        return self.log_q.shape[-1]

    def is_impossible(self, tokens: int) -> Bool[np.ndarray, " texts"]:
        """Whether the first `tokens` tokens have probability 0 under every candidate with every sampler."""
        return np.isneginf(self.log_q[..., :tokens]).any(axis=-1).all(axis=(1, 2))

    def select(self, texts: Sequence[int] | np.ndarray) -> "Evidence":
        """The texts with these indices, in this order."""
        return self._cut(self.candidates, self.samplers, np.asarray(texts, np.int64))

    def among(self, candidates: Sequence[str]) -> "Evidence":
        """The same texts with these candidates alone, in this order; ParameterError for fewer than two or an unknown one."""
        places = [place("candidate", name, self.candidates) for name in _several(candidates)]
        return self._cut(tuple(candidates), self.samplers, (slice(None), places))

    def under(self, samplers: Sequence[Adaptor | str]) -> "Evidence":
        """The same with these samplers alone: one is a sampler that is known. ParameterError for none or an unknown one."""
        names = tuple(str(sampler) for sampler in samplers)
        if not names:
            raise ParameterError("samplers=[]: at least one sampler is needed")
        places = [place("sampler", name, self.samplers) for name in names]
        return self._cut(self.candidates, names, (slice(None), slice(None), places))

    def _cut(self, candidates, samplers, index) -> "Evidence":
        arrays = (self.log_q, self.log_self, self.entropy, self.varentropy)
        return Evidence(candidates, samplers, *(array[index] for array in arrays))


def place(kind: str, name: str, valid: Sequence[str]) -> int:
    """The index of a name; ParameterError with the nearest valid ones."""
    if name not in valid:
        raise ParameterError(unknown_name(kind, name, valid))
    return list(valid).index(name)


def _several(names: Sequence[str]) -> list[str]:
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ParameterError(f"candidates {list(names)}: at least two different ones are needed to choose among")
    return list(names)


def score_candidates(
    texts: Texts | Sequence[Texts],
    candidates: Mapping[str, Language],
    samplers: Sequence[Adaptor | str] = (ancestral(),),
    *,
    z: bool = False,
    store=None,
) -> Evidence:
    """Every text scored under every candidate with every sampler; candidate by candidate, so each is loaded once.

    One pass per candidate. With `z`, the entropies of adapted laws too, which take a pass over the candidate against itself
    for each sampler that is not ancestral. Raises what `score` and `evidence` raise; ParameterError without texts.
    """
    parts = [texts] if isinstance(texts, Texts) else list(texts)
    lengths = [len(ids) for part in parts for ids in part.ids]
    if not lengths:
        raise ParameterError("texts=[]: there is no text to attribute")
    _check_lengths(np.array(lengths))
    _several(list(candidates))
    samplers = _adaptors(samplers)
    adaptors = [sampler for sampler in samplers if not sampler.is_ancestral]
    records, own = {}, {}
    for name in candidates:
        language = candidates[name]
        paired = {str(q): [] for q in adaptors} if z else {}
        for q in adaptors if z else ():
            options = {"source": language, "adaptor": q, "adaptors": adaptors if q == adaptors[0] else [q]}
            paired[str(q)] = [score(part, language, store=store, **options) for part in parts]
        own |= {(name, sampler): Records.concatenate(found) for sampler, found in paired.items()}
        if paired:
            records[name] = own[name, str(adaptors[0])]
        else:
            records[name] = Records.concatenate([score(x, language, adaptors=adaptors, store=store) for x in parts])
    return evidence(records, samplers, own=own)


class PairEvidence(NamedTuple):
    """The evidence on all texts of pair records, and who wrote each text with which sampler (named as in `Evidence`)."""

    evidence: Evidence
    authors: list[str]
    samplers: list[str]


def pair_evidence(pairs: PairRecords) -> PairEvidence:
    """What every language of the pair records says of all their texts, with every sampler they were drawn with.

    No pass: a pair record's plain columns are the scorer's. Where a sampler is not ancestral they need its
    `log_q_<adaptor>` column: ``pair_records(..., adaptors=[...])`` with every such sampler; RecordError without.
    """
    if not isinstance(pairs, PairRecords):
        raise ParameterError(f"{type(pairs).__name__} given: pair_evidence takes what `pair_records` returns")
    drawn = list(pairs.texts)
    scorers = dict.fromkeys(source for source, _ in drawn)
    records = {b: Records.concatenate([pairs[a, s, b] for a, s in drawn]) for b in scorers}
    counts = [len(pairs.texts[whose]) for whose in drawn]
    authors = np.repeat(np.array([a for a, _ in drawn], dtype=object), counts).tolist()
    samplers = np.repeat(np.array([str(pairs.samplers[s]) for _, s in drawn], dtype=object), counts).tolist()
    return PairEvidence(evidence(records, list(dict.fromkeys(pairs.samplers.values()))), authors, samplers)


def evidence(
    records: Mapping[str, Records],
    samplers: Sequence[Adaptor | str] = (ancestral(),),
    *,
    own: Mapping[tuple[str, str], Records] | None = None,
) -> Evidence:
    """What the records of the same texts under every candidate say, with each sampler that the author may have used.

    Parameters
    ----------
    records : candidate -> its record of all texts; `log_q_<adaptor>` columns for every sampler but ancestral
    samplers : one where it is known, several where it is not (each candidate is then a composite hypothesis); adaptors or
        their names
    own : (candidate, sampler) -> its record against itself, ``score(texts, c, source=c, adaptor=q)``: entropy and
        varentropy of the adapted law, which the smallest |z| needs; without it there is no test under that sampler

    Under an ancestral sampler S is `eprocess.log_e_process`. Under another q it is the mixture over θ in {1, grid} of the
    likelihood ratios of p^θ/Σ p^θ against q, which the stored Λ(θ) give exactly.

    Raises
    ------
    ParameterError: fewer than two candidates, no sampler or one twice. AdaptorError: an unknown sampler.
    RecordError: records of different texts, texts of different lengths, a missing column, an `own` that is another pair
    """
    names, samplers, own = _several(list(records)), _adaptors(samplers), own or {}
    _check_same_texts(records)
    laws = [[_law(name, records[name], q, own.get((name, str(q)))) for q in samplers] for name in names]
    arrays = [np.stack([np.stack([law[i] for law in row], axis=1) for row in laws], axis=1) for i in range(4)]
    return Evidence(tuple(names), tuple(map(str, samplers)), *arrays)


def _adaptors(samplers: Sequence[Adaptor | str]) -> list[Adaptor]:
    found = [parse(sampler) if isinstance(sampler, str) else sampler for sampler in samplers]
    if not found or len(set(found)) < len(found):
        raise ParameterError(f"samplers {list(map(str, found))}: at least one is needed, and none twice")
    return found


def _check_lengths(lengths: Int[np.ndarray, " texts"]) -> None:
    if len(set(lengths.tolist())) != 1:
        raise RecordError(
            f"texts have {lengths.min()} to {lengths.max()} tokens: attribution needs texts of one length"
        )


def _check_same_texts(records: Mapping[str, Records]) -> None:
    first, reference = next(iter(records.items()))
    _check_lengths(reference.lengths)
    for name, found in records.items():
        same = all(np.array_equal(found[column], reference[column]) for column in ("text", "position", "token"))
        keys = [x.text_keys for x in (found, reference)]
        if not same or (all(k is not None for k in keys) and not np.array_equal(*keys)):
            raise RecordError(f"the records of {first!r} and {name!r} are not of the same texts in the same order")


def _law(name: str, records: Records, sampler: Adaptor, own: Records | None) -> tuple[Steps, Steps, Steps, Steps]:
    """log q, log of the self e-process, entropy and varentropy of one hypothesis, each (texts, T)."""
    paths = Paths.of(records)
    if sampler.is_ancestral:
        return -paths.surprisal, log_e_process(paths), paths.entropy, paths.varentropy
    log_q = records.matrix(f"log_q_{sampler}")
    unknown = np.full_like(log_q, np.nan)
    if own is None:
        return log_q, _log_tempered(paths, log_q), unknown, unknown
    source = own.matrix("source_surprisal")
    if source.shape != log_q.shape or not np.allclose(-source, log_q, rtol=1e-4, atol=1e-4):
        raise RecordError(
            f"own[{name!r}, {str(sampler)!r}] is not a record of these texts against itself with {sampler}"
        )
    return log_q, _log_tempered(paths, log_q), own.matrix("source_entropy"), own.matrix("source_varentropy")


def _log_tempered(paths: Paths, log_q: Steps) -> Steps:
    """log of the mean over θ of Π_t p^θ(x_t)/(e^{Λ_t(θ)} q(x_t)); +inf from the first token that q forbids."""
    mixture = -np.cumsum(paths.surprisal, axis=-1)  # θ = 1
    for theta in THETAS:
        tempered = np.cumsum(-theta * paths.surprisal - paths.log_partition[theta], axis=-1)
        mixture = np.logaddexp(mixture, tempered)
    return log_ratio(mixture - np.log(len(THETAS) + 1), np.cumsum(log_q, axis=-1))


def log_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Their difference; +inf where the denominator is log 0, whatever the numerator: it has probability 0 to happen."""
    known = ~np.isneginf(denominator)
    return np.subtract(numerator, denominator, out=np.full(denominator.shape, np.inf), where=known)
