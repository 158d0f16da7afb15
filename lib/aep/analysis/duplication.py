"""What repetition in training does to a score: its AUROC against the number of repeats.

A text is the unit; the number of repeats is 0 for texts the model has not seen. Scores are turned so that larger means
memorised (`detection.oriented`), so that a *fall* from one count to the next is what speaks against memorisation.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import special, stats

from ..errors import ParameterError
from ..intervals import Interval, mann_whitney
from .hypotheses import holm
from .roc import components

__all__ = ["auroc_curve"]

Values = Float[np.ndarray, " texts"]
Counts = Int[np.ndarray, " counts"]


def auroc_curve(values: Values, counts: Counts, *, level: float = 0.95) -> pd.DataFrame:
    """AUROC of the texts of every count above 0 against those of count 0: count, texts, auroc, low, high, and the steps.

    Intervals by DeLong's variance on the logit scale, and at least `intervals.mann_whitney`, as in `roc.compare`. `step`
    from the count before, against the same texts of count 0, whose components are paired; `step_low`, `step_high`;
    `fall_p` of "AUROC does not fall", one-sided, and `fall_p_holm` over all steps. ParameterError for NaN, one count, or
    no text of count 0.
    """
    parts = _parts(values, counts)
    if 0 not in parts:
        raise ParameterError("no text has count 0: AUROC is against texts that the model has not seen")
    unseen = parts.pop(0)
    rows, before, normal = [], (unseen, unseen), stats.norm.isf((1 - level) / 2)
    for count, here in parts.items():
        seen, other = components(here, unseen)
        found = _logit_interval(seen, other, level)
        row = dict(zip(("auroc", "low", "high"), found, strict=True)) | {"count": count, "texts": len(here)}
        if rows:
            step = seen.mean() - before[0].mean()
            variance = _variance(seen) + _variance(before[0]) + _variance(other - before[1])
            error = np.sqrt(variance)
            row |= {"step": step, "step_low": step - normal * error, "step_high": step + normal * error}
            row |= {"fall_p": float(stats.norm.cdf(step / error)) if error > 0 else float(step >= 0)}
        rows.append(row)
        before = seen, other
    columns = ["count", "texts", "auroc", "low", "high", "step", "step_low", "step_high", "fall_p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(fall_p_holm=holm(table.fall_p.to_numpy(np.float64)))


def _variance(part: np.ndarray) -> float:
    """Of a mean; 0 for one text."""
    return float(np.var(part, ddof=1) / len(part)) if len(part) > 1 else 0.0


def _logit_interval(seen: np.ndarray, other: np.ndarray, level: float) -> Interval:
    """DeLong's on the logit scale where it has one, and at least `intervals.mann_whitney`."""
    area, error = float(seen.mean()), np.sqrt(_variance(seen) + _variance(other))
    least = mann_whitney(area, len(seen), len(other), level)
    if not 0 < area < 1:
        return least
    half = stats.norm.isf((1 - level) / 2) * error / (area * (1 - area))
    low, high = (float(special.expit(special.logit(area) + side * half)) for side in (-1, 1))
    return Interval(area, min(low, least.low), max(high, least.high))


def _parts(values: np.ndarray, counts: np.ndarray) -> dict[int, np.ndarray]:
    """The values of every count, ascending."""
    if len(values) != len(counts):
        raise ParameterError(f"{len(values)} values and {len(counts)} counts: one count for each text")
    if np.isnan(values).any():
        raise ParameterError(
            f"the score of text {int(np.isnan(values).argmax())} is NaN: leave out texts without a value"
        )
    found = {int(c): np.asarray(values[counts == c], np.float64) for c in np.unique(counts)}
    if len(found) < 2 or min(found) < 0:
        raise ParameterError(f"counts are {sorted(found)}: at least two different ones, none below 0")
    return found
