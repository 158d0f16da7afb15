"""Tidy tables of the cross-AEP, one function per figure or table of notebook 03. Rows in, rows out; nothing is drawn.

Most take `per_text`, the table of `pairs.PairRecords.per_text` (one row per text and scorer), or the pair record of one
source, sampler and scorer. Symbols as there: a = -log p_B, b and v its mean and variance under the law p_A the token was
drawn from. The unit of every interval is the text. Nats per token unless a column says bits.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import special, stats

from .. import intervals
from ..adaptors import parse
from ..errors import ParameterError, unknown_name
from ..records import Records
from .eprocess import Band, time_uniform_band
from .typicality import Paths, Steps, running_mean, running_sigma

__all__ = [
    "REPORT",
    "beside_report",
    "by_adaptor",
    "by_position",
    "chosen_texts",
    "convergence",
    "histogram",
    "inside",
    "log_pair_e_process",
    "matrix",
    "pair_band",
    "profile",
    "running",
    "stratified_mean",
]

REPORT = {"comparisons": 444, "skipped": 6, "mean": 4.1315, "median": 4.178, "min": 0.6547, "max": 8.3482}
"""What the final report states of its h_(A,B), bits per token: quoted, for models and tokenizers other than ours."""

_PAIR = ["source", "scorer", "sampler"]
_NATS_PER_BIT = np.log(2)


def stratified_mean(
    values: Float[np.ndarray, " n"], strata: Sequence | np.ndarray, level: float = 0.95
) -> intervals.Interval:
    """Mean over strata (prompts) of the means over texts within them, with its t interval; texts are the units.

    x̄ = (1/S) Σ_s x̄_s, standard error² = (1/S²) Σ_s s_s²/n_s, degrees of freedom by Welch and Satterthwaite. The strata are
    fixed: nothing is said about other prompts. One stratum is `intervals.mean`. NaN ends where a value is not finite;
    ParameterError for a stratum of fewer than 2 texts.

    >>> stratified_mean(np.array([1., 2., 3.]), [0, 0, 0]) == intervals.mean(np.array([1., 2., 3.]))
    True
    """
    parts = [values[np.asarray(strata) == s] for s in pd.unique(np.asarray(strata))]
    if min(map(len, parts)) < 2:
        raise ParameterError("a prompt (or a whole cell) has 1 text: at least 2 are needed for an interval over texts")
    if not np.isfinite(values).all():
        return intervals.Interval(float(np.mean([np.mean(x) for x in parts])), np.nan, np.nan)
    if len(parts) == 1:
        return intervals.mean(values, level)
    centre = float(np.mean([np.mean(x) for x in parts]))
    squares = np.array([np.var(x, ddof=1) / len(x) for x in parts])
    if not squares.any():
        return intervals.Interval(centre, centre, centre)
    freedom = squares.sum() ** 2 / np.sum(squares**2 / np.array([len(x) - 1 for x in parts]))
    half = float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(squares.sum()) / len(parts))
    return intervals.Interval(centre, centre - half, centre + half)


def matrix(
    per_text: pd.DataFrame, quantities: Sequence[str] = ("h_AB", "kl", "gap_pair", "gap_B"), level: float = 0.95
) -> pd.DataFrame:
    """Per source, scorer, sampler and quantity (a column of `per_text`): texts, prompts, estimate, low, high.

    The estimate is the mean over prompts of the mean over texts; the interval is `stratified_mean`'s: texts are the units,
    prompts fixed strata.
    """
    for quantity in quantities:
        _check_column(per_text, quantity)
    rows = []
    for pair, part in per_text.groupby(_PAIR, sort=False):
        for quantity in quantities:
            found = stratified_mean(part[quantity].to_numpy(), part.prompt.to_numpy(), level)
            row = dict(zip(_PAIR, pair, strict=True)) | {"quantity": quantity, "texts": len(part)}
            rows.append(row | {"prompts": part.prompt.nunique(), **found._asdict()})
    return pd.DataFrame(rows)


def inside(per_text: pd.DataFrame, critical: float = 1.96) -> pd.DataFrame:
    """Per source, scorer, sampler and statistic ("z_pair", "z_B"): the share of texts with |z| <= `critical`, exact 95%.

    For z_pair about .95 whoever scores, for z_B only where the text is typical for B. Columns also: texts, tested (those
    with a test, of which the share is taken), mean_z. A pair without any tested text has NaN.
    """
    rows = []
    for pair, part in per_text.groupby(_PAIR, sort=False):
        for name in ("z_pair", "z_B"):
            z = part.loc[part[f"{name}_has_test"], name].to_numpy()
            row = dict(zip(_PAIR, pair, strict=True)) | {"statistic": name, "texts": len(part), "tested": len(z)}
            found = intervals.share(np.abs(z) <= critical) if len(z) else intervals.Interval(*[np.nan] * 3)
            row |= {"mean_z": float(z.mean()) if len(z) else np.nan}
            rows.append(row | {"share": found.estimate, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def histogram(per_text: pd.DataFrame, width: float = 0.25) -> pd.DataFrame:
    """Texts per bin of h_(A,B), in bits per token, over pairs of two languages: left, right, comparisons, share.

    A comparison is one text under one scorer other than its source. Bins start at a multiple of `width` bits.
    """
    bits = _foreign_bits(per_text)
    edges = width * np.arange(np.floor(bits.min() / width), np.floor(bits.max() / width) + 2)
    counts = np.histogram(bits, edges)[0]
    return pd.DataFrame({"left": edges[:-1], "right": edges[1:], "comparisons": counts, "share": counts / counts.sum()})


def beside_report(per_text: pd.DataFrame) -> pd.DataFrame:
    """h_(A,B) in bits per token: comparisons, skipped, mean, median, min, max; a row for ours and a row for `REPORT`.

    `mean_low`, `mean_high`: 95% for the mean over these pairs and prompts. The unit is the text: a text's comparisons are
    averaged over scorers first, and sources, samplers and prompts are fixed strata. `skipped` counts comparisons whose
    h_(A,B) is not finite; the report does not say why its six were skipped, and has no interval.
    """
    foreign = _foreign(per_text)
    bits = _foreign_bits(per_text)
    texts = bits.groupby([foreign.source, foreign.sampler, foreign.prompt, foreign.text], sort=False).mean()
    strata = texts.index.droplevel("text").to_flat_index().factorize()[0]
    found = stratified_mean(texts.to_numpy(), strata)
    ours = {"comparisons": len(bits), "skipped": len(foreign) - len(bits), "mean": bits.mean(), "median": bits.median()}
    ours |= {"min": bits.min(), "max": bits.max(), "mean_low": found.low, "mean_high": found.high}
    return pd.DataFrame([{"set": "ours"} | ours, {"set": "report"} | REPORT])


def _foreign(per_text: pd.DataFrame) -> pd.DataFrame:
    foreign = per_text[per_text.source != per_text.scorer]
    if foreign.empty:
        raise ParameterError("there is no pair of two languages in the table: at least two are needed")
    return foreign


def _foreign_bits(per_text: pd.DataFrame) -> pd.Series:
    bits = _foreign(per_text).h_AB / _NATS_PER_BIT
    return bits[np.isfinite(bits)]


def chosen_texts(per_text: pd.DataFrame, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> pd.DataFrame:
    """The (text, scorer) at each quantile of the KL rate over pairs of two languages: which text to show running.

    The order statistic nearest to the quantile, so that the choice is not made by eye. Columns: divergence ("low", "mid",
    "high", or the quantile where there are not three), quantile, source, sampler, scorer, record, kl, h_AB.
    """
    foreign = _foreign(per_text)
    foreign = foreign[np.isfinite(foreign.kl)]
    order = foreign.iloc[np.argsort(foreign.kl.to_numpy(), kind="stable")]
    rows = order.iloc[[round(q * (len(order) - 1)) for q in quantiles]]
    names = ["low", "mid", "high"] if len(quantiles) == 3 else [f"{q:g}" for q in quantiles]
    table = rows[["source", "sampler", "scorer", "record", "kl", "h_AB"]].reset_index(drop=True)
    return pd.concat([pd.DataFrame({"divergence": names, "quantile": list(quantiles)}), table], axis=1)


# ------------------------------------------------------------------------------------------------------------ along a text


def log_pair_e_process(a: Steps, b: Steps, v: Steps, best: float = 1000.0) -> Steps:
    """log of an e-process at every t for "the text is from A", from the columns of a pair alone; mean at most 1 at any t.

    Since exp(x - x²/6) <= 1 + x + x²/3 for all x, exp(λS_t - λ²W_t/2) with S_t = Σ(a - b), W_t = (1/3) Σ(a - b)² + (2/3) Σ v
    is a supermartingale for every λ (Delyon 2009; Howard et al. 2020, "square-integrable martingales"). Mixed over
    λ ~ N(0, 1/ρ) it is sqrt(ρ/(W+ρ)) exp(S²/(2(W+ρ))). `best` is the W (nats²) at which the band of level .05 is narrowest:
    it fixes ρ, and is not to be chosen after looking. No bound on the surprisals is needed, only a finite v.
    """
    rho = _rho(best)
    s, w = np.cumsum(a - b, axis=-1), np.cumsum((a - b) ** 2 + 2 * v, axis=-1) / 3
    return (np.log(rho / (w + rho)) + s**2 / (w + rho)) / 2


def pair_band(a: Steps, b: Steps, v: Steps, alpha: float = 0.05, best: float = 1000.0) -> Band:
    """h_(A,B) ± sqrt((W_t+ρ) log((W_t+ρ)/(ρα²)))/t at every t: l_B of A's text ever leaves it with probability at most α.

    It does so exactly where `log_pair_e_process` reaches log(1/α). ParameterError for a level outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ParameterError(f"alpha={alpha!r}: a level in (0, 1) is needed")
    rho = _rho(best)
    w = np.cumsum((a - b) ** 2 + 2 * v, axis=-1) / 3 + rho
    half = np.sqrt(w * np.log(w / (rho * alpha**2))) / np.arange(1, a.shape[-1] + 1)
    centre = running_mean(b)
    return Band(centre - half, centre + half)


