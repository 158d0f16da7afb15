"""Probabilistic context-free grammars against brute force over all derivations, and the errors of their text format."""

import math
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import aep
import grammar_oracles as brute
from aep.errors import DistributionError, ParameterError, PromptError
from aep.languages import Grammar, Language
from aep.languages.grammar_chart import Chart
from aep.languages.grammar_counts import string_counts
from aep.languages.protocol import check_count

#: every trouble a grammar can have: two derivations, left recursion, cycles of one symbol, empty rules
GRAMMARS: dict[str, brute.Rules] = {
    "regular": {"S": [(("a", "S"), 0.25), (("b",), 0.75)]},
    "palindromes": {"S": [(("a", "S", "a"), 0.3), (("b", "S", "b"), 0.2), (("c",), 0.5)]},
    "ambiguous": {"S": [(("S", "S"), 0.3), (("a",), 0.5), (("b",), 0.2)]},
    "left-recursive": {"S": [(("S", "a"), 0.4), (("T", "b"), 0.6)], "T": [(("S", "c"), 0.2), (("a",), 0.8)]},
    "cycle": {
        "S": [(("T",), 0.5), (("a", "S"), 0.2), (("b",), 0.3)],
        "T": [(("S",), 0.4), (("c", "T"), 0.1), (("a",), 0.5)],
    },
    "empty": {
        "S": [(("E", "a", "E", "F"), 0.7), ((), 0.3)],
        "E": [((), 0.5), (("b", "E"), 0.2), (("F",), 0.3)],
        "F": [((), 0.6), (("c",), 0.4)],
    },
    "empty and left-recursive": {
        "S": [(("E", "S", "a"), 0.3), (("E", "b"), 0.5), (("N", "S", "N"), 0.2)],
        "E": [((), 0.5), (("E", "E"), 0.2), (("a",), 0.3)],
        "N": [((), 1.0)],
    },
}
COUNTABLE = ["regular", "palindromes", "ambiguous", "left-recursive", "empty"]
LONGEST = 7


@pytest.fixture(scope="module", params=GRAMMARS)
def case(request):
    rules = GRAMMARS[request.param]
    return request.param, Grammar(brute.written(rules), name=request.param), brute.distribution(rules, LONGEST)


def ids_of(language, words):
    return np.append(language.encode(" ".join(words)), 0)


def test_string_probabilities_are_those_of_all_derivations_enumerated(case):
    _, language, strings = case
    for words, p in strings.items():
        assert math.isclose(math.exp(language.log_probability(ids_of(language, words))), p, rel_tol=1e-11)
    assert language.log_probability([1] * 3 + [0]) == -math.inf or tuple([language.symbols[1]] * 3) in strings


def test_prefix_probabilities_lie_between_the_enumerated_mass_and_that_plus_the_tail(case):
    _, language, strings = case
    tail = 1 - sum(strings.values())
    for words in strings:
        for k in range(len(words)):
            found = math.exp(language.log_probability(language.encode(" ".join(words[:k]))))
            low = brute.prefix_mass(strings, words[:k])
            assert low - 1e-12 <= found <= low + tail + 1e-12


def test_next_token_laws_sum_to_one_and_forbid_what_no_string_has(case):
    _, language, strings = case
    prefixes = {words[:k] for words in strings for k in range(len(words) + 1)}
    for prefix in prefixes:
        law = np.exp(language.start([language.encode(" ".join(prefix))])[0][0])
        assert abs(law.sum() - 1) <= 1e-12
        if len(prefix) < LONGEST:
            seen = {words[len(prefix)] for words in strings if words[: len(prefix)] == prefix and words != prefix}
            assert seen <= {language.symbols[i] for i in np.flatnonzero(law)}
        assert (law[0] > 0) == (prefix in strings)


