"""Training checkpoints that survive a kill, a full disk and a damaged file: the last good one is never touched."""

import io
import logging
import os
import pickle
from pathlib import Path

import torch

from aep.errors import ModelError
from aep.records import store_home

__all__ = ["load_checkpoint", "save_checkpoint", "store"]

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
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
    temporary = folder / (CURRENT + ".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if (folder / CURRENT).exists():
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
    """The newest readable checkpoint in `folder`, or None."""
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            _log.warning("checkpoint %s is damaged (%s): trying the one before", path, type(error).__name__)
    return None
