"""Where a notebook writes: the repository if its parameters are unchanged, ``runs/<notebook>-<hash>/`` if not.

The rule lives here, inside the notebook's own process, so that papermill, ``python -m aep run``, nbval and a run by
hand in JupyterLab all obey it. Every path is resolved from the package, never from the working directory.
"""

import ast
import hashlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ._agree import texts_agree
from ._folders import require_writable
from .errors import ParameterError, RecordError, shown, unknown_name
from .parameters import coerce, read_mapping

__all__ = [
    "Run",
    "begin",
    "committed",
    "declared",
    "defaults",
    "notebook_files",
    "notebook_number",
    "plan",
    "read_parameters",
    "repository",
    "sweep",
    "write_atomically",
    "write_defaults",
]

_PACKAGES = [
    *("aep", "numpy", "scipy", "pandas", "torch", "transformers", "tokenizers", "safetensors", "pyarrow", "duckdb"),
    *("matplotlib", "scikit-learn", "arviz-stats", "array-api-compat", "papermill"),
]


def repository() -> Path:
    """The root of the repository this package was imported from."""
    return Path(__file__).resolve().parents[2]


def notebook_files(root: Path | None = None) -> dict[str, Path]:
    """Number -> file of every notebook: ``{"01": .../01_toy_dirichlet.ipynb, "A1": ...}``, in reading order."""
    folder = (root or repository()) / "notebooks"
    files = (p for p in folder.glob("*_*.ipynb") if re.fullmatch(r"(\d\d|A\d)_\w+", p.stem))
    return {notebook_number(p.stem): p for p in sorted(files)}


def notebook_number(stem: str) -> str:
    """``"02_self_aep"`` -> ``"02"``."""
    return stem.partition("_")[0]


def committed(name: str) -> pd.DataFrame:
    """The table ``data/results/<name>.csv`` as committed: what a long computation outside the notebooks has left.

    Raises RecordError if it is missing, damaged, or not the one whose checksum data/README.md has (a table without a row
    there is read without that check).
    """
    from .data_table import verified  # which imports this module

    path = verified(f"results/{name}.csv", repository())
    try:
        return pd.read_csv(path)
    except ValueError as error:
        why = str(error).strip().splitlines()[0]
        raise RecordError(f"data/results/{path.name} is not a table ({why}): restore it from git") from None


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write bytes, or text as UTF-8, under a temporary name, then rename: a reader sees the old file or the new one.

    An OSError names `path`, also where the system does not (a disk that is full).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        part.write_bytes(text.encode() if isinstance(text, str) else text)
        os.replace(part, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path, age: float = 3600.0) -> None:
    """Remove what killed processes have left in a folder: hidden temporary files and folders not written to for `age` s."""
    for path in [*folder.glob(".*.tmp"), *folder.glob(".*.running.ipynb")]:
        with suppress(OSError):  # of another process that is just removing it
            if time.time() - path.stat().st_mtime > age:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


# ---------------------------------------------------------------------------------------------------------- parameters


