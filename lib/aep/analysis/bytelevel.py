"""How good are the numbers per byte? Tidy tables of what a beam leaves out, beside Monte Carlo, tokens and enumeration.

For a text s of n bytes: l = -log P(s)/n, P(s) summed over all token sequences that cover s. A beam keeps a part of P(s), so
its l is an upper bound, certified; Monte Carlo has an interval; one token sequence x that covers s has p(x) <= P(s), and
log P(s) - log p(x) = -log p(x | s) is the gap between bytes and tokens. Next-byte laws are the beam's, normalised: an
approximation without a bound, compared with exact enumeration where that is possible. Nats per byte; the unit of every
interval is the text.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from .. import intervals
from ..errors import PromptError
from ..neural.byte_smc import byte_monte_carlo
from ..neural.bytelevel import END, ByteLanguage, byte_probability
from ..records import Texts
from ..scoring import score
from .typicality import calibration

__all__ = [
    "beside_monte_carlo",
    "by_width",
    "calibrations",
    "cover",
    "deviations",
    "enumerated",
    "gap_summary",
    "gaps",
    "kl_summary",
    "monte_carlo",
    "width_steps",
]


def by_width(
    language: ByteLanguage, texts: Sequence[str | bytes | np.ndarray], widths: Sequence[int], *, batch: int = 64
) -> pd.DataFrame:
    """Per width and text what the beam says, with a cutoff of 0.

    Columns: width, text, bytes; `l`, from the kept weight, an upper bound of -log P(s)/n; `l_least`, the lower bound that
    all dropped weight gives, which says little of long text; `l_conditional`, from the normalised next-byte laws, without
    a bound; `log_dropped`, log of the dropped weight (of all bytes) over the kept one; `histories`, the mean number kept.
    """
    rows = []
    for width in widths:
        found = byte_probability(language.with_width(int(width)), texts, batch=batch)
        n = np.array([len(x) for x in found.log_kept])
        ratio = found.log_lost - found.log_p
        columns = {"width": int(width), "text": np.arange(len(n)), "bytes": n, "l": -found.log_p / n}
        columns |= {"l_least": -(found.log_p + np.logaddexp(0, ratio)) / n, "l_conditional": -found.log_conditional / n}
        columns |= {"log_dropped": ratio, "histories": [float(np.mean(x)) for x in found.histories]}
        rows.append(pd.DataFrame(columns))
    return pd.concat(rows, ignore_index=True)


def width_steps(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Per kind of text, model and width: mean `l` and `l_conditional`, and by how much `l` falls to the next width.

    Table: `by_width` with a column `model`, `kind` or both. Columns: these, width, texts; `l`, `l_conditional`, `histories`,
    each a mean, with `_low`, `_high` where it has an interval (Student t over texts); `next`, the next width; `moved` with
    its interval and `moved_most`, the largest of any text (NaN for the last width).
    """
    rows, whose = [], [c for c in ("kind", "model") if c in table]
    for group, part in table.groupby(whose, sort=False):
        wide = part.pivot(index="text", columns="width", values="l")
        widths = [int(w) for w in wide.columns]
        for width, after in zip(widths, [*widths[1:], None], strict=True):
            now = part[part.width == width]
            row = dict(zip(whose, group, strict=True)) | {"width": width, "texts": len(now)} | _named("l", now.l, level)
            row |= _named("l_conditional", now.l_conditional, level) | {
                "histories": now.histories.mean(),
                "next": after,
            }
            if after is not None:
                moved = wide[width] - wide[after]
                row |= _named("moved", moved, level) | {"moved_most": float(moved.max())}
            rows.append(row)
    return pd.DataFrame(rows)


def _named(name: str, values: pd.Series, level: float = 0.95) -> dict[str, float]:
    return intervals.mean(np.asarray(values), level).columns(name)


