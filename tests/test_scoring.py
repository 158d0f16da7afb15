"""Every column of the scoring pass equals a literal float64 computation from full distributions, network or not."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import aep
import oracles_columns
from aep import reduction, scoring
from aep.errors import AdaptorError, ContextTooLong, DistributionError, ParameterError, PromptError, VocabularyMismatch
from aep.languages import FiniteLanguage, HiddenMarkov, MarkovChain
from aep.records import Texts
from tiny_models import VOCAB, WINDOW, one_thread, tiny  # noqa: F401

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
CHAIN = MarkovChain(P, [0.2, 0.5, 0.3])
HIDDEN = HiddenMarkov([[0.9, 0.1], [0.25, 0.75]], [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]])
NETWORKS = ["mistral", "llama", "gpt2", "gpt_neox"]
TEMPERED = aep.temperature(0.8)
CUT = aep.temperature(1.3) | aep.nucleus(0.8)


def ragged(vocab: int, seed: int, *, prompts: bool, longest: int = 14) -> Texts:
    """Texts of 2 ... `longest` tokens with no prompt, or with prompts of different lengths."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(vocab, size=n) for n in (longest, 2, 5, 2, 9, 3)]
    contexts = [rng.integers(vocab, size=n) for n in (1, 4, 2)] if prompts else [np.empty(0, np.int64)]
    return Texts(ids, contexts, rng.integers(len(contexts), size=len(ids)))


def laws(language, prompt, ids, bos: bool = True) -> list[np.ndarray]:
    """p (vocab,) of every token of one text: of a network by one forward pass over it alone, without cache or padding."""
    if not hasattr(language, "model"):
        return [np.exp(language.start([[*prompt, *ids[:t]]])[0][0]) for t in range(len(ids))]
    context = [language.bos, *prompt] if bos and language.bos is not None else [*prompt]
    with torch.inference_mode():
        logits = language.model(torch.tensor([[*context, *ids[:-1]]]), use_cache=False).logits[0, len(context) - 1 :]
    return list(torch.softmax(logits.double(), -1).numpy())


def reference(texts, scorer, source=None, adaptor=None, adaptors=(), bos=True) -> list[dict]:
    """One dictionary per scored token, in the order of the record."""
    rows = []
    for i, text in enumerate(texts.ids):
        prompt, ids = [int(x) for x in texts.prompts[texts.prompt[i]]], [int(x) for x in text]
        if not prompt and any(x.needs_context(bos) for x in (scorer, source) if x is not None):
            prompt, ids = ids[:1], ids[1:]
        p_scorer = laws(scorer, prompt, ids, bos)
        p_source = laws(source, prompt, ids, bos) if source is not None else p_scorer
        for t, token in enumerate(ids):
            with np.errstate(divide="ignore"):
                named = {str(x): np.exp(x(np.log(p_scorer[t]))) for x in adaptors}
                a = np.exp((adaptor or aep.ancestral())(np.log(p_source[t]))) if source is not None else None
            rows.append({"text": i, "position": t, "token": token, **oracles_columns.row(p_scorer[t], token, a, named)})
    return rows


def assert_equal(records, rows, tolerance=1e-9):
    assert set(records.columns) == set(rows[0])
    for name, values in records.columns.items():
        expected = np.array([row[name] for row in rows])
        if name in ("text", "position", "token", "rank", "greedy"):
            np.testing.assert_array_equal(values, expected, err_msg=name)
        else:
            np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance, err_msg=name)


# ---------------------------------------------------------------------------------------------------- every column


@pytest.mark.parametrize("prompts", [False, True], ids=["no prompt", "prompts"])
@pytest.mark.parametrize("language", [CHAIN, HIDDEN, FiniteLanguage([0.5, 0.3, 0.2])], ids=lambda x: x.name)
def test_every_column_of_an_exact_language_equals_the_literal_one_at_every_chunk_size(language, prompts):
    texts = ragged(3, 31, prompts=prompts)
    expected = reference(texts, language, adaptors=[TEMPERED, CUT])
    for chunk in (1, 7, 256):
        assert_equal(aep.score(texts, language, adaptors=[TEMPERED, CUT], chunk=chunk), expected)


