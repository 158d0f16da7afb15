"""Bytes of a token language: exact enumeration, the beam and its bound, on languages where every cover can be listed."""

from functools import cache

import numpy as np
import pytest

from aep.errors import (
    ContextTooLong,
    DistributionError,
    ModelError,
    ParameterError,
    PromptError,
    VocabularyMismatch,
)
from aep.languages import FiniteLanguage, MarkovChain
from aep.neural.byte_beam import Candidates, keep_best
from aep.neural.byte_trie import ByteTrie, log_segment_sums
from aep.neural.bytelevel import END, ByteLanguage, byte_probability
from byte_oracles import CASES, CHAIN, byte_string_probability, covers, masked, spelled
from oracles import language_next, strings, strings_up_to

A, B = 97, 98
PIECES = CASES["chain, ambiguous"][1]


def letters(s) -> tuple[int, ...]:
    return tuple((A, B, END)[i] for i in s)


def all_strings(case, length: int) -> list[tuple[int, ...]]:
    """All strings of 1 ... length bytes a and b, and each with the end where the language has one."""
    found = [letters(s) for s in strings_up_to(2, length) if s]
    return found + ([(*s, END) for s in found] if CASES[case][0].eos is not None else [])


def oracle(case, texts) -> np.ndarray:
    return np.array([one(case, s) for s in texts])


@cache
def one(case, s: tuple[int, ...]) -> float:
    known = spelled(CASES[case][1], CASES[case][0].eos)
    return byte_string_probability(law(case), known, s)


@cache
def law(case):
    language, pieces = CASES[case]
    return masked(language_next(language), spelled(pieces, language.eos))


@pytest.mark.parametrize("case", CASES)
def test_enumeration_is_the_sum_over_all_token_sequences_for_all_strings_to_length_8(case):
    texts = all_strings(case, 8)
    found = byte_probability(ByteLanguage(*CASES[case], width=None), [np.array(s) for s in texts], batch=2000)
    np.testing.assert_allclose(np.exp(found.log_p), oracle(case, texts), rtol=1e-12, atol=0)
    np.testing.assert_allclose(found.log_conditional, found.log_p, rtol=0, atol=1e-12)
    assert np.isneginf(found.log_lost).all()


@pytest.mark.parametrize("case", CASES)
def test_a_beam_as_wide_as_there_are_histories_is_exact(case):
    texts = all_strings(case, 8)
    exact = byte_probability(ByteLanguage(*CASES[case], width=None), [np.array(s) for s in texts], batch=2000)
    most = max(h.max() for h in exact.histories)
    wide = byte_probability(ByteLanguage(*CASES[case], width=int(most)), [np.array(s) for s in texts], batch=2000)
    np.testing.assert_allclose(wide.log_p, exact.log_p, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_the_kept_mass_is_a_lower_bound_grows_with_the_width_and_what_was_dropped_closes_it(case):
    texts = all_strings(case, 7)
    exact, language = oracle(case, texts), ByteLanguage(*CASES[case])
    means = []
    for width in (1, 2, 3, 4, 6):
        found = byte_probability(language.with_width(width), [np.array(s) for s in texts], batch=2000)
        kept = np.exp(found.log_p)
        assert (kept <= exact * (1 + 1e-12)).all()
        assert (exact <= (kept + np.exp(found.log_lost)) * (1 + 1e-12)).all()
        assert (found.log_conditional >= found.log_p - 1e-12).all()
        assert max(h.max() for h in found.histories) <= width
        means.append(np.mean(kept[exact > 0] / exact[exact > 0]))
    assert np.all(np.diff(means) >= -1e-12)
    assert means[0] < 1 - 1e-3, "a beam of one history that loses nothing tests nothing"


@pytest.mark.parametrize("case", CASES)
def test_what_a_cutoff_does_not_follow_is_dropped_from_the_bound_and_counted(case):
    texts = all_strings(case, 7)
    exact, language = oracle(case, texts), ByteLanguage(*CASES[case])
    for cutoff, loses in ((1e-9, False), (0.1, True), (0.4, True)):
        cut = language.with_width(64, cutoff=cutoff)
        found = byte_probability(cut, [np.array(s) for s in texts], batch=2000)
        kept = np.exp(found.log_p)
        assert (kept <= exact * (1 + 1e-12)).all()
        assert (exact <= (kept + np.exp(found.log_lost)) * (1 + 1e-12)).all()
        assert loses or np.allclose(kept, exact, rtol=1e-6)
        long = [(s, c) for s, c in zip(texts, found.log_conditional, strict=True) if len(s) == 6 and np.isfinite(c)]
        rows = cut.rows([np.empty(0, np.int64)] * len(long), [np.array(s) for s, _ in long])
        a = np.concatenate(list(rows)).reshape(6, len(long), 257)
        steps = [[a[t, i, s[t]] for t in range(6)] for i, (s, _) in enumerate(long)]
        np.testing.assert_allclose(np.sum(steps, axis=1), [c for _, c in long], atol=1e-10)
        np.testing.assert_allclose(np.exp(a).sum(axis=-1), 1, atol=1e-12)


def test_the_covers_of_the_oracle_are_the_histories_that_are_counted():
    texts = [letters(s) for s in strings(2, 6)]
    found = byte_probability(ByteLanguage(CHAIN, PIECES, width=None), [np.array(s) for s in texts])
    known = spelled(PIECES, 5)
    for s, histories in zip(texts, found.histories, strict=True):
        assert histories[-1] == len({c[:-1] for c in covers(known, s)})  # covers that differ in the last token are one


@pytest.mark.parametrize("case", CASES)
def test_next_symbol_laws_are_ratios_of_probabilities_and_sum_to_one(case):
    language, pieces = CASES[case]
    exact = ByteLanguage(language, pieces, width=None)
    symbols = (A, B) if language.eos is None else (A, B, END)
    for length in range(6):
        texts = [letters(s) for s in strings(2, length)]
        log_p, _ = exact.start([np.array(s, dtype=np.int64) for s in texts])
        np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-12)
        p = oracle(case, texts)
        for symbol in symbols:
            joint = oracle(case, [(*s, symbol) for s in texts])
            np.testing.assert_allclose(np.exp(log_p[:, symbol]) * p, joint, rtol=1e-11, atol=1e-300)
        others = np.setdiff1d(np.arange(257), symbols)
        assert np.isneginf(log_p[:, others]).all()