def monte_carlo(
    language: ByteLanguage,
    texts: Sequence[str | bytes | np.ndarray],
    *,
    particles: int,
    replicates: int,
    seed: int,
    batch: int = 64,
) -> pd.DataFrame:
    """Per text the unbiased estimate of P(s) as l: text, bytes, particles, replicates, `l`, `l_low`, `l_high`, `jensen`.

    `l_low` and `l_high` are the ends of the 95% interval by replicates; `l_high` is inf where it reaches P(s) = 0. `jensen`
    is what the logarithm of the mean adds to l on average, to second order.
    """
    options = {"particles": particles, "replicates": replicates, "seed": seed, "batch": batch}
    found = byte_monte_carlo(language, texts, **options)
    n = np.array([len(language.encode(t)) if isinstance(t, str | bytes) else len(t) for t in texts])
    columns = {"text": np.arange(len(n)), "bytes": n, "particles": particles, "replicates": replicates}
    columns |= {"l": -found.log_p / n, "l_low": -found.high / n, "l_high": -found.low / n, "jensen": found.jensen / n}
    return pd.DataFrame(columns)


def beside_monte_carlo(widths: pd.DataFrame, estimates: pd.DataFrame, slack: float = 1e-3) -> pd.DataFrame:
    """Per kind, model and width: of how many texts the beam's l lies in [l_low, l_high + slack] of the Monte Carlo interval.

    Tables: `by_width`, `monte_carlo`, both with the same columns of `kind` and `model`; texts that both have. `below`: l
    under the lower end, which the bound allows only where the interval misses log P(s), of one text in forty; `above`: the
    beam has lost more than `slack`. `inside` with its exact 95% interval; `unbounded`: texts whose upper end is inf.
    `excess`, `conditional`: mean of the beam's `l`, `l_conditional` minus the estimate, with a 95% t interval over texts;
    `noise`, the half-width of the Monte Carlo interval of that mean on these texts, sqrt(Σ (longer half)²)/texts, and
    `mean_inside`: -noise <= excess <= noise + slack (False where an interval has no end, which would say nothing).
    """
    whose = [c for c in ("kind", "model") if c in widths]
    both = widths.merge(estimates, on=[*whose, "text", "bytes"], suffixes=("", "_mc"))
    rows = []
    for group, part in both.groupby([*whose, "width"], sort=False):
        below, above = part.l < part.l_low, part.l > part.l_high + slack
        row = dict(zip([*whose, "width"], group, strict=True)) | {"texts": len(part)}
        row |= {"below": int(below.sum()), "above": int(above.sum()), "unbounded": int(np.isinf(part.l_high).sum())}
        row |= intervals.share((~below & ~above).to_numpy()).columns("inside")
        row |= _named("excess", part.l - part.l_mc) | _named("conditional", part.l_conditional - part.l_mc)
        half = np.maximum(part.l_high - part.l_mc, part.l_mc - part.l_low)
        row["noise"] = float(np.sqrt(np.sum(half**2)) / len(part))
        rows.append(row | {"mean_inside": bool(-row["noise"] <= row["excess"] <= row["noise"] + slack < np.inf)})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------------- bytes and tokens


def cover(ids: Int[np.ndarray, " tokens"], language: ByteLanguage, length: int) -> tuple[int, np.ndarray]:
    """How many of the tokens it takes to spell `length` symbols (bytes and ends), and these symbols.

    The last of them may reach past the end. Cut there, every token sequence covers exactly one string of that length.
    PromptError for a token without bytes, or too few tokens.

    >>> from aep.languages import FiniteLanguage
    >>> letters = ByteLanguage(FiniteLanguage([.5, .3, .2]), [b"a", b"b", b"ab"])
    >>> cover(np.array([2, 0, 2]), letters, 4)
    (3, array([97, 98, 97, 97]))
    """
    parts: list[tuple[int, ...]] = []
    total = 0
    for token in ids:
        piece = language.pieces[int(token)]
        if piece is None and token != language.language.eos:
            raise PromptError(f"token {int(token)} of {language.language.name} has no bytes")
        parts.append((END,) if token == language.language.eos else tuple(piece))
        total += len(parts[-1])
        if total >= length:
            return len(parts), np.array([symbol for part in parts for symbol in part][:length])
    raise PromptError(f"{len(ids)} tokens spell {total} bytes, {length} are needed")


