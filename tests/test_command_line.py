"""The command line: every mistake is one line that names the value, with exit code 2 and no traceback."""

import io
import subprocess
import sys

import pytest

import aep
from aep import __main__ as command_line
from aep.__main__ import main


def call(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time, there was a little girl named Lily.", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def house(tmp_path_factory, monkeypatch):
    """A repository with one notebook: `run` must refuse before it starts, whatever notebooks there are."""
    import nbformat

    from aep import outputs

    root = tmp_path_factory.mktemp("house")
    (root / "notebooks").mkdir()
    cell = nbformat.v4.new_code_cell("texts: int = 2\nseed: int = 7", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), root / "notebooks" / "02_self_aep.ipynb")
    outputs.write_defaults(root)
    monkeypatch.setattr(outputs, "repository", lambda: root)
    return root


MISTAKES = [
    ([], "COMMAND"),
    (["rnu"], "unknown COMMAND 'rnu': did you mean 'run'"),
    (["run"], "NOTEBOOK"),
    (["run", "all", "--profle", "paper"], "'--profle': did you mean --profile"),
    (["run", "ninety"], "unknown notebook 'ninety'"),
    (["run", "all", "-p", "texts"], "-p"),
    (["run", "all", "-p", "nonsense", "1"], "unknown parameter 'nonsense'"),
    (["run", "all", "-p", "seed", "1", "-p", "seed", "2"], "'seed' is given twice"),
    (["run", "all", "-p", "seed", "one"], "'seed' must be an integer"),
    (["run", "all", "--profile", "papper"], "unknown profile 'papper'"),
    (["run", "all", "-f", "no_such.yaml"], "No such file or directory: 'no_such.yaml'"),
    (["run", "all", "--in-place", "-p", "seed", "1"], "--in-place"),
    (["score", "docs-400k", "no_such.txt"], "No such file or directory: 'no_such.txt'"),
    (["score", "docs-400k", "{empty}"], "empty.txt is empty"),
    (["score", "docs-400k", "{latin}"], "latin.txt is not UTF-8"),
    (["score", "docs-400k", "{text}", "--dtype", "float12"], "unknown dtype 'float12': did you mean 'float32'"),
    (["score", "docs-400k", "{text}", "--context", "whole"], "unknown context 'whole'"),
    (["score", "docs-400k", "{text}", "--device", "tpu"], "unknown device 'tpu'"),
    (["score", "docs-400k", "{text}", "-o", "{folder}"], "is a folder"),
    (["score", "docs-400k", "{text}", "-o", "{folder}/no/t.parquet"], "does not exist"),
    (["score", "{folder}", "{text}"], "has no config.json"),
    (["sample", "docs-400k", "--texts", "few"], "'few'"),
    (["sample", "docs-400k", "--adaptor", "temperature(0)"], "temperature(0"),
    (["sample", "docs-400k", "--adaptor", "nucleus(1.5)"], "nucleus(1.5)"),
    (["sample", "docs-400k", "--adaptor", "top_k(0)"], "top_k(0"),
    (["sample", "docs-400k", "--adaptor", "top_kk(5)"], "'top_kk': did you mean 'top_k'"),
    (["train", "docs-40k"], "'docs-40k': did you mean 'docs-400k'"),
    (["corpus"], "--check"),
    (["bench", "toy_vs_legcy"], "unknown benchmark row 'toy_vs_legcy': did you mean 'toy_vs_legacy'"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_mistake_is_one_line_with_the_value_and_exit_code_2(capsys, tmp_path, house, text, arguments, expected):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes("Gödel".encode("latin-1"))
    names = {"text": text, "empty": tmp_path / "empty.txt", "latin": tmp_path / "latin.txt", "folder": tmp_path}
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(capsys, *(a.format(**names) for a in arguments))
    assert code == 2
    assert err.startswith("aep: ") and err.count("\n") == 1
    assert expected in err
    assert "Traceback" not in out + err
    assert sorted(tmp_path.rglob("*")) == before and not (house / "runs").exists()


def test_a_misspelt_model_is_refused_with_the_embedded_names(capsys, tmp_path, text, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = call(capsys, "score", "docs-40k", text, "-o", tmp_path / "t.parquet")
    assert code == 2 and err.count("\n") == 1 and "'docs-40k'" in err and "embedded" in err


def test_an_interrupt_is_one_line_and_exit_code_130(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(aep, "models", interrupted)
    code, _, err = call(capsys, "models")
    assert code == 130 and err == "aep: interrupted; what was finished is kept\n"


def test_help_is_immediate_and_names_every_command():
    code = "import sys; sys.argv = ['aep', '--help']; import runpy, atexit\n"
    code += "atexit.register(lambda: print(sorted({'torch', 'pandas', 'numpy', 'papermill'} & set(sys.modules))))\n"
    code += "runpy.run_module('aep', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("[]\n"), "help imports a heavy package"
    for command in ("run", "score", "sample", "models", "store", "train", "corpus", "bench"):
        assert f"\n    {command} " in done.stdout


def test_the_module_ends_with_the_exit_code():
    done = subprocess.run([sys.executable, "-m", "aep", "rnu"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("aep: ")


def test_run_hands_names_parameters_and_files_to_the_runner(monkeypatch):
    seen = {}

    def run(names, parameters, profile, file, *, in_place):
        seen.update(names=names, parameters=parameters, profile=profile, file=file, in_place=in_place)
        return 1

    monkeypatch.setattr("aep.runner.run", run)
    assert main(["run", "02", "03", "-p", "texts", "-1", "-p", "models", "a,b", "--profile", "paper"]) == 1
    assert seen == {
        "names": ["02", "03"],
        "parameters": {"texts": "-1", "models": "a,b"},
        "profile": "paper",
        "file": None,
        "in_place": False,
    }


def test_the_store_says_its_place_and_size_and_prunes_only_what_is_its_own(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("AEP_HOME", str(tmp_path))
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "x.json").write_bytes(b"0" * 2_000_000)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("not ours")
    code, out, _ = call(capsys, "store")
    assert code == 0 and out == f"{tmp_path}: 1 files, 2.0 MB\n  probes: 1 files, 2.0 MB\n"
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = call(capsys, "store", "--prune")
    assert code == 2 and "--yes" in err and (tmp_path / "probes" / "x.json").exists()
    code, out, _ = call(capsys, "store", "--prune", "--yes")
    assert code == 0 and "2.0 MB freed" in out
    assert [p.name for p in tmp_path.rglob("*")] == ["letters", "mine.txt"]


def test_sample_and_score_work_on_a_folder_of_a_real_model(capsys, tmp_path, text, stories260k):
    import pandas as pd

    drawn = tmp_path / "texts.parquet"
    code, out, _ = call(
        capsys, "sample", stories260k, "--texts", 2, "--tokens", 20, "--adaptor", "top_k(1)", "-o", drawn
    )
    assert code == 0 and drawn.is_file()
    assert out.startswith("Once upon a time, there was a little girl named Lily.")
    scored = tmp_path / "tokens.parquet"
    code, out, _ = call(capsys, "score", stories260k, text, "-o", scored)
    assert code == 0 and "context full" in out
    table = pd.read_parquet(scored)
    assert {"text", "position", "token", "surprisal", "entropy", "varentropy", "rank"} <= set(table.columns)
    assert (table["surprisal"] > 0).all() and len(table) > 10


def test_a_text_beyond_the_context_length_is_one_line(capsys, tmp_path, stories260k):
    (tmp_path / "long.txt").write_text("once upon a time " * 1000)
    arguments = ("score", stories260k, tmp_path / "long.txt", "--context", "full", "-o", tmp_path / "t.parquet")
    code, _, err = call(capsys, *arguments)
    assert code == 2 and err.count("\n") == 1 and "context" in err and not (tmp_path / "t.parquet").exists()


def test_training_and_corpus_are_handed_on(capsys, monkeypatch):
    from aep.neural.training import corpus

    monkeypatch.setattr("aep.neural.training.train.train", lambda name: print(f"training {name}"))
    assert call(capsys, "train", "docs-400k")[:2] == (0, "training docs-400k\n")
    report = corpus.CorpusCheck(listed=2, identical=1, missing=("numpy:x",), changed=(), versions={})
    monkeypatch.setattr("aep.neural.training.corpus.check", lambda: report)
    code, out, _ = call(capsys, "corpus", "--check")
    assert code == 1 and "numpy:x" in out
    monkeypatch.setattr("aep.neural.training.corpus.check", lambda: report._replace(missing=(), identical=2))
    assert call(capsys, "corpus", "--check")[0] == 0


def test_no_command_catches_more_than_the_mistakes_of_a_user(monkeypatch):
    def broken(_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(command_line, "_models", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["models"])
