"""Which passages of a text has a model memorised? Windows against matched held-out windows, at a false discovery rate.

Over-typical (z far below 0) is not yet memorised: text that is easy for the model is over-typical too, and human text is
not drawn from the model, so that N(0,1) is not its null. Here a window is compared with windows of texts that the model has
not seen, of the same kind, length and place in the text: its conformal p-value needs no law of z, only that an unseen
window is exchangeable with those. What is found is unlike them; if the model saw both kinds, or neither, it says nothing.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ..errors import ParameterError, unknown_name
from ..records import Records
from .conformal import conformal_e, conformal_p, discoveries
from .detection import SCORES, window_scores

__all__ = ["SpanErrors", "false_discovery_proportion", "found_spans", "least_tokens", "span_errors", "window_audit"]

MATCHES = ("position", "any")
PROCEDURES = ("bh", "e-bh")
WINDOWS = 5  # of a held-out text at least, for match="any"


def window_audit(
    records: Records,
    held_out: Records,
    size: int,
    *,
    step: int | None = None,
    score: str = "z",
    match: str = "position",
    procedure: str = "bh",
    alpha: float = 0.1,
    level: float | None = None,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Every window of every text against windows of the same size of held-out texts; which are found at FDR `alpha`.

    Parameters
    ----------
    records, held_out : the texts under audit, and texts of the same kind that the model has not seen, under the same scorer
    size, step : tokens of a window, and from one to the next (`size` for "bh", a quarter of it for "e-bh")
    score : of `detection.SCORES`; turned so that larger means memorised
    match : "position": against the windows that begin at the same position, one of each held-out text (a p-value is then
        exact). "any": one window of each held-out text, its position drawn by `rng`: for text without a beginning. z falls
        with context, so that windows of short texts are no null for later ones of a long text (`least_tokens`)
    procedure : "bh": conformal p-values, disjoint windows. "e-bh": conformal e-values (`conformal_e`, with `level`), which
        may overlap: e-BH asks nothing of their dependence. The family is all windows of all texts
    alpha : the level of the false discovery rate

    Returns
    -------
    One row per window: text, start, stop (scored tokens of the text), the score, `null` (held-out windows it was compared
    with), p, e, `fdr` (the smallest level at which it would be found), `found`.

    Raises
    ------
    ParameterError : overlapping windows under "bh", a text shorter than the window, no held-out window at a position, a
        held-out text of fewer than `least_tokens` for "any", an unknown score, match or procedure, a score that is NaN

    Notes
    -----
    A p-value is at least 1/(null + 1): to find k of m windows takes about m/(k alpha) held-out texts, however memorised the
    windows are. Bates et al. 2023 (BH with conformal p-values); Wang & Ramdas 2022 (e-BH).
    """
    if match not in MATCHES or procedure not in PROCEDURES:
        what = ("match", match, MATCHES) if match not in MATCHES else ("procedure", procedure, PROCEDURES)
        raise ParameterError(unknown_name(*what))
    step = (size if procedure == "bh" else max(1, size // 4)) if step is None else step
    if procedure == "bh" and step < size:
        raise ParameterError(f"step={step} with windows of {size}: overlapping windows need procedure='e-bh'")
    if match == "any":
        _check_context(records, held_out, size)
    table = window_scores(records, size, step, which=score)
    null = window_scores(held_out, size, step if match == "position" else 1, which=score)
    at = table.start.to_numpy()
    if match == "any":
        null, at = _one_of_each(null, rng).assign(start=-1), np.full(len(table), -1)
    evidence = _compared(SCORES[score].sign * table[score], at, SCORES[score].sign * null[score], null.start, level)
    found = discoveries(alpha, **({"p": evidence["p"]} if procedure == "bh" else {"e": evidence["e"]}))
    return table.assign(**evidence, fdr=found.level, found=found.found)


def least_tokens(size: int, tokens: int) -> int:
    """Tokens of a held-out text at least, for windows of `size` at any position of a text of `tokens`: 5 windows, or all.

    Windows of 32 tokens of unseen texts of 2,000 under `docs-400k` had p <= .1 in 17.5% where held-out texts had 48
    tokens, 11.3% with 160 and 10.8% with 400: shorter ones accuse text that was not seen.
    """
    return min(WINDOWS * size, tokens)


def _check_context(records: Records, held_out: Records, size: int) -> None:
    if not len(held_out):
        return
    k, least = int(np.argmin(held_out.lengths)), least_tokens(size, int(max(records.lengths, default=0)))
    if size <= held_out.lengths[k] < least:
        raise ParameterError(
            f"held-out text {k} has {held_out.lengths[k]} scored tokens: match='any' with windows of {size} needs {least}, "
            "or its windows lack the context of those they are compared with"
        )


def _compared(values: pd.Series, at: np.ndarray, null: pd.Series, null_at: pd.Series, level: float | None) -> dict:
    """Every value against the null values of the same place: how many there are, p and e."""
    by = {place: part.to_numpy(np.float64) for place, part in null.groupby(null_at)}
    found = {"null": np.empty(len(values), int), "p": np.empty(len(values)), "e": np.empty(len(values))}
    for place, rows in pd.Series(np.arange(len(values))).groupby(at):
        if place not in by:
            raise ParameterError(
                f"no held-out text reaches the window at position {place}: use longer ones, shorter texts, or match='any'"
            )
        here = values.to_numpy(np.float64)[rows]
        found["null"][rows] = len(by[place])
        found["p"][rows] = conformal_p(here, by[place])
        found["e"][rows] = conformal_e(here, by[place], level=level)
    return found


def _one_of_each(table: pd.DataFrame, rng: np.random.Generator | None) -> pd.DataFrame:
    """One row of each text, drawn at random: windows of one text are not exchangeable with one of another."""
    if rng is None:
        raise ParameterError("match='any' draws one window of each held-out text: give rng=np.random.default_rng(seed)")
    count = table.groupby("text").size().to_numpy()
    return table.iloc[np.cumsum(count) - count + rng.integers(count)]


# ------------------------------------------------------------------------------------------------- spans


def found_spans(table: pd.DataFrame) -> pd.DataFrame:
    """The windows that were found, merged where they overlap or touch: text, start, stop, windows, fdr (the smallest)."""
    rows = table[table.found].sort_values(["text", "start"], kind="stable")
    reach = rows.groupby("text").stop.cummax().groupby(rows.text).shift(fill_value=-1)
    span = (rows.start > reach).cumsum()
    merged = rows.groupby(span).agg(
        text=("text", "first"),
        start=("start", "first"),
        stop=("stop", "max"),
        windows=("start", "size"),
        fdr=("fdr", "min"),
    )
    return merged.reset_index(drop=True)


class SpanErrors(NamedTuple):
    """Tokens: `precision` (of the found ones, planted; NaN if none is found) and `recall` (of the planted ones, found).
    Spans: `false_spans`, the share of found spans without a planted token (0 if none), `spans_found`, of the planted ones
    the share with a found token."""

    precision: float
    recall: float
    false_spans: float
    spans_found: float


def span_errors(found: pd.DataFrame, planted: pd.DataFrame) -> SpanErrors:
    """Found spans against planted ones: both with columns text, start, stop (half open; those of one text apart).

    ParameterError if nothing was planted, or a span is empty.
    """
    if not len(planted):
        raise ParameterError("no span was planted: there is no recall")
    size = 1 + max(int(x.stop.max()) for x in (found, planted) if len(x))
    texts = 1 + max(int(x.text.max()) for x in (found, planted) if len(x))
    here, there = (_marked(x, texts, size) for x in (found, planted))
    both = int((here & there).sum())
    hit = [_touches(found, there), _touches(planted, here)]
    return SpanErrors(
        both / int(here.sum()) if here.any() else float("nan"),
        both / int(there.sum()),
        float(1 - hit[0].mean()) if len(found) else 0.0,
        float(hit[1].mean()),
    )


def false_discovery_proportion(table: pd.DataFrame, planted: pd.DataFrame) -> float:
    """The share of found windows (of `window_audit`) that hold no planted token; 0 if none is found.

    Its mean over repetitions is the false discovery rate that `window_audit` bounds: a window with one planted token is not
    of the null.
    """
    found = table[table.found]
    if not len(found):
        return 0.0
    texts = 1 + max(int(x.text.max()) for x in (found, planted) if len(x))
    size = 1 + max(int(x.stop.max()) for x in (found, planted) if len(x))
    return float(1 - _touches(found, _marked(planted, texts, size)).mean())


def _marked(spans: pd.DataFrame, texts: int, size: int) -> np.ndarray:
    """Which positions lie in a span, (texts, size)."""
    if len(spans) and not (spans.start < spans.stop).all():
        raise ParameterError("a span is empty: start has to be below stop")
    ends = np.zeros((texts, size + 1), np.int64)
    np.add.at(ends, (spans.text.to_numpy(int), spans.start.to_numpy(int)), 1)
    np.add.at(ends, (spans.text.to_numpy(int), spans.stop.to_numpy(int)), -1)
    return np.cumsum(ends, axis=1)[:, :-1] > 0


def _touches(spans: pd.DataFrame, marked: np.ndarray) -> np.ndarray:
    """Whether each span holds a marked position."""
    before = np.concatenate([np.zeros((len(marked), 1), int), np.cumsum(marked, axis=1)], axis=1)
    text, start, stop = (spans[name].to_numpy(int) for name in ("text", "start", "stop"))
    return before[text, stop] > before[text, start]