@pytest.mark.parametrize(("prompts", "bos"), [(False, True), (True, True), (False, False), (True, False)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_column_of_a_network_equals_the_literal_one_at_every_chunk_size(kind, prompts, bos, tiny):  # noqa: F811
    language = tiny(kind)
    texts = ragged(VOCAB, 32, prompts=prompts)
    expected = reference(texts, language, adaptors=[CUT], bos=bos)
    for chunk in (1, 7, 256):
        assert_equal(aep.score(texts, language, adaptors=[CUT], bos=bos, chunk=chunk), expected)


def test_the_literal_columns_of_another_model_are_not_matched(tiny):  # noqa: F811
    """Negative control of the comparisons above."""
    texts = ragged(VOCAB, 32, prompts=False)
    with pytest.raises(AssertionError):
        assert_equal(aep.score(texts, tiny("gpt2")), reference(texts, tiny("gpt2", seed=1)))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_text_is_scored_alike_alone_and_in_a_batch(kind, tiny, monkeypatch):  # noqa: F811
    language = tiny(kind)
    texts = ragged(VOCAB, 33, prompts=True)
    together = aep.score(texts, language)
    monkeypatch.setattr(scoring, "batch_tokens", lambda *_: 1)  # one text per batch, no padding
    apart = aep.score(texts, language)
    for name in together.columns:
        np.testing.assert_allclose(together[name], apart[name], atol=1e-10, err_msg=name)


def test_a_network_without_a_start_token_gives_its_first_token_away(tiny):  # noqa: F811
    language = tiny("gpt_neox", bos=False)
    texts = ragged(VOCAB, 34, prompts=False)
    records = aep.score(texts, language)
    assert records.lengths.tolist() == [len(ids) - 1 for ids in texts.ids]
    assert records["token"][0] == texts.ids[0][1]
    assert_equal(records, reference(texts, language))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_lower_precision_stays_near_the_reference(dtype, tolerance, tiny):  # noqa: F811
    """Tolerances are a few ulp of the dtype through two layers; reductions are never below float32."""
    texts = ragged(VOCAB, 35, prompts=False)
    exact, low = aep.score(texts, tiny("llama")), aep.score(texts, tiny("llama", dtype=getattr(torch, dtype)))
    assert low.meta["dtype"] == dtype
    for name in ("surprisal", "entropy", "varentropy", "log_partition_0_5"):
        scale = 1 + np.abs(exact[name])
        assert np.max(np.abs(low[name] - exact[name]) / scale) < tolerance, name
        assert low[name].dtype == np.float32


# ----------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("adaptor", [None, CUT, aep.top_k(2)], ids=str)
@pytest.mark.parametrize("pair", ["exact", "networks"])
def test_pair_columns_equal_the_literal_ones(pair, adaptor, tiny):  # noqa: F811
    source, scorer = (CHAIN, HIDDEN) if pair == "exact" else (tiny("llama"), tiny("mistral"))
    texts = ragged(scorer.vocab_size, 36, prompts=True, longest=9)
    expected = reference(texts, scorer, source, adaptor)
    for chunk in (1, 7, 256):
        assert_equal(aep.score(texts, scorer, source=source, adaptor=adaptor, chunk=chunk), expected)


def test_with_source_equal_to_scorer_b_is_the_entropy_and_v_the_varentropy(tiny):  # noqa: F811
    for language in (CHAIN, tiny("mistral")):
        records = aep.score(ragged(language.vocab_size, 37, prompts=True), language, source=language)
        np.testing.assert_array_equal(records["cross_entropy"], records["entropy"])
        np.testing.assert_array_equal(records["cross_varentropy"], records["varentropy"])
        np.testing.assert_array_equal(records["source_surprisal"], records["surprisal"])


def test_cross_entropy_is_at_least_the_entropy_of_the_source_at_every_token(tiny):  # noqa: F811
    texts = ragged(VOCAB, 38, prompts=False)
    for adaptor in (None, CUT, TEMPERED):
        records = aep.score(texts, tiny("gpt2"), source=tiny("gpt_neox"), adaptor=adaptor)
        assert np.all(records["cross_entropy"] >= records["source_entropy"] - 1e-12)
        assert np.max(records["cross_entropy"] - records["source_entropy"]) > 0.1


def test_an_adapted_source_masks_its_own_law_and_leaves_the_scorer_untruncated():
    texts = Texts.from_ids(CHAIN, [[1, 0, 0], [1, 1, 2]])
    records = aep.score(texts, CHAIN, source=CHAIN, adaptor=aep.top_k(1), adaptors=[aep.top_k(1)])
    greedy = records["token"] == records["greedy"]
    np.testing.assert_array_equal(records["source_entropy"], 0.0)
    np.testing.assert_array_equal(np.isposinf(records["source_surprisal"]), ~greedy)
    np.testing.assert_array_equal(np.isneginf(records["log_q_top_k(1)"]), ~greedy)
    assert np.all(np.isfinite(records["surprisal"]))
    likely = [0.5, 0.6, 0.7, 0.5, 0.6, 0.6]  # the scorer's probability of the source's greedy token
    np.testing.assert_allclose(records["cross_entropy"], -np.log(likely))


def test_the_extra_adaptors_belong_to_the_scorer_and_the_sampler_s_own_is_in_the_pair_columns():
    texts = aep.sample(HIDDEN, texts=3, tokens=20, seed=39, adaptor=CUT)
    records = aep.score(texts, CHAIN, source=HIDDEN, adaptor=CUT, adaptors=[CUT])
    np.testing.assert_allclose(-records["source_surprisal"], np.concatenate(texts.log_q), atol=1e-10)
    assert np.abs(records[f"log_q_{CUT}"] + records["source_surprisal"]).max() > 0.1


# ------------------------------------------------------------------------------------------- sampler against scorer


@pytest.mark.parametrize("adaptor", [aep.ancestral(), CUT, aep.top_k(4)], ids=str)
@pytest.mark.parametrize("kind", [*NETWORKS, "exact"])
def test_the_scorer_reproduces_what_the_sampler_drew(kind, adaptor, tiny):  # noqa: F811
    language = CHAIN if kind == "exact" else tiny(kind)
    prompts = [[0], [1, 2]] if kind == "exact" else ["abc", "t"]
    texts = aep.sample(language, prompts, texts=2, tokens=60, seed=40, adaptor=adaptor)
    records = aep.score(texts, language, adaptors=[adaptor])
    np.testing.assert_allclose(records[f"log_q_{adaptor}"], np.concatenate(texts.log_q), atol=1e-10)
    np.testing.assert_array_equal(records["token"], np.concatenate(texts.ids))
    if adaptor.is_ancestral:
        np.testing.assert_allclose(records["surprisal"], -np.concatenate(texts.log_q), atol=1e-10)


@pytest.mark.parametrize("kind", ["mistral", "llama with a window in its config"])
def test_sampling_through_the_cache_is_the_full_forward_pass_beyond_the_window(kind, tiny):  # noqa: F811
    """Llama ignores `sliding_window` in its mask while a cache made from the config obeys it (wrong by nats)."""
    language = tiny("mistral") if kind == "mistral" else tiny("llama", sliding_window=WINDOW)
    assert language.model.config.sliding_window == WINDOW
    texts = aep.sample(language, ["abcdefg"], texts=1, tokens=12 * WINDOW, seed=41)
    ids = texts.ids[0].tolist()
    for t, p in enumerate(laws(language, texts.prompts[0].tolist(), ids)):
        assert texts.log_q[0][t] == pytest.approx(np.log(p[ids[t]]), abs=1e-10)


def test_the_window_matters_to_mistral(tiny):  # noqa: F811
    """Negative control of the test above: the same weights without a window give other probabilities beyond it."""
    texts = aep.sample(tiny("mistral"), ["abcdefg"], texts=1, tokens=6 * WINDOW, seed=41)
    windowed, full = (aep.score(texts, tiny("mistral", **o)) for o in ({}, {"sliding_window": None}))
    beyond = windowed["position"] + 8 > 2 * WINDOW
    assert np.abs(windowed["surprisal"] - full["surprisal"])[beyond].max() > 0.01


# ------------------------------------------------------------------------------------------------ the one reduction


@settings(max_examples=50)
@given(
    arrays(np.float64, (5, 9), elements=st.floats(-30, 30)),
    arrays(np.float64, (5, 9), elements=st.floats(-30, 30)),
    arrays(np.int64, 5, elements=st.integers(0, 8)),
    st.floats(-50, 50),
)
def test_the_reduction_agrees_on_numpy_and_torch_and_ignores_a_shift_of_the_logits(logits, other, token, shift):
    columns = reduction.row_columns(logits, token, other, CUT, [TEMPERED])
    shifted = reduction.row_columns(logits + shift, token, other - shift, CUT, [TEMPERED])
    on_torch = reduction.row_columns(*map(torch.as_tensor, (logits, token, other)), CUT, [TEMPERED])
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for name, values in columns.items():
        np.testing.assert_allclose(values, on_torch[name].numpy(), atol=1e-9, rtol=1e-9, err_msg=name)
        if name not in ("rank", "greedy", "mass_above") and "source" not in name and "cross" not in name:
            np.testing.assert_allclose(values, shifted[name], atol=1e-9, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(np.exp(-columns["surprisal"]), p[np.arange(5), token], rtol=1e-9)


@pytest.mark.parametrize("block", [1, 7, 20, 60])
def test_blocks_of_rows_and_of_the_vocabulary_change_no_column(block, monkeypatch):
    rng = np.random.default_rng(43)
    logits, other, token = rng.normal(size=(6, 20)), rng.normal(size=(6, 20)), rng.integers(20, size=6)
    logits[2, [3, 11]] = logits[2].max() + 1  # a tie of the maximum across blocks: the lowest id
    logits[4, 5:9] = -np.inf  # the scorer excludes what the source allows
    whole = reduction.row_columns(logits, token, other, None, [TEMPERED])
    monkeypatch.setattr(reduction, "BLOCK", block)
    for name, values in reduction.row_columns(logits, token, other, None, [TEMPERED]).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12, atol=1e-12, err_msg=name)
    assert whole["greedy"][2] == 3 and np.isposinf(whole["cross_entropy"][4])


def test_half_precision_logits_are_reduced_in_single_precision():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).half()
    columns = reduction.row_columns(logits, torch.arange(4))
    for name, value in columns.items():
        assert value.dtype in (torch.float32, torch.int64), name
    exact = reduction.row_columns(logits.double(), torch.arange(4))
    torch.testing.assert_close(columns["entropy"].double(), exact["entropy"], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- bad input


class Foreign:
    """Another vocabulary of the same size."""

    def __init__(self, language):
        self.__dict__ |= {n: getattr(language, n) for n in ("vocab_size", "eos", "name", "fingerprint")}
        self.vocabulary_hash = "other"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"context": "ful"}, ParameterError, "unknown context 'ful': did you mean 'full'"),
        ({"adaptor": TEMPERED}, AdaptorError, "an adaptor belongs to a source; for log_q columns use adaptors"),
        ({"source": FiniteLanguage([0.5, 0.5])}, VocabularyMismatch, r"finite\(2\) \(2 tokens\) and .*per byte"),
        ({"chunk": 0}, ParameterError, "chunk=0"),
        ({"texts": []}, PromptError, "no text is given"),
        ({"texts": ""}, PromptError, "empty"),
        ({"texts": ["a b", ""]}, PromptError, "text 1 is empty"),
        ({"texts": [[0, 1], [3]]}, PromptError, "text 1 holds token id 3, outside the vocabulary of 3"),
        ({"texts": np.array([[0.5, 0.7]])}, PromptError, "text 0 must be .* token ids, got float64"),
    ],
)
def test_every_bad_argument_is_one_clear_line(arguments, error, message):
    arguments = {"texts": [[0, 1]], **arguments}
    with pytest.raises(error, match=message) as caught:
        aep.score(arguments.pop("texts"), CHAIN, **arguments)
    assert "\n" not in str(caught.value)


