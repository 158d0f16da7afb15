"""The store: texts and token records under content keys, in Parquet files that DuckDB reads as tables.

A file is a shard: at most `SHARD` texts of one prompt, or what was measured on them. Its name is a hash of everything that
determines its content (`content_key`, which adds the schema and kernel versions), so two requests for the same thing meet
in the same file, whoever makes it. A file is written under a temporary name and renamed; one that is truncated, altered,
foreign or of another version is named in one line of the log and computed again.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._parquet import KERNEL_VERSION, Header, content_key, read, write
from .errors import ParameterError, RecordError, unknown_name
from .records import Records, Texts, store_home

__all__ = ["KINDS", "SHARD", "Store", "open_store", "shards_of"]

SHARD = 16
"""Texts per file. A request for more texts of the same kind finds every whole shard of an earlier one."""

KINDS = {"texts": Texts, "tokens": Records}

_SHARDS = {
    "texts": ("model", "fingerprint", "adaptor", "seed", "stop", "dtype"),
    "tokens": ("scorer", "source", "adaptor", "context", "dtype"),
}
_log = logging.getLogger(__name__)


def open_store(store: "Store | str | Path | bool | None") -> "Store | None":
    """The store that `store=` means: None (nothing is kept), a folder, or True for ``${AEP_HOME:-~/.cache/aep}/records``.

    RecordError for a place that cannot be a folder, before any work; ParameterError for anything else.

    >>> open_store(None) is None
    True
    """
    if store is None or isinstance(store, Store):
        return store
    if store is not True and not isinstance(store, str | Path):
        raise ParameterError(f"store={store!r}: give a folder, True for the store of this user, or None")
    opened = Store(store_home() / "records" if store is True else store)
    opened.make_folders()
    return opened


def shards_of(texts: Texts, size: int = SHARD) -> list[np.ndarray]:
    """The indices of `texts` in runs of at most `size` consecutive texts of one prompt, in order.

    Sampled texts are cut where the number of the text in its random stream is a multiple of `size`, so that the same text
    lands in the same shard whatever was asked for around it.

    >>> import aep
    >>> from aep.languages import FiniteLanguage
    >>> drawn = aep.sample(FiniteLanguage([.5, .5]), [[0], [1]], texts=5, tokens=2, seed=0)
    >>> [s.tolist() for s in shards_of(drawn, 4)]
    [[0, 1, 2, 3], [4], [5, 6, 7, 8], [9]]
    """
    runs: list[list[int]] = []
    for i, prompt in enumerate(texts.prompt):
        fresh = not runs or prompt != texts.prompt[i - 1] or len(runs[-1]) == size
        if fresh or (texts.stream is not None and texts.stream[i, 1] % size == 0):
            runs.append([])
        runs[-1].append(i)
    return [np.array(run) for run in runs]


class Store:
    """A folder of shards: ``texts/<key>.parquet`` and ``tokens/<key>.parquet``.

    `kind` is "texts" or "tokens"; `parts` is a mapping (of what JSON holds, and arrays) of everything that determines the
    content. Of a batch of shards, compute those that `missing` names, `put` each as soon as it is whole, `get` the rest.
    What `put`, `get` and `fetch` return is what the file holds: single precision, so that a first and a later run agree.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    def make_folders(self) -> None:
        """Make the folders of the store; RecordError, in one line, where that is impossible."""
        try:
            for kind in KINDS:
                (self.folder / kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"cannot use the store {self.folder}: {error.strerror}") from None

    def path(self, kind: str, parts: Mapping[str, Any]) -> Path:
        """The file of these parts, whether it exists or not; ParameterError for an unknown kind."""
        if kind not in KINDS:
            raise ParameterError(unknown_name("kind of record", kind, KINDS))
        return self.folder / kind / f"{content_key({'kind': kind, **parts})}.parquet"

    def get(self, kind: str, parts: Mapping[str, Any], language: Any = None) -> Any:
        """The `Texts` or `Records` of these parts; None where there is no file, or (logged) one that is not whole."""
        path = self.path(kind, parts)
        if not path.exists():
            return None
        try:
            table, found = _whole(path)
        except RecordError as error:
            if path.exists():  # else another process has pruned it in between
                _log.warning("%s, and is computed again", _reason(error))
            return None
        return KINDS[kind].from_table(table, found.meta, language)

    def put(self, kind: str, parts: Mapping[str, Any], value: Texts | Records) -> Any:
        """Write `value` as the content of these parts, atomically; what the file holds. RecordError where that fails."""
        path = self.path(kind, parts)
        self.make_folders()
        table, meta = value.to_table()
        write(table, kind, meta, path, path.stem)
        return KINDS[kind].from_table(table, json.loads(json.dumps(meta)), value.language)

    def missing(self, kind: str, parts: Sequence[Mapping[str, Any]]) -> list[int]:
        """The indices of those `parts` whose file is absent or (logged) not whole. Reads the files."""
        return [i for i, each in enumerate(parts) if self.get(kind, each) is None]

    def fetch(self, kind: str, parts: Mapping[str, Any], make: Callable[[], Any], language: Any = None) -> Any:
        """`get`, else `put` of ``make()``.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     store = Store(folder)
        ...     first = store.fetch("tokens", {"x": 1}, lambda: Records({"text": np.array([0]), "z": np.array([0.1])}))
        ...     again = store.fetch("tokens", {"x": 1}, lambda: 1 / 0)
        >>> bool(first["z"] == again["z"] == np.float32(0.1))
        True
        """
        found = self.get(kind, parts, language)
        return self.put(kind, parts, make()) if found is None else found

    def files(self, kind: str) -> list[Path]:
        """The files of a kind; a file that is being written is not one yet."""
        return sorted(p for p in (self.folder / kind).glob("*.parquet") if not p.name.startswith("."))


def _whole(path: Path) -> tuple[Any, Header]:
    """Table and header of a stored file, all of it checked; RecordError, in one line, for any fault."""
    table, found = read(path, path.parent.name)
    _check_place(path, found)
    return table, found


def _check_place(path: Path, found: Header) -> None:
    if found.key != path.stem:
        raise RecordError(f"{path} is a foreign file (it was written as {found.key or 'no part of a store'})")
    if found.kernel != str(KERNEL_VERSION):
        raise RecordError(f"{path} was computed by kernel version {found.kernel}, this aep has {KERNEL_VERSION}")


def _reason(error: RecordError) -> str:
    return str(error).removesuffix(": make it again")
