"""Sampling is inverse CDF with one stream per text: reproducible, independent of the batch, and from the exact law.

Seeds were fixed before the first run; each of the 3 chi-square tests rejects a correct build with probability .001.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import aep
import oracles
from aep import sampling
from aep.errors import (
    AdaptorError,
    ContextTooLong,
    DistributionError,
    ParameterError,
    PromptError,
)
from aep.languages import FiniteLanguage, HiddenMarkov, MarkovChain, Mixture
from tiny_models import VOCAB, one_thread, tiny  # noqa: F401

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
CHAIN = MarkovChain(P, [0.2, 0.5, 0.3])
WITH_END = MarkovChain([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.5, 0.0]], [0.5, 0.5, 0.0], eos=2)
EXACT = [
    FiniteLanguage([0.5, 0.3, 0.0, 0.2]),
    CHAIN,
    HiddenMarkov([[0.9, 0.1], [0.25, 0.75]], [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]]),
    Mixture([CHAIN, MarkovChain(P.T / P.T.sum(axis=1, keepdims=True))], [0.25, 0.75]),
]
ADAPTORS = [aep.ancestral(), aep.temperature(0.7), aep.top_k(2), aep.temperature(1.3) | aep.nucleus(0.8)]


def same(a, b) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a.ids, b.ids, strict=True))


# --------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("language", EXACT, ids=lambda language: language.name)
def test_the_same_seed_gives_equal_texts_and_another_seed_others(language):
    first, again = (aep.sample(language, texts=5, tokens=40, seed=3) for _ in range(2))
    assert same(first, again)
    for a, b in zip(first.log_q, again.log_q, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not same(first, aep.sample(language, texts=5, tokens=40, seed=4))
    assert len({tuple(ids) for ids in first.ids}) == 5


def test_more_texts_and_more_tokens_keep_what_was_drawn():
    prompts = [[0], [1, 2], [2]]
    small = aep.sample(CHAIN, prompts, texts=3, tokens=20, seed=5)
    more_texts = aep.sample(CHAIN, prompts, texts=5, tokens=20, seed=5)
    assert more_texts.prompt.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [small.ids[3 * p + t].tolist() for p in range(3) for t in range(3)] == [
        more_texts.ids[5 * p + t].tolist() for p in range(3) for t in range(3)
    ]
    longer = aep.sample(CHAIN, prompts, texts=3, tokens=33, seed=5)
    assert all(np.array_equal(a, b[:20]) for a, b in zip(small.ids, longer.ids, strict=True))
    more_prompts = aep.sample(CHAIN, [*prompts, [0, 0]], texts=3, tokens=20, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(small.ids, more_prompts.ids[:9], strict=True))


@pytest.mark.parametrize("kind", ["exact", "mistral", "gpt2"])
def test_the_composition_of_a_batch_does_not_matter(kind, tiny):  # noqa: F811
    language = CHAIN if kind == "exact" else tiny(kind)
    prompts = [[0], [1, 2], [2], [2, 2, 0, 1], [1]] if kind == "exact" else ["a", "bcd", "q"]
    adaptor = aep.temperature(0.9) | aep.nucleus(0.95)
    tokens = 30 if kind == "exact" else 12
    large, one, odd = (
        aep.sample(language, prompts, texts=3, tokens=tokens, seed=6, adaptor=adaptor, batch=b) for b in (64, 1, 2)
    )
    assert same(large, one)
    assert same(large, odd)
    alone = aep.sample(language, prompts[:1], texts=1, tokens=tokens, seed=6, adaptor=adaptor)
    assert np.array_equal(alone.ids[0], large.ids[0])
    for name in ("log_q", "log_normaliser"):
        for a, b in zip(getattr(large, name), getattr(one, name), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_a_stream_depends_on_seed_prompt_and_text_alone_and_never_repeats():
    draws = {key: sampling.text_stream(*key).random(2).tobytes() for key in itertools.product(range(3), repeat=3)}
    assert len(set(draws.values())) == 27
    assert sampling.text_stream(1, 2, 0).random(2).tobytes() == draws[1, 2, 0]


# ------------------------------------------------------------------------------------------------------------ laws


def chi_square(texts, law: dict) -> float:
    """p-value of the observed strings against exact probabilities; strings expected less than 5 times are pooled."""
    observed = dict.fromkeys(law, 0)
    for ids in texts.ids:
        observed[tuple(int(i) for i in ids)] += 1
    n = len(texts)
    common = [s for s, p in law.items() if n * p >= 5]
    rare = sum(p for s, p in law.items() if n * p < 5)
    counts = [observed[s] for s in common] + [n - sum(observed[s] for s in common)] * (rare > 0)
    expected = [n * law[s] for s in common] + [n * rare] * (rare > 0)
    return stats.chisquare(counts, np.array(expected) * (sum(counts) / sum(expected))).pvalue


@pytest.mark.parametrize("language", EXACT[1:], ids=lambda language: language.name)
def test_frequencies_of_strings_are_their_exact_probabilities_and_not_those_of_a_wrong_temperature(language):
    law = oracles.distribution(oracles.language_next(language), 3, 4)
    texts = aep.sample(language, texts=4000, tokens=4, seed=7, batch=4000)
    assert chi_square(texts, law) > 0.001
    wrong = aep.sample(language, texts=4000, tokens=4, seed=7, batch=4000, adaptor=aep.temperature(0.8))
    assert chi_square(wrong, law) < 1e-6


def test_text_after_a_prompt_follows_the_law_after_that_prompt():
    texts = aep.sample(CHAIN, [[0, 1]], texts=3000, tokens=3, seed=8, batch=3000)
    after = oracles.markov_next(P, P[1])
    assert chi_square(texts, oracles.distribution(after, 3, 3)) > 0.001
    assert chi_square(texts, oracles.distribution(oracles.markov_next(P, P[0]), 3, 3)) < 1e-6


@pytest.mark.parametrize("adaptor", ADAPTORS, ids=str)
def test_log_q_and_log_normaliser_are_those_of_the_adapted_law(adaptor):
    texts = aep.sample(CHAIN, [[0], [1]], texts=10, tokens=15, seed=9, adaptor=adaptor)
    for i, ids in enumerate(texts.ids):
        prefix = texts.prompts[texts.prompt[i]]
        for t, token in enumerate(ids):
            adapted = adaptor.transform(CHAIN.start([[*prefix, *ids[:t]]])[0][0])
            assert texts.log_q[i][t] == pytest.approx(adapted.log_q[token], abs=1e-12)
            assert texts.log_normaliser[i][t] == pytest.approx(adapted.log_normaliser, abs=1e-12)
    assert texts.sampler["adaptor"] == str(adaptor)
    assert np.all(np.isfinite(np.concatenate(texts.log_q)))


# ------------------------------------------------------------------------------------------------------- inverse CDF


@given(
    arrays(np.float64, st.integers(2, 9), elements=st.floats(0, 1)).filter(lambda w: w.sum() > 0.1),
    st.sampled_from([0.0, 5e-324, 2.0**-53, 0.5, 1 - 2.0**-53]),
    st.booleans(),
)
def test_no_uniform_number_gives_a_token_of_probability_zero(weights, uniform, on_torch):
    p = np.where(weights > 0.05, weights, 0.0)
    if not p.sum():
        p[0] = 1.0
    with np.errstate(divide="ignore"):
        log_q = np.log(p / p.sum())
    rows = torch.as_tensor(log_q)[None] if on_torch else log_q[None]
    token = int(sampling.draw(rows, np.array([uniform]))[0])
    assert p[token] > 0
    support = np.flatnonzero(p)
    if uniform < 1e-3:
        assert token == support[0]
    if uniform > 0.999:
        assert token == support[-1]


def test_draw_is_the_inverse_of_the_distribution_function():
    log_q = np.log(np.array([[0.25, 0.5, 0.25]] * 6))
    uniform = np.array([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999])
    assert sampling.draw(log_q, uniform).tolist() == [0, 0, 1, 1, 2, 2]
    single = torch.as_tensor(log_q[:3]).float()
    assert sampling.draw(single, np.array([0.2, 0.5, 0.8])).tolist() == [0, 1, 2]


def test_in_single_precision_the_last_uniform_number_still_gives_a_possible_token(monkeypatch):
    """A device without float64 (Apple's): there 1 - 2^-53 rounds to 1, past the end of the distribution function."""
    monkeypatch.setattr(sampling, "as_float64", lambda x: x)
    log_q = torch.tensor([[0.3, 0.7, 0.0], [0.5, 0.25, 0.25]]).log()
    assert sampling.draw(log_q, np.array([1 - 2.0**-53] * 2)).tolist() == [1, 2]


class Broken(FiniteLanguage):
    """A language whose rows do not sum to one."""

    def start(self, prompts):
        log_p, state = super().start(prompts)
        return log_p + self.excess, state


@pytest.mark.parametrize(
    ("excess", "message"), [(0.01, r"sum to 1\.01"), (-0.01, r"sum to 0\.990"), (np.nan, "sum to nan")]
)
def test_a_language_that_is_not_normalised_is_refused(excess, message):
    language = Broken([0.5, 0.5])
    language.excess = excess
    with pytest.raises(DistributionError, match=message):
        aep.sample(language, tokens=3, seed=0)


# ------------------------------------------------------------------------------------------------------- end of text


def test_never_samples_past_the_end_token_and_eos_stops_after_it():
    past = aep.sample(WITH_END, texts=50, tokens=30, seed=10)
    assert all(len(ids) == 30 for ids in past.ids)
    assert any(2 in ids[:-1] for ids in past.ids)
    stopped = aep.sample(WITH_END, texts=50, tokens=30, seed=10, stop="eos")
    for whole, ids, q, z, finished in zip(
        past.ids, stopped.ids, stopped.log_q, stopped.log_normaliser, stopped.finished, strict=True
    ):
        assert len(ids) == len(q) == len(z)
        assert np.array_equal(ids, whole[: len(ids)])
        assert 2 not in ids[:-1]
        assert finished == (ids[-1] == 2)
        assert finished or len(ids) == 30
    assert stopped.finished.any()


def test_lengths_until_the_end_token_follow_their_exact_law():
    """P(T > t) by powers of the chain without its end token; 3000 texts, rejected with probability .001 if correct."""
    texts = aep.sample(WITH_END, texts=3000, tokens=25, seed=11, stop="eos", batch=3000)
    inner, mass, tail = WITH_END.transition[:2, :2], np.array([0.5, 0.5]), [1.0]
    for _ in range(25):
        tail.append(mass.sum() if len(tail) == 1 else (mass := mass @ inner).sum())
    law = {**{t: tail[t - 1] - tail[t] for t in range(1, 26)}, "cut": tail[25]}
    ends = [len(ids) if done else "cut" for ids, done in zip(texts.ids, texts.finished, strict=True)]
    keys = [k for k, p in law.items() if 3000 * p >= 5]
    counts = np.array([ends.count(k) for k in keys] + [sum(k not in keys for k in ends)])
    expected = np.array([3000 * law[k] for k in keys])
    expected = np.append(expected, 3000 - expected.sum())
    keep = expected > 1e-9
    assert not counts[~keep].any()
    assert stats.chisquare(counts[keep], expected[keep] * counts.sum() / expected[keep].sum()).pvalue > 0.001


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"texts": 0}, ParameterError, "texts=0: an integer of at least 1"),
        ({"tokens": 0}, ParameterError, "tokens=0"),
        ({"tokens": -5}, ParameterError, "tokens=-5"),
        ({"seed": -1}, ParameterError, "seed=-1: an integer of at least 0"),
        ({"batch": 0}, ParameterError, "batch=0"),
        ({"tokens": True}, ParameterError, "tokens=True"),
        ({"stop": "end"}, ParameterError, "unknown stop rule 'end'.*never, eos"),
        ({"stop": "eos"}, ParameterError, "has no end token"),
        ({"prompts": []}, PromptError, "empty list"),
        ({"prompts": [""]}, PromptError, "prompt 0 is empty"),
        ({"prompts": [[0], []]}, PromptError, "prompt 1 is empty"),
        ({"prompts": [[3]]}, PromptError, "token id 3, outside the vocabulary of 3"),
        ({"prompts": [[-1]]}, PromptError, "token id -1"),
        ({"prompts": ["a z"]}, PromptError, "no symbol 'z'"),
        ({"prompts": np.array([[0.5, 1.5]])}, PromptError, "float64"),
        ({"prompts": np.array([0, 1])}, PromptError, "one-dimensional"),
    ],
)
def test_every_bad_argument_is_one_clear_line(change, error, message):
    arguments = {"prompts": None, "texts": 2, "tokens": 3, "seed": 0} | change
    with pytest.raises(error, match=message) as caught:
        aep.sample(CHAIN, arguments.pop("prompts"), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("texts", 2.0), ("tokens", "3"), ("seed", None), ("batch", 1.5)])
