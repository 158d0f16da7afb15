"""A token language as bytes in the rest of the library: sampled, scored, paired across vocabularies, attributed."""

import numpy as np
import pytest

import aep
from aep.analysis.attribution import choices
from aep.analysis.candidates import evidence
from aep.analysis.pairs import pair_records
from aep.analysis.typicality import calibration, z_test
from aep.languages import Language, MarkovChain
from aep.neural.bytelevel import END, ByteLanguage, byte_probability
from byte_oracles import CASES, CHAIN, OTHER
from test_bytelevel import A, B, all_strings, oracle
from tiny_models import one_thread, tiny  # noqa: F401

PIECES = CASES["chain, ambiguous"][1]
SIX = ByteLanguage(CHAIN, PIECES, width=None)
FOUR = ByteLanguage(OTHER, [b"a", b"b", b"bab", None], width=None)
NETWORK_PIECES = [None, None, None, *(b"a b c ab bc ca aa bb cc abc bca cab aab abb bbc bcc cca caa abca bcab".split())]


def test_it_is_a_language():
    assert isinstance(SIX, Language) and (SIX.vocab_size, SIX.eos) == (257, END)
    assert SIX.name == "markov(6)/bytes" and SIX.with_width(8).name == "markov(6)/bytes[8]"
    assert SIX.vocabulary_hash == FOUR.vocabulary_hash and SIX.fingerprint != FOUR.fingerprint


def test_sampled_bytes_follow_the_exact_law():
    texts = aep.sample(SIX, texts=4000, tokens=3, seed=11, batch=1000)
    strings = [s for s in all_strings("chain, ambiguous", 3) if len(s) == 3 and END not in s]
    p = oracle("chain, ambiguous", strings)
    counts = np.array([sum(tuple(ids) == s for ids in texts.ids) for s in strings])
    z = (counts - 4000 * p) / np.sqrt(4000 * p * (1 - p))
    assert np.abs(z).max() < 4.2  # one of eight beyond it with a chance of 2e-4
    assert {int(i) for ids in texts.ids for i in ids} == {A, B, END}


def test_scores_are_the_log_probability_of_the_bytes_and_recorded_while_sampling():
    texts = aep.sample(SIX, texts=30, tokens=12, seed=2, record=True)
    records = aep.score(texts, SIX).to_pandas()
    fresh = aep.score(list(texts.ids), SIX).to_pandas()
    np.testing.assert_allclose(records.surprisal, fresh.surprisal, atol=1e-12)
    np.testing.assert_allclose(records.entropy, fresh.entropy, atol=1e-12)
    total = fresh.groupby("text").surprisal.sum().to_numpy()
    np.testing.assert_allclose(-total, byte_probability(SIX, texts.ids).log_p, atol=1e-11)


def test_strings_with_prompts_are_scored_given_the_bytes_of_the_prompt():
    texts = aep.sample(SIX, ["ab", "bba"], texts=5, tokens=6, seed=3)
    records = aep.score(texts, SIX).to_pandas().groupby("text").surprisal.sum()
    prompts = [texts.prompts[p] for p in texts.prompt]
    joint = byte_probability(SIX, [np.concatenate(x) for x in zip(prompts, texts.ids, strict=True)]).log_p
    np.testing.assert_allclose(-records, joint - byte_probability(SIX, prompts).log_p, atol=1e-11)
    as_string = aep.score("abba", SIX).to_pandas()
    assert as_string.token.tolist() == [A, B, B, A]


def test_the_asymptotic_equipartition_of_bytes_is_calibrated():
    """A beam's normalised law is a language of its own: texts drawn from it are typical of it, at any width."""
    texts = aep.sample(SIX.with_width(4), texts=1000, tokens=60, seed=4, record=True, batch=1000)
    columns = (texts.records.columns[name].reshape(1000, 60) for name in ("surprisal", "entropy", "varentropy"))
    assert calibration(z_test(*columns).z).is_calibrated


