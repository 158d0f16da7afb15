"""A balanced table of texts under scorers as an array, and the linear forms of its cell means that are the effects.

Source, sampler and prompt vary between texts, the scorer within them: `decomposition` says what is made of it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import linalg

from ..errors import ParameterError, unknown_name

__all__ = ["BETWEEN", "Design", "check_columns"]

BETWEEN = ("source", "sampler", "prompt")


@dataclass(frozen=True)
class Design:
    """A balanced table as an array, and the linear forms of its cell means whose squares are the effects.

    `values` (cells, texts, scorers) about their mean; `levels`: number of sources, samplers, prompts, order of the cells.
    `matrices` by effect (df, cells · scorers): the product with the cell means has the mean square of the effect as its sum
    of squares. Without the diagonal there are also forms "source & scorer", of both fitted together. `rows`: the effects
    and the noise; `df`: their degrees of freedom, 0 for an overlap, which is no sum of squares.
    """

    values: np.ndarray
    levels: tuple[int, ...]
    matrices: dict[str, np.ndarray]
    rows: list[str]
    df: list[int]

    @classmethod
    def of(cls, per_text: pd.DataFrame, value: str, diagonal: bool) -> "Design":
        """The design of a table of texts under scorers; ParameterError for one that is not balanced or lacks a column."""
        values, present = _array(per_text, value, diagonal)
        pairs, sampler, prompt = _pair_bases(present), _bases(values.shape[1]), _bases(values.shape[2])
        matrices = {}
        for j in (0, 1):
            for i in (0, 1):
                for pair, basis in pairs.items():
                    form = np.einsum("kab,is,jp->kijaspb", basis, sampler[i], prompt[j])
                    form = form.reshape(np.prod(form.shape[:3]), np.prod(form.shape[3:]))
                    matrices[_name(pair, i, j)] = form / np.sqrt(form.shape[1])
        del matrices[""]  # the grand mean
        matrices = {k: matrices[k] for k in sorted(matrices, key=_order) if len(matrices[k])}
        flat = values.reshape(-1, *values.shape[3:])
        cells, texts, scorers = flat.shape
        df = [0 if "&" in name else len(form) for name, form in matrices.items()]
        rows, df = [*matrices, "text"], [*df, cells * (texts - 1)]
        if scorers > 1:
            rows, df = [*rows, "text:scorer"], [*df, cells * (texts - 1) * (scorers - 1)]
        return cls(flat - flat.mean(), values.shape[:3], matrices, rows, df)

    @property
    def means(self) -> np.ndarray:
        """Of the cells, (1, cells · scorers)."""
        return self.values.mean(axis=1).reshape(1, -1)

    @property
    def residuals(self) -> np.ndarray:
        """Deviations from the means of the cells, inflated so that their mean squares are unbiased."""
        texts = self.values.shape[1]
        return (self.values - self.values.mean(axis=1, keepdims=True)) * np.sqrt(texts / (texts - 1))

    @property
    def covariances(self) -> np.ndarray:
        """Unbiased, of the scorers of a text in every cell, (1, cells, scorers, scorers)."""
        r = self.residuals
        return np.einsum("cnb,cnd->cbd", r, r)[None] / r.shape[1]

    def forms(self, means: np.ndarray) -> np.ndarray:
        """Mean square of every form of (copies, cells · scorers): (copies, forms)."""
        return np.stack([np.sum((means @ form.T) ** 2, axis=1) for form in self.matrices.values()], axis=1)

    def noise(self, covariances: np.ndarray) -> np.ndarray:
        """Var t and Var w, averaged over cells: (copies, 2)."""
        text = covariances.mean(axis=(1, 2, 3))
        return np.stack([text, np.einsum("rcbb->r", covariances) / covariances[0, ..., 0].size - text], axis=1)

    def components(self, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
        """Every form less what noise adds to it on average, tr(Q Σ)/texts; overlaps; noise: (copies, rows)."""
        cells, texts, scorers = self.values.shape
        blocks = [form.reshape(-1, cells, scorers) for form in self.matrices.values()]
        grams = np.stack([np.einsum("kcb,kcd->cbd", block, block).ravel() for block in blocks], axis=1)
        added = covariances.reshape(len(covariances), -1) @ grams / texts
        return np.hstack([self.separated(self.forms(means) - added), self.noise(covariances)])[:, : len(self.rows)]

    def separated(self, forms: np.ndarray) -> np.ndarray:
        """From what two effects explain together to twice their covariance."""
        names = list(self.matrices)
        found = forms.copy()
        for k, name in enumerate(names):
            if "&" in name:
                rest = name.removeprefix("source & scorer")
                found[:, k] -= sum(forms[:, names.index(_sorted_name(one + rest))] for one in ("source", "scorer"))
        return found


def _name(pair: str, sampler: int, prompt: int) -> str:
    return _sorted_name(":".join([pair] * bool(pair) + ["sampler"] * sampler + ["prompt"] * prompt))


def _sorted_name(name: str) -> str:
    if "&" in name:
        return name
    return ":".join(sorted(filter(None, name.split(":")), key=[*BETWEEN, "scorer"].index))


def _order(name: str) -> tuple:
    """Main effects first, then interactions of two, three, four factors; an overlap after the effects it belongs to."""
    factors = name.replace("source & ", "").split(":")
    return len(factors), "&" in name, [[*BETWEEN, "scorer"].index(f) for f in factors]


def _bases(levels: int) -> list[np.ndarray]:
    """Orthonormal rows: the constant; the contrasts."""
    one = np.full((1, levels), levels**-0.5)
    return [one, linalg.null_space(one).T]


def _pair_bases(present: np.ndarray) -> dict[str, np.ndarray]:
    """Coefficients (df, sources, scorers per source) of source, scorer and their interaction over the pairs present.

    Columns of each effect are orthonormal; source and scorer are fitted together where they are not orthogonal.
    """
    source, scorer = np.nonzero(present)
    one = np.full((len(source), 1), len(source) ** -0.5)

    def centred(index: np.ndarray, levels: int) -> np.ndarray:
        hot = (index[:, None] == np.arange(levels)).astype(float)
        return linalg.orth(hot - hot.mean(axis=0)) if levels > 1 else np.empty((len(index), 0))

    a, b = centred(source, present.shape[0]), centred(scorer, present.shape[1])
    both = np.hstack([one, a, b])
    fitted = np.linalg.pinv(both)
    found = {"": fitted[:1], "source": fitted[1 : 1 + a.shape[1]], "scorer": fitted[1 + a.shape[1] :]}
    found["source:scorer"] = linalg.null_space(both.T).T
    if a.size and b.size and np.abs(a.T @ b).max() > 1e-9:
        found["source & scorer"] = linalg.orth(both[:, 1:]).T
    return {name: rows.reshape(len(rows), len(present), present[0].sum()) for name, rows in found.items()}


def check_columns(per_text: pd.DataFrame, names: list[str]) -> None:
    """ParameterError, with the nearest that there are, for a column that the table lacks."""
    for name in names:
        if name not in per_text:
            raise ParameterError(unknown_name("column", name, per_text.columns))


def _array(per_text: pd.DataFrame, value: str, diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """(sources, samplers, prompts, texts, scorers) and which pairs (sources, scorers) are in it; balanced, or refused."""
    factors = [*BETWEEN, "scorer"]
    check_columns(per_text, [*factors, "text", value])
    names = {factor: list(per_text[factor].unique()) for factor in factors}
    sources, scorers = names["source"], names["scorer"]
    present = np.array([[diagonal or a != b for b in scorers] for a in sources])
    if not diagonal and (set(sources) != set(scorers) or len(sources) < 3):
        raise ParameterError(
            f"diagonal=False with sources {sources}, scorers {scorers}: the same three or more are needed"
        )
    kept = per_text if diagonal else per_text[per_text.source != per_text.scorer]
    codes = {factor: pd.Index(names[factor]).get_indexer(kept[factor]) for factor in factors}
    frame = pd.DataFrame(codes | {"text": kept.text.to_numpy(), "value": kept[value].to_numpy(np.float64)})
    unbalanced = (
        "the design is not balanced: every source, sampler and prompt needs as many texts, each under all scorers"
    )
    if frame.duplicated([*factors, "text"]).any():
        raise ParameterError(unbalanced)
    wide = frame.pivot(index=[*BETWEEN, "text"], columns="scorer", values="value")
    texts = wide.groupby(level=[0, 1, 2]).size()
    shape = tuple(len(names[factor]) for factor in BETWEEN)
    if len(texts) != np.prod(shape) or texts.nunique() != 1 or len(frame) != len(wide) * present[0].sum():
        raise ParameterError(unbalanced)
    if texts.iloc[0] < 2:
        raise ParameterError("1 text in every cell: at least 2 are needed")
    bad = int(np.sum(~np.isfinite(frame.value)))
    if bad:
        raise ParameterError(f"{value!r} has {bad} values that are not finite: leave out their samplers or scorers")
    values = wide.to_numpy().reshape(*shape, texts.iloc[0], len(scorers))
    return np.stack([x[..., row] for x, row in zip(values, present, strict=True)]), present
