"""Kills, interrupts, full disks, damaged files and failing models, command by command: nothing is lost, nothing is doubled.

Each command is cut off at moments spread evenly at random over an undisturbed run of it, then given again until it ends;
what it leaves is compared with that undisturbed run, file by file and byte by byte (times left out). The short form has a
few such moments per command, the long one (marker `faults`) more than a hundred.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from aep import data_table, outputs
from fault_children import NAMESPACE, Ended, Server, content, left_hidden, own_places
from tiny_models import one_thread  # noqa: F401

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

CELLS = [
    "import os\nfrom pathlib import Path\n\nimport pandas as pd\n\nimport aep\nfrom aep.languages import MarkovChain",
    "texts: int = 2\nseed: int = 7",
    'run = aep.begin("01", globals(), Path(os.environ["FAULT_HOUSE"]))',
    "chain = MarkovChain([[0.7, 0.3], [0.4, 0.6]])\n"
    "drawn = aep.sample(chain, [[0], [1]], texts=texts, tokens=9, seed=seed, store=True)",
    'for letter in "abc":\n    run.save(pd.DataFrame({"length": [len(ids) for ids in drawn.ids]}), f"01{letter}_x")',
]
TABLE = "| file | what | source | licence | units | sha256 |\n|---|---|---|---|---|---|\n"
README = "".join(f"| Claim {n} | [{n} · Title](notebooks/{n}_toy.ipynb) | {n}a | 1 |\n" for n in ("01", "02", "03"))


def text_file(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text("The mean of an array along an axis. " * 400, encoding="utf-8")


def house(folder: Path, numbers=("01",)) -> None:
    """A repository of one small notebook, or of several that are equal but for their number."""
    (folder / "notebooks").mkdir(parents=True)
    for number in numbers:
        cells = [nbformat.v4.new_code_cell(source.replace('"01', f'"{number}')) for source in CELLS]
        cells[1].metadata["tags"] = ["parameters"]
        for k, cell in enumerate(cells):
            cell["id"] = str(k)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebooks" / f"{number}_toy.ipynb")
    outputs.write_defaults(folder)


def pages(folder: Path) -> None:
    house(folder, ("01", "02", "03"))
    (folder / "README.md").write_text(README, encoding="utf-8")


def results(folder: Path) -> None:
    (folder / "data" / "results").mkdir(parents=True)
    (folder / "data" / "README.md").write_text(f"# Data\n\n{TABLE}", encoding="utf-8")


def nothing(folder: Path) -> None:
    folder.mkdir(parents=True)


SAMPLE = ["sample", "docs-100k", "--texts", "128", "--tokens", "12", "-o", "t.parquet"]
SCORE = ["score", "docs-100k", "text.txt", "-o", "t.parquet"]
RUN = ["run", "01", "-p", "texts", "40"]
# A command: what its folder holds before it begins, and the job.
COMMANDS = {
    "sample": (nothing, {"work": "command", "arguments": SAMPLE}),
    "score": (text_file, {"work": "command", "arguments": SCORE}),
    "train": (nothing, {"work": "train"}),
    "run": (house, {"work": "command", "arguments": RUN, "house": True}),
    "sample into a store": (nothing, {"work": "sample_store"}),
    "score into a store": (nothing, {"work": "score_store"}),
    "site": (pages, {"work": "site"}),
    "bench": (results, {"work": "bench", "seconds": 0.4}),
}
KILLED = {"sample": 24, "score": 14, "train": 28, "run": 24, "sample into a store": 24, "score into a store": 24}
CUT = {**KILLED, "site": 6, "bench": 6}
"""Kills that hit a living process, in the long form."""

HITS: dict[str, list[int]] = {}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """undisturbed(command): seconds and content of a run of that nothing has disturbed."""
    known = {}

    def run(name: str) -> tuple[float, dict[str, str]]:
        if name not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "a"
            COMMANDS[name][0](folder)
            before = content(folder)
            ended = server.run({**COMMANDS[name][1], "folder": str(folder)})[0]
            assert ended.code == 0, ended.err
            known[name] = ended.seconds, content(folder)
            assert known[name][1] != before
        return known[name]

    return run


def one_line(ended: Ended, *expected: str) -> None:
    """Exit code 130 or 2 with one line on stderr that holds what is expected."""
    lines = [line for line in ended.err.splitlines() if "resuming at step" not in line]
    assert len(lines) == 1 and "Traceback" not in ended.out, ended.err + ended.out
    for part in expected:
        assert part in lines[0], lines


def cut_off(server, undisturbed, tmp_path, name: str, kills: int, seed: int) -> None:
    """Trials, each of up to four moments at which the command is killed (the second time interrupted), then given
    again to its end, until so many kills have hit a living process."""
    longest, whole = undisturbed(name)
    source, hits, interrupts, begun = random.Random(seed), 0, 0, time.monotonic()
    prepare, job = COMMANDS[name]
    of_library, trials = job["work"] in ("sample_store", "score_store"), 0  # where an interrupt is an exception
    while hits < kills or not (interrupts or of_library):
        folder = tmp_path / f"{trials}"
        trials += 1
        assert trials <= 3 * kills + 12, f"{hits} kills and {interrupts} interrupts hit in {trials} trials"
        prepare(folder)
        for k in range(4):
            send = signal.SIGINT if k == 1 and not of_library else signal.SIGKILL
            ended = server.run({**job, "folder": str(folder)}, send=send, after=source.uniform(0, longest))[0]
            if ended.signal == signal.SIGKILL:
                hits += 1
            elif ended.code == 130:
                interrupts += 1
                one_line(ended, "interrupted", "the same command")
            else:  # it had ended already
                assert ended.code == 0 and ended.signal is None, ended
                longest = longest if k else 0.9 * longest  # the undisturbed run was on a busier machine
                break
            if hits >= kills and (interrupts or of_library):
                break
        last = server.run({**job, "folder": str(folder)})[0]
        assert last.code == 0, last.err
        assert content(folder) == whole, f"trial {trials - 1}"
        shutil.rmtree(folder)
    HITS[name] = [hits, interrupts, trials, round(time.monotonic() - begun)]
    print(f"{name}: {hits} kills and {interrupts} interrupts hit in {trials} trials, undisturbed {longest:.1f} s")


@pytest.mark.parametrize("name", ["sample", "train", "run"])
def test_a_command_that_is_cut_off_twice_ends_as_an_undisturbed_one(server, undisturbed, tmp_path, name):
    cut_off(server, undisturbed, tmp_path, name, kills=1, seed=1)


@pytest.mark.faults
@pytest.mark.parametrize("name", CUT)
def test_a_command_that_is_cut_off_many_times_ends_as_an_undisturbed_one(server, undisturbed, tmp_path, name):
    cut_off(server, undisturbed, tmp_path, name, kills=CUT[name], seed=2)


@pytest.mark.faults
def test_more_than_a_hundred_kills_have_hit():
    print({name: f"{hits[0]} kills, {hits[1]} interrupts, {hits[3]} s" for name, hits in HITS.items()})
    if not set(KILLED) <= set(HITS):
        pytest.skip("not every command was killed in this run")
    assert sum(HITS[name][0] for name in KILLED) >= 100


def test_the_comparison_sees_a_file_that_is_missing_or_altered(server, undisturbed, tmp_path):
    """Negative control."""
    _, whole = undisturbed("sample into a store")
    job = COMMANDS["sample into a store"][1]
    assert server.run({**job, "folder": str(tmp_path)})[0].code == 0 and content(tmp_path) == whole
    path = sorted(tmp_path.rglob("*.parquet"))[5]
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert content(tmp_path) != whole
    path.unlink()
    assert content(tmp_path) != whole and not left_hidden(tmp_path)


# ---------------------------------------------------------------------------------------------------- two at once


def at_once(server, undisturbed, tmp_path, name: str, times: int) -> None:
    """Two equal commands in one place, begun at the same moment: both end well, and leave what one would."""
    _, whole = undisturbed(name)
    prepare, job = COMMANDS[name]
    for k in range(times):
        folder = tmp_path / f"{k}"
        prepare(folder)
        both = server.run(*[{**job, "folder": str(folder)}] * 2)
        assert [ended.code for ended in both] == [0, 0], both[0].err + both[1].err
        assert content(folder) == whole and not left_hidden(folder)
        shutil.rmtree(folder)


TWO = ["sample", "score", "run", "train", "sample into a store", "score into a store"]


@pytest.mark.parametrize("name", ["sample", "run"])
def test_two_commands_at_once_leave_what_one_would(server, undisturbed, tmp_path, name):
    at_once(server, undisturbed, tmp_path, name, times=1)


@pytest.mark.faults
@pytest.mark.parametrize("name", TWO)
def test_two_commands_at_once_leave_what_one_would_each_time(server, undisturbed, tmp_path, name):
    at_once(server, undisturbed, tmp_path, name, times=6)


# ------------------------------------------------------------------------------------------------------- a full disk


def refused_for_room(ended: Ended, name: str) -> None:
    """One line that says that there is no room, and what to do."""
    reasons = ("No space left on device", "File too large", "file too large")
    if "into a store" in name:  # a call, not a command
        last = ended.err.strip().splitlines()[-1]
        assert last.startswith("aep.errors.RecordError: cannot ") and "make room" in last, ended.err
        return
    assert ended.code in (1, 2) and "Traceback" not in ended.out + ended.err, ended.err
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("aep: "), ended.err
    assert any(reason in lines[0] for reason in reasons) and "make room" in lines[0], lines


@pytest.mark.parametrize(("name", "limit"), [("train", 4000), ("run", 2000)])
def test_a_limit_on_the_size_of_files_is_one_line_and_without_it_the_same_command_ends(
    server, undisturbed, tmp_path, name, limit
):
    prepare, job = COMMANDS[name]
    folder = tmp_path / "a"
    prepare(folder)
    job = {**job, "folder": str(folder), "every": 300.0}
    refused_for_room(server.run({**job, "limit": limit})[0], name)
    assert server.run(job)[0].code == 0
    assert content(folder) == undisturbed(name)[1] and not left_hidden(folder)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A server with a small file system of its own, and the folder where it has it."""
    folder = tmp_path_factory.mktemp("disk")
    trial = [*NAMESPACE, "sh", "-c", 'mount -t tmpfs -o size=64k none "$0"', str(folder)]
    try:
        if subprocess.run(trial, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
    except FileNotFoundError:
        pytest.skip("there is no unshare, with which a file system could be mounted")
    with Server(tmp_path_factory.mktemp("server"), disk=folder, size="8m") as server:
        yield server, folder


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_is_one_line_and_with_room_the_same_command_ends(disk, undisturbed, tmp_path, name):
    server, place = disk
    prepare, job = COMMANDS[name]
    prepare(tmp_path / "a")
    folder = place / "work"
    job, refused = {**job, "folder": str(folder), "every": 300.0}, []
    for room in (0, 4096, 12_288, 40_960, 122_880, 409_600, 1_228_800):  # tmpfs gives whole pages
        server.ask(do="copy", source=str(tmp_path / "a"), target=str(folder))
        server.ask(do="fill", folder=str(place), free=room)
        ended = server.run(job)[0]
        server.ask(do="fill", folder=str(place), free=-1)
        again, found = server.run(job)[0], server.content(folder)
        server.ask(do="remove", folder=str(folder))
        assert again.code == 0, again.err
        assert found == undisturbed(name)[1], f"after {room} bytes of room"
        if ended.code != 0:
            refused_for_room(ended, name)
            refused.append(room)
    print(f"{name}: refused with room for {refused} bytes")
    assert refused


# ------------------------------------------------------------------------------------------- what a cut in between leaves


def test_an_interrupt_of_the_table_of_data_is_one_line_and_leaves_it_as_it_was(tmp_path, monkeypatch, capsys):
    results(tmp_path)
    (tmp_path / "data" / "results" / "a.csv").write_text("x\n1\n")

    def interrupted(_):
        raise KeyboardInterrupt

    before = (tmp_path / "data" / "README.md").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(data_table, "repository", lambda: tmp_path)
        patch.setattr(data_table, "_digest", interrupted)
        assert data_table.main() == 130
    err = capsys.readouterr().err
    assert err.startswith("aep: interrupted; ") and "the same command" in err and err.count("\n") == 1
    assert (tmp_path / "data" / "README.md").read_text() == before
    monkeypatch.setattr(data_table, "repository", lambda: tmp_path)
    assert data_table.main() == 0 and "results/a.csv" in (tmp_path / "data" / "README.md").read_text()


def test_a_figure_cut_off_between_its_two_files_is_drawn_whole_again(tmp_path, monkeypatch):
    from aep import plotting

    run = outputs.Run("01", "01_toy", {}, False, tmp_path, tmp_path, tmp_path)

    def draw(height):
        figure, axes = plotting.figure()
        axes.plot([0, 1], [0, height])
        plotting.savefig(figure, run, "fig01a_line")
        plotting.plt.close(figure)
        return [(tmp_path / f"fig01a_line.{kind}").read_bytes() for kind in ("pdf", "png")]

    first, write, written = draw(1), plotting.write_atomically, []

    def once(path, text):
        if written:
            raise KeyboardInterrupt
        written.append(write(path, text))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(plotting, "write_atomically", once)
        draw(3)
    second = draw(3)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert second == draw(3) and all(a != b for a, b in zip(first, second))


def test_what_killed_processes_left_is_swept_away_after_an_hour(tmp_path):
    kept = [tmp_path / ".a.csv.1.tmp", tmp_path / "a.csv"]
    old = [tmp_path / ".b.csv.2.tmp", tmp_path / ".01_toy.3.running.ipynb", tmp_path / ".tiny.4.tmp"]
    old[2].mkdir()
    for path in (*kept, *old[:2]):
        path.write_text("half")
    for path in (kept[1], *old):
        os.utime(path, (0, 0))
    outputs.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


# --------------------------------------------------------------------------------------- the command line as a user has it


@pytest.fixture
def copied(tmp_path, repository) -> tuple[Path, dict[str, str]]:
    """A folder with the library, a small notebook, a site and a table of data of its own, and the environment for it."""
    folder = tmp_path / "copy"
    pages(folder)
    results(folder)
    (folder / "text.txt").write_text("The mean of an array along an axis. " * 400, encoding="utf-8")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / "lib" / "aep", folder / "lib" / "aep", ignore=ignored)
    shutil.copytree(repository / "data" / "models" / "docs-100k", folder / "data" / "models" / "docs-100k")
    environment = os.environ | own_places(folder, tmp_path) | {"PYTHONPATH": str(folder / "lib"), "HF_HUB_OFFLINE": "1"}
    environment.pop("AEP_OUTPUT_ROOT", None)
    return folder, environment | {"OMP_NUM_THREADS": "1"}


