"""`Language.select`: a state cut down, reordered and repeated is the state of the prefixes that were named."""

import numpy as np
import pytest

import aep
from aep.languages import FiniteLanguage, HiddenMarkov, InfiniteEntropy, MarkovChain, Mixture
from tiny_models import CONFIGS, VOCAB, save_model

CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.15, 0.8]])
OTHER = MarkovChain([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2], [0.3, 0.3, 0.4]])
HIDDEN = HiddenMarkov([[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
EXACT = [FiniteLanguage([0.5, 0.3, 0.2]), CHAIN, HIDDEN, Mixture([CHAIN, OTHER], [0.4, 0.6]), InfiniteEntropy()]
CHOSEN = np.array([3, 0, 0, 5, 1, 3, 2])  # reordered, repeated, one left out, more than there were


def check(language, symbols: int, steps: int) -> None:
    ids = np.random.default_rng(5).integers(0, symbols, size=(6, steps))
    _, state = language.start(list(ids[:, :1]))
    for column in ids.T[1:-1]:
        _, state = language.step(state, column)
    state = language.select(state, CHOSEN)
    found, state = language.step(state, ids[CHOSEN, -1])
    expected, _ = language.start(list(ids[CHOSEN]))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    further = np.arange(len(CHOSEN)) % symbols
    found, _ = language.step(language.select(state, np.arange(len(CHOSEN))[::-1]), further)
    expected, _ = language.start([np.append(ids[c], f) for c, f in zip(CHOSEN[::-1], further, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("language", EXACT, ids=lambda x: type(x).__name__)
def test_the_state_of_an_exact_language_is_that_of_the_chosen_prefixes(language):
    check(language, 1 if isinstance(language, InfiniteEntropy) else language.vocab_size, 9)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("steps", [3, 20, 70])  # before and after a window of 5 is full, and past the room of a cache
def test_the_cache_of_a_network_is_that_of_the_chosen_prefixes(kind, steps, tmp_path):
    check(aep.load(str(save_model(tmp_path / kind, kind))), VOCAB, steps)
