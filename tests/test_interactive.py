"""Watching a text: it is the text of `aep.sample`, its state is that of the tables, and the widgets start, stop and report.

Seeds were fixed before the first run.
"""

import asyncio
import importlib
import struct
import sys
import threading

import numpy as np
import pytest
from scipy import special

import aep
from aep import _progress, interactive
from aep.adaptors import parse
from aep.analysis import eprocess, self_aep
from aep.analysis.typicality import Paths
from aep.errors import AdaptorError, AepError, ContextTooLong, ParameterError, PromptError
from aep.interactive import Panel, growing, state, watch
from aep.languages import FiniteLanguage, MarkovChain
from exact_paths import P
from tiny_models import one_thread, tiny  # noqa: F401

CHAIN = MarkovChain(P, [0.2, 0.5, 0.3], name="chain")
WIDE = MarkovChain(np.random.default_rng(7).dirichlet(np.full(20, 0.5), size=20), name="wide")


@pytest.fixture(scope="module")
def docs():
    return aep.load("docs-100k")


def last(language, prompt=None, **options):
    *_, end = growing(language, prompt, **options)
    return end


# ------------------------------------------------------------------------------------------------------- the same text


@pytest.mark.parametrize("adaptor", [None, aep.temperature(0.8), aep.temperature(1.2) | aep.top_k(2)], ids=str)
@pytest.mark.parametrize("prompt", [None, "b a", [2]], ids=str)
def test_it_is_the_text_of_sample_with_the_columns_of_its_record(prompt, adaptor):
    chain = MarkovChain(P, symbols="abc")
    options = {"tokens": 60, "seed": 3, "adaptor": adaptor}
    found = last(chain, prompt, **options)
    texts = aep.sample(chain, None if prompt is None else [prompt], record=True, **options)
    assert found.columns.keys() == texts.records.columns.keys()
    for name, column in texts.records.columns.items():
        np.testing.assert_array_equal(found[name], column, err_msg=name)
        assert found[name].dtype == column.dtype
    assert last(chain, prompt, tokens=60, seed=4, adaptor=adaptor)["token"].tolist() != found["token"].tolist()


@pytest.mark.parametrize("sampler", ["ancestral()", "top_k(50)"])
def test_on_a_network_too_and_its_state_is_that_of_the_tables_after_a_scoring_pass(docs, sampler):
    options = {"tokens": 80, "seed": 5, "adaptor": parse(sampler)}
    found = last(docs, "The function", **options)
    texts = aep.sample(docs, ["The function"], **options)
    assert found["token"].tolist() == texts.ids[0].tolist()
    records = aep.score(texts, docs)
    table, expected = state(found, 0.1), self_aep.running(records, 0, 0.1)
    assert list(table) == [*expected, "log_e"]
    np.testing.assert_allclose(table[list(expected)], expected, rtol=1e-9)
    final = self_aep.per_text(records, texts, docs.name).iloc[0]
    for ours, theirs in (("log_perplexity",) * 2, ("empirical_entropy",) * 2, ("sigma",) * 2, ("log_e",) * 2):
        assert table[ours].iloc[-1] == pytest.approx(final[theirs], rel=1e-8, abs=1e-8)


def test_every_token_gives_the_state_of_the_text_so_far_and_leaves_earlier_ones_alone():
    seen = list(growing(CHAIN, tokens=30, seed=6))
    assert [len(r) for r in seen] == list(range(1, 31))
    whole = state(seen[-1])
    for records in seen:
        table = state(records)
        np.testing.assert_array_equal(records["token"], seen[-1]["token"][: len(records)])
        np.testing.assert_allclose(table, whole[: len(table)], rtol=1e-12, atol=1e-12)


