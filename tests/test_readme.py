"""The README says what is there: its commands, files, notebooks, and the quick start."""

import re
import shlex
from pathlib import Path

import pytest

from aep import data_table, outputs
from aep.__main__ import _arguments

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_linked_file_exists():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_table_lists_exactly_the_notebooks_there_are_with_their_minutes():
    files = outputs.notebook_files()
    listed = re.findall(r"\]\(notebooks/(\w+)\.ipynb\) \| [\w-]+ \| (.*) \|", README)
    assert [stem for stem, _ in listed] == [path.stem for path in files.values()]
    for stem, minutes in listed:
        assert re.fullmatch(r"[\d.]+", minutes), f"{stem}: minutes {minutes!r}"


@pytest.mark.parametrize("command", sorted(set(re.findall(r"python -m aep ([a-z][^`\n#]*)", README))))
def test_every_command_is_one_the_parser_knows(command):
    words = shlex.split(command)
    if words == ["train"]:
        words += ["NAME"]
    options = _arguments().parse_args(words)
    if words[0] == "run" and words[1] != "all":
        known = outputs.declared(outputs.notebook_files()[words[1]])
        assert {name for name, _ in options.p} <= set(known)


def test_every_make_target_is_one_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", README)) - {"alone"} <= targets


def test_make_tables_runs_every_command_that_makes_a_committed_table_of_the_models():
    recipe = re.search(r"^tables:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    run = re.findall(r"\$\(PY\) -m (aep\.\S+)", recipe)
    rows = data_table.read().values()
    made = {name for row in rows for name in re.findall(r"`python -m (aep\.[\w.]+)", row.source)}
    assert len(made) >= 3 and made == set(run[:-1]) and run[-1] == "aep.data_table"


def test_the_quick_start_runs():
    if not (ROOT / "data" / "models" / "docs-400k").is_dir():
        pytest.skip("docs-400k is not there yet")
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in source.splitlines() if line]) == 3
    namespace: dict = {}
    exec(source.replace("\naep.score", "\nrecords = aep.score"), namespace)
    assert {"surprisal", "entropy", "varentropy"} <= set(namespace["records"].columns)