def test_numbers_of_a_wrong_type_are_refused_by_name(name, value):
    arguments = {"texts": 1, "tokens": 1, "seed": 0, "batch": 1, "adaptor": None, "stop": "never", "language": CHAIN}
    with pytest.raises(ParameterError, match=f"^{name}="):
        sampling.checked_adaptor(**(arguments | {name: value}))
    with pytest.raises(AdaptorError, match=r"adaptor=3: give an adaptor"):
        sampling.checked_adaptor(**(arguments | {"adaptor": 3}))
    assert sampling.checked_adaptor(**(arguments | {"adaptor": "top_k(3)"})) == aep.top_k(3)


def test_a_network_refuses_what_does_not_fit_its_context_before_it_starts(tiny):  # noqa: F811
    language = tiny("gpt2")
    limit = language.context_length
    with pytest.raises(ContextTooLong, match=f"{limit + 1} tokens.*context of {limit}: ask for at most {limit - 2}"):
        aep.sample(language, ["ab"], tokens=limit - 1, seed=0)
    assert len(aep.sample(language, ["ab"], tokens=limit - 2, seed=0).ids[0]) == limit - 2


def test_a_network_without_a_start_token_wants_a_prompt(tiny):  # noqa: F811
    language = tiny("gpt2", bos=False)
    with pytest.raises(PromptError, match="no start token: give at least one prompt"):
        aep.sample(language, tokens=3, seed=0)
    limit = language.context_length
    assert limit == 97  # 96 positions take 96 inputs, and the last token of a text is no input
    assert len(aep.sample(language, ["ab"], tokens=limit - 2, seed=0).ids[0]) == limit - 2


