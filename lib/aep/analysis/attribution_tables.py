"""Tidy tables of an attribution: confusion, accuracy against length, stopping times, and where it breaks.

The unit is the text: shares have exact 95% intervals over texts (Clopper and Pearson 1934; where authors are pooled the
texts have different chances, and the interval is then wider than it need be: Hoeffding 1956). `authors` names the true
author of every text; one that is not a candidate is foreign, and "none of them" is the right answer to it.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from .. import intervals
from ..adaptors import ancestral
from ..errors import ParameterError
from .attribution import NONE, RULES, UNDECIDED, Times, choices, exclusion_times, group_labels, merged, stopped
from .candidates import Evidence

__all__ = ["KNOWLEDGE", "accuracy_by_length", "confusion", "growth", "median", "stopping_times", "where_it_breaks"]

KNOWLEDGE = ("raw p assumed", "known", "unknown", "not on the list")
"""What the reader knows of the sampler: nothing and takes raw p; which it is; a list that holds it; one that does not."""


def _rates(hits: Mapping[str, Bool[np.ndarray, " texts"]]) -> dict[str, float]:
    """Each share with its interval; NaN of no text."""
    row = {}
    for name, hit in hits.items():
        row |= _share(int(np.sum(hit)), len(hit)).columns(name)
    return row


@cache
def _share(count: int, texts: int) -> intervals.Interval:
    """`intervals.share` of so many texts, searched for once: a table has the same counts many times."""
    return intervals.share(np.arange(texts) < count) if texts else intervals.Interval(np.nan, np.nan, np.nan)


def _by_author(authors: Sequence[str], texts: int) -> dict[str, Bool[np.ndarray, " texts"]]:
    """Which texts are whose, with "all" first."""
    if len(authors) != texts:
        raise ParameterError(f"{len(authors)} authors for {texts} texts: one name per text is needed")
    names = np.array(list(authors), dtype=object)
    return {"all": np.ones(texts, bool)} | {name: names == name for name in dict.fromkeys(authors)}


def confusion(table: pd.DataFrame, authors: Sequence[str], candidates: Sequence[str]) -> pd.DataFrame:
    """Per rule, T, author (rows of the matrix) and answer (columns): `count` of `texts`, `share`, `low`, `high`.

    Table: `attribution.choices`. Answers are the candidates in their order, then "none of them" and "undecided".
    """
    rows = []
    for (rule, tokens), part in table.groupby(["rule", "tokens"], sort=False):
        chosen = part.sort_values("text").choice.to_numpy()
        for author, own in list(_by_author(authors, len(part)).items())[1:]:
            for answer in (*candidates, NONE, UNDECIDED):
                count, texts = int(np.sum(chosen[own] == answer)), int(own.sum())
                row = {"rule": rule, "tokens": tokens, "author": author, "chosen": answer}
                found = _share(count, texts)
                row |= {"count": count, "texts": texts, "share": found.estimate, "low": found.low, "high": found.high}
                rows.append(row)
    return pd.DataFrame(rows)


def accuracy_by_length(
    table: pd.DataFrame,
    authors: Sequence[str],
    candidates: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Per rule, T and author ("all" and each one): shares of texts, each with `_low`, `_high`.

    Table: `attribution.choices`, with the same `groups`. `accuracy`: the answer is the author ("none of them" if foreign);
    `merged`: the group of the author; `wrong`: another candidate; `none`; `undecided`; `impossible`: the text has
    probability 0 under every candidate. `listed`: whether the author is a candidate ("all": whether all are).
    """
    label = dict(zip(authors, group_labels(list(authors), groups), strict=True))
    right = {name: name if name in candidates else NONE for name in label}
    right_group = {name: label[name] if name in candidates else NONE for name in label}
    rows = []
    for (rule, tokens), part in table.groupby(["rule", "tokens"], sort=False):
        part = part.sort_values("text")
        own = _by_author(authors, len(part))
        chosen, correct = part.choice.to_numpy(), part.choice.to_numpy() == [right[name] for name in authors]
        hits = {"accuracy": correct, "merged": part.merged.to_numpy() == [right_group[name] for name in authors]}
        hits["wrong"] = np.isin(chosen, list(candidates)) & ~correct
        hits |= {"none": chosen == NONE, "undecided": chosen == UNDECIDED, "impossible": part.impossible.to_numpy()}
        for author, which in own.items():
            row = {"rule": rule, "tokens": tokens, "author": author, "texts": int(which.sum())}
            row["listed"] = {*np.array(list(authors), object)[which]} <= set(candidates)
            rows.append(row | _rates({name: np.asarray(hit[which], bool) for name, hit in hits.items()}))
    return pd.DataFrame(rows)