def test_expectations_agree_with_enumeration_up_to_the_tail(case):
    name, language, strings = case
    long = brute.distribution(GRAMMARS[name], 12) if name in ("regular", "cycle") else strings
    longest = 12 if long is not strings else LONGEST
    law = language.length_law(longest + 1)
    for n in range(longest + 1):
        direct = sum(p for words, p in long.items() if len(words) == n)
        assert math.isclose(law[n + 1], direct, rel_tol=1e-11, abs_tol=1e-15)
    whole = language.length_law(400)
    assert math.isclose(whole.sum(), 1, abs_tol=1e-9)
    assert math.isclose(whole @ np.arange(401), language.expected_length(), rel_tol=1e-6)


@pytest.mark.parametrize("name", COUNTABLE)
def test_counts_of_derivations_and_strings_are_those_enumerated(name):
    language, found = Grammar(brute.written(GRAMMARS[name])), brute.derivations(GRAMMARS[name], LONGEST)
    by_length = [[k for words, k in found.items() if len(words) == n] for n in range(LONGEST + 1)]
    assert language.derivation_counts(LONGEST) == [sum(ks) for ks in by_length]
    assert language.string_counts(LONGEST) == [len(ks) for ks in by_length]
    assert language.is_unambiguous(LONGEST) is all(k == 1 for k in found.values())
    for words, k in found.items():
        assert language.derivations.of_string(ids_of(language, words)[:-1]) == k


@pytest.mark.parametrize("name", ["cycle", "empty and left-recursive"])
def test_infinitely_many_derivations_are_refused_while_strings_are_counted(name):
    language, strings = Grammar(brute.written(GRAMMARS[name])), brute.distribution(GRAMMARS[name], 5)
    with pytest.raises(DistributionError, match="infinitely many derivations: S"):
        language.derivation_counts(5)
    with pytest.raises(DistributionError, match="infinitely many derivations: S"):
        language.is_unambiguous(5)
    assert language.string_counts(5) == [sum(len(words) == n for words in strings) for n in range(6)]


@pytest.mark.parametrize("name", ["regular", "palindromes", "left-recursive"])
def test_what_has_no_conflict_has_one_derivation_and_string_entropies_by_enumeration(name):
    rules = GRAMMARS[name]
    language, strings = Grammar(brute.written(rules)), brute.distribution(rules, 24 if name == "regular" else 13)
    assert language.conflicts() == []
    assert language.string_counts(9) == string_counts(language.chart, 9)
    tail = 1 - sum(strings.values())
    # what the tail holds: -p log p of strings of more words, about (T log 4) nats each
    assert 0 <= language.entropy() - brute.entropy_of(strings) <= 60 * tail + 1e-9
    for theta in (0.9, 2.0):
        direct = math.log(sum(p**theta for p in strings.values()))
        assert direct <= language.log_partition(theta) + 1e-12
    assert math.isclose(direct, language.log_partition(2.0), abs_tol=1e-3)
    assert math.isclose(language.log_partition(1.0), 0, abs_tol=1e-12)


def test_entropy_and_varentropy_of_a_geometric_language_are_in_closed_form():
    language = Grammar('S -> "a" S [1/4] | "b" [3/4]')
    h = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 0.75  # of the geometric law
    assert math.isclose(language.entropy(), h, rel_tol=1e-12)
    # surprisal = N log 4 - log(3/4) with N geometric: Var N = q / p^2
    assert math.isclose(language.varentropy(), math.log(4) ** 2 * 0.25 / 0.75**2, rel_tol=1e-12)
    assert math.isclose(language.entropy_rate(), h / (1 / 3 + 2), rel_tol=1e-12)
    assert language.log_partition(1e-9) > 15  # close to the infinite number of strings
    assert Grammar('S -> "a" S [1/2] | "a" "b" S [1/4] | "c" [1/4]').log_partition(0.4) == math.inf


def test_derivatives_of_the_log_partition_are_entropy_and_varentropy(case):
    name, language, _ = case
    if name not in ("palindromes", "left-recursive"):
        pytest.skip("ambiguous")
    up, at, down = (language.log_partition(theta) for theta in (1.001, 1.0, 0.999))
    assert math.isclose((down - up) / 0.002, language.entropy(), rel_tol=1e-4)
    assert math.isclose((down - 2 * at + up) / 0.001**2, language.varentropy(), rel_tol=1e-3)