def _rho(best: float, alpha: float = 0.05) -> float:
    """ρ that makes sqrt((W+ρ) log((W+ρ)/(ρα²))) smallest at W = `best` (Howard et al. 2021, Prop. 3)."""
    if not best > 0:
        raise ParameterError(f"best={best!r}: a variance above 0 is needed")
    return float(best / (-special.lambertw(-(alpha**2) / np.e, -1).real - 1))


def running(records: Records, text: int, alpha: float = 0.05, best: float = 1000.0) -> pd.DataFrame:
    """One row per position of one text of a pair record: l_B, what it follows, and what it follows for B's own texts only.

    position; l_B, h_AB, sigma_pair and the time-uniform `pair_low`, `pair_high` (`pair_band`); h_B, sigma_B and the
    time-uniform `B_low`, `B_high` of B's own texts (`eprocess.time_uniform_band`), which a foreign text leaves; h_A.
    """
    names = ("surprisal", "cross_entropy", "cross_varentropy", "source_entropy")
    a, b, v, own = (records.by_text(name)[text] for name in names)
    paths = Paths.of(records, text)
    pair, scorer = pair_band(a, b, v, alpha, best), time_uniform_band(paths, alpha)
    columns = {"position": np.arange(1, len(a) + 1), "l_B": running_mean(a), "h_AB": running_mean(b)}
    columns |= {"sigma_pair": running_sigma(v), "pair_low": pair.low, "pair_high": pair.high}
    columns |= {"h_B": running_mean(paths.entropy), "sigma_B": running_sigma(paths.varentropy)}
    return pd.DataFrame(columns | {"B_low": scorer.low, "B_high": scorer.high, "h_A": running_mean(own)})