@pytest.fixture(scope="module")
def pairs():
    return pair_records(
        {"six": SIX.with_width(16), "four": FOUR.with_width(16)}, texts=40, tokens=100, seed=5, batch=40
    )


def test_languages_of_different_tokens_are_compared_per_byte(pairs):
    for wrote in ("six", "four"):
        other = {"six": "four", "four": "six"}[wrote]
        own, cross = pairs[wrote, "ancestral", wrote].columns, pairs[wrote, "ancestral", other].columns
        np.testing.assert_allclose(own["cross_entropy"], own["entropy"], atol=1e-10)
        assert (cross["cross_entropy"] >= cross["source_entropy"] - 1e-10).all()
        np.testing.assert_allclose(cross["source_entropy"], own["entropy"], atol=1e-10)
        assert cross["cross_entropy"].mean() > own["entropy"].mean() + 0.01
        deviation = (cross["surprisal"] - cross["cross_entropy"]).reshape(40, 100).sum(axis=1)
        sigma = np.sqrt(cross["cross_varentropy"].reshape(40, 100).sum(axis=1))
        assert abs((deviation / sigma).mean()) < 4 / np.sqrt(40)


def test_an_author_is_found_across_vocabularies(pairs):
    for wrote in ("six", "four"):
        found = choices(evidence(pairs.by_scorer(wrote)), [100], rules=["maximum likelihood", "e-process"])
        right = found[found.choice == wrote].groupby("rule").size()
        assert right["maximum likelihood"] >= 38 and right["e-process"] >= 30


def test_networks_of_different_tokens_are_compared_per_byte(tiny):  # noqa: F811
    swapped = [*NETWORK_PIECES[:3], *NETWORK_PIECES[:2:-1]]
    languages = {
        "wide": ByteLanguage(tiny("mistral"), NETWORK_PIECES, width=4),
        "other": ByteLanguage(tiny("gpt2"), swapped, width=4, cutoff=1e-4),
    }
    pairs = pair_records(languages, texts=3, tokens=20, seed=6)
    for (source, _, scorer), records in pairs.items():
        columns = records.columns
        assert np.isfinite(columns["surprisal"]).all()
        if source == scorer:
            np.testing.assert_allclose(columns["cross_entropy"], columns["entropy"], atol=1e-9)
        again = aep.score(pairs.texts[source, "ancestral"], languages[scorer], source=languages[source]).columns
        np.testing.assert_allclose(again["surprisal"], columns["surprisal"], atol=1e-9)
        np.testing.assert_allclose(again["cross_entropy"], columns["cross_entropy"], atol=1e-9)


def test_a_text_ends_with_the_end_symbol():
    texts = aep.sample(SIX.with_width(16), texts=50, tokens=30, seed=8, stop="eos")
    ended = [ids for ids, finished in zip(texts.ids, texts.finished, strict=True) if finished]
    assert len(ended) > 30 and all(ids[-1] == END and END not in ids[:-1] for ids in ended)
    ended = [ids for ids in ended if 1 < len(ids) < 12]
    found = byte_probability(SIX, [ids[:-1] for ids in ended], end=True).log_p
    np.testing.assert_allclose(found, byte_probability(SIX, ended).log_p, atol=1e-12)


def test_letters_alone_are_their_own_bytes():
    chain = MarkovChain([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.15, 0.8]])
    bytes_of = ByteLanguage(chain, [b"x", b"y", b"z"])
    texts = [np.random.default_rng(i).integers(0, 3, size=40) for i in range(3)]
    own = aep.score(texts, chain).columns
    found = aep.score([t + ord("x") for t in texts], bytes_of).columns
    for name in ("surprisal", "entropy", "varentropy", "mass_above", "log_partition_0_5"):
        np.testing.assert_allclose(found[name], own[name], atol=1e-12)
