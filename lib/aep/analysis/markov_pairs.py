"""Pairs of Markov chains, where the expectation of h_(A,B) at a given T from a given start is a finite sum.

The oracle of notebook 03: `expected_pair` by dynamic programming over the states, and `coverage`, which draws thousands of
small experiments with `sample`, scores them with `score`, and counts how often the intervals contain that expectation.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .. import information, intervals
from ..adaptors import Adaptor, ancestral, temperature, top_k
from ..errors import ParameterError
from ..languages import MarkovChain
from ..sampling import sample
from ..scoring import score
from .cross_aep import stratified_mean

__all__ = ["CASES", "ExpectedPair", "adapted", "coverage", "coverages", "expected_pair"]

BATCH = 5000  # texts side by side; changes no text

_A = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], name="A")
_B = MarkovChain([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], name="B")
_STICKY = MarkovChain([[0.95, 0.05], [0.1, 0.9]], [1, 0], name="sticky")
_FLAT = MarkovChain([[0.6, 0.4], [0.5, 0.5]], name="flat")

CASES: dict[str, tuple[MarkovChain, MarkovChain, dict[str, Any]]] = {
    "A, B": (_A, _B, {}),
    "B, A, two prompts": (_B, _A, {"prompts": [[0], [1]]}),
    "sticky, flat": (_STICKY, _FLAT, {"tokens": 32}),
    "A, B, temperature": (_A, _B, {"adaptor": temperature(0.7)}),
    "A, B, top-k, two prompts": (_A, _B, {"adaptor": top_k(2), "prompts": [[0], [2]]}),
}
"""Pairs on which intervals are tried (`coverages`): source, scorer, and what differs from 16 symbols of ancestral text."""


class ExpectedPair(NamedTuple):
    """Exact expectations over texts of `tokens` symbols that A wrote (nats per symbol; `sum_cross_varentropy` in nats²).

    `h_AB` = E[l_B] as well, since l_B - h_(A,B) is a sum of martingale differences, and its variance is
    `sum_cross_varentropy`/T². `h_B` = E[h_B] along A's texts, so that E[l_B - h_B] = h_AB - h_B. `kl` = h_AB - h_A.
    """

    tokens: int
    h_AB: float
    h_A: float
    h_B: float
    kl: float
    sum_cross_varentropy: float


def adapted(chain: MarkovChain, adaptor: Adaptor | None = None) -> MarkovChain:
    """The Markov chain that sampling `chain` with a local adaptor is: every row, and the initial law, adapted.

    >>> import aep
    >>> adapted(MarkovChain([[.5, .4, .1], [.2, .2, .6], [1, 0, 0]]), aep.top_k(1)).transition[1].tolist()
    [0.0, 0.0, 1.0]
    """
    adaptor = adaptor or ancestral()
    rows, first = np.exp(adaptor(chain.log_transition)), np.exp(adaptor(chain.log_initial[None])[0])
    return MarkovChain(rows, first, eos=chain.eos, name=f"{chain.name} {adaptor}", symbols=chain.symbols)


def expected_pair(
    source: MarkovChain,
    scorer: MarkovChain,
    tokens: int,
    *,
    prompt: Sequence[int] | np.ndarray = (),
    adaptor: Adaptor | None = None,
) -> ExpectedPair:
    """E[h_(A,B)], E[h_A], E[h_B], their KL rate and E[Σ v] for texts of `tokens` symbols that A draws after `prompt`.

    With Q the adapted transition of A and mu_t = mu_0 Q^t the law of symbol t, E[Σ b] = b(start) + Σ_{t<T-1} Σ_i mu_t(i) b_i
    with b_i = -Σ_j Q_ij log P^B_ij; every other sum likewise. inf where B forbids what A does. VocabularyMismatch for
    chains on different symbols.

    >>> chain = MarkovChain([[.9, .1], [.3, .7]])
    >>> found = expected_pair(chain, chain, 20)
    >>> bool(np.isclose(found.h_AB, found.h_A) and np.isclose(found.kl, 0))
    True
    """
    own = adapted(source, adaptor)
    pair, self_ = own.expected(tokens, prompt=prompt, scorer=scorer), own.expected(tokens, prompt=prompt)
    visits = own.marginals(tokens, prompt)[:-1].sum(axis=0)
    first = information.entropy(scorer.start([prompt])[0])[0]
    h_b = float((first + visits @ scorer.row_entropy()) / tokens)
    kl = pair.log_perplexity - self_.log_perplexity
    return ExpectedPair(tokens, pair.log_perplexity, self_.log_perplexity, h_b, kl, pair.sum_varentropy)


def coverage(
    source: MarkovChain,
    scorer: MarkovChain,
    *,
    tokens: int,
    texts: int,
    repetitions: int,
    seed: int,
    prompts: Sequence[Sequence[int]] | None = None,
    adaptor: Adaptor | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """How often the t interval over `texts` texts contains the exact expectation, over `repetitions` experiments.

    One row per quantity (`h_AB`, `kl`) and unit. Unit "text" is the interval of `cross_aep.matrix`: `texts` of them, the
    same number after each prompt (strata). Unit "token" is the negative control, the t interval of all tokens as if they
    were independent. Columns: source, scorer, adaptor, prompts (how many), tokens, texts, repetitions, quantity, unit,
    `expected` (`expected_pair`, averaged over prompts), `mean` of the estimates, `coverage` with its exact 95% interval
    `low`, `high`, and the shares of intervals that lie wholly `above` and `below` the expectation.

    ParameterError unless every prompt gets the same number of texts, at least 2.
    """
    starts = [()] if prompts is None else prompts
    each, left = divmod(texts, len(starts))
    if left or each < 2:
        raise ParameterError(
            f"texts={texts!r} after {len(starts)} prompts: the same number each, at least 2, is needed"
        )
    options = {"texts": each * repetitions, "tokens": tokens, "seed": seed, "adaptor": adaptor, "batch": BATCH}
    records = score(sample(source, prompts, **options), scorer, source=source, adaptor=adaptor)
    strata = np.repeat(np.arange(len(starts)), each)
    exact = [expected_pair(source, scorer, tokens, prompt=p, adaptor=adaptor) for p in starts]
    cross, own = records.matrix("cross_entropy"), records.matrix("source_entropy")
    whose = {"source": source.name, "scorer": scorer.name, "adaptor": str(adaptor or ancestral())}
    whose |= {"prompts": len(starts), "tokens": tokens, "texts": texts, "repetitions": repetitions}
    rows = []
    for quantity, values in (("h_AB", cross), ("kl", cross - own)):
        truth = float(np.mean([getattr(e, quantity) for e in exact]))
        # (repetitions, texts, tokens): the texts of a prompt come one after the other
        runs = values.reshape(len(starts), repetitions, each, tokens).transpose(1, 0, 2, 3).reshape(-1, texts, tokens)
        for unit in ("text", "token"):
            found = [
                stratified_mean(run.mean(axis=1), strata, level)
                if unit == "text"
                else intervals.mean(run.ravel(), level)
                for run in runs
            ]
            rows.append({**whose, "quantity": quantity, "unit": unit, **_counted(found, truth)})
    return pd.DataFrame(rows)


def coverages(*, repetitions: int, seed: int, texts: int = 52) -> pd.DataFrame:
    """`coverage` of each of `CASES`, one after the other, each with a seed of its own."""
    parts = []
    for i, (source, scorer, options) in enumerate(CASES.values()):
        settings = {"tokens": 16} | options | {"texts": texts, "repetitions": repetitions, "seed": seed + i}
        parts.append(coverage(source, scorer, **settings))
    return pd.concat(parts, ignore_index=True)


def _counted(found: Sequence[intervals.Interval], truth: float) -> dict[str, float]:
    estimate, low, high = (np.array(x) for x in zip(*found, strict=True))
    inside = intervals.share((low <= truth) & (truth <= high))
    row = {"expected": truth, "mean": float(estimate.mean()), "coverage": inside.estimate}
    row |= {"low": inside.low, "high": inside.high}
    return row | {"above": float(np.mean(low > truth)), "below": float(np.mean(high < truth))}
