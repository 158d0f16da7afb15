"""The table of mistakes: what a user can get wrong, and the one line that names the value and says what to do.

First the command line, which ends with exit code 2; then calls, which raise an error of `aep.errors`; then what would be
dangerous if it were believed: code in a name, pickled weights, links, text that a shell or SQL could run.
"""

import inspect
import json
import math
import os
import pickle
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml

import aep
from aep import outputs, runner
from aep.__main__ import main
from aep.adaptors import _single, parse
from aep.errors import (
    AdaptorError,
    AepError,
    ContextTooLong,
    DeviceError,
    DistributionError,
    ModelError,
    ParameterError,
    PromptError,
    RecordError,
    VocabularyMismatch,
)
from aep.information import check_distribution
from aep.languages import FiniteLanguage, Grammar, MarkovChain
from aep.parameters import coerce
from aep.store import Store
from damage import FAULTS
from tiny_models import LETTERS, one_thread, save_model  # noqa: F401

HUGE = "9" * 400
ENDLESS = "9" * 5000  # more digits than Python reads
CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], [0.2, 0.5, 0.3])
PAIR = FiniteLanguage([0.5, 0.5])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files of every kind that a user may name by mistake; `llama` is a whole model of 96 positions and 23 tokens."""
    folder = tmp_path_factory.mktemp("mistakes")
    save_model(folder / "llama", "llama")
    texts = {"text": b"abcabcabcabc", "long": LETTERS.encode() * 15, "empty": b"", "latin": b"G\xf6del", "nul": b"ab\0"}
    texts |= {"binary": bytes(range(256)), "wide": "Gödel".encode("utf-16")}
    for name, content in texts.items():
        (folder / f"{name}.txt").write_bytes(content)
    (folder / "notes").mkdir()
    files = {
        "month": "texts: 2020-99-99",
        "endless": f"texts: {ENDLESS}",
        "deep": "[" * 500,
        "laughs": "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
        + "texts: *i",
        "object": "texts: !!python/object/apply:os.system ['touch canary']",
        "list": "- 1\n- 2",
        "mixed": "'02': {texts: 3}\nseed: 4",
        "section": "'02': {text: 3}",
        "none": "",
        "huge": f"alpha: {HUGE}",
        "hexadecimal": f"texts: 0x{'f' * 5000}",
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    drawn = aep.sample(CHAIN, texts=3, tokens=4, seed=0)
    drawn.to_parquet(folder / "texts.parquet")
    aep.score(drawn, CHAIN).to_parquet(folder / "whole.parquet")
    return folder


@pytest.fixture(scope="module")
def repository_of_one(tmp_path_factory) -> Path:
    """A repository with one notebook, 02, that has parameters of every kind and leaves a file with their values."""
    root = tmp_path_factory.mktemp("repository")
    (root / "notebooks").mkdir()
    declared = (
        "texts: int = 2\nalpha: float = 0.5\nmodels: str = 'a'\ntext_path: str = ''\nstore: bool = True\nseed: int = 7"
    )
    code = nbformat.v4.new_code_cell
    cells = [
        code(declared, metadata={"tags": ["parameters"]}),
        code("import json, pathlib\npathlib.Path('said.json').write_text(json.dumps([models, text_path]))"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "02_self_aep.ipynb")
    outputs.write_defaults(root)
    return root


@pytest.fixture(autouse=True)
def here(folder, repository_of_one, monkeypatch):
    """In that folder, offline, without the repository's own notebooks and output folders."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(outputs, "repository", lambda: repository_of_one)


# ------------------------------------------------------------------------------------------------------ the command line

RUN, SCORE, SAMPLE = ["run", "02"], ["score", "llama"], ["sample", "llama", "--tokens", "5"]
DID = "did you mean"

