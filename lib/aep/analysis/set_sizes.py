"""How many strings are typical: log|A_ε|/T per model and sampler, beside the entropy and log |vocabulary|.

The set counted is that of the sampler itself: A_ε = {x of T tokens : q(x) > 0 and |l^q_T - h^q_T| <= ε}, where l^q and h^q
are the log-perplexity and the empirical entropy under q, the law the tokens were drawn from (the model with its adaptor).
Of several prompts it is the mean of their counts. E_q[1{x in A_ε}/q(x)] = |A_ε|, in two ways:

* `set_sizes`, importance sampling from the texts of a record. 1/q(x) = e^{T l} has heavier tails the longer the text, since
  h differs between texts: the estimate then rests on one text, and only a lower limit remains.
* `resampled_set_size`, sequential: a population of texts is weighted by e^{H_t} at every step and resampled, so that
  paths of high entropy, to which most strings belong, are followed (Del Moral, Doucet & Jasra 2006). What is left to
  average is e^{T(l-h)} in A_ε, between e^{-Tε} and e^{Tε}.

Most strings of A_ε are not like sampled text: up to e^{±Tε}, |A_ε| is E_q[e^{T h} 1{x in A_ε}], to which the paths of
highest entropy give most. Only where h does not depend on the path (independent symbols) is log|A_ε|/T near h.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import special, stats

from .. import intervals
from .._array import as_numpy, gather
from ..adaptors import Adaptor, ancestral
from ..errors import ContextTooLong, ParameterError
from ..importance import kish, systematic
from ..information import entropy
from ..languages.protocol import Language, as_ids
from ..records import Records
from ..sampling import draw
from .typicality import log_set_size

__all__ = ["is_believed", "resampled_set_size", "set_sizes"]

_LEAST_EFFECTIVE = 10.0


def is_believed(inside: int, effective: float, pareto_k: float) -> bool:
    """Whether an interval made of the weights' own spread can be: k <= min(1 - 1/log10 n, 0.7) and 10 effective texts.

    n = `inside`, the number of weights: Vehtari et al. 2024, section 3.2. The effective number is asked for as well, since
    weights that take few values, with one far above the rest, have a small k. NaN is the k of largest weights that are ties,
    which have no tail.

    >>> is_believed(100, 40.0, 0.4), is_believed(100, 40.0, 0.6), is_believed(100, 3.0, 0.1)
    (True, False, False)
    """
    if inside < 25 or not effective >= _LEAST_EFFECTIVE:
        return False
    return not pareto_k > min(1 - 1 / np.log10(inside), 0.7)


def set_sizes(
    records: Records,
    model: str,
    vocab_size: int,
    *,
    at: Iterable[int],
    epsilon: float,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Per length T in `at`: log|A_ε|/T of the sampler that wrote the texts, by importance sampling from these texts.

    Parameters
    ----------
    records : texts of one sampler, scored under it: for an adaptor `score(texts, lm, source=lm, adaptor=adaptor)`, whose
        source_surprisal and source_entropy are those of q; for ancestral sampling a plain record will do
    model, vocab_size : for the columns `model` and `log_vocabulary`
    at, epsilon : lengths T up to that of the texts, and the tolerance in nats per token

    Returns
    -------
    One row per T: model, sampler, method ("own texts"), tokens, epsilon, texts, inside (texts in A_ε); log_size, low,
    high in nats per token; interval; h, h_low, h_high (mean of h^q over texts, t interval), l; log_vocabulary;
    share_of_strings = log_size/log_vocabulary, the typical strings among all on the logarithmic scale; effective,
    pareto_k of the weights (`log_set_size`). `interval` is "bootstrap" where `is_believed` says so. Elsewhere it is
    "one-sided": low = log_size - log(2/(1 - confidence))/T holds whatever the tails (the estimate of |A| has mean |A|, so
    by Markov's inequality it is 1/α times too large with probability at most α), and high is log_vocabulary.

    Raises
    ------
    ParameterError: texts of an adaptor without the columns of that adaptor, another source, T or ε out of range
    """
    surprisal, ent, sampler = _of_the_sampler(records)
    texts, longest = surprisal.shape
    _check(at := [int(t) for t in at], longest, epsilon)
    rows = []
    for t in at:
        total, h = surprisal[:, :t].sum(axis=1), ent[:, :t].mean(axis=1)
        inside = np.abs(total / t - h) <= epsilon
        found = log_set_size(total, inside, t, rng=rng, level=confidence)
        believed = is_believed(int(inside.sum()), found.effective, found.pareto_k)
        tail = np.log(2 / (1 - confidence)) / t
        ends = found[1:3] if believed else (float(np.fmax(found.log_size - tail, 0.0)), float(np.log(vocab_size)))
        row = {"model": model, "sampler": sampler, "method": "own texts", "tokens": t, "epsilon": epsilon}
        row |= {
            "texts": texts,
            "inside": int(inside.sum()),
            "log_size": found.log_size,
            "low": ends[0],
            "high": ends[1],
        }
        row |= {"interval": "bootstrap" if believed else "one-sided"}
        row |= intervals.mean(h, confidence).columns("h")
        row |= {"l": float(np.mean(total)) / t} | _shares(found.log_size, vocab_size)
        rows.append(row | {"effective": found.effective, "pareto_k": found.pareto_k})
    return pd.DataFrame(rows)


