"""The four tables of a model's diagnostic panel: one text running, the final l - h, the quantiles of z, the rate."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from ..errors import ParameterError
from ..records import Records
from . import self_aep
from .typicality import Paths, running_mean, running_sigma, z_test

__all__ = ["Panel", "final_histogram", "panel"]


class Panel(NamedTuple):
    """Tables of one model: `self_aep.running`, `final_histogram`, `self_aep.qq`, `self_aep.convergence`."""

    running: pd.DataFrame
    final: pd.DataFrame
    quantiles: pd.DataFrame
    rate: pd.DataFrame


def final_histogram(
    difference: Float[np.ndarray, " texts"], sigma: Float[np.ndarray, " texts"], bins: int = 16
) -> pd.DataFrame:
    """One row per bin of the final l - h: texts in it, their density (1/nats), and what the paths predict.

    Each text predicts N(0, σ_T²) for its own l_T - h_T; `predicted` is the density of the mixture of these normal laws over
    texts, averaged over the bin. `low`, `high` is the pointwise 95% band of the measured density: binomial quantiles of
    the number of texts in the bin under the prediction. Bins run from -m to m, m the largest |l - h| or four times the
    root mean square of σ. ParameterError if there are fewer than 2 bins or all σ are 0 (nothing is predicted to vary).
    """
    if bins < 2 or not np.any(sigma > 0):
        raise ParameterError(f"bins={bins!r}: at least 2 are needed, and texts whose σ is above 0")
    reach = max(float(np.abs(difference).max()), 4 * float(np.sqrt(np.mean(sigma**2))))
    edges = np.linspace(-reach, reach, bins + 1)
    counts, width, n = np.histogram(difference, edges)[0], edges[1] - edges[0], len(difference)
    with np.errstate(divide="ignore", invalid="ignore"):  # σ = 0 is a point mass at 0
        scaled = np.where(edges[:, None] == 0, 0.0, edges[:, None] / sigma)
    chance = np.diff(stats.norm.cdf(scaled).mean(axis=1))
    low, high = (stats.binom.ppf(q, n, chance) / (n * width) for q in (0.025, 0.975))
    columns = {"left": edges[:-1], "right": edges[1:], "texts": counts, "density": counts / (n * width)}
    return pd.DataFrame(columns | {"predicted": chance / width, "low": low, "high": high})


def panel(records: Records, long: Records, *, at: Any, fixed_width: float = 0.1, alpha: float = 0.05) -> Panel:
    """The four tables from a record of many texts of one length and a record whose first text is shown running."""
    paths = Paths.of(records)
    gap, sigma = running_mean(paths.surprisal - paths.entropy)[:, -1], running_sigma(paths.varentropy)[:, -1]
    test = z_test(*paths[:3])
    return Panel(
        self_aep.running(long, 0, alpha),
        final_histogram(gap, sigma),
        self_aep.qq(test.z[test.has_test], "own text"),
        self_aep.convergence(records, np.asarray(at), fixed_width),
    )
