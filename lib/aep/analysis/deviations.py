"""Local against global means of every scheme over pools of stored texts, beside what some shortcuts give instead.

The globally normalised law of an adaptor after one opening has weights Π_t Z_t on the texts of its local sampler
(`metropolis`). A chain over a stored pool tends to the weights on that pool (`metropolis.pool_target`), so both can be
given: the chain, as the experiment is done, and its limit, without Monte Carlo noise. Two shortcuts, as we read
the public code of 2406.10203 (commit ccec1ac), are re-enacted on the same texts: a chain that accepts every proposal, and
one chain over the texts of all openings together, which prefers openings with large Z. A third, `top_k=50` that stays on
while texts are generated, needs texts of its own (`left_on`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from .. import intervals
from ..adaptors import Adaptor, top_k
from ..errors import ParameterError
from ..importance import kish, pareto_k
from .chains import cramers_v
from .metropolis import Chains, Proposals, pool_chains, pool_target
from .schemes import pool

__all__ = ["corpus_correlations", "left_on", "left_on_table", "local_and_global", "pool_weights"]


def pool_weights(proposals: Proposals) -> Float[np.ndarray, " texts"]:
    """The limit of one chain per prompt over a pool: weights of the texts, 1/(number of prompts) for those of each."""
    prompts, which = np.unique(proposals.prompt, return_inverse=True)
    weight = np.zeros(len(which))
    for p in range(len(prompts)):
        mine = which == p
        weight[mine] = pool_target(proposals.log_weight[mine]) / len(prompts)
    return weight


def local_and_global(
    table: pd.DataFrame,
    values: Sequence[str],
    *,
    rng: np.random.Generator,
    chains: int = 8,
    steps: int = 1000,
    least: int = 64,
) -> pd.DataFrame:
    """Means of every scheme, normalised locally and globally: one row per scheme, of at least `least` texts per prompt.

    For every column of `values`: `<value>_local`; `<value>_global`, the limit of one chain per prompt over the pool,
    averaged over prompts; `<value>_chain`, what `chains` chains per prompt of `steps` steps give (the first quarter
    dropped); `<value>_always`, the same chains if every proposal is accepted; `<value>_pooled`, the limit of one chain
    over the texts of all prompts. Further `acceptance` and `cramers_v` (mean over prompts) of the chains; `kish`, the
    mean over prompts of the effective number of texts (Σw)²/Σw², and `pareto_k`, the largest; `prompts_pooled`, the
    effective number of prompts of the pooled chain; `texts` per prompt and `finished`, the share that ended before the
    cap (the others are never accepted).

    Raises ParameterError below `least` texts of a prompt, RecordError for a prompt of which no text ended.
    """
    rows = {}
    for scheme, mine in table.groupby("scheme", sort=False):
        mine = mine.sort_values("prompt", kind="stable")
        proposals = pool(mine, least=least)
        flat = proposals._replace(log_weight=np.where(mine["finished"], 0.0, -np.inf))
        run, always = (pool_chains(p, chains=chains, steps=steps, rng=rng).after(steps // 4) for p in (proposals, flat))
        rows[scheme] = _mixing(proposals, run) | {"finished": mine["finished"].mean()}
        weight, together = pool_weights(proposals), pool_target(proposals.log_weight)
        for name in values:
            value = mine[name].to_numpy(np.float64)
            rows[scheme] |= {
                f"{name}_local": value[mine["finished"]].mean(),
                f"{name}_global": weight @ value,
                f"{name}_chain": run.mean(value).mean(),
                f"{name}_always": always.mean(value).mean(),
                f"{name}_pooled": together @ value,
            }
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="scheme"))


def corpus_correlations(
    table: pd.DataFrame, x: str, y: str, *, rng: np.random.Generator, resamples: int = 499, least: int = 64
) -> pd.DataFrame:
    """Pearson correlation over schemes of their means of x and y, with a 95% interval: rows `local`, `global`, `pooled`.

    The means are those of `local_and_global`: of the texts that ended; of the limit of one chain per prompt; of the limit
    of one chain over the texts of all prompts. The interval is that of `quality.correlations`, from the spread over
    resamples on Fisher's scale. The bootstrap draws prompts, the same for all schemes; of fewer than ten prompts it draws
    texts of each instead, and the interval is for these prompts alone (column `unit`). Raises as `local_and_global`.
    """
    pools = [mine.sort_values("prompt", kind="stable") for _, mine in table.groupby("scheme", sort=False)]
    texts = [
        (pool(mine, least=least), mine["finished"].to_numpy(), mine[[x, y]].to_numpy(np.float64)) for mine in pools
    ]
    prompts = np.unique(table["prompt"])
    by_prompt = len(prompts) >= 10

    def correlations(share: np.ndarray | None) -> list[float]:
        means = []
        for proposals, finished, values in texts:
            code = np.searchsorted(prompts, proposals.prompt)
            times = np.ones(len(code)) if share is None else share[code]
            if share is not None and not by_prompt:
                times = np.concatenate([rng.multinomial(n, np.full(n, 1 / n)) for n in np.bincount(code)]).astype(float)
            means.append(_means_of_laws(proposals.log_weight, times, code, finished, values))
        return [float(np.corrcoef(of_law.T)[0, 1]) for of_law in np.swapaxes(means, 0, 1)]

    even = np.full(len(prompts), 1 / len(prompts))
    drawn = np.array([correlations(rng.multinomial(len(prompts), even).astype(float)) for _ in range(resamples)])
    found = pd.DataFrame({"correlation": correlations(None)}, ["local", "global", "pooled"])
    scale = np.arctanh(np.clip(np.r_[[found["correlation"]], drawn], -1 + 1e-12, 1 - 1e-12))
    half = 1.96 * np.nanstd(scale[1:], axis=0, ddof=1)
    found = found.assign(low=np.tanh(scale[0] - half), high=np.tanh(scale[0] + half))
    return found.assign(unit="prompts" if by_prompt else "texts of these prompts")


def _means_of_laws(
    log_weight: np.ndarray, times: np.ndarray, code: np.ndarray, finished: np.ndarray, values: np.ndarray
) -> Float[np.ndarray, "3 2"]:
    """Means under the local, the global and the pooled law of texts of which each counts `times` times."""
    n = code.max() + 1
    highest = np.full(n, -np.inf)
    np.maximum.at(highest, code, log_weight)
    within = times * np.exp(log_weight - highest[code])
    sums = np.array([np.bincount(code, within * v, n) for v in values.T])
    total, of_prompt = np.bincount(code, within, n), np.bincount(code, times, n)
    there = total > 0
    share = (of_prompt * there)[there] / of_prompt[there].sum()
    local = (times * finished) @ values / (times @ finished)
    together = times * np.exp(log_weight - log_weight[times > 0].max())
    return np.array([local, (sums[:, there] / total[there]) @ share, together @ values / together.sum()])


def _mixing(proposals: Proposals, run: Chains) -> dict[str, float]:
    """How well the chains of one scheme mix, and how even its weights are."""
    of_prompt = [proposals.log_weight[proposals.prompt == p] for p in run.prompt]
    heavy = [pareto_k(w[np.isfinite(w)]) for w in of_prompt]
    shares = np.bincount(pd.factorize(proposals.prompt)[0], pool_target(proposals.log_weight))
    return {
        "texts": min(map(len, of_prompt)),
        "acceptance": run.accepted.mean(),
        "cramers_v": np.mean([cramers_v(text) for text in run.text]),
        "kish": np.mean([kish(w) for w in of_prompt]),
        "pareto_k": np.nan if np.isnan(heavy).all() else np.nanmax(heavy),
        "prompts_pooled": 1 / np.sum(shares**2),
    }


def left_on(adaptors: Mapping[str, Adaptor], k: int = 50) -> dict[str, Adaptor]:
    """The schemes as they are drawn if a default `top_k` stays on: those that set no top-k of their own, with top_k(k).

    >>> from aep import nucleus
    >>> {name: str(a) for name, a in left_on({"n": nucleus(.9), "k": top_k(30)}).items()}
    {'n': 'top_k(50)|nucleus(0.9)'}
    """
    return {name: a | top_k(k) for name, a in adaptors.items() if "top_k" not in dict(a.steps)}


def left_on_table(right: pd.DataFrame, with_top_k: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """What `top_k` left on changes: per scheme the mean of every value as named, with top-k, and the difference.

    The two tables have the same prompts and schemes. The difference has a 95% interval over prompts, whose means are
    paired.
    """
    rows = []
    for scheme, mine in with_top_k.groupby("scheme", sort=False):
        theirs = right[right["scheme"] == scheme]
        row: dict[str, object] = {"scheme": scheme}
        for name in values:
            means = [t.groupby("prompt")[name].mean() for t in (theirs, mine)]
            if not means[0].index.equals(means[1].index):
                raise ParameterError(f"{scheme}: the two tables are not of the same prompts")
            change = intervals.mean((means[1] - means[0]).to_numpy())
            row |= {name: means[0].mean(), f"{name}_top_k": means[1].mean(), f"{name}_change": change.estimate}
            row |= {f"{name}_low": change.low, f"{name}_high": change.high}
        rows.append(row)
    return pd.DataFrame(rows).set_index("scheme")