def test_the_state_by_hand_on_a_chain():
    """l, h, σ and the e-value of the definitions, from the rows of the chain alone; the band holds l while e < 1/α."""
    records = last(CHAIN, tokens=40, seed=8)
    x = records["token"]
    rows = np.log([CHAIN.initial, *P[x[:-1]]])
    a = -rows[np.arange(40), x]
    h = -np.sum(np.exp(rows) * rows, axis=1)
    v = np.sum(np.exp(rows) * (rows + h[:, None]) ** 2, axis=1)
    grid = {theta: special.logsumexp(theta * rows, axis=1) for theta in interactive.Paths.of(records, 0).log_partition}
    by_hand = [s * a.sum() - eprocess.log_mgf(Paths(a, h, v, grid), s).sum() for s in eprocess.EXPONENTS]
    table = state(records)
    end = table.iloc[-1]
    expected = a.mean(), h.mean(), np.sqrt(v.sum()) / 40, special.logsumexp(by_hand) - np.log(len(by_hand))
    np.testing.assert_allclose(end[["log_perplexity", "empirical_entropy", "sigma", "log_e"]], expected, rtol=1e-9)
    inside = (table.band_low < table.log_perplexity) & (table.log_perplexity < table.band_high)
    np.testing.assert_array_equal(inside, table.log_e < np.log(20))


def test_one_step_of_the_language_per_token():
    class Counting(MarkovChain):
        calls = 0

        def start(self, prompts):
            Counting.calls += 1
            return super().start(prompts)

        def step(self, state, ids):
            Counting.calls += 1
            return super().step(state, ids)

    for records in growing(Counting(P), tokens=25, seed=0):
        assert Counting.calls == len(records)


def test_another_temperature_makes_the_e_value_grow_and_the_languages_own_text_does_not():
    """Twenty symbols, 250 tokens, six seeds. More than 2 of 6 rejections of the language's own text at level .05 have a
    chance of .0022 for a correct build, and in truth far less: the e-process is conservative.
    """
    own = [state(last(WIDE, tokens=250, seed=seed)).log_e for seed in range(6)]
    other = [state(last(WIDE, tokens=250, seed=s, adaptor=aep.temperature(0.5))).log_e for s in range(6)]
    assert sum(log_e.max() >= np.log(20) for log_e in own) <= 2
    assert all(log_e.iloc[-1] > np.log(20) for log_e in other)
    assert np.mean([e.iloc[-1] - e.iloc[124] for e in other]) > 2


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tokens": 0}, ParameterError, "tokens=0: an integer of at least 1"),
        ({"seed": -1}, ParameterError, "seed=-1: an integer of at least 0"),
        ({"prompt": ""}, PromptError, "prompt 0 is empty"),
        ({"prompt": "a z"}, PromptError, "no symbol 'z'"),
        ({"prompt": [3]}, PromptError, "token id 3"),
    ],
)
def test_a_bad_argument_is_refused_as_by_sample(change, error, message):
    arguments = {"prompt": None, "tokens": 3, "seed": 0} | change
    with pytest.raises(error, match=message):
        next(growing(MarkovChain(P, symbols="abc"), arguments.pop("prompt"), **arguments))


def test_a_text_that_does_not_fit_the_context_is_refused_before_its_first_token(tiny):  # noqa: F811
    language = tiny("gpt2")
    limit = language.context_length
    with pytest.raises(ContextTooLong, match=f"ask for at most {limit - 2} tokens"):
        next(growing(language, "ab", tokens=limit - 1, seed=0))
    assert len(last(language, "ab", tokens=limit - 2, seed=0)) == limit - 2
    with pytest.raises(PromptError, match="no start token"):
        next(growing(tiny("gpt2", bos=False), tokens=3, seed=0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": []}, ParameterError, "there is no model to choose from"),
        ({"models": "docs-100k"}, ParameterError, r"models='docs-100k': give a list"),
        ({"samplers": []}, ParameterError, "there is no sampler"),
        ({"samplers": ["top_k(0)"]}, AdaptorError, r"top_k\(0\)"),
        ({"samplers": ["topk(5)"]}, AdaptorError, "unknown adaptor 'topk': did you mean 'top_k'"),
        ({"alpha": 1.0}, ParameterError, "alpha=1.0"),
    ],
)
def test_watch_refuses_choices_that_are_none_even_where_it_shows_nothing(change, error, message):
    arguments = {"models": [CHAIN], "samplers": ["ancestral()"]} | change
    with pytest.raises(error, match=message):
        watch(arguments.pop("models"), arguments.pop("samplers"), **arguments)