def test_two_tokenizers_of_one_size_are_still_a_mismatch(tiny):  # noqa: F811
    with pytest.raises(VocabularyMismatch, match="different vocabularies"):
        scoring.check_pair(Foreign(tiny("gpt2")), tiny("llama"))
    scoring.check_pair(tiny("gpt2"), tiny("llama"))


def test_a_text_beyond_the_context_is_refused_and_one_that_fits_exactly_is_scored(tiny):  # noqa: F811
    language = tiny("llama")
    limit = language.context_length
    ids = np.full(limit, 5)
    assert len(aep.score([ids], language)) == limit
    with pytest.raises(ContextTooLong, match=rf"text 1 has {limit + 1} tokens.*context of {limit}.*'full'"):
        aep.score([ids, np.full(limit + 1, 5)], language)
    with pytest.raises(ContextTooLong, match="text 0"):
        aep.score([np.full(limit + 1, 5)], tiny("gpt2"), source=language)


def test_a_single_token_without_start_token_leaves_nothing_to_score(tiny):  # noqa: F811
    with pytest.raises(PromptError, match="text 0 has no token to score"):
        aep.score([[5]], tiny("gpt2"), bos=False)
    assert len(aep.score([[5]], tiny("gpt2"))) == 1


def test_a_network_whose_logits_are_not_numbers_is_refused(tmp_path):
    from tiny_models import save_model

    language = aep.load(save_model(tmp_path, "gpt2", seed=3))
    with torch.no_grad():
        language.model.transformer.wte.weight[7, 0] = float("nan")
    with pytest.raises(DistributionError, match="hold NaN"):
        aep.score([[3, 7, 4]], language)
    with pytest.raises(DistributionError, match="NaN"):
        aep.sample(language, [[7]], tokens=2, seed=0)