COMMANDS = [
    # arguments, and what the line holds: the value that is wrong, and what would be right
    ([], ["COMMAND", "--help"]),
    (["rnu"], ["'rnu'", DID, "'run'"]),
    (["-x"], ["COMMAND", "--help"]),
    (["models", "x"], ["'x'", "--help"]),
    (["models", "--json"], ["'--json'", "--help"]),
    # run
    (["run"], ["NOTEBOOK", "--help"]),
    (["run", ""], ["unknown notebook ''", "valid names are"]),
    (["run", "02_self_app"], ["'02_self_app'", DID, "'02_self_aep'"]),
    (["run", "02\0"], ["unknown notebook '02\\x00'", "valid names are"]),
    ([*RUN, "--profle", "paper"], ["'--profle'", DID, "--profile"]),
    ([*RUN, "--profile", "papper"], ["unknown profile 'papper'", "valid names are"]),
    ([*RUN, "--profile", ""], ["unknown profile ''", "valid names are"]),
    ([*RUN, "--profile", "../../secret"], ["'../../secret'", "valid names are"]),
    ([*RUN, "-p", "texts"], ["-p", "--help"]),
    ([*RUN, "-p", "text", "3"], ["'text'", DID, "'texts'"]),
    ([*RUN, "-p", "__class__", "3"], ["'__class__'", "valid names are texts"]),
    ([*RUN, "-p", "seed", "1", "-p", "seed", "2"], ["'seed' is given twice", "comma-separated"]),
    ([*RUN, "-p", "seed", "-1"], ["'seed' must be", "from 0 on", "-1"]),
    ([*RUN, "-p", "texts", "few"], ["'texts' must be an integer", "'few'"]),
    ([*RUN, "-p", "texts", ""], ["'texts' must be an integer", "not ''"]),
    ([*RUN, "-p", "texts", "1.5"], ["'texts' must be an integer", "'1.5'"]),
    ([*RUN, "-p", "texts", "nan"], ["'texts' must be an integer", "'nan'"]),
    ([*RUN, "-p", "texts", "1e400"], ["'texts' must be an integer", "'1e400'"]),
    ([*RUN, "-p", "texts", "2020-99-99"], ["'texts' must be an integer", "'2020-99-99'"]),
    ([*RUN, "-p", "texts", "1:30"], ["'texts' must be an integer", "'1:30'"]),
    ([*RUN, "-p", "texts", ENDLESS], ["'texts' must be an integer", "999...999"]),
    ([*RUN, "-p", "texts", HUGE], ["'texts' must be an integer", "999...999"]),
    ([*RUN, "-p", "texts", "[" * 3000], ["'texts' must be an integer", "[[[...[[["]),
    ([*RUN, "-p", "alpha", "inf"], ["'alpha' must be a finite number", "'inf'"]),
    ([*RUN, "-p", "alpha", "nan"], ["'alpha' must be a finite number", "'nan'"]),
    ([*RUN, "-p", "alpha", HUGE], ["'alpha' must be a finite number", "999...999"]),
    ([*RUN, "-p", "store", "maybe"], ["'store' must be true or false", "'maybe'"]),
    ([*RUN, "-p", "models", "\udcff"], ["'models'", "is not Unicode"]),
    ([*RUN, "-f", "no.yaml"], ["No such file", "'no.yaml'"]),
    ([*RUN, "-f", "notes"], ["notes is a folder", "give a YAML file"]),
    ([*RUN, "-f", "binary.txt"], ["binary.txt is not YAML"]),
    ([*RUN, "-f", "nul.txt"], ["nul.txt is not YAML"]),
    ([*RUN, "-f", "month.yaml"], ["month.yaml is not YAML", "month must be in 1..12"]),
    ([*RUN, "-f", "endless.yaml"], ["endless.yaml is not YAML", "5000 digits"]),
    ([*RUN, "-f", "deep.yaml"], ["deep.yaml is not YAML", "nested too deeply"]),
    ([*RUN, "-f", "laughs.yaml"], ["unknown parameter 'a'", "valid names are"]),
    ([*RUN, "-f", "object.yaml"], ["object.yaml is not YAML", "python/object/apply:os.system"]),
    ([*RUN, "-f", "list.yaml"], ["list.yaml must map parameter names to values", "[1, 2]"]),
    ([*RUN, "-f", "mixed.yaml"], ["mixed.yaml has the section '02'", "'seed' must stand in a section too"]),
    ([*RUN, "-f", "section.yaml"], ["section '02'", "'text'", DID, "'texts'"]),
    ([*RUN, "-f", "none.yaml"], ["none.yaml is empty", "must map parameter names to values"]),
    ([*RUN, "-f", "huge.yaml"], ["'alpha' must be a finite number", "bits"]),
    ([*RUN, "-f", "hexadecimal.yaml"], ["'texts' must be an integer", "20000 bits"]),
    ([*RUN, "--in-place", "-p", "seed", "1"], ["--in-place", "parameters are the defaults"]),
    ([*RUN, "--in-place", "-f", "mixed.yaml"], ["--in-place", "parameters are the defaults"]),
    # score: the model
    (["score"], ["MODEL, FILE.txt", "--help"]),
    (["score", "", "text.txt"], ["model name is empty", "embedded models are"]),
    (["score", "docs-40k", "text.txt"], ["'docs-40k'", "offline", DID, "docs-400k"]),
    (["score", "no/model", "text.txt"], ["'no/model'", "offline", "embedded models are"]),
    (["score", "no/model@v9", "text.txt"], ["'no/model'", "offline", "embedded models are"]),
    (["score", "@", "text.txt"], ["model '@' was not found", "embedded models are"]),
    (["score", "http://x.invalid/z", "text.txt"], ["'http://x.invalid/z' was not found", "embedded models are"]),
    (["score", "\0", "text.txt"], ["'\\x00' was not found", "embedded models are"]),
    (["score", "m" * 5000, "text.txt"], ["model 'mmm", " ... ", "embedded models are"]),
    (["score", "~nobody-of-this-name", "text.txt"], ["'~nobody-of-this-name' is not a folder", "embedded models are"]),
    (["score", "notes", "text.txt"], ["notes has no config.json"]),
    (["score", "text.txt", "text.txt"], ["'text.txt' is not a folder", "embedded models are"]),
    (["score", "tales-reward", "text.txt"], ["'tales-reward' is a reward model", "load_reward"]),
    (
        [*SCORE, "text.txt", "--revision", "v9"],
        ["revision='v9' is of a hub model", "'llama' is a folder", "leave it out"],
    ),
    (
        ["score", "docs-100k", "text.txt", "--revision", "v9"],
        ["revision='v9'", "'docs-100k' is an embedded", "leave it"],
    ),
    ([*SCORE, "text.txt", "--dtype", "float12"], ["'float12'", DID, "'float32'"]),
    ([*SCORE, "text.txt", "--device", "tpu"], ["'tpu'", "valid names are cpu"]),
    ([*SCORE, "text.txt", "--device", "cuda:99"], ["'cuda:99'", "valid names are cpu"]),
    ([*SCORE, "text.txt", "--device", ""], ["unknown device ''", "valid names are cpu"]),
    # score: the text
    ([*SCORE, "txet.txt"], ["'txet.txt'", DID, "'text.txt'"]),
    ([*SCORE, "no/text.txt"], ["'no/text.txt'", "folder 'no' does not exist"]),
    ([*SCORE, "notes"], ["notes is a folder", "give a text file"]),
    ([*SCORE, "t" * 5000], ["File name too long", " ... "]),
    ([*SCORE, "empty.txt"], ["empty.txt is empty"]),
    ([*SCORE, "latin.txt"], ["byte 0xf6 at position 1", "convert it to UTF-8"]),
    ([*SCORE, "wide.txt"], ["begins like UTF-16", "convert it to UTF-8"]),
    ([*SCORE, "binary.txt"], ["binary.txt is not UTF-8", "convert it to UTF-8"]),
    ([*SCORE, "nul.txt"], ["NUL byte at position 2", "not a text file"]),
    (["score", "tales", "text.txt"], ["'abcabcabcabc'", "tales knows"]),
    # score: the options
    ([*SCORE, "text.txt", "--context", "whole"], ["'whole'", "valid are full, rolling, strided"]),
    ([*SCORE, "long.txt", "--context", "full"], ["300 tokens", "a context of 96", "'strided' takes any"]),
    ([*SCORE, "text.txt", "--context", "rolling"], ["sliding window", "strided"]),
    ([*SCORE, "text.txt", "--bos", "onec"], ["'onec'", DID, "'once'"]),
    ([*SCORE, "text.txt", "--overlap", "9"], ["--overlap 9", "say --context strided"]),
    ([*SCORE, "long.txt", "--context", "strided", "--overlap", "0"], ["overlap=0", "from 1 to 95"]),
    ([*SCORE, "long.txt", "--context", "strided", "--overlap", HUGE], ["--overlap", "999...999", "below 2**63"]),
    ([*SCORE, "text.txt", "--context", "strided", "--overlap", ENDLESS], ["--overlap", "999...999", "below 2**63"]),
    ([*SCORE, "text.txt", "--width", "3"], ["--width 3", "say --per-byte"]),
    ([*SCORE, "text.txt", "--per-byte", "--width", "0"], ["--width 0", "at least one"]),
    ([*SCORE, "text.txt", "--per-byte", "--context", "strided"], ["--context strided", "as a whole"]),
    ([*SCORE, "text.txt", "--per-byte", "--bos", "every"], ["--bos every", "once before the text"]),
    ([*SCORE, "text.txt", "--per-byte"], ["llama", "do not concatenate to text"]),
    ([*SCORE, "text.txt", "--adaptor", "top_kk(5)"], ["'top_kk'", DID, "'top_k'"]),
    ([*SCORE, "text.txt", "--adaptor", ""], ["adaptor ''", "name(value)"]),
    ([*SCORE, "text.txt", "--adaptor", "|"], ["adaptor ''", "name(value)"]),
    ([*SCORE, "text.txt", "--adaptor", "top_k"], ["adaptor 'top_k'", "name(value)"]),
    ([*SCORE, "text.txt", "--adaptor", "top_k(5)|top_k(6)"], ["given twice, as 5 and as 6", "once"]),
    ([*SCORE, "text.txt", "--adaptor", "top_k(2.5)"], ["top_k(2.5)", "an integer of at least 1"]),
    ([*SCORE, "text.txt", "--adaptor", f"top_k({HUGE})"], ["top_k(", "an integer of at least 1"]),
    ([*SCORE, "text.txt", "--adaptor", f"temperature({HUGE})"], ["temperature(", "a number above 0"]),
    ([*SCORE, "text.txt", "--adaptor", "temperature(nan)"], ["temperature(nan)", "a number above 0"]),
    ([*SCORE, "text.txt", "--adaptor", "temperature(1e400)"], ["temperature(inf)", "a number above 0"]),
    ([*SCORE, "text.txt", "--adaptor", "temperature(5e-324)"], ["temperature(5e-324)", "out of reach"]),
    ([*SCORE, "text.txt", "--adaptor", "temperature(1e-300)"], ["temperature(1e-300)", "out of reach"]),
    ([*SCORE, "text.txt", "--adaptor", "ancestral(1)"], ["ancestral(1)", "takes no parameter"]),
    # the output
    ([*SCORE, "text.txt", "-o", "notes"], ["'notes' is a folder", "give a file name"]),
    ([*SCORE, "text.txt", "-o", ""], ["is a folder", "give a file name"]),
    ([*SCORE, "text.txt", "-o", "a\0b"], ["output 'a\\x00b' holds a NUL byte", "give another name"]),
    ([*SCORE, "text.txt", "-o", "no/t.parquet"], ["output folder 'no' does not exist"]),
    ([*SCORE, "text.txt", "-o", "text.txt"], ["'text.txt' is the text itself", "give another name"]),
    ([*SCORE, "text.txt", "-o", os.devnull], [os.devnull, "is no ordinary file", "give another name"]),
    ([*SCORE, "text.txt", "-o", "x" * 250], ["xxx' cannot be written", "File name too long"]),
    ([*SAMPLE, "-o", "\0"], ["output '\\x00' holds a NUL byte", "give another name"]),
    ([*SAMPLE, "-o", "notes"], ["'notes' is a folder", "give a file name"]),
    ([*SAMPLE, "-o", "no/t.parquet"], ["output folder 'no' does not exist"]),
    # sample
    (["sample"], ["MODEL", "--help"]),
    ([*SAMPLE, "--texts", "few"], ["'few'", "--help"]),
    ([*SAMPLE, "--texts", "0"], ["texts=0", "at least 1"]),
    ([*SAMPLE, "--texts", HUGE], ["--texts", "999...999", "below 2**63"]),
    (["sample", "llama", "--tokens", "0"], ["tokens=0", "at least 1"]),
    (["sample", "llama", "--tokens", "-4"], ["tokens=-4", "at least 1"]),
    (["sample", "llama", "--tokens", "nan"], ["'nan'", "--help"]),
    (["sample", "llama", "--tokens", "1e2"], ["'1e2'", "--help"]),
    (["sample", "llama", "--tokens", "97"], ["97 tokens", "a context of 96", "at most 96"]),
    ([*SAMPLE, "--seed", "-1"], ["seed=-1", "at least 0"]),
    ([*SAMPLE, "--seed", str(2**63)], ["--seed", str(2**63), "below 2**63"]),
    ([*SAMPLE, "--prompt", ""], ["--prompt is empty", "leave it out"]),
    ([*SAMPLE, "--prompt", LETTERS * 5], ["105 tokens", "a context of 96", "shorten the prompt of 100"]),
    ([*SAMPLE, "--prompt", "\udcff"], ["not Unicode", "UTF-8"]),
    (["sample", "tales", "--prompt", "Alice"], ["'Alice'", "tales knows"]),
    ([*SAMPLE, "--stop", "eso"], ["'eso'", DID, "'eos'"]),
    ([*SAMPLE, "--adaptor", "nucleus(1.5)"], ["nucleus(1.5)", "(0, 1]"]),
    ([*SAMPLE, "--adaptor", "temperature(5e-324)"], ["temperature(5e-324)", "out of reach"]),
    ([*SAMPLE, "--width", "4"], ["--width 4", "say --per-byte"]),
    # the others
    (["store", "extra"], ["'extra'", "--help"]),
    (["store", "--yes"], ["--yes", "use them with --prune"]),
    (["store", "--prune", "--kind", "token"], ["'token'", DID, "'tokens'"]),
    (["train"], ["NAME", "--help"]),
    (["train", "docs-40k"], ["'docs-40k'", DID, "'docs-400k'"]),
    (["corpus"], ["--check", "--help"]),
    (["corpus", "--chekc"], ["--check", "--help"]),
    (["bench", "toy_vs_legcy"], ["'toy_vs_legcy'", DID, "'toy_vs_legacy'"]),
]


