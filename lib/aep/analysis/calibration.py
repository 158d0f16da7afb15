"""Calibration of the embedded models: is z standard normal on their own texts, and does the e-process keep its level?

``python -m aep.analysis.calibration [NAME ...]`` writes `data/results/A1_calibration.csv` (all: about 20 minutes on one
core; names: only these rows anew). Seed, sizes and levels were fixed before the first run.
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from .. import intervals
from .._progress import progress
from ..adaptors import Adaptor, temperature
from ..errors import ParameterError
from ..neural.loading import embedded, load
from ..outputs import repository, write_atomically
from ..sampling import sample
from ..scoring import score
from .eprocess import first_rejection, log_e_process
from .hypotheses import holm
from .typicality import Paths, z_test

__all__ = ["calibrate", "is_accepted", "normal_p_values"]

TEXTS, TOKENS, SEED, ALPHA = 2000, 256, 1808, 0.05
LEVEL = 0.001
_CHECKS = ("mean_p", "square_p", "shape_p")


def normal_p_values(z: Float[np.ndarray, " texts"]) -> dict[str, float]:
    """Two-sided p-values of "z is N(0,1)": its mean, Σz² against χ²_n, and Kolmogorov-Smirnov.

    >>> sorted(normal_p_values(np.zeros(9)))
    ['mean_p', 'shape_p', 'square_p']
    """
    n, square = len(z), float(np.sum(z**2))
    tails = stats.chi2.cdf(square, n), stats.chi2.sf(square, n)
    return {
        "mean_p": float(2 * stats.norm.sf(abs(np.mean(z)) * np.sqrt(n))),
        "square_p": float(min(1.0, 2 * min(tails))),
        "shape_p": float(stats.kstest(z, "norm").pvalue),
    }


def calibrate(
    language: Any, *, texts: int = TEXTS, tokens: int = TOKENS, seed: int = SEED, control: Adaptor | None = None
) -> dict[str, Any]:
    """One row: moments and p-values of z, the same with σ a quarter too large, and the false alarms of the e-process.

    The texts are the language's own, from the start token alone; `control` is a sampler whose texts the e-process is to
    find (temperature .9 by default; a tenth as many texts). `false_alarms_p` is the one-sided binomial p-value of
    "the rate is at most .05". Raises ParameterError if a text has "no test" (see `typicality.z_test`).
    """
    own = Paths.of(score(sample(language, None, texts=texts, tokens=tokens, seed=seed), language))
    found = z_test(*own[:3])
    if not found.has_test.all():
        raise ParameterError(
            f"{language.name}: {np.sum(~found.has_test)} of {texts} texts have no test: use longer ones"
        )
    alarms = first_rejection(log_e_process(own), ALPHA) <= tokens
    other = sample(
        language, None, texts=max(50, texts // 10), tokens=tokens, seed=seed + 1, adaptor=control or temperature(0.9)
    )
    power = first_rejection(log_e_process(Paths.of(score(other, language))), ALPHA) <= tokens
    rates = {"false_alarms": intervals.share(alarms), "power": intervals.share(power)}
    row = {"model": language.name, "texts": texts, "tokens": tokens}
    row |= {"mean": found.z.mean(), "mean_square": np.mean(found.z**2), **normal_p_values(found.z)}
    row |= {f"control_{name}": p for name, p in normal_p_values(found.z / 1.25).items()}
    for name, rate in rates.items():
        row |= rate.columns(name)
    return row | {"false_alarms_p": stats.binomtest(int(alarms.sum()), texts, ALPHA, alternative="greater").pvalue}


def is_accepted(rows: pd.DataFrame, prefix: str = "", level: float = LEVEL) -> pd.Series:
    """Per model, whether none of its three p-values is rejected by Holm over all models (at least at level/number).

    Holm rejects nothing exactly if Bonferroni rejects nothing; a model stays accepted if none of its values falls.
    """
    p = rows[[prefix + name for name in _CHECKS]].to_numpy(np.float64)
    rejected = holm(p.ravel()).reshape(p.shape) <= level
    return pd.Series(~rejected.any(axis=1), index=rows.index)


def main(names: list[str]) -> None:
    """Measure the models of `names` (all embedded ones if empty), row by row; the table keeps the rows of the others."""
    path = repository() / "data" / "results" / "A1_calibration.csv"
    found = pd.read_csv(path).set_index("model") if path.is_file() and names else pd.DataFrame()
    for name in progress(names or list(embedded()), desc="calibration", unit="model"):
        row = pd.Series(calibrate(load(name))).drop("model").rename(name)
        found = pd.concat([found.drop(index=name, errors="ignore"), row.to_frame().T]).sort_index()
        text = found.rename_axis("model").to_csv(float_format="%.6g", lineterminator="\n")
        write_atomically(path, text)  # after every model: an interrupt loses one
    found = pd.read_csv(path).set_index("model")
    print(found.assign(accepted=is_accepted(found)).round(4).T.to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
