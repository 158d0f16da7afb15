"""Processes that are killed, that work on one store at once, or run out of disk: the store ends whole all the same."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aep.store import Store

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill a process outright")

_CHILD = """
import sys, time
import numpy as np
import aep
from aep.languages import MarkovChain

class Slow(MarkovChain):
    def start(self, prompts):
        time.sleep(float(sys.argv[3]))
        return super().start(prompts)

chain = Slow([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], [0.2, 0.5, 0.3])
sample = aep.sample  # imported here and now, before the clock of the test starts
print("ready", flush=True)
drawn = sample(chain, [[0], [1]], texts=int(sys.argv[2]), tokens=20, seed=5, batch=24, store=sys.argv[1])
print(len(drawn), flush=True)
"""


def start(store: Path, texts: int, pause: float) -> subprocess.Popen:
    """A process that samples into `store`, after it has said that it begins."""
    command = [sys.executable, "-c", _CHILD, str(store), str(texts), str(pause)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n", child.communicate()[1]
    return child


def finish(child: subprocess.Popen) -> str:
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    return out + err


def state(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished file: a file that was made again has others."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Store(store).files("texts")}


def rows(store: Path):
    return Store(store).sql("SELECT * FROM texts ORDER BY prompt, number")


def assert_same_store(a: Path, b: Path) -> None:
    assert set(state(a)) == set(state(b))
    first, second = rows(a), rows(b)
    assert len(first) == len(second) and list(first.columns) == list(second.columns)
    for column in first.columns:
        for x, y in zip(first[column], second[column], strict=True):
            np.testing.assert_array_equal(x, y, err_msg=column)


def kill_and_resume(folder: Path, kills: int, texts: int, pause: float, longest: float) -> None:
    """Kill a sampling process again and again, let the last one finish, and compare with an undisturbed store."""
    moments = random.Random(0)
    done: dict[str, tuple[int, int]] = {}
    cut = 0
    for _ in range(kills):
        child = start(folder / "killed", texts, pause)
        time.sleep(moments.uniform(0, longest))
        cut += child.poll() is None
        child.kill()
        child.communicate()
        now = state(folder / "killed")
        assert done.items() <= now.items(), "a finished shard was made again"
        done = now
    assert cut == kills, "some process had ended before it was killed: there was too little work"
    assert done
    assert finish(start(folder / "killed", texts, pause)) == f"{2 * texts}\n"
    assert done.items() <= state(folder / "killed").items()
    finish(start(folder / "undisturbed", texts, 0.0))
    assert len(done) < len(state(folder / "undisturbed"))
    assert_same_store(folder / "killed", folder / "undisturbed")
    assert not Store(folder / "killed").damaged()


def test_a_run_killed_twice_resumes_and_ends_as_an_undisturbed_one(tmp_path):
    kill_and_resume(tmp_path, kills=2, texts=480, pause=0.02, longest=0.3)


@pytest.mark.faults
def test_a_run_killed_at_twenty_moments_resumes_and_ends_as_an_undisturbed_one(tmp_path):
    kill_and_resume(tmp_path, kills=20, texts=4000, pause=0.01, longest=0.3)


def test_two_processes_that_want_the_same_texts_at_once_both_get_them(tmp_path):
    children = [start(tmp_path / "shared", 160, 0.01) for _ in range(2)]
    for child in children:
        assert finish(child) == "320\n"
    finish(start(tmp_path / "alone", 160, 0.0))
    assert_same_store(tmp_path / "shared", tmp_path / "alone")
    assert not [p for p in (tmp_path / "shared").rglob("*") if p.name.startswith(".")]


_FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
import aep
from aep.errors import RecordError
from aep.languages import MarkovChain
try:
    aep.sample(MarkovChain([[0.5, 0.5], [0.2, 0.8]]), texts=16, tokens=400, seed=0, store=sys.argv[1])
except RecordError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing_half_written(tmp_path):
    child = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True)
    assert child.stdout.startswith(f"cannot write {tmp_path}") and child.stdout.count("\n") == 1, child.stderr
    assert "too large" in child.stdout
    assert child.stderr == ""
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
