"""Errors a user can cause. All are ``ValueError``s; every message names the offending value and what to do."""

import difflib
import errno
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "AepError",
    "AdaptorError",
    "ContextTooLong",
    "DeviceError",
    "DistributionError",
    "ModelError",
    "ParameterError",
    "PromptError",
    "RecordError",
    "VocabularyMismatch",
    "make_room",
    "nearest",
    "shown",
    "unknown_name",
]


class AepError(ValueError):
    """Base of all errors of this package; the command line prints its message as one line."""


class DistributionError(AepError):
    """A log-probability array is not a distribution (NaN, +inf, or its exponentials do not sum to one)."""


class AdaptorError(AepError):
    """An adaptor that does not exist, or a parameter outside its range."""


class VocabularyMismatch(AepError):
    """A source and a scorer whose token ids do not mean the same strings."""


class ContextTooLong(AepError):
    """A text longer than the context length of the model under the policy that was asked for."""


class PromptError(AepError):
    """An empty prompt or text, or one that cannot be encoded."""


class ModelError(AepError):
    """A model that cannot be found, is incomplete, or whose files are damaged."""


class DeviceError(AepError):
    """A device or dtype that this machine or PyTorch does not have."""


class RecordError(AepError):
    """A record or text file that is damaged, of another version, or lacks a column."""


class ParameterError(AepError):
    """A notebook, parameter or command-line value that is not valid."""


_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}  # no space, a limit on the size of files, a quota


def make_room(error: BaseException) -> str:
    """What to do about a full disk, to be put after a message; nothing for any other error.

    >>> make_room(OSError(28, "No space left on device")), make_room(OSError(13, "Permission denied"))
    (': make room, and the same command goes on', '')
    """
    # What a notebook's kernel or a library in Rust raises has no errno.
    full = getattr(error, "errno", None) in _FULL or "No space left on device" in str(error)
    return ": make room, and the same command goes on" if full else ""


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 200


def shown(value: Any) -> str:
    """`repr` in a line of bounded length: the ends of a long text or number, the first entries of a long list.

    >>> shown("text"), shown(list(range(100))), shown(1 << 20_000)
    ("'text'", '[0, 1, 2, 3, 4, 5, ...]', 'an integer of 20001 bits')
    """
    if isinstance(value, int) and value.bit_length() > 600:  # Python refuses to spell one of more than 4300 digits
        return f"an integer of {value.bit_length()} bits"
    return _BRIEF.repr(value)


def nearest(name: str, valid: Iterable[str], n: int = 3) -> list[str]:
    """The at most `n` valid names that are closest to `name` (case ignored), best first."""
    valid = list(valid)
    lower = {v.lower(): v for v in reversed(valid)}
    return [lower[m] for m in difflib.get_close_matches(str(name).lower(), lower, n=n, cutoff=0.4)]


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """One line: the unknown value, the nearest valid names, and all valid names."""
    valid = list(dict.fromkeys(valid))
    close = nearest(name, valid)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"unknown {kind} {name!r}: {hint}valid names are {', '.join(valid) or '(none)'}"