def median(times: Float[np.ndarray, " n"], level: float = 0.95) -> intervals.Interval:
    """The lower median of times in [1, inf], and the order statistics between which the median lies with `level`.

    Distribution-free: with r the largest rank such that P(Binomial(n, 1/2) < r) <= (1-level)/2, the r-th smallest and
    r-th largest (David and Nagaraja 2003, section 7.1); for too few times, 1 and inf. inf is a time that was not reached.

    >>> median(np.array([3.0, 1.0, 2.0]))
    Interval(estimate=2.0, low=1.0, high=inf)
    """
    n, ordered = len(times), np.sort(times)
    tail = (1 - level) / 2
    rank = int(stats.binom.ppf(tail, n, 0.5))
    rank += int(stats.binom.cdf(rank, n, 0.5) <= tail)
    low, high = (ordered[rank - 1], ordered[n - rank]) if rank else (1.0, np.inf)
    return intervals.Interval(float(ordered[(n - 1) // 2]), float(low), float(high))


def growth(
    evidence: Evidence, authors: Sequence[str], *, alpha: float = 0.05, self_weight: float = 0.5
) -> pd.DataFrame:
    """How fast each author's texts exclude each other candidate: the KL rate, the T it predicts, and the T observed.

    One row per author on the list and rival. `rate`: mean over texts of (1/T) log q_author/q_rival, each at the sampler
    that fits the text best, with its 95% t interval (nats per token); with a known sampler this is an unbiased estimate of
    the KL rate. inf with no interval if the rival forbids some text; `impossible` is the share of these. NaN if the author
    forbids one: it was not drawn with a sampler on the list.
    `predicted`: b/rate with b = log(m/((1-w)α)), m the number of hypotheses of the other candidates: the T at which the mean
    of the log of the author's own term in E of the rival reaches log 1/α; inf for a rate that is not positive.
    `predicted_median`: the median of the first passage of b by a Brownian motion of that drift and of the variance per
    token of the texts' log-ratios, the inverse Gaussian law (Wald 1947; Tweedie 1957); it lies below `predicted`, its mean.
    Both are rough where a handful of tokens decide, since `rate` is that of the whole text.
    `median`: T at which the rival was excluded, over texts, with a distribution-free 95% interval. `excluded`: share of
    texts that excluded it at all.
    """
    times = exclusion_times(evidence, alpha=alpha, self_weight=self_weight)
    profile = evidence.log_q.sum(axis=-1).max(axis=2)
    price = np.log((len(evidence.candidates) - 1) * len(evidence.samplers) / (1 - self_weight) / alpha)
    rows = []
    for author, own in _by_author(authors, len(evidence)).items():
        if author not in evidence.candidates:
            continue
        log_author = profile[own, evidence.candidates.index(author)]
        for k, rival in enumerate(evidence.candidates):
            if rival != author:
                row = {"author": author, "rival": rival, "texts": int(own.sum())}
                row |= _rate(log_author, profile[own, k], evidence.tokens, price)
                row |= median(times[own, k]).columns("median")
                rows.append(row | _rates({"excluded": np.isfinite(times[own, k])}))
    return pd.DataFrame(rows)


def _rate(
    author: Float[np.ndarray, " texts"], rival: Float[np.ndarray, " texts"], tokens: int, price: float
) -> dict[str, float]:
    impossible, found = np.isneginf(rival), intervals.Interval(np.nan, np.nan, np.nan)
    variance = 0.0
    if not np.isneginf(author).any():
        if impossible.any():
            found = found._replace(estimate=np.inf)
        elif len(author) > 1:
            found, variance = intervals.mean((author - rival) / tokens), float(np.var(author - rival, ddof=1)) / tokens
        else:
            found = found._replace(estimate=float(author[0] - rival[0]) / tokens)
    rate = found.estimate
    predicted = max(1.0, price / rate) if rate > 0 else np.nan if np.isnan(rate) else np.inf
    shape = price**2 / variance if variance > 0 else np.nan
    passed = stats.invgauss.median(predicted / shape, scale=shape) if np.isfinite(shape * predicted) else predicted
    named = {"rate": rate, "rate_low": found.low, "rate_high": found.high, "impossible": float(impossible.mean())}
    return named | {"predicted": predicted, "predicted_median": float(passed)}


def stopping_times(
    evidence: Evidence,
    authors: Sequence[str],
    *,
    groups: Mapping[str, str] | None = None,
    alpha: float = 0.05,
    self_weight: float = 0.5,
) -> pd.DataFrame:
    """The e-process stopped when at most one candidate (or group) is left: one row per author, "all" first.

    `decided`: share of texts that stopped within the T `tokens` they have; `named_none`: share that stopped with nobody
    left; `error`: share of the decided texts whose answer is not the author (for a foreign one: not "none of them");
    `kept`: share of the texts that stopped with a name which is not excluded by T either: a foreign author's texts are
    given to the nearest candidate first, and lose it later. Each with an exact 95% interval. `false_rejection`: share of
    texts that excluded their own author at some token, and `false_rejection_p`, the one-sided binomial p-value of "at most
    α" (NaN for foreign authors: they have nobody to exclude). `median`: stopping time with a distribution-free 95%
    interval, inf if half of the texts did not stop. `nearest` and its `rate`, `predicted`, `predicted_median`: the rival of
    another group with the smallest KL rate, from `growth`. The observed median lies above the predicted one where several
    rivals are about as near.
    """
    whose = _by_author(authors, len(evidence))
    times = exclusion_times(evidence, alpha=alpha, self_weight=self_weight)
    by_group, names = merged(times, evidence.candidates, groups)
    stop = stopped(by_group, names)
    foreign = np.array([name not in evidence.candidates for name in authors])
    wanted = np.where(foreign, NONE, np.array(group_labels(list(authors), groups), dtype=object))
    falsely = np.array([_excluded(times[i], evidence, name) for i, name in enumerate(authors)])
    rates = _nearest(growth(evidence, authors, alpha=alpha, self_weight=self_weight), groups)
    rows = []
    for author, own in whose.items():
        done = own & np.isfinite(stop.time)
        listed = own & ~foreign
        row = {"author": author, "texts": int(own.sum()), "tokens": evidence.tokens}
        row |= _rates({"decided": np.isfinite(stop.time[own]), "named_none": stop.choice[own] == NONE})
        kept = np.isinf(by_group[done & (stop.choice != NONE)]).any(axis=1)
        row |= _rates({"error": stop.choice[done] != wanted[done], "kept": kept, "false_rejection": falsely[listed]})
        count = (int(falsely[listed].sum()), int(listed.sum()))
        row["false_rejection_p"] = stats.binomtest(*count, alpha, alternative="greater").pvalue if count[1] else np.nan
        row |= median(stop.time[own]).columns("median")
        rows.append(row | rates.get(author, dict.fromkeys(_NEAREST, np.nan) | {"nearest": ""}))
    return pd.DataFrame(rows)


_NEAREST = ("nearest", "rate", "rate_low", "rate_high", "predicted", "predicted_median")


def _excluded(times: Float[np.ndarray, " candidates"], evidence: Evidence, author: str) -> bool:
    return author in evidence.candidates and bool(np.isfinite(times[evidence.candidates.index(author)]))


def _nearest(table: pd.DataFrame, groups: Mapping[str, str] | None) -> dict[str, dict]:
    """Per author the rival of another group with the smallest rate."""
    if table.empty:
        return {}
    other = np.array(group_labels(list(table.author), groups)) != np.array(group_labels(list(table.rival), groups))
    found = (
        table[other].sort_values("rate", kind="stable").drop_duplicates("author").rename(columns={"rival": "nearest"})
    )
    return {row["author"]: {name: row[name] for name in _NEAREST} for row in found.to_dict("records")}


def where_it_breaks(
    evidence: Evidence,
    authors: Sequence[str],
    samplers: Sequence[str],
    at: Sequence[int] | np.ndarray,
    *,
    rules: Sequence[str] = RULES,
    groups: Mapping[str, str] | None = None,
    alpha: float = 0.05,
    self_weight: float = 0.5,
) -> pd.DataFrame:
    """`accuracy_by_length` for the texts of each sampler, by what the reader knows of it (`KNOWLEDGE`).

    `samplers` names the true sampler of every text, as `Evidence.samplers` does. Columns `sampler` and `knowledge` come
    first; rows that the list of samplers cannot give are left out, and for ancestral text raw p is what is known. With the
    e-process, `false_rejection`, `_low`, `_high`: share of texts on the list that have excluded their author by T. Its level
    α holds for "known" and "unknown"; with a wrong law there is none.
    """
    if len(samplers) != len(evidence):
        raise ParameterError(f"{len(samplers)} samplers for {len(evidence)} texts: one name per text is needed")
    options = {"alpha": alpha, "self_weight": self_weight}
    tables = []
    for sampler in dict.fromkeys(samplers):
        texts = np.flatnonzero([name == sampler for name in samplers])
        whose = [authors[i] for i in texts]
        for knowledge, part in _variants(evidence.select(texts), sampler).items():
            table = choices(part, at, rules=rules, groups=groups, **options)
            found = accuracy_by_length(table, whose, part.candidates, groups)
            if "e-process" in rules:
                falsely = _false_rejections(exclusion_times(part, **options), part, whose, at)
                found = found.merge(falsely, how="left", on=["rule", "tokens", "author"])
            tables.append(found.assign(sampler=sampler, knowledge=knowledge))
    table = pd.concat(tables, ignore_index=True)
    return table[["sampler", "knowledge", *(c for c in table if c not in ("sampler", "knowledge"))]]


def _variants(evidence: Evidence, sampler: str) -> dict[str, Evidence]:
    raw, listed = str(ancestral()), sampler in evidence.samplers
    others = [name for name in evidence.samplers if name != sampler]
    given = {
        "raw p assumed": [raw] if raw in others else [],
        "known": [sampler] if listed else [],
        "unknown": evidence.samplers if listed and others else [],
        "not on the list": others if not listed or len(others) > 1 else [],
    }
    return {knowledge: evidence.under(names) for knowledge, names in given.items() if names}


def _false_rejections(times: Times, evidence: Evidence, authors: Sequence[str], at) -> pd.DataFrame:
    rows = []
    for author, own in _by_author(authors, len(evidence)).items():
        index = [i for i in np.flatnonzero(own) if authors[i] in evidence.candidates]
        when = np.array([times[i, evidence.candidates.index(authors[i])] for i in index])
        for t in at:
            row = {"rule": "e-process", "tokens": int(t), "author": author}
            rows.append(row | _rates({"false_rejection": when <= t}))
    return pd.DataFrame(rows)
