"""Ways to damage a Parquet file of texts or records, and what its reader then says."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def rewritten(path, change):
    """The file after `change(table)`, its header kept."""
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def with_header(path, **entries):
    table = pq.read_table(path)
    header = {**table.schema.metadata, **{k.encode(): v.encode() for k, v in entries.items()}}
    pq.write_table(table.replace_schema_metadata(header), path)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


def one_value(table):
    column = table.column("surprisal").to_numpy().copy()
    column[3] += np.float32(1e-3)
    return table.set_column(table.column_names.index("surprisal"), "surprisal", pa.array(column))


FAULTS = {
    "missing": (lambda p: p.unlink(), "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "damaged or no Parquet file.*make it again"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-200]), "damaged or no Parquet file"),
    "text": (lambda p: p.write_text("text,position\n0,0\n"), "damaged or no Parquet file"),
    "a flipped byte": (flip_a_byte, "damaged or no Parquet file|altered"),
    "foreign": (lambda p: pd.DataFrame({"x": [1.0]}).to_parquet(p), "holds 'a foreign table', not 'tokens'"),
    "other kind": (lambda p: with_header(p, aep_kind="texts"), "holds 'texts', not 'tokens'"),
    "other version": (
        lambda p: with_header(p, aep_schema="99"),
        "has schema version 99, this aep reads 2: make it again",
    ),
    "altered value": (lambda p: rewritten(p, one_value), "was altered after it was written"),
    "altered name": (lambda p: rewritten(p, lambda t: t.rename_columns({"rank": "Rank"})), "was altered"),
    "missing column": (lambda p: rewritten(p, lambda t: t.drop_columns(["entropy"])), "was altered"),
    "missing rows": (lambda p: rewritten(p, lambda t: t.slice(0, 4)), "was altered"),
    "altered description": (lambda p: with_header(p, aep_meta=json.dumps({"scorer": "other"})), "was altered"),
}
