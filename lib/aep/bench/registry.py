"""The rows of the benchmark table: how one is declared, measured and written."""

import os
import pkgutil
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from .. import data_table
from .._folders import require_writable
from ..errors import ParameterError, unknown_name
from ..outputs import repository, write_atomically

__all__ = ["COLUMNS", "Row", "machine", "row", "rows", "run"]

COLUMNS = ["name", "value", "unit", "low", "high", "runs", "note"]
RUNS = 3  # at least: the median of fewer says nothing about its spread


class Row(NamedTuple):
    """A benchmark row: `measure` returns one value per run, from at least three interleaved runs."""

    name: str
    unit: str
    note: str
    measure: Callable[[], Sequence[float]]


_ROWS: dict[str, Row] = {}


def row(name: str, unit: str, note: str = "") -> Callable:
    """Decorator: the function measures the row `name` and returns one value per run.

    Where two things are compared their runs take turns (A B A B A B), so that a machine that slows down slows both.
    """

    def register(measure: Callable[[], Sequence[float]]):
        _ROWS[name] = Row(name, unit, note, measure)
        return measure

    return register


def rows() -> dict[str, Row]:
    """Every row of every module of this package, by name."""
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{__package__}.{module.name}")
    return dict(_ROWS)


def machine() -> str:
    """Processor model, number of cores and PyTorch threads: what a time depends on, and nothing that names a machine."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"


def run(names: Sequence[str] = (), path: Path | None = None):
    """Measure the named rows (all if none is named), replace them in the table, and return the measured rows.

    `value` is the median, `low` and `high` the smallest and largest run. The table is written after every row: an
    interrupt keeps those that were measured. Raises ParameterError for an unknown row or a folder that cannot be written
    to, before anything is measured.
    """
    import pandas as pd

    known = rows()
    for name in names:
        if name not in known:
            raise ParameterError(unknown_name("benchmark row", name, sorted(known)))
    committed = repository() / "data" / "results" / "bench.csv"
    path = path or committed
    require_writable(path.parent)
    measured = []
    for name in dict.fromkeys(names or sorted(known)):
        measured.append(_measure(known[name]))
        text_columns = {"name": str, "unit": str, "note": str}
        old = pd.read_csv(path, dtype=text_columns) if path.is_file() else pd.DataFrame(columns=COLUMNS)
        kept = old[~old["name"].isin([r["name"] for r in measured])].to_dict("records")
        table = pd.DataFrame(kept + measured, columns=COLUMNS).sort_values("name")
        write_atomically(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        if path == committed:
            data_table.update()
    return pd.DataFrame(measured, columns=COLUMNS)


def _measure(chosen: Row) -> dict:
    """One line of the table."""
    print(f"{chosen.name} ...", flush=True)
    values = [float(v) for v in chosen.measure()]
    if len(values) < RUNS:
        raise ParameterError(f"benchmark row {chosen.name!r} gave {len(values)} runs, needs at least {RUNS}")
    note = "; ".join(part for part in (chosen.note, machine()) if part)
    return {
        "name": chosen.name,
        "value": statistics.median(values),
        "unit": chosen.unit,
        "low": min(values),
        "high": max(values),
        "runs": len(values),
        "note": note,
    }
