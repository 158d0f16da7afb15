"""Contexts: segments and rolling caches change nothing, windows see exactly what they say, compiled equals eager."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import aep
from aep.errors import ContextTooLong, ParameterError
from aep.languages import MarkovChain
from aep.neural import cache, compiled, language
from aep.records import Texts
from aep.stretches import choose_context
from test_scoring import CUT, assert_equal, laws, ragged, reference
from tiny_models import VOCAB, WINDOW, one_thread, save_model, tiny  # noqa: F401

KINDS = ["mistral", "llama", "gpt2", "gpt_neox"]


@pytest.fixture
def short_segments(monkeypatch):
    """Networks are given three tokens at a time."""
    monkeypatch.setattr(language, "_SEGMENT", 3)
    monkeypatch.setattr(language, "_LEAST_SEGMENT", 3)


@pytest.mark.parametrize("prompts", [False, True], ids=["no prompt", "prompts"])
@pytest.mark.parametrize("kind", KINDS)
def test_segments_with_a_cache_equal_the_literal_columns(kind, prompts, tiny, short_segments):  # noqa: F811
    texts = ragged(VOCAB, 51, prompts=prompts, longest=40)
    for chunk in (1, 5, 256):
        assert_equal(aep.score(texts, tiny(kind), chunk=chunk), reference(texts, tiny(kind)))


def test_segments_wait_for_the_text_with_the_longest_prompt(tiny, short_segments):  # noqa: F811
    rng = np.random.default_rng(52)
    texts = Texts(
        [rng.integers(VOCAB, size=n) for n in (9, 4)], [rng.integers(VOCAB, size=n) for n in (1, 17)], np.arange(2)
    )
    for swap in (texts, Texts(texts.ids[::-1], texts.prompts[::-1], texts.prompt)):
        assert_equal(aep.score(swap, tiny("gpt2")), reference(swap, tiny("gpt2")))


def test_a_pair_in_segments_equals_the_literal_columns_whatever_the_start_tokens(tiny, short_segments):  # noqa: F811
    texts = ragged(VOCAB, 53, prompts=True, longest=20)
    with_start, without = tiny("llama"), tiny("gpt_neox", bos=False)
    for source, scorer in (
        (with_start, without),
        (without, with_start),
        (MarkovChain(np.full((VOCAB, VOCAB), 1 / VOCAB)), with_start),
    ):
        assert_equal(aep.score(texts, scorer, source=source, adaptor=CUT), reference(texts, scorer, source, CUT))


# --------------------------------------------------------------------------------------------------------- rolling


def test_a_rolling_cache_is_the_full_pass_and_goes_on_beyond_the_context(tiny, short_segments):  # noqa: F811
    model = tiny("mistral")
    long = np.random.default_rng(54).integers(VOCAB, size=3 * model.context_length)
    with pytest.raises(ContextTooLong, match="'rolling' takes any length"):
        aep.score([long], model)
    rolling = aep.score([long], model, context="rolling")
    assert_equal(rolling, reference(Texts.from_ids(model, [long]), model))  # the literal pass has no limit either
    fits = long[: model.context_length]
    for name, values in aep.score([fits], model).columns.items():
        np.testing.assert_array_equal(values, rolling[name][: len(fits)] if name != "text" else values, err_msg=name)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_rolling_is_refused_where_a_layer_sees_everything(kind, tiny):  # noqa: F811
    model = tiny(kind)
    with pytest.raises(ParameterError, match="context='rolling': .* has layers without a sliding window"):
        aep.score([[3, 4]], model, context="rolling")
    with pytest.raises(ParameterError, match="rolling"):
        aep.score([[3, 4]], tiny("mistral"), source=model, context="rolling")
    assert not tiny("llama", sliding_window=WINDOW).is_rolling  # its mask ignores the window


# --------------------------------------------------------------------------------------------------------- strided


def literal_windows(model, ids, size, overlap, every):
    """p of every token, window by window: the context it was given and nothing else."""
    found, done = laws(model, [], ids[:size].tolist()), size
    while done < len(ids):
        context, part = ids[done - overlap : done].tolist(), ids[done : done + size - overlap].tolist()
        found += laws(model, context, part, bos=every)
        done += len(part)
    return np.array(found)


@pytest.mark.parametrize("overlap", [None, 1, 30, 95])
@pytest.mark.parametrize("kind", KINDS)
def test_strided_windows_see_exactly_their_overlap_and_score_every_token_once(kind, overlap, tiny):  # noqa: F811
    model = tiny(kind)
    size = model.context_length
    ids = np.random.default_rng(55).integers(VOCAB, size=2 * size + 17 if overlap != 95 else size + 3)
    for bos in (True, "every"):
        records = aep.score([ids], model, context="strided", overlap=overlap, bos=bos)
        p = literal_windows(model, ids, size, size // 2 if overlap is None else overlap, bos == "every")
        np.testing.assert_array_equal(records["token"], ids)
        np.testing.assert_array_equal(records["position"], np.arange(len(ids)))
        np.testing.assert_allclose(records["surprisal"], -np.log(p[np.arange(len(ids)), ids]), atol=1e-9)
        assert (records.meta["context"], records.meta["bos"]) == ("strided", bos)


def test_strided_is_full_for_a_text_that_fits_and_differs_beyond(tiny):  # noqa: F811
    model = tiny("gpt2")
    texts = ragged(VOCAB, 56, prompts=True, longest=60)
    full, strided = aep.score(texts, model), aep.score(texts, model, context="strided")
    for name in full.columns:
        np.testing.assert_array_equal(full[name], strided[name], err_msg=name)
    ids = np.random.default_rng(57).integers(VOCAB, size=2 * model.context_length)
    small, large = (aep.score([ids], model, context="strided", overlap=n)["surprisal"] for n in (2, 80))
    assert np.abs(small - large).max() > 1e-3


def test_a_prompt_that_fills_the_window_leaves_its_end_as_context(tiny):  # noqa: F811
    model = tiny("gpt2")
    rng = np.random.default_rng(58)
    prompt, ids = rng.integers(VOCAB, size=model.context_length + 20), rng.integers(VOCAB, size=7)
    records = aep.score(Texts([ids], [prompt], np.zeros(1, int)), model, context="strided", overlap=40)
    p = np.array(laws(model, prompt[-40:].tolist(), ids.tolist(), bos=False))
    np.testing.assert_allclose(records["surprisal"], -np.log(p[np.arange(7), ids]), atol=1e-9)


@pytest.mark.parametrize("overlap", [0, 96, True])
def test_an_overlap_that_leaves_nothing_to_score_is_refused(overlap, tiny):  # noqa: F811
    with pytest.raises(ParameterError, match="overlap="):
        aep.score([np.full(200, 4)], tiny("gpt2"), context="strided", overlap=overlap)


def test_an_unknown_start_token_policy_is_refused(tiny):  # noqa: F811
    with pytest.raises(ParameterError, match="bos='always'"):
        aep.score([[4]], tiny("gpt2"), bos="always")


def test_the_policy_is_chosen_by_length_and_by_what_is_exact(tiny):  # noqa: F811
    limit = tiny("gpt2").context_length
    assert choose_context(tiny("gpt2"), limit) == "full"
    assert choose_context(tiny("gpt2"), limit + 1) == "strided"
    assert choose_context(tiny("mistral"), limit + 1) == "rolling"
    assert choose_context(MarkovChain(np.full((2, 2), 0.5)), 10**6) == "full"


# ------------------------------------------------------------------------------------------------ cache, compiled


@pytest.mark.parametrize("kind", KINDS)
def test_the_growing_cache_holds_what_transformers_own_cache_holds(kind, tiny):  # noqa: F811
    model = tiny(kind).model
    ids = torch.from_numpy(np.random.default_rng(59).integers(VOCAB, size=(2, 90)))
    theirs = transformers_cache(model)
    ours = cache.new_cache(model)
    with torch.inference_mode():
        for part in ids.split([3, 1, 1, 7, 1, 40, 1, 1, 35], dim=1):
            a, b = (model(input_ids=part, past_key_values=c, use_cache=True).logits for c in (theirs, ours))
            assert torch.equal(a, b)
    for a, b in zip(theirs.layers, ours.layers, strict=True):
        assert torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)
        assert a.get_seq_length() == b.get_seq_length() == 90


def transformers_cache(model):
    from transformers import DynamicCache

    return DynamicCache() if model.config.model_type == "llama" else DynamicCache(config=model.config)


PROGRAM = """
import sys, numpy as np, aep
from aep.records import Texts
rng = np.random.default_rng(60)
texts = Texts([rng.integers(23, size=n) for n in (50, 7, 31)], [np.empty(0, int)], np.zeros(3, int))
source, scorer = map(aep.load, sys.argv[1:])
pair = dict(source=source, adaptor=aep.temperature(1.3) | aep.nucleus(.8))
eager, fast = (aep.score(texts, scorer, **pair, chunk=32, compiled=c) for c in (False, True))
print(max(float(np.max(np.abs(fast[n] - eager[n]) / (1 + np.abs(eager[n])))) for n in eager.columns))
print(any("cpp" in m or "inductor" in m for m in sys.modules))
"""


def test_the_compiled_reduction_equals_the_eager_one(tmp_path):
    """In a process of its own: the shape checks of the tests cannot be compiled."""
    if not compiled.compiler_works():
        pytest.skip("torch.compile does not work here (compiler or headers missing)")
    models = [str(save_model(tmp_path / kind, kind)) for kind in ("llama", "gpt2")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *models], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-800:]
    assert "eagerly" not in done.stderr and "eager from now on" not in done.stderr
    difference, was_compiled = done.stdout.split()
    assert float(difference) < 1e-12 and was_compiled == "True"


def test_without_a_compiler_the_reduction_is_eager_and_says_so(monkeypatch, caplog, tiny):  # noqa: F811
    monkeypatch.setattr(compiled, "compiler_works", lambda: False)
    assert compiled.fused(torch.device("cpu"), 10, wanted=True) is None
    assert "runs eagerly" in caplog.text
    assert compiled.fused(torch.device("cpu"), compiled.LARGE - 1) is None  # small work is never compiled


def doubled(xp, x):
    return xp.add(x, x)


def test_a_kernel_that_fails_to_compile_is_run_eagerly(monkeypatch, caplog):
    def broken(function, dynamic):
        def call(*tensors):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    double = compiled._compiled(doubled, torch)
    assert double(torch.ones(2)).tolist() == [2.0, 2.0] == double(torch.ones(2)).tolist()
    assert caplog.text.count("eager from now on") == 1
