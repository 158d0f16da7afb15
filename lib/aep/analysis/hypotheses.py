"""The claims of the cross-AEP as a table of hypotheses, with Holm's and Benjamini and Hochberg's adjusted p-values.

The unit is the text; prompts are fixed strata (`cross_aep.stratified_mean`); a family is all hypotheses of one claim, over
sources, scorers and samplers. What algebra decides is not tested: b_t >= H_A,t at every token, so that mean(b - H_A) = 0 is
refuted by any text, and h_(A,B) >= h_A; "the KL rate exceeds a margin" is data, and comparisons of scorers, or of sources,
leave the pair (A, A) out. Everything in nats per token.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from ..errors import ParameterError, unknown_name
from .factorial import check_columns

__all__ = ["CLAIMS", "benjamini_hochberg", "holm", "hypotheses", "verdicts"]

CLAIMS = {
    "calibrated": "mean of l_B - h_(A,B) = 0, every pair and (A, A): true for any A, B and sampler of A",
    "typical": "mean of l_B - h_B = 0 on texts of another source A: A's texts are typical for B",
    "margin": "mean of b - H_A is at most the margin: B describes A's texts almost as A does (one-sided)",
    "scorers": "h_(A,B) = h_(A,B') on the same texts of A, B and B' other than A (paired)",
    "sources": "h_(A,B) = h_(A',B), texts of two sources under the same third scorer (two samples)",
    "symmetric": "h_(A,B) = h_(B,A), texts of A under B and of B under A (two samples)",
}
"""The null hypothesis of each claim."""

_POWER = 0.8


def holm(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Holm's adjusted p-values: a hypothesis is rejected at level α where they are at most α (family-wise error <= α).

    With p_(1) <= ... <= p_(n): max over j <= i of min(1, (n - j + 1) p_(j)). NaN, no test, is not of the family. Holm 1979.

    >>> holm(np.array([.01, .04, .03, np.nan])).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    found, tested = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    found[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return found


def benjamini_hochberg(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Adjusted p-values for the false discovery rate, independent or positively dependent tests; NaN as in `holm`.

    >>> benjamini_hochberg(np.array([.01, .04, .03, np.nan])).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    found, tested = np.full(len(p), np.nan), np.isfinite(p)
    if tested.any():
        found[tested] = stats.false_discovery_control(p[tested])
    return found


class _Sample(NamedTuple):
    """Of every column of texts: the mean over strata of their means, its variance, the degrees of freedom of that."""

    mean: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    texts: int


def hypotheses(
    per_text: pd.DataFrame,
    *,
    rng: np.random.Generator,
    margin: float = 0.01,
    claims: Sequence[str] = tuple(CLAIMS),
    alpha: float = 0.05,
    permutations: int = 1999,
) -> pd.DataFrame:
    """One row per hypothesis of the `claims` (`CLAIMS` says what each of them is), from `PairRecords.per_text`.

    Parameters
    ----------
    margin : of the claim "margin", nats per token, above 0; to be chosen before looking
    alpha : level of `rejected`, and of the intervals 1 - alpha
    permutations : of `p_random`

    Returns
    -------
    Columns claim, sampler, source, scorer, other (the second scorer or source; "" where there is none), texts,
    `estimate` of the mean or difference with `low`, `high` (t, for this hypothesis alone) and `low_all`, `high_all` (by
    Bonferroni, for all of the claim together), `effect` = distance from the null over the standard deviation of a text, t,
    df (Welch and Satterthwaite), p, `p_holm` and `p_bh` (within the claim), `rejected` (p_holm <= alpha), `p_random`, and
    `detectable`: the distance that Bonferroni at alpha finds with probability .8 or so, given this spread.

    `p_random` = (1 + #{as far from the null})/(1 + permutations), not adjusted: random signs of texts for a mean (exact if
    their law is symmetric about the null), texts exchanged between the two samples within prompts for a difference (exact
    if they have the same law). Texts without spread, or with values that are not finite, give no test: NaN.

    Raises
    ------
    ParameterError : a margin of 0 or less, an unknown claim, a missing column, one text after a prompt
    """
    for claim in claims:
        if claim not in CLAIMS:
            raise ParameterError(unknown_name("claim", claim, CLAIMS))
    if not margin > 0:
        raise ParameterError(f"margin={margin!r}: mean(b - H_A) >= 0 is algebra, a margin above 0 is needed")
    if not 0 < alpha < 1 or permutations < 1:
        raise ParameterError(f"alpha={alpha!r}, permutations={permutations!r}: a level in (0, 1) and at least 1")
    key = ["source", "sampler", "prompt", "text", "scorer"]
    check_columns(per_text, [*key, "h_AB", "gap_pair", "gap_B", "kl"])
    wide = {}
    for (sampler, source), part in per_text.groupby(["sampler", "source"], sort=False):
        wide[sampler, source] = part.pivot(
            index=["prompt", "text"], columns="scorer", values=["h_AB", "gap_pair", "gap_B", "kl"]
        )
    parts = [_one_sample(wide, claims, margin, rng, permutations), _two_samples(wide, claims, rng, permutations)]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    order = {claim: i for i, claim in enumerate(claims)}
    table = table.sort_values("claim", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    return _judged(table, margin, alpha)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Per claim and sampler of `hypotheses`: hypotheses, tested (with a p-value), rejected by Holm; smallest p_holm."""
    found = table.assign(tested=table.p.notna()).groupby(["claim", "sampler"], sort=False)
    return found.agg(
        hypotheses=("p", "size"), tested=("tested", "sum"), rejected=("rejected", "sum"), smallest=("p_holm", "min")
    ).reset_index()


