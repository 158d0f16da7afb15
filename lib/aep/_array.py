"""What the array API standard lacks: one function each, one branch per backend. Formulas never branch; these may."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array

__all__ = [
    "as_float64",
    "as_numpy",
    "ascending",
    "device",
    "gather",
    "like",
    "log_sum_exp",
    "namespace",
    "no_rounding_noise",
    "resolution",
]

namespace = array_namespace


def gather(x: Any, index: Any) -> Any:
    """``x[..., index]`` along the last axis with one index per row: (..., n) and (...) give (...)."""
    if is_torch_array(x):
        return x.gather(-1, index[..., None])[..., 0]
    return np.take_along_axis(x, index[..., None], axis=-1)[..., 0]


def like(values: Any, x: Any) -> Any:
    """NumPy `values` as an array of the backend and device of `x` (dtype kept, but for MPS, which has no float64)."""
    values = np.asarray(values)
    if not is_torch_array(x):
        return values
    if x.device.type == "mps" and values.dtype == np.float64:
        values = values.astype(np.float32)
    return namespace(x).asarray(values, device=device(x))


def as_numpy(x: Any) -> np.ndarray:
    """`x` as a NumPy array on the host."""
    return x.detach().cpu().numpy() if is_torch_array(x) else np.asarray(x)


def ascending(x: Any) -> Any:
    """The values of every row in rising order; of torch on the CPU by NumPy, which is several times faster at it."""
    if not is_torch_array(x):
        return np.sort(x, axis=-1)
    if x.device.type == "cpu" and x.element_size() >= 4:  # NumPy has no bfloat16
        return like(np.sort(x.detach().numpy(), axis=-1), x)
    return x.sort(dim=-1).values


def as_float64(x: Any) -> Any:
    """`x` in double precision where its device has it (Apple's MPS has not: single precision there)."""
    xp = namespace(x)
    wanted = xp.float32 if is_torch_array(x) and x.device.type == "mps" else xp.float64
    return xp.astype(x, wanted, copy=False)


def log_sum_exp(x: Any) -> Any:
    """log Σ exp(x) over the last axis, by the maximum; -inf for a row of -inf, NaN for a row with NaN."""
    xp = namespace(x)
    top = xp.max(x, axis=-1, keepdims=True)
    top = xp.where(xp.isinf(top), xp.zeros_like(top), top)
    with no_rounding_noise():
        return xp.log(xp.sum(xp.exp(x - top), axis=-1)) + top[..., 0]


def resolution(x: Any) -> float:
    """The machine epsilon of the dtype of `x`."""
    return float(namespace(x).finfo(x.dtype).eps)


def no_rounding_noise() -> Any:
    """A context in which NumPy does not warn of log 0 and of inf - inf, which the formula masks (torch never warns)."""
    return np.errstate(divide="ignore", invalid="ignore", over="ignore")
