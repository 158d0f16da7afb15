"""One record, every score: detectors of memorised and of machine-written text as one table, over texts or sliding windows.

`SCORES` lists them with the sign that turns them into "larger = memorised or machine-written" (`oriented`); the functions
are in `text_scores`, ROC and AUROC in `roc`, p-values and e-values against a null sample in `conformal`. No score identifies
memorisation by itself: an easy text has a low loss, and human text is not drawn from the model, so that N(0,1) is not the
null of its z. That takes a matched null (`memorization`) or a reference model.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..adaptors import Adaptor, ancestral, as_adaptor
from ..errors import ParameterError, unknown_name
from ..records import Records
from . import text_scores as ts
from .text_scores import Spans, windows

__all__ = ["SCORES", "Score", "available", "oriented", "scores", "window_scores"]


class Score(NamedTuple):
    """A score: its function, +1 where larger means memorised or machine-written (else -1), its formula, what it needs."""

    function: Callable[..., np.ndarray]
    sign: int
    formula: str
    columns: tuple[str, ...]
    needs: str = "record"


_PAIR = ("surprisal", "cross_entropy", "cross_varentropy")
_OWN = ("surprisal", "entropy", "varentropy")
SCORES: dict[str, Score] = {
    "loss": Score(ts.loss, -1, "mean a", _OWN[:1]),
    "log_rank": Score(ts.log_rank, -1, "mean log(r + 1)", ("rank",)),
    "lrr": Score(ts.lrr, 1, "Σa / Σ log(r + 1)", ("surprisal", "rank")),
    "entropy_gap": Score(ts.entropy_gap, -1, "mean (a - H)", _OWN[:2]),
    "z": Score(ts.z, -1, "Σ(a - H) / sqrt(ΣV)", _OWN),
    "min_k": Score(ts.min_k, 1, "mean of the lowest share k of -a", _OWN[:1]),
    "min_k_plus_plus": Score(ts.min_k_plus_plus, 1, "mean of the lowest share k of (H - a)/sqrt(V)", _OWN),
    "extraction": Score(ts.extraction, 1, "log p_z = Σ log q over the suffix", _OWN[:1]),
    "zlib_ratio": Score(ts.zlib_ratio, -1, "Σa / len(zlib(text))", _OWN[:1], "strings"),
    "reference_ratio": Score(ts.reference_ratio, -1, "Σa / Σa'", _OWN[:1], "reference"),
    "reference_difference": Score(ts.reference_difference, -1, "mean (a - a')", _OWN[:1], "reference"),
    "fast_detect_gpt": Score(ts.fast_detect_gpt, 1, "(Σb - Σa) / sqrt(Σv)", _PAIR, "pair"),
    "binoculars": Score(ts.binoculars, -1, "Σa / Σb", _PAIR[:2], "pair"),
    "rb_kl": Score(ts.rb_kl, 1, "mean (b - H_A)", ("cross_entropy", "source_entropy"), "pair"),
}
"""Every score by name. `needs`: a record; the "strings" of the texts; a "reference" record, or a pair with an untruncated
source; or the record of a "pair"."""


def available(
    records: Records,
    *,
    reference: Records | None = None,
    strings: Sequence[str | bytes] | None = None,
    adaptor: Adaptor | str | None = None,
) -> list[str]:
    """The names of the scores that this record, with what is given beside it, has everything for (without decoding)."""
    have = set(records.columns)
    own = records.meta.get("adaptor", str(ancestral())) == str(ancestral())
    used = ancestral() if adaptor is None else as_adaptor(adaptor)
    there = {
        "strings": strings is not None,
        "reference": reference is not None or ("source_surprisal" in have and own),
    }
    found = [name for name, x in SCORES.items() if have.issuperset(x.columns) and there.get(x.needs, True)]
    cut = not used.is_ancestral and f"log_q_{used}" not in have
    return [name for name in found if name != "extraction" or not cut]


def scores(
    records: Records,
    *,
    which: str | Sequence[str] = "all",
    reference: Records | None = None,
    strings: Sequence[str | bytes] | None = None,
    k: float = 0.2,
    adaptor: Adaptor | str | None = None,
    suffix: int | None = None,
) -> pd.DataFrame:
    """Every score of every text: one row per text of the record, one column per score (`SCORES`), in their published form.

    Parameters
    ----------
    records : of `aep.score`; of a pair (``source=A``) for the scores of two models
    which : names, or "all": all that the record, `reference` and `strings` have the columns for (`available`)
    reference : the same texts under a second model; the source of a pair record unless given
    strings : the texts, for `zlib_ratio`; without them it has to be asked for by name, and decodes (milliseconds a text)
    k : share of tokens of Min-K% and Min-K%++, in (0, 1]
    adaptor, suffix : of `extraction`: log q of the last `suffix` tokens (all) under an adaptor (ancestral)

    Raises
    ------
    RecordError : a score that was asked for by name, from a record without its columns: it names the pass that writes them
    ParameterError : an unknown name, k or suffix out of range

    Notes
    -----
    Yeom et al. 2018 (loss); Mitchell et al. 2023 (log-rank); Su et al. 2023 (LRR); Shi et al. 2024, Zhang et al. 2025
    (Min-K%, Min-K%++); Carlini et al. 2021 (zlib, reference); Bao et al. 2024; Hans et al. 2024; Hayes et al. 2025.
    """
    given = {"reference": reference, "strings": strings, "k": k, "adaptor": adaptor, "suffix": suffix}
    names = _chosen(records, which, given)
    columns = {name: _computed(name, records, None, given) for name in names}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(records.lengths), name="text"))


def window_scores(
    records: Records,
    size: int,
    step: int = 1,
    *,
    which: str | Sequence[str] = "z",
    reference: Records | None = None,
    k: float = 0.2,
    adaptor: Adaptor | str | None = None,
) -> pd.DataFrame:
    """Scores of sliding windows: columns text, start, stop (positions of the text's scored tokens), then the scores.

    Windows of `size` tokens every `step` tokens, none across a text's end; `step = size` makes them disjoint. Every window
    is summed by itself, so that a small ΣV keeps all its digits. `zlib_ratio` has no windows. Errors as in `scores`, and
    ParameterError for a text shorter than the window.
    """
    spans = windows(records, size, step)
    given = {"reference": reference, "k": k, "adaptor": adaptor}
    names = _chosen(records, which, given)
    if which == "all":
        names = [name for name in names if name != "zlib_ratio"]
    first = Spans.texts(records).start[spans.text]
    place = {"text": spans.text, "start": spans.start - first, "stop": spans.stop - first}
    return pd.DataFrame(place | {name: _computed(name, records, spans, given) for name in names})


def oriented(table: pd.DataFrame) -> pd.DataFrame:
    """The scores of a table turned so that larger means memorised or machine-written; its other columns stay out.

    ParameterError if no column is a score.
    """
    names = [name for name in table.columns if name in SCORES]
    if not names:
        raise ParameterError(f"no column of {list(table.columns)} is a score; scores are {', '.join(SCORES)}")
    return table[names] * [SCORES[name].sign for name in names]


def _chosen(records: Records, which: str | Sequence[str], given: dict) -> list[str]:
    if which == "all":
        return available(records, **{name: given.get(name) for name in ("reference", "strings", "adaptor")})
    names = [which] if isinstance(which, str) else list(which)
    for name in names:
        if name not in SCORES:
            raise ParameterError(unknown_name("score", name, SCORES))
    return names


_OPTIONS = {"min_k": ("k",), "min_k_plus_plus": ("k",), "extraction": ("adaptor", "suffix"), "zlib_ratio": ("strings",)}
_OPTIONS |= {"reference_ratio": ("reference",), "reference_difference": ("reference",)}


def _computed(name: str, records: Records, spans: Spans | None, given: dict) -> np.ndarray:
    options = {option: given[option] for option in _OPTIONS.get(name, ()) if option in given}
    return SCORES[name].function(records, **options, spans=spans)