# ------------------------------------------------------------------------------------------------------------ the samples


def _sample(values: np.ndarray, strata: np.ndarray) -> _Sample:
    """Of (texts, hypotheses): as `cross_aep.stratified_mean`, for many columns at once."""
    parts = [values[strata == s] for s in np.unique(strata)]
    if min(map(len, parts)) < 2:
        raise ParameterError("a prompt has 1 text: at least 2 are needed for a test over texts")
    with np.errstate(invalid="ignore"):
        squares = np.array([np.var(x, axis=0, ddof=1) / len(x) for x in parts])
        mean, total = np.mean([x.mean(axis=0) for x in parts], axis=0), squares.sum(axis=0)
        total = np.where(total > (1e-12 * np.abs(mean)) ** 2, total, 0.0)  # equal up to rounding
        below = np.sum(squares**2 / np.array([len(x) - 1 for x in parts])[:, None], axis=0)
    freedom = np.divide(total**2, below, out=np.ones_like(total), where=(total > 0) & (below > 0))
    return _Sample(mean, np.where(np.isfinite(mean), total, np.nan) / len(parts) ** 2, freedom, len(values))


def _weights(strata: np.ndarray) -> np.ndarray:
    """Of every text in the mean over strata of their means."""
    found, index, counts = np.unique(strata, return_inverse=True, return_counts=True)
    return 1 / (counts[index] * len(found))


