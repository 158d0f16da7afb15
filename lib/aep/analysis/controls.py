"""Calibration of z with negative controls: does each embedded model's raw law accept its own texts, and nothing else?

``python -m aep.analysis.controls [NAME ...]`` writes `data/results/02_controls.csv`: per model A (all, or those of the
names; the rows of the others are kept) one row per kind of text, scored under raw A. Own texts; the same with σ a
quarter too large; texts of A at temperature .95, with top-k 50 and with nucleus .95; texts of another model of the family,
and of the twin. docs-bytes is the only model over bytes: it has no row with another model.

Fixed before the first run: 1,000 texts of 256 tokens from the start token alone; seed 6021 for a model's own texts (also
where they are the texts of another model), 6022, 6023, 6024 for its temperature, top-k and nucleus; Holm at .1% over
every p-value of the table; tests of single texts at 5%; the mean of z predicted on the first 200 texts. The networks
compute in the precision they are embedded with, double. About an hour of one core; after an interrupt the same command
goes on with the first row that is missing.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from scipy import stats

from .. import intervals
from ..adaptors import Adaptor, nucleus, temperature, top_k
from ..errors import ParameterError, unknown_name
from ..languages.protocol import Language
from ..neural.loading import card, embedded, load
from ..outputs import repository, write_atomically
from ..records import Texts
from ..sampling import sample
from ..scoring import score
from .calibration import LEVEL, is_accepted, normal_p_values
from .eprocess import first_rejection, log_e_process
from .typicality import Paths, Steps, z_test

__all__ = ["KINDS", "NEIGHBOURS", "control", "kinds", "own_texts", "verdicts"]

TEXTS, TOKENS, SEED, PREDICT, ALPHA, WIDE = 1000, 256, 6021, 200, 0.05, 1.25
BATCH = 250  # changes no text; a step of many texts costs less per text
SAMPLERS: dict[str, Adaptor] = {
    "temperature .95": temperature(0.95),
    "top-k 50": top_k(50),
    "nucleus .95": nucleus(0.95),
}
KINDS = ("own", "own, sigma x 1.25", *SAMPLERS, "another model", "the twin")
"""The kinds of text in the order of the table; the first is the null, all others are controls."""
NEIGHBOURS: dict[str, dict[str, str]] = {
    "docs-100k": {"another model": "docs-400k"},
    "docs-400k": {"another model": "docs-1m", "the twin": "docs-400k-twin"},
    "docs-400k-twin": {"another model": "docs-1m", "the twin": "docs-400k"},
    "docs-1m": {"another model": "docs-3m"},
    "docs-3m": {"another model": "docs-1m"},
    "docs-bytes": {},
}
"""Who writes the texts of another model: the next size up (for the largest, down), and the twin of the same size."""


def kinds(name: str) -> list[str]:
    """The kinds of text that the embedded model `name` has a row for.

    >>> kinds("docs-bytes")[-1]
    'nucleus .95'
    """
    return [kind for kind in KINDS if kind not in ("another model", "the twin") or kind in NEIGHBOURS[name]]


def own_texts(language: Language, *, texts: int = TEXTS, tokens: int = TOKENS, seed: int = SEED) -> Texts:
    """Texts of the language's own from the start token alone, with their record: `score` under it then costs nothing."""
    return _drawn(language, None, texts, tokens, seed)


def _drawn(language: Language, adaptor: Adaptor | None, texts: int, tokens: int, seed: int) -> Texts:
    return sample(language, None, texts=texts, tokens=tokens, seed=seed, adaptor=adaptor, record=True, batch=BATCH)


