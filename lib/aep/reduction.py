"""The reduction of the scoring pass: rows of logits in, every column of SPEC 1.1 out. One function, NumPy and torch.

One maximum, one exponential e = exp((logit - max)/8), then products and row sums. Written for speed; each column equals
its definition in `information` (tested to 1e-9 against full distributions in double precision).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float, Int

from ._array import as_numpy, device, gather, like, namespace, no_rounding_noise
from .adaptors import Adaptor, ancestral
from .errors import DistributionError
from .information import THETAS, log_normalise
from .records import theta_column

__all__ = ["BLOCK", "Sums", "cross_sums", "row_columns", "row_sums"]

BLOCK = 2**15
"""Entries (rows x vocabulary) that are reduced at once when nothing fuses the operations: what fits into a cache."""

_FLOOR = -8000.0  # below it exp((logit - max)/8) is 0 in every precision; finite, so that 0 times it is 0


class Sums(NamedTuple):
    """Sums over the vocabulary of the scorer's rows, each (rows,); d = logit - max, e = exp(d), x the token that came."""

    top: Any
    powers: tuple[Any, ...]  # Σ e^θ for θ in THETAS
    total: Any  # Σ e
    first: Any  # Σ e d
    second: Any  # Σ e d²
    above: Any  # number of entries with logit > that of x
    mass: Any  # Σ e over these
    greedy: Any


def row_sums(logits: Float[Any, "rows vocab"], came: Float[Any, " rows"]) -> Sums:
    """What one pass over `logits` sums up; `came` is the logit of the token that came."""
    xp = namespace(logits)
    top, d, e, e8 = _exponentials(xp, logits)
    e2 = e * e
    e4 = e2 * e2
    e6 = e4 * e2
    products = (e2, e4, e6, e6 * e, e8 * e, e8 * e2, e8 * e4, e8 * e8)
    above = logits > came[..., None]
    weighted = e8 * d
    ids = xp.arange(logits.shape[-1], dtype=xp.int32, device=device(logits))
    return Sums(
        top[..., 0],
        tuple(xp.sum(x, axis=-1) for x in products),
        xp.sum(e8, axis=-1),
        xp.sum(weighted, axis=-1),
        xp.sum(weighted * d, axis=-1),
        xp.sum(xp.astype(above, xp.int32), axis=-1),
        xp.sum(xp.where(above, e8, 0.0), axis=-1),
        xp.min(xp.where(logits == top, ids, logits.shape[-1] - 1), axis=-1),  # argmax leaves ties open in torch
    )


def _exponentials(xp: Any, logits: Any) -> tuple[Any, Any, Any, Any]:
    """max, d = logits - max (cut at -8000), exp(d/8), exp(d)."""
    top = xp.max(logits, axis=-1, keepdims=True)
    d = logits - top
    d = xp.where(d < _FLOOR, _FLOOR, d)  # keeps NaN
    e = xp.exp(d * 0.125)
    e2 = e * e
    e4 = e2 * e2
    return top, d, e, e4 * e4


def cross_sums(logits: Float[Any, "rows vocab"], source: Float[Any, "rows vocab"]) -> tuple[Any, ...]:
    """Of unnormalised log-weights `source` of the law p_A and the scorer's `logits`, each (rows,):

    max of `source`, Σ w, Σ w c, Σ w c² with w = exp(source - max) and c = source - max; Σ w d, Σ w d² with the scorer's d;
    and whether a token that p_A allows has probability 0 under the scorer.
    """
    xp = namespace(logits)
    d = logits - xp.max(logits, axis=-1, keepdims=True)
    top, c, _, w = _exponentials(xp, source)
    lost = (d == -xp.inf) & (w > 0)
    d = xp.where(d < _FLOOR, _FLOOR, d)
    own, cross = w * c, w * d
    return (
        top[..., 0],
        *(xp.sum(x, axis=-1) for x in (w, own, own * c, cross, cross * d)),
        xp.any(lost, axis=-1),
    )