def declared(notebook: Path) -> dict[str, Any]:
    """Names and default values in the cell tagged ``parameters`` of a notebook file.

    Raises ParameterError if there is no such cell, or if one of its values is not a literal.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ParameterError(f"{notebook.name} is not a notebook: {error}") from error
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ParameterError(f"{notebook.name} has no cell tagged 'parameters'")
    values: dict[str, Any] = {}
    for node in ast.parse("".join(tagged[0]["source"])).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        name = getattr(targets[0], "id", None)
        try:
            values[name] = ast.literal_eval(node.value)
        except (AttributeError, ValueError) as error:
            raise ParameterError(f"{notebook.name}: not a typed literal: {ast.unparse(node)!r}") from error
    return values


def read_parameters(profile: str, root: Path | None = None) -> dict[str, dict[str, Any]]:
    """The sections of ``notebooks/params/<profile>.yaml``: notebook number -> {parameter: value}."""
    folder = (root or repository()) / "notebooks" / "params"
    path = folder / f"{profile}.yaml"
    if not path.is_file():
        raise ParameterError(unknown_name("profile", profile, sorted(p.stem for p in folder.glob("*.yaml"))))
    sections = {str(number): values or {} for number, values in read_mapping(path).items()}
    for number, values in sections.items():
        if not isinstance(values, dict):
            raise ParameterError(f"{path.name}: section {number!r} must map parameter names to values: {shown(values)}")
    return sections


def defaults(number: str, root: Path | None = None) -> dict[str, Any]:
    """The default parameters of a notebook, from ``notebooks/params/default.yaml``.

    They are not read from the notebook itself: a notebook edited and saved by hand in JupyterLab would change its own
    defaults, and its results would overwrite the committed ones.
    """
    sections = read_parameters("default", root)
    if number not in sections:
        known = unknown_name("notebook", number, sections)
        raise ParameterError(f"{known} (a new notebook enters notebooks/params/default.yaml by `make notebooks`)")
    return sections[number]


def write_defaults(root: Path | None = None) -> None:
    """Rewrite ``notebooks/params/default.yaml`` from the notebooks' parameter cells."""
    root = root or repository()
    sections = {number: declared(path) for number, path in notebook_files(root).items()}
    head = "# The notebooks' own defaults. Written by `make notebooks` from their parameter cells; do not edit.\n"
    body = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
    path = root / "notebooks" / "params" / "default.yaml"
    if not path.is_file() or path.read_text(encoding="utf-8") != head + body:
        write_atomically(path, head + body)


# ----------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Run:
    """One run of one notebook: its parameters and the three folders it writes to."""

    notebook: str  # "02"
    stem: str  # "02_self_aep"
    parameters: dict[str, Any]
    is_default: bool
    folder: Path  # holds run.json, and notebook.ipynb when the runner executed it
    figures: Path
    results: Path
    _clock: float = field(default_factory=time.monotonic, repr=False, compare=False)

    def save(self, table, name: str):
        """Write a table as ``<results>/<name>.csv`` (ten significant digits, atomic) and return it unchanged.

        A file there that agrees to six digits stays as it is (processors round differently). A named index becomes
        columns. ParameterError unless `name` is ``<number>_<words>``: the file says which notebook made it.
        """
        if not re.fullmatch(rf"{self.notebook}[a-z]?_\w+", name):
            raise ParameterError(f"table name {name!r} must be '{self.notebook}_' and words")
        named = any(n is not None for n in table.index.names)
        text = table.to_csv(index=named, float_format="%.10g", lineterminator="\n")
        path = self.results / f"{name}.csv"
        if not (path.is_file() and texts_agree(path.read_bytes(), text.encode())):
            write_atomically(path, text)
        self.update(wall_seconds=round(time.monotonic() - self._clock, 1))
        return table

    def add_models(self, languages: Iterable) -> None:
        """Note name and fingerprint of the languages that were used in run.json."""
        known = self.provenance().get("models", {})
        self.update(models=known | {language.name: language.fingerprint for language in languages})

    def list(self, parameter: str) -> list[str]:
        """The entries of a comma-separated text parameter: ``run.list("models")`` of ``"a, b"`` is ``["a", "b"]``."""
        if parameter not in self.parameters:
            raise ParameterError(unknown_name("parameter", parameter, self.parameters))
        entries = [entry.strip() for entry in str(self.parameters[parameter]).split(",")]
        if not all(entries):
            raise ParameterError(f"parameter {parameter!r} has an empty entry: {self.parameters[parameter]!r}")
        return entries

    def require(self, **ranges: tuple[float, float]) -> None:
        """Refuse numbers outside their range before any work: ``run.require(tokens=(64, math.inf), alpha=(0.001, 0.5))``.

        Raises ParameterError naming the parameter, its value and the range.
        """
        for name, (low, high) in ranges.items():
            if not low <= self.parameters[name] <= high:
                wanted = f"at least {low}" if high == math.inf else f"between {low} and {high}"
                raise ParameterError(f"parameter {name!r} must be {wanted}, not {self.parameters[name]}")

    def require_one_of(self, **valid: Iterable) -> None:
        """Refuse values that are not among the valid ones, with the nearest: ``run.require_one_of(model=["a", "b"])``."""
        for name, allowed in valid.items():
            if self.parameters[name] not in list(allowed):
                raise ParameterError(unknown_name(name, str(self.parameters[name]), map(str, allowed)))

    def provenance(self) -> dict[str, Any]:
        """What run.json says now (empty before the run has begun, or where the file is damaged)."""
        try:
            said = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def update(self, **entries: Any) -> None:
        """Add entries to run.json, or replace them."""
        text = json.dumps(self.provenance() | entries, indent=1, ensure_ascii=False)
        write_atomically(self.folder / "run.json", text + "\n")