def control(
    texts: Texts,
    scorer: Language,
    *,
    source: Language | None = None,
    adaptor: Adaptor | None = None,
    sigma: float = 1.0,
    predict: int = PREDICT,
) -> dict[str, Any]:
    """One row: is z of `texts` under raw `scorer` standard normal, how far off, and how many single texts are found out?

    Parameters
    ----------
    texts : equally long ones; the scorer's own if no source is given
    source, adaptor : who else wrote them
    sigma : σ is multiplied by it, a control of z alone
    predict : texts (the first that have a test) on which the mean of z is predicted. It needs b_t, the cross-entropy of the
        adapted law, which no record of raw p has: a pass of its own over both networks

    Returns
    -------
    texts; `tested`, those with a test (`typicality.z_test`), over which z is summarised; `mean_z` with its t interval;
    `predicted_z`, likewise, the mean over texts of Σ(b_t - H_t)/sqrt(Σ V_t): what the laws along the path say, whatever
    token came (for own texts b = H: 0); `prediction_z` = ΣΣ(a - b)/sqrt(ΣΣ v), N(0,1) if the prediction is right;
    `mean_square` of z; `mean_p`, `square_p`, `shape_p` (`normal_p_values`); and the share of texts that a two-sided z-test
    (`z_share`; one without a test is not rejected) and the e-process (`e_share`; it knows no σ) reject at 5%, with exact
    intervals and the one-sided binomial p-value of "the share is at most 5%" (`z_share_p`, `e_share_p`): power, or for own
    texts false alarms. Intervals of 95%.

    Raises
    ------
    ParameterError, if a text of the scorer's own has no test: its z cannot be judged without it
    """
    paths = Paths.of(score(texts, scorer))
    found = z_test(*paths[:3])
    if source is None and not found.has_test.all():
        missing = int(np.sum(~found.has_test))
        raise ParameterError(f"{scorer.name}: {missing} of {len(texts)} texts have no test: use longer ones")
    tested = np.flatnonzero(found.has_test)
    z = found.z[tested] / sigma
    row = {"texts": len(texts), "tested": len(z), **intervals.mean(z).columns("mean_z")}
    if source is None:
        columns = (paths.surprisal, paths.entropy, paths.varentropy, paths.entropy, paths.varentropy)
    else:
        pair = score(texts.select(tested[:predict]), scorer, source=source, adaptor=adaptor)
        columns = tuple(map(pair.matrix, ("surprisal", "entropy", "varentropy", "cross_entropy", "cross_varentropy")))
    row |= _prediction(*columns, sigma) | {"mean_square": float(np.mean(z**2)), **normal_p_values(z)}
    rejected = np.zeros(len(texts), bool)
    rejected[tested] = np.abs(z) >= stats.norm.isf(ALPHA / 2)
    by_e = first_rejection(log_e_process(paths), ALPHA) <= paths.surprisal.shape[-1]
    return row | _share("z_share", rejected) | _share("e_share", by_e)


def _prediction(a: Steps, h: Steps, v: Steps, cross: Steps, cross_varentropy: Steps, sigma: float) -> dict[str, float]:
    """`predicted_z` with its interval, and `prediction_z`."""
    shift = intervals.mean(np.sum(cross - h, axis=1) / np.sqrt(np.sum(v, axis=1)) / sigma)
    return shift.columns("predicted_z") | {"prediction_z": float(np.sum(a - cross) / np.sqrt(np.sum(cross_varentropy)))}


def _share(name: str, hits: Bool[np.ndarray, " texts"]) -> dict[str, float]:
    p = stats.binomtest(int(np.sum(hits)), len(hits), ALPHA, alternative="greater").pvalue
    return intervals.share(hits).columns(name) | {f"{name}_p": float(p)}