def named(value):
    """A short name of a row for pytest."""
    return " ".join(v if len(v) < 40 else v[:20] + "..." for v in value).replace("\0", "NUL") if value else "nothing"


@pytest.mark.parametrize(
    ("arguments", "parts"), COMMANDS, ids=[named(row[0]).encode("ascii", "replace").decode() for row in COMMANDS]
)
def test_a_command_with_a_mistake_ends_with_2_and_one_line(
    folder, repository_of_one, capsys, monkeypatch, arguments, parts
):
    monkeypatch.setattr(runner, "_execute", lambda *_: pytest.fail("the notebook was started"))
    before = sorted(folder.rglob("*"))
    code = main(list(arguments))
    err = capsys.readouterr().err
    assert code == 2 and err.startswith("aep: ") and err.count("\n") == 1, err
    assert [part for part in parts if part not in err] == [], err
    assert "Traceback" not in err and len(err) < 2500
    assert sorted(folder.rglob("*")) == before, "something was written"


def test_a_number_in_text_is_decimal_and_not_octal(repository_of_one):
    (planned,) = runner.plans(["02"], {"seed": "010", "texts": "1_000", "store": "off"}, root=repository_of_one)
    assert (planned.parameters["seed"], planned.parameters["texts"], planned.parameters["store"]) == (10, 1000, False)