def gaps(
    language: ByteLanguage, ids: Sequence[np.ndarray], at: Sequence[int] | np.ndarray, *, batch: int = 64
) -> pd.DataFrame:
    """log p of token sequences and log P of the bytes they spell, of the first n bytes of every text, n of `at`.

    x is cut where it first covers n bytes, so that x -> s is a function and Σ p(x) over the x of s is P(s): hence
    `gap` = log P(s) - log p(x) = -log p(x | s) >= 0, and KL(P_A, P_B) <= KL(p_A, p_B) (data processing; `kl_summary`).
    A gap has two parts: the other ways to spell s, which grow with n, and the other last tokens, which do not.

    Columns: text, bytes, tokens, `log_p_tokens`, `log_p_bytes` (the bound of the beam), `gap`; nats. A negative gap says
    that the beam keeps less than these tokens alone have: its width is too small for such text. A prefix of the tokenizer
    is part of the text here. PromptError for a language without a start token, and as `cover`.
    """
    if language.language.needs_context(True):
        raise PromptError(f"{language.language.name} has no start token: its first token has no probability")
    if language.prefix:
        options = {"width": language.beam_width, "cutoff": language.cutoff, "limit": language.limit}
        options["shared"] = language.shared
        language = ByteLanguage(language.language, language.pieces, **options)
    covers = [[cover(x, language, int(n)) for n in at] for x in ids]
    longest = [max(found, key=lambda one: one[0]) for found in covers]
    used = [np.asarray(x[: one[0]]) for x, one in zip(ids, longest, strict=True)]
    surprisal = score(used, language.language).by_text("surprisal")
    kept = byte_probability(language, [one[1] for one in longest], batch=batch).log_kept
    rows = []
    for text, found in enumerate(covers):
        for n, (tokens, _) in zip(at, found, strict=True):
            row = {"text": text, "bytes": int(n), "tokens": tokens, "log_p_tokens": -surprisal[text][:tokens].sum()}
            rows.append(row | {"log_p_bytes": kept[text][n - 1]})
    table = pd.DataFrame(rows)
    table["gap"] = table.log_p_bytes - table.log_p_tokens
    return table