def resampled_set_size(
    language: Language,
    prompt: str | Sequence[int | np.integer] | np.ndarray | None = None,
    *,
    at: Iterable[int],
    epsilon: float,
    seed: int,
    adaptor: Adaptor | None = None,
    texts: int = 100,
    runs: int = 10,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Per length T in `at`: log|A_ε|/T after one prompt, by `runs` independent populations of `texts` texts each.

    At every step each text is weighted by e^{H_t}, the entropy of q there; where the effective number of texts falls below
    half, they are drawn again in proportion to their weights. A run estimates
    |A| = E_q[1{x in A}/q(x)] without bias, as the mean weight times e^{Σ(a - H)} over the texts in A.

    Returns
    -------
    One row per T: model, sampler, method ("resampled"), tokens, epsilon, texts (of all runs), inside; log_size (log of the
    mean of the runs), low, high in nats per token; interval ("log-normal": Cox's for the mean of log-normal runs, the limit
    law of Bérard, Del Moral & Doucet 2014; "none" where a run found no text in A); log_vocabulary, share_of_strings, and
    spread, the standard deviation of log|A| between runs. A spread above 1 says that the texts are too few; as for any
    sequential sampler, what all runs have missed does not show.

    Raises
    ------
    ParameterError: fewer than 5 runs or 2 texts, T or ε out of range; ContextTooLong; PromptError
    """
    adaptor = ancestral() if adaptor is None else adaptor
    _check(at := sorted(int(t) for t in at), None, epsilon)
    if runs < 5 or texts < 2:
        raise ParameterError(f"runs={runs!r}, texts={texts!r}: at least 5 runs of 2 texts are needed")
    ids = language.encode(prompt) if isinstance(prompt, str) else () if prompt is None else prompt
    start = as_ids(ids, language.vocab_size)
    limit = getattr(language, "context_length", None)
    if limit is not None and len(start) + at[-1] > limit:
        raise ContextTooLong(
            f"prompt and text have {len(start) + at[-1]} tokens, {language.name} has a context of {limit}"
        )
    found = _populations(language, start, adaptor, (runs, texts), at, epsilon, np.random.default_rng(seed))
    rows = []
    for t, (log_count, inside) in zip(at, found, strict=True):
        mean = float(special.logsumexp(log_count) - np.log(runs)) / t
        row = {"model": language.name, "sampler": str(adaptor), "method": "resampled", "tokens": t, "epsilon": epsilon}
        row |= {"texts": runs * texts, "inside": inside, "log_size": mean} | _log_normal(log_count, t, confidence)
        spread = float(np.std(log_count, ddof=1)) if np.isfinite(log_count).all() else np.inf
        rows.append(row | _shares(mean, language.vocab_size) | {"spread": spread})
    return pd.DataFrame(rows)


def _populations(language, start, adaptor, shape, at, epsilon, rng) -> list[tuple[Float[np.ndarray, " runs"], int]]:
    """Per T: log of each run's estimate of |A|, and how many texts are in A."""
    runs, texts = shape
    log_weight, deviation, log_mean = np.zeros(shape), np.zeros(shape), np.zeros(runs)
    found = []
    with getattr(language, "stepping", nullcontext)(runs * texts):
        log_p, state = language.start([start] * (runs * texts))
        for t in range(1, max(at) + 1):
            log_q = adaptor(log_p)
            here = as_numpy(entropy(log_q)).reshape(shape)
            log_weight = log_weight + here
            if kish(log_weight).mean() < texts / 2:
                log_mean += special.logsumexp(log_weight, axis=1) - np.log(texts)
                chosen = np.concatenate(
                    [k * texts + systematic(rng, special.softmax(w), texts) for k, w in enumerate(log_weight)]
                )
                log_weight = np.zeros(shape)
                here, deviation = (x.ravel()[chosen].reshape(shape) for x in (here, deviation))
                log_q, state = log_q[chosen], language.select(state, chosen)
            token = draw(log_q, rng.random(runs * texts))
            deviation = deviation - as_numpy(gather(log_q, token)).reshape(shape) - here
            ids = np.asarray(as_numpy(token))
            if t in at:
                inside = np.abs(deviation) <= t * epsilon
                with np.errstate(divide="ignore"):
                    last = special.logsumexp(log_weight + deviation, axis=1, b=inside) - np.log(texts)
                found.append((log_mean + last, int(inside.sum())))
            if t < max(at):
                log_p, state = language.step(state, ids)
    return found


def _log_normal(log_count: Float[np.ndarray, " runs"], tokens: int, confidence: float) -> dict[str, float | str]:
    """Cox's interval for the mean of log-normal runs, per token; nothing is known if a run is empty."""
    if not np.isfinite(log_count).all():
        return {"low": 0.0, "high": np.inf, "interval": "none"}
    n, variance = len(log_count), float(np.var(log_count, ddof=1))
    centre = float(np.mean(log_count)) + variance / 2
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * np.sqrt(variance / n + variance**2 / (2 * (n - 1)))
    return {"low": float(centre - half) / tokens, "high": float(centre + half) / tokens, "interval": "log-normal"}


def _shares(log_size: float, vocab_size: int) -> dict[str, float]:
    everything = float(np.log(vocab_size))
    return {"log_vocabulary": everything, "share_of_strings": log_size / everything if everything else np.nan}


def _check(at: list[int], longest: int | None, epsilon: float) -> None:
    bad = [t for t in at if t < 1 or (longest is not None and t > longest)]
    if bad or not at:
        limit = "" if longest is None else f" to {longest}, the length of the texts"
        raise ParameterError(f"at={bad or at}: lengths from 1{limit} are needed")
    if not epsilon > 0:
        raise ParameterError(f"epsilon={epsilon!r}: a tolerance above 0 is needed")


def _of_the_sampler(records: Records) -> tuple[np.ndarray, np.ndarray, str]:
    """Surprisals and entropies (texts, T) under the law the texts were drawn from, and its name."""
    meta = records.meta
    sampler = meta.get("sampler") or {}
    adaptor = sampler.get("adaptor", str(ancestral()))
    pair = "source_surprisal" in records.columns
    law = "source" if pair else "scorer"
    of = meta.get("adaptor") if pair else str(ancestral())
    author = sampler.get("fingerprint", meta.get(f"{law}_fingerprint"))
    if (of, meta.get(f"{law}_fingerprint")) != (adaptor, author):
        wrote, scored = f"{sampler.get('language')} with {adaptor}", f"{meta.get(law)} with {of}"
        raise ParameterError(
            f"texts of {wrote}, scored under {scored}: use score(texts, scorer, source=..., adaptor=...) of the sampler"
        )
    names = ("source_surprisal", "source_entropy") if pair else ("surprisal", "entropy")
    return records.matrix(names[0]), records.matrix(names[1]), adaptor