def test_a_control_character_in_a_name_does_not_reach_the_terminal(folder, capsys):
    assert main([*SCORE, "\x1b[2J\rtext"]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err and "\r" not in err and "\\x1b[2J" in err


# ----------------------------------------------------------------------------------------------------------------- calls


def plain(function):
    """A function as a user calls it, without the type checks that are added in tests."""
    return inspect.unwrap(function)


def sample(*prompts, language=CHAIN, **options):
    return lambda _: plain(aep.sample)(language, *prompts, **{"tokens": 3, "seed": 0} | options)


def score(texts=((0, 1),), scorer=CHAIN, **options):
    return lambda _: plain(aep.score)(texts, scorer, **options)


def of_llama(work):
    return lambda folder: work(aep.load(folder / "llama"))


CALLS = {
    # sample
    "sample: a name for a language": (sample(language="docs-100k"), ParameterError, ["'docs-100k'", "aep.load"]),
    "sample: texts in words": (sample(texts="few"), ParameterError, ["texts='few'", "integer"]),
    "sample: no texts": (sample(texts=0), ParameterError, ["texts=0", "at least 1"]),
    "sample: True texts": (sample(texts=True), ParameterError, ["texts=True", "integer"]),
    "sample: no tokens": (sample(tokens=0), ParameterError, ["tokens=0", "at least 1"]),
    "sample: half a token": (sample(tokens=2.5), ParameterError, ["tokens=2.5", "integer"]),
    "sample: NaN tokens": (sample(tokens=math.nan), ParameterError, ["tokens=nan", "integer"]),
    "sample: a negative seed": (sample(seed=-1), ParameterError, ["seed=-1", "at least 0"]),
    "sample: a huge seed": (sample(seed=10**5000), ParameterError, ["seed=", "bits", "below 2**63"]),
    "sample: no batch": (sample(batch=0), ParameterError, ["batch=0", "at least 1"]),
    "sample: another stop": (sample(stop="eso"), ParameterError, ["'eso'", DID, "'eos'"]),
    "sample: no end token": (sample(stop="eos"), ParameterError, ["stop='eos'", "use stop='never'"]),
    "sample: a number for an adaptor": (sample(adaptor=3), AdaptorError, ["adaptor=3", "aep.temperature"]),
    "sample: another adaptor": (sample(adaptor="top_kk(3)"), AdaptorError, ["'top_kk'", DID, "'top_k'"]),
    "sample: too cold": (sample(adaptor="temperature(5e-324)"), AdaptorError, ["temperature(5e-324)", "out of reach"]),
    "sample: no prompts": (sample([]), PromptError, ["empty list", "None"]),
    "sample: an empty prompt": (sample([""]), PromptError, ["prompt 0 is empty", "None"]),
    "sample: a number for prompts": (sample(5), PromptError, ["prompts=5", "give strings or id arrays"]),
    "sample: an unknown symbol": (sample(["a z"]), PromptError, ["'z'", "its symbols are"]),
    "sample: an id too large": (sample([[0, 99]]), PromptError, ["prompt 0", "99", "3 tokens"]),
    "sample: a negative id": (sample([[-1]]), PromptError, ["prompt 0", "-1", "3 tokens"]),
    "sample: half an id": (sample([[0.5]]), PromptError, ["prompt 0", "float64", "token ids"]),
    "sample: a matrix": (sample([[[0]]]), PromptError, ["prompt 0", "(1, 1)", "one-dimensional"]),
    "sample: a number for a store": (sample(store=3), ParameterError, ["store=3", "give a folder"]),
    "sample: a file for a store": (sample(store="text.txt"), RecordError, ["cannot use the store text.txt"]),
    "sample: longer than the context": (
        of_llama(lambda m: aep.sample(m, tokens=97, seed=0)),
        ContextTooLong,
        ["97", "at most 96"],
    ),
    "sample: a prompt longer than the context": (
        of_llama(lambda m: aep.sample(m, LETTERS * 5, tokens=1, seed=0)),
        ContextTooLong,
        ["101", "shorten the prompt of 100"],
    ),
    # score
    "score: a name for a scorer": (score(scorer="docs-100k"), ParameterError, ["'docs-100k'", "aep.load"]),
    "score: a name for a source": (score(source="docs-100k"), ParameterError, ["'docs-100k'", "aep.load"]),
    "score: no text": (score([]), PromptError, ["no text is given"]),
    "score: an empty string": (score(""), PromptError, ["text 0 is empty"]),
    "score: an empty text": (score([[0], []]), PromptError, ["text 1 is empty"]),
    "score: an empty text of a network": (of_llama(lambda m: aep.score("", m)), PromptError, ["empty"]),
    "score: strings and ids": (score(["0 1", [0]]), PromptError, ["'0 1'", "a list of strings or of id sequences"]),
    "score: a number": (score(5), PromptError, ["texts=5", "give Texts"]),
    "score: an id too large": (score([[0, 99]]), PromptError, ["text 0", "99", "3 tokens"]),
    "score: NaN for an id": (score(np.array([[math.nan]])), PromptError, ["text 0", "token ids"]),
    "score: another context": (score(context="whole"), ParameterError, ["'whole'", "full, rolling, strided"]),
    "score: another bos": (score(bos="x"), ParameterError, ["bos='x'", "'every'"]),
    "score: an overlap of nothing": (score(overlap=3), ParameterError, ["overlap=3", "context='strided'"]),
    "score: no chunk": (score(chunk=0), ParameterError, ["chunk=0", "at least 1"]),
    "score: a word for compiled": (score(compiled="yes"), ParameterError, ["compiled='yes'", "True"]),
    "score: one adaptor for a list": (score(adaptors=aep.top_k(2)), AdaptorError, ["top_k", "give a list"]),
    "score: a string in the list": (score(adaptors=["top_k(2)"]), AdaptorError, ["'top_k(2)'", "aep.temperature"]),
    "score: an adaptor of no source": (score(adaptor=aep.top_k(2)), AdaptorError, ["top_k(2)", "adaptors=[...]"]),
    "score: vocabularies of two sizes": (
        score(source=PAIR),
        VocabularyMismatch,
        ["(2 tokens)", "(3 tokens)", "per_byte"],
    ),
    "score: vocabularies of other words": (
        lambda _: aep.score([[1, 2]], Grammar.load("tales"), source=aep.load("docs-100k")),
        VocabularyMismatch,
        ["docs-100k", "per_byte"],
    ),
    "score: longer than the context": (
        of_llama(lambda m: aep.score(LETTERS * 5, m)),
        ContextTooLong,
        ["text 0 has 100", "'strided' takes any"],
    ),
    "score: no sliding window": (
        of_llama(lambda m: aep.score("abc", m, context="rolling")),
        AepError,
        ["sliding", "strided"],
    ),
    "score: not Unicode": (of_llama(lambda m: aep.score("a\udcff", m)), PromptError, ["not Unicode", "UTF-8"]),
    # adaptors
    **{
        f"adaptor: {text[:30]}": (lambda _, text=text: parse(text), AdaptorError, [part])
        for text, part in {
            "temperature(0)": "a number above 0",
            "temperature(-1)": "a number above 0",
            "temperature(hot)": "a number above 0",
            "nucleus(0)": "(0, 1]",
            "min_p(nan)": "(0, 1]",
            "locally_typical(2)": "(0, 1]",
            "epsilon(1)": "(0, 1)",
            "eta(0)": "(0, 1)",
            "top_k(0)": "at least 1",
            f"top_k({ENDLESS})": "at least 1",
            "top_k(5": "name(value)",
            "top_k 5": "name(value)",
            "5": "name(value)",
            "top_k(5)||top_k(5)": "name(value)",
            "top_p(0.9)": "valid names are",
        }.items()
    },
    "adaptor: a bool": (lambda _: plain(aep.top_k)(True), AdaptorError, ["top_k(True)", "integer"]),
    "adaptor: text": (
        lambda _: plain(_single)("temperature", "x"),
        AdaptorError,
        ["temperature('x')", "a number above 0"],
    ),
    "adaptor: a huge integer": (lambda _: aep.top_k(10**5000), AdaptorError, ["bits", "at least 1"]),
    "adaptor: huge and hot": (lambda _: plain(aep.temperature)(10**400), AdaptorError, ["bits", "a number above 0"]),
    # laws
    "law: NaN": (
        lambda _: check_distribution(np.array([math.nan, 0.0])),
        DistributionError,
        ["sums to nan", "normalised"],
    ),
    "law: +inf": (lambda _: check_distribution(np.array([math.inf, 0.0])), DistributionError, ["inf"]),
    "law: sums to 0.9": (lambda _: check_distribution(np.log([0.5, 0.4])), DistributionError, ["0.9"]),
    "law: a chain that sums to 0.9": (lambda _: MarkovChain([[0.5, 0.4], [0.5, 0.5]]), DistributionError, ["0.9"]),
    "law: a chain with NaN": (lambda _: MarkovChain([[math.nan, 1], [0.5, 0.5]]), DistributionError, ["row 0"]),
    "law: a negative probability": (lambda _: FiniteLanguage([1.5, -0.5]), DistributionError, ["-0.5"]),
    "law: nothing": (lambda _: FiniteLanguage([]), AepError, ["empty"]),
    # models
    "load: an empty name": (lambda _: aep.load(" "), ModelError, ["empty", "embedded models are"]),
    "load: a misspelt name": (lambda _: aep.load("docs-40k"), ModelError, ["'docs-40k'", DID, "docs-400k"]),
    "load: a file": (lambda _: aep.load("./text.txt"), ModelError, ["'./text.txt' is not a folder"]),
    "load: another dtype": (lambda _: aep.load("llama", dtype="float12"), DeviceError, ["'float12'", DID]),
    "load: another device": (lambda _: aep.load("llama", device="tpu"), DeviceError, ["'tpu'", "valid names are cpu"]),
    "load: a revision of a folder": (lambda _: aep.load("llama", revision="v9"), ModelError, ["'v9'", "leave it out"]),
    "per_byte: no width": (lambda _: aep.per_byte("docs-100k", 0), ParameterError, ["0"]),
    "per_byte: a list of words": (lambda _: aep.per_byte("tales"), VocabularyMismatch, ["tales"]),
    "per_byte: no tokenizer": (lambda _: aep.per_byte(CHAIN), VocabularyMismatch, ["has no tokenizer", "ByteLanguage"]),
    # records
    "record: missing": (lambda _: aep.Records.from_parquet("no.parquet"), RecordError, ["no such file", "no.parquet"]),
    "record: a folder": (lambda _: aep.Records.from_parquet("notes"), RecordError, ["notes", "make it again"]),
    "record: of texts": (lambda _: aep.Records.from_parquet("texts.parquet"), RecordError, ["'texts'", "not 'tokens'"]),
    "record: another column": (
        lambda _: aep.score([[0]], CHAIN)["entropi"],
        RecordError,
        ["'entropi'", DID, "'entropy'"],
    ),
    "record: a column of a pair": (
        lambda _: aep.score([[0]], CHAIN)["cross_entropy"],
        RecordError,
        ["'cross_entropy'", "source="],
    ),
    "record: unequal lengths": (
        lambda _: aep.score([[0], [0, 1]], CHAIN).matrix("rank"),
        RecordError,
        ["1 to 2", "by_text"],
    ),
    "record: nothing to join": (lambda _: aep.Records.concatenate([]), RecordError, ["no records"]),
    "texts: no language": (lambda _: aep.Texts.from_parquet("texts.parquet").decode(0), RecordError, ["aep.load"]),
    "texts: two samplers": (
        lambda _: aep.Texts.concatenate([aep.sample(CHAIN, tokens=2, seed=s) for s in (0, 1)]),
        RecordError,
        ["seed 0 and 1"],
    ),
    "store: another kind": (lambda f: Store(f / "s").path("token", {}), ParameterError, ["'token'", DID, "'tokens'"]),
    "store: an empty query": (lambda f: Store(f / "s").sql(" "), RecordError, ["empty", "SELECT"]),
    "store: no SQL": (lambda f: Store(f / "s").sql("SELEC 1"), RecordError, ["SELEC"]),
    "store: another column": (lambda f: Store(f / "s").sql("SELECT entropi FROM tokens"), RecordError, ["entropi"]),
    "store: another view": (lambda f: Store(f / "s").sql("SELECT 1 FROM tokenz"), RecordError, ["tokenz"]),
    # notebooks
    "begin: another notebook": (lambda _: aep.begin("12", {}), ParameterError, ["'12'", "valid names are"]),
    "begin: a missing parameter": (lambda _: aep.begin("02", {}), ParameterError, ["'02'", "'texts'"]),
    "coerce: a list for a number": (lambda _: coerce("n", [1], 2), ParameterError, ["'n' must be an integer", "[1]"]),
    "coerce: a bool for a number": (lambda _: coerce("n", True, 2), ParameterError, ["'n' must be an integer", "True"]),
    "coerce: a mapping for text": (lambda _: coerce("n", {"a": 1}, "x"), ParameterError, ["'n' must be text", "'a'"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_with_a_mistake_raises_one_line_that_names_the_value(folder, name):
    call, kind, parts = CALLS[name]
    with pytest.raises(kind) as caught:
        call(folder)
    said = str(caught.value)
    assert isinstance(caught.value, AepError) and "\n" not in said and len(said) < 2000
    assert [part for part in parts if part not in said] == [], said


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_shard_is_refused_as_a_file_and_made_again_by_a_store(tmp_path, fault, folder):
    damage, _ = FAULTS[fault]
    shutil.copy(folder / "whole.parquet", tmp_path / "copy.parquet")
    damage(tmp_path / "copy.parquet")
    with pytest.raises(RecordError, match=r"copy\.parquet") as caught:
        aep.Records.from_parquet(tmp_path / "copy.parquet")
    assert "\n" not in str(caught.value)
    first = aep.score([[0, 1, 2, 0]], CHAIN, store=tmp_path / "store")
    (shard,) = Store(tmp_path / "store").files("tokens")
    damage(shard)
    again = aep.score([[0, 1, 2, 0]], CHAIN, store=tmp_path / "store")
    np.testing.assert_array_equal(first["surprisal"], again["surprisal"])
    assert not Store(tmp_path / "store").damaged()


# -------------------------------------------------------------------------------------------------------------- security


class Touch:
    """Unpickled, it makes the file `canary`."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


def configured(**entries):
    def change(place, _):
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | entries))

    return change


def pickled(*names):
    def change(place, canary):
        (place / "model.safetensors").unlink()
        for name in names:
            (place / name).write_bytes(pickle.dumps(Touch(canary)))

    return change


def an_index_that_names(weights):
    def change(place, canary):
        (place / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(canary)))
        shutil.copy(place / "model.safetensors", place.parent / "outside.safetensors")
        (place / "model.safetensors").rename(place / "spare.safetensors")
        (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": weights}}))

    return change


def own_code(**entries):
    def change(place, canary):
        (place / "own.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Own: pass\n")
        configured(**entries)(place, canary)

    return change


def a_link_at(name, target):
    def change(place, _):
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(target)

    return change


OWN = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
MODELS = {
    "pickled weights alone": (pickled("pytorch_model.bin"), "pickled weights are not read"),
    "a pickle called safetensors": (pickled("model.safetensors"), "'model' cannot be loaded"),
    "an index that names a pickle": (an_index_that_names("pytorch_model.bin"), "names 'pytorch_model.bin'; only"),
    "an index that leads outside": (
        an_index_that_names("../outside.safetensors"),
        "names '../outside.safetensors'; only",
    ),
    "its own code": (own_code(model_type="own", auto_map=OWN), "custom code"),
    "attention code of the hub": (
        configured(attn_implementation="someone/kernel"),
        "'someone/kernel', and no remote code",
    ),
    "a link to a text": (a_link_at("tokenizer.json", "../text.txt"), "damaged tokenizer"),
    "a link to nowhere": (a_link_at("model.safetensors", "../nowhere"), "model.safetensors is no file"),
    "a link to itself": (a_link_at("model.safetensors", "model.safetensors"), "model.safetensors is no file"),
    "a config that links to itself": (a_link_at("config.json", "config.json"), "has no config.json"),
    "a device": (a_link_at("model.safetensors", os.devnull), "model.safetensors is no file"),
    "a start token outside": (configured(bos_token_id=23), "start token 23 is outside its 23 tokens"),
    "a size in words": (configured(hidden_size="wide"), "'hidden_size' expected int, got str"),
    "a list for the tokenizer": (
        lambda place, _: (place / "tokenizer_config.json").write_text("[]"),
        "has no attribute 'get' .AttributeError.: its config.json or its tokenizer is damaged",
    ),
    "a billion layers": (configured(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "a vocabulary of terabytes": (
        configured(vocab_size=10**12),
        r"embed_tokens.weight is \[23, 16\] in its file and \[1000000000000, 16\] by its config.json",
    ),
    "a width of terabytes": (
        configured(hidden_size=10**6, head_dim=8),
        r"embed_tokens.weight is \[23, 16\] in its file and \[23, 1000000\] by its config.json",
    ),
    "weights of a missing package": (
        configured(quantization_config={"quant_method": "gptq", "bits": 4}),
        "'model' cannot be loaded: .*pip install",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_that_is_not_to_be_trusted_is_refused_and_runs_nothing(tmp_path, folder, name):
    change, message = MODELS[name]
    place, canary = Path(shutil.copytree(folder / "llama", tmp_path / "model")), tmp_path / "canary"
    (tmp_path / "text.txt").write_text("a secret")
    change(place, canary)
    with pytest.raises(ModelError, match=message) as caught:
        aep.load(place)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value) and not canary.exists()


def test_the_traps_of_these_tests_do_spring(tmp_path, folder):
    """Negative control: a pickle that is read and code that is run do leave the canary."""
    pickle.loads(pickle.dumps(Touch(tmp_path / "pickle")))
    place = Path(shutil.copytree(folder / "llama", tmp_path / "model"))
    own_code()(place, tmp_path / "code")
    exec((place / "own.py").read_text(), {})
    assert (tmp_path / "pickle").exists() and (tmp_path / "code").exists()


@pytest.mark.parametrize("name", ["code beside a known architecture", "weights behind a link"])
def test_what_is_harmless_loads_and_runs_nothing(tmp_path, folder, name):
    place, canary = Path(shutil.copytree(folder / "llama", tmp_path / "model")), tmp_path / "canary"
    if name == "weights behind a link":  # as in the caches of the hub
        (place / "model.safetensors").rename(tmp_path / "weights")
        (place / "model.safetensors").symlink_to(tmp_path / "weights")
    else:
        own_code(auto_map=OWN)(place, canary)
    assert len(aep.score("abc", aep.load(place))) == 3
    assert not canary.exists()


INJECTIONS = [
    '"; import os; os.system("touch canary"); "',
    "'; import os; os.system('touch canary'); '",
    '"""\nimport os\nos.system("touch canary")\n"""',
    "$(touch canary)",
    "`touch canary`; touch canary | touch canary && touch canary",
    "{__import__('os').system('touch canary')}",
    "!!python/object/apply:os.system ['touch canary']",
    "'; COPY (SELECT 1) TO 'canary'; --",
    "\\",
    "\x1b]0;canary\x07",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_code_in_a_name_is_refused_as_the_name_of_nothing(folder, tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    lines = []
    for arguments in (["score", text, str(folder / "text.txt")], ["score", str(folder / "llama"), text], ["run", text]):
        assert main(arguments) == 2
        lines.append(capsys.readouterr().err)
    for arguments in (
        ["run", "02", "-p", "texts", text],
        ["score", "llama", str(folder / "text.txt"), "--adaptor", text],
    ):
        assert main(arguments) == 2
        lines.append(capsys.readouterr().err)
    assert all(line.count("\n") == 1 and "Traceback" not in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", INJECTIONS)
def test_code_in_a_parameter_stays_text_in_the_cell_that_papermill_writes(
    repository_of_one, tmp_path, monkeypatch, text
):
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    monkeypatch.chdir(tmp_path)
    (planned,) = runner.plans(["02"], {"models": text, "text_path": text}, root=repository_of_one)
    assert planned.parameters["models"] == planned.parameters["text_path"] == text
    notebook = load_notebook_node(str(repository_of_one / "notebooks" / "02_self_aep.ipynb"))
    written = parameterize_notebook(notebook, planned.parameters, kernel_name="python3", language="python")
    (cell,) = (c for c in written.cells if "injected-parameters" in c.metadata.get("tags", []))
    values: dict = {}
    exec(cell.source, values)
    assert values["models"] == values["text_path"] == text
    assert list(tmp_path.iterdir()) == []


def test_code_in_the_parameters_of_a_notebook_that_runs_is_not_executed(repository_of_one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parameters = {"models": INJECTIONS[0] + INJECTIONS[1], "text_path": INJECTIONS[2] + INJECTIONS[3]}
    assert runner.run(["02"], parameters, root=repository_of_one) == 0
    assert json.loads((tmp_path / "said.json").read_text()) == list(parameters.values())
    assert [path.name for path in tmp_path.iterdir()] == ["said.json"]


def test_a_store_in_a_folder_whose_name_is_sql_reads_its_own_files_only(tmp_path):
    place = tmp_path / "x'); COPY (SELECT 1) TO 'canary'; --"
    aep.score([[0, 1]], CHAIN, store=place)
    assert Store(place).sql("SELECT count(*) AS n FROM tokens")["n"].tolist() == [2]
    assert not list(tmp_path.rglob("canary")) and not Path("canary").exists()


def test_a_profile_and_the_defaults_hold_no_objects(repository_of_one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = repository_of_one / "notebooks" / "params" / "mine.yaml"
    for content, message in (
        ("'02': !!python/object/apply:os.system ['touch canary']", "mine.yaml is not YAML"),
        ("'02': [1, 2]", r"section '02' must map parameter names to values: \[1, 2\]"),
        ("all: {text: 3}", "section 'all': unknown parameter 'text'"),
    ):
        profile.write_text(content)
        with pytest.raises(ParameterError, match=message):
            runner.plans(["02"], {}, "mine", root=repository_of_one)
    profile.unlink()
    assert list(tmp_path.iterdir()) == []
    assert yaml.safe_load((repository_of_one / "notebooks" / "params" / "default.yaml").read_text())["02"]["seed"] == 7
