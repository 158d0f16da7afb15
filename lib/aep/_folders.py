"""Whether a folder can be written to, asked before work whose results go there."""

import os
from pathlib import Path

from .errors import ParameterError

__all__ = ["require_writable"]


def require_writable(*folders: Path, instead: str = "") -> None:
    """Refuse folders that could neither be written to nor be made; nothing is made. `instead` says what to do.

    Raises ParameterError naming the nearest folder that exists.
    """
    for folder in folders:
        found = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
        if not os.path.isdir(found) or not os.access(found, os.W_OK | os.X_OK):
            why = "permissions or a read-only file system" if os.path.isdir(found) else "it is not a folder"
            raise ParameterError(f"cannot write to {str(found)!r} ({why})" + (f": {instead}" if instead else ""))