def test_after_the_end_a_text_goes_on_as_the_language_does_after_its_end_token():
    texts = [letters(s) for s in strings(3, 5)]
    known = spelled(PIECES, 5)
    next_p = language_next(CHAIN)
    exact = [byte_string_probability(next_p, known, s) for s in texts]
    found = byte_probability(ByteLanguage(CHAIN, PIECES, width=None), [np.array(s) for s in texts])
    np.testing.assert_allclose(np.exp(found.log_p), exact, rtol=1e-12)


def test_special_tokens_are_left_out_of_every_law_which_raises_every_probability():
    pieces = [b"a", b"b", b"ab", None, b"aa", None]  # 3 is special, 5 the end
    known = spelled(pieces, 5)
    texts = [letters(s) for s in strings_up_to(2, 6) if s]
    found = np.exp(byte_probability(ByteLanguage(CHAIN, pieces, width=None), [np.array(s) for s in texts]).log_p)
    raw = language_next(CHAIN)
    np.testing.assert_allclose(
        found, [byte_string_probability(masked(raw, known), known, s) for s in texts], rtol=1e-12
    )
    assert (found > [byte_string_probability(raw, known, s) for s in texts]).all()


def test_the_probability_of_bytes_is_at_least_that_of_any_one_token_sequence():
    rng = np.random.default_rng(2)
    language, next_p = ByteLanguage(CHAIN, PIECES, width=None), language_next(CHAIN)
    for _ in range(50):
        ids = tuple(int(i) for i in rng.integers(0, 5, size=rng.integers(1, 6)))
        one = np.prod([next_p(ids[:t])[v] for t, v in enumerate(ids)])
        assert np.exp(byte_probability(language, [b"".join(PIECES[i] for i in ids)]).log_p[0]) >= one * (1 - 1e-12)


def test_tiny_masses_keep_their_relative_accuracy():
    p = np.array([1 - 3e-300, 1e-300, 2e-300])
    found = byte_probability(ByteLanguage(FiniteLanguage(p), [b"a", b"bb", b"ba"], width=None), [b"b", b"bb", b"bbbb"])
    np.testing.assert_allclose(found.log_p, [np.log(3e-300), np.log(1e-300), 2 * np.log(1e-300)], rtol=1e-14)
    deep = np.array([-2000.0, -2000.0 + np.log(3), -3.0, -np.inf, -np.inf])
    sums = log_segment_sums(deep, np.array([0, 2, 3]))
    np.testing.assert_allclose(sums, [-2000 + np.log(4), -3, -np.inf], rtol=1e-15)
    first = ByteTrie([b"a", b"ba", b"bb"]).law(np.array([[0.0, -900.0, -901.0]]))[2]
    np.testing.assert_allclose(first[0], [0, -900 + np.log1p(np.exp(-1))], rtol=1e-14)