def test_the_entropy_by_position_sums_to_the_entropy_and_is_that_of_enumerated_prefixes():
    language = Grammar.load("palindromes")
    split = language.entropy_by_position(10)
    assert 0 < language.entropy() - split.entropy.sum() < 3 * split.alive[-1]  # each tail is a palindrome's inner half
    np.testing.assert_allclose(split.alive, 1 - np.cumsum(language.length_law(9)), atol=1e-12)
    pruned = language.entropy_by_position(10, least=5e-3)
    assert np.all(np.abs(pruned.entropy - split.entropy) <= pruned.left_out * math.log(4) + 1e-12)
    assert 0 < pruned.left_out[-1] < 0.1


def test_the_entropy_by_position_of_an_ambiguous_grammar_is_below_that_of_its_derivations():
    language = Grammar(brute.written({"S": [(("S", "S"), 0.1), (("a",), 0.5), (("b",), 0.4)]}))
    strings = brute.distribution({"S": [(("S", "S"), 0.1), (("a",), 0.5), (("b",), 0.4)]}, 9)
    found = language.entropy_by_position(9).entropy.sum()
    assert math.isclose(found, brute.entropy_of(strings), abs_tol=1e-3)
    assert found < language.derivation_entropy()
    with pytest.raises(DistributionError, match="ambiguous at 3 words.*upper bound"):
        language.entropy()


def test_palindromes_without_a_centre_are_unambiguous_though_no_parser_without_choices_reads_them():
    language = Grammar('S -> "a" S "a" [.3] | "b" S "b" [.3] | [.4]')
    assert language.conflicts() != []
    assert language.is_unambiguous(10)
    with pytest.raises(DistributionError, match="not proved to be unambiguous"):
        language.entropy()
    assert math.isclose(language.entropy(checked_to=8), language.derivation_entropy())


@given(weights=st.lists(st.floats(0.05, 0.9), min_size=5, max_size=5))
@settings(max_examples=12, deadline=None)
def test_any_weights_of_an_ambiguous_grammar_agree_with_enumeration(weights):
    a, b, c, d, e = weights
    rules = {
        "S": [(("S", "T"), 0.4 * a / (a + b)), (("T",), 0.4 * b / (a + b)), (("c",), 0.6)],
        "T": [(("S",), 0.5 * c / (c + d)), (("d", "S"), 0.5 * d / (c + d)), ((), 0.5 * e), (("e",), 1 - 0.5 - 0.5 * e)],
    }
    rules["T"] = [r for r in rules["T"] if r[1] > 0]
    rules["S"][2] = (("c",), 1 - rules["S"][0][1] - rules["S"][1][1])
    rules["T"][-1] = (rules["T"][-1][0], 1 - sum(p for _, p in rules["T"][:-1]))
    language = Grammar(brute.written({s: [r for r in found if r[1] > 1e-9] for s, found in rules.items()}))
    for words, p in brute.distribution(rules, 4).items():
        assert math.isclose(math.exp(language.log_probability(ids_of(language, words))), p, rel_tol=1e-9, abs_tol=1e-15)


SIDES = st.lists(st.sampled_from(["S", "A", "a", "b"]), max_size=3).map(tuple)