def row_columns(
    logits: Any,
    token: Int[Any, " rows"],
    source_logits: Any = None,
    adaptor: Adaptor | None = None,
    adaptors: Sequence[Adaptor] = (),
    *,
    fused: Callable[[Callable], Callable] | None = None,
) -> dict[str, Any]:
    """Every column of SPEC 1.1 for rows of unnormalised log-probabilities (rows, vocab) and the tokens (rows,) that came.

    Never in less than single precision. `fused` compiles the two reductions (`NeuralLanguage.fused`); without it the rows go
    through in blocks that stay in the processor's cache. Nats, varentropies in nats². DistributionError on rows from which
    no distribution can be read.
    """
    size = max(1, BLOCK // logits.shape[-1]) if fused is None else logits.shape[0]
    blocks = []
    for i in range(0, logits.shape[0], size):
        part = slice(i, i + size)
        source = None if source_logits is None else source_logits[part]
        blocks.append(_columns(logits[part], token[part], source, adaptor, adaptors, fused or (lambda f: f)))
    if len(blocks) == 1:
        return blocks[0]
    xp = namespace(logits)
    return {name: xp.concat([block[name] for block in blocks]) for name in blocks[0]}


def _columns(logits, token, source_logits, adaptor, adaptors, fused) -> dict[str, Any]:
    logits = _at_least_single(logits)
    xp = namespace(logits)
    came = gather(logits, token)
    with no_rounding_noise(logits):
        sums = fused(row_sums)(logits, came)
        log_total = _checked(xp.log(sums.total), "logits")
        mean = sums.first / sums.total
        columns = {
            "surprisal": log_total + sums.top - came,
            "entropy": log_total - mean,
            "varentropy": _variance(xp, sums.second / sums.total, mean),
            "rank": xp.astype(sums.above, xp.int64),
            "greedy": xp.astype(sums.greedy, xp.int64),
            "mass_above": sums.mass / sums.total,
        }
        for theta, power in zip(THETAS, sums.powers, strict=True):
            columns[theta_column(theta)] = xp.log(power) - theta * log_total
        if adaptors:
            log_p = logits - (log_total + sums.top)[..., None]
            columns |= {f"log_q_{a}": gather(a(log_p), token) for a in adaptors}
        if source_logits is not None:
            columns |= _pair_columns(logits, token, source_logits, adaptor or ancestral(), log_total, fused)
    return columns


def _pair_columns(logits, token, source_logits, adaptor, log_total, fused) -> dict[str, Any]:
    source = _at_least_single(source_logits)
    source = source if adaptor.is_ancestral else adaptor(log_normalise(source))
    if type(source) is not type(logits) or source.dtype != logits.dtype or device(source) != device(logits):
        source = like(as_numpy(source), logits)  # source and scorer may live on different backends or devices
        source = namespace(logits).astype(source, logits.dtype)
    xp = namespace(logits)
    top, total, own, own2, cross, cross2, lost = fused(cross_sums)(logits, source)
    log_source = _checked(xp.log(total), "logits of the source")
    own, cross = own / total, cross / total
    b = log_total - cross
    v = _variance(xp, cross2 / total, cross)
    return {
        "cross_entropy": xp.where(lost, xp.inf, b),
        "cross_varentropy": xp.where(lost, xp.nan, v),
        "source_surprisal": log_source + top - gather(source, token),
        "source_entropy": log_source - own,
        "source_varentropy": _variance(xp, own2 / total, own),
    }


def _variance(xp: Any, square: Any, mean: Any) -> Any:
    """E d² - (E d)², not below 0; d is measured from the maximum, so that nearly certain tokens do not cancel."""
    found = square - mean * mean
    return xp.where(found < 0, 0.0, found)


def _checked(log_total: Any, what: str) -> Any:
    good = as_numpy(namespace(log_total).isfinite(log_total))
    if not good.all():
        row = int((~good).argmax())
        raise DistributionError(
            f"{what} of row {row} hold NaN or +inf, or no finite value: no distribution can be read from them"
        )
    return log_total


def _at_least_single(logits: Any) -> Any:
    xp = namespace(logits)
    return logits if logits.dtype in (xp.float32, xp.float64) else xp.astype(logits, xp.float32)
