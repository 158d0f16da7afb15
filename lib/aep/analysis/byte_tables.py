"""The committed tables per byte, across tokenizers: how they were measured, and a slice of each measured again.

``python -m aep.analysis.byte_tables [FOLDER ...]`` writes `data/results/bytes_*.csv`: what a beam of each width leaves out,
Monte Carlo on the same text, the gap between bytes and tokens, every ordered pair of models of different tokenizers with
calibration and attribution, and an exact check. FOLDER is any further model for the pairs (any name that `aep.load` takes),
named in the tables by its last part. About 40 minutes of one core; after an interrupt the same command goes on. A table
that also holds other models than those given stays as it is, which is said.

Fixed before the first run: the texts (the first 256 bytes of the first document of each of 24 clusters of held-out
documents, in the order of their SHA-256), all seeds, sizes and lengths below. Networks compute in double precision;
the records of pairs go through a store, which keeps single precision. Monte Carlo of docs-3m is of the first 8 texts.
"""

import argparse
import ast
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._progress import progress
from ..adaptors import ancestral
from ..errors import ParameterError, RecordError, unknown_name
from ..languages import MarkovChain
from ..neural.bytelevel import ByteLanguage
from ..neural.loading import load
from ..neural.per_byte import per_byte
from ..neural.training import corpus
from ..outputs import committed, repository, write_atomically
from ..sampling import sample
from ..scoring import score
from . import attribution, attribution_tables, candidates
from .bytelevel import by_width, cover, enumerated, gaps, monte_carlo
from .pairs import PairRecords, pair_columns, pair_records, text_seed

__all__ = ["TABLES", "excerpts", "measured_again", "slices"]

COMMAND = "python -m aep.analysis.byte_tables"
TABLES = ("widths", "monte_carlo", "gap", "pairs", "accuracy", "confusion", "exact")
FAMILY, IDENTITY = ("docs-100k", "docs-400k", "docs-3m"), "docs-bytes"
EXCERPTS, BYTES, WIDTHS = 24, 256, (1, 2, 4, 8, 16, 32)
PARTICLES, REPLICATES, GROUP = 16, 8, 8  # texts of one Monte Carlo run, which has a seed of its own
TEXTS, WIDTH, SEED = 50, 8, 8256
GAP_TEXTS, GAP_WIDTH, AT = 24, 32, (64, 128)
HELD_OUT, WEAK = "held-out", "docs-100k"
LENGTHS = (4, 8, 16, 32, 64, 128, 256)
PAIR_COLUMNS = ["source", "scorer", "text", "bytes", "l_B", "h_B", "h_AB", "h_A", "sigma_pair", "sigma_B"]
PAIR_COLUMNS += ["z_pair", "z_B", "kl", "llr"]
KEYS = {
    "widths": ["kind", "model", "width", "text"],
    "monte_carlo": ["kind", "model", "text"],
    "pairs": ["source", "scorer", "text"],
}
KEYS |= {"gap": ["kind", "source", "scorer", "text", "bytes"], "exact": ["source", "width", "text"]}


@cache
def language(name: str) -> ByteLanguage:
    """A model per byte in double precision, at the width and cutoff of the pairs."""
    return per_byte(load(name, dtype="float64"), WIDTH)


def followed(name: str, width: int = WIDTH) -> ByteLanguage:
    """A model per byte with a cutoff of 0: what bounds are made with."""
    return language(name).with_width(width)


# ---------------------------------------------------------------------------------------------------- held-out text


