"""Commands in processes of their own that may be killed, interrupted, run side by side, or be given a disk that is full.

`Server` starts one process that imports everything once and forks a child per command: a kill costs milliseconds, and its
moment falls into the work and not into the imports. Run as a program, this file is that process: it reads one request per
line and answers each with one line (JSON).
"""

import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve()
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
TIMES = ("started", "wall_seconds", "seconds", "cpu_seconds")  # of run.json and card.json


class Ended(NamedTuple):
    """How a child ended: exit code or None, signal or None, seconds, and what it printed."""

    code: int | None
    signal: int | None
    seconds: float
    out: str
    err: str


class Server:
    """The process that forks; with `disk`, a folder on which it has a file system of `size` of its own."""

    def __init__(self, scratch: Path, disk: Path | None = None, size: str = "4m"):
        command = [sys.executable, str(HERE), str(scratch)]
        if disk is not None:
            mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
            command = [*NAMESPACE, "sh", "-c", mount, str(disk), *command]
        scratch.mkdir(parents=True, exist_ok=True)
        paths = (str(HERE.parent), *sys.path)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        environment |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("AEP_OUTPUT_ROOT", None)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def __enter__(self) -> "Server":
        assert self._answer() == "ready"
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _answer(self):
        line = self.process.stdout.readline()
        assert line, "the process that forks has ended"
        return json.loads(line)

    def ask(self, **request):
        """The answer to a request."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def run(self, *jobs: dict, send: int | None = None, after: float = 0.0) -> list[Ended]:
        """Run the jobs at once; with `send`, each gets that signal `after` so many seconds unless it has ended."""
        return [Ended(*ended) for ended in self.ask(do="run", jobs=jobs, send=send, after=after)]

    def content(self, folder: Path) -> dict[str, str]:
        """`content` as the process sees it (a disk of its own is seen by no other)."""
        return self.ask(do="content", folder=str(folder))


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of what it holds; times, and what killed processes leave hidden, left out."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        raw = path.read_bytes()
        if path.suffix == ".pt":
            continue  # a checkpoint holds seconds; the weights that it leads to are compared
        if path.name in ("run.json", "card.json"):
            raw = json.dumps(_timeless(json.loads(raw))).encode()
        if path.name == "README.md" and (path.parent / "card.json").exists():
            continue  # the page of the card, with its times
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(raw).hexdigest()
    return found


def _timeless(said: dict) -> dict:
    kept = {k: _timeless(v) if isinstance(v, dict) else v for k, v in said.items() if k not in TIMES}
    if "curve" in kept:
        kept["curve"] = [row[:-1] for row in kept["curve"]]
    return kept


def own_places(folder: Path, scratch: Path) -> dict[str, str]:
    """Environment variables that keep all that a command writes below a folder, and what Jupyter notes below another."""
    jupyter = {"JUPYTER_RUNTIME_DIR": str(scratch / "jupyter"), "IPYTHONDIR": str(scratch / "ipython")}
    return {"AEP_HOME": str(folder / "home"), "FAULT_HOUSE": str(folder), **jupyter}


def left_hidden(folder: Path) -> list[str]:
    """Temporary files that killed processes have left."""
    return [p.name for p in folder.rglob(".*.tmp") if p.is_file()]


# --------------------------------------------------------------------------------------------- what the children do


def interruptible(module, name: str) -> None:
    """From the first call of a function on, Ctrl-C interrupts (the command's own guard stands by then)."""
    function = getattr(module, name)

    def called(*arguments, **options):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return function(*arguments, **options)

    setattr(module, name, called)


def main(arguments: list[str]) -> int:
    """The command line."""
    from aep import __main__ as module

    interruptible(module, "_arguments")
    return module.main(arguments)


def command(job: dict) -> int:
    """The command line, in the folder of the job, with its own home and repository."""
    return main(job["arguments"])


def train(job: dict) -> int:
    """``python -m aep train tiny``: a recipe of seconds, a checkpoint after every step (or as often as usual)."""
    import dataclasses

    from aep.neural.training import configs, corpus
    from aep.neural.training import train as training
    from test_training import TEXTS, TINY

    documents = [corpus.Document(f"d{i}", text, "") for i, text in enumerate(TEXTS)]
    corpus.load_split = lambda name: documents if name == "training" else documents[:4]
    configs.FAMILY["tiny"] = dataclasses.replace(TINY, steps=job.get("steps", 40))
    training.MODELS = Path(job["folder"]) / "models"
    training.CHECKPOINT_EVERY = job.get("every", 0.0)
    return main(["train", "tiny"])


def _chain():
    from aep.languages import MarkovChain

    return MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], [0.2, 0.5, 0.3])


