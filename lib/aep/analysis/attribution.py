"""Which of a list of models wrote a text? Maximum likelihood, the smallest |z|, and a set of authors valid at every length.

A hypothesis is a candidate k with a sampler j: x was drawn from q_(k,j). It has log q at every token, and an e-process

    E_(k,j)(T) = (1-w) mean over the samplers j' of the other candidates l of Π_t q_(l,j')/q_(k,j)  +  w S_(k,j)(T),

with weights fixed in advance. Each ratio has mean at most 1 under q_(k,j) (exactly 1 unless q_(l,j') allows a token that
q_(k,j) forbids), and so has the self e-process S, which needs no other candidate. So P(sup_T E >= 1/α) <= α (Ville): a
hypothesis is excluded, for ever, when E reaches 1/α, a candidate when all its samplers are. If the author and its sampler
are on the list, the candidates left contain the author at all T at once with probability at least 1-α.

What is not promised. The ratios alone (w = 0) cannot exclude all candidates at one T: the most likely hypothesis has E <= 1.
So text of a foreign author ends as that of the nearest candidate, and it takes S to say "none of them"; S sees an author
whose surprisals under the candidate differ in the mean from what the candidate expects, and no other. The level holds for
excluding an author who is on the list; that a foreign text is never given to anybody has no level at any finite T.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ..errors import ParameterError
from .candidates import Evidence, PerToken, log_ratio, place
from .eprocess import first_rejection
from .typicality import z_test

__all__ = [
    "NONE",
    "RULES",
    "UNDECIDED",
    "Stopped",
    "choices",
    "exclusion_times",
    "group_labels",
    "log_e_values",
    "merged",
    "running",
    "stopped",
]

NONE, UNDECIDED = "none of them", "undecided"
RULES = ("maximum likelihood", "smallest |z|", "e-process")

Times = Float[np.ndarray, "texts candidates"]


def log_e_values(evidence: Evidence, *, self_weight: float = 0.5) -> PerToken:
    """log E_(k,j)(T) of the module, at every T; +inf from the first token that the hypothesis forbids.

    `self_weight` is w, in [0, 1): 0 is a closed list, on which somebody wrote the text.
    """
    if not 0 <= self_weight < 1:
        raise ParameterError(f"self_weight={self_weight!r}: a weight in [0, 1) is needed")
    total = np.cumsum(evidence.log_q, axis=-1)
    others = (len(evidence.candidates) - 1) * len(evidence.samplers)
    log_e = np.empty_like(total)
    for k in range(len(evidence.candidates)):
        rivals = np.delete(total, k, axis=1)
        mixture = np.logaddexp.reduce(rivals.reshape(len(total), others, -1), axis=1) - np.log(others)
        log_e[:, k] = log_ratio(mixture[:, None], total[:, k])
    if self_weight > 0:
        log_e = np.logaddexp(np.log1p(-self_weight) + log_e, np.log(self_weight) + evidence.log_self)
    return log_e


def exclusion_times(evidence: Evidence, *, alpha: float = 0.05, self_weight: float = 0.5) -> Times:
    """The T at which each candidate is excluded: E of every one of its samplers has reached 1/α; inf if never.

    No later than the T at which the smallest E over its samplers reaches 1/α, itself an e-process of the composite
    hypothesis: here each sampler may fall at its own T. The author falls with probability at most α.
    """
    return first_rejection(log_e_values(evidence, self_weight=self_weight), alpha).max(axis=-1)


class Stopped(NamedTuple):
    """When at most one candidate was left (inf: several are), and who: a name, `NONE` or `UNDECIDED`; each (texts,)."""

    time: Float[np.ndarray, " texts"]
    choice: np.ndarray


def stopped(exclusion: Times, candidates: Sequence[str]) -> Stopped:
    """Stop at the first T at which at most one candidate is left.

    If the author is on the list, the choice is a name other than the author's, or `NONE`, with probability at most α.

    >>> stopped(np.array([[3.0, np.inf], [9.0, np.inf], [5.0, 5.0], [np.inf, np.inf]]), ["a", "b"]).choice.tolist()
    ['b', 'b', 'none of them', 'undecided']
    """
    time = np.sort(exclusion, axis=1)[:, -2]
    return Stopped(time, np.where(np.isinf(time), UNDECIDED, _left(exclusion > time[:, None], candidates)))


def _left(left: Bool[np.ndarray, "texts candidates"], candidates: Sequence[str]) -> np.ndarray:
    """The one that is left, `NONE` if nobody is, `UNDECIDED` if several are."""
    count, names = left.sum(axis=1), np.array(candidates, dtype=object)
    return np.select([count == 0, count == 1], [NONE, names[np.argmax(left, axis=1)]], UNDECIDED)


def merged(
    exclusion: Times, candidates: Sequence[str], groups: Mapping[str, str] | None
) -> tuple[Float[np.ndarray, "texts groups"], list[str]]:
    """Exclusion times of groups of candidates (twins, say): a group is excluded when its last member is; and their names.

    `groups` maps a candidate to its group; one that is not named is a group of its own.
    """
    for name in groups or {}:
        place("candidate", name, candidates)
    labels = group_labels(candidates, groups)
    names = list(dict.fromkeys(labels))
    if len(names) < 2:
        raise ParameterError(f"groups={dict(groups or {})}: all candidates are one group, there is nothing to choose")
    return np.stack([exclusion[:, np.array(labels) == name].max(axis=1) for name in names], axis=1), names


def group_labels(names: Sequence[str], groups: Mapping[str, str] | None) -> list[str]:
    """The group of each name, or the name itself."""
    return [(groups or {}).get(name, name) for name in names]


def choices(
    evidence: Evidence,
    at: Sequence[int] | np.ndarray,
    *,
    rules: Sequence[str] = RULES,
    groups: Mapping[str, str] | None = None,
    alpha: float = 0.05,
    self_weight: float = 0.5,
) -> pd.DataFrame:
    """Whom each rule names after T tokens: one row per rule, T of `at` and text.

    "maximum likelihood": the largest Σ log q, hence the smallest l_B, over candidates and (profile) their samplers; of
    ties the candidate named first; `NONE` if the text is impossible under all. "smallest |z|": the smallest |z_B| over
    candidates and samplers, z of the adapted law; a law with "no test" (`typicality.z_test`) or without entropies is never
    chosen, and where nobody has a test the text is `UNDECIDED` (`NONE` if impossible). "e-process": the candidate that alone
    is left at T, `NONE` if nobody is, `UNDECIDED` while several are; later tokens can exclude the last one too.

    Columns: `rule`, `tokens`, `text`, `choice`; `merged`, the same among `groups` of candidates (group of the choice; for
    the e-process the group that alone is left); `impossible` (`Evidence.is_impossible`).
    ParameterError for a T that the texts do not have, an unknown rule, or groups that leave nothing to choose.
    """
    for rule in rules:
        place("rule", rule, RULES)
    exclusion = exclusion_times(evidence, alpha=alpha, self_weight=self_weight)
    by_group = merged(exclusion, evidence.candidates, groups)
    parts = []
    for rule in rules:
        for t in at:
            if not 1 <= t <= evidence.tokens:
                raise ParameterError(f"at: T={t}, but the texts have {evidence.tokens} tokens")
            if rule == "e-process":
                found, group = _left(exclusion > t, evidence.candidates), _left(by_group[0] > t, by_group[1])
            else:
                found = _best(evidence, _score(evidence, rule, int(t)), int(t))
                group = np.array(group_labels(found.tolist(), groups), dtype=object)
            columns = {"text": np.arange(len(evidence)), "choice": found, "merged": group}
            part = pd.DataFrame({"rule": rule, "tokens": int(t), **columns})
            parts.append(part.assign(impossible=evidence.is_impossible(int(t))))
    return pd.concat(parts, ignore_index=True)


def _score(evidence: Evidence, rule: str, tokens: int) -> Times:
    """What the best candidate has the least of; inf: cannot be chosen."""
    if rule == "maximum likelihood":
        return -evidence.log_q[..., :tokens].sum(axis=-1).max(axis=2)
    arrays = (-evidence.log_q, evidence.entropy, evidence.varentropy)
    z = np.abs(z_test(*(array[..., :tokens] for array in arrays)).z)
    return np.where(np.isnan(z), np.inf, z).min(axis=2)


def _best(evidence: Evidence, score: Times, tokens: int) -> np.ndarray:
    names = np.array(evidence.candidates, dtype=object)
    nobody = np.where(evidence.is_impossible(tokens), NONE, UNDECIDED)
    return np.where(np.isinf(score.min(axis=1)), nobody, names[np.argmin(score, axis=1)])


def running(evidence: Evidence, text: int, *, self_weight: float = 0.5) -> pd.DataFrame:
    """One text watched: per candidate and position log E, the smallest over its samplers, and log q over that of the best.

    `log_e` is +inf, and `log_ratio` (never above 0) -inf, from the first token that the candidate forbids; `log_ratio` is
    NaN where all do.
    """
    one = evidence.select([text])
    log_e = log_e_values(one, self_weight=self_weight)[0].min(axis=1)
    profile = np.cumsum(one.log_q[0], axis=-1).max(axis=1)
    best = np.broadcast_to(profile.max(axis=0), profile.shape)
    ratio = np.subtract(profile, best, out=np.full_like(profile, np.nan), where=~np.isneginf(best))
    position = np.tile(np.arange(1, one.tokens + 1), len(one.candidates))
    table = pd.DataFrame({"candidate": np.repeat(one.candidates, one.tokens), "position": position})
    return table.assign(log_e=log_e.ravel(), log_ratio=ratio.ravel())
