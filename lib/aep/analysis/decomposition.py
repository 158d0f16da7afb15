"""What h_(A,B) owes to the source, its sampler, the prompt, the scorer and their interactions. The text is the unit.

A text has one source, one sampler and one prompt, and every scorer reads it: source x sampler x prompt varies *between*
texts, the scorer *within* them. With y_cnb the value of text n of cell c = (source, sampler, prompt) under scorer b,

    y_cnb = mu_cb + t_cn + w_cnb,    t_cn the text's mean deviation over scorers, w_cnb the rest,

mu is split into effects of the factors, each summing to zero over its levels, and the variance of y for a cell, scorer and
text drawn at random is the sum of the mean squares of the effects, of Var t ("text") and of Var w ("text:scorer"). Factors
are fixed: nothing is said about other models or prompts. Searle, Casella & McCulloch 1992, chapter 4; Gelman 2005.

On the diagonal, source = scorer, the KL rate of ancestral text is 0 by construction and h_(A,B) least in expectation, so the
interaction source:scorer holds a contrast that is algebra: ``diagonal=False`` leaves it out. What remains is a round robin,
where source and scorer are not orthogonal (Warner, Kenny & Stoto 1979): α_A and β_B are fitted together, and a row
"source & scorer" is twice their covariance over the pairs, of either sign.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import ParameterError
from .factorial import BETWEEN, Design, check_columns

__all__ = ["anova", "decomposition", "permuted_authors"]

_LARGEST = 4_000_000  # numbers held at a time


def anova(per_text: pd.DataFrame, value: str = "h_AB") -> pd.DataFrame:
    """Sums of squares of every effect in its stratum, for a balanced design with the diagonal: a split-plot analysis.

    Effects of source, sampler and prompt are compared with the variation of texts about their cell (row "text"), effects
    with the scorer in them with that of scorers within texts ("text:scorer"). Columns: effect, stratum ("texts", "within
    texts"), df, ss, ms, f = ms over the ms of its error, p of F (normal, equal variances, and in the second stratum equal
    covariances: `decomposition` needs none of these). Factors with one level have no row. Input and errors as there.
    """
    design = Design.of(per_text, value, diagonal=True)
    squares = design.forms(design.means)[0] * design.values.size
    noise = design.noise(design.covariances)[0] * design.values.size * (1 - 1 / design.values.shape[1])
    table = pd.DataFrame(
        {"effect": design.rows, "df": design.df, "ss": [*squares, *noise[: len(design.rows) - len(squares)]]}
    )
    within = table.effect.str.endswith("scorer")
    table = table.assign(ms=table.ss / table.df).iloc[np.argsort(within, kind="stable")].reset_index(drop=True)
    within = table.effect.str.endswith("scorer")
    table.insert(1, "stratum", np.where(within, "within texts", "texts"))
    error = table.set_index("effect").loc[np.where(within, "text:scorer", "text")]
    tested = ~table.effect.str.startswith("text")
    table["f"] = (table.ms / error.ms.to_numpy()).where(tested)
    return table.assign(p=stats.f.sf(table.f, table.df, error.df))


def decomposition(
    per_text: pd.DataFrame,
    value: str = "h_AB",
    *,
    rng: np.random.Generator,
    diagonal: bool = True,
    resamples: int = 999,
    permutations: int = 1999,
    level: float = 0.95,
) -> pd.DataFrame:
    """One row per effect: its variance component (unit of `value`, squared), its share of the total, intervals and a test.

    Parameters
    ----------
    per_text : one row per text and scorer, with columns source, sampler, prompt, text (its number in that cell), scorer and
        `value` (`pairs.PairRecords.per_text`); as many texts, at least 2, in every cell
    value : the column to be decomposed: h_AB, kl, gap_pair, gap_B, l_B, ...
    diagonal : whether pairs (A, A) are in; without them sources and scorers must be the same three or more
    resamples, permutations : of the bootstrap, and of every test

    Returns
    -------
    Columns effect (factors joined by ":"), df, `component` with `component_low`, `component_high`, `share` with `low`,
    `high`, `p`, `p_exact`, `permutations`. Components are unbiased for any covariance of the scorers of a text, equal or not
    between cells, and may be negative; they sum to the variance of `value`, the shares to 1. For equal covariances they are
    (SS - df MS_error)/N, the numerators of ω².

    Notes
    -----
    Intervals hold every value that a test of level 1 - `level` does not reject: the component (share) is estimated anew for
    resampled designs in which the effect has that size and a resampled direction, the others the sizes estimated; whole
    texts are resampled, within their cells (Davison & Hinkley 1997, section 5.5). An overlap has the basic bootstrap
    interval. With heavy tails those of the two rows of noise are too narrow (.88 for exponential t, 12 texts per cell).
    Tests: (1 + #{copies >= observed})/(1 + permutations), the sum of squares as statistic. `p`, for "this effect is zero"
    whatever the others are: residuals of whole texts about their cell get random signs; approximate, for any covariances (a
    wild bootstrap; Davidson & Flachaire 2008). `p_exact`, exact at any size, for "the law of a text (for f:scorer, of its
    profile over scorers) does not depend on factor f at all": texts change places between the levels of f, within those of
    the others; for the scorer, "the scores of a text are exchangeable": labels change places within every text. Where f acts
    in interactions too this null is false without its main effect, which then drowns in them: p_exact can be large where p
    is small. NaN for interactions of two or more of source, sampler and prompt, and for the source without the diagonal.

    Raises
    ------
    ParameterError : a missing column, cells of unequal size, one text in a cell, values that are not finite or do not vary
    """
    if min(resamples, permutations) < 1 or not 0 < level < 1:
        raise ParameterError(
            f"resamples={resamples!r}, permutations={permutations!r}, level={level!r}: at least 1, and inside (0, 1)"
        )
    design = Design.of(per_text, value, diagonal)
    found = design.components(design.means, design.covariances)[0]
    if not found.sum() > 0:
        raise ParameterError(f"{value!r} does not vary in this table: there is nothing to decompose")
    table = pd.DataFrame({"effect": design.rows, "df": design.df, "component": found})
    component, share = _intervals(design, rng, resamples, level)
    table["component_low"], table["component_high"] = component
    table = table.assign(share=found / found.sum(), low=share[0], high=share[1])
    every = [name for name in design.matrices if "&" not in name]
    table["p"] = table.effect.map(_tested(design, every, _flipped(design, rng, permutations), permutations))
    exact = {}
    for factor, effects in _exactly(design).items():
        exact |= _tested(design, effects, _permuted(design, factor, rng, permutations), permutations)
    table["p_exact"] = table.effect.map(exact).astype(float)
    return table.assign(permutations=permutations)


def permuted_authors(per_text: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The negative control: every text, with all its rows, gets the source of a random text of its sampler and prompt.

    The null "the source does not matter" then holds of the table exactly, whatever was in it; which scorer is the source
    means nothing any more. `text` is numbered anew in its new cell; the column `record` is dropped.
    """
    key = [*BETWEEN, "text"]
    check_columns(per_text, key)
    texts = per_text[key].drop_duplicates()
    groups = texts.groupby(["sampler", "prompt"], sort=False).source
    texts = texts.assign(author=groups.transform(lambda x: rng.permutation(x.to_numpy())))
    texts["number"] = texts.groupby(["author", "sampler", "prompt"], sort=False).cumcount()
    table = per_text.merge(texts, on=key, how="left", validate="many_to_one")
    table = table.assign(source=table.author, text=table.number)
    return table.drop(columns=["author", "number", "record"], errors="ignore")


