"""Where a run writes, what it takes for its parameters, and what it says about itself."""

import json
import os
import re
import subprocess

import nbformat
import pandas as pd
import pytest

from aep import data_table, outputs, plotting
from aep._agree import texts_agree
from aep.errors import ParameterError, RecordError

DEFAULTS = {"texts": 4, "tau": 0.5, "models": "a, b", "fast": True, "seed": 7}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A repository with one notebook."""
    monkeypatch.delenv("AEP_OUTPUT_ROOT")
    (tmp_path / "notebooks").mkdir()
    source = "\n".join(f"{name}: {type(value).__name__} = {value!r}  # comment" for name, value in DEFAULTS.items())
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "02_self_aep.ipynb")
    outputs.write_defaults(tmp_path)
    return tmp_path


def test_the_defaults_are_those_of_the_parameter_cell(house):
    assert outputs.defaults("02", house) == DEFAULTS
    assert outputs.declared(house / "notebooks" / "02_self_aep.ipynb") == DEFAULTS


def test_a_run_with_unchanged_parameters_writes_to_the_repository(house):
    run = outputs.begin("02", DEFAULTS | {"other": object()}, house)
    assert run.is_default and run.stem == "02_self_aep"
    assert (run.figures, run.results) == (house / "figures", house / "data" / "results")
    assert run.folder.parent == house / "runs" and (run.folder / "run.json").is_file()


@pytest.mark.parametrize("change", [{"texts": 5}, {"tau": 0.25}, {"models": "a"}, {"fast": False}, {"seed": 8}])
def test_any_changed_parameter_moves_everything_below_runs(house, change):
    run = outputs.begin("02", DEFAULTS | change, house)
    assert not run.is_default
    assert run.figures == run.folder / "figures" and run.results == run.folder / "results"
    assert run.folder.parent == house / "runs"
    assert run.folder != outputs.plan("02", DEFAULTS, house).folder


def test_the_same_parameters_lead_to_the_same_folder_and_others_to_another(house):
    folders = [outputs.plan("02", DEFAULTS | {"texts": n}, house).folder for n in (5, 5, 6)]
    assert folders[0] == folders[1] != folders[2]


def test_the_output_root_of_the_environment_takes_everything_even_a_default_run(house, monkeypatch, tmp_path):
    monkeypatch.setenv("AEP_OUTPUT_ROOT", "elsewhere")  # counted from the repository, not from the working directory
    run = outputs.begin("02", dict(DEFAULTS), house)
    assert run.is_default
    assert run.figures.is_relative_to(house / "elsewhere") and run.folder.parent == house / "elsewhere"
    assert not (house / "data").exists()


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_runs(house, monkeypatch):
    """A read-only checkout: `access` says no (it is asked, because to root permissions never say no)."""
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(house)))
    with pytest.raises(
        ParameterError, match=r"cannot write to .* \(permissions or a read-only .*AEP_OUTPUT_ROOT=FOLDER"
    ):
        outputs.plan("02", DEFAULTS, house)
    monkeypatch.setenv("AEP_OUTPUT_ROOT", str(house.parent / "elsewhere"))
    assert outputs.plan("02", DEFAULTS, house).is_default


def test_a_file_in_the_place_of_the_folder_of_the_runs_is_refused(house):
    (house / "runs").write_text("")
    with pytest.raises(ParameterError, match=r"cannot write to '.*runs' \(it is not a folder\)"):
        outputs.begin("02", dict(DEFAULTS), house)


def test_values_that_papermill_hands_over_as_text_are_given_their_type_in_the_namespace(house):
    namespace = DEFAULTS | {"texts": "1e3", "tau": "0.5", "fast": "true", "models": 260}
    run = outputs.begin("02", namespace, house)
    assert run.parameters == {"texts": 1000, "tau": 0.5, "models": "260", "fast": True, "seed": 7}
    assert {name: namespace[name] for name in DEFAULTS} == run.parameters


def test_a_value_that_is_equal_after_coercion_is_the_default(house):
    assert outputs.begin("02", DEFAULTS | {"texts": "4", "fast": "yes"}, house).is_default


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("texts", "many", "an integer"),
        ("texts", 4.5, "an integer"),
        ("texts", True, "an integer"),
        ("texts", [4], "an integer"),
        ("tau", "nan", "a finite number"),
        ("tau", float("inf"), "a finite number"),
        ("fast", 3, "true or false"),
        ("models", ["a", "b"], "text"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_name_value_and_type(house, name, value, expected):
    with pytest.raises(ParameterError) as error:
        outputs.begin("02", DEFAULTS | {name: value}, house)
    for part in (repr(name), repr(value), expected):
        assert part in str(error.value)
    assert not (house / "runs").exists()


def test_an_unknown_notebook_and_a_missing_parameter_are_refused(house):
    with pytest.raises(ParameterError, match="unknown notebook '03'.*'02'"):
        outputs.begin("03", DEFAULTS, house)
    with pytest.raises(ParameterError, match="'seed'"):
        outputs.begin("02", {k: v for k, v in DEFAULTS.items() if k != "seed"}, house)


def test_a_table_is_written_with_ten_digits_and_returned_unchanged(house):
    run = outputs.begin("02", dict(DEFAULTS), house)
    table = pd.DataFrame({"model": ["a", "b"], "l": [1 / 3, float("nan")]})
    assert run.save(table, "02_final") is table
    assert (run.results / "02_final.csv").read_bytes() == b"model,l\na,0.3333333333\nb,\n"
    run.save(table.set_index("model"), "02_final")
    assert (run.results / "02_final.csv").read_bytes() == b"model,l\na,0.3333333333\nb,\n"
    assert [p.name for p in run.results.iterdir()] == ["02_final.csv"], "a temporary file was left"


@pytest.mark.parametrize(
    ("value", "label", "kept"),
    [(0.123456789, "a", True), (0.12345, "a", False), (0.123456780, "b", False), (float("nan"), "a", False)],
)
def test_a_table_stays_as_it_is_where_the_new_one_agrees_to_six_digits(house, value, label, kept):
    run = outputs.begin("02", dict(DEFAULTS), house)
    run.save(pd.DataFrame({"model": ["a"], "l": [0.123456780]}), "02_final")
    before = (run.results / "02_final.csv").read_bytes()
    run.save(pd.DataFrame({"model": [label], "l": [value]}), "02_final")
    assert ((run.results / "02_final.csv").read_bytes() == before) is kept


def test_counts_must_be_equal_and_a_missing_or_further_row_is_seen():
    assert texts_agree(b"n,x\n12,0.1\n", b"n,x\n12,0.1000000001\n")
    assert not texts_agree(b"n\n1000000000\n", b"n\n1000000001\n")
    assert not texts_agree(b"x\n0.1\n", b"x\n0.1\n0.2\n") and not texts_agree(b"x\n0.1\n0.2\n", b"x\n0.1\n")
    assert not texts_agree(b"x\n0.1\n", b"x\n\n"), "a number that has become missing"
    assert texts_agree(b"x\n1\n", b"x\n0.9999999999\n") and texts_agree(b"x\n0\n", b"x\n-1e-17\n")


@pytest.mark.parametrize(("shift", "kept"), [(1e-9, True), (0.05, False)])
def test_a_figure_stays_as_it_is_where_its_page_agrees(house, shift, kept):
    run = outputs.begin("02", dict(DEFAULTS), house)
    plotting.use_style()
    files = [run.figures / f"fig02a_line.{kind}" for kind in ("pdf", "png")]

    def draw(y: float) -> list[bytes]:
        fig, ax = plotting.figure()
        ax.plot([0.0, 1.0, 2.0], [0.0, 1 / 3 + y, 1.0])
        plotting.savefig(fig, run, "fig02a_line")
        return [f.read_bytes() for f in files]

    first = draw(0.0)
    assert draw(0.0) == first, "equal runs give equal bytes"
    assert (draw(shift) == first) is kept
    files[0].unlink()
    assert draw(shift)[0].startswith(b"%PDF")


@pytest.mark.parametrize("name", ["final", "03_final", "02", "02_a/b", "../02_a", "02_a.csv"])
def test_a_table_that_does_not_name_its_notebook_is_refused(house, name):
    run = outputs.begin("02", dict(DEFAULTS), house)
    with pytest.raises(ParameterError, match="table name"):
        run.save(pd.DataFrame({"x": [1]}), name)


def test_a_comma_separated_parameter_becomes_a_list(house):
    run = outputs.begin("02", dict(DEFAULTS), house)
    assert run.list("models") == ["a", "b"]
    with pytest.raises(ParameterError, match="unknown parameter 'model'.*'models'"):
        run.list("model")
    with pytest.raises(ParameterError, match="'models' has an empty entry: 'a,,b'"):
        outputs.begin("02", DEFAULTS | {"models": "a,,b"}, house).list("models")


def test_run_json_says_what_was_run_and_nothing_about_the_machine(house):
    run = outputs.begin("02", DEFAULTS | {"models": f"{house}/models/x,b"}, house)

    class Model:
        name, fingerprint = "x", "abc"

    run.add_models([Model])
    run.save(pd.DataFrame({"x": [1]}), "02_x")
    text = (run.folder / "run.json").read_text(encoding="utf-8")
    said = json.loads(text)
    assert said["parameters"]["models"] == "models/x,b"
    assert said["models"] == {"x": "abc"} and said["seeds"] == {"seed": 7}
    assert {"python", "numpy", "torch", "transformers"} <= set(said["versions"])
    assert said["wall_seconds"] >= 0 and said["started"].endswith("+00:00")
    import getpass
    import platform

    assert str(house) not in text
    for word in (platform.node(), getpass.getuser()):
        assert f'"{word}"' not in text and f"/{word}/" not in text


def test_run_json_names_the_commit_and_whether_files_differ_from_it(house):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", str(house), *identity, *arguments], check=True, capture_output=True, text=True
        )

    assert outputs.begin("02", dict(DEFAULTS), house).provenance()["git"] is None
    git("init", "-q")
    git("add", "notebooks")
    git("commit", "-qm", "x")
    said = outputs.begin("02", dict(DEFAULTS), house).provenance()["git"]
    assert said == {"commit": git("rev-parse", "HEAD").stdout.strip(), "dirty": False}
    (house / "notebooks" / "params" / "default.yaml").open("a").write("# more\n")
    assert outputs.begin("02", dict(DEFAULTS), house).provenance()["git"]["dirty"] is True


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "table.csv"
    outputs.write_atomically(target, "old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        outputs.write_atomically(target, "new")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("source", ["texts = 4 * 2", "texts: int", "import os", "print(4)"])
def test_a_parameter_cell_holds_literals_only(tmp_path, source):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "x.ipynb")
    with pytest.raises(ParameterError, match="not a typed literal"):
        outputs.declared(tmp_path / "x.ipynb")


def test_a_value_that_is_not_one_of_the_valid_ones_is_refused_with_the_nearest(house):
    run = outputs.plan("02", DEFAULTS | {"models": "docs-2m"}, house)
    run.require_one_of(tau=[0.5, 1.0], models=["docs-2m"])
    with pytest.raises(
        ParameterError, match="unknown models 'docs-2m': did you mean 'docs-3m'.* valid names are docs-3m"
    ):
        run.require_one_of(models=["docs-3m", "other"])


# ------------------------------------------------------------------------------------------------------ committed tables


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A repository with two tables in data/results, both with a row of data/README.md."""
    folder = tmp_path / "data" / "results"
    folder.mkdir(parents=True)
    for name in ("A1_losses", "A1_gains"):
        (folder / f"{name}.csv").write_text("document,x\na,1.5\nb,2.5\n")
    readme = tmp_path / "data" / "README.md"
    readme.write_text("# Data\n\n| file | what |\n|---|---|\n")
    data_table.update(tmp_path)
    sources = {"A1_losses": "`python -m aep.neural.training.losses`", "A1_gains": "notebook A1"}
    text = readme.read_text()
    for name, source in sources.items():
        text = text.replace(f"`results/{name}.csv` |  |  |", f"`results/{name}.csv` | a table | {source} |")
    readme.write_text(text)
    monkeypatch.setattr(outputs, "repository", lambda: tmp_path)
    return folder