@given(st.lists(SIDES, min_size=1, max_size=4, unique=True), st.lists(SIDES, min_size=1, max_size=4, unique=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_any_grammar_agrees_with_enumeration_and_without_conflict_has_one_derivation(s, a):
    rules = {"S": [(right, 1 / len(s)) for right in s], "A": [(right, 1 / len(a)) for right in a]}
    shown = [(x, [(right, p * (0.5 if x in right else 1)) for right, p in found]) for x, found in rules.items()]
    rules = {x: [*found, (("c",), 1 - sum(p for _, p in found))] for x, found in shown if x in str(s) + "S"}
    rules = {x: [r for r in found if r[1] > 1e-9] for x, found in rules.items()}
    try:
        language = Grammar(brute.written(rules))
    except (ParameterError, DistributionError):  # says nothing, or may never end
        assume(False)
    assume(language.spectral_radius() < 0.9)
    for words, p in brute.distribution(rules, 4).items():
        assert math.isclose(math.exp(language.log_probability(ids_of(language, words))), p, rel_tol=1e-9, abs_tol=1e-13)
    assert language.conflicts() or language.is_unambiguous(6)


def test_a_conflict_behind_a_symbol_that_may_be_empty_is_seen():
    language = Grammar('S -> L | L "a"\nL -> X E\nX -> "x" | "x a"\nE -> | "b"')
    assert 'before "a": X -> "x" or another word' in language.conflicts()
    assert not language.is_unambiguous(2)
    assert language.derivations.of_string(language.encode("x a")) == 2


def test_recursion_at_either_end_costs_nothing():
    for text in ('S -> "a" S [.5] | "b" [.5]', 'S -> S "a" [.5] | "b" [.5]', 'S -> "a" T [.5] | "b" [.5]\nT -> S'):
        language = Grammar(text)
        first = language.encode("a" if text.startswith('S -> "a"') else "b")
        _, state = language.start([first])
        state = language.step(state, language.encode("a"))[1]
        assert language.step(state, language.encode("a"))[1][0] is state[0]  # the same column: nothing piles up


# ------------------------------------------------------------------------------------------------- as a language


def test_a_grammar_is_a_language_and_reads_its_own_writing(case):
    _, language, _ = case
    assert isinstance(language, Language)
    text = list(range(language.vocab_size))
    np.testing.assert_array_equal(language.encode(language.decode(text)), text)


def test_stepping_is_the_same_as_a_prompt_and_a_new_string_begins_after_the_end(case):
    _, language, _ = case
    texts = [language.sample_strings(np.random.default_rng(seed), 1)[0] for seed in range(6)]
    texts = [np.concatenate([t] * 9)[:9] for t in texts]
    log_p, state = language.start([[]] * 6)
    old = state.copy()
    for t in range(9):
        assert (language.start([text[:t] for text in texts])[0] == log_p).all()
        log_p, state = language.step(state, np.array([text[t] for text in texts]))
    again, _ = language.step(old, np.array([t[0] for t in texts]))  # a state is never consumed
    np.testing.assert_array_equal(again, language.start([t[:1] for t in texts])[0])
    end = language.step(language.start([texts[0][: list(texts[0]).index(0)]])[1], np.array([0]))[0]
    np.testing.assert_array_equal(end, language.start([[]])[0])


def test_columns_that_are_forgotten_change_no_number(case):
    _, language, strings = case
    small = Chart(language.rules, most=2)
    for words in list(strings)[:40]:
        column, other = language.chart.first, small.first
        for token in ids_of(language, words).tolist():
            np.testing.assert_array_equal(language.chart.log_p(column), small.log_p(other))
            column, other = language.chart.step(column, token), small.step(other, token)


def test_a_hypothesis_of_tiny_probability_is_not_lost_to_underflow():
    language = Grammar(
        'S -> A "x" [.5] | B "y" [.5]\nA -> "a" A [.9] | "b" A [.05] | [.05]\nB -> "a" B [.01] | "b" B [.9] | [.09]'
    )
    a = np.full(200, language.encode("a")[0])
    text = [*a, language.encode("y")[0], 0]
    assert math.isclose(language.log_probability(text), math.log(0.5 * 0.09) + 200 * math.log(0.01), rel_tol=1e-9)
    log_p, _ = language.start([a])
    assert -950 < log_p[0, language.encode("y")[0]] < -850  # exp of it is zero in double precision


def test_impossible_prefixes_give_nan_rows_that_scoring_refuses():
    language = Grammar.load("palindromes")
    log_p, state = language.start([language.encode("c b")])
    assert np.isnan(log_p).all()
    assert np.isnan(language.step(state, np.array([1]))[0]).all()
    texts = aep.sample(language, texts=3, tokens=30, seed=0, stop="eos")
    broken = [np.append(texts.ids[0], language.encode("c b c"))]
    with pytest.raises(ValueError, match="sums to nan"):
        aep.score(broken, language)


def test_sampling_through_the_laws_and_through_the_rules_is_the_same_law():
    language = Grammar.load("cats")
    drawn = aep.sample(language, texts=1000, tokens=40, seed=7, stop="eos", batch=1000)
    expanded = language.sample_strings(np.random.default_rng(8), 1000)
    seen = [{}, {}]
    for counts, found in zip(seen, (drawn.ids, expanded), strict=True):
        for ids in found:
            counts[tuple(ids.tolist())] = counts.get(tuple(ids.tolist()), 0) + 1
    common = [x for x in seen[1] if math.exp(language.log_probability(list(x))) * 1000 > 5]
    p = np.exp([language.log_probability(list(x)) for x in common])
    for counts in seen:
        observed = np.array([counts.get(x, 0) for x in common])
        chi2 = ((observed - 1000 * p) ** 2 / (1000 * p)).sum() + (observed.sum() - 1000 * p.sum()) ** 2 / (
            1000 * (1 - p.sum())
        )
        assert chi2 < 2 * len(common)  # a chi-square of len(common) degrees of freedom, far in its tail
        assert len(common) > 12


def test_equal_rules_have_equal_fingerprints_and_other_probabilities_another():
    one, other = Grammar('S -> "a" [.5] | "b" [.5]', name="x"), Grammar('S -> "a" | "b"', name="y")
    assert one.fingerprint == other.fingerprint
    assert Grammar('S -> "a" [.4] | "b" [.6]').fingerprint != one.fingerprint
    assert Grammar('S -> "a" [.5] | "c" [.5]').fingerprint != one.fingerprint


# -------------------------------------------------------------------------------------------------------- format


def test_comments_blocks_fractions_and_several_words_in_one_pair_of_quotes():
    language = Grammar("""
        # a comment, then a symbol whose alternatives take three lines
        S -> "the cat" Verb [1/3]   # 'a quote' in a comment
           | 'the' 'dog' Verb [1/3]

           | "it's" "#1" [1/3]
        Verb -> "sang" | "slept"
    """)
    assert language.symbols == ("<end>", "the", "cat", "dog", "it's", "#1", "sang", "slept")
    assert math.isclose(math.exp(language.log_probability(language.encode("the cat slept <end>"))), 1 / 6)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ParameterError, "no rule"),
        ("# nothing", ParameterError, "no rule"),
        ('"a" -> S', ParameterError, "line 1: a rule is written"),
        ('S "a"', ParameterError, "line 1: a rule is written"),
        ('S -> "a" -> "b"', ParameterError, "line 1: a second arrow"),
        ('S -> "a', ParameterError, "line 1, column 5: cannot read"),
        ('S -> "a" [.5', ParameterError, "line 1, column 9: cannot read"),
        ('S -> ""', ParameterError, "line 1: an empty pair of quotes"),
        ('S -> "<end>"', ParameterError, "line 1: <end> is the end token"),
        ('S -> "a" [1] "b"', ParameterError, "line 1: 'b' after a probability"),
        ('S -> "a" | "a"', ParameterError, "line 1: S derives 'a' on line 1 already"),
        ('S -> "a" [x]', DistributionError, r"line 1: \[x\] is not a probability"),
        ('S -> "a" [0] | "b" [1]', DistributionError, r"line 1: \[0\] is not a probability"),
        ('S -> "a" [1.5]', DistributionError, r"\[1.5\]"),
        ('S -> "a" [1/0]', DistributionError, r"\[1/0\]"),
        (
            'S -> A\nA -> "a" [.5] | "b" [.4]',
            DistributionError,
            r"line 2: the probabilities of A sum to 0\.9, not to 1",
        ),
        ('S -> "a" [.5] | "b"', DistributionError, "line 1: this alternative of S has no probability"),
        (
            "S -> Noun Verb\nNuon -> 'a'\nVerb -> 'b'",
            ParameterError,
            "line 1: symbol Noun has no rule; did you mean Nuon",
        ),
        ('S -> "a"\nT -> "b"', ParameterError, "line 2: T is out of reach of the start symbol S"),
        ('S -> "a" | T\nT -> U "b"\nU -> T', ParameterError, "line 2: T derives no string"),
        (
            'S -> S S [.6] | "a" [.4]',
            DistributionError,
            r"spectral radius 1\.2, not below 1: derivations may never end",
        ),
        ('S -> S S [.5] | "a" [.5]', DistributionError, "expected length is infinite"),
        ('S -> T [.9] | "a" [.1]\nT -> S', None, ""),
    ],
)
def test_a_grammar_that_is_not_one_is_refused_with_its_line(text, error, message):
    if error is None:
        assert Grammar(text).expected_length() == pytest.approx(2)
        return
    with pytest.raises(error, match=message):
        Grammar(text)


