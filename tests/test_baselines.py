"""Kneser-Ney n-grams against a literal implementation, a worked example, and the committed table."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from aep import outputs
from aep.errors import ParameterError
from aep.neural.loading import card, embedded
from aep.neural.training.baselines import KneserNey, compressed_bits_per_byte, n_gram_losses
from aep.neural.training.samples import Library

RESULTS = outputs.repository() / "data" / "results"


def literal(texts, order, vocab_size):
    """P(token | context) by dictionaries, straight from Chen & Goodman 1999, section 4.2."""
    counts = [Counter() for _ in range(order + 1)]
    for text in texts:
        padded = [0] * (order - 1) + list(text)
        for i in range(order - 1, len(padded)):
            counts[order][tuple(padded[i - order + 1 : i + 1])] += 1
    for n in range(order - 1, 0, -1):
        for gram in counts[n + 1]:
            counts[n][gram[1:]] += 1

    def discount(n, c):
        of = Counter(counts[n].values())
        if min(of[k] for k in (1, 2, 3, 4)) == 0:
            return 0.5 if c else 0.0
        y = of[1] / (of[1] + 2 * of[2])
        d = {0: 0.0, 1: 1 - 2 * y * of[2] / of[1], 2: 2 - 3 * y * of[3] / of[2], 3: 3 - 4 * y * of[4] / of[3]}
        return min(max(d[min(c, 3)], 0.0), float(min(c, 3)))

    def p(token, context):
        n = len(context) + 1
        lower = 1 / vocab_size if n == 1 else p(token, context[1:])
        seen = {g: c for g, c in counts[n].items() if g[:-1] == tuple(context)}
        if not seen:
            return lower
        total = sum(seen.values())
        c = counts[n][(*context, token)]
        back = sum(discount(n, c) for c in seen.values()) / total
        return max(c - discount(n, c), 0) / total + back * lower

    return p


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [rng.choice(6, size=60, p=[0.05, 0.4, 0.25, 0.15, 0.1, 0.05]) for _ in range(8)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_equals_the_literal_formula_for_seen_and_unseen_contexts(texts, order):
    model, p = KneserNey(texts, order=order, vocab_size=7), literal(texts, order, 7)
    rng = np.random.default_rng(1)
    contexts, tokens = rng.integers(0, 7, (200, order - 1)), rng.integers(0, 7, 200)
    expected = [p(int(t), tuple(map(int, c))) for c, t in zip(contexts, tokens, strict=True)]
    assert np.allclose(np.exp(model.log_p(contexts, tokens)), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_probabilities_of_every_context_sum_to_one(texts, order):
    model = KneserNey(texts, order=order, vocab_size=7)
    for context in np.random.default_rng(2).integers(0, 7, (30, order - 1)):
        p = np.exp(model.log_p(np.tile(context, (7, 1)), np.arange(7)))
        assert np.isclose(p.sum(), 1, atol=1e-12) and (p > 0).all()


def test_a_worked_example():
    # "1 2 1 3" after one start token: bigrams 01, 12, 21, 13, each once; four tokens, all discounts .5 (no counts of 2).
    model = KneserNey([np.array([1, 2, 1, 3])], order=2, vocab_size=4)
    # Continuations: 1 follows {0, 2}, 2 and 3 follow {1}: P(1) = (2 - .5)/4 + (3·.5/4)/4 = .46875, P(2) = .21875.
    # After 1 came 2 and 3 once each: P(2|1) = (1 - .5)/2 + (2·.5/2)·.21875.
    assert np.isclose(np.exp(model.log_p(np.array([[1]]), np.array([2])))[0], 0.25 + 0.5 * 0.21875)
    # After 3 came nothing: the continuation law itself.
    assert np.isclose(np.exp(model.log_p(np.array([[3]]), np.array([1])))[0], 0.46875)


def test_losses_are_the_summed_surprisals_of_each_document(texts):
    model = KneserNey(texts, order=3, vocab_size=7)
    document = texts[0][:5]
    padded = np.concatenate([[0, 0], document])
    by_hand = -sum(model.log_p(padded[None, i : i + 2], padded[None, i + 2])[0] for i in range(5))
    assert np.isclose(model.losses([document, document[:0]])[0], by_hand)
    assert model.losses([document[:0]])[0] == 0


def test_an_order_whose_codes_would_overflow_is_refused():
    with pytest.raises(ParameterError, match="order=9"):
        KneserNey([np.array([1])], order=9, vocab_size=2048)


def test_a_text_that_repeats_compresses_to_nothing():
    assert compressed_bits_per_byte(["a" * 100_000], __import__("bz2").compress) < 0.01


def test_n_grams_of_higher_order_predict_text_of_their_own_kind_better():
    rng = np.random.default_rng(0)
    walk = [np.cumsum(rng.integers(1, 3, size=400)) % 12 for _ in range(40)]
    found = n_gram_losses(walk[:30], walk[30:], 12)
    assert found["unigram"].sum() > 2 * found["bigram"].sum()
    assert found["trigram"].sum() == pytest.approx(found["bigram"].sum(), rel=0.02)  # a first-order chain


def test_the_committed_losses_are_those_of_the_cards_and_order_the_n_grams():
    """The paired table and the cards are two measurements of the same documents by the same convention."""
    table = pd.read_csv(RESULTS / "A1_losses.csv")
    sums = table.drop(columns=["document", "cluster"]).sum()
    assert sums["unigram"] > sums["bigram"] > sums["trigram"]
    assert set(table.columns) >= {name for name in embedded() if name.startswith("docs-")}
    for name in embedded():
        if name.startswith("docs-"):
            facts = card(name)
            assert len(table) == facts["held_out"]["documents"] and table.bytes.sum() == facts["held_out"]["bytes"]
            assert sums[name] / sums.bytes == pytest.approx(facts["held_out"]["nats_per_byte"]["value"], abs=1e-4)


def test_copied_grams_are_told_from_new_ones_and_from_those_of_several_documents():
    words = [f"w{i}" for i in range(40)]
    library = Library([" ".join(words[:30]), " ".join(words[10:24])])
    found = library.count(" ".join(words[5:35]))
    assert found == {"words": 30, "known": 25, "grams": 18, "copied": 13, "several": 2}
    inside = library.count(" ".join(words[10:24]), own=1)  # a document of the library is not compared with itself
    assert inside == {"words": 14, "known": 14, "grams": 2, "copied": 2, "several": 0}
    split = library.count(" ".join(words[:12]) + " <|text|> " + " ".join(words[12:24]))
    assert split == {
        "words": 24,
        "known": 24,
        "grams": 0,
        "copied": 0,
        "several": 0,
    }  # none across the end of a document


def test_the_largest_model_writes_words_and_does_not_copy():
    table = pd.read_csv(RESULTS / "A1_copying.csv")
    own = table[(table.model == "docs-3m") & (table.temperature == 1.0)]
    assert len(own) >= 100 and own.known.sum() / own.words.sum() >= 0.86
    others = table[table.model == "training documents"]
    share = [part.copied.sum() / part.grams.sum() for part in (own, others)]
    assert share[0] < share[1] / 4
