"""The notebook runner on a small repository of its own: what it refuses, writes, keeps, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from aep import outputs, runner
from aep.errors import ParameterError

PARAMETERS = "texts: int = 2  # number of texts\nmodels: str = 'a, b'\nseed: int = 7"
WRITE = "run.save(pd.DataFrame({'texts': [texts], 'models': [models]}), f'{run.notebook}_x')\nprint(texts)"
BODIES = {
    "01_toy": WRITE,
    "02_self_aep": WRITE + "\ntemperature",
    "03_broken": "raise ValueError('the log-probabilities of row 3\\n sum to 1.2')",
    "04_slow": "import time\nopen_ended = [time.sleep(.1) for _ in range(600)]",
}


def notebook(root, stem, body, parameters):
    """A notebook in the form of the committed ones, that writes below `root`."""
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    number = stem.partition("_")[0]
    cells = [
        text("# a claim"),
        code("from pathlib import Path\nimport pandas as pd\nfrom aep.outputs import begin"),
        code(parameters, metadata={"tags": ["parameters"]}),
        code(f"run = begin({number!r}, globals(), Path({str(root)!r}))"),
        code(body),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / f"{stem}.ipynb")


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.delenv("AEP_OUTPUT_ROOT")
    (tmp_path / "notebooks").mkdir()
    for stem, body in BODIES.items():
        notebook(tmp_path, stem, body, PARAMETERS + ("\ntemperature: float = 1.0" if stem == "02_self_aep" else ""))
    outputs.write_defaults(tmp_path)
    return tmp_path


def run_folder(house, stem):
    (folder,) = (house / "runs").glob(f"{stem}-*")
    return folder


@pytest.mark.parametrize("name", ["02", "2", "02_self_aep", "02_self_aep.ipynb", "notebooks/02_self_aep.ipynb"])
def test_a_notebook_is_found_by_number_name_and_file(house, name):
    assert runner.resolve([name], house) == ["02"]


def test_all_means_every_notebook_once_in_order(house):
    assert runner.resolve(["03", "all", "1"], house) == ["03", "01", "02", "04"]


@pytest.mark.parametrize("name", ["02_self_app", "5", "notebooks", "alle"])
def test_an_unknown_notebook_is_refused_with_its_name_and_the_valid_ones(house, name):
    with pytest.raises(ParameterError, match=f"unknown notebook {name!r}.*02_self_aep.*all"):
        runner.resolve(["01", name], house)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"text": "3"}, "unknown parameter 'text': did you mean 'texts'"),
        ({"texts": "three"}, "'texts' must be an integer.*'three'"),
        ({"temperature": "hot"}, "'temperature' must be a finite number.*'hot'"),
        ({"seed": "[1"}, r"'seed' must be an integer.*'\[1'"),
    ],
)
def test_a_bad_parameter_is_refused_before_anything_starts(house, parameters, message):
    with pytest.raises(ParameterError, match=message):
        runner.run(["01", "02"], parameters, root=house)
    assert not (house / "runs").exists()


def test_a_parameter_goes_to_the_notebooks_that_have_it_and_must_belong_to_one(house):
    one, two = runner.plans(["01", "02"], {"temperature": "0.5", "texts": "1e1", "models": "8"}, root=house)
    assert one.parameters == {"texts": 10, "models": "8", "seed": 7}
    assert two.parameters == one.parameters | {"temperature": 0.5}
    with pytest.raises(ParameterError, match="unknown parameter 'temperature'"):
        runner.plans(["01"], {"temperature": "0.5"}, root=house)


def test_single_parameters_overrule_the_file_and_the_file_overrules_the_profile(house, tmp_path):
    (house / "notebooks" / "params" / "paper.yaml").write_text(
        "'01': {texts: 100, seed: 1}\n'02': {texts: 583, seed: 2}\n"
    )
    file = tmp_path / "mine.yaml"
    file.write_text("02:\n  seed: 3\n  models: c\n")
    (planned,) = runner.plans(["02"], {"models": "d"}, "paper", file, house)
    assert planned.parameters == {"texts": 583, "models": "d", "seed": 3, "temperature": 1.0}
    file.write_text("texts: 5\n")
    assert [p.parameters["texts"] for p in runner.plans(["01", "02"], {}, None, file, house)] == [5, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("02: {text: 5}", "section '2'|section 2|unknown parameter 'text': did you mean 'texts'"),
        ("'02': {text: 5}", "unknown parameter 'text': did you mean 'texts'"),
        ("'09': {texts: 5}", "unknown notebook '09'"),
        ("- 1\n- 2", r"must map parameter names to values, it holds \[1, 2\]"),
        ("texts: [", "is not YAML"),
    ],
)
def test_a_bad_parameter_file_is_refused(house, tmp_path, content, message):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ParameterError, match=message):
        runner.plans(["02"], {}, None, tmp_path / "bad.yaml", house)


def test_an_unknown_profile_and_a_missing_file_are_refused(house, tmp_path):
    with pytest.raises(ParameterError, match="unknown profile 'papers'.*default"):
        runner.plans(["02"], {}, "papers", None, house)
    with pytest.raises(FileNotFoundError):
        runner.plans(["02"], {}, None, tmp_path / "none.yaml", house)


def test_a_failed_notebook_is_kept_and_the_others_go_on(house, capsys):
    assert runner.run(["03", "01"], {"texts": "3"}, root=house) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "03_broken failed, cell 5: ValueError: the log-probabilities of row 3 sum to 1.2" in err
    assert "01_toy: done" in out and "failed: 03_broken" in out
    kept = run_folder(house, "03_broken")
    assert (kept / "03_broken.failed.ipynb").is_file() and not (kept / "notebook.ipynb").exists()
    assert json.loads((kept / "run.json").read_text())["status"] == "failed"
    done = run_folder(house, "01_toy")
    assert (done / "results" / "01_x.csv").read_text() == 'texts,models\n3,"a, b"\n'
    said = json.loads((done / "run.json").read_text())
    assert said["status"] == "finished" and said["wall_seconds"] > 0 and said["parameters"]["texts"] == 3
    text = (done / "notebook.ipynb").read_text()
    assert "papermill" not in text and "start_time" not in text
    assert not (house / "data").exists() and not (house / "figures").exists()
    assert "TQDM_DISABLE" not in os.environ or os.environ["TQDM_DISABLE"] == "1"


def test_a_notebook_that_refuses_a_value_is_a_mistake_of_the_user(house, capsys):
    refuse = "from aep.errors import PromptError\nraise PromptError(\"'Alice' is not a word of tales\")"
    notebook(house, "03_broken", refuse, PARAMETERS)
    assert runner.run(["03"], {}, root=house) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "03_broken failed, cell 4: PromptError: 'Alice' is not a word of tales" in err
    notebook(house, "01_toy", "raise OSError('disk')", PARAMETERS)
    assert runner.run(["01", "03"], {}, root=house) == 1, "one of them failed otherwise"


def test_a_default_run_writes_to_the_repository_and_its_provenance_below_runs(house):
    assert runner.run(["01"], {}, root=house) == 0
    assert (house / "data" / "results" / "01_x.csv").is_file() and (house / "figures").is_dir()
    assert sorted(p.name for p in run_folder(house, "01_toy").iterdir()) == ["notebook.ipynb", "run.json"]


def test_plain_papermill_obeys_the_same_output_rule(house):
    import papermill

    papermill.execute_notebook(
        *(house / "notebooks" / "01_toy.ipynb", house / "out.ipynb", {"texts": 3}),
        kernel_name="python3",
        language="python",
        progress_bar=False,
    )
    assert (run_folder(house, "01_toy") / "results" / "01_x.csv").is_file()
    assert not (house / "data").exists()


def test_in_place_execution_is_byte_identical_the_second_time_and_clean(house):
    path = house / "notebooks" / "02_self_aep.ipynb"
    assert runner.run(["02"], in_place=True, root=house) == 0
    first = path.read_bytes()
    assert runner.run(["02"], in_place=True, root=house) == 0
    assert path.read_bytes() == first
    assert [c.execution_count for c in nbformat.read(path, 4).cells if c.cell_type == "code"] == [1, 2, 3, 4]
    pytest.importorskip("nbstripout", reason="nbstripout comes with the extra [dev]")
    keys = "metadata.papermill metadata.language_info.version cell.metadata.papermill cell.metadata.execution"
    command = [sys.executable, "-m", "nbstripout", "--keep-output", "--keep-count", "--extra-keys", keys]
    subprocess.run([*command, str(path)], check=True)
    assert path.read_bytes() == first


def test_in_place_takes_new_defaults_from_the_notebook_and_refuses_parameters(house):
    with pytest.raises(ParameterError, match="--in-place"):
        runner.run(["01"], {"texts": "3"}, in_place=True, root=house)
    notebook(house, "01_toy", WRITE, PARAMETERS.replace("= 2", "= 5"))
    assert runner.run(["01"], in_place=True, root=house) == 0
    assert outputs.defaults("01", house)["texts"] == 5
    assert (house / "data" / "results" / "01_x.csv").is_file()


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_an_interrupt_keeps_finished_notebooks_and_ends_with_130_and_one_line(house):
    code = (
        f"import sys, pathlib; from aep import runner; "
        f"sys.exit(runner.run(['01', '04'], {{'texts': '3'}}, root=pathlib.Path({str(house)!r})))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # background jobs inherit it ignored
    )
    deadline = time.monotonic() + 60
    while not list((house / "runs").glob("04_slow-*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    kept = "finished notebooks are kept, and the same command runs all of its notebooks again"
    assert err.strip() == f"aep: interrupted in 04_slow; {kept}"
    assert (run_folder(house, "01_toy") / "notebook.ipynb").is_file()
    assert json.loads((run_folder(house, "04_slow") / "run.json").read_text())["status"] == "interrupted"


def test_a_kernel_that_dies_is_a_failed_notebook(house, capsys):
    notebook(house, "03_broken", "import os\nos._exit(3)", PARAMETERS)
    assert runner.run(["03"], {}, root=house) == 1
    assert "03_broken failed, the kernel stopped: DeadKernelError" in capsys.readouterr().err