def test_the_nodes_of_the_trie_are_the_prefixes_of_the_vocabulary():
    pieces = [b"b", b"abc", b"ab", b"ab", b"a\xff", None, b"\x00", b"abd"]
    trie = ByteTrie(pieces, eos=5)
    prefixes = {p[:n] for p in pieces if p for n in range(len(p) + 1)} | {"end"}
    assert len(trie) == len(prefixes)
    for prefix in prefixes - {"end"}:
        node = np.array([0])
        for byte in prefix:
            node, there = trie.child(node, np.array([byte]))
            assert there.all()
        ids = set(trie.tokens[trie.lo[node[0]] : trie.hi[node[0]]].tolist())
        below = {i for i, p in enumerate(pieces) if p is not None and p.startswith(prefix)} | (
            {5} if not prefix else set()
        )
        assert ids == below
        exact = trie.tokens[trie.lo[node[0]] : trie.end[node[0]]].tolist()
        assert exact == [i for i, p in enumerate(pieces) if p == prefix]
        assert not trie.child(node, np.array([ord("z")]))[1].any()


def test_the_last_place_of_a_beam_goes_to_a_history_that_a_token_can_close():
    weight = np.log([0.5, 0.3, 0.1, 0.05, 0.9, 0.1])
    closable = np.array([False, False, False, True, True, False])
    candidates = Candidates(np.array([0, 0, 0, 0, 1, 1]), weight, closable, 2)
    assert keep_best(2)(candidates).index.tolist() == [0, 3, 4, 5]
    assert keep_best(1)(candidates).index.tolist() == [3, 4]
    assert keep_best(4)(candidates).index.tolist() == [0, 1, 2, 3, 4, 5]


def test_with_a_token_for_every_byte_a_beam_of_one_never_comes_to_a_dead_end():
    rng = np.random.default_rng(0)
    p = np.array([0.02, 0.02, 0.9, 0.03, 0.03])  # most of the mass is below the long token, which the text then leaves
    language = ByteLanguage(FiniteLanguage(p), [b"a", b"b", b"aaaaab", b"ab", b"abb"], width=1)
    texts = [bytes(rng.integers(97, 99, size=60).astype(np.uint8)) for _ in range(20)]
    assert np.isfinite(byte_probability(language, texts).log_p).all()


def test_a_language_of_one_token_per_byte_is_itself():
    pieces = [b"b", b"a", b"\xff", b"c", b"\x00", None]
    symbols = [98, 97, 255, 99, 0, END]
    for width in (1, 4, None):
        language = ByteLanguage(CHAIN, pieces, width=width)
        log_p, state = language.start([np.empty(0, np.int64)] * 6)
        own, own_state = CHAIN.start([[]] * 6)
        np.testing.assert_allclose(log_p[:, symbols], own, atol=1e-15)
        for ids in np.random.default_rng(0).integers(0, 6, size=(9, 6)):
            log_p, state = language.step(state, np.array(symbols)[ids])
            own, own_state = CHAIN.step(own_state, ids)
            np.testing.assert_allclose(log_p[:, symbols], own, atol=1e-14)


def test_a_state_cut_down_reordered_and_repeated_is_that_of_the_chosen_texts():
    texts = np.random.default_rng(3).integers(97, 99, size=(5, 9))
    language = ByteLanguage(CHAIN, PIECES, width=3)
    _, state = language.start(list(texts[:, :8]))
    chosen = np.array([4, 0, 0, 2])
    state = language.select(state, chosen)
    found, _ = language.step(state, texts[chosen, 8])
    expected, _ = language.start(list(texts[chosen]))
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_texts_do_not_depend_on_their_batch():
    rng = np.random.default_rng(4)
    texts = [bytes(rng.integers(97, 99, size=n).astype(np.uint8)) for n in (3, 11, 1, 7, 11, 2)]
    language = ByteLanguage(CHAIN, PIECES, width=2)
    together = byte_probability(language, texts)
    for i, text in enumerate(texts):
        alone = byte_probability(language, [text], batch=1)
        np.testing.assert_allclose(alone.log_kept[0], together.log_kept[i], atol=1e-13)
        np.testing.assert_allclose(np.exp(alone.log_dropped[0]), np.exp(together.log_dropped[i]), atol=1e-14)


