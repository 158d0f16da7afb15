"""What l - h -> 0 does without and z does not: an h that settles, a Σ V that grows. Mixtures, loops, degenerate laws.

l_T - h_T goes to zero for every language. Whether h_T itself settles is another matter: it does for an ergodic chain,
to a *random* limit for a mixture, to 0 in a loop. And where Σ V_t stays bounded l - h still goes to zero, but z is no test.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from .. import intervals
from ..adaptors import Adaptor
from ..errors import ParameterError
from ..languages import ExactLanguage, FiniteLanguage, MarkovChain, Mixture
from ..records import Texts
from ..sampling import sample
from ..scoring import score
from .calibration import normal_p_values
from .eprocess import time_uniform_band
from .typicality import (
    LATE_SHARE,
    LEAST_TOKENS,
    NOISE,
    Paths,
    PerText,
    Steps,
    effective_tokens,
    running_mean,
    running_sigma,
    z_test,
)

__all__ = [
    "Regime",
    "degenerate",
    "degenerate_languages",
    "envelope",
    "exact_languages",
    "final_states",
    "fourth_moment",
    "loop_period",
    "loop_shares",
    "lyapunov",
    "regime_calibration",
    "regime_of",
    "running_texts",
    "sampler_regime",
    "settling",
    "verdicts",
]

VERDICTS = (
    "test",
    "no test: ΣV is zero or rounding",
    "no test: ΣV has stopped growing",
    "no test: few tokens share ΣV",
)


class Regime(NamedTuple):
    """Texts followed under the law they were drawn from; `limit` is the entropy rate h_T goes to in each text, or NaN."""

    name: str
    texts: Texts
    paths: Paths
    limit: PerText


def exact_languages(leave: float = 0.1) -> dict[str, ExactLanguage]:
    """Three languages whose h_T ends differently: an ergodic chain, a mixture of two chains, a chain that ends in a loop.

    In the loop three symbols wander and are left for ever with probability `leave` at each step; then x y z x y z ...
    has a = H = V = 0. The number of random steps is geometric with mean 1/`leave`: E[Σ V_t] stays bounded.

    >>> [float(round(x.entropy_rate(), 2)) for x in exact_languages().values()]
    [0.77, 0.71, 0.0]
    """
    if not 0 < leave < 1:
        raise ParameterError(f"leave={leave!r}: a probability in (0, 1) is needed")
    chain = MarkovChain([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.15, 0.8]], name="ergodic chain")
    calm = MarkovChain([[0.9, 0.08, 0.02], [0.04, 0.9, 0.06], [0.05, 0.05, 0.9]], name="calm chain")
    lively = MarkovChain([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], name="lively chain")
    wander = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])
    rows = np.zeros((6, 6))
    rows[:3, :3], rows[:3, 3], rows[3:, 3:] = (1 - leave) * wander, leave, np.roll(np.eye(3), 1, axis=1)
    loop = MarkovChain(rows, [1 / 3, 1 / 3, 1 / 3, 0, 0, 0], name="absorbing loop")
    return {x.name: x for x in (chain, Mixture([calm, lively], [0.5, 0.5], name="mixture"), loop)}


def regime_of(language: ExactLanguage, *, texts: int, tokens: int, seed: int, store: Any = None) -> Regime:
    """Texts of an exact language under its own law, with the exact limit of h_T in each.

    In a mixture the limit is the entropy rate of the component that wrote the text, taken to be the one with the largest
    posterior w_k p_k(x); for components with different rates its probability goes to 1 exponentially fast.
    """
    drawn = sample(language, texts=texts, tokens=tokens, seed=seed, batch=texts, record=True, store=store)
    paths = Paths.of(score(drawn, language))
    if not isinstance(language, Mixture):
        return Regime(language.name, drawn, paths, np.full(texts, language.entropy_rate()))
    log_joint = np.log(language.weights)[:, None] + [_log_probability(c, drawn.ids) for c in language.components]
    return Regime(language.name, drawn, paths, language.entropy_rates()[np.argmax(log_joint, axis=0)])


def _log_probability(language: ExactLanguage, ids: Sequence[np.ndarray]) -> np.ndarray:
    """log p(x) of texts of one length."""
    total, (log_p, state) = np.zeros(len(ids)), language.start([[]] * len(ids))
    for column in np.array(ids).T:
        total += log_p[np.arange(len(ids)), column]
        log_p, state = language.step(state, column)
    return total


def sampler_regime(
    language: Any,
    adaptor: Adaptor,
    prompts: Sequence[str] | None = None,
    *,
    texts: int,
    tokens: int,
    seed: int,
    store: Any = None,
) -> Regime:
    """Texts of `language` with `adaptor`, followed under q, the law they were drawn from (`log_partition` is empty).

    A low temperature leads a network into repetition, where q puts nearly all mass on one token and V_t under q is
    nearly 0; with one kept token (top-k 1) it is 0 everywhere. The limit of h_T is not known: NaN.
    """
    drawn = sample(language, prompts, texts=texts, tokens=tokens, seed=seed, adaptor=adaptor, store=store)
    pair = score(drawn, language, source=language, adaptor=adaptor, store=store)
    under_q = [pair.matrix(f"source_{name}").astype(np.float64) for name in ("surprisal", "entropy", "varentropy")]
    return Regime(str(adaptor), drawn, Paths(*under_q, {}), np.full(len(drawn), np.nan))


def verdicts(varentropy: Steps) -> np.ndarray:
    """Per text one of `VERDICTS`: whether `z_test` gives a z, and if not, the first rule of it that fails.

    >>> verdicts(np.array([[1.0] * 60, [0.0] * 60])).tolist()
    ['test', 'no test: ΣV is zero or rounding']
    """
    tokens = varentropy.shape[-1]
    total, late = np.sum(varentropy, axis=-1), np.sum(varentropy[..., tokens // 2 :], axis=-1)
    rules = [total < NOISE * tokens, late < LATE_SHARE * total, effective_tokens(varentropy) < LEAST_TOKENS]
    return np.select(rules, np.array(VERDICTS[1:], dtype=object), np.array(VERDICTS[0], dtype=object)).astype(str)


def fourth_moment(paths: Paths) -> Steps:
    """An upper bound, nearly an equality, on E[(a_t - H_t)⁴] (nats⁴) from the stored columns; at least V_t².

    With D = a - H, E[exp(D/8)] + E[exp(-D/8)] = 2 + V/64 + E[D⁴]/49152 + ..., all terms positive, and the left side is
    exp(Λ(7/8) - H/8) + exp(Λ(9/8) + H/8). What is left out is E[D⁶]/1920 to lowest order.
    """
    if not paths.log_partition:
        return np.full_like(paths.entropy, np.nan)
    up, down = paths.log_partition[0.875] - paths.entropy / 8, paths.log_partition[1.125] + paths.entropy / 8
    return np.maximum(49152 * (np.expm1(up) + np.expm1(down) - paths.varentropy / 64), paths.varentropy**2)


def lyapunov(paths: Paths) -> PerText:
    """Lyapunov's fraction Σ E[D_t⁴]/(Σ V_t)² of a text: the normal approximation of z wants it small. NaN where Σ V_t = 0.

    At least 1/`effective_tokens`, and of order 1 where a few rare tokens carry the variance, as in a law that is nearly a
    point mass: equal V_t at every token then hide that z is not normal (Heyde & Brown 1970 bound the distance from N(0,1)
    by the fifth root of this fraction and of the variance of Σ V_t).
    """
    total = np.sum(paths.varentropy, axis=-1)
    return np.divide(np.sum(fourth_moment(paths), axis=-1), total**2, out=np.full_like(total, np.nan), where=total > 0)


def final_states(regime: Regime) -> pd.DataFrame:
    """One row per text: final l, h, l - h, limit of h (nats per token), Σ V, effective tokens, z, the verdict, its period.

    `ratio` is (l - h)/σ also where it is no test (NaN if Σ V is 0); `z` is NaN there. `lyapunov` is NaN without Λ columns.
    """
    paths = regime.paths
    test, information = z_test(*paths[:3]), np.sum(paths.varentropy, axis=-1)
    drift = np.sum(paths.surprisal - paths.entropy, axis=-1)
    ratio = np.divide(drift, np.sqrt(information), out=np.full_like(drift, np.nan), where=information > 0)
    return pd.DataFrame(
        {
            "regime": regime.name,
            "text": np.arange(len(drift)),
            "tokens": paths.surprisal.shape[-1],
            "l": np.mean(paths.surprisal, axis=-1),
            "h": np.mean(paths.entropy, axis=-1),
            "difference": drift / paths.surprisal.shape[-1],
            "limit": regime.limit,
            "sum_varentropy": information,
            "effective_tokens": effective_tokens(paths.varentropy),
            "lyapunov": lyapunov(paths),
            "ratio": ratio,
            "z": test.z,
            "has_test": test.has_test,
            "verdict": verdicts(paths.varentropy),
            "period": [loop_period(ids) for ids in regime.texts.ids],
        }
    )


def loop_period(ids: Sequence[int] | np.ndarray, longest: int = 64) -> int:
    """The smallest period p <= `longest` of the last quarter of a text (which must hold it twice); 0 if there is none.

    >>> loop_period([5, 1, 4, 9] * 2 + [1, 2] * 12), loop_period(range(40))
    (2, 0)
    """
    end = np.asarray(ids)[-(len(ids) // 4) :] if len(ids) >= 4 else np.empty(0, int)
    periods = range(1, min(longest, len(end) // 2) + 1)
    return next((p for p in periods if (end[p:] == end[:-p]).all()), 0)


def running_texts(regime: Regime, at: np.ndarray, *, shown: int | None = None) -> pd.DataFrame:
    """One row per text and length t of `at`: l_t, h_t, l_t - h_t, σ_t (nats per token), Σ V (nats²), limit, verdict at T.

    Of the first `shown` texts; all by default.
    """
    paths, n = regime.paths, shown or len(regime.limit)
    index = np.asarray(at) - 1
    columns = {"l": running_mean(paths.surprisal[:n])[:, index], "h": running_mean(paths.entropy[:n])[:, index]}
    columns["difference"] = columns["l"] - columns["h"]
    columns["sigma"] = running_sigma(paths.varentropy[:n])[:, index]
    columns["sum_varentropy"] = np.cumsum(paths.varentropy[:n], axis=-1)[:, index]
    table = pd.DataFrame({"text": np.repeat(np.arange(n), len(index)), "tokens": np.tile(np.asarray(at), n)})
    table.insert(0, "regime", regime.name)
    table = table.assign(**{name: values.ravel() for name, values in columns.items()})
    per_text = {"limit": regime.limit[:n], "verdict": verdicts(paths.varentropy[:n])}
    return table.assign(**{name: np.repeat(values, len(index)) for name, values in per_text.items()})


def envelope(paths: Paths, at: np.ndarray, *, alpha: float = 0.05, band_texts: int = 16) -> pd.DataFrame:
    """Around l_t - h_t = 0 at every t of `at`: the median σ_t over texts, the iterated logarithm, the time-uniform band.

    `iterated_logarithm` is sqrt(2 s² log log s²)/t with s² the median Σ V_t (NaN while log log s² < 1): where Σ V grows
    without end every path leaves any smaller multiple of it infinitely often, and every larger one only finitely often.
    `band_low`, `band_high`: median over `band_texts` texts of the ends, minus h_t, of the band that each path leaves at
    some t with probability at most `alpha` (NaN without Λ columns).
    """
    index = np.asarray(at) - 1
    information = np.median(np.cumsum(paths.varentropy, axis=-1)[:, index], axis=0)
    grown = np.where(information >= np.e**np.e, information, np.nan)
    columns = {"tokens": np.asarray(at), "sigma": np.median(running_sigma(paths.varentropy)[:, index], axis=0)}
    columns["iterated_logarithm"] = np.sqrt(2 * grown * np.log(np.log(grown))) / at
    columns |= {"band_low": np.full(len(index), np.nan), "band_high": np.full(len(index), np.nan)}
    if paths.log_partition:
        few = Paths(*(x[:band_texts] for x in paths[:3]), {k: x[:band_texts] for k, x in paths.log_partition.items()})
        band, centre = time_uniform_band(few, alpha), running_mean(few.entropy)
        columns["band_low"] = np.median((band.low - centre)[:, index], axis=0)
        columns["band_high"] = np.median((band.high - centre)[:, index], axis=0)
    return pd.DataFrame(columns)


def settling(running: pd.DataFrame) -> pd.DataFrame:
    """Per regime and length: root mean square of l - h, spread of h over texts, and distance of h from its own limit.

    Each with its 95% interval over texts (t for the mean square). Table: `running_texts`. `gap` goes to zero in every
    regime; `spread` = sqrt(mean (h - mean h)²) goes to zero only where all texts have one limit; `own` is the root mean
    square of h - limit, NaN where the limit is not known. In a loop a few long ways into it carry the mean square, and t
    intervals of a few hundred texts miss more often than they say.
    """
    rows = []
    for (regime, tokens), part in running.groupby(["regime", "tokens"], sort=False):
        row = {"regime": regime, "tokens": tokens, "texts": len(part)}
        squares = {"gap": part.difference, "spread": part.h - part.h.mean(), "own": part.h - part.limit}
        for name, values in squares.items():
            found = intervals.mean(values.to_numpy() ** 2)
            row |= intervals.Interval(*(np.sqrt(np.maximum(x, 0.0)) for x in found)).columns(name)
        rows.append(row)
    return pd.DataFrame(rows)


def regime_calibration(finals: pd.DataFrame) -> pd.DataFrame:
    """Per regime: share of texts with a test (exact 95% interval), moments of z and the three p-values of "z is N(0,1)".

    Table: `final_states`. The same p-values of `ratio` over *all* texts (`ratio_...`) show what z would claim where it is
    no test. NaN where fewer than half of the texts have a test, or where Σ V is 0.
    """
    rows = []
    for regime, part in finals.groupby("regime", sort=False):
        row = {"regime": regime, "texts": len(part), "tokens": part.tokens.iloc[0]}
        row |= intervals.share(part.has_test.to_numpy()).columns("tested")
        for prefix, values in (("", part.z), ("ratio_", part.ratio)):
            z = values[np.isfinite(values)].to_numpy()
            known = {"mean": np.mean(z), "mean_square": np.mean(z**2), **normal_p_values(z)} if len(z) else {}
            names = ("mean", "mean_square", "mean_p", "square_p", "shape_p")
            row |= {prefix + k: known.get(k, np.nan) if 2 * len(z) >= len(part) else np.nan for k in names}
        rows.append(row)
    return pd.DataFrame(rows)


def loop_shares(finals: pd.DataFrame) -> pd.DataFrame:
    """Per regime: shares of texts that end in a loop and that have a test (exact 95% intervals), medians of l, h, Σ V."""
    rows = []
    for regime, part in finals.groupby("regime", sort=False):
        row = {"regime": regime, "texts": len(part), "tokens": part.tokens.iloc[0]}
        for name, hits in (("looping", part.period > 0), ("tested", part.has_test)):
            row |= intervals.share(hits.to_numpy()).columns(name)
        row |= {k: part[k].median() for k in ("l", "h", "sum_varentropy", "effective_tokens")}
        reasons = part.verdict[~part.has_test]
        rows.append(row | {"reason": reasons.mode().iloc[0] if len(reasons) else "test"})
    return pd.DataFrame(rows)


def degenerate_languages(vocabulary: int = 256) -> dict[str, FiniteLanguage]:
    """A point mass, a uniform law, and laws that are nearly a point mass: one other token of probability 1e-3, 1e-2, .1."""
    point = np.zeros(vocabulary)
    point[0] = 1.0
    found = {"point mass": point, "uniform": np.full(vocabulary, 1 / vocabulary)}
    found |= {f"rare token, {rare:g}": np.array([1 - rare, rare]) for rare in (1e-3, 1e-2, 1e-1)}
    return {name: FiniteLanguage(p, name=name) for name, p in found.items()}


def degenerate(
    languages: Mapping[str, FiniteLanguage], *, texts: int, tokens: int, seed: int, store: Any = None
) -> pd.DataFrame:
    """Per language: exact H, V (closed form) and log of the vocabulary, final l and h, largest |l - h|, tests, normality.

    Point mass: l = h = H = V = 0 and no test. Uniform: l = h = log |vocabulary|, V = 0 and no test. `l`, `h` are means
    over texts (nats per token, 95% t interval of l), `tested` the share with a test. `shape_p`: Kolmogorov-Smirnov p-value
    of z over all texts, NaN where none has one; `skew_exact` = skewness of z, E[D³]/V^(3/2)/sqrt(T).
    A rare token that is expected once in a text has a test by the rules of `z_test` and a z that is not normal:
    `lyapunov` says so beforehand.
    """
    rows = []
    for i, (name, language) in enumerate(languages.items()):
        finals = final_states(regime_of(language, texts=texts, tokens=tokens, seed=seed + i, store=store))
        entropy, variance = language.entropy(), language.varentropy()
        deviation = -np.where(language.p > 0, language.log_p, 0) - entropy
        skew = float(language.p @ deviation**3) / variance**1.5 / np.sqrt(tokens) if variance > NOISE else np.nan
        z, l = finals.z[finals.has_test].to_numpy(), intervals.mean(finals.l.to_numpy())
        row = {"language": name, "vocabulary": language.vocab_size, "texts": texts, "tokens": tokens}
        row |= {"entropy": entropy, "varentropy": variance, "log_vocabulary": np.log(language.vocab_size)}
        row |= l.columns("l") | {"h": finals.h.mean()}
        row |= {"largest_gap": finals.difference.abs().max(), "tested": finals.has_test.mean()}
        row |= {"verdict": finals.verdict.mode().iloc[0], "lyapunov": finals.lyapunov.median(), "skew_exact": skew}
        rows.append(row | {"shape_p": float(stats.kstest(z, "norm").pvalue) if len(z) else np.nan})
    return pd.DataFrame(rows)
