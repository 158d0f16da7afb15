"""Training checkpoints that survive a kill, a full disk and a damaged file: the last good one is never touched."""

import hashlib
import io
import logging
import os
import pickle
from contextlib import suppress
from pathlib import Path

import torch

from aep.errors import ModelError
from aep.outputs import sweep
from aep.records import store_home

__all__ = ["load_checkpoint", "save_checkpoint", "store"]

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
_MARK = b"aep checkpoint, sha256 "  # then 64 hexadecimal digits and a line end; torch's own checksums are not looked at
_DAMAGE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError)
_log = logging.getLogger(__name__)


def store() -> Path:
    """The folder of all training checkpoints: ``${AEP_HOME:-~/.cache/aep}/training``."""
    return store_home() / "training"


def save_checkpoint(folder: Path, state: dict) -> None:
    """Write `state` into `folder` durably, keeping the one before.

    Raises ModelError if it cannot be written (a full disk); what was there is then untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    temporary = folder / f".{CURRENT}.{os.getpid()}.tmp"  # of this process: another may train the same
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with open(temporary, "wb") as file:
            file.write(_MARK + hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.replace(folder / CURRENT, folder / PREVIOUS)
        # A kill between these two lines leaves only PREVIOUS, which is where load_checkpoint looks next.
        os.replace(temporary, folder / CURRENT)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ModelError(
            f"checkpoint in {str(folder)!r} could not be written ({error.strerror}): the last good one is kept; make "
            "room or point AEP_HOME to another place"
        ) from error


def load_checkpoint(folder: Path) -> dict | None:
    """The newest checkpoint in `folder` that is whole, or None. One that is not is named in one line of the log."""
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return torch.load(io.BytesIO(_content(path)), map_location="cpu", weights_only=True)
        except _DAMAGE as error:
            then = "trying the one before" if name == CURRENT else "the training begins again"
            _log.warning("checkpoint %s is damaged (%s): %s", path, type(error).__name__, then)
    return None


def _content(path: Path) -> bytes:
    """What torch has written; ValueError where it differs from its checksum. A plain file of torch has none."""
    raw = path.read_bytes()
    if raw.startswith(b"PK"):
        return raw
    line, _, content = raw.partition(b"\n")
    if line != _MARK + hashlib.sha256(content).hexdigest().encode():
        raise ValueError(f"{path} differs from its checksum")
    return content