def _one_sample(wide: dict, claims: Sequence[str], margin: float, rng, permutations: int) -> pd.DataFrame:
    rows = []
    for (sampler, source), table in wide.items():
        scorers = list(table["h_AB"].columns)
        others = [b for b in scorers if b != source]
        chosen = {
            "calibrated": [(b, "", table["gap_pair", b]) for b in scorers],
            "typical": [(b, "", table["gap_B", b]) for b in others],
            "margin": [(b, "", table["kl", b] - margin) for b in others],
            "scorers": [(b, c, table["h_AB", b] - table["h_AB", c]) for b, c in combinations(others, 2)],
        }
        chosen = [(claim, *x) for claim, found in chosen.items() if claim in claims for x in found]
        if not chosen:
            continue
        values = np.stack([x[3].to_numpy(np.float64) for x in chosen], axis=1)
        strata = table.index.get_level_values("prompt").to_numpy()
        found, weights = _sample(values, strata), _weights(strata)
        usable = np.where(np.isfinite(values), values, 0.0)
        signs = 2.0 * rng.integers(0, 2, size=(permutations, len(values))) - 1
        flipped, at = (signs * weights) @ usable, weights @ usable
        one_sided = np.array([claim == "margin" for claim, *_ in chosen])
        far = np.where(one_sided, flipped >= at - 1e-12, np.abs(flipped) >= np.abs(at) - 1e-12)
        frame = pd.DataFrame({"claim": [x[0] for x in chosen], "sampler": sampler, "source": source})
        frame = frame.assign(scorer=[x[1] for x in chosen], other=[x[2] for x in chosen], texts=len(values))
        frame = frame.assign(estimate=found.mean, variance=found.variance, df=found.freedom)
        rows.append(frame.assign(sd=np.sqrt(found.variance * len(values)), p_random=_share(far)))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _two_samples(wide: dict, claims: Sequence[str], rng, permutations: int) -> pd.DataFrame:
    rows = []
    for sampler in dict.fromkeys(sampler for sampler, _ in wide):
        tables = {source: table["h_AB"] for (s, source), table in wide.items() if s == sampler}
        for a, b in combinations(tables, 2):
            both = [c for c in tables[a].columns if c in tables[b].columns and c not in (a, b)]
            chosen = [("sources", a, c, b, tables[a][c], tables[b][c]) for c in both if "sources" in claims]
            if "symmetric" in claims and b in tables[a] and a in tables[b]:
                chosen.append(("symmetric", a, b, "", tables[a][b], tables[b][a]))
            if not chosen:
                continue
            one, two = (np.stack([x[k].to_numpy(np.float64) for x in chosen], axis=1) for k in (4, 5))
            strata = [tables[name].index.get_level_values("prompt").to_numpy() for name in (a, b)]
            first, second = _sample(one, strata[0]), _sample(two, strata[1])
            variance = first.variance + second.variance
            below = first.variance**2 / first.freedom + second.variance**2 / second.freedom
            df = np.divide(variance**2, below, out=np.ones_like(variance), where=below > 0)
            frame = pd.DataFrame([x[:4] for x in chosen], columns=["claim", "source", "scorer", "other"])
            frame = frame.assign(sampler=sampler, texts=len(one) + len(two), estimate=first.mean - second.mean)
            frame = frame.assign(variance=variance, df=df, sd=np.sqrt(variance / (1 / len(one) + 1 / len(two))))
            rows.append(frame.assign(p_random=_exchanged(one, two, strata, rng, permutations)))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _exchanged(one: np.ndarray, two: np.ndarray, strata: list[np.ndarray], rng, permutations: int) -> np.ndarray:
    """p-values of a difference of two samples, whose texts change places within strata (prompts)."""
    values, prompt = np.vstack([one, two]), np.concatenate(strata)
    values = np.where(np.isfinite(values), values, 0.0)
    weights = np.concatenate([_weights(strata[0]), -_weights(strata[1])])
    copies = np.empty((permutations, len(values)))
    for s in np.unique(prompt):
        here = np.flatnonzero(prompt == s)
        copies[:, here] = rng.permuted(np.broadcast_to(weights[here], (permutations, len(here))), axis=1)
    return _share(np.abs(copies @ values) >= np.abs(weights @ values) - 1e-12)


def _share(far: np.ndarray) -> np.ndarray:
    return (1 + far.sum(axis=0)) / (1 + len(far))


def _judged(table: pd.DataFrame, margin: float, alpha: float) -> pd.DataFrame:
    """The tests, the intervals, and what is left of them when all of a claim are looked at."""
    error, one_sided = np.sqrt(table.variance.where(table.variance > 0)), table.claim == "margin"
    t = table.estimate / error
    p = np.where(one_sided, stats.t.sf(t, table.df), 2 * stats.t.sf(np.abs(t), table.df))
    number = table.assign(tested=np.isfinite(p)).groupby("claim").tested.transform("sum").clip(lower=1)
    table = table.assign(effect=table.estimate / table.sd.where(table.sd > 0), t=t, p=p)
    table["estimate"] += np.where(one_sided, margin, 0.0)
    for ends, level in ((("low", "high"), alpha), (("low_all", "high_all"), alpha / number)):
        half = stats.t.isf(level / 2, table.df) * error
        table[ends[0]], table[ends[1]] = table.estimate - half, table.estimate + half
    by = table.groupby("claim", sort=False).p
    table["p_holm"] = by.transform(lambda x: holm(x.to_numpy()))
    table["p_bh"] = by.transform(lambda x: benjamini_hochberg(x.to_numpy()))
    table = table.assign(rejected=table.p_holm <= alpha, p_random=table.p_random.where(table.p.notna()))
    critical = stats.t.isf(alpha / number / np.where(one_sided, 1, 2), table.df)
    table["detectable"] = (critical + stats.t.ppf(_POWER, table.df)) * error
    return table[_COLUMNS]


_COLUMNS = ["claim", "sampler", "source", "scorer", "other", "texts", "estimate", "low", "high", "low_all", "high_all"]
_COLUMNS += ["effect", "t", "df", "p", "p_holm", "p_bh", "rejected", "p_random", "detectable"]
