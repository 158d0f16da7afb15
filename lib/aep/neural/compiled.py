"""The reduction of the scoring pass compiled by `torch.compile` where that works here, and eager where it does not."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

import torch

from ..records import store_home

__all__ = ["LARGE", "compiler_works", "fused"]

LARGE = 2**32
"""Entries (tokens x vocabulary) from which compiling pays: a cold compile costs tens of seconds."""

_PROBE = "import torch; print(torch.compile(lambda x: x.exp().sum(-1))(torch.zeros(4, 4)).sum().item())"
_log = logging.getLogger("aep")


@cache
def compiler_works() -> bool:
    """Whether a three-line kernel compiles for the processor: a compiler, Python's and torch's headers are needed.

    Tried once in a subprocess; the answer is kept in the store for this version of torch and Python.
    """
    name = f"compile-torch{torch.__version__}-python{sys.version_info[0]}.{sys.version_info[1]}.json"
    path = store_home() / "probes" / name
    with suppress(OSError, ValueError):  # not tried yet, or half written: try
        return bool(json.loads(path.read_text(encoding="utf-8")))
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=180)
        works = done.returncode == 0 and done.stdout.strip() == "16.0"
    except (OSError, subprocess.TimeoutExpired):
        works = False
    with suppress(OSError):  # a read-only store only means that the next process tries again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(works), encoding="utf-8")
    return works


def fused(device: torch.device, entries: int, wanted: bool | None = None) -> Callable | None:
    """What compiles ``function(xp, *tensors)`` for an array namespace, or None for eager.

    `wanted` None: compile if the work has at least `LARGE` entries. On the processor only after `compiler_works`.
    """
    if wanted is False or (wanted is None and entries < LARGE):
        return None
    if device.type == "cpu" and not compiler_works():
        _log.warning("aep: torch.compile does not work here (compiler or headers missing): the reduction runs eagerly")
        return None
    return _compiled if device.type in ("cpu", "cuda") else None


def _failures() -> tuple[type[Exception], ...]:
    """What a compile can end with; asked for where one ends, since importing the compiler takes a second."""
    return RuntimeError, OSError, torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError


@cache
def _compiled(function: Callable, xp: Any) -> Callable:
    """`function` of tensors compiled for any number of rows; eager from the first failure on."""
    function = partial(function, xp)
    fast = torch.compile(lambda *tensors: function(*tensors), dynamic=True)
    failed = []

    def call(*tensors: torch.Tensor) -> Any:
        if not failed:
            try:
                return fast(*tensors)
            except _failures() as error:
                failed.append(error)
                _log.warning(
                    "aep: compiling %s failed (%s): eager from now on", function.func.__name__, type(error).__name__
                )
        return function(*tensors)

    return call