# -------------------------------------------------------------------------------------------------- intervals and tests


def _chunks(design: Design, copies: int) -> Iterator[int]:
    cells, texts, scorers = design.values.shape
    size = max(1, _LARGEST // (cells * max(texts, scorers) * scorers))
    for start in range(0, copies, size):
        yield min(size, copies - start)


class _Copies(NamedTuple):
    """Per row (copies, rows): where the effect has size x its estimate is a·x + b·sqrt(x) + c; the sum of all others."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    others: np.ndarray
    whole: np.ndarray  # components of the design with its means as they are


def _bootstrap(design: Design, rng: np.random.Generator, resamples: int) -> tuple[np.ndarray, _Copies]:
    """The components of the world that is resampled, and the copies drawn from it."""
    residuals, (_, texts, scorers) = design.residuals, design.values.shape
    means, noise = _shrunk(design), design.noise(design.covariances)
    truth = np.hstack([design.separated(design.forms(means)), noise])[0, : len(design.rows)]
    products = np.einsum("cnb,cnd->cnbd", residuals, residuals).reshape(len(residuals), texts, -1)
    found = []
    for size in _chunks(design, resamples):
        drawn = rng.multinomial(texts, np.full(texts, 1 / texts), size=(len(residuals), size)) / texts
        mean = (drawn @ residuals).swapaxes(0, 1)
        second = (drawn @ products).swapaxes(0, 1).reshape(*mean.shape, scorers)
        covariances = (second - mean[..., None] * mean[..., None, :]) * (texts / (texts - 1))
        error = mean.reshape(size, -1)
        shrunk, c, whole = (design.components(x + error, covariances) for x in (means, 0 * means, design.means))
        a, b, k = np.ones_like(c), np.zeros_like(c), len(design.matrices)
        b[:, :k] = 2 * _along(design, error)
        a[:, k:] = np.divide(c[:, k:], truth[k:], out=np.ones_like(c[:, k:]), where=truth[k:] > 0)
        c[:, k:] = 0
        found.append((a, b, c, shrunk.sum(axis=1, keepdims=True) - shrunk, whole))
    return truth, _Copies(*map(np.concatenate, zip(*found, strict=True)))


def _along(design: Design, error: np.ndarray) -> np.ndarray:
    """The part of the errors of the cell means along every effect (copies, forms).

    The direction of an effect is uncertain too, and the noise not equal in all: each copy has that of another copy.
    """
    columns = []
    for form in design.matrices.values():
        moved = error @ form.T
        at = design.means @ form.T + np.roll(moved, 1, axis=0)
        length = np.sqrt(np.sum(at**2, axis=1))
        columns.append(np.sum(at * moved, axis=1) / np.where(length > 0, length, 1))
    return np.stack(columns, axis=1)


def _shrunk(design: Design) -> np.ndarray:
    """Cell means whose effects are scaled down to the estimated components (to 0 where these are negative)."""
    raw, found = design.forms(design.means)[0], design.components(design.means, design.covariances)[0]
    kept = [k for k, name in enumerate(design.matrices) if "&" not in name]
    matrices = list(design.matrices.values())
    scale = [np.sqrt(max(found[k], 0.0) / raw[k]) if raw[k] > 0 else 0.0 for k in kept]
    forms = np.concatenate([matrices[k] for k in kept])
    shrunk = np.concatenate([s * (design.means @ matrices[k].T)[0] for s, k in zip(scale, kept, strict=True)])
    return np.linalg.lstsq(np.vstack([forms, np.ones(forms.shape[1])]), np.append(shrunk, 0.0), rcond=None)[0][None]


def _intervals(design: Design, rng: np.random.Generator, resamples: int, level: float) -> list[tuple]:
    """(low, high) of every component and of every share."""
    means, noise = design.forms(design.means), design.noise(design.covariances)
    found = design.components(design.means, design.covariances)[0]
    whole = np.hstack([design.separated(means), noise])[0, : len(found)]
    truth, copies = _bootstrap(design, rng, resamples)
    share, others = found / found.sum(), truth.sum() - truth
    tails, overlaps = ((1 + level) / 2, (1 - level) / 2), np.array(["&" in name for name in design.rows])
    sizes = [_inverted(np.broadcast_to(found, copies.a.shape), copies, tail) for tail in tails]
    basic = found - np.quantile(copies.whole - whole, tails, axis=0)
    component = tuple(np.where(overlaps, b, x) for b, x in zip(basic, sizes, strict=True))
    # x/(x + others) is at most the share observed where x is at most share/(1 - share) · others
    odds = copies.others * share / np.maximum(1 - share, 1e-12)
    sizes = [_inverted(odds, copies, tail) for tail in tails]
    error = copies.whole / copies.whole.sum(axis=1, keepdims=True) - whole / whole.sum()
    basic = share - np.quantile(error, tails, axis=0)
    sizes = [x / np.where(x + others > 0, x + others, 1) for x in sizes]
    return [component, tuple(np.where(overlaps, b, x) for b, x in zip(basic, sizes, strict=True))]


def _inverted(bound: np.ndarray, copies: _Copies, tail: float) -> np.ndarray:
    """The size x >= 0 of every effect at which a share `tail` of the copies is at most `bound`; 0 if fewer are at 0."""

    def is_above(root: np.ndarray) -> np.ndarray:
        return np.mean(copies.a * root**2 + copies.b * root + copies.c <= bound, axis=0) < tail

    low = np.zeros(bound.shape[1])
    high = low + np.sqrt(np.abs(copies.c).max() + np.abs(copies.others).max())
    for _ in range(20):
        high = np.where(is_above(high), high, 2 * high)
    for _ in range(45):
        middle = (low + high) / 2
        low, high = np.where(is_above(middle), (low, middle), (middle, high))
    return high**2 * ~is_above(np.zeros_like(high))


def _exactly(design: Design) -> dict[str, list[str]]:
    """The effects that have an exact permutation test, by the factor that is permuted."""
    masked = any("&" in name for name in design.matrices)
    found = {name: [name, f"{name}:scorer"] for name in BETWEEN if not (masked and name == "source")}
    found |= {"scorer": ["scorer"]}
    return {
        factor: [x for x in effects if x in design.matrices]
        for factor, effects in found.items()
        if factor in design.matrices
    }


def _tested(design: Design, effects: list[str], copies: Iterator[np.ndarray], number: int) -> dict[str, float]:
    """p-values of effects by the cell means of `number` copies under the null."""
    above = dict.fromkeys(effects, 0)
    for means in copies:
        for name in effects:
            form = design.matrices[name]
            observed = np.sum((form @ design.means[0]) ** 2)
            above[name] += int(np.sum(np.sum((means @ form.T) ** 2, axis=1) >= observed * (1 - 1e-9)))
    return {name: (1 + count) / (1 + number) for name, count in above.items()}


def _flipped(design: Design, rng: np.random.Generator, copies: int) -> Iterator[np.ndarray]:
    """Cell means of residuals with random signs, one sign per text: (size, cells · scorers) at a time."""
    residuals, (cells, texts, _) = design.residuals, design.values.shape
    for size in _chunks(design, copies):
        signs = 2.0 * rng.integers(0, 2, size=(cells, size, texts)) - 1
        yield (signs @ residuals / texts).swapaxes(0, 1).reshape(size, -1)


def _permuted(design: Design, factor: str, rng: np.random.Generator, copies: int) -> Iterator[np.ndarray]:
    """Cell means after texts changed places between the levels of a factor, or labels of scorers within every text."""
    _, texts, scorers = design.values.shape
    if factor == "scorer":
        for size in _chunks(design, copies):
            shuffled = rng.permuted(np.broadcast_to(design.values, (size, *design.values.shape)), axis=-1)
            yield shuffled.mean(axis=2).reshape(size, -1)
        return
    axis = BETWEEN.index(factor)
    whole = np.moveaxis(design.values.reshape(*design.levels, texts, scorers), axis, 2)
    strata = whole.reshape(-1, whole.shape[2] * texts, scorers)
    for size in _chunks(design, copies):
        means = np.empty((size, len(strata), whole.shape[2], scorers))
        for k, pool in enumerate(strata):
            order = rng.permuted(np.broadcast_to(np.arange(len(pool)), (size, len(pool))), axis=1)
            means[:, k] = pool[order].reshape(size, whole.shape[2], texts, scorers).mean(axis=2)
        means = means.reshape(size, *whole.shape[:3], scorers)
        yield np.moveaxis(means, 3, 1 + axis).reshape(size, -1)