def test_foreign_words_names_and_lengths_are_refused(tmp_path):
    language = Grammar.load("palindromes")
    with pytest.raises(PromptError, match="'z'"):
        language.encode("a z")
    with pytest.raises(PromptError, match="token id 9"):
        language.log_probability([9])
    with pytest.raises(ParameterError, match="unknown grammar 'palindrome'.*'palindromes'"):
        Grammar.load("palindrome")
    with pytest.raises(ParameterError, match="longest=0"):
        language.length_law(0)
    with pytest.raises(DistributionError, match="theta must be positive"):
        language.log_partition(0.0)
    broken = tmp_path / "broken.pcfg"
    broken.write_text('S -> "a" [.5]')
    with pytest.raises(DistributionError, match=r"broken\.pcfg: line 1: .* sum to 0\.5"):
        Grammar.load(broken)


# --------------------------------------------------------------------------------------- what is not proved or not small

NINE = [f"w{i}" for i in range(9)]


def one_string_of_nine_words_derived_twice():
    """One string, two derivations: no shorter string shows it."""
    quoted = [f'"{w}"' for w in NINE]
    first, last = " ".join(quoted[:-1]), " ".join(quoted[1:])
    return Grammar(
        f"S -> A [.3] | B [.7]\nA -> X {quoted[-1]}\nX -> {first}\nB -> {quoted[0]} Y\nY -> {last}", name="late"
    )


