"""Parquet files that say what they hold: kind, versions, content key, a description, and a checksum of the content."""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import RecordError, make_room

__all__ = ["KERNEL_VERSION", "SCHEMA_VERSION", "Header", "content_key", "header", "read", "write"]

SCHEMA_VERSION = 2
"""Raised by hand whenever the meaning or the set of columns of a file changes; a file of another one is refused."""

KERNEL_VERSION = 1
"""Raised by hand whenever sampled tokens or scored values change by more than rounding; part of every content key."""

_REPEATED = ("text", "text_key")  # few distinct values in long runs: dictionary and run lengths, a fraction of a bit
_COUNTING = ("position",)


class Header(NamedTuple):
    """The footer of a file: `kind`, `key` (of the store, else ""), `kernel` version, number of `rows`, and `meta`."""

    kind: str
    key: str
    kernel: str
    rows: int
    meta: dict[str, Any]


def content_key(parts: Mapping[str, Any]) -> str:
    """Hash of everything that determines a file: 16 hex digits of SHA-256 over both versions and sorted JSON.

    >>> content_key({"seed": 1, "ids": np.array([1, 2])}) == content_key({"ids": [1, 2], "seed": 1})
    True
    """
    plain = json.dumps(parts, sort_keys=True, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))
    return hashlib.sha256(f"schema {SCHEMA_VERSION} kernel {KERNEL_VERSION} {plain}".encode()).hexdigest()[:16]


def write(table: pa.Table, kind: str, meta: Mapping[str, Any], path: Path, key: str = "") -> None:
    """Write under a temporary name, then rename: a reader sees the whole file or none. RecordError where that fails.

    The temporary name is of this call alone, so that two processes may write the same file at once; it does not end in
    ``.parquet``. Floats are stored byte by byte (BYTE_STREAM_SPLIT), then zstd.
    """
    path = Path(path)
    described = json.dumps(meta)
    header = {
        "aep_kind": kind,
        "aep_key": key,
        "aep_schema": str(SCHEMA_VERSION),
        "aep_kernel": str(KERNEL_VERSION),
        "aep_meta": described,
        "aep_sum": _checksum(table, described),
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _write_file(table, header, temporary)
        os.replace(temporary, path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise RecordError(f"cannot write {path}: {reason}{make_room(error)}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _write_file(table: pa.Table, header: Mapping[str, str], path: Path) -> None:
    # Arrow's own copy of the schema (some kilobytes) and the statistics are left out: nothing reads them.
    options = {"compression": "zstd", "store_schema": False, "write_statistics": False, **_encodings(table.schema)}
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        writer.write_table(table, row_group_size=1 << 20)
        writer.add_key_value_metadata(header)


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    encoding = {}
    for field in schema:
        listed = pa.types.is_list(field.type)
        value, name = (field.type.value_type, f"{field.name}.list.element") if listed else (field.type, field.name)
        if pa.types.is_floating(value):
            encoding[name] = "BYTE_STREAM_SPLIT"
        elif field.name in _COUNTING:
            encoding[name] = "DELTA_BINARY_PACKED"
    return {"use_dictionary": [n for n in _REPEATED if n in schema.names], "column_encoding": encoding}


def _checksum(table: pa.Table, meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in table.column_names:
        digest.update(name.encode())
        column = table.column(name).combine_chunks()
        for array in (column.flatten(), column.offsets) if pa.types.is_list(column.type) else (column,):
            digest.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).tobytes())
    return digest.hexdigest()


def header(path: Path) -> Header:
    """What the footer of a file says, its content unread; RecordError for a file without one or of another schema."""
    return _opened(Path(path), content=False)[0]


def read(path: Path, kind: str) -> tuple[pa.Table, Header]:
    """Table and header; RecordError for a missing, damaged, altered or foreign file, and for another schema."""
    path = Path(path)
    found, table, entries = _opened(path, content=True)
    if found.kind != kind:
        raise RecordError(f"{path} holds {found.kind!r}, not {kind!r}")
    if entries.get("aep_sum") != _checksum(table, entries.get("aep_meta", "")):
        raise RecordError(f"{path} was altered after it was written (checksum differs): make it again")
    return table, found


def _opened(path: Path, content: bool) -> tuple[Header, pa.Table | None, dict[str, str]]:
    try:
        with pq.ParquetFile(path) as file:
            raw, rows = file.metadata.metadata or {}, file.metadata.num_rows
            entries = {k.decode(): v.decode() for k, v in raw.items() if k.startswith(b"aep_")}
            kind, schema = entries.get("aep_kind", "a foreign table"), entries.get("aep_schema")
            table = file.read() if content else None
        meta = json.loads(entries.get("aep_meta", "{}")) if schema == str(SCHEMA_VERSION) else {}
    except FileNotFoundError:
        raise RecordError(f"no such file: {path}") from None
    except (pa.ArrowException, ValueError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise RecordError(f"{path} is damaged or no Parquet file ({why}): make it again") from None
    if "aep_kind" in entries and schema != str(SCHEMA_VERSION):
        raise RecordError(f"{path} has schema version {schema}, this aep reads {SCHEMA_VERSION}: make it again")
    return Header(kind, entries.get("aep_key", ""), entries.get("aep_kernel", ""), rows, meta), table, entries