def gap_summary(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Per kind and model: the gap per byte and its growth, with t intervals over texts, where the model scores its own text.

    Table: `gaps` with columns `kind`, `source`, `scorer`; sources of held-out text have no name. Columns: kind, model,
    texts, bytes; `gap`, per byte of the whole length; `growth`, (gap at the largest n - gap at the smallest) per byte
    between, which is free of the last token; `l_tokens`, `l_bytes`; `least`, the smallest gap of any text (nats);
    `canonical`, the mean of exp(-gap), the posterior probability of the tokens given the bytes.
    """
    rows = []
    own = table[(table.kind == "held-out") | (table.source == table.scorer)]
    for (kind, model), part in own.groupby(["kind", "scorer"], sort=False):
        first, last = part.bytes.min(), part.bytes.max()
        near, far = (part[part.bytes == n].set_index("text") for n in (first, last))
        row = {"kind": kind, "model": model, "texts": len(far), "bytes": int(last)}
        row |= _named("gap", far.gap / last, level)
        row |= _named("growth", (far.gap - near.gap) / (last - first), level) if last > first else {}
        row |= {"l_tokens": -(far.log_p_tokens / last).mean(), "l_bytes": -(far.log_p_bytes / last).mean()}
        rows.append(row | {"least": float(part.gap.min()), "canonical": float(np.exp(-far.gap).mean())})
    return pd.DataFrame(rows)


def kl_summary(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Per source, scorer and number of bytes: mean log p_A - log p_B per byte, of tokens and of bytes, same texts.

    Table: `gaps` of texts that A sampled token by token, under A and under B, whose tokens are the same. Their means
    estimate KL(p_A, p_B) and KL(P_A, P_B); `more`, tokens minus bytes, estimates the mean of KL(p_A(x|s), p_B(x|s)) >= 0.
    Each with a t interval over texts; `holds`: the upper end of `more` is not below 0.
    """
    rows, key = [], ["source", "bytes", "text"]
    sampled = table[table.kind != "held-out"]
    own = sampled[sampled.source == sampled.scorer].set_index(key)
    for (source, scorer, n), part in sampled.groupby(["source", "scorer", "bytes"], sort=False):
        if source == scorer:
            continue
        part = part.set_index(key)
        mine = own.loc[part.index]
        by_token, by_byte = ((mine[c] - part[c]) / n for c in ("log_p_tokens", "log_p_bytes"))
        row = {"source": source, "scorer": scorer, "bytes": int(n), "texts": len(part)}
        row |= _named("kl_tokens", by_token, level) | _named("kl_bytes", by_byte, level)
        row |= _named("more", by_token - by_byte, level)
        rows.append(row | {"holds": bool(row["more_high"] >= 0)})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------------- normalised laws


def enumerated(
    source: ByteLanguage, scorer: ByteLanguage, texts: Texts | Sequence[np.ndarray], widths: Sequence[int]
) -> pd.DataFrame:
    """h_A and h_(A,B) of the same texts by beams of each width and by exact enumeration, which all widths are compared with.

    Columns: source, scorer, width, text, bytes; `h_A`, `h_AB`, `kl`, `l_B` of the beams' normalised laws, and
    `h_A_exact` and so on. Short texts alone: enumeration keeps every token sequence (ParameterError beyond its limit).
    """
    ids = texts.ids if isinstance(texts, Texts) else list(texts)
    parts = []
    for width in (None, *widths):
        cut = [x.with_width(width) for x in (source, scorer)]
        found = score(ids, cut[1], source=cut[0])
        names = {"h_A": "source_entropy", "h_AB": "cross_entropy", "l_B": "surprisal"}
        means = {new: np.array([x.mean() for x in found.by_text(old)]) for new, old in names.items()}
        means["kl"] = means["h_AB"] - means["h_A"]
        if width is None:
            exact = {f"{name}_exact": value for name, value in means.items()}
            continue
        whose = {"source": source.language.name, "scorer": scorer.language.name, "width": int(width)}
        numbers = {"text": np.arange(len(ids)), "bytes": [len(x) for x in ids]}
        parts.append(pd.DataFrame(whose | numbers | means | exact))
    return pd.concat(parts, ignore_index=True)


def deviations(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Per source, scorer and width: beam minus enumeration of `h_A`, `h_AB`, `kl`, `l_B`; mean, t interval, largest size.

    Table: `enumerated`. Columns: source, scorer, width, texts, quantity, exact (the mean), deviation, deviation_low,
    deviation_high, largest (over texts).
    """
    rows, key = [], ["source", "scorer", "width"]
    for group, part in table.groupby(key, sort=False):
        for name in ("h_A", "h_AB", "kl", "l_B"):
            off = part[name] - part[f"{name}_exact"]
            row = dict(zip(key, group, strict=True)) | {"texts": len(part), "quantity": name}
            row |= {"exact": part[f"{name}_exact"].mean()} | _named("deviation", off, level)
            rows.append(row | {"largest": float(off.abs().max())})
    return pd.DataFrame(rows)


def calibrations(per_text: pd.DataFrame, level: float = 0.001) -> pd.DataFrame:
    """Per scorer: is z standard normal, of its own texts, of all texts against h_(A,B), and (control) of foreign texts
    against its own h?

    Table: `pairs.PairRecords.per_text`. Columns: scorer, kind ("own", "pair", "foreign, own h"), then
    `typicality.Calibration`, each row at `level` over the number of scorers. Texts without a test are left out.
    """
    rows, scorers = [], list(dict.fromkeys(per_text.scorer))
    for scorer in scorers:
        part = per_text[per_text.scorer == scorer]
        own = part.source == scorer
        for kind, z in (("own", part.z_B[own]), ("pair", part.z_pair), ("foreign, own h", part.z_B[~own])):
            z = z[np.isfinite(z)].to_numpy()
            if len(z):
                rows.append({"scorer": scorer, "kind": kind} | calibration(z, level=level / len(scorers))._asdict())
    return pd.DataFrame(rows)
