"""The sampling schemes on a Markov language of two word classes: local and global laws, chains between them, alignment.

The vocabulary is large enough for every scheme of `metropolis.SCHEMES` to act, and the next-token law depends on the class
of the last word alone, so that strings of classes can be enumerated (`weighted_chains.class_strings`). The tables of
notebook 04.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import special, stats

from .. import information
from .._progress import progress
from ..adaptors import parse
from ..errors import ParameterError
from ..languages import MarkovChain
from ..optimum import check_beta
from ..sampling import sample
from .chains import acceptance, goodness_of_fit
from .metropolis import Proposals, fresh_chains, proposals
from .normalisers import normaliser
from .string_laws import Strings, expected_acceptance, mixing_steps, pool_bias
from .weighted_chains import (
    Steps,
    adapted,
    class_means,
    class_strings,
    divergence,
    expected_total,
    global_law,
    is_tight,
    local_law,
    shared_mass,
    string_values,
    weighted_normaliser,
)

__all__ = ["Classes", "pair_table", "pool_table", "pushed_table", "reach_table", "scheme_table", "two_classes"]

CATEGORIES = 12  # of class strings in the χ² test, the most probable ones; all others are one more


class Classes(NamedTuple):
    """A language and the class of each of its symbols, (vocab,); the end token is a class of its own."""

    chain: MarkovChain
    groups: np.ndarray


def two_classes(words: int = 30) -> Classes:
    """Two classes of `words` words, Zipf with exponent 3 (few common words) and 1 (many rare ones), and an end token.

    The first word is of either class with probability 1/2. After a word of the first class come the two classes and the
    end with .35, .1, .55; after one of the second with .25, .2, .55.

    >>> two_classes().chain.vocab_size
    61
    """
    shares = [np.arange(1, words + 1.0) ** -exponent for exponent in (3, 1)]
    inside = [share / share.sum() for share in shares]
    start, *rows = (
        np.r_[a * inside[0], b * inside[1], e] for a, b, e in ((0.5, 0.5, 0), (0.35, 0.1, 0.55), (0.25, 0.2, 0.55))
    )
    transition = np.vstack([np.tile(row, (words, 1)) for row in rows] + [np.eye(2 * words + 1)[-1:]])
    symbols = [f"{kind}{i}" for kind in "ab" for i in range(1, words + 1)] + ["<end>"]
    chain = MarkovChain(transition, start, eos=2 * words, name="two classes", symbols=symbols)
    return Classes(chain, np.r_[np.zeros(words, int), np.ones(words, int), 2])


def _some(schemes: Sequence[str]) -> None:
    if not len(schemes):
        raise ParameterError("no scheme is given: metropolis.SCHEMES are those of the public code")


def _length(chain: MarkovChain) -> Steps:
    return Steps(np.ones(chain.vocab_size), np.ones((chain.vocab_size,) * 2))


def scheme_table(language: Classes, schemes: Sequence[str], *, tokens: int) -> pd.DataFrame:
    """Local against global normalisation, exactly, one row per scheme.

    Columns: `radius` and `log_z` of `normaliser`; where Z is finite, the means of log p (nats per string) and of the length
    (tokens, the end counted) under the local and the global law, and `kl` = KL(global ‖ local) between strings, all by
    linear algebra and without a cap; `beyond` and `beyond_local`, the mass of strings of more than `tokens` tokens; and
    `variation`, the total variation distance between the two laws, in which these strings count as one: ½ (Σ |π - q| +
    |beyond - beyond_local|), exact where the longer strings are all more, or all less, probable under the global law, and
    else too small by at most the smaller of the two masses. ParameterError without a scheme.
    """
    _some(schemes)
    chain, rows = language.chain, []
    for scheme in schemes:
        found = normaliser(chain, scheme)
        row = {"scheme": scheme, "radius": found.spectral_radius, "log_z": found.log_z}
        weights = adapted(chain, scheme)
        local = local_law(chain, weights)
        row |= {
            "log_p_local": expected_total(local, Steps.of(chain)),
            "length_local": expected_total(local, _length(chain)),
        }
        if found.exists:
            law = global_law(chain, weights).chain
            strings = class_strings(chain, weights, language.groups, tokens=tokens)
            q, target = np.exp(strings.log_q), (1 - strings.omitted) * np.exp(strings.log_target)
            variation = (np.abs(q - target).sum() + abs(strings.omitted - strings.open_q)) / 2
            row |= {
                "log_p_global": expected_total(law, Steps.of(chain)),
                "length_global": expected_total(law, _length(chain)),
            }
            row |= {"kl": divergence(law, local), "variation": float(variation)}
            row |= {"beyond": strings.omitted, "beyond_local": strings.open_q}
        rows.append(row)
    return _without_noise(pd.DataFrame(rows).set_index("scheme"))


def _without_noise(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers to ten decimals: what is zero but for rounding would differ from processor to processor."""
    return table.round(10) + 0.0


