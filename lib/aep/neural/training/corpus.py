"""The corpus: docstrings of the pinned scientific packages, read from the installed ``.py`` files.

The text itself is never committed. ``data/models/corpus.json`` lists every document by id, sha256 and split, so that
any installation with the same package versions has the same corpus, and any other can say how much of it it has.
"""

import ast
import hashlib
import inspect
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from aep.errors import RecordError, unknown_name
from aep.outputs import repository, write_atomically

__all__ = ["CorpusCheck", "Document", "MANIFEST", "SPLITS", "build_manifest", "check", "documents", "load_split"]

ROOT = repository()
MANIFEST = ROOT / "data" / "models" / "corpus.json"
SPLITS = ("training", "validation", "held-out")

#: import name -> name of the distribution, whose version is recorded
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "pandas": "pandas",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
}
MINIMUM_LENGTH = 200  # characters after cleaning
GRAM = 13  # whitespace-separated words
SHARE = {"held-out": 0.10, "validation": 0.05}  # of the characters; the rest is training
NAMED = 20  # ids in the text of a check; its fields have them all
SMALL = 0.001  # a cluster with more than this share of the characters goes to training

# Folders of tests, of example code, of vendored projects, and of what only some Python versions install.
_FOLDERS_LEFT_OUT = {
    "tests", "_examples", "examples", "sample_data", "externals", "extern", "_external", "_vendor", "_vendored",
    "array_api_compat", "array_api_extra", "_uarray", "cobyqa", "pyprima", "distutils", "_pyinstaller",
}  # fmt: skip
# Single vendored files or packages (packaging, numpydoc, uarray, pyperclip), and files written when a wheel is built.
_FILES_LEFT_OUT = {
    "numpy._utils._pep440", "scipy._lib._pep440", "scipy._lib._docscrape", "scipy._lib.uarray",
    "pandas.util.version", "pandas.io.clipboard",
}  # fmt: skip
_BUILD_FILES = {"__config__.py", "_distributor_init.py", "_distributor_init_local.py", "version.py", "_version.py"}
_TRIPLE = re.compile(r"""([A-Za-z]{0,2})(\"{3}|'{3})(.*?)(?<!\\)\2""", re.DOTALL)


class Document(NamedTuple):
    """One docstring: ``id`` is ``module`` or ``module:qualified.name``; ``split`` is empty before the split is made."""

    id: str
    text: str
    sha256: str
    split: str = ""