def test_a_network_samples_the_law_of_its_own_forward_pass(tiny):  # noqa: F811
    """First tokens after the start token against a softmax of the logits, chi-square at .1%; another model is rejected."""
    language, other = tiny("llama"), tiny("llama", seed=1)
    first = np.concatenate(aep.sample(language, texts=4000, tokens=1, seed=12, batch=4000).ids)
    counts = np.bincount(first, minlength=VOCAB)

    def p_value(model):
        with torch.inference_mode():
            p = torch.softmax(model.model(torch.tensor([[1]])).logits[0, -1], -1).numpy()
        keep = 4000 * p >= 5
        observed, expected = np.append(counts[keep], counts[~keep].sum()), np.append(p[keep], p[~keep].sum())
        return stats.chisquare(observed, 4000 * expected / expected.sum()).pvalue

    assert p_value(language) > 0.001
    assert p_value(other) < 1e-6


def test_a_description_names_everything_that_determines_a_text(tiny):  # noqa: F811
    texts = aep.sample(tiny("mistral"), ["ab"], tokens=4, seed=13, adaptor=aep.top_k(3), stop="eos")
    wanted = {"language", "fingerprint", "adaptor", "seed", "stop", "tokens", "dtype", "versions"}
    assert wanted <= set(texts.sampler)
    assert texts.sampler["dtype"] == "float64"
    assert {"numpy", "torch", "transformers", "python"} <= set(texts.sampler["versions"])
    assert texts.decode(0).replace(" ", "") == "".join(tiny("mistral").decode([i]) for i in texts.ids[0])


