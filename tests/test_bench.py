"""The benchmark table: what a row is, and that only measured rows are replaced. The rows themselves are not timed here."""

import pandas as pd
import pytest

from aep.bench import registry
from aep.errors import ParameterError


@pytest.fixture
def two_rows(monkeypatch):
    monkeypatch.setattr(registry, "_ROWS", {})
    monkeypatch.setattr(registry.pkgutil, "iter_modules", lambda _: [])
    registry.row("a_row", unit="ratio", note="of a to b")(lambda: [3.0, 1.0, 2.0])
    registry.row("b_row", unit="s")(lambda: [0.5, 0.25, 1 / 3, 4])
    return registry


def test_a_row_is_the_median_and_the_range_of_its_runs(two_rows, tmp_path):
    measured = two_rows.run(["a_row"], tmp_path / "bench.csv")
    table = pd.read_csv(tmp_path / "bench.csv")
    assert list(table.columns) == registry.COLUMNS == list(measured.columns)
    (row,) = table.to_dict("records")
    assert (row["name"], row["value"], row["low"], row["high"], row["runs"]) == ("a_row", 2.0, 1.0, 3.0, 3)
    assert row["unit"] == "ratio" and row["note"].startswith("of a to b; ") and "cores" in row["note"]


def test_only_the_measured_rows_are_replaced(two_rows, tmp_path):
    path = tmp_path / "bench.csv"
    path.write_text("name,value,unit,low,high,runs,note\na_row,9,ratio,9,9,3,old\nother,1,s,1,1,3,kept\n")
    two_rows.run(["b_row"], path)
    table = pd.read_csv(path).set_index("name")
    assert list(table.index) == ["a_row", "b_row", "other"]
    assert table.loc["a_row", "note"] == "old" and table.loc["other", "note"] == "kept"
    two_rows.run([], path)
    assert pd.read_csv(path).set_index("name").loc["a_row", "value"] == 2


def test_an_unknown_row_is_refused_before_anything_is_measured(two_rows, tmp_path):
    with pytest.raises(ParameterError, match="unknown benchmark row 'a_rwo': did you mean 'a_row'"):
        two_rows.run(["b_row", "a_rwo"], tmp_path / "bench.csv")
    assert not (tmp_path / "bench.csv").exists()


def test_fewer_than_three_runs_are_no_measurement(two_rows, tmp_path):
    registry.row("c_row", unit="s")(lambda: [1.0, 2.0])
    with pytest.raises(ParameterError, match="'c_row' gave 2 runs"):
        two_rows.run(["c_row"], tmp_path / "bench.csv")


def test_every_row_of_the_package_has_a_unit():
    rows = registry.rows()
    assert rows and all(row.unit for row in rows.values())


def test_the_committed_table_holds_known_rows_of_at_least_three_runs(repository):
    path = repository / "data" / "results" / "bench.csv"
    if not path.is_file():
        pytest.skip("nothing has been measured yet")
    table = pd.read_csv(path)
    assert list(table.columns) == registry.COLUMNS
    assert set(table["name"]) <= set(registry.rows())
    assert (
        (table["runs"] >= 3).all()
        and (table["low"] <= table["value"]).all()
        and (table["value"] <= table["high"]).all()
    )
