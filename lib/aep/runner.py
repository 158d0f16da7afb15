"""Execute notebooks through papermill: names and parameters checked first, progress shown, failures kept, none fatal.

Where each run writes is decided by `outputs`; this module adds the executed notebook and the wall time to that folder.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import data_table, errors, outputs
from .errors import ParameterError, make_room, unknown_name
from .parameters import literal, read_mapping

__all__ = ["clean", "plans", "resolve", "run"]

# What nbstripout removes with --keep-output --keep-count and the extra keys of .pre-commit-config.yaml.
_NOTEBOOK_KEYS = ("papermill", "signature", "widgets")
_CELL_KEYS = ("papermill", "execution", "ExecuteTime", "collapsed", "heading_collapsed", "hidden", "scrolled")
_REFUSALS = {name for name in errors.__all__ if name[0].isupper()}  # classes; the other names are functions


def resolve(names: Sequence[str], root: Path | None = None) -> list[str]:
    """Numbers of the notebooks meant by "02", "2", "02_self_aep", "02_self_aep.ipynb", a path to one, or "all".

    Raises ParameterError naming the nearest valid names.
    """
    files = outputs.notebook_files(root)
    known = {stem: number for number, path in files.items() for stem in (number, path.stem)}
    found: list[str] = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        stem = stem.zfill(2) if stem.isdigit() else stem
        if stem != "all" and stem not in known:
            raise ParameterError(unknown_name("notebook", name, [p.stem for p in files.values()] + ["all"]))
        found += files if stem == "all" else [known[stem]]
    return list(dict.fromkeys(found))


def plans(
    numbers: Sequence[str],
    parameters: Mapping[str, Any],
    profile: str | None = None,
    file: Path | None = None,
    root: Path | None = None,
) -> list[outputs.Run]:
    """One Run per notebook, every name and value checked: the profile first, then the file, then single parameters.

    A single parameter goes to every notebook that has it and must belong to at least one. Raises ParameterError.
    """
    values: dict[str, dict[str, Any]] = {number: dict(outputs.defaults(number, root)) for number in numbers}
    if profile is not None:
        _add_sections(values, outputs.read_parameters(profile, root), f"notebooks/params/{profile}.yaml", root)
    if file is not None:
        content = _read_file(file)
        if all(isinstance(v, dict) for v in content.values()):
            _add_sections(values, content, str(file), root)
        else:
            _add_to_all(values, content)
    _add_to_all(values, parameters)
    return [outputs.plan(number, values[number], root) for number in numbers]


def _read_file(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file of parameters: either of sections, or of parameters."""
    content = {str(name): value for name, value in read_mapping(Path(file)).items()}
    if not content:
        raise ParameterError(f"{file} is empty: it must map parameter names to values")
    sections = [name for name, value in content.items() if isinstance(value, dict)]
    if sections and len(sections) < len(content):
        other = next(name for name in content if name not in sections)
        raise ParameterError(f"{file} has the section {sections[0]!r}, so {other!r} must stand in a section too")
    return content


def _add_sections(values: dict, sections: Mapping[str, Mapping], source: str, root: Path | None) -> None:
    """Overwrite with the sections of a parameter file; those of notebooks that do not run are left out."""
    for name, section in sections.items():
        for number in filter(values.__contains__, resolve([name], root)):
            for parameter, value in section.items():
                if parameter not in values[number]:
                    unknown = unknown_name("parameter", parameter, values[number])
                    raise ParameterError(f"{source}, section {name!r}: {unknown}")
                values[number][parameter] = value


def _add_to_all(values: dict, parameters: Mapping[str, Any]) -> None:
    """Overwrite in every notebook that has the parameter.

    A value in text is read as YAML unless the default says what it is: text, or a number (octal and base 60 in YAML).
    """
    valid = {name: None for section in values.values() for name in section}
    for name, value in parameters.items():
        if name not in valid:
            raise ParameterError(unknown_name("parameter", name, valid))
        for section in values.values():
            if name in section:
                spelled = isinstance(value, str) and not isinstance(section[name], str | bool | int | float)
                section[name] = literal(name, value) if spelled else value


def run(
    names: Sequence[str],
    parameters: Mapping[str, Any] | None = None,
    profile: str | None = None,
    file: Path | None = None,
    *,
    in_place: bool = False,
    root: Path | None = None,
) -> int:
    """Execute notebooks; 0 if all succeeded, 1 if one failed, 2 if those that did were refused, 130 after an interrupt.

    Refused is a notebook stopped by an error of `aep.errors`: a value that it cannot use, told of in one line.

    The executed notebook is ``notebook.ipynb`` in the run's folder; one that failed is kept there as
    ``<stem>.failed.ipynb`` and the others go on. With `in_place` the committed notebooks and their default parameters
    are rewritten, cleaned of times and paths.

    Raises ParameterError before anything starts: unknown notebook, parameter or profile, value of a wrong type.
    """
    root = root or outputs.repository()
    numbers = resolve(names, root)
    if not numbers:
        raise ParameterError(f"no notebooks in {root.name}/notebooks")
    if in_place:
        if parameters or profile is not None or file is not None:
            raise ParameterError("--in-place rewrites the committed notebooks, whose parameters are the defaults")
        outputs.write_defaults(root)
    failed, refused, started = [], [], time.monotonic()
    with _kernel_environment():
        for planned in plans(numbers, parameters or {}, profile, file, root):
            try:
                if error := _execute(planned, root, in_place):
                    failed.append(planned.stem)
                    refused += [planned.stem] if getattr(error, "ename", None) in _REFUSALS else []
            except KeyboardInterrupt:
                kept = "finished notebooks are kept, and the same command runs all of its notebooks again"
                print(f"aep: interrupted in {planned.stem}; {kept}", file=sys.stderr)
                return 130
            finally:
                if in_place:
                    data_table.update(root)
    total = f"{len(numbers)} notebook{'s' * (len(numbers) > 1)} in {time.monotonic() - started:.0f} s"
    print(f"{total}, failed: {', '.join(failed)}" if failed else f"{total}, all succeeded")
    return 0 if not failed else 2 if refused == failed else 1


