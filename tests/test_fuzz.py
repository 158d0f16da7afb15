"""Random damage: command lines, files of parameters, records, texts and model folders that nobody has thought of.

Whatever is wrong ends in an error of `aep.errors` (on the command line: in one line and exit code 2), within seconds. A
record that can still be read after the damage must be what was written. Every case has a seed, which a failure names.
"""

import contextlib
import json
import random
import shutil
import signal
import string
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest

import aep
from aep import outputs, runner
from aep.__main__ import main
from aep.errors import AepError, ParameterError
from aep.languages import MarkovChain
from aep.store import Store
from tiny_models import one_thread, save_model  # noqa: F401

LIMIT = 20  # seconds of one case, on a busy machine
CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], [0.2, 0.5, 0.3])

ODD_NUMBERS = [
    "0",
    "-1",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "9" * 400,
    "9" * 5000,
    "0x10",
    "010",
    "1_0",
    "٣",
]
ODD_WORDS = [
    "",
    " ",
    "-",
    "--",
    "|",
    "\n",
    "\t",
    "..",
    "/",
    "~",
    "@",
    "=",
    "%s",
    "{}",
    "é",
    "語",
    "\U0001f600",
    "\udcff",
]
ODD_WORDS += [
    "\x1b[2J",
    "\u202e",
    "null",
    "true",
    "[]",
    "{",
    "'",
    '"',
    "$(touch canary)",
    "; touch canary",
    "~nobody/x",
]
VALUES = [0, -1, 1, 2.5, 1e308, 10**30, None, True, "", "x", [], [1], {}, {"a": 1}, "../x", "é\0", float("nan")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Whole things to damage: a model, a record, texts, a text file."""
    folder = tmp_path_factory.mktemp("fuzz")
    save_model(folder / "llama", "llama")
    (folder / "text.txt").write_text("abcabcabcabc")
    drawn = aep.sample(CHAIN, texts=5, tokens=30, seed=0)
    drawn.to_parquet(folder / "texts.parquet")
    aep.score(drawn, CHAIN).to_parquet(folder / "tokens.parquet")
    return folder


@pytest.fixture(autouse=True)
def here(folder, tmp_path, tmp_path_factory, monkeypatch):
    """A folder of this test's own, a repository of one notebook that does not run, no network, an own store."""
    root = tmp_path_factory.mktemp("repository")
    (root / "notebooks").mkdir()
    declared = "texts: int = 2\nalpha: float = 0.5\nmodels: str = 'a'\nstore: bool = True\nseed: int = 7"
    cell = nbformat.v4.new_code_cell(declared, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), root / "notebooks" / "02_self_aep.ipynb")
    outputs.write_defaults(root)
    monkeypatch.setattr(outputs, "repository", lambda: root)
    monkeypatch.setattr(runner, "_execute", lambda *_: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("AEP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return root


# ---------------------------------------------------------------------------------------------------------------- damage


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, left out, put in, repeated, or the end cut off."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.choice([1, 3, 40])]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.choice([1, 3, 40]))
        elif kind == 3:
            data[at:at] = data[at : at + 20]
        else:
            del data[at:]
    return bytes(data)


def odd(rng: random.Random) -> str:
    """A word that is probably wrong."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(ODD_NUMBERS)
    if kind == 1:
        return rng.choice(ODD_WORDS)
    return "".join(rng.choices(string.printable, k=rng.choice([1, 5, 300])))


# --------------------------------------------------------------------------------------------------------------- families

COMMON = {"--dtype": ["float32", "float64"], "--device": ["cpu"], "-o": ["out.parquet"]}
COMMON |= {"--adaptor": ["top_k(5)", "temperature(.8)|nucleus(.9)"]}
OPTIONS: dict[str, dict[str, list[str]]] = {  # of every command, with values that are right; none for a switch
    "run": {"-p": ["texts", "alpha"], "-f": ["no.yaml"], "--profile": ["default"], "--in-place": []},
    "score": {
        "--context": ["full", "strided"],
        "--overlap": ["4"],
        "--bos": ["once", "every"],
        "--per-byte": [],
        **COMMON,
    },
    "sample": {"--texts": ["2"], "--seed": ["3"], "--prompt": ["abc"], "--stop": ["eos"], "--no-store": [], **COMMON},
    "store": {"--verify": [], "--prune": [], "--kind": ["tokens"], "--damaged": [], "--yes": []},
    "train": {},
    "bench": {},
    "models": {},
    "corpus": {},
}


def command_line(rng: random.Random, folder: Path) -> None:
    command = rng.choice([*OPTIONS, *["score", "sample", "run"] * 3])
    places = {"score": [str(folder / "llama"), str(folder / "text.txt")], "run": ["02"]}
    places |= {"sample": [str(folder / "llama"), "--tokens", "3"]}
    places |= {"bench": ["no-row"], "train": ["no-model"]}  # the right names would work for minutes
    arguments = [command, *places.get(command, [])]
    for option in rng.sample(sorted(OPTIONS[command]), k=min(len(OPTIONS[command]), rng.choice([0, 1, 1, 2, 3]))):
        right = OPTIONS[command][option]
        arguments += [option] + ([rng.choice(right) if rng.random() < 0.6 else odd(rng)] if right else [])
        arguments += [rng.choice(["3", odd(rng)])] if option == "-p" else []
    if rng.random() < 0.25 and command != "bench":
        arguments[rng.randrange(len(arguments))] = odd(rng)
    if rng.random() < 0.15:
        arguments.insert(rng.randrange(1, len(arguments) + 1), odd(rng))
    commanded([argument.replace("\0", "") for argument in arguments])  # no command line holds a NUL


def commanded(arguments: list[str]) -> None:
    """Run a command; a refusal is one line and nothing else is."""
    out, err = Lines(), Lines()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as end:  # --help
            code = end.code
    said = "".join(err.parts)
    assert code in (0, 1, 2), f"{arguments} ended with {code}"
    assert (said.startswith("aep: ") and said.count("\n") == 1 and len(said) < 2500) if code == 2 else not said, (
        f"{arguments} ended with {code} and {said!r}"
    )


class Lines:
    """A stream that takes what a terminal of UTF-8 takes."""

    encoding, errors = "utf-8", "replace"

    def __init__(self):
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return False


YAML = [
    "texts: 3",
    "alpha: 0.1",
    "models: a",
    "store: no",
    "'02':\n  texts: 3\n  seed: 1",
    "02: {alpha: 1e-3}",
    "all: {seed: 3}",
]
YAML += [
    "x: &a [1, *a]",
    "seed: !!python/name:os.system",
    "? [1]\n: 2",
    "- 1",
    "---\n---\n",
    "<<: {a: 1}",
    "seed: 2020-13-01",
]
YAML += [
    "texts: !!binary x",
    "alpha: 1:30.5",
    "texts: !!int x",
    "alpha: !!float ''",
    "texts: !!timestamp 2020",
    "<<: *a",
]


def parameter_file(rng: random.Random, folder: Path) -> None:
    lines = rng.choices([*YAML, f"{rng.choice(['texts', 'alpha', 'seed'])}: {odd(rng)}"], k=rng.choice([1, 1, 2, 4]))
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    file = Path("parameters.yaml")
    file.write_bytes(damaged(data, rng) if rng.random() < 0.6 else data)
    (planned,) = runner.plans(["02"], {}, None, file, outputs.repository())
    values = planned.parameters
    assert [type(values[name]) for name in ("texts", "alpha", "models", "store", "seed")] == [
        int,
        float,
        str,
        bool,
        int,
    ]
    assert abs(values["texts"]) < 2**63 and np.isfinite(values["alpha"])


def record(rng: random.Random, folder: Path) -> None:
    kind = rng.choice(["texts", "tokens"])
    reader = aep.Texts if kind == "texts" else aep.Records
    whole = reader.from_parquet(folder / f"{kind}.parquet")
    data = (folder / f"{kind}.parquet").read_bytes()
    broken = damaged(data, rng)
    file = Path("home/records") / kind / f"{'0' * 16}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(broken)
    store = Store("home/records")
    store.shards()
    with contextlib.suppress(AepError):
        store.sql(f"SELECT count(*) FROM {kind}")
    store.damaged()
    read = reader.from_parquet(file)  # what can be read after the damage is what was written
    old, new = (x.to_table() for x in (whole, read))
    assert old[0].equals(new[0]) and old[1] == new[1], f"damage went unnoticed in {kind}"


def text_file(rng: random.Random, folder: Path) -> None:
    letters = [*string.printable, "é", "語", "\U0001f600", "\ufeff", "\u202e", "\x85", "\u2028", "\r\n", "\x1b"]
    data = "".join(rng.choices(letters, k=rng.choice([0, 1, 30, 200]))).encode()
    data = rng.choice([data, damaged(data, rng), rng.randbytes(20), data.decode().encode("utf-16")])
    Path("fuzzed.txt").write_bytes(data)
    commanded(
        ["score", str(folder / "llama"), "fuzzed.txt", *rng.choice([[], ["--context", "strided"], ["--bos", "never"]])]
    )


def model_folder(rng: random.Random, folder: Path) -> None:
    place = Path(shutil.copytree(folder / "llama", "model"))
    files = sorted(path for path in place.iterdir() if path.name != "generation_config.json")
    for file in rng.sample(files, k=rng.choice([1, 1, 2])):
        kind = rng.randrange(5)
        if kind == 0:
            file.unlink()
        elif kind == 1:
            file.write_bytes(rng.choice([b"", b"null", b"[]", b"{}", b"\xff\xfe", b'"x"', b"\x80\x04K\x01."]))
        elif kind == 2 or file.suffix != ".json":
            file.write_bytes(damaged(file.read_bytes(), rng))
        else:
            changed(file, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # tensors that are not used
        language = aep.load(place)
    aep.score("abca", language)
    aep.sample(language, tokens=2, seed=0)


def changed(file: Path, rng: random.Random) -> None:
    """One entry of a JSON file of another value, or left out; numbers stay small enough for the memory."""
    content = json.loads(file.read_text())
    part = content
    while True:
        name = rng.choice(sorted(part))
        if not isinstance(part[name], dict) or not part[name] or rng.random() < 0.5:
            break
        part = part[name]
    if rng.random() < 0.2:
        del part[name]
    else:
        part[name] = rng.choice(VALUES)
    file.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------------------------------------ tests

FAMILIES: dict[Callable, tuple[int, int]] = {  # cases: by default, and under `make test-slow`
    command_line: (45, 350),
    parameter_file: (45, 250),
    record: (30, 150),
    text_file: (15, 100),
    model_folder: (20, 150),
}


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """A hang is a failure: TimeoutError where the system has an alarm."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise KeyboardInterrupt(f"more than {seconds} s")  # nothing on the way takes it for a fault of the data

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(family: Callable, seeds: range, folder: Path, here: Path, limit: int = LIMIT) -> None:
    """Every case of a family; what is refused, is refused by an error of this package."""
    refused = 0
    for seed in seeds:
        with contextlib.chdir(here):
            shutil.rmtree("case", ignore_errors=True)
            Path("case").mkdir()
        with contextlib.chdir(here / "case"):
            try:
                with time_limit(limit):
                    family(random.Random(f"{family.__name__} {seed}"), folder)
            except AepError as error:
                assert str(error).strip() and "\n" not in str(error), f"case {seed}: {error!r} is not one line"
                refused += 1
            except BaseException as error:
                raise AssertionError(f"case {seed} of {family.__name__}: {type(error).__name__}: {error}") from error
            assert not list(Path().rglob("canary")), f"case {seed} ran code"
    if family in (parameter_file, model_folder):
        assert len(seeds) / 4 < refused < len(seeds), (
            "nearly all or nearly none were refused: the damage is of one kind"
        )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_damage_ends_in_one_line_and_within_seconds(family, folder, tmp_path):
    fuzz(family, range(FAMILIES[family][0]), folder, tmp_path)


def test_a_traceback_a_hang_and_a_message_of_two_lines_are_seen(folder, tmp_path):
    def fails(rng, folder):
        return {}["x"]

    def hangs(rng, folder):
        time.sleep(30)

    def talks(rng, folder):
        raise ParameterError("two\nlines")

    def obeys(rng, folder):
        Path("canary").touch()

    faults = {fails: "KeyError", talks: "not one line", obeys: "ran code"}
    if hasattr(signal, "SIGALRM"):
        faults[hangs] = "more than 1 s"
    for family, message in faults.items():
        with pytest.raises(AssertionError, match=message):
            fuzz(family, range(1), folder, tmp_path, limit=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_thousand_cases_of_damage_end_in_one_line_and_within_seconds(family, folder, tmp_path):
    few, many = FAMILIES[family]
    fuzz(family, range(few, few + many), folder, tmp_path)
