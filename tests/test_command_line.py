"""The command line: every mistake is one line that names the value, with exit code 2 and no traceback."""

import io
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import aep
from aep import __main__ as command_line
from aep import _commands
from aep.__main__ import main
from tiny_models import WINDOW, one_thread, save_model, tiny  # noqa: F401


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
    (["score", "docs-400k", "no_such.txt"], "no such file 'no_such.txt'"),
    (["score", "docs-400k", "{folder}/txet.txt"], "text.txt'"),
    (["score", "docs-400k", "{folder}/no/t.txt"], "/no' does not exist"),
    (["score", "docs-400k", "{folder}"], "is a folder; give a text file"),
    (["score", "docs-400k", "{empty}"], "empty.txt is empty"),
    (["score", "docs-400k", "{latin}"], "latin.txt is not UTF-8 text: byte 0xf6 at position 1 "),
    (["score", "docs-400k", "{wide}"], "it begins like UTF-16"),
    (["score", "docs-400k", "{nul}"], "nul.txt holds a NUL byte at position 5"),
    (["score", "docs-400k", "{text}", "-o", "{text}"], "is the text itself"),
    (["score", "docs-400k", "{text}", "-o", os.devnull], "is no ordinary file"),
    (["score", "docs-400k", "{text}", "-o", "{folder}/" + "x" * 250], "cannot be written: File name too long"),
    (["score", "docs-400k", "{text}", "--adaptor", "top_kk(5)"], "'top_kk': did you mean 'top_k'"),
    (["score", "docs-400k", "{text}", "--bos", "onec"], "unknown bos 'onec': did you mean 'once'"),
    (["score", "docs-400k", "{text}", "--overlap", "9"], "--overlap 9 belongs to windows: say --context strided"),
    (["score", "docs-400k", "{text}", "--dtype", "float12"], "unknown dtype 'float12': did you mean 'float32'"),
    (["score", "docs-400k", "{text}", "--context", "whole"], "unknown context 'whole'"),
    (["score", "docs-400k", "{text}", "--device", "tpu"], "unknown device 'tpu'"),
    (["score", "docs-400k", "{text}", "-o", "{folder}"], "is a folder"),
    (["score", "docs-400k", "{text}", "-o", "{folder}/no/t.parquet"], "does not exist"),
    (["score", "{folder}", "{text}"], "has no config.json"),
    (["sample", "docs-400k", "--texts", "few"], "'few'"),
    (["sample", "docs-400k", "--texts", "0"], "texts=0"),
    (["sample", "docs-400k", "--tokens", "99999"], "ask for at most 32768 tokens"),
    (["sample", "docs-400k", "--prompt", ""], "--prompt is empty"),
    (["sample", "docs-400k", "--stop", "eso"], "unknown stop 'eso': did you mean 'eos'"),
    (["sample", "docs-400k", "-o", "{folder}"], "is a folder"),
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
    (tmp_path / "wide.txt").write_bytes("Gödel".encode("utf-16"))
    (tmp_path / "nul.txt").write_bytes(b"Gauss\0")
    names = {"text": text, "folder": tmp_path} | {n: tmp_path / f"{n}.txt" for n in ("empty", "latin", "wide", "nul")}
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
    assert code == 130 and err == "aep: interrupted; the same command goes on or begins again\n"


