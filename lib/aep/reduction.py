"""The reduction of the scoring pass: rows of logits in, every column of `Records` out. One function, NumPy and torch.

One maximum, one exponential e = exp((logit - max)/8), then products and row sums. Written for speed; each column equals
its definition in `information` (tested to 1e-9 against full distributions in double precision).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxtyping import Int

from ._array import as_numpy, device, gather, like, namespace, no_rounding_noise
from .adaptors import Adaptor, ancestral
from .information import THETAS, check_log_total, log_normalise
from .records import theta_column

__all__ = ["BLOCK", "CrossSums", "Sums", "cross_sums", "row_columns", "row_sums"]

BLOCK = 2**17
"""Entries that are reduced at once when nothing fuses the operations: the temporaries stay in the processor's cache."""

_FLOOR = -8000.0  # below it exp((logit - max)/8) is 0 in every precision; finite, so that 0 times it is 0


class Sums(NamedTuple):
    """Sums over (a part of) the vocabulary of the scorer's rows, each (rows,); d = logit - max, e = exp(d), x the token
    that came. `greedy` is the lowest id that has the maximum, the size of the vocabulary where this part has none.
    """

    powers: tuple[Any, ...]  # Σ e^θ for θ in THETAS
    total: Any  # Σ e
    first: Any  # Σ e d
    second: Any  # Σ e d²
    above: Any  # number of entries with logit > that of x
    mass: Any  # Σ e over these
    greedy: Any


class CrossSums(NamedTuple):
    """Sums of a pair, each (rows,): w = exp(c) and c = source - max of the unnormalised log-weights of p_A, d of the scorer.

    `lost` counts tokens that p_A allows and to which the scorer gives probability 0.
    """

    total: Any  # Σ w
    own: Any  # Σ w c
    own2: Any  # Σ w c²
    cross: Any  # Σ w d
    cross2: Any  # Σ w d²
    lost: Any


def row_sums(xp: Any, logits: Any, top: Any, came: Any, start: int = 0, size: int = 0) -> Sums:
    """What one pass over `logits` (rows, part of the vocabulary from id `start` on) sums up.

    `top` (rows, 1) is the maximum over the whole vocabulary of `size` (this part, unless given), `came` (rows, 1) the
    logit of the token that came.
    """
    d, e, e8 = _exponentials(xp, logits, top)
    e2 = e * e
    e4 = e2 * e2
    e6 = e4 * e2
    products = (e2, e4, e6, e6 * e, e8 * e, e8 * e2, e8 * e4, e8 * e8)
    above = logits > came
    weighted = e8 * d
    ids = xp.arange(start, start + logits.shape[-1], dtype=xp.int32, device=logits.device)
    return Sums(
        tuple(xp.sum(x, axis=-1) for x in products),
        xp.sum(e8, axis=-1),
        xp.sum(weighted, axis=-1),
        xp.sum(weighted * d, axis=-1),
        xp.sum(xp.astype(above, xp.int32), axis=-1),
        xp.sum(xp.where(above, e8, 0.0), axis=-1),
        xp.min(xp.where(logits == top, ids, size or logits.shape[-1]), axis=-1),  # argmax leaves ties open in torch
    )


def cross_sums(xp: Any, logits: Any, top: Any, source: Any, source_top: Any) -> CrossSums:
    """What one pass over a pair's rows (rows, part of the vocabulary) sums up; both maxima are (rows, 1)."""
    d, _, _ = _exponentials(xp, logits, top)
    c, _, w = _exponentials(xp, source, source_top)
    own, cross = w * c, w * d
    lost = (logits == -xp.inf) & (w > 0)
    summed = (xp.sum(x, axis=-1) for x in (w, own, own * c, cross, cross * d))
    return CrossSums(*summed, xp.sum(xp.astype(lost, xp.int32), axis=-1))


def _exponentials(xp: Any, logits: Any, top: Any) -> tuple[Any, Any, Any]:
    """d = logits - max (cut at -8000), exp(d/8), exp(d)."""
    d = logits - top
    d = xp.where(d < _FLOOR, _FLOOR, d)  # keeps NaN
    e = xp.exp(d * 0.125)
    e2 = e * e
    e4 = e2 * e2
    return d, e, e4 * e4