def profile(records: Records, text: int, window: int = 1) -> pd.DataFrame:
    """Per step of one text, averaged over `window` consecutive tokens: a, b, H_A, H_B and b - H_A >= 0.

    `position` is the middle of the window; only whole windows have a row (T - window + 1 of them), and neighbouring rows
    share tokens. Columns: position, window, surprisal, cross_entropy, source_entropy, scorer_entropy, kl. ParameterError
    for a window that is not an integer from 1 to T.
    """
    tokens = int(records.lengths[text])
    if isinstance(window, bool) or not isinstance(window, int | np.integer) or not 1 <= window <= tokens:
        raise ParameterError(f"window={window!r}: an integer from 1 to {tokens}, the length of the text, is needed")
    names = {"surprisal": "surprisal", "cross_entropy": "cross_entropy"}
    names |= {"source_entropy": "source_entropy", "scorer_entropy": "entropy"}
    kernel = np.full(window, 1 / window)
    smooth = {new: np.convolve(records.by_text(old)[text], kernel, "valid") for new, old in names.items()}
    position = np.arange(tokens - window + 1) + (window + 1) / 2
    table = pd.DataFrame({"position": position, "window": window} | smooth)
    return table.assign(kl=table.cross_entropy - table.source_entropy)


# ------------------------------------------------------------------------------------------------------------ many texts


