"""The store: texts and token records under content keys, in Parquet files that DuckDB reads as tables.

A file is a shard: at most `SHARD` texts of one prompt, or what was measured on them. Its name is a hash of everything that
determines its content (`content_key`, which adds the schema and kernel versions), so two requests for the same thing meet
in the same file, whoever makes it. A file is written under a temporary name and renamed; one that is truncated, altered,
foreign or of another version is named in one line of the log and computed again.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from ._parquet import KERNEL_VERSION, Header, content_key, header, read, write
from .errors import ParameterError, RecordError, make_room, unknown_name
from .information import THETAS
from .records import OF_A_PAIR, OF_ONE, Records, Texts, store_home, theta_column

__all__ = ["KINDS", "SHARD", "Store", "open_store", "shards_of"]

SHARD = 16
"""Texts per file. A request for more texts of the same kind finds every whole shard of an earlier one."""

KINDS = {"texts": Texts, "tokens": Records}

_COLUMNS = ["shard", "kind", "name", "source", "adaptor", "context", "rows", "bytes", "file", "meta"]
_USER_ERRORS = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)
_VIEWS = {
    "texts": """
        SELECT s.shard, t.text_key, s.name AS model, s.adaptor, s.meta->>'$.sampler.fingerprint' AS fingerprint,
            CAST(s.meta->>'$.sampler.seed' AS BIGINT) AS seed, s.meta->>'$.sampler.stop' AS stop,
            s.meta->>'$.sampler.dtype' AS dtype, s.meta->'$.prompts[0]' AS prompt_ids,
            t.stream_prompt AS prompt, t.stream_text AS number, len(t.ids) AS length,
            t.* EXCLUDE (text_key, prompt, stream_prompt, stream_text, filename)
        FROM texts_files t JOIN shards s ON t.filename = s.file""",
    "tokens": """
        SELECT s.shard, s.name AS scorer, s.source, s.adaptor, s.context, t.* EXCLUDE (filename)
        FROM tokens_files t JOIN shards s ON t.filename = s.file""",
}
# The columns that a query may name even where no file has them: there they are NULL.
_SCHEMAS = {
    "texts": "text_key BIGINT, prompt INT, text INT, ids INT[], stream_prompt INT, stream_text INT, finished BOOLEAN, "
    "log_q FLOAT[], log_normaliser FLOAT[], filename VARCHAR",
    "tokens": "text_key BIGINT, text INT, position INT, token INT, rank INT, greedy INT, filename VARCHAR, "
    + ", ".join(f"{name} FLOAT" for name in (*OF_ONE, *map(theta_column, THETAS), *OF_A_PAIR)),
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
        self.folder = Path(os.path.expanduser(folder))

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    def make_folders(self) -> None:
        """Make the folders of the store; RecordError, in one line, where that is impossible."""
        try:
            for kind in KINDS:
                (self.folder / kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"cannot use the store {self.folder}: {error.strerror}{make_room(error)}") from None

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

    def shards(self) -> pd.DataFrame:
        """One row per file: shard (its key), kind, name (of model or scorer), source, adaptor, context, rows, bytes, ...

        `adaptor` is that of the source of a pair, else that of the texts; `meta` is JSON. Only footers are read. Files
        whose footer is damaged, foreign or of another version are left out, and counted in one line of the log.
        """
        rows, refused = [], []
        for kind in KINDS:
            for path in self.files(kind):
                try:
                    status = path.stat()
                    found = _headed(path, status.st_mtime_ns, status.st_size)
                except FileNotFoundError:
                    continue  # pruned by another process since it was listed
                except RecordError as error:
                    refused.append(_reason(error))
                    continue
                rows.append(_row(path, found, status.st_size))
        if refused:
            more = f" (and {len(refused) - 1} more files)" if len(refused) > 1 else ""
            _log.warning("%s%s: left out", refused[0], more)
        return pd.DataFrame(rows, columns=_COLUMNS)

    def sql(self, query: str) -> pd.DataFrame:
        """The result of a DuckDB query over three views: `shards` (see there), `texts` and `tokens`.

        `texts` has one row per text: shard, text_key, model, adaptor, seed, prompt (its index), number, length, ids, ...;
        `tokens` one per scored token: shard, scorer, source, adaptor, context, text_key, text (its index in the shard),
        position, token and the columns of the record; those that only some records have are NULL elsewhere. `text_key`
        joins the two.

        Every file is compared with its checksum first, once per process as long as its time and size stay (0.2 s per
        million tokens); one that is damaged or altered is left out and named in one line of the log. RecordError, in one
        line, for a query that is wrong.

        >>> Store("no/such/folder").sql("SELECT count(*) AS n FROM tokens")
           n
        0  0
        """
        if not query.strip():
            raise RecordError("the query is empty: give one such as SELECT count(*) FROM tokens")
        shards = self._checked()
        try:
            return _ask(query, shards)
        except _USER_ERRORS as error:
            raise RecordError(f"the query failed: {_first_line(error)}") from None
        except duckdb.Error as error:
            now = self._checked()
            if len(now) == len(shards):  # none was damaged or pruned meanwhile: it is not the files
                raise RecordError(f"the query failed: {_first_line(error)}") from None
        return _ask(query, now)

    def _checked(self) -> pd.DataFrame:
        """`shards` without those whose content differs from its checksum (logged)."""
        shards, whole = self.shards(), []
        for path in map(Path, shards["file"]):
            try:
                status = path.stat()
                reason = _fault(path, status.st_mtime_ns, status.st_size)
            except FileNotFoundError:  # pruned by another process since it was listed
                reason = ""
            if reason:
                _log.warning("%s: left out", reason)
            whole.append(reason is None)
        return shards[np.array(whole, bool)]

    def damaged(self) -> list[tuple[Path, str]]:
        """Every file that is not whole or belongs to another version, with the reason in one line. Reads everything."""
        found = []
        for path in (path for kind in KINDS for path in self.files(kind)):
            try:
                _whole(path)
            except RecordError as error:
                if path.exists():
                    found.append((path, _reason(error)))
        return found

    def left_over(self, age: float = 3600.0) -> list[Path]:
        """Temporary files of killed processes: those not written to for `age` seconds."""
        candidates = [p for kind in KINDS for p in (self.folder / kind).glob(".*.tmp")]
        return [p for p in candidates if time.time() - p.stat().st_mtime > age]


def _ask(query: str, shards: pd.DataFrame) -> pd.DataFrame:
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.register("shards", shards)
        for kind, view in _VIEWS.items():
            files = shards["file"][shards["kind"] == kind].tolist()
            connection.execute(f"CREATE TABLE no_{kind} ({_SCHEMAS[kind]})")
            rows = f"SELECT * FROM no_{kind}"
            if files:
                connection.read_parquet(files, union_by_name=True, filename=True).create_view(f"whole_{kind}")
                rows += f" UNION ALL BY NAME SELECT * FROM whole_{kind}"
            connection.execute(f"CREATE VIEW {kind}_files AS {rows}")
            connection.execute(f"CREATE VIEW {kind} AS {view}")
        return connection.execute(query).df()


@lru_cache(maxsize=100_000)
def _headed(path: Path, modified: int, size: int) -> Header:
    """The footer of a file in its place, read once per process as long as time and size stay the same."""
    found = header(path)
    if found.kind != path.parent.name:
        raise RecordError(f"{path} holds {found.kind!r}, not {path.parent.name!r}")
    _check_place(path, found)
    return found


@lru_cache(maxsize=100_000)
def _fault(path: Path, modified: int, size: int) -> str | None:
    """What is wrong with a file in its place, all of it read; None for a whole one."""
    try:
        _whole(path)
    except RecordError as error:
        return _reason(error)
    return None


def _row(path: Path, found: Header, size: int) -> dict[str, Any]:
    sampler = found.meta.get("sampler") or {}
    adaptor = found.meta.get("adaptor") or sampler.get("adaptor")
    name = sampler.get("language") if found.kind == "texts" else found.meta.get("scorer")
    described = {"name": name, "source": found.meta.get("source"), "adaptor": adaptor}
    described |= {"context": found.meta.get("context"), "meta": json.dumps(found.meta)}
    return {"shard": path.stem, "kind": found.kind, "rows": found.rows, "bytes": size, "file": str(path), **described}


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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _reason(error: RecordError) -> str:
    return str(error).removesuffix(": make it again")
