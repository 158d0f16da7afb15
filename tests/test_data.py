"""data/README.md has one row per file, says what each is, and its checksum is right."""

import subprocess

import pytest

from aep import data_table, outputs

ROOT = outputs.repository()


def committed() -> list[str]:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z", "data"], capture_output=True, text=True)
    if done.returncode:
        return []
    names = [n.removeprefix("data/") for n in done.stdout.split("\0") if n]
    return [n for n in names if n != "README.md" and (ROOT / "data" / n).is_file()]


@pytest.mark.parametrize("file", committed())
def test_every_committed_data_file_has_a_complete_row_with_its_checksum(file):
    rows = data_table.read()
    assert file in rows, f"data/{file} has no row in data/README.md: `python -m aep.data_table` adds one"
    row = rows[file]
    assert all((row.what, row.source, row.licence, row.units)), (
        f"the row of {file} in data/README.md has an empty field"
    )
    assert row.sha256 == data_table.data_files()[file], "`python -m aep.data_table` brings the checksums up to date"


def test_no_row_describes_a_file_that_is_not_there():
    assert set(data_table.read()) <= set(data_table.data_files())


def test_the_table_is_brought_up_to_date_and_keeps_what_was_written_by_hand(tmp_path):
    (tmp_path / "data" / "results").mkdir(parents=True)
    one, two = tmp_path / "data" / "results" / "01_a.csv", tmp_path / "data" / "b.json"
    one.write_text("x")
    readme = tmp_path / "data" / "README.md"
    readme.write_text("# Data\n\nSome words.\n\n| file | what |\n|---|---|\n")
    data_table.update(tmp_path)
    assert list(data_table.read(tmp_path)) == ["results/01_a.csv"]
    readme.write_text(readme.read_text().replace("` |  |  |  |  | `", "` | a table | notebook 01 | MIT | nats | `"))
    before = data_table.read(tmp_path)["results/01_a.csv"]
    assert before.what == "a table" and before.units == "nats"
    one.write_text("y")
    two.write_text("{}")
    data_table.update(tmp_path)
    rows = data_table.read(tmp_path)
    assert list(rows) == ["b.json", "results/01_a.csv"]
    after = rows["results/01_a.csv"]
    assert after._replace(sha256="") == before._replace(sha256="") and after.sha256 != before.sha256
    assert readme.read_text().startswith("# Data\n\nSome words.\n\n| file | what | source |")
    two.unlink()
    data_table.update(tmp_path)
    assert list(data_table.read(tmp_path)) == ["results/01_a.csv"]