def sample_store(job: dict) -> int:
    """`aep.sample` of a chain into a store."""
    import aep

    aep.sample(_chain(), [[0], [1], [2]], texts=100, tokens=20, seed=5, batch=24, store=job["folder"] + "/store")
    return 0


def score_store(job: dict) -> int:
    """`aep.score` of texts of a chain into a store."""
    import aep
    from aep.languages import MarkovChain

    chain = _chain()
    texts = aep.sample(chain, [[0], [1], [2]], texts=300, tokens=30, seed=5, batch=900)
    scorer = MarkovChain([[0.5, 0.25, 0.25], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]])
    aep.score(texts, scorer, source=chain, store=job["folder"] + "/store")
    return 0


def bench(job: dict) -> int:
    """``python -m aep bench`` of two rows of ours, the second of which takes as long as it is told."""
    from aep import data_table
    from aep.bench import registry

    rows = {"a_quick": lambda: [1.0, 2.0, 3.0], "b_slow": lambda: [time.sleep(job["seconds"]) or 1.0] * 3}
    registry.rows = lambda: {name: registry.Row(name, "1", "", measure) for name, measure in rows.items()}
    registry.repository = data_table.repository = lambda: Path(job["folder"])
    return main(["bench", *rows])


def site(job: dict) -> int:
    """``python -m aep.site``."""
    from aep import site as pages

    pages.repository = lambda: Path(job["folder"])
    interruptible(pages, "build")
    return pages.main(["html"])


WORKS = {f.__name__: f for f in (command, train, sample_store, score_store, bench, site)}


# ------------------------------------------------------------------------------------------------ the process that forks


def _fork(job: dict, said: Path) -> int:
    """Fork a child for a job; its number. The child never returns from here."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(said.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    os.environ.update(own_places(folder, said.parent))
    if job.get("house"):
        from aep import outputs

        outputs.repository = lambda: folder
    if "limit" in job:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    try:
        code = WORKS[job["work"]](job)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what Python does at its end takes seconds after so many imports


def _run(jobs: list[dict], send: int | None, after: float, scratch: Path) -> list:
    """Start all, signal those that live, wait for all. A child that is not waited for yet keeps its number."""
    begun = time.monotonic()
    said = [scratch / f"{k}" for k in range(len(jobs))]
    children = [_fork(job, place) for job, place in zip(jobs, said, strict=True)]
    if send is not None:
        time.sleep(max(0.0, begun + after - time.monotonic()))
        for child in children:
            os.kill(child, send)
    ended = []
    for child, place in zip(children, said, strict=True):
        status = os.waitpid(child, 0)[1]
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        printed = [place.with_suffix(f".{n}") for n in ("out", "err")]
        texts = [p.read_text(encoding="utf-8") if p.exists() else "" for p in printed]
        for path in printed:
            path.unlink(missing_ok=True)
        ended.append([code, killed, time.monotonic() - begun, *texts])
    return ended


def fill(folder: Path, free: int) -> None:
    """Fill the file system of a folder but for about `free` bytes; with a negative number, empty it again."""
    (folder / ".filler").unlink(missing_ok=True)
    if free >= 0:
        status = os.statvfs(folder)
        size = max(0, status.f_bavail * status.f_frsize - free)
        (folder / ".filler").write_bytes(b"0" * size)


def answer(request: dict, scratch: Path):
    """What a request asks for."""
    match request["do"]:
        case "run":
            return _run(request["jobs"], request["send"], request["after"], scratch)
        case "content":
            return content(Path(request["folder"]))
        case "fill":
            return fill(Path(request["folder"]), request["free"])
        case "copy":
            return str(shutil.copytree(request["source"], request["target"], dirs_exist_ok=True))
        case "remove":
            return shutil.rmtree(request["folder"])


def serve(scratch: Path) -> None:
    """Import all that the commands need, then answer requests until there are no more."""
    import nbconvert  # noqa: F401
    import papermill  # noqa: F401

    import aep
    import test_training  # noqa: F401
    from aep import __main__, _commands, bench, runner, site  # noqa: F401
    from aep.neural.training import train  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    aep.load("docs-100k").encode("a")
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), scratch)), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