# ------------------------------------------------------------------------------------------------------------ chains


def reach_table(
    language: Classes, schemes: Sequence[str], *, tokens: int, chains: int, steps: int, seed: int, level: float = 0.001
) -> pd.DataFrame:
    """Do chains of fresh proposals have the global law, and accept as often as they should? One row per scheme.

    Texts are drawn with `sample`, log-weights are those of its record. `burn` steps are dropped (`mixing_steps` to .01),
    `steps` kept. Columns: `p_value` of `goodness_of_fit` to the exact law of class strings of at most `tokens` tokens, with
    its `effective` sample size; `always` and `always_local`: the same test of chains over the same texts that accept every
    proposal, against the global law (which is to be rejected) and against the local one (which is theirs); `power`: the
    probability, computed beforehand from the exact laws, that the first rejects at `level` divided by the number of schemes;
    `acceptance` with the interval `low`, `high` at the same level, and `expected`, its exact value.
    """
    rows = []
    for k, scheme in enumerate(progress(schemes, desc="schemes", unit="scheme")):
        strings = class_strings(language.chain, adapted(language.chain, scheme), language.groups, tokens=tokens)
        burn = mixing_steps(strings.log_q, strings.log_weight, 0.01)
        texts = sample(
            language.chain,
            None,
            texts=chains * (burn + steps + 1),
            tokens=tokens,
            seed=1000 * seed + k,
            adaptor=parse(scheme),
            stop="eos",
            batch=50_000,
        )
        label = strings.index([language.groups[ids] for ids in texts.ids])
        row = _reached(
            strings, label, proposals(texts), chains, burn, np.random.default_rng([seed, k]), level / len(schemes)
        )
        rows.append({"scheme": scheme, "burn": burn} | row)
    return pd.DataFrame(rows).set_index("scheme")


def _reached(
    strings: Strings, label: np.ndarray, pool: Proposals, chains: int, burn: int, rng: np.random.Generator, level: float
) -> dict[str, Any]:
    target, local = np.exp(strings.log_target), np.exp(information.log_normalise(strings.log_q))
    top = np.argsort(-target, kind="stable")[:CATEGORIES]
    category = np.full(len(strings) + 1, -1)
    category[top] = np.arange(len(top))
    category = category[label]  # -1, a text that was cut, is never stored
    found = fresh_chains(pool, chains=chains, rng=rng).after(burn)
    careless = pool._replace(log_weight=np.where(label < 0, -np.inf, 0.0))
    always = category[fresh_chains(careless, chains=chains, rng=rng).after(burn).text[0]]
    fit = goodness_of_fit(category[found.text[0]], target[top])
    (row,) = acceptance(found, level=1 - level).itertuples(index=False)
    return {
        "p_value": fit.p_value,
        "effective": fit.effective,
        "always": goodness_of_fit(always, target[top]).p_value,
        "always_local": goodness_of_fit(always, local[top]).p_value,
        "power": _power(target[top], local[top], always.size, level),
        "acceptance": row.acceptance,
        "low": row.low,
        "high": row.high,
        "expected": expected_acceptance(strings.log_q, strings.log_weight),
    }


def _power(law: Float[np.ndarray, " k"], drawn: Float[np.ndarray, " k"], n: int, level: float) -> float:
    """Probability that a χ² test of `law` rejects n independent draws from `drawn`; each has one more category, the rest.

    A category without probability is left out; 1 if it can be drawn.
    """
    p, q = np.append(law, 1 - law.sum()), np.append(drawn, 1 - drawn.sum())
    if (q[p <= 1e-12] > 1e-12).any():
        return 1.0
    p, q = p[p > 1e-12], q[p > 1e-12]
    far = n * float(np.sum((q - p) ** 2 / p))
    df = len(p) - 1
    return float(stats.ncx2.sf(stats.chi2.isf(level, df), df, far)) if far > 1e-9 else level


