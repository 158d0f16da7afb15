"""How schemes differ apart from the noise of their means: the correlation over schemes of infinitely many texts each.

The mean of few texts of a scheme is the scheme's own mean and noise, and the noise has the covariance of single texts. A
correlation over such means lies between that over schemes and that within them, however many schemes there are: it is
attenuated (Spearman 1904), and no bootstrap of the texts can see by how much. In a balanced two-way layout of schemes and
prompts the noise is known: that of a scheme's mean is the interaction of scheme and prompt over the number of prompts.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..errors import ParameterError
from ..intervals import Interval
from .quality import Columns, cell_means

__all__ = ["Between", "between_schemes", "between_table"]


class Between(NamedTuple):
    """Correlation over schemes without the noise of their means; the share of noise in the variance of the means of x, y."""

    correlation: Interval
    noise_x: float
    noise_y: float


def between_schemes(data: Columns) -> Between:
    """The correlation over schemes of the expectations of x and y, from tables of texts of every scheme and prompt.

    With cell means x_kj of K schemes and J prompts (random, crossed with the schemes) the covariance of the scheme means
    is that of their expectations plus MS/J, MS = Σ_kj e_kj e'_kj / ((K - 1)(J - 1)), e the residuals of x_kj from row and
    column means. Subtracted, it leaves the covariance of the expectations, without bias. The interval (95%) is the estimate
    and 1.96 standard errors of the jackknife over prompts, cut at ±1 (in simulations of 31 schemes and 60 prompts, with
    noise of 5% to 36% of a variance, it covered 98%). Everything but the noise is NaN where a variance that is left is not
    positive: so many texts show no difference of the schemes.

    Raises ParameterError below three schemes or ten prompts, and for a table that is not balanced.
    """
    cells = cell_means(data)[:2]
    _, k, j = cells.shape
    if k < 3 or j < 10:
        raise ParameterError(f"{k} schemes and {j} prompts: at least three and ten are needed")
    left, noise = _moments(cells)
    shares = np.diag(noise) / np.diag(left + noise)
    r = _correlation(left)
    again = np.array([_correlation(_moments(np.delete(cells, i, axis=2))[0]) for i in range(j)])
    if np.isnan(r) or np.isnan(again).any():
        return Between(Interval(r, np.nan, np.nan), *map(float, shares))
    half = 1.96 * float(np.sqrt((j - 1) * np.var(again)))
    ends = np.clip([r, r - half, r + half], -1, 1)
    return Between(Interval(*map(float, ends)), *map(float, shares))


def between_table(pairs: dict[tuple[str, str], Columns]) -> pd.DataFrame:
    """`between_schemes` of every (trio, pair), a row each: its correlation with `low` and `high`, `noise_x`, `noise_y`."""
    rows = []
    for (trio, pair), data in pairs.items():
        found = between_schemes(data)
        size = int(data.scheme.max()) + 1, int(data.prompt.max()) + 1
        rows.append((trio, pair, *size, *found.correlation, found.noise_x, found.noise_y))
    names = ["trio", "pair", "schemes", "prompts", "correlation", "low", "high", "noise_x", "noise_y"]
    return pd.DataFrame(rows, columns=names)


def _moments(cells: Float[np.ndarray, "2 k j"]) -> tuple[Float[np.ndarray, "2 2"], Float[np.ndarray, "2 2"]]:
    """Covariance over schemes of the expectations of x and y, and of the noise of the scheme means."""
    _, k, j = cells.shape
    means = cells.mean(axis=2)
    rest = cells - means[:, :, None] - cells.mean(axis=1)[:, None] + cells.mean(axis=(1, 2))[:, None, None]
    noise = np.einsum("akj,bkj->ab", rest, rest) / ((k - 1) * (j - 1) * j)
    return np.cov(means) - noise, noise


def _correlation(covariance: Float[np.ndarray, "2 2"]) -> float:
    if not (np.diag(covariance) > 0).all():
        return float("nan")
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))  # beyond 1 by noise, perhaps
