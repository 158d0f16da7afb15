"""Paths of texts drawn from exact languages, all texts at once; kept, so that several test files share them."""

import functools

import numpy as np

from aep.adaptors import parse
from aep.analysis.typicality import Paths
from aep.information import THETAS
from aep.languages import HiddenMarkov, MarkovChain, Mixture, zipf
from aep.records import theta_column
from aep.reduction import row_columns
from aep.sampling import draw

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
Q = np.array([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])
LANGUAGES = {
    "zipf": zipf(64),
    "markov": MarkovChain(P),
    "hidden markov": HiddenMarkov([[0.9, 0.1], [0.25, 0.75]], [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]]),
    "mixture": Mixture([MarkovChain(P), MarkovChain(Q)], [0.5, 0.5]),
}
TEXTS, TOKENS = 2000, 400


@functools.cache
def sampled(name: str, seed: int, adaptor: str = "ancestral()", texts: int = TEXTS, tokens: int = TOKENS) -> Paths:
    """Texts drawn from a language with an adaptor and scored under the language itself: arrays (texts, tokens)."""
    language, adapt, rng = LANGUAGES[name], parse(adaptor), np.random.default_rng(seed)
    log_p, state = language.start([[]] * texts)
    steps = []
    for _ in range(tokens):
        ids = draw(adapt(log_p), rng.random(texts))
        steps.append(row_columns(log_p, ids))
        log_p, state = language.step(state, ids)
    return of_steps(steps)


def of_steps(steps: list[dict]) -> Paths:
    """Paths from the columns of every position, each (texts,)."""

    def column(name: str) -> np.ndarray:
        return np.stack([step[name] for step in steps], axis=-1)

    return Paths(*map(column, ("surprisal", "entropy", "varentropy")), {t: column(theta_column(t)) for t in THETAS})


def part(paths: Paths, rows, tokens: int | None = None) -> Paths:
    """Some of the texts (an index or a slice), cut after `tokens` positions."""
    cut = [x[rows, :tokens] for x in paths[:3]]
    return Paths(*cut, {theta: x[rows, :tokens] for theta, x in paths.log_partition.items()})


def every_string(language, tokens: int) -> tuple[np.ndarray, Paths]:
    """Probability (strings,) and path (strings, tokens) of every string of that length under `language`."""
    vocab = language.vocab_size
    strings = np.indices((vocab,) * tokens).reshape(tokens, -1)
    log_p, state = language.start([[]] * strings.shape[1])
    steps = []
    for ids in strings:
        steps.append(row_columns(log_p, ids))
        log_p, state = language.step(state, ids)
    paths = of_steps(steps)
    return np.exp(-paths.surprisal.sum(axis=1)), paths
