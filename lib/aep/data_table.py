"""Keeps the table of data/README.md right: one row per file below data/, with its SHA-256.

``python -m aep.data_table`` brings checksums up to date and adds a row for a new file; what the file is, where it comes
from, under which licence and in which units is then written by hand (a test refuses an empty field).
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from .outputs import repository, write_atomically

__all__ = ["FileRow", "data_files", "read", "update"]

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
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def read(root: Path | None = None) -> dict[str, FileRow]:
    """The rows of data/README.md by file."""
    text = ((root or repository()) / "data" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|(.*)\|(.*)\|(.*)\| `?(\w*)`? \|$", text, re.MULTILINE)
    return {row[0]: FileRow(*(cell.strip() for cell in row)) for row in rows}


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


if __name__ == "__main__":
    update()