# ------------------------------------------------------------------------------------------------------------- widgets


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """No picture is drawn, except in the tests of pictures: one costs more than a hundred tokens."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(interactive, "picture", lambda table, **options: b"")


async def until(condition, seconds: float = 120.0) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def panel(models=None, samplers=("ancestral()", "temperature(0.5)"), **options) -> Panel:
    models = {"wide": WIDE} if models is None else models
    return Panel(
        models, {s: parse(s) for s in samplers}, **({"prompt": "", "tokens": 16, "seed": 1, "alpha": 0.05} | options)
    )


def served(steps, *arguments, **options) -> Panel:
    """A panel after `steps(panel)` in an event loop, its task ended."""

    async def main() -> Panel:
        shown = panel(*arguments, **options)
        await steps(shown)
        await asyncio.wait([shown.task])
        await asyncio.sleep(0)  # what is done when the task has ended
        return shown

    return asyncio.run(main())


async def click_start(shown: Panel) -> None:
    before = shown.task
    shown.start.click()
    await until(lambda: shown.task is not before)


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def test_start_draws_the_text_and_shows_map_numbers_and_picture():
    shown = served(click_start)
    end = state(last(WIDE, tokens=16, seed=1)).iloc[-1]
    assert shown.status.value.startswith(
        f"16 of 16 tokens: l = {end.log_perplexity:.3f}, h = {end.empirical_entropy:.3f}"
    )
    assert f"log e-value {end.log_e:.2f}.<br>The e-value has not reached 1/α = 20." in shown.status.value.replace(
        "−", "-"
    )
    assert "wide, ancestral(): without a prompt" in shown.text.value
    assert shown.text.value.count("<span title=") == 16
    assert size(shown.picture.value) == (1350, 520)
    assert shown.picture.layout.display == "" and shown.stop.disabled


def test_choices_are_those_of_the_moment_of_the_click_and_the_e_value_of_another_sampler_rejects():
    async def choose(shown):
        shown.sampler.value, shown.tokens.value, shown.seed.value, shown.prompt.value = (
            "temperature(0.5)",
            150,
            0,
            "a b",
        )
        await click_start(shown)
        shown.sampler.value, shown.prompt.value = "ancestral()", "c"

    shown = served(choose)
    table = state(last(WIDE, "a b", tokens=150, seed=0, adaptor=aep.temperature(0.5)))
    rejected = eprocess.first_rejection(table.log_e.to_numpy(), 0.05)
    assert f"150 of 150 tokens: l = {table.log_perplexity.iloc[-1]:.3f}" in shown.status.value
    assert f"reached 1/α = 20 at token {rejected:.0f}: at level 0.05, not the model" in shown.status.value
    assert "wide, temperature(0.5): after “a b”" in shown.text.value


@pytest.mark.parametrize("beside", [False, True], ids=["same thread", "another thread"])
def test_stop_ends_the_text_and_it_can_be_started_again(beside):
    async def stop_early(shown):
        click = shown.stop.click
        await click_start(shown)
        assert not shown.stop.disabled
        await until(lambda: shown.status.value.startswith(tuple(f"{t} of" for t in range(5, 40))))
        threading.Thread(target=click).start() if beside else click()
        await until(lambda: not shown.start.disabled)
        drawn = int(shown.status.value.split()[0])
        assert 5 <= drawn < 1000 and shown.status.value.endswith("Stopped here.")
        assert shown.text.value.count("<span title=") == drawn
        shown.tokens.value = 12
        await click_start(shown)

    shown = served(stop_early, tokens=100_000)
    assert shown.status.value.startswith("12 of 12 tokens") and "Stopped" not in shown.status.value


def test_a_start_click_from_another_thread_reaches_the_event_loop_and_a_second_one_changes_nothing():
    async def start_beside(shown):
        threading.Thread(target=shown.start.click).start()
        await until(lambda: shown.task is not None)
        first = shown.task
        shown.start.click()
        await until(lambda: shown.status.value.startswith("2 of 16"))
        assert shown.task is first

    assert served(start_beside).status.value.startswith("16 of 16 tokens")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prompt": "a Z"}, "has no symbol &#x27;Z&#x27;"),
        ({"prompt": " "}, "prompt 0 is empty"),
        ({"tokens": 0}, "tokens=0: an integer of at least 1 is needed"),
        ({"seed": -2}, "seed=-2: an integer of at least 0 is needed"),
        ({"models": {"./nothing": "./nothing"}}, "is not a folder; embedded models are docs-"),
    ],
)
def test_an_error_is_one_line_in_the_widget_and_the_buttons_come_back(change, line):
    shown = served(click_start, change.get("models"), **{k: v for k, v in change.items() if k != "models"})
    assert line in shown.status.value and "\n" not in shown.status.value
    assert shown.status.value.startswith('<b style="color:#D55E00">')
    assert not shown.start.disabled and shown.stop.disabled and shown.text.value == ""


def test_a_context_that_is_too_short_is_said_in_the_widget(tiny):  # noqa: F811
    language = tiny("gpt2")
    limit = language.context_length
    shown = served(click_start, {"tiny": language}, prompt="ab", tokens=1000)
    assert f"{language.name} has a context of {limit}: ask for at most {limit - 2} tokens" in shown.status.value


def test_an_error_half_way_and_one_that_is_not_ours_are_shown_too():
    class Failing(FiniteLanguage):
        def step(self, state, ids):
            raise MemoryError("out of memory\nsecond line <b>")

    shown = served(click_start, {"failing": Failing([0.5, 0.5])})
    assert shown.status.value == '<b style="color:#D55E00">out of memory</b>'
    assert shown.text.value.count("<span title=") == 1
    assert not issubclass(MemoryError, AepError)


def test_a_model_that_is_named_is_loaded_when_it_is_chosen_and_once(monkeypatch):
    loaded = []
    monkeypatch.setattr(interactive, "load", lambda name: loaded.append(name) or WIDE)

    async def twice(shown):
        assert not loaded
        for _ in range(2):
            await click_start(shown)
            await asyncio.wait([shown.task])
            await until(lambda: not shown.start.disabled)

    assert served(twice, {"other": "other"}).status.value.startswith("16 of 16 tokens")
    assert loaded == ["other"]


def test_a_prompt_cannot_leave_its_place():
    evil = FiniteLanguage([0.5, 0.5], symbols=["<script>", "b"])
    shown = served(click_start, {"<i>x</i>": evil}, prompt="<script> b")
    assert "<script>" not in shown.text.value and "<i>x" not in shown.text.value
    assert "&lt;script&gt;" in shown.text.value


# -------------------------------------------------------------------------------------------------------------- switch


def test_watch_shows_nothing_where_nobody_watches(monkeypatch, capsys):
    """The switch of the progress bars: off in this test run, in papermill and in nbval."""
    assert watch([CHAIN]) is None
    monkeypatch.setenv("TQDM_DISABLE", "0")
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert watch([CHAIN]) is None
    monkeypatch.setattr(_progress, "enabled", lambda: True)
    monkeypatch.delitem(sys.modules, "ipykernel")
    assert watch([CHAIN]) is None  # a terminal
    assert capsys.readouterr() == ("", "")


def test_watch_shows_its_widgets_in_jupyterlab(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    monkeypatch.setenv("JPY_SESSION_NAME", "x.ipynb")
    monkeypatch.setitem(sys.modules, "ipykernel", importlib.import_module("ipykernel"))

    async def shown():
        return watch([CHAIN, "docs-100k"], {"own": "ancestral()", "cold": aep.temperature(0.5)}, prompt="1", seed=4)

    box = asyncio.run(shown())
    prompt, model, sampler = box.children[0].children
    assert (prompt.value, model.options, sampler.options) == ("1", ("chain", "docs-100k"), ("own", "cold"))
    assert [w.value for w in box.children[1].children[:2]] == [4, 400]
