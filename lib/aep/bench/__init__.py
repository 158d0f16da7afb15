"""Benchmarks: ``python -m aep bench [ROW ...]`` measures anew and writes ``data/results/bench.csv``.

One module per family of rows; a row is a function decorated with `row`, see `registry`.
"""

from .registry import Row, row, rows, run

__all__ = ["Row", "row", "rows", "run"]