class CorpusCheck(NamedTuple):
    """How much of the listed corpus this installation has (numbers of documents, and the ids that differ)."""

    listed: int
    identical: int
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    versions: dict[str, tuple[str, str]]

    def __str__(self) -> str:
        text = f"{self.identical} of the {self.listed} listed documents are installed here, identically."
        other = [f"{p} {here} (listed: {listed})" for p, (listed, here) in self.versions.items() if listed != here]
        if other:
            text += f" Other versions: {', '.join(other)}."
        for word, ids in (("missing", self.missing), ("changed", self.changed)):
            if ids:
                more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
                text += f" {len(ids)} {word}: {', '.join(ids[:NAMED])}{more}."
        return text


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """(module name, file) of every module of `package` that is neither test, nor example, nor vendored."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RecordError(f"package {package!r} of the corpus is not installed: pip install {PACKAGES[package]}")
    base = Path(spec.submodule_search_locations[0])
    for path in sorted(base.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        if _FOLDERS_LEFT_OUT.intersection(parts) or path.name in _BUILD_FILES:
            continue
        if path.name.startswith("test_") or path.name == "conftest.py":
            continue
        name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
        if not any(name == left or name.startswith(left + ".") for left in _FILES_LEFT_OUT):
            yield name, path


def docstrings(tree: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """(id, cleaned docstring) of a module, its classes and functions, nested ones included, in source order."""
    text = ast.get_docstring(tree, clean=False)
    if text is not None:
        yield name, inspect.cleandoc(text).strip()
    stack = [(tree, name + ":")]
    while stack:
        node, prefix = stack.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(child, clean=False)
                if text is not None:
                    yield prefix + child.name, inspect.cleandoc(text).strip()
                stack.append((child, prefix + child.name + "."))
            else:
                stack.append((child, prefix))


@cache
def documents(packages: tuple[str, ...] = tuple(PACKAGES)) -> tuple[Document, ...]:
    """Every docstring of at least 200 characters of the installed `packages`, duplicates once, ordered by id.

    Reading takes seconds, so the answer is kept for the life of the process.
    """
    found, seen = {}, set()
    pairs = []
    for package in packages:
        for name, path in modules(package):
            with warnings.catch_warnings():  # invalid escapes in other people's strings are not our business
                warnings.simplefilter("ignore", SyntaxWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                tree = ast.parse(path.read_text(encoding="utf-8"))
            pairs += [pair for pair in docstrings(tree, name) if len(pair[1]) >= MINIMUM_LENGTH]
    for name, text in sorted(pairs):
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        if sha256 in seen:
            continue
        seen.add(sha256)
        unique, count = name, 1
        while unique in found:  # overloads, properties and their setters share a name
            count += 1
            unique = f"{name}#{count}"
        found[unique] = Document(unique, text, sha256)
    return tuple(found.values())


def grams(text: str, n: int = GRAM) -> np.ndarray:
    """Hashes (uint64, unique, sorted) of the `n`-grams of whitespace-separated words of `text`.

    Equal n-grams have equal hashes everywhere; different ones collide with a chance of about 2^-63 (multilinear hash).
    """
    words = np.array([_word_hash(word) for word in text.split()], dtype=np.uint64)
    if len(words) < n:
        return np.empty(0, dtype=np.uint64)
    factors = np.random.default_rng(n).integers(1, 2**63, size=n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return np.unique(np.lib.stride_tricks.sliding_window_view(words, n) @ factors)


@cache
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def clusters(texts: Sequence[str], n: int = GRAM) -> list[list[int]]:
    """Indices of `texts` in the connected components of "shares an `n`-gram of words", each in increasing order."""
    per_text = [grams(text, n) for text in texts]
    rows = np.repeat(np.arange(len(texts)), [len(g) for g in per_text])
    distinct, columns = np.unique(np.concatenate(per_text), return_inverse=True)
    edges = (np.ones(len(rows), dtype=bool), (rows, len(texts) + columns))
    nodes = len(texts) + len(distinct)  # a graph of texts and grams
    _, labels = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    groups: dict[int, list[int]] = {}
    for i, label in enumerate(labels[: len(texts)].tolist()):
        groups.setdefault(label, []).append(i)
    return list(groups.values())


def split(found: Sequence[Document]) -> list[Document]:
    """`found` with a split each: large clusters to training, small ones fill held-out (10%), validation (5%).

    Shares are of characters. Clusters are taken in the order of the smallest sha256 of their documents, so that
    neither the file system nor a new document elsewhere decides where a document goes.
    """
    total = sum(len(d.text) for d in found)
    where = ["training"] * len(found)
    groups = clusters([d.text for d in found])
    groups.sort(key=lambda group: min(found[i].sha256 for i in group))
    small = [g for g in groups if sum(len(found[i].text) for i in g) <= SMALL * total]
    remaining = iter(small)
    for name, share in SHARE.items():
        filled = 0
        for group in remaining:
            for i in group:
                where[i] = name
                filled += len(found[i].text)
            if filled >= share * total:
                break
    return [d._replace(split=s) for d, s in zip(found, where, strict=True)]


def shared_grams(found: Iterable[Document]) -> dict[str, int]:
    """Number of 13-grams that held-out and validation each share with training (0 in a sound split)."""
    found = list(found)
    every = {name: np.concatenate([grams(d.text) for d in found if d.split == name]) for name in SPLITS}
    return {name: len(np.intersect1d(every[name], every["training"])) for name in SPLITS[1:]}


def build_manifest(path: Path = MANIFEST) -> dict:
    """Read the installed packages, cluster, split, and write the list of documents to `path`; returns its head."""
    found = split(documents())
    shared = shared_grams(found)
    if any(shared.values()):
        raise RecordError(f"the split is not sound: {shared} 13-grams are shared with training")
    head = {
        "description": f"Docstrings of at least {MINIMUM_LENGTH} characters; clustered by shared {GRAM}-grams of "
        "whitespace-separated words before the split. The text is in the installed packages, not here.",
        "versions": {name: version(name) for name in PACKAGES.values()},
        "counts": {
            s: {
                "documents": sum(d.split == s for d in found),
                "characters": sum(len(d.text) for d in found if d.split == s),
            }
            for s in SPLITS
        },
        "largest_cluster": max(map(len, clusters([d.text for d in found]))),
        "13-grams shared with training": shared,
    }
    rows = [json.dumps({"id": d.id, "sha256": d.sha256, "split": d.split}) for d in found]
    text = json.dumps(head, indent=1)[:-2] + ',\n "documents": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"
    write_atomically(path, text)
    return head


def manifest(path: Path = MANIFEST) -> dict:
    """The committed list of documents."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(
            f"the list of documents {path.name!r} is missing: aep.neural.training.corpus.build_manifest() writes it"
        ) from None
    except json.JSONDecodeError as error:
        raise RecordError(f"the list of documents {path.name!r} is damaged ({error}): restore it from git") from None


