"""Values of parameters as they come, from a YAML file or a command line, and as the type that a notebook declares."""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from .errors import ParameterError, shown

__all__ = ["coerce", "literal", "read_mapping"]

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_WORDS = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}
# Not only its own: PyYAML hands on what Python says of 5000 digits, of 2020-99-99, of "!!timestamp x" and "!!bool x", and
# "[[[[..." is too deep.
_NOT_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError, AttributeError, LookupError, TypeError)


def read_mapping(path: Path) -> dict:
    """The mapping in a YAML file ({} for an empty one); OSError for a file that cannot be read, ParameterError for another
    content. No tag makes an object: a file of parameters runs no code."""
    if path.is_dir():
        raise ParameterError(f"{path} is a folder; give a YAML file of parameters")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except _NOT_YAML as error:
        raise ParameterError(f"{path} is not YAML: {_reason(error)}") from None
    if content is not None and not isinstance(content, dict):
        raise ParameterError(f"{path} must map parameter names to values, it holds {shown(content)}")
    return content or {}


def literal(name: str, text: str) -> Any:
    """The value that a text spells in YAML; ParameterError, naming the parameter, where it spells none.

    >>> literal("sizes", "[1, 2]")
    [1, 2]
    """
    try:
        return yaml.safe_load(text)
    except _NOT_YAML:
        raise ParameterError(f"parameter {name!r}: {shown(text)} is not a value") from None


def _reason(error: BaseException) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())


def coerce(name: str, value: Any, default: Any) -> Any:
    """`value` as the type of `default`; ParameterError naming the parameter, the value and the expected type.

    An integer is below 2^63 in size, a seed not negative, and text is Unicode. A number in text is decimal: "010" is ten.

    >>> coerce("texts", "1e3", 8), coerce("tau", 1, 0.5), coerce("models", 260, "docs-400k"), coerce("fast", "no", True)
    (1000, 1.0, '260', False)
    """
    kind = type(default)
    if kind is str and isinstance(value, str):
        return _unicode(name, value)
    if default is None or (type(value) is kind and kind not in (int, float)):
        return value
    # A list may refer to itself in YAML, and Python does not spell an integer of more than 4300 digits.
    plain = isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**1024)
    text = str(value).strip() if plain else ""
    if kind is str and plain:
        return str(value)
    if kind is bool and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if kind in (int, float) and text:
        try:
            number = int(text) if kind is int and re.fullmatch(r"[+-]?\d+", text) else float(text)
        except ValueError:
            number = math.nan
        if kind is float and math.isfinite(number):
            return number
        if kind is int and abs(number) < 2**63 and number == int(number) and not ("seed" in name and number < 0):
            return int(number)
    if kind in (list, tuple) and isinstance(value, list | tuple):
        return kind(value)
    expected = _WORDS.get(kind, kind.__name__) + (" from 0 on" if "seed" in name and kind is int else "")
    raise ParameterError(f"parameter {name!r} must be {expected} (default {default!r}), not {shown(value)}")


def _unicode(name: str, text: str) -> str:
    """A byte that is not UTF-8 arrives from a command line as half a character, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ParameterError(f"parameter {name!r}: {shown(text)} is not Unicode ({error.reason})") from None
    return text
