"""Processes that are killed, that work on one store at once, or run out of disk: the store ends whole all the same."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aep.store import KINDS, Store

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
if sys.argv[4] == "score":
    chain = MarkovChain(chain.transition) if hasattr(chain, "transition") else chain
    drawn = sample(chain, [[0], [1]], texts=int(sys.argv[2]), tokens=20, seed=5, batch=2000)
    scorer = Slow([[0.5, 0.25, 0.25], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]])
    print("ready", flush=True)
    print(len(aep.score(drawn, scorer, source=chain, store=sys.argv[1])) // 20, flush=True)
else:
    print("ready", flush=True)
    print(len(sample(chain, [[0], [1]], texts=int(sys.argv[2]), tokens=20, seed=5, batch=24, store=sys.argv[1])), flush=True)
"""


def start(store: Path, texts: int, pause: float, work: str = "sample") -> subprocess.Popen:
    """A process that samples or scores into `store`, after it has said that it begins."""
    command = [
        sys.executable,
        "-c",
        _CHILD,
        str(store),
        str(texts),
        str(pause if work == "sample" else pause / 4),
        work,
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n", child.communicate()[1]
    return child


def finish(child: subprocess.Popen) -> str:
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    return out + err


def state(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished file: a file that was made again has others."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for kind in KINDS for p in Store(store).files(kind)}


def rows(store: Path):
    opened = Store(store)
    if opened.files("tokens"):
        return opened.sql("SELECT * FROM tokens ORDER BY text_key, position")
    return opened.sql("SELECT * FROM texts ORDER BY prompt, number")


def assert_same_store(a: Path, b: Path) -> None:
    assert set(state(a)) == set(state(b))
    first, second = rows(a), rows(b)
    assert len(first) == len(second) and list(first.columns) == list(second.columns)
    for column in first.columns:
        if first[column].dtype != object:
            np.testing.assert_array_equal(first[column], second[column], err_msg=column)
            continue
        for x, y in zip(first[column], second[column], strict=True):
            assert np.array_equal(x, y), column


def kill_and_resume(folder: Path, kills: int, texts: int, pause: float, longest: float, work: str = "sample") -> None:
    """Kill a sampling or scoring process again and again, let the last one finish, and compare with an undisturbed store."""
    moments = random.Random(0)
    done: dict[str, tuple[int, int]] = {}
    cut = 0
    for _ in range(kills):
        child = start(folder / "killed", texts, pause, work)
        deadline = time.monotonic() + 60
        while not done and not state(folder / "killed") and time.monotonic() < deadline:  # a busy machine is slow
            time.sleep(0.01)
        time.sleep(moments.uniform(0, longest))
        cut += child.poll() is None
        child.kill()
        child.communicate()
        now = state(folder / "killed")
        assert done.items() <= now.items(), "a finished shard was made again"
        done = now
    assert cut == kills, "some process had ended before it was killed: there was too little work"
    assert done
    assert finish(start(folder / "killed", texts, pause, work)) == f"{2 * texts}\n"
    assert done.items() <= state(folder / "killed").items()
    finish(start(folder / "undisturbed", texts, 0.0, work))
    assert len(done) < len(state(folder / "undisturbed"))
    assert_same_store(folder / "killed", folder / "undisturbed")
    assert not Store(folder / "killed").damaged()


def test_a_run_killed_twice_resumes_and_ends_as_an_undisturbed_one(tmp_path):
    kill_and_resume(tmp_path, kills=2, texts=480, pause=0.02, longest=0.3)


def test_a_scoring_run_killed_twice_resumes_and_ends_as_an_undisturbed_one(tmp_path):
    kill_and_resume(tmp_path, kills=2, texts=1200, pause=0.2, longest=0.4, work="score")


@pytest.mark.faults
@pytest.mark.parametrize("work", ["sample", "score"])
def test_a_run_killed_at_twenty_moments_resumes_and_ends_as_an_undisturbed_one(work, tmp_path):
    texts, longest = (4000, 0.3) if work == "sample" else (12000, 0.8)
    kill_and_resume(tmp_path, kills=20, texts=texts, pause=0.01, longest=longest, work=work)


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