def test_the_record_says_how_it_was_made():
    texts = aep.sample(HIDDEN, texts=2, tokens=5, seed=42, adaptor=CUT)
    meta = aep.score(texts, CHAIN, source=HIDDEN, adaptor=CUT, adaptors=[TEMPERED]).meta
    assert meta["scorer"] == CHAIN.name
    assert meta["source"] == HIDDEN.name
    assert (meta["adaptor"], meta["adaptors"], meta["context"], meta["bos"]) == (
        str(CUT),
        [str(TEMPERED)],
        "full",
        True,
    )
    assert meta["sampler"] == texts.sampler


def test_strings_are_encoded_together_as_one_by_one_and_none_is_refused():
    language = aep.load("docs-100k")
    strings = ["Returns the", "x", "é and 中"]
    for one, together in zip(map(language.encode, strings), Texts.from_strings(language, strings).ids, strict=True):
        assert one.tolist() == together.tolist()
    with pytest.raises(PromptError, match="nothing to score"):
        Texts.from_strings(language, [])


def test_a_chunk_larger_than_the_texts_takes_no_more_room():
    language = aep.load("docs-100k")
    wide, usual = (aep.score(["Returns the"], language, **option)["entropy"] for option in ({"chunk": 10**12}, {}))
    np.testing.assert_allclose(wide, usual, atol=1e-12)