def test_what_a_user_can_do_wrong_is_said_in_one_line():
    ok = [b"a", b"b", b"ab", b"aab", b"aa", None]
    language = ByteLanguage(CHAIN, ok, width=None, limit=3)
    with pytest.raises(VocabularyMismatch, match="5 pieces for the 6 tokens"):
        ByteLanguage(CHAIN, ok[:5])
    with pytest.raises(ModelError, match="token 1 has no bytes"):
        ByteLanguage(CHAIN, [b"a", b"", *ok[2:]])
    with pytest.raises(ModelError, match="no token of the vocabulary has a byte string"):
        ByteLanguage(CHAIN, [None] * 6)
    with pytest.raises(ParameterError, match="width=0"):
        ByteLanguage(CHAIN, ok, width=0)
    for width, cutoff in ((8, 1.0), (8, -0.1), (None, 0.1)):
        with pytest.raises(ParameterError, match=f"cutoff={cutoff}"):
            ByteLanguage(CHAIN, ok, width=width, cutoff=cutoff)
    with pytest.raises(ParameterError, match="more than limit=3"):
        byte_probability(language, [b"aabaabaab"])
    with pytest.raises(PromptError, match=r"text 1 has at position 2 byte 0x63 \(b'c'\), which no token covers"):
        byte_probability(language, [b"a", b"abc"])
    with pytest.raises(PromptError, match="prompt has at position 0 byte 0xc3"):
        language.start([language.encode("é")])
    with pytest.raises(PromptError, match="has no end token"):
        byte_probability(ByteLanguage(*CASES["no end"]), [b"a"], end=True)
    with pytest.raises(PromptError, match="text 0 is empty"):
        byte_probability(language, [np.empty(0, np.int64)])
    with pytest.raises(PromptError, match="the text is empty"):
        language.encode("")
    with pytest.raises(PromptError, match="not Unicode"):
        language.encode("\ud800")
    with pytest.raises(PromptError, match="give a list"):
        byte_probability(language, "ab")
    with pytest.raises(PromptError, match="group them by length"):
        language.start([language.encode("a"), language.encode("ab")])


def test_bytes_of_probability_zero_are_minus_infinity_as_a_text_and_refused_as_a_prefix():
    never = ByteLanguage(FiniteLanguage([0.5, 0.5]), [b"ab", b"b"], width=None)
    assert np.isneginf(byte_probability(never, [b"aa", b"ab"]).log_p).tolist() == [True, False]
    with pytest.raises(DistributionError, match="text 0 of the batch has probability 0"):
        never.start([never.encode("aa")])
    only_special = ByteLanguage(MarkovChain([[0.0, 1.0], [0.0, 1.0]], [0.5, 0.5]), [b"a", None])
    with pytest.raises(DistributionError, match="no probability to any token with bytes"):
        only_special.start([only_special.encode("a")])


def test_a_tokenisation_longer_than_the_context_is_refused():
    short = MarkovChain(CHAIN.transition, CHAIN.initial, eos=5)
    short.context_length = 6
    byte_probability(ByteLanguage(short, PIECES, width=None), [b"bbbbb"], end=True)
    with pytest.raises(ContextTooLong, match="6 tokens, .* has a context of 6"):
        byte_probability(ByteLanguage(short, PIECES, width=None), [b"bbbbbb"], end=True)


def test_the_fingerprint_covers_language_width_and_pieces():
    base = ByteLanguage(CHAIN, PIECES)
    others = [
        base.with_width(4),
        base.with_width(8, cutoff=0.1),
        base.with_width(None),
        ByteLanguage(CHAIN, [b"b", b"a", *PIECES[2:]]),
        ByteLanguage(MarkovChain(CHAIN.transition[::-1], eos=5), PIECES),
        ByteLanguage(CHAIN, PIECES, before=[1]),
    ]
    assert len({x.fingerprint for x in (base, *others)}) == 7
    assert base.with_width(4).fingerprint == ByteLanguage(CHAIN, PIECES, width=4).fingerprint
    assert base.encode("aé").tolist() == [97, 0xC3, 0xA9] and base.decode([97, 0xC3, END]) == "a\ufffd"