def test_an_ambiguity_beyond_the_words_that_are_looked_at_gives_no_number():
    # without it: entropy .6109 and log_partition(2) -.5447 of a single string, both 0 in truth
    late = one_string_of_nine_words_derived_twice()
    assert late.conflicts() and late.is_unambiguous(8) and not late.is_unambiguous(9)
    for call in (late.entropy, late.varentropy, late.entropy_rate, lambda: late.log_partition(2.0)):
        with pytest.raises(DistributionError, match=r"late is not proved to be unambiguous .*checked_to=8 takes that"):
            call()
    assert late.entropy(checked_to=8) == pytest.approx(late.derivation_entropy())
    assert late.entropy_by_position(11).entropy.sum() == pytest.approx(0, abs=1e-12)
    with pytest.raises(DistributionError, match="late is ambiguous at 9 words"):
        late.entropy(checked_to=9)


def test_infinitely_many_derivations_of_long_strings_are_not_called_an_ambiguity_of_short_ones():
    # a verdict "ambiguous at 0 words" for the empty string, which this grammar does not even have
    cycle = Grammar('S -> "a" | "b" "b" "b" X\nX -> X | "b"')
    for call in (lambda: cycle.is_unambiguous(1), cycle.entropy, lambda: cycle.log_partition(2.0, checked_to=2)):
        with pytest.raises(DistributionError, match="strings with infinitely many derivations: X can derive itself"):
            call()


