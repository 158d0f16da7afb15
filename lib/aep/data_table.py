"""Keeps the table of data/README.md right: one row per file below data/, with its SHA-256.

``python -m aep.data_table`` brings checksums up to date and adds a row for a new file; what the file is, where it comes
from, under which licence and in which units is then written by hand (a test refuses an empty field). A table that a notebook
reads (`outputs.committed`) is compared with its row first.
"""

import hashlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

from .errors import RecordError, make_room, unknown_name
from .outputs import repository, write_atomically

__all__ = ["FileRow", "data_files", "read", "update", "verified"]

_HEADER = "| file | what | source | licence | units | sha256 |\n|---|---|---|---|---|---|\n"


class FileRow(NamedTuple):
    """One row of the table; `file` is relative to data/."""

    file: str
    what: str
    source: str
    licence: str
    units: str
    sha256: str


def data_files(root: Path | None = None) -> dict[str, str]:
    """Every file below data/ and its SHA-256, README.md itself, hidden and temporary files left out."""
    folder = (root or repository()) / "data"
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name, parts = path.relative_to(folder).as_posix(), path.relative_to(folder).parts
        if name != "README.md" and not any(part.startswith(".") or part.endswith(".tmp") for part in parts):
            found[name] = _digest(path)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(root: Path | None = None) -> dict[str, FileRow]:
    """The rows of data/README.md by file."""
    path = (root or repository()) / "data" / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|(.*)\|(.*)\|(.*)\| `?(\w*)`? \|$", text, re.MULTILINE)
    return {row[0]: FileRow(*(cell.strip() for cell in row)) for row in rows}


def verified(file: str, root: Path | None = None) -> Path:
    """The path of data/`file`, whose content is the one that data/README.md has the checksum of, if it has a row.

    Raises RecordError in one line: a missing file with the command that makes it, where its row names one; a file that
    neither exists nor has a row with the nearest names there are; a file that differs from its row.
    """
    root = root or repository()
    rows, path = read(root), root / "data" / file
    row = rows.get(file)
    if not path.is_file():
        if row is None:
            there = [name for name in rows.keys() | data_files(root) if name.startswith(f"{Path(file).parent}/")]
            raise RecordError(unknown_name("file of data/", file, sorted(there)))
        command = re.search(r"`python -m [^`]+`", row.source)
        raise RecordError(f"data/{file} is missing: restore it from git{f', or run {command[0]}' if command else ''}")
    if row is not None and row.sha256 != _digest(path):
        raise RecordError(
            f"data/{file} differs from data/README.md: restore it from git, or, if it was just measured, "
            "run `python -m aep.data_table`"
        )
    return path


def update(root: Path | None = None) -> None:
    """Rewrite the table: rows of files that are gone removed, checksums of the others brought up to date."""
    root = root or repository()
    path = root / "data" / "README.md"
    if not path.is_file():
        return
    known, text = read(root), path.read_text(encoding="utf-8")
    rows = [
        known.get(name, FileRow(name, *[""] * 5))._replace(sha256=digest) for name, digest in data_files(root).items()
    ]
    lines = [f"| `{r.file}` | {r.what} | {r.source} | {r.licence} | {r.units} | `{r.sha256}` |\n" for r in rows]
    head = text.partition("\n| file |")[0].rstrip("\n")
    new = f"{head}\n\n{_HEADER}{''.join(lines)}"
    if new != text:
        write_atomically(path, new)


def main() -> int:
    """``python -m aep.data_table``; errors and an interrupt on one line."""
    try:
        update()
    except OSError as error:
        print(f"aep: {error.strerror}: {error.filename!r}{make_room(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("aep: interrupted; data/README.md is as it was, and the same command begins again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