def verdicts(table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """The table with `rejected` after `model` and `kind`: whether one of a row's three p-values falls by Holm over all rows.

    With probability at least 1-`level` no row of own texts of any correct model is rejected (in the limit of normal z).
    """
    table = table.drop(columns="rejected", errors="ignore")
    table.insert(2, "rejected", ~is_accepted(table, level=level))
    return table


# ----------------------------------------------------------------------------------------------------------- the command


def _measured(name: str, kind: str, language: Callable[[str], Language], own: Callable[[str], Texts]) -> dict[str, Any]:
    """One row of the command's table."""
    scorer, writer, options = language(name), name, {}
    if kind in SAMPLERS:
        adaptor, seed = SAMPLERS[kind], SEED + 1 + list(SAMPLERS).index(kind)
        texts = _drawn(scorer, adaptor, TEXTS, TOKENS, seed)
        options = {"source": scorer, "adaptor": adaptor}
    elif kind in NEIGHBOURS[name]:
        writer, seed = NEIGHBOURS[name][kind], SEED
        texts, options = own(writer), {"source": language(writer)}
    else:
        texts, seed = own(name), SEED
        options = {"sigma": WIDE} if kind != "own" else {}
    facts = {"source": writer, "tokens": TOKENS, "seed": seed, "dtype": texts.sampler["dtype"]}
    return {"model": name, "kind": kind, **facts, **control(texts, scorer, **options)}


def _unfinished() -> Path:
    """Where rows wait until all are there; another family of models, or other settings, have another file."""
    settings = [TEXTS, TOKENS, SEED, PREDICT, ALPHA, WIDE, {k: str(a) for k, a in SAMPLERS.items()}, NEIGHBOURS]
    settings.append({name: card(name)["sha256"] for name in embedded()})
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return repository() / "runs" / f"02_controls-{key}.csv"


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    places = {(name, kind): i for i, (name, kind) in enumerate((n, k) for n in NEIGHBOURS for k in kinds(n))}
    table = table.assign(place=[places[pair] for pair in zip(table.model, table.kind, strict=True)])
    return table.sort_values("place").drop(columns="place").reset_index(drop=True)


def resumed(
    wanted: list[tuple[str, str]], path: Path, measure: Callable[[str, str], Mapping[str, Any]]
) -> pd.DataFrame:
    """The rows (model, kind) of `wanted`: those that the unfinished table at `path` has, the others measured into it."""
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    for name, kind in wanted:
        if (name, kind) not in {(row["model"], row["kind"]) for row in rows}:
            rows.append(dict(measure(name, kind)))
            write_atomically(path, _text(pd.DataFrame(rows)))  # after every row: an interrupt loses one
            print(f"{name}, {kind}: mean z {rows[-1]['mean_z']:.3f}", flush=True)
    table = pd.read_csv(path)
    return table[_among(table, wanted)]


def _among(table: pd.DataFrame, wanted: list[tuple[str, str]]) -> list[bool]:
    return [pair in wanted for pair in zip(table.model, table.kind, strict=True)]


def _text(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def main(names: list[str]) -> None:
    """Measure the models of `names` (all embedded ones if empty); the finished table keeps the rows of the others."""
    for name in names:
        if name not in NEIGHBOURS:
            raise ParameterError(unknown_name("embedded model", name, NEIGHBOURS))
    wanted = [(name, kind) for name in names or NEIGHBOURS for kind in kinds(name)]
    language = cache(load)
    own = cache(lambda name: own_texts(language(name)))
    unfinished, path = _unfinished(), repository() / "data" / "results" / "02_controls.csv"
    table = resumed(wanted, unfinished, lambda name, kind: _measured(name, kind, language, own))
    if path.is_file():
        old = pd.read_csv(path)
        table = pd.concat([old[~old.model.isin(table.model)], table])
    table = verdicts(_ordered(table))
    write_atomically(path, _text(table))
    waiting = pd.read_csv(unfinished)
    waiting = waiting[[not found for found in _among(waiting, wanted)]]  # of an interrupted command with other names
    if len(waiting):
        write_atomically(unfinished, _text(waiting))
    else:
        unfinished.unlink()  # the next command measures anew
    print(table.set_index(["model", "kind"])[["rejected", "mean_z", "predicted_z", "z_share", "e_share"]].to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
