"""The one progress switch: on in a terminal and in JupyterLab, off in every notebook run by papermill or nbval."""

import os
import sys

from tqdm import tqdm

__all__ = ["enabled", "progress"]


def enabled() -> bool:
    """Whether a progress bar would be seen by a person.

    A kernel started from JupyterLab carries ``JPY_SESSION_NAME``; one started by papermill, nbval or nbconvert does not.
    ``TQDM_DISABLE=1`` switches every bar off.
    """
    if os.environ.get("TQDM_DISABLE", "0") not in ("", "0"):
        return False
    if "ipykernel" in sys.modules:
        return "JPY_SESSION_NAME" in os.environ
    return sys.stderr.isatty()


def progress(iterable=None, *, total=None, desc="", unit="it") -> tqdm:
    """A tqdm bar that obeys the switch and stays away from work of under half a second."""
    return tqdm(iterable, total=total, desc=desc, unit=unit, disable=not enabled(), delay=0.5, leave=False)