def check(path: Path = MANIFEST) -> CorpusCheck:
    """Compare the documents listed in `path` with the installed packages."""
    listed = manifest(path)
    here = {d.id: d.sha256 for d in documents()}
    rows = listed["documents"]
    return CorpusCheck(
        listed=len(rows),
        identical=sum(here.get(r["id"]) == r["sha256"] for r in rows),
        missing=tuple(r["id"] for r in rows if r["id"] not in here),
        changed=tuple(r["id"] for r in rows if here.get(r["id"], r["sha256"]) != r["sha256"]),
        versions={name: (was, version(name)) for name, was in listed["versions"].items()},
    )


def load_split(name: str, path: Path = MANIFEST, *, packages: tuple[str, ...] | None = None) -> list[Document]:
    """The documents of one split (``training``, ``validation`` or ``held-out``), exactly those listed; of `packages` only.

    Raises RecordError if one of them is not installed here identically.
    """
    if name not in SPLITS:
        raise RecordError(unknown_name("split", name, SPLITS))
    rows = [r for r in manifest(path)["documents"] if r["split"] == name]
    if packages is None:
        here = {d.id: d for d in documents()}
    else:
        rows, quoted = [r for r in rows if _package(r["id"]) in packages], _quoted(packages)
        if all(r["sha256"] in quoted for r in rows):
            return [Document(r["id"], quoted[r["sha256"]], r["sha256"], name) for r in rows]
        here = {d.id: d for d in documents(packages)}
    bad = [r["id"] for r in rows if r["id"] not in here or here[r["id"]].sha256 != r["sha256"]]
    if bad:
        raise RecordError(
            f"{len(bad)} of {len(rows)} {name} documents are not installed identically, first {bad[0]!r}: install the "
            "versions of constraints.txt; `python -m aep corpus --check` names them all"
        )
    return [here[r["id"]]._replace(split=name) for r in rows]


@cache
def _quoted(packages: tuple[str, ...]) -> dict[str, str]:
    """sha256 -> text of what stands between triple quotes in `packages`, cleaned as a docstring, in a sixth of the time.

    The list has a sha256 for every document, so that a text found by it is that document, wherever it stands; where one is
    not found, its file has to be parsed.
    """
    found = {}
    for package in packages:
        for _, path in modules(package):
            for prefix, quotes, body in _TRIPLE.findall(path.read_text(encoding="utf-8")):
                if len(body) < MINIMUM_LENGTH:
                    continue
                if "\\" in body and "r" not in prefix.lower():
                    body = _literal(quotes + body + quotes)
                text = inspect.cleandoc(body).strip()
                found[hashlib.sha256(text.encode()).hexdigest()] = text
    return found


def _literal(source: str) -> str:
    """The value of a literal with escapes; empty for what only looked like one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.literal_eval(source)
        except SyntaxError:
            return ""


def _package(document: str) -> str:
    return document.partition(":")[0].partition(".")[0]