def test_help_is_immediate_and_names_every_command():
    code = "import sys; sys.argv = ['aep', '--help']; import runpy, atexit\n"
    code += "atexit.register(lambda: print(sorted({'torch', 'pandas', 'numpy', 'papermill'} & set(sys.modules))))\n"
    code += "runpy.run_module('aep', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("[]\n"), "help imports a heavy package"
    for command in ("run", "score", "sample", "models", "store", "train", "corpus", "bench"):
        assert f"\n    {command} " in done.stdout


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"AEP_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "aep", "store"], stdout=write, stderr=subprocess.PIPE, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_names_with_spaces_and_foreign_letters_in_the_plainest_locale(tmp_path):
    """LANG=C: Python then takes UTF-8 by itself, and what this package reads and writes must not depend on it."""
    folder = tmp_path / "mit Leer zeichen und Ümläut"
    folder.mkdir()
    (folder / "t é.txt").write_text("σ of a naïve estimate", encoding="utf-8")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment = plain | {
        "LANG": "C",
        "AEP_HOME": str(folder / "home"),
        "PYTHONPATH": str(Path(aep.__file__).parents[1]),
    }
    arguments = ["score", "docs-100k", "t é.txt", "-o", "r é.parquet"]
    command = [sys.executable, "-m", "aep", *arguments]
    done = subprocess.run(command, capture_output=True, cwd=folder, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "written to r é.parquet" in done.stdout.decode("utf-8")
    assert (folder / "r é.parquet").is_file()


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
    assert code == 0 and "context full: " in out
    table = pd.read_parquet(scored)
    assert {"text", "position", "token", "surprisal", "entropy", "varentropy", "rank"} <= set(table.columns)
    assert (table["surprisal"] > 0).all() and len(table) > 10


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folders of tiny networks with random weights, whose vocabulary is the letters a...t."""
    kinds = ("mistral", "llama")
    return {kind: save_model(tmp_path_factory.mktemp("networks") / kind, kind) for kind in kinds}


def letters(folder, n: int):
    """A file of `n` letters."""
    path = folder / f"letters{n}.txt"
    path.write_text("".join(np.random.default_rng(0).choice(list("abcdefghijklmnopqrst"), n)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "length", "chosen"), [("mistral", 40, "full"), ("mistral", 300, "rolling"), ("llama", 300, "strided")]
)
def test_the_context_is_chosen_by_length_and_attention_printed_and_recorded(
    capsys, tmp_path, networks, kind, length, chosen
):
    file, output = letters(tmp_path, length), tmp_path / "t.parquet"
    code, out, _ = call(capsys, "score", networks[kind], file, "-o", output)
    assert code == 0 and out.startswith(f"context {chosen}: {length} tokens ") and out.count(f"context {chosen}") == 2
    records = aep.Records.from_parquet(output)
    assert records.meta["context"] == chosen and len(records) == length
    assert records.meta["file"]["name"] == file.name and records.meta["file"]["bytes"] == length
    language = aep.load(networks[kind])
    direct = aep.score(file.read_text(), language, context=chosen)
    for name, column in direct.columns.items():
        np.testing.assert_allclose(records[name], column, rtol=1e-6, atol=1e-6, err_msg=name)


def test_every_option_of_score_reaches_the_record(capsys, tmp_path, networks):
    options = ("--context", "strided", "--overlap", 7, "--bos", "every", "--dtype", "bfloat16", "--device", "cpu")
    adaptors = ("--adaptor", "top_k(5)", "--adaptor", "temperature(.8)|top_k(3)", "--adaptor", "top_k(5)")
    output = tmp_path / "t.parquet"
    code, out, _ = call(capsys, "score", networks["llama"], letters(tmp_path, 300), *options, *adaptors, "-o", output)
    assert code == 0 and "context strided: as asked for" in out and "(bfloat16)" in out
    records = aep.Records.from_parquet(output)
    wanted = {"context": "strided", "overlap": 7, "bos": "every", "dtype": "bfloat16"}
    assert wanted.items() <= records.meta.items()
    assert records.meta["adaptors"] == ["top_k(5)", "temperature(0.8)|top_k(3)"]
    assert {"log_q_top_k(5)", "log_q_temperature(0.8)|top_k(3)"} <= set(records.columns)
    code, _, _ = call(capsys, "score", networks["llama"], letters(tmp_path, 50), "--bos", "never", "-o", output)
    assert code == 0 and len(aep.Records.from_parquet(output)) == 49


def test_the_summary_says_what_the_record_holds(capsys, tmp_path, text):
    output = tmp_path / "t.parquet"
    code, out, _ = call(capsys, "score", "docs-400k", text, "--bos", "never", "-o", output)
    r = aep.Records.from_parquet(output)
    assert code == 0 and f"{len(r)} tokens of {text} under docs-400k (float64), context full" in out
    assert f"l = {r['surprisal'].mean():.4f}, entropy h = {r['entropy'].mean():.4f}" in out
    assert f"sigma = {np.sqrt(r['varentropy'].sum()) / len(r):.4f} nats per token; z = none" in out
    size = len(text.read_bytes())
    bits = r["surprisal"].sum() / math.log(2) / size
    assert f"l = {bits:.4f} bits per byte of {size} bytes (the first token is context, not scored)" in out
    assert out.endswith(f"written to {output}\n")
    long = tmp_path / "long.txt"
    long.write_text("Returns the mean of an array along an axis.\n" * 40, encoding="utf-8")
    code, out, _ = call(capsys, "score", "docs-400k", long, "-o", output)
    r = aep.Records.from_parquet(output)
    z = (r["surprisal"] - r["entropy"]).sum() / np.sqrt(r["varentropy"].sum())
    assert math.isclose(float(re.search(r"z = (\S+)", out)[1]), z, abs_tol=0.006)


def test_line_ends_are_scored_as_they_are(capsys, tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"one\r\ntwo\r\n")
    code, out, _ = call(capsys, "score", "docs-400k", tmp_path / "dos.txt", "-o", tmp_path / "t.parquet")
    tokens = aep.Records.from_parquet(tmp_path / "t.parquet")["token"]
    assert code == 0 and aep.load("docs-400k").decode(tokens) == "one\r\ntwo\r\n" and "of 10 bytes" in out


def test_a_tokenizer_that_loses_the_text_has_no_bits_per_byte(capsys, tmp_path, networks):
    (tmp_path / "t.txt").write_text("abcxyz")  # x, y and z are unknown to it
    code, out, _ = call(capsys, "score", networks["llama"], tmp_path / "t.txt", "-o", tmp_path / "t.parquet")
    assert code == 0 and "bits per byte: none" in out


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        (
            "llama",
            ("--context", "full"),
            "has a context of 96: context='full' needs shorter texts; 'strided' takes any",
        ),
        ("mistral", ("--context", "full"), "'rolling' takes any length"),
        ("llama", ("--context", "rolling"), "layers without a sliding window"),
        ("llama", ("--context", "strided", "--overlap", "96"), "overlap=96: from 1 to 95"),
    ],
)
def test_a_context_that_the_text_or_the_model_does_not_allow_is_one_line(
    capsys, tmp_path, networks, kind, arguments, expected
):
    code, out, err = call(
        capsys, "score", networks[kind], letters(tmp_path, 300), *arguments, "-o", tmp_path / "t.parquet"
    )
    assert code == 2 and err.count("\n") == 1 and expected in err and out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["letters300.txt"]


@pytest.mark.parametrize("command", ["score", "sample"])
def test_weights_that_are_not_numbers_are_one_line_with_the_model(capsys, tmp_path, command):
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "broken", "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    what = [letters(tmp_path, 40)] if command == "score" else ["--tokens", 5]
    code, _, err = call(capsys, command, folder, *what, "-o", tmp_path / "t.parquet")
    assert code == 2 and err.count("\n") == 1 and "model 'broken': " in err and "weights are damaged" in err
    assert not (tmp_path / "t.parquet").exists()


def test_every_option_of_sample_reaches_the_texts(capsys, tmp_path, networks):
    output = tmp_path / "t.parquet"
    options = ("--texts", 3, "--tokens", 30, "--seed", 5, "--adaptor", "top_k(9)", "--prompt", "abc", "--stop", "eos")
    code, out, _ = call(capsys, "sample", networks["mistral"], *options, "--dtype", "float32", "-o", output)
    language = aep.load(networks["mistral"], dtype="float32")
    drawn = aep.sample(language, "abc", texts=3, tokens=30, seed=5, adaptor=aep.top_k(9), stop="eos")
    texts = aep.Texts.from_parquet(output)
    assert code == 0 and [a.tolist() for a in texts.ids] == [a.tolist() for a in drawn.ids]
    assert texts.sampler["adaptor"] == "top_k(9)" and texts.sampler["dtype"] == "float32"
    assert f"3 texts, {sum(map(len, drawn.ids))} tokens from mistral (float32), top_k(9), seed 5, stop eos" in out
    surprisal = aep.score(drawn, language)["surprisal"]
    assert f"l = {surprisal.mean():.4f}" in out and "(of mistral without the adaptor)" in out


def test_control_characters_of_a_sampled_text_do_not_reach_the_terminal(capsys, tmp_path, networks, monkeypatch):
    monkeypatch.setattr(aep.Texts, "decode", lambda self, text: "a\x1b[2Jb\n" + "x" * 2000)
    code, out, _ = call(capsys, "sample", networks["llama"], "--tokens", 5, "-o", tmp_path / "t.parquet")
    assert code == 0 and "\x1b" not in out and "a\\x1b[2Jb\n" in out and "the first 1000 of 2007 characters" in out


@pytest.mark.parametrize("command", ["score", "sample"])
def test_a_long_run_is_announced_with_time_and_memory_before_it_starts(
    capsys, tmp_path, networks, monkeypatch, command
):
    what = [letters(tmp_path, 3000)] if command == "score" else ["--tokens", 90]
    assert "estimate" not in call(capsys, command, networks["mistral"], *what, "-o", tmp_path / "t.parquet")[1]
    monkeypatch.setattr(_commands, "_LONG", 0.0)
    out = call(capsys, command, networks["mistral"], *what, "-o", tmp_path / "t.parquet")[1]
    line = r"estimate: about \d+ s \(extrapolated from \d+ tokens\) and \d+ MB of memory \(weights \d+, logits"
    assert len(re.findall(line, out)) == 1
    assert out.index("estimate") < out.index("written to")


def test_the_time_of_a_long_run_is_extrapolated_from_a_part_of_it():
    done = []

    def work(n):
        done.append(n)
        time.sleep(0.002 * n)

    seconds, measured = _commands._extrapolated(work, 4000, (4, 4, 16, 64, 1024))
    assert 7 < seconds < 30 and measured == 64 and done == [4, 4, 16, 64]  # 1024 is more than a sixth
    assert _commands._extrapolated(work, 20, (4, 4)) == (0.0, 0), "no estimate for work too short to measure"
    done.clear()
    _commands._extrapolated(lambda n: done.append(n), 10**6, (8, 8, 32, 256))
    assert done == [8, 8], "clearly short work is not measured any further"


@pytest.mark.parametrize(("kind", "keys"), [("mistral", 4096 + WINDOW), ("llama", 96)])
def test_memory_is_counted_from_what_is_held(tiny, kind, keys):  # noqa: F811
    language = tiny(kind)
    context = "rolling" if kind == "mistral" else "strided"
    held = _commands._scoring(language, context, 10**6)
    assert held.keys == keys and held.flowing == 4096
    memory = _commands._memory(language, held, adaptors=1)
    assert memory["weights"] == sum(t.numel() * 8 for t in language.model.parameters()) + sum(
        t.numel() * t.element_size() for t in language.model.buffers()
    )
    assert memory["logits"] == 1024 * 23 * 8
    assert memory["cache"] == 2 * 2 * 1 * 8 * 8 * held.positions  # keys and values, layers, heads, width, bytes
    assert memory["columns"] == 10**6 * 18 * 8


def test_memory_that_runs_out_is_one_line_and_other_failures_are_not_hidden(capsys, tmp_path, networks, monkeypatch):
    def fails(message):
        def score(*args, **kwargs):
            raise RuntimeError(message)

        monkeypatch.setattr(aep, "score", score)
        return call(capsys, "score", networks["llama"], letters(tmp_path, 50), "-o", tmp_path / "t.parquet")

    code, _, err = fails("CUDA out of memory. Tried to allocate 2 GiB\nmore lines")
    assert code == 2 and err.count("\n") == 1 and "out of memory on cpu: CUDA out of memory" in err
    with pytest.raises(RuntimeError, match="a bug"):
        fails("a bug")


def test_a_link_is_written_through(capsys, tmp_path, networks):
    target = tmp_path / "target.parquet"
    (tmp_path / "link.parquet").symlink_to(target)
    code, _, _ = call(capsys, "score", networks["llama"], letters(tmp_path, 50), "-o", tmp_path / "link.parquet")
    assert code == 0 and (tmp_path / "link.parquet").is_symlink() and len(aep.Records.from_parquet(target)) == 50


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal that a process can send to another")
def test_an_interrupted_run_ends_within_seconds_in_one_line_and_leaves_no_file(tmp_path):
    (tmp_path / "t.txt").write_text("The mean of an array along an axis. " * 20_000)
    command = [sys.executable, "-m", "aep", "score", "docs-400k", "t.txt", "-o", "t.parquet"]
    # A shell's background job ignores the signal, and so would its children.
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout.readline().startswith("context rolling: ")
    assert child.stdout.readline().startswith("estimate: about ")
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    sent = time.perf_counter()
    line = child.stderr.readline()
    assert time.perf_counter() - sent < 4  # within a second on an idle machine; Python's own end takes as long again
    out, err = child.communicate(timeout=60)
    kept = "no half-written file is left, and the same command begins again"
    assert child.returncode == 130 and line == f"aep: interrupted; {kept}\n" and out + err == ""
    assert [p.name for p in tmp_path.iterdir()] == ["t.txt"]


_FULL = """
import resource, sys
from aep.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("command", ["score", "sample"])
def test_a_disk_that_is_full_at_the_end_is_one_line_and_leaves_nothing(tmp_path, networks, command):
    file = letters(tmp_path, 50)
    what = [str(file)] if command == "score" else ["--tokens", "90"]
    arguments = [sys.executable, "-c", _FULL, command, str(networks["llama"]), *what, "-o", str(tmp_path / "t.parquet")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("aep: cannot write ") and done.stderr.count("\n") == 1
    assert "too large" in done.stderr and "written to" not in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


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


def test_an_interrupted_sample_goes_on_from_the_store_unless_told_not_to(tmp_path, monkeypatch, networks):
    home, stores = tmp_path / "home", []
    monkeypatch.setenv("AEP_HOME", str(home))
    drawn = aep.sample
    monkeypatch.setattr(aep, "sample", lambda *a, store=None, **k: stores.append(store) or drawn(*a, store=store, **k))
    ask = ["sample", str(networks["mistral"]), "--texts", "2", "--tokens", "5", "-o", str(tmp_path / "t.parquet")]
    assert main([*ask, "--no-store"]) == 0 and not home.exists()
    assert main(ask) == 0 and list(home.rglob("*.parquet")) and stores[-1] is True


def test_more_than_the_machine_can_hold_is_refused_before_it_starts(capsys, tmp_path, networks):
    ask = [
        "sample",
        str(networks["mistral"]),
        "--texts",
        str(10**11),
        "--tokens",
        "5",
        "-o",
        str(tmp_path / "t.parquet"),
    ]
    assert main(ask) == 2
    assert "GB, and this machine has" in capsys.readouterr().err
