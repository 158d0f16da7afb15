"""Tidy tables of the self-AEP, one function per figure or table of notebook 02. Rows in, rows out; nothing is drawn."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool
from scipy import stats

from .. import intervals
from ..errors import ParameterError
from ..records import Records, Texts
from .eprocess import first_rejection, log_e_process, time_uniform_band
from .typicality import Paths, PerText, Steps, running_mean, running_sigma, z_test

__all__ = [
    "by_prompt",
    "convergence",
    "drift",
    "lengths",
    "peeked_rejection",
    "per_text",
    "qq",
    "rejections",
    "rises",
    "running",
]


def per_text(records: Records, texts: Texts, model: str) -> pd.DataFrame:
    """One row per text: prompt, T, final l, h, l - h, σ_T (nats per token), z, whether z is a test, log e-value."""
    paths = Paths.of(records)
    test = z_test(*paths[:3])
    columns = {
        "log_perplexity": running_mean(paths.surprisal)[:, -1],
        "empirical_entropy": running_mean(paths.entropy)[:, -1],
        "sigma": running_sigma(paths.varentropy)[:, -1],
        "z": test.z,
        "has_test": test.has_test,
        "log_e": log_e_process(paths)[:, -1],
    }
    table = pd.DataFrame({"model": model, "prompt": texts.prompt, "tokens": paths.surprisal.shape[-1], **columns})
    table.insert(5, "difference", table.log_perplexity - table.empirical_entropy)
    return table


def by_prompt(table: pd.DataFrame, prompts: Sequence[str]) -> pd.DataFrame:
    """Per model and prompt: texts, mean l, mean h, and mean l - h with its 95% t interval over texts (nats per token).

    `table` is the concatenation of `per_text`; `prompts` the strings in their order.
    """
    rows = []
    for (model, prompt), part in table.groupby(["model", "prompt"], sort=False):
        gap = intervals.mean(part.difference.to_numpy())
        row = {"model": model, "prompt": prompts[prompt], "texts": len(part)}
        row |= {"l": part.log_perplexity.mean(), "h": part.empirical_entropy.mean()}
        rows.append(row | {"l - h": gap.estimate, "low": gap.low, "high": gap.high})
    return pd.DataFrame(rows)


def running(records: Records, text: int, alpha: float = 0.05) -> pd.DataFrame:
    """One row per position of one text: running l and h, σ, and the time-uniform band of level 1-α around h."""
    paths = Paths.of(records, text)
    band = time_uniform_band(paths, alpha)
    return pd.DataFrame(
        {
            "position": np.arange(1, len(paths.surprisal) + 1),
            "log_perplexity": running_mean(paths.surprisal),
            "empirical_entropy": running_mean(paths.entropy),
            "sigma": running_sigma(paths.varentropy),
            "band_low": band.low,
            "band_high": band.high,
        }
    )


def lengths(tokens: int, points: int = 9, first: int = 8) -> np.ndarray:
    """Text lengths spread evenly on a logarithmic scale from `first` to `tokens`, both included.

    >>> lengths(64, 4).tolist()
    [8, 16, 32, 64]
    """
    return np.unique(np.round(np.geomspace(min(first, tokens), tokens, points)).astype(int))


def convergence(records: Records | Paths, at: np.ndarray, fixed_width: float) -> pd.DataFrame:
    """Per length T: root mean square of l - h over texts with its interval, the predicted sqrt(E Σ V)/T, and three shares.

    `in_1_sigma`, `in_2_sigma` count texts inside ±σ_T, ±2σ_T (which narrow with T), `in_fixed` those inside ±`fixed_width`.
    `positions` is the share of positions t <= T of one running text with |l_t - h_t| <= σ_t, averaged over texts.
    Intervals are over texts (95%): t for the mean square and `positions`, exact binomial for the other shares.
    """
    paths = records if isinstance(records, Paths) else Paths.of(records)
    gap = running_mean(paths.surprisal - paths.entropy)
    sigma = running_sigma(paths.varentropy)
    rows = []
    for t in at:
        d, s = gap[:, t - 1], sigma[:, t - 1]
        square = intervals.mean(d**2)
        row = {"tokens": t, "texts": len(d), "rms": np.sqrt(square.estimate)}
        row |= {"rms_low": np.sqrt(max(square.low, 0.0)), "rms_high": np.sqrt(square.high)}
        row["predicted"] = np.sqrt(np.mean(s**2))
        inside = {"in_1_sigma": d**2 <= s**2, "in_2_sigma": d**2 <= 4 * s**2, "in_fixed": abs(d) <= fixed_width}
        for name, hits in inside.items():
            row |= intervals.share(hits).columns(name)
        row |= intervals.mean(np.mean(np.abs(gap[:, :t]) <= sigma[:, :t], axis=1)).columns("positions")
        rows.append(row)
    return pd.DataFrame(rows)


def rises(paths: Paths, early: int, late: int) -> intervals.Interval:
    """Share of texts for which more of the positions t <= `late` than of those t <= `early` have |l_t - h_t| <= σ_t.

    With its exact 95% interval. Under the null the share of positions has the same mean at all lengths (up to the error of
    the normal approximation). It rises in a little more than half of the texts and falls further in the others: from T to
    4T with probability 0.56 for Brownian motion [simulated].
    """
    gap, sigma = running_mean(paths.surprisal - paths.entropy), running_sigma(paths.varentropy)
    inside = running_mean((np.abs(gap) <= sigma).astype(float))
    return intervals.share(inside[:, late - 1] > inside[:, early - 1])


def qq(z: PerText, name: str) -> pd.DataFrame:
    """Ordered z beside the quantiles of N(0,1), with the pointwise 95% band that correct samples of this size stay in."""
    z = np.sort(z[np.isfinite(z)])
    n, order = len(z), np.arange(1, len(z) + 1)
    low, high = (stats.norm.ppf(stats.beta.ppf(q, order, n + 1 - order)) for q in (0.025, 0.975))
    return pd.DataFrame({"set": name, "normal": stats.norm.ppf((order - 0.5) / n), "z": z, "low": low, "high": high})


def peeked_rejection(paths: Paths, critical: float, first: int = 30) -> PerText:
    """The first T >= `first` at which |z_T| exceeds `critical`, inf if never: a z-test that is looked at after every token.

    Its false-alarm rate is *not* the level that `critical` has at one fixed T (law of the iterated logarithm).
    """
    if first > paths.surprisal.shape[-1]:
        raise ParameterError(f"first look at token {first}, but the texts have {paths.surprisal.shape[-1]} tokens")
    z = _running_z(paths)
    z[..., : first - 1] = 0.0
    crossed = np.abs(z) > critical
    return np.where(crossed.any(axis=-1), np.argmax(crossed, axis=-1) + 1.0, np.inf)


def _running_z(paths: Paths) -> Steps:
    drift = np.cumsum(paths.surprisal - paths.entropy, axis=-1)
    information = np.cumsum(paths.varentropy, axis=-1)
    return np.divide(drift, np.sqrt(information), out=np.zeros_like(drift), where=information > 0)


def rejections(
    records: Records | Paths, at: np.ndarray, *, alpha: float, critical: float, first: int = 30
) -> pd.DataFrame:
    """Per length T and method, the share of texts rejected at or before T, with an exact 95% interval.

    `e-process` and `z, peeked` (from token `first` on) may stop at any token up to T; `z, at T` looks once, at T.
    """
    paths = records if isinstance(records, Paths) else Paths.of(records)
    peeked = peeked_rejection(paths, critical, first)
    stops = {"e-process": first_rejection(log_e_process(paths), alpha), "z, peeked": peeked}
    z = _running_z(paths)
    rows = []
    for t in at:
        hits: dict[str, Bool[np.ndarray, " texts"]] = {name: stop <= t for name, stop in stops.items()}
        hits["z, at T"] = np.abs(z[:, t - 1]) > critical
        if t < first:  # the peeked test does not look yet
            hits.pop("z, peeked")
        for method, hit in hits.items():
            found = intervals.share(hit)
            rows.append({"tokens": t, "method": method, "share": found.estimate, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def drift(records: Records) -> dict[str, float]:
    """For text of a sampler q scored under raw p (a pair record): measured and predicted l - h, and l - h under q itself.

    The predicted drift is mean(b_t - H_t), b_t = -Σ q log p the cross-entropy of the adapted law, H_t the entropy of p:
    E_q[-log p] - H(p) along the same path; `predicted_z` is the z that this drift alone would give, averaged over texts.
    Intervals (95%, t) are over texts. `z_pooled` = ΣΣ(a - b)/sqrt(ΣΣ v) tests the prediction, and
    with it convergence under q: a_q - H_q = (a - b)/τ at every token, for every adaptor of temperature τ.
    """
    surprisal, entropy = records.matrix("surprisal"), records.matrix("entropy")
    cross, own = records.matrix("cross_entropy"), records.matrix("source_surprisal") - records.matrix("source_entropy")
    measured = intervals.mean(np.mean(surprisal - entropy, axis=1))
    shift = np.sum(cross - entropy, axis=1) / np.sqrt(np.sum(records.matrix("varentropy"), axis=1))
    under_q = intervals.mean(np.mean(own, axis=1))
    return {
        "drift": measured.estimate,
        "drift_low": measured.low,
        "drift_high": measured.high,
        "predicted": float(np.mean(cross - entropy)),
        "predicted_z": float(np.mean(shift)),
        "z_pooled": float(np.sum(surprisal - cross) / np.sqrt(np.sum(records.matrix("cross_varentropy")))),
        "under_q": under_q.estimate,
        "under_q_low": under_q.low,
        "under_q_high": under_q.high,
    }