def excerpts(count: int = EXCERPTS, least: int = BYTES) -> list[corpus.Document]:
    """The first `count` held-out documents of at least `least` bytes, one of each cluster, in the order of their SHA-256.

    Only their own files are read. Where the cut after `least` bytes divides a character the document is left out, as are
    those of a name that several share. RecordError where one of them is not installed here identically.
    """
    listed = {d["id"]: d["sha256"] for d in corpus.manifest()["documents"] if d["split"] == "held-out"}
    table = committed("A1_losses")
    table = table[(table.bytes >= least) & ~table.document.str.contains("#")]
    table = table.assign(sha256=table.document.map(listed)).sort_values("sha256").drop_duplicates("cluster")
    found: list[corpus.Document] = []
    for row in table.itertuples():
        text = _document(row.document, row.sha256)
        if _is_whole(text.encode()[:least]):
            found.append(corpus.Document(row.document, text, row.sha256, "held-out"))
        if len(found) == count:
            break
    return found


@cache
def _document(name: str, sha256: str) -> str:
    module = name.partition(":")[0]
    path = _modules(module.partition(".")[0]).get(module)
    texts = [] if path is None else corpus.docstrings(ast.parse(path.read_text(encoding="utf-8")), module)
    for found, text in texts:
        if found == name and hashlib.sha256(text.encode()).hexdigest() == sha256:
            return text
    raise RecordError(f"{name} is not installed identically: `python -m aep corpus --check` names what differs")


@cache
def _modules(package: str) -> dict[str, Path]:
    return dict(corpus.modules(package))


