"""The probability-quality trade-off of 2406.10203 on the Dirichlet toy: corpora, typicality, bands, and what they do.

A corpus is N objects drawn from p_plus. Tables have one row per corpus: `mean_log_p`, `mean_reward`, `mean_log_p_plus`
(nats per object) and `log_p_plus`, the log-probability of the corpus (nats). As r = log p_plus - log p, the second column
is the third minus the first: that is algebra, and everything below asks what selection and data add to it.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats

from .. import information
from .._progress import progress
from ..adaptors import Adaptor
from ..intervals import bootstrap, weighted_correlation
from ..languages.finite import Toy, toy

__all__ = [
    "banded",
    "banded_correlation",
    "bands",
    "conditional_mean_reward",
    "conditioned_correlation",
    "correlation_of_selected_range",
    "correlations_of_toys",
    "covariance_by_band",
    "is_typical",
    "legacy_corpora",
    "pushed_to_the_prior",
    "sampled_corpora",
    "sweep",
    "tempered_family",
    "tilted_family",
    "truncated_variance",
]

CHUNK = 1000


def _statistics(counts: Int[np.ndarray, "corpora objects"], toy: Toy, size: int) -> pd.DataFrame:
    log_p_plus = counts @ toy.log_p_plus
    columns = {
        "mean_log_p": counts @ toy.log_p / size,
        "mean_reward": counts @ toy.reward / size,
        "mean_log_p_plus": log_p_plus / size,
        "log_p_plus": log_p_plus,
    }
    return pd.DataFrame(columns)


def legacy_corpora(toy: Toy, corpora: int = 1000, size: int = 100_000, *, first_seed: int = 0) -> pd.DataFrame:
    """Corpora in the random stream of the public code: corpus c is ``np.random.seed(c)``, then ``np.random.choice``.

    One corpus of ids is held at a time. See the module for the columns.
    """
    objects = len(toy.p_plus)
    tables = []
    for corpus in progress(range(first_seed, first_seed + corpora), desc="legacy corpora", unit="corpus"):
        ids = np.random.RandomState(corpus).choice(objects, size=size, p=toy.p_plus)
        tables.append(_statistics(np.bincount(ids, minlength=objects)[None], toy, size))
    return pd.concat(tables, ignore_index=True)


def sampled_corpora(toy: Toy, corpora: int, size: int, *, rng: np.random.Generator) -> pd.DataFrame:
    """The same law by its sufficient statistic: counts are Multinomial(size, p_plus), so no object is drawn singly.

    >>> from aep.languages import toy
    >>> t = sampled_corpora(toy(), 5, 100, rng=np.random.default_rng(0))
    >>> bool(np.allclose(t.mean_log_p + t.mean_reward, t.mean_log_p_plus))
    True
    """
    tables = []
    for low in range(0, corpora, CHUNK):
        counts = rng.multinomial(size, toy.p_plus, size=min(CHUNK, corpora - low))
        tables.append(_statistics(counts, toy, size))
    return pd.concat(tables, ignore_index=True)


def is_typical(table: pd.DataFrame, toy: Toy, epsilon: float) -> Bool[np.ndarray, " corpora"]:
    """|mean log p_plus + H(p_plus)| < epsilon: the typical set of 2406.10203, Eq. 10 (strict, as in the public code)."""
    entropy = float(information.entropy(toy.log_p_plus))
    return (np.abs(table["mean_log_p_plus"].to_numpy() + entropy)) < epsilon


def correlations_of_toys(seeds: Iterable[int]) -> pd.DataFrame:
    """Correlation of log p and reward over the objects of each toy: columns `by_p_plus` and `uniform`, index `toy_seed`.

    The first is the correlation of mean log p and mean reward over corpora of any size drawn from that toy's p_plus.
    """
    trios = [(seed, toy(seed=seed)) for seed in seeds]
    rows = [
        (seed, weighted_correlation(t.log_p, t.reward, t.p_plus), weighted_correlation(t.log_p, t.reward))
        for seed, t in trios
    ]
    return pd.DataFrame(rows, columns=["toy_seed", "by_p_plus", "uniform"]).set_index("toy_seed")


# ------------------------------------------------------------------------------------------------------------- bands


def bands(mean_log_p: Float[np.ndarray, " corpora"] | pd.Series, n: int = 10) -> Int[np.ndarray, " corpora"]:
    """Index 0 ... n-1 of the equal-width band of each value, as `pandas.cut` makes them between minimum and maximum."""
    return np.asarray(pd.cut(np.asarray(mean_log_p), bins=n, labels=False))


def banded(table: pd.DataFrame, *, n: int = 10, per_band: int = 100, seed: int = 42) -> pd.DataFrame:
    """The bootstrap that spreads corpora evenly over bands of mean log p (2406.10203, section 6.1; its public code).

    `per_band` corpora are drawn with replacement in each occupied band, from one legacy ``RandomState(seed)``, which the
    public code sets anew for the typical and for the atypical corpora. Adds the column `band`.
    """
    table = table.assign(band=bands(table["mean_log_p"], n))
    return table.groupby("band").sample(n=per_band, replace=True, random_state=np.random.RandomState(seed))


def banded_correlation(
    mean_log_p: Float[np.ndarray, " corpora"], mean_reward: Float[np.ndarray, " corpora"], n: int = 10
) -> float:
    """What the correlation of `banded` tends to for many draws per band: every occupied band has the same total weight.

    Free of resampling noise, so that a bootstrap interval over the corpora themselves can be put round it.
    """
    band = bands(mean_log_p, n)
    return weighted_correlation(mean_log_p, mean_reward, 1 / np.bincount(band, minlength=n)[band])


def correlation_of_selected_range(correlation: float, spread: float) -> float:
    """Correlation after selecting on x alone so that its standard deviation is `spread` times as large (Pearson 1903).

    r u / sqrt(1 + r^2 (u^2 - 1)), u = spread: selection on x keeps the regression of y on x and the noise about it.

    >>> correlation_of_selected_range(-0.5, 1.0)
    -0.5
    """
    return float(correlation * spread / np.sqrt(1 + correlation**2 * (spread**2 - 1)))


def covariance_by_band(table: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """Variances, covariance and correlation of mean log p and mean reward: total, between bands and within bands.

    Law of total covariance: the parts of each variance and covariance add up to the total. Index `part`; the
    correlations do not add: each is that of its own part.
    """
    x, y = table["mean_log_p"], table["mean_reward"]
    band = bands(x, n)
    centre_x, centre_y = x.groupby(band).transform("mean"), y.groupby(band).transform("mean")
    parts = {"total": (x - x.mean(), y - y.mean()), "between bands": (centre_x - x.mean(), centre_y - y.mean())}
    parts["within bands"] = (x - centre_x, y - centre_y)
    rows = [(name, (a * a).mean(), (b * b).mean(), (a * b).mean()) for name, (a, b) in parts.items()]
    out = pd.DataFrame(rows, columns=["part", "var_log_p", "var_reward", "covariance"]).set_index("part")
    return out.assign(correlation=out["covariance"] / np.sqrt(out["var_log_p"] * out["var_reward"]))


# ------------------------------------------------------------------------------------------- typicality as selection


def conditioned_correlation(toy: Toy, ratio: Float[np.ndarray, "*points"] | float) -> Float[np.ndarray, "*points"]:
    """Correlation of mean log p and mean reward among typical corpora, for ratio = epsilon / sigma_N.

    Mean log p and mean log p_plus are jointly normal for large N; typicality truncates the second at ±epsilon, which
    multiplies its variance by k = 1 - 2 c phi(c) / (2 Phi(c) - 1), c = ratio, and keeps the regression on it. From -1
    (c -> 0: the identity alone) to the correlation under p_plus (c -> infinity), whatever N.

    >>> from aep.languages import toy
    >>> round(float(conditioned_correlation(toy(), 1e-6)), 6)
    -1.0
    """
    k = truncated_variance(ratio)
    (xx, xs), (_, ss) = np.cov([toy.log_p, toy.log_p_plus], aweights=toy.p_plus, ddof=0)
    var_log_p = xx - (1 - k) * xs**2 / ss
    return np.asarray((k * xs - var_log_p) / np.sqrt(var_log_p * (var_log_p + k * ss - 2 * k * xs)))


def truncated_variance(ratio: Float[np.ndarray, "*points"] | float) -> Float[np.ndarray, "*points"]:
    """Variance of a standard normal given that it is within ±c, c = `ratio`: 1 - 2 c phi(c) / (2 Phi(c) - 1), in [0, 1].

    >>> truncated_variance(np.array([1e-6, 1., 40.])).round(4).tolist()
    [0.0, 0.2911, 1.0]
    """
    c = np.minimum(np.asarray(ratio, dtype=np.float64), 40.0)  # where the density is 0
    # below .02 the difference cancels; the series is c^2 / 3 + O(c^4)
    exact = 1 - 2 * c * stats.norm.pdf(c) / (2 * stats.norm.cdf(np.maximum(c, 1e-3)) - 1)
    return np.asarray(np.where(c < 0.02, c**2 / 3, exact))


def sweep(
    toy: Toy, sizes: list[int], *, corpora: int, epsilon: float, rng: np.random.Generator, resamples: int = 499
) -> pd.DataFrame:
    """Correlation among typical corpora at a fixed epsilon for each corpus size, beside the theory.

    Columns: `size`, `ratio` = epsilon / sigma_N with sigma_N = sqrt(V / N), `typical` (their number), `theory`,
    `correlation` with its bootstrap interval `low`, `high`, and `over_all`, the correlation without conditioning.
    """
    varentropy = float(information.varentropy(toy.log_p_plus))
    rows = []
    for size in progress(sizes, desc="corpus sizes", unit="size"):
        table = sampled_corpora(toy, corpora, size, rng=rng)
        kept = table[is_typical(table, toy, epsilon)]
        x, y = kept["mean_log_p"].to_numpy(), kept["mean_reward"].to_numpy()
        ratio = epsilon / np.sqrt(varentropy / size)
        interval = bootstrap(weighted_correlation, x, y, rng=rng, resamples=resamples)
        over_all = weighted_correlation(table["mean_log_p"].to_numpy(), table["mean_reward"].to_numpy())
        rows.append((size, ratio, len(kept), float(conditioned_correlation(toy, ratio)), *interval, over_all))
    names = ["size", "ratio", "typical", "theory", "correlation", "low", "high", "over_all"]
    return pd.DataFrame(rows, columns=names)


# -------------------------------------------------------------------------------------- conditioning and two families


def _family(toy: Toy, name: str, values: Float[np.ndarray, " points"], log_weights: np.ndarray) -> pd.DataFrame:
    q = np.exp(information.log_normalise(log_weights))
    return pd.DataFrame({name: values, "mean_log_p": q @ toy.log_p, "mean_reward": q @ toy.reward})


def tilted_family(toy: Toy, exponents: Float[np.ndarray, " points"]) -> pd.DataFrame:
    """Mean log p and mean reward under q proportional to p_plus p^lambda: only the prior factor is tempered.

    Gibbs conditioning (Cover and Thomas, Theorem 11.6.2): given its mean log p, a large corpus looks like draws from
    the member of this family with that mean, so E[mean r | mean log p] follows the family. Columns `exponent`,
    `mean_log_p`, `mean_reward`.

    >>> from aep.languages import toy
    >>> t = toy()
    >>> bool(np.isclose(tilted_family(t, np.array([0.])).mean_log_p[0], t.p_plus @ t.log_p))
    True
    """
    return _family(toy, "exponent", exponents, toy.log_p_plus + exponents[:, None] * toy.log_p)


def tempered_family(toy: Toy, temperatures: Float[np.ndarray, " points"]) -> pd.DataFrame:
    """Mean log p and mean reward under q proportional to p_plus^(1/tau) = p^(1/tau) e^(r/tau): both factors tempered.

    >>> from aep.languages import toy
    >>> t = toy()
    >>> bool(np.isclose(tempered_family(t, np.array([1.])).mean_reward[0], t.p_plus @ t.reward))
    True
    """
    return _family(toy, "temperature", temperatures, toy.log_p_plus / temperatures[:, None])


def conditional_mean_reward(
    toy: Toy, *, corpora: int, size: int, edges: Float[np.ndarray, " edges"], rng: np.random.Generator
) -> pd.DataFrame:
    """E[mean reward | mean log p in a bin], by drawing corpora from p_plus and sorting them: no theory enters.

    Columns `mean_log_p` (mean in the bin), `mean_reward`, `low`, `high` (95%), `corpora`; bins of under 50 are left out.
    """
    values = []
    for low in progress(range(0, corpora, 20 * CHUNK), desc="corpora", unit="chunk"):
        ids = rng.choice(len(toy.p_plus), size=(min(20 * CHUNK, corpora - low), size), p=toy.p_plus)
        values.append(np.stack([toy.log_p[ids].mean(axis=1), toy.reward[ids].mean(axis=1)], axis=1))
    table = pd.DataFrame(np.concatenate(values), columns=["x", "y"])
    cells = table.groupby(pd.cut(table["x"], edges), observed=True)
    out = cells.agg(mean_log_p=("x", "mean"), mean_reward=("y", "mean"), error=("y", "sem"), corpora=("y", "size"))
    out = out[out["corpora"] >= 50].reset_index(drop=True)
    half = stats.t.ppf(0.975, out["corpora"] - 1) * out.pop("error")
    return out.assign(low=out["mean_reward"] - half, high=out["mean_reward"] + half)


def pushed_to_the_prior(toy: Toy, adaptors: list[Adaptor]) -> pd.DataFrame:
    """What an adaptor does to p_plus beside what Eq. 13 (Eq. 41) of 2406.10203 says: gamma(p) times e^r, normalised.

    A text is a single object here, so local and global normalisation agree and only the step itself is tested. Columns:
    `adaptor`, mean log p and mean reward under gamma(p_plus) and under the pushed form (`_pushed`), the
    `total_variation` between the two laws, and `shared`, the share of kept objects they have in common (Jaccard).
    """
    rows = []
    for adaptor in adaptors:
        log_q = adaptor(toy.log_p_plus)
        log_pushed = information.log_normalise(toy.reward + adaptor.log_weights(toy.log_p))
        q, pushed = np.exp(log_q), np.exp(log_pushed)
        means = [q @ toy.log_p, q @ toy.reward, pushed @ toy.log_p, pushed @ toy.reward]
        both, either = (q > 0) & (pushed > 0), (q > 0) | (pushed > 0)
        variation = round(float(np.abs(q - pushed).sum()) / 2, 12)  # equal laws differ by rounding, machine by machine
        rows.append((str(adaptor), *means, variation, both.sum() / either.sum()))
    names = ["mean_log_p", "mean_reward", "mean_log_p_pushed", "mean_reward_pushed", "total_variation", "shared"]
    return pd.DataFrame(rows, columns=["adaptor", *names])