def test_sums_of_powers_keep_their_digits_until_they_underflow_by_name():
    # an absolute stopping rule of Newton's method loses all but the last string here: -352 instead of -138
    nested = Grammar('S -> X [.999] | "c" [.001]\nX -> Y Y\nY -> A A\nA -> "a" [.5] | "b" [.5]')
    for theta in (1.0, 20.0, 51.0, 90.0):
        direct = np.logaddexp(math.log(16) + theta * math.log(0.999 / 16), theta * math.log(0.001))
        assert nested.log_partition(theta) == pytest.approx(direct, rel=1e-12, abs=1e-14)
    for theta in (5000.0, 1e6):
        with pytest.raises(DistributionError, match="the sum of p.theta over the strings of palindromes underflows"):
            Grammar.load("palindromes").log_partition(theta)
    for theta in (math.inf, math.nan, -1.0):
        with pytest.raises(DistributionError, match="theta must be positive and finite"):
            nested.log_partition(theta)


def test_a_step_takes_ids_of_the_vocabulary_only():
    # -1 and -2 would be classes of words to the chart, and index a chain's rows from the end
    grammar = Grammar('S -> "a" S [1/4] | "b" [3/4]')
    chain = aep.languages.MarkovChain([[0.5, 0.5], [0.25, 0.75]])
    for language in (grammar, chain):
        _, state = language.start([[]])
        for bad in (-1, -2, 7):
            with pytest.raises(PromptError, match=f"step holds token id {bad}, outside the vocabulary"):
                language.step(state, np.array([bad]))
        with pytest.raises(PromptError, match="step must be a one-dimensional sequence of token ids, got float64"):
            language.step(state, np.array([0.5]))


def test_lengths_and_numbers_are_whole():
    cats, rng = Grammar.load("cats"), np.random.default_rng(0)
    for bad in (2.5, None, "3", np.True_):
        with pytest.raises(ParameterError, match=re.escape(f"steps={bad!r}: an integer of at least 2 is needed")):
            check_count(2, number=5, steps=bad)
    check_count(2, number=np.int64(2))
    for bad in (-1, True):
        for name, call in {
            "longest": [cats.string_counts, cats.derivation_counts, cats.is_unambiguous, cats.length_law],
            "positions": [cats.entropy_by_position],
            "size": [lambda n: cats.sample_strings(rng, n)],
        }.items():
            for f in call:
                with pytest.raises(ParameterError, match=f"{name}={bad!r}: an integer of at least "):
                    f(bad)
    with pytest.raises(ParameterError, match="longest=-1"):
        cats.entropy(checked_to=-1)
    for least in (2.0, -0.1, math.nan):
        with pytest.raises(ParameterError, match=f"least={least}: a probability of at least 0 and below 1"):
            cats.entropy_by_position(3, least=least)
    assert cats.string_counts(0) == [0] and cats.sample_strings(rng, 0) == []


def test_files_and_probabilities_that_cannot_be_read_are_refused_in_one_line(tmp_path):
    with pytest.raises(DistributionError, match=r"line 1: \[1e-400\] is not a probability above 0"):
        Grammar('S -> "b" [1e-400] | "a" [1]')
    (tmp_path / "latin.pcfg").write_bytes('S -> "caf\xe9"'.encode("latin-1"))
    with pytest.raises(ParameterError, match=r"latin\.pcfg: byte 9 is not UTF-8"):
        Grammar.load(tmp_path / "latin.pcfg")
    (tmp_path / "bom.pcfg").write_bytes('S -> "a"'.encode("utf-8-sig"))
    assert Grammar.load(tmp_path / "bom.pcfg").rules.nonterminals == ("S",)  # not '\ufeffS'
    for name in ("x" * 300, "\0", str(tmp_path)):
        with pytest.raises(ParameterError, match="unknown grammar"):
            Grammar.load(name)