def convergence(records: Records, at: np.ndarray | Sequence[int]) -> pd.DataFrame:
    """Per length T: root mean square of l_B - h_(A,B) over texts (95%), the predicted sqrt(E Σ v)/T, and two shares.

    E (l_B - h_(A,B))² = E[Σ v]/T² exactly, at every T, whatever the prompt. `in_1_sigma`, `in_2_sigma`: texts inside ±σ,
    ±2σ, exact intervals. The control `foreign`, root mean square of l_B - h_B, tends to what B is wrong about A's text by.
    """
    a, b, v, h = map(records.matrix, ("surprisal", "cross_entropy", "cross_varentropy", "entropy"))
    gap, foreign, sigma = running_mean(a - b), running_mean(a - h), running_sigma(v)
    rows = []
    for t in at:
        row = {"tokens": int(t)}
        for name, values in (("rms", gap), ("foreign", foreign)):
            square = intervals.mean(values[:, t - 1] ** 2)
            low, high = np.sqrt(np.maximum(square[1:], 0.0))
            row |= {name: np.sqrt(square.estimate), f"{name}_low": low, f"{name}_high": high}
        row["predicted"] = np.sqrt(np.mean(sigma[:, t - 1] ** 2))
        for k in (1, 2):
            row |= intervals.share(np.abs(gap[:, t - 1]) <= k * sigma[:, t - 1]).columns(f"in_{k}_sigma")
        rows.append(row)
    return pd.DataFrame(rows)


def by_position(
    records: Records, edges: Sequence[int] | Int[np.ndarray, " blocks"], prompt: np.ndarray | None = None
) -> pd.DataFrame:
    """KL rate mean(b - H_A) per block of positions first ... last (from 1), with its 95% t interval over texts.

    `edges` are the last positions of the blocks, rising; `prompt` the stratum of each text. Columns: first, last, kl, low,
    high. ParameterError for edges that do not rise from 1 to at most T.
    """
    kl = records.matrix("cross_entropy") - records.matrix("source_entropy")
    edges = np.asarray(edges, dtype=int)
    if not len(edges) or np.any(np.diff([0, *edges]) < 1) or edges[-1] > kl.shape[1]:
        raise ParameterError(
            f"edges={edges.tolist()}: positions that rise, from 1 to at most {kl.shape[1]}, are needed"
        )
    strata = np.zeros(len(kl)) if prompt is None else prompt
    rows = []
    for first, last in zip([0, *edges[:-1]], edges, strict=True):
        found = stratified_mean(kl[:, first:last].mean(axis=1), strata)
        rows.append({"first": first + 1, "last": int(last), "kl": found.estimate, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def by_adaptor(per_text: pd.DataFrame, quantities: Sequence[str] = ("kl", "kl_same", "excess")) -> pd.DataFrame:
    """Per source, scorer, quantity and adaptor of one step: estimate, low, high against its parameter, family by family.

    `kl` = h_(A,B) - h_A with A adapted and B raw; on the diagonal it is what the adaptor itself costs under A. `excess` = kl
    minus that, paired on the same texts: how much better raw A describes them than raw B. `kl_same` adapts B as well
    (temperatures with 1/τ on the record's grid; no row elsewhere). Columns: source, scorer, family ("temperature", "top_k",
    "nucleus", ...), parameter, sampler, quantity, texts, estimate, low, high (`stratified_mean`). Ancestral sampling is in
    every family, at 1, for top_k at inf. Compositions have no single parameter and are left out.
    """
    known = per_text[["sampler", "adaptor"]].drop_duplicates()
    steps = {sampler: parse(adaptor).steps for sampler, adaptor in zip(known.sampler, known.adaptor, strict=True)}
    families = list(dict.fromkeys(s[0][0] for s in steps.values() if len(s) == 1))
    if not families:
        raise ParameterError("no sampler of the table has an adaptor of one step, such as temperature(0.8)")
    table = per_text
    if "excess" in quantities:
        key = ["source", "sampler", "record"]
        own = table[table.source == table.scorer].set_index(key).kl.rename("own")
        table = table.join(own, on=key).assign(excess=lambda t: t.kl - t.own)
    rows = []
    for (source, scorer, sampler), part in table.groupby(_PAIR, sort=False):
        if len(steps[sampler]) > 1:
            continue
        here = steps[sampler] or tuple((family, _RAW.get(family, 1.0)) for family in families)
        for family, parameter in here:
            for quantity in quantities:
                _check_column(table, quantity)
                found = stratified_mean(part[quantity].to_numpy(), part.prompt.to_numpy())
                row = {"source": source, "scorer": scorer, "family": family, "parameter": float(parameter)}
                rows.append(row | {"sampler": sampler, "quantity": quantity, "texts": len(part), **found._asdict()})
    order = ["source", "scorer", "family", "quantity", "parameter"]
    return pd.DataFrame(rows).dropna(subset="estimate").sort_values(order, kind="stable", ignore_index=True)


_RAW = {"top_k": np.inf, "min_p": 0.0, "epsilon": 0.0, "eta": 0.0}  # the parameter that keeps everything


def _check_column(per_text: pd.DataFrame, name: str) -> None:
    if name not in per_text:
        raise ParameterError(unknown_name("quantity", name, per_text.columns))
