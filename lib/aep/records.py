"""What was sampled and what was measured: `Texts` and `Records`, in memory and as Parquet.

A text is its token ids, with everything that determines them. A record has one row per scored token and the columns of
SPEC 1.1. Files carry a schema version and a checksum of their content; a damaged or altered one is refused by name.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ._display import plain_text, token_map
from .errors import PromptError, RecordError, unknown_name
from .information import THETAS
from .languages.protocol import as_ids

__all__ = ["SCHEMA_VERSION", "Records", "Texts", "content_key", "store_home", "stored", "theta_column"]

SCHEMA_VERSION = 1
"""Raised by hand whenever the meaning or the set of columns changes."""

_INTEGERS = ("text", "position", "token", "rank", "greedy")
_NEEDS = {
    "cross_entropy": "score(texts, scorer, source=..., adaptor=...)",
    "cross_varentropy": "score(texts, scorer, source=..., adaptor=...)",
    "source_surprisal": "score(texts, scorer, source=..., adaptor=...)",
    "source_entropy": "score(texts, scorer, source=..., adaptor=...)",
    "source_varentropy": "score(texts, scorer, source=..., adaptor=...)",
}


def store_home() -> Path:
    """Where records and training checkpoints are kept: ``${AEP_HOME:-~/.cache/aep}``."""
    return Path(os.environ.get("AEP_HOME") or "~/.cache/aep").expanduser()


def theta_column(theta: float) -> str:
    """The column of Λ(θ).

    >>> theta_column(.875), theta_column(2)
    ('log_partition_0_875', 'log_partition_2')
    """
    return f"log_partition_{theta:g}".replace(".", "_")


def content_key(parts: Mapping[str, Any]) -> str:
    """Hash of everything that determines a file: 16 hex digits of SHA-256 over sorted JSON (arrays as lists)."""
    plain = json.dumps(parts, sort_keys=True, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))
    return hashlib.sha256(f"schema {SCHEMA_VERSION} {plain}".encode()).hexdigest()[:16]


def _checksum(table: pa.Table, meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in table.column_names:
        digest.update(name.encode())
        column = table.column(name).combine_chunks()
        for array in (column.flatten(), column.offsets) if pa.types.is_list(column.type) else (column,):
            digest.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).tobytes())
    return digest.hexdigest()


def _write(table: pa.Table, kind: str, meta: Mapping[str, Any], path: Path) -> None:
    """Write under a temporary name, then rename: a reader sees the whole file or none."""
    path = Path(path)
    described = json.dumps(meta)
    header = {
        "aep_kind": kind,
        "aep_schema": str(SCHEMA_VERSION),
        "aep_meta": described,
        "aep_sum": _checksum(table, described),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table.replace_schema_metadata(header), temporary, compression="zstd")
        os.replace(temporary, path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _read(path: Path, kind: str) -> tuple[pa.Table, dict]:
    path = Path(path)
    try:
        table = pq.read_table(path)
        header = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items() if k.startswith(b"aep_")}
        found = _checksum(table, header.get("aep_meta", "")) if header.get("aep_kind") == kind else ""
    except FileNotFoundError:
        raise RecordError(f"no such file: {path}") from None
    except (pa.ArrowException, ValueError, OSError) as error:
        raise RecordError(
            f"{path} is damaged or no Parquet file ({str(error).splitlines()[0]}): make it again"
        ) from None
    if header.get("aep_kind") != kind:
        raise RecordError(f"{path} holds {header.get('aep_kind', 'a foreign table')!r}, not {kind!r}")
    if header.get("aep_schema") != str(SCHEMA_VERSION):
        raise RecordError(
            f"{path} has schema version {header.get('aep_schema')}, this aep reads {SCHEMA_VERSION}: make it again"
        )
    if header.get("aep_sum") != found:
        raise RecordError(f"{path} was altered after it was written (checksum differs): make it again")
    return table, json.loads(header["aep_meta"])


@dataclass(frozen=True)
class Texts:
    """Sampled (or given) token ids and how they came about.

    `ids`: one integer array per text; `prompts`: the distinct prompts as ids; `prompt`: index into them per text;
    `sampler`: language, fingerprint, adaptor, seed, stop rule, dtype, versions; `finished`: False for a text that was
    cut at the length cap under ``stop="eos"``; `log_q`, `log_normaliser`: what the sampler drew each token with
    (nats), or None.
    """

    ids: list[np.ndarray]
    prompts: list[np.ndarray]
    prompt: np.ndarray
    sampler: dict[str, Any] = field(default_factory=dict)
    finished: np.ndarray | None = None
    log_q: list[np.ndarray] | None = None
    log_normaliser: list[np.ndarray] | None = None
    language: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def from_strings(cls, language: Any, strings: Sequence[str]) -> "Texts":
        """Texts that a person wrote, encoded by the tokenizer of `language`; PromptError for an empty one."""
        strings = [strings] if isinstance(strings, str) else list(strings)
        return cls.from_ids(language, [language.encode(s) for s in strings])

    @classmethod
    def from_ids(cls, language: Any, ids: Sequence[Sequence[int | np.integer] | np.ndarray] | np.ndarray) -> "Texts":
        """Texts given as token ids, without prompt and without a sampler; PromptError for an empty one."""
        arrays = [as_ids(row, language.vocab_size, f"text {k}") for k, row in enumerate(ids)]
        empty = next((k for k, a in enumerate(arrays) if not a.size), None)
        if empty is not None or not arrays:
            raise PromptError(f"text {empty or 0} is empty: there is nothing to score")
        return cls(arrays, [np.empty(0, np.int64)], np.zeros(len(arrays), int), language=language)

    def __len__(self) -> int:
        return len(self.ids)

    def decode(self, text: int) -> str:
        """The string of one text (without its prompt)."""
        if self.language is None:
            raise RecordError("these texts were read from a file: give .language = aep.load(name) to decode them")
        return self.language.decode(self.ids[text])

    def with_language(self, language: Any) -> "Texts":
        """The same texts with a language that can decode them."""
        return Texts(**{**self.__dict__, "language": language})

    def to_parquet(self, path: str | Path) -> None:
        """One row per text; log-probabilities as float32."""
        table = {
            "text": np.arange(len(self)),
            "prompt": np.asarray(self.prompt, dtype=np.int64),
            "ids": pa.array([np.asarray(i, np.int32) for i in self.ids], pa.list_(pa.int32())),
        }
        if self.finished is not None:
            table["finished"] = np.asarray(self.finished)
        for name in ("log_q", "log_normaliser"):
            if (values := getattr(self, name)) is not None:
                table[name] = pa.array([np.asarray(v, np.float32) for v in values], pa.list_(pa.float32()))
        meta = {"sampler": self.sampler, "prompts": [p.tolist() for p in self.prompts]}
        _write(pa.table(table), "texts", meta, Path(path))

    @classmethod
    def from_parquet(cls, path: str | Path, language: Any = None) -> "Texts":
        """Inverse of `to_parquet`; RecordError for a missing, damaged, altered or foreign file."""
        table, meta = _read(Path(path), "texts")
        lists = {
            n: [np.asarray(v) for v in table.column(n).to_pylist()] for n in table.column_names if n.startswith("log_")
        }
        return cls(
            [np.asarray(v, np.int64) for v in table.column("ids").to_pylist()],
            [np.asarray(p, np.int64) for p in meta["prompts"]],
            table.column("prompt").to_numpy(),
            meta["sampler"],
            table.column("finished").to_numpy() if "finished" in table.column_names else None,
            lists.get("log_q"),
            lists.get("log_normaliser"),
            language,
        )

    def _repr_html_(self) -> str:
        how = ", ".join(f"{k} {self.sampler[k]}" for k in ("language", "adaptor", "seed", "stop") if k in self.sampler)
        head = f"{len(self)} texts, {sum(map(len, self.ids))} tokens" + (f" ({how})" if how else "")
        shown = range(min(3, len(self))) if self.language is not None else []
        return plain_text(head, [self.decode(i)[:1500] for i in shown])


@dataclass(frozen=True)
class Records:
    """One row per scored token: the columns of SPEC 1.1 as flat arrays, sorted by text and position (nats).

    ``records["entropy"]`` is a flat array, ``records.matrix("entropy")`` is (texts, T) when all texts are equally long,
    ``records.by_text("entropy")`` a list of arrays. `meta` says how the record was made.
    """

    columns: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)
    language: Any = field(default=None, repr=False, compare=False)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            if name in _NEEDS or name.startswith("log_q_"):
                call = _NEEDS.get(name, "score(texts, scorer, adaptors=[...])")
                raise RecordError(f"this record has no column {name!r}: it comes from {call}")
            raise RecordError(unknown_name("column", name, self.columns))
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["text"])

    @property
    def lengths(self) -> np.ndarray:
        """Number of scored tokens of each text."""
        return np.bincount(self.columns["text"])

    def by_text(self, name: str) -> list[np.ndarray]:
        """One array per text."""
        return np.split(self[name], np.cumsum(self.lengths)[:-1])

    def matrix(self, name: str) -> np.ndarray:
        """(texts, T); RecordError if the texts are not equally long."""
        lengths = self.lengths
        if len(set(lengths.tolist())) != 1:
            raise RecordError(f"texts have {lengths.min()} to {lengths.max()} tokens: use by_text({name!r})")
        return self[name].reshape(len(lengths), lengths[0])

    def log_partition(self) -> dict[float, np.ndarray]:
        """The grid θ -> Λ(θ), flat arrays."""
        return {theta: self[theta_column(theta)] for theta in THETAS}

    def to_pandas(self) -> pd.DataFrame:
        """The record as a data frame, one row per scored token."""
        return pd.DataFrame(self.columns)

    def to_parquet(self, path: str | Path) -> None:
        """Integers as int32, everything else as float32."""
        table = {n: c.astype(np.int32 if n in _INTEGERS else np.float32) for n, c in self.columns.items()}
        _write(pa.table(table), "records", self.meta, Path(path))

    @classmethod
    def from_parquet(cls, path: str | Path, language: Any = None) -> "Records":
        """Inverse of `to_parquet` (in single precision); RecordError for a missing, damaged, altered or foreign file."""
        table, meta = _read(Path(path), "records")
        columns = {}
        for name in table.column_names:
            values = table.column(name).to_numpy()
            columns[name] = values.astype(np.int64 if name in _INTEGERS else np.float64)
        return cls(columns, meta, language)

    def _repr_html_(self) -> str:
        lengths = self.lengths
        head = f"{len(lengths)} texts, {len(self)} scored tokens, scorer {self.meta.get('scorer', '?')}"
        if self.language is None or not len(self):
            return plain_text(head, [])
        end = min(lengths[0], 400)
        a, h, v = (self[c][:end] for c in ("surprisal", "entropy", "varentropy"))
        deviation = np.divide(a - h, np.sqrt(v), out=np.zeros_like(a), where=v > 0)
        pieces = [self.language.decode([t]) for t in self["token"][: lengths[0]]]
        titles = [
            f"surprisal {x:.2f}, entropy {y:.2f} nats, rank {r}"
            for x, y, r in zip(a, h, self["rank"][:end], strict=True)
        ]
        return plain_text(head + "; text 0:", []) + token_map(pieces, deviation, titles)


def stored(
    kind: type, store: str | Path | None, parts: Mapping[str, Any], make: Callable[[], Any], language: Any
) -> Any:
    """`make()`, or what an earlier call with the same content key has left below `store`; a damaged file is made again.

    What is returned is always what the file holds (single precision), so that a first and a later run agree.
    """
    if store is None:
        return make()
    folder = Path(store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot use the store {folder}: {error.strerror}") from None
    path = folder / f"{kind.__name__.lower()}-{content_key(parts)}.parquet"
    if path.exists():
        try:
            return kind.from_parquet(path, language)
        except RecordError:
            path.unlink(missing_ok=True)
    make().to_parquet(path)
    return kind.from_parquet(path, language)