def _is_whole(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------- what is measured


def _texts(kind: str, count: int = EXCERPTS) -> list[np.ndarray]:
    """The first `BYTES` symbols of held-out documents, or of texts that the model `kind` draws token by token."""
    if kind == HELD_OUT:
        return [language(WEAK).encode(d.text.encode()[:BYTES]) for d in excerpts(count)]
    return [cover(ids, language(kind), BYTES)[1] for ids in _drawn(kind, count)]


def _drawn(source: str, texts: int) -> list[np.ndarray]:
    """Tokens that `source` draws, more than `BYTES` bytes need."""
    seed = text_seed(SEED, source, ancestral())
    return sample(language(source).language, texts=texts, tokens=BYTES, seed=seed, batch=TEXTS).ids


def _widths(kind: str, model: str, *widths: int, texts: int = EXCERPTS) -> pd.DataFrame:
    return by_width(followed(model), _texts(kind, texts), widths).assign(kind=kind, model=model)


def _monte_carlo(kind: str, model: str, group: int, texts: int = GROUP) -> pd.DataFrame:
    first = group * GROUP
    chosen = _texts(kind, first + texts)[first:]
    options = {"particles": PARTICLES, "replicates": REPLICATES, "seed": SEED + group}
    found = monte_carlo(followed(model), chosen, **options)
    return found.assign(kind=kind, model=model, text=found.text + first)


def _held_out_gap(model: str, texts: int = EXCERPTS) -> pd.DataFrame:
    ids = [language(model).language.encode(d.text) for d in excerpts(texts)]
    return gaps(followed(model, GAP_WIDTH), ids, AT).assign(kind=HELD_OUT, source="", scorer=model)


def _sampled_gap(source: str, scorer: str, texts: int = GAP_TEXTS) -> pd.DataFrame:
    """Tokens that `source` draws under the tokens and the bytes of `scorer`."""
    return gaps(followed(scorer, GAP_WIDTH), _drawn(source, texts), AT).assign(
        kind="sampled", source=source, scorer=scorer
    )


def _pairs(names: Mapping[str, str], store: Any) -> PairRecords:
    """Records of all ordered pairs; `names` maps labels to models."""
    languages = {label: language(name) for label, name in names.items()}
    return pair_records(languages, texts=TEXTS, tokens=BYTES, seed=SEED, store=store, batch=TEXTS)


def _per_text(records: PairRecords) -> pd.DataFrame:
    return records.per_text().rename(columns={"tokens": "bytes"})[PAIR_COLUMNS]


def _one_pair(source: str, scorer: str, texts: int) -> pd.DataFrame:
    """The first rows of one pair of `_pairs`, measured by themselves."""
    a, b = language(source), language(scorer)
    drawn = sample(a, texts=texts, tokens=BYTES, seed=text_seed(SEED, source, ancestral()), batch=texts)
    columns = pair_columns(score(drawn, b, source=a))
    whose = {"source": source, "scorer": scorer, "text": np.arange(texts), "bytes": BYTES}
    return pd.DataFrame(whose | columns)[PAIR_COLUMNS]


def _attribution(records: PairRecords) -> dict[str, pd.DataFrame]:
    """Whom three rules name at every length, from the same records."""
    proof, authors, _ = candidates.pair_evidence(records)
    named = attribution.choices(proof, LENGTHS)
    scorers = list(proof.candidates)
    accuracy = attribution_tables.accuracy_by_length(named, authors, scorers)
    accuracy = accuracy.drop(columns=[c for c in accuracy if c.startswith(("merged", "impossible"))])
    confused = attribution_tables.confusion(named, authors, scorers)
    confused = confused[confused.tokens == BYTES]
    return {
        name: t.rename(columns={"tokens": "bytes"}) for name, t in (("accuracy", accuracy), ("confusion", confused))
    }


def chains() -> dict[str, ByteLanguage]:
    """Two exact languages of six tokens, of different pieces over the bytes a and b and an end; rows from Dirichlet(1/2)."""
    rng, found = np.random.default_rng(SEED), {}
    for name, pieces in (
        ("chain A", [b"a", b"b", b"ab", b"aab", b"aa"]),
        ("chain B", [b"b", b"a", b"ba", b"abb", b"bb"]),
    ):
        rows = rng.dirichlet(np.full(6, 0.5), size=7)
        chain = MarkovChain(rows[1:], rows[0], eos=5, name=name)
        found[name] = ByteLanguage(chain, [*pieces, None], width=None, limit=100_000)
    return found


def _exact_chains(widths: Sequence[int] = (1, 2, 3, 4, 6, 8), texts: int = TEXTS) -> pd.DataFrame:
    a, b = chains().values()
    drawn = sample(a, texts=texts, tokens=12, seed=SEED, batch=TEXTS)
    return enumerated(a, b, drawn.ids, widths)


def _exact_networks(widths: Sequence[int] = (1, 2, 4, 8, 16), texts: int = EXCERPTS) -> pd.DataFrame:
    """The same of the first eight bytes of held-out text under two networks."""
    a, b = (language(name).with_width(WIDTH) for name in FAMILY[:2])
    return enumerated(a, b, [x[:8] for x in _texts(HELD_OUT, texts)], widths)


# ---------------------------------------------------------------------------------------------------- measured again


def slices() -> dict[str, Callable[[], pd.DataFrame]]:
    """A small part of every table that is measured and not derived, by what measures it again: seconds of one core."""
    return {
        "widths": lambda: _widths(HELD_OUT, "docs-100k", 4, 8, texts=2),
        "monte_carlo": lambda: _monte_carlo(HELD_OUT, "docs-100k", 0, 1),
        "gap": lambda: _sampled_gap("docs-100k", "docs-400k", 2),
        "pairs": lambda: _one_pair(IDENTITY, "docs-100k", 4),
        "exact": lambda: _exact_chains((1, 8)),
    }


def measured_again(names: Sequence[str] = (), tables: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """`slices` beside the committed tables (or `tables`): per table what was compared, and the largest difference.

    `names` of `slices`, all if empty. Columns: table, rows, columns (those with numbers), largest_difference, absolute;
    equal infinities and NaN differ by 0. RecordError for a row that the table does not have.
    """
    rows, known = [], slices()
    for name in names or known:
        if name not in known:
            raise ParameterError(unknown_name("table with a slice", name, known))
        table, key = committed(f"bytes_{name}") if tables is None else tables[name], KEYS[name]
        fresh = known[name]().set_index(key)
        table = table.fillna({"source": ""} if "source" in key else {}).set_index(key)
        lacking = fresh.index.difference(table.index)
        if len(lacking):
            raise RecordError(f"data/results/bytes_{name}.csv has no row {lacking[0]}: run `{COMMAND}`")
        columns = [c for c in table if pd.api.types.is_numeric_dtype(table[c])]
        old, new = (t.loc[fresh.index, columns].to_numpy(float) for t in (table, fresh))
        same = (old == new) | (np.isnan(old) & np.isnan(new))
        most = np.abs(np.subtract(old, new, out=np.zeros_like(old), where=~same)).max()
        rows.append({"table": f"bytes_{name}", "rows": len(fresh), "columns": len(columns), "largest_difference": most})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------------- the command


class _Parts:
    """Tables as they come about, one file a part, so that an interrupt loses one part."""

    def __init__(self, names: Mapping[str, str]):
        fingerprints = {label: language(name).fingerprint for label, name in names.items()}
        settings = [EXCERPTS, BYTES, WIDTHS, PARTICLES, REPLICATES, GROUP, TEXTS, WIDTH, SEED]
        settings += [GAP_TEXTS, GAP_WIDTH, AT, LENGTHS, fingerprints]
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = repository() / "runs" / f"bytes-{key}"

    def of(self, table: str, jobs: Iterable[tuple], measure: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        """The table of all jobs: parts that are there are read, the others measured."""
        parts = []
        for job in progress(list(jobs), desc=f"bytes_{table}", unit="part"):
            path = self.folder / f"{'-'.join(map(str, (table, *job)))}.csv"
            if not path.is_file():
                write_atomically(path, _text(measure(*job)))
            parts.append(pd.read_csv(path))
        found = pd.concat(parts, ignore_index=True)
        first = [c for c in ("model", *KEYS.get(table, [])) if c in found]
        return found[list(dict.fromkeys([*first, *found]))]


def _text(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def _write(name: str, table: pd.DataFrame) -> None:
    """Write one table, unless the one that is there has models that this run lacks."""
    path = repository() / "data" / "results" / f"bytes_{name}.csv"
    whose = next((c for c in ("model", "author", "scorer") if c in table), None)
    if path.is_file() and whose is not None:
        lacking = set(pd.read_csv(path)[whose]) - set(table[whose])
        if lacking:
            print(
                f"bytes_{name} stays as it is: it also has {', '.join(sorted(map(str, lacking)))}, which was not given"
            )
            return
    write_atomically(path, _text(table))
    print(f"bytes_{name}: {len(table)} rows, {path.stat().st_size // 1024} kB", flush=True)


def main(folders: Sequence[str]) -> None:
    """Measure and write every table."""
    names = {name: name for name in (*FAMILY, IDENTITY)} | {Path(f).name: f for f in folders}
    parts = _Parts(names)
    held, whose = [(HELD_OUT, name) for name in FAMILY], [(HELD_OUT, IDENTITY), (WEAK, "docs-400k")]
    chained, networks = parts.of("exact", [()], _exact_chains), parts.of("exact-networks", [()], _exact_networks)
    _write("exact", pd.concat([chained, networks]))
    records = _pairs(names, parts.folder / "store")
    _write("pairs", _per_text(records))
    for name, table in _attribution(records).items():
        _write(name, table)
    _write("widths", parts.of("widths", [(*x, w) for x in (*held, *whose) for w in WIDTHS], _widths))
    jobs = [(*x, g) for x in (*held[:2], whose[1]) for g in range(EXCERPTS // GROUP)] + [(*held[2], 0)]
    _write("monte_carlo", parts.of("monte_carlo", jobs, _monte_carlo))
    gap = parts.of("gap", [(a, b) for a in FAMILY for b in FAMILY], _sampled_gap)
    _write("gap", pd.concat([parts.of("gap-held-out", [(name,) for name in FAMILY], _held_out_gap)[list(gap)], gap]))
    shutil.rmtree(parts.folder)  # the next command measures anew


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="further models for the pairs: a name or a folder")
    main(parser.parse_args().folders)