# -------------------------------------------------------------------------------------------------- recorded on the way


@pytest.mark.parametrize("adaptor", [aep.ancestral(), aep.temperature(0.7) | aep.top_k(5)], ids=str)
@pytest.mark.parametrize("kind", ["mistral", "gpt2", "exact"])
def test_a_record_written_while_sampling_is_the_one_scoring_makes(kind, adaptor, tiny, tmp_path):  # noqa: F811
    language = CHAIN if kind == "exact" else tiny(kind)
    prompts = [[0], [1, 2]] if kind == "exact" else ["abc", "t"]
    texts = aep.sample(language, prompts, texts=3, tokens=40, seed=9, adaptor=adaptor, record=True)
    plain = replace(texts, records=None)
    scored = aep.score(plain, language)
    assert aep.score(texts, language) is texts.records
    assert texts.records.meta == scored.meta
    for name, values in scored.columns.items():
        np.testing.assert_allclose(texts.records[name], values, atol=1e-10, err_msg=name)
    assert set(texts.records.columns) == set(scored.columns)
    np.testing.assert_array_equal(texts.records.text_keys, scored.text_keys)
    assert aep.score(texts, language, adaptors=[adaptor]) is not texts.records  # other columns: a pass of its own


def test_a_recorded_text_in_the_store_is_never_scored_again(tmp_path, monkeypatch):
    texts = aep.sample(CHAIN, texts=20, tokens=30, seed=10, store=tmp_path, record=True)
    for name in ("start", "step", "rows"):  # a pass over the language would fail
        monkeypatch.setattr(CHAIN, name, lambda *_, **__: pytest.fail("computed again"))
    again = aep.sample(CHAIN, texts=20, tokens=30, seed=10, store=tmp_path, record=True)
    records = aep.score(replace(again, records=None), CHAIN, store=tmp_path)
    for name, values in texts.records.columns.items():
        np.testing.assert_array_equal(records[name], values, err_msg=name)
        np.testing.assert_array_equal(again.records[name], values, err_msg=name)


def test_a_recorded_text_that_ends_early_has_a_row_per_token():
    texts = aep.sample(WITH_END, texts=50, tokens=30, seed=11, stop="eos", record=True)
    assert len(set(map(len, texts.ids))) > 1
    assert texts.records.lengths.tolist() == [len(ids) for ids in texts.ids]
    np.testing.assert_array_equal(texts.select([3, 1]).records["token"], np.concatenate([texts.ids[3], texts.ids[1]]))


def test_the_record_of_a_single_precision_network_is_in_its_precision_and_that_of_score():
    language = aep.load("docs-100k", dtype="float32")
    texts = aep.sample(language, texts=3, tokens=20, seed=0, record=True)
    again = aep.score(replace(texts, records=None), language)
    assert texts.records["entropy"].dtype == again["entropy"].dtype == np.float32
    for name in again.columns:
        np.testing.assert_allclose(texts.records[name], again[name], atol=1e-4, err_msg=name)