@contextlib.contextmanager
def _kernel_environment() -> Iterator[None]:
    """No progress bar and no debugger warning on a notebook's stderr: the runner shows the progress itself.

    A kernel that dies, or is interrupted, is told of in one line of ours and not also by the libraries' loggers; asyncio's
    speaks when a task is collected, perhaps at the very end, so they stay silent.
    """
    for name in ("papermill", "traitlets", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    quiet = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    before = {name: os.environ.get(name) for name in quiet}
    os.environ.update(quiet)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _execute(planned: outputs.Run, root: Path, in_place: bool) -> Exception | None:
    """Execute one notebook and put it where it belongs; what stopped it, if anything."""
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError

    source = outputs.notebook_files(root)[planned.notebook]
    changed = {k: v for k, v in planned.parameters.items() if v != outputs.defaults(planned.notebook, root)[k]}
    planned.folder.mkdir(parents=True, exist_ok=True)
    outputs.sweep(planned.folder)
    part = planned.folder / f".{planned.stem}.{os.getpid()}.running.ipynb"  # of this process: another may run the same
    kept = planned.folder / f"{planned.stem}.failed.ipynb"
    started = time.monotonic()
    try:
        with _Progress(planned.stem, len(nbformat.read(source, 4).cells) + bool(changed)) as progress:
            papermill.execute_notebook(
                *(source, part, changed),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                on_cell_execute=progress,
                extra_arguments=["--IPKernelApp.log_level=50"],  # its warnings would stand among our lines
            )
    except (papermill.PapermillExecutionError, RuntimeError, CellTimeoutError) as error:  # RuntimeError: of the kernel
        _finish(part, kept)
        planned.update(status="failed", wall_seconds=round(time.monotonic() - started, 1))
        print(f"aep: {planned.stem} failed, {_reason(error)} ({_shown(kept, root)})", file=sys.stderr)
        return error
    except (KeyboardInterrupt, OSError) as error:
        _cut_off(planned, part, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", started)
        raise
    kept.unlink(missing_ok=True)
    _finish(part, planned.folder / "notebook.ipynb")
    planned.update(status="finished", wall_seconds=round(time.monotonic() - started, 1))
    where = _shown(planned.folder / "notebook.ipynb", root)
    if in_place:
        outputs.write_atomically(source, (planned.folder / "notebook.ipynb").read_text(encoding="utf-8"))
        where = _shown(source, root)
    print(f"{planned.stem}: done in {time.monotonic() - started:.0f} s, {where}")
    return None


def _cut_off(planned: outputs.Run, part: Path, status: str, started: float) -> None:
    """What is left to do for a run that was interrupted, or that the disk had no room for."""
    part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        planned.update(status=status, wall_seconds=round(time.monotonic() - started, 1))


def _reason(error: Exception) -> str:
    """Cell, exception and message on one line."""
    if not hasattr(error, "ename"):
        return f"the kernel stopped: {type(error).__name__}: {' '.join(str(error).split())}"
    said = " ".join(str(error.evalue).split())
    return f"cell {error.exec_count}: {error.ename}: {said}{'' if 'make room' in said else make_room(error)}"


def _shown(path: Path, root: Path) -> str:
    """A path as a reader of the repository would write it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _finish(part: Path, target: Path) -> None:
    """Clean an executed notebook and give it its final name."""
    import nbformat

    try:
        if part.is_file():
            notebook = clean(nbformat.read(part, as_version=4))
            outputs.write_atomically(target, nbformat.writes(notebook) + "\n")
    finally:
        part.unlink(missing_ok=True)


def clean(notebook):
    """Remove times, paths and versions from a notebook's metadata; outputs, counts and tags stay. Returns `notebook`.

    A cleaned notebook is what nbstripout leaves, and is byte-identical when it is executed again with the same result.
    """
    for key in _NOTEBOOK_KEYS:
        notebook.metadata.pop(key, None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    for i, cell in enumerate(notebook.cells):
        cell["id"] = str(i)
        for key in _CELL_KEYS:
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            cell["outputs"] = _joined_streams(cell.outputs)
    return notebook


def _joined_streams(parts: list) -> list:
    """Neighbouring pieces of one stream as one: how a kernel splits them is a matter of timing."""
    joined: list = []
    for part in parts:
        if joined and part.output_type == "stream" == joined[-1].output_type and part.name == joined[-1].name:
            joined[-1]["text"] += part.text
        else:
            joined.append(part)
    return joined


class _Progress:
    """Cells done so far: a bar in a terminal, otherwise at most one line every five seconds."""

    def __init__(self, stem: str, cells: int):
        self.stem, self.cells = stem, cells
        self.started, self.shown, self.bar = time.monotonic(), -60.0, None

    def __enter__(self):
        if sys.stderr.isatty():
            from tqdm import tqdm

            # Not `_progress.progress`: the switch is off for the notebooks, whose progress this is.
            self.bar = tqdm(desc=self.stem, total=self.cells, unit="cell", leave=False, disable=False)
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def __call__(self, cell=None, cell_index=None, **_):
        elapsed = time.monotonic() - self.started
        if self.bar is not None:
            self.bar.update(cell_index - self.bar.n)
        elif elapsed - self.shown >= 5:
            self.shown = elapsed
            print(f"{self.stem}: cell {cell_index + 1}/{self.cells}, {elapsed:.0f} s", flush=True)