def test_texts_of_a_model_with_another_tokenizer_are_refused(tiny):  # noqa: F811
    scorer = tiny("gpt2")
    writer = copy.copy(scorer)
    texts = aep.sample(writer, None, tokens=5, seed=1)
    assert len(aep.score(texts, scorer)) == 5
    writer.vocabulary_hash = "another"
    with pytest.raises(VocabularyMismatch, match="the texts of .* different vocabularies.*per byte"):
        aep.score(texts, scorer)


def test_a_name_in_the_place_of_a_model_is_named():
    with pytest.raises(ParameterError, match=r"'docs-100k' is not a language.*aep.load\('docs-100k'\)"):
        scoring.check_languages("docs-100k", None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"overlap": 5}, ParameterError, "overlap=5 belongs to windows"),
        ({"compiled": "yes"}, ParameterError, "compiled='yes'"),
        ({"adaptors": None}, AdaptorError, "give a list"),
        ({"adaptors": "top_k(5)"}, AdaptorError, r"adaptors='top_k\(5\)': give a list"),
    ],
)
def test_an_option_that_cannot_be_meant_is_named(options, error, message):
    usual = {"context": "full", "bos": True, "chunk": 1, "overlap": None, "compiled": None}
    with pytest.raises(error, match=message):
        scoring._check_options(**usual | {"adaptors": ()} | options)