def refusal(name: str) -> str:
    with pytest.raises(RecordError) as caught:
        outputs.committed(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_committed_table_is_read(tables):
    assert outputs.committed("A1_losses").x.tolist() == [1.5, 2.5]


def test_a_missing_table_is_refused_with_its_name_and_the_command_that_makes_it(tables):
    for path in tables.iterdir():
        path.unlink()
    assert refusal("A1_losses") == (
        "data/results/A1_losses.csv is missing: restore it from git, or run `python -m aep.neural.training.losses`"
    )
    assert refusal("A1_gains") == "data/results/A1_gains.csv is missing: restore it from git"


def test_a_table_that_nobody_knows_is_refused_with_the_nearest_names(tables):
    assert re.match(
        "unknown file of data/ 'results/A1_loses.csv': did you mean 'results/A1_losses.csv'", refusal("A1_loses")
    )


@pytest.mark.parametrize(
    "content", [b"", b"document,x\na,1.5\n", b"document,x\na,1.5\nb,2.6\n", b"\xff\xfe"],
    ids=["empty", "truncated", "altered", "not text"],
)  # fmt: skip
def test_a_table_that_differs_from_its_checksum_is_refused_until_it_is_entered_again(tables, content):
    (tables / "A1_losses.csv").write_bytes(content)
    assert refusal("A1_losses") == (
        "data/results/A1_losses.csv differs from data/README.md: restore it from git, or, if it was just measured, "
        "run `python -m aep.data_table`"
    )
    assert outputs.committed("A1_gains").x.sum() == 4


def test_a_freshly_measured_table_is_read_once_it_is_entered(tables):
    (tables / "A1_losses.csv").write_text("document,x\nc,7\n")
    data_table.update(tables.parents[1])
    assert outputs.committed("A1_losses").x.tolist() == [7]


def test_a_table_without_a_row_is_read_without_the_check_and_refused_if_it_is_no_table(tables):
    (tables / "A1_new.csv").write_text("x\n3\n")
    assert outputs.committed("A1_new").x.tolist() == [3]
    (tables / "A1_new.csv").write_bytes(b"")
    message = "data/results/A1_new.csv is not a table (No columns to parse from file): restore it from git"
    assert refusal("A1_new") == message
    (tables.parent / "README.md").unlink()
    assert len(outputs.committed("A1_losses")) == 2