def _whole(function: Callable, xp: Any, rows: tuple[Any, ...], fused: Callable | None) -> Any:
    """`function` over whole rows: compiled in one go, or in blocks of rows and of the vocabulary that are then added."""
    logits = rows[0]
    if fused is not None:
        return fused(function, xp)(*rows)
    n, size = logits.shape
    high, wide = max(1, BLOCK // size), min(size, BLOCK)
    bands = []
    for i in range(0, n, high):
        found = None
        for j in range(0, size, wide):
            part = [x[i : i + high, j : j + wide] if x.shape[-1] == size else x[i : i + high] for x in rows]
            extra = (j, size) if function is row_sums else ()
            sums = function(xp, *part, *extra)
            found = sums if found is None else _added(xp, found, sums)
        bands.append(found)
    return bands[0] if len(bands) == 1 else _stacked(xp, bands)


def _added(xp: Any, a: Any, b: Any) -> Any:
    """The sums of two parts of the vocabulary."""
    joined = {name: x + y for name, x, y in zip(a._fields, a, b, strict=True) if name not in ("powers", "greedy")}
    if isinstance(a, Sums):
        joined["powers"] = tuple(x + y for x, y in zip(a.powers, b.powers, strict=True))
        joined["greedy"] = xp.minimum(a.greedy, b.greedy)
    return type(a)(**joined)


def _stacked(xp: Any, bands: list[Any]) -> Any:
    """The sums of consecutive rows."""
    fields = []
    for values in zip(*bands, strict=True):
        if isinstance(values[0], tuple):
            fields.append(tuple(xp.concat(list(v)) for v in zip(*values, strict=True)))
        else:
            fields.append(xp.concat(list(values)))
    return type(bands[0])(*fields)


def row_columns(
    logits: Any,
    token: Int[Any, " rows"],
    source_logits: Any = None,
    adaptor: Adaptor | None = None,
    adaptors: Sequence[Adaptor] = (),
    *,
    fused: Callable | None = None,
) -> dict[str, Any]:
    """Every column of `Records` for rows of unnormalised log-probabilities (rows, vocab) and the tokens (rows,) that came.

    Never in less than single precision. `fused` compiles the two reductions (`NeuralLanguage.fused`). Nats, varentropies
    in nats². DistributionError on rows from which no distribution can be read.
    """
    logits = _at_least_single(logits)
    xp = namespace(logits)
    top, came = xp.max(logits, axis=-1, keepdims=True), gather(logits, token)
    with no_rounding_noise():
        sums = _whole(row_sums, xp, (logits, top, came[..., None]), fused)
        log_total = check_log_total(xp.log(sums.total), "logits")
        mean = sums.first / sums.total
        columns = {
            "surprisal": log_total + top[..., 0] - came,
            "entropy": log_total - mean,
            "varentropy": _variance(xp, sums.second / sums.total, mean),
            "rank": xp.astype(sums.above, xp.int64),
            "greedy": xp.astype(sums.greedy, xp.int64),
            "mass_above": sums.mass / sums.total,
        }
        for theta, power in zip(THETAS, sums.powers, strict=True):
            columns[theta_column(theta)] = xp.log(power) - theta * log_total
        if adaptors:
            log_p = logits - (log_total[..., None] + top)
            columns |= {f"log_q_{a}": gather(a(log_p), token) for a in adaptors}
        if source_logits is not None:
            columns |= _pair_columns(logits, top, token, source_logits, adaptor or ancestral(), log_total, fused)
    return columns


def _pair_columns(logits, top, token, source_logits, adaptor, log_total, fused) -> dict[str, Any]:
    source = _at_least_single(source_logits)
    source = source if adaptor.is_ancestral else adaptor(log_normalise(source))
    if type(source) is not type(logits) or source.dtype != logits.dtype or device(source) != device(logits):
        source = like(as_numpy(source), logits)  # source and scorer may live on different backends or devices
        source = namespace(logits).astype(source, logits.dtype)
    xp = namespace(logits)
    source_top = xp.max(source, axis=-1, keepdims=True)
    sums = _whole(cross_sums, xp, (logits, top, source, source_top), fused)
    log_source = check_log_total(xp.log(sums.total), "logits of the source")
    own, cross = sums.own / sums.total, sums.cross / sums.total
    v = _variance(xp, sums.cross2 / sums.total, cross)
    return {
        "cross_entropy": xp.where(sums.lost > 0, xp.inf, log_total - cross),
        "cross_varentropy": xp.where(sums.lost > 0, xp.nan, v),
        "source_surprisal": log_source + source_top[..., 0] - gather(source, token),
        "source_entropy": log_source - own,
        "source_varentropy": _variance(xp, sums.own2 / sums.total, own),
    }


def _variance(xp: Any, square: Any, mean: Any) -> Any:
    """E d² - (E d)², not below 0; d is measured from the maximum, so that nearly certain tokens do not cancel."""
    found = square - mean * mean
    return xp.where(found < 0, 0.0, found)


def _at_least_single(logits: Any) -> Any:
    xp = namespace(logits)
    return logits if logits.dtype in (xp.float32, xp.float64) else xp.astype(logits, xp.float32)