def pair_table(language: Classes, schemes: Sequence[str], *, tokens: int) -> pd.DataFrame:
    """How far a chain over two stored texts gets from the local to the global mean of log p: exactly, one row per scheme.

    2 Σ_ij q_i q_j w_i f_i/(w_i + w_j) is the mean over pairs of the limit of the chain; `recovered` = (that - local)
    / (global - local), which tends to 1/2 (for n texts: 1 - 1/n) as all weights become equal. Columns `local`, `pair`,
    `globally` in nats per string, of strings of at most `tokens` tokens; NaN where the two laws are one.
    """
    rows = []
    for scheme in schemes:
        strings, f = _log_p_of_classes(language, scheme, tokens)
        q, target = np.exp(information.log_normalise(strings.log_q)), np.exp(strings.log_target)
        share = special.expit(strings.log_weight[:, None] - strings.log_weight)  # w_i/(w_i + w_j)
        local, pair, globally = float(q @ f), float(2 * (q * f) @ share @ q), float(target @ f)
        far = abs(globally - local) > 1e-9
        rows.append((scheme, local, pair, globally, (pair - local) / (globally - local) if far else np.nan))
    return pd.DataFrame(rows, columns=["scheme", "local", "pair", "globally", "recovered"]).set_index("scheme")


def _log_p_of_classes(language: Classes, scheme: str, tokens: int) -> tuple[Strings, np.ndarray]:
    """Class strings, and the mean log p of the texts of each: given its classes, a text has one law locally and globally."""
    weights = adapted(language.chain, scheme)
    means = class_means(local_law(language.chain, weights), Steps.of(language.chain), language.groups)
    strings = class_strings(language.chain, weights, language.groups, tokens=tokens)
    return strings, string_values(strings.ids, means)


def pool_table(
    language: Classes,
    schemes: Sequence[str],
    sizes: Sequence[int],
    *,
    tokens: int,
    pools: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """`string_laws.pool_bias` for the log p of a string (nats), replaced by its mean given the classes of the words.

    One row per scheme and pool size.
    """
    tables = []
    for scheme in schemes:
        strings, values = _log_p_of_classes(language, scheme, tokens)
        tables.append(pool_bias(strings, values, sizes, pools=pools, rng=rng).reset_index().assign(scheme=scheme))
    return pd.concat(tables, ignore_index=True)


# --------------------------------------------------------------------------------------------------------- alignment


def pushed_table(chain: MarkovChain, reward: Steps, schemes: Sequence[str], *, beta: float = 1.0) -> pd.DataFrame:
    """An adaptor on the aligned model beside the same adaptor pushed to the prior (2406.10203, Eq. 13 and 41), exactly.

    p_plus ∝ p e^{r/β} (Eq. 1) with an additive reward is a Markov language again. Compared are γ(p_plus), normalised over
    strings and step by step, and e^{r/β} γ(p), normalised over strings. Columns: mean log p (`log_p`) and mean reward of the
    three laws (`_local`, `_pushed`), nats per string; `shared`, the mass under global γ(p_plus) of strings that the pushed
    law can write; `kl` from the first to the pushed law. NaN where Z is infinite, and for a local law that need not end.
    ParameterError for no scheme or a β that is not above 0, DistributionError for a reward that is NaN or +inf.
    """
    _some(schemes)
    check_beta(beta)
    aligned = global_law(chain, Steps.of(chain) + reward.times(1 / beta)).chain
    rows = []
    for scheme in schemes:
        row: dict[str, Any] = {"scheme": scheme}
        weights, prior = adapted(aligned, scheme), adapted(chain, scheme) + reward.times(1 / beta)
        local = local_law(chain, weights)
        laws = {"_local": local} if is_tight(local) else {}
        found = {"": weights, "_pushed": prior}
        laws |= {name: global_law(chain, w).chain for name, w in found.items() if weighted_normaliser(chain, w).exists}
        for suffix, law in laws.items():
            row |= {
                f"log_p{suffix}": expected_total(law, Steps.of(chain)),
                f"reward{suffix}": expected_total(law, reward),
            }
        if "" in laws and "_pushed" in laws:
            row |= {"shared": shared_mass(laws[""], laws["_pushed"]), "kl": divergence(laws[""], laws["_pushed"])}
        rows.append(row)
    return _without_noise(pd.DataFrame(rows).set_index("scheme"))