def started(copied, module: str, *arguments: str) -> subprocess.Popen:
    """``python -m MODULE ARGUMENTS`` in the copy; Ctrl-C interrupts it even where a shell would have it ignored."""
    folder, environment = copied
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    back = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes, **back)


REAL = {
    "sample": ("aep", *SAMPLE),
    "score": ("aep", *SCORE),
    "run": ("aep", *RUN),
    "site": ("aep.site", "html"),
    "data_table": ("aep.data_table",),
}


def left_by(folder: Path) -> dict[str, str]:
    return {name: h for name, h in content(folder).items() if not name.startswith(("lib/", "data/models/"))}


@pytest.mark.faults
@pytest.mark.parametrize("name", REAL)
def test_the_command_itself_killed_and_interrupted_at_random_moments_ends_as_an_undisturbed_one(copied, name):
    folder = copied[0]
    before = left_by(folder)

    def clean():
        for path in [folder / n for n in left_by(folder) if n not in before]:
            path.unlink()
        (folder / "data" / "README.md").write_text(f"# Data\n\n{TABLE}", encoding="utf-8")

    begun = time.monotonic()
    undisturbed = started(copied, *REAL[name])
    out, err = undisturbed.communicate(timeout=300)
    longest, whole = time.monotonic() - begun, left_by(folder)
    assert undisturbed.returncode == 0 and whole != before, out + err
    source, hits, interrupts = random.Random(7), 0, 0
    for _ in range(4):
        clean()
        for send in (signal.SIGKILL, signal.SIGINT):
            child = started(copied, *REAL[name])
            time.sleep(source.uniform(0, longest))
            child.send_signal(send)
            out, err = child.communicate(timeout=300)
            hits += child.returncode == -signal.SIGKILL
            if child.returncode == 130:
                interrupts += 1
                one_line(Ended(130, None, 0.0, out, err), "aep: interrupted", "the same command")
            else:  # Python itself ends so while it starts
                assert child.returncode in (0, -signal.SIGKILL, -signal.SIGINT), (child.returncode, err)
        last = started(copied, *REAL[name])
        out, err = last.communicate(timeout=300)
        assert last.returncode == 0, err
        assert left_by(folder) == whole
    print(f"python -m {' '.join(REAL[name])}: {hits} kills, {interrupts} interrupts hit, undisturbed {longest:.1f} s")