@pytest.mark.parametrize("texts", [{"a": 1}, ["a", [1, 2]], [[1], "a"], 5])
def test_what_is_no_text_is_named(texts):
    with pytest.raises(PromptError, match="give Texts"):
        scoring._as_texts(texts, MarkovChain(np.array([[0.7, 0.3], [0.4, 0.6]])))


def test_an_adaptor_that_leaves_no_distribution_is_named():
    chain = MarkovChain(np.array([[0.7, 0.3], [0.4, 0.6]]))
    with pytest.raises(AdaptorError, match="log q is NaN"):
        aep.score([[0, 1, 1]], chain, adaptors=[aep.temperature(1e-320)])


def test_a_language_scored_against_itself_passes_once_and_gives_what_two_passes_give(tiny, monkeypatch):  # noqa: F811
    language, twin = tiny("mistral"), aep.load(tiny("mistral").model.name_or_path)
    texts = aep.sample(language, "abc", texts=3, tokens=12, seed=1, adaptor=aep.temperature(0.7))
    twice = aep.score(texts, language, source=twin, adaptor=aep.temperature(0.7))
    passes = []
    rows = type(language).rows
    monkeypatch.setattr(type(language), "rows", lambda self, *args, **kw: passes.append(1) or rows(self, *args, **kw))
    once = aep.score(texts, language, source=language, adaptor=aep.temperature(0.7))
    assert len(passes) == 1
    for name in twice.columns:
        np.testing.assert_array_equal(once[name], twice[name])


def test_a_record_written_while_sampling_is_not_taken_for_texts_whose_prompt_was_replaced(tiny):  # noqa: F811
    texts = aep.sample(tiny("mistral"), "abc", texts=2, tokens=8, seed=1, record=True)
    other = replace(texts, prompts=[texts.prompts[0][:1]])
    expected = aep.score(replace(other, records=None), tiny("mistral"))
    np.testing.assert_array_equal(aep.score(other, tiny("mistral"))["surprisal"], expected["surprisal"])
    assert aep.score(texts, tiny("mistral")) is texts.records


def test_the_adaptor_of_a_source_is_the_one_its_texts_record():
    texts = aep.sample(CHAIN, texts=3, tokens=20, seed=50, adaptor="temperature(.5)|top_k(2)")
    recorded = aep.score(texts, HIDDEN, source=CHAIN)
    given = aep.score(texts, HIDDEN, source=CHAIN, adaptor=aep.temperature(0.5) | aep.top_k(2))
    assert recorded.meta == given.meta and recorded.meta["adaptor"] == "temperature(0.5)|top_k(2)"
    for name, column in given.columns.items():
        np.testing.assert_array_equal(recorded[name], column)
    with pytest.warns(
        UserWarning, match=r"drew these texts with temperature\(0.5\)\|top_k\(2\).* adaptor=ancestral\(\)"
    ):
        other = aep.score(texts, HIDDEN, source=CHAIN, adaptor="ancestral()")
    assert other.meta["adaptor"] == "ancestral()"
    plain = aep.score(texts.ids, HIDDEN, source=CHAIN)  # ids alone record nothing
    np.testing.assert_array_equal(plain["cross_entropy"], other["cross_entropy"])
    assert (recorded["cross_entropy"] != plain["cross_entropy"]).all()


def test_texts_that_another_source_drew_with_an_adaptor_are_said_to_be():
    texts = aep.sample(CHAIN, texts=2, tokens=10, seed=51, adaptor="temperature(.5)")
    with pytest.warns(
        UserWarning, match=r"drew these texts with temperature\(0.5\); the source .* is taken with ancestral"
    ):
        records = aep.score(texts, CHAIN, source=HIDDEN)
    assert records.meta["adaptor"] == "ancestral()"