def plan(notebook: str, values: Mapping[str, Any], root: Path | None = None) -> Run:
    """The Run that these parameter values lead to; nothing is written yet.

    `values` may hold other names (a notebook's globals). Raises ParameterError for an unknown notebook, a missing
    parameter, a value of the wrong type, or a folder that cannot be written to.
    """
    root = root or repository()
    files = notebook_files(root)
    if notebook not in files:
        raise ParameterError(unknown_name("notebook", notebook, files))
    stem, default = files[notebook].stem, defaults(notebook, root)
    missing = [name for name in default if name not in values]
    if missing:
        raise ParameterError(f"notebook {notebook!r} has no value for its parameter {missing[0]!r}")
    parameters = {name: coerce(name, values[name], default[name]) for name in default}
    is_default = parameters == default
    digest = hashlib.sha256(json.dumps([stem, parameters], sort_keys=True, default=str).encode()).hexdigest()[:10]
    forced = os.environ.get("AEP_OUTPUT_ROOT")
    # A relative root counts from the repository: nbval runs a notebook in the notebook's own folder.
    folder = (root / forced if forced else root / "runs") / f"{stem}-{digest}"
    home = is_default and not forced
    figures = root / "figures" if home else folder / "figures"
    results = root / "data" / "results" if home else folder / "results"
    require_writable(folder, figures, results, instead="AEP_OUTPUT_ROOT=FOLDER sends every run to another place")
    return Run(notebook, stem, parameters, is_default, folder, figures, results)


def begin(notebook: str, namespace: Mapping[str, Any], root: Path | None = None) -> Run:
    """Begin a run, in a notebook's derived-values cell: ``run = aep.begin("02", globals())``.

    Compares the parameters with the defaults, decides where to write (see the module), makes the folders and writes
    run.json. A parameter that papermill handed over as text is replaced in `namespace` by its proper type. The variable
    AEP_OUTPUT_ROOT sends any run below that folder (tests, nbval).

    Raises ParameterError, naming parameter, value and expected type.
    """
    run = plan(notebook, namespace, root)
    if isinstance(namespace, MutableMapping):
        namespace.update(run.parameters)
    for folder in (run.figures, run.results):
        folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "run.json").unlink(missing_ok=True)
    run.update(**_provenance(run, root or repository()))
    return run


def _provenance(run: Run, root: Path) -> dict[str, Any]:
    """What can be said when a run begins. No machine path, user or host: the file may be shared."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "notebook": run.stem,
        "parameters": {name: _without_machine(value, root) for name, value in run.parameters.items()},
        "default": run.is_default,
        "seeds": {name: value for name, value in run.parameters.items() if "seed" in name},
        "models": {},
        "git": _git(root),
        "versions": {"python": platform.python_version()} | versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": None,
    }


def _without_machine(value: Any, root: Path) -> Any:
    """Absolute paths in a text parameter: relative to the repository inside it, the last part alone outside."""
    if not isinstance(value, str):
        return value
    entries = [e.strip() for e in value.split(",")]
    if not any(Path(e).is_absolute() for e in entries):
        return value
    return ",".join(_shortened(Path(e), root) if Path(e).is_absolute() else e for e in entries)


def _shortened(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _git(root: Path) -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it; None outside a git checkout or without git."""
    command = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        top, commit = (
            subprocess.run([*command, "rev-parse", what], capture_output=True, text=True, check=True).stdout.strip()
            for what in ("--show-toplevel", "HEAD")
        )
        status = subprocess.run(
            [*command, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(status.stdout.strip())} if Path(top).resolve() == root.resolve() else None
