"""A text file as it is, or one line that says why it cannot be read: for the command line and for notebook 05."""

from codecs import BOM_UTF8
from pathlib import Path

from .errors import ParameterError, nearest

__all__ = ["read_utf8"]


def read_utf8(path: Path) -> bytes:
    """The bytes of a UTF-8 text file as they are: line ends are not translated, and a byte order mark is still there
    (decode with "utf-8-sig": it is no part of the text).

    ParameterError for a folder, a missing file (with the nearest names), an empty one, one that is not UTF-8 (with the
    byte and its position) or that holds a NUL byte.
    """
    if path.is_dir():
        raise ParameterError(f"{path} is a folder; give a text file")
    if not path.exists():
        raise ParameterError(_missing(path))
    raw = path.read_bytes()
    if not raw.removeprefix(BOM_UTF8):
        raise ParameterError(f"{path} is empty: there is nothing to score")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at position {error.start} ({error.reason})"
        hint = "it begins like UTF-16: " if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ParameterError(f"{path} is not UTF-8 text: {found}; {hint}convert it to UTF-8") from None
    if (nul := raw.find(b"\0")) >= 0:
        raise ParameterError(f"{path} holds a NUL byte at position {nul}: it is not a text file")
    return raw


def _missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"no such file {str(path)!r}: its folder {str(folder)!r} does not exist"
    close = nearest(path.name, sorted(file.name for file in folder.iterdir() if file.is_file()))
    hint = f": did you mean {' or '.join(repr(str(folder / name)) for name in close)}?" if close else ""
    return f"no such file {str(path)!r}{hint}"
