"""The self-AEP after prompts made to upset a model, on exact and neural languages; a forgotten prompt is noticed.

Seeds were fixed before the first run; every set of rows is accepted for a correct build except with probability .001.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import aep
from aep.analysis import adversarial
from aep.analysis.typicality import Paths
from aep.errors import ParameterError
from aep.languages import MarkovChain
from aep.plotting import colours
from aep.plotting import regimes as draw
from tiny_models import one_thread, tiny  # noqa: F401

KINDS = [
    "start token alone",
    "random ids",
    "one token repeated",
    "another language",
    "another script",
    "cut word",
    "very long",
]
CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])


def checked(language, prompts: dict) -> None:
    special = {language.bos, language.eos, *language.tokenizer.all_special_ids}
    for kind in ("random ids", "one token repeated"):
        assert not special & set(prompts[kind].tolist()), kind
    assert len(set(prompts["one token repeated"].tolist())) == 1 < len(set(prompts["random ids"].tolist()))
    for kind, ids in prompts.items():
        assert len(ids) <= language.context_length // 2, kind
        assert ids.dtype.kind == "i" and (kind == "start token alone") == (not len(ids)), kind
        assert ((ids >= 0) & (ids < language.vocab_size)).all()


@pytest.mark.parametrize("name", ["docs-100k", "docs-bytes"])
def test_an_embedded_model_encodes_every_kind_and_gets_every_character_back(name):
    language = aep.load(name)
    prompts = adversarial.adversarial_prompts(language, 1, longest=300)
    checked(language, prompts)
    assert list(prompts) == KINDS and len(prompts["very long"]) == 300
    for kind, text in (("another language", adversarial.FOREIGN), ("another script", adversarial.OTHER_SCRIPT)):
        assert language.decode(prompts[kind]) == text
    assert not language.decode(prompts["cut word"]).endswith("transform")
    again = adversarial.adversarial_prompts(language, 1, longest=300)
    assert all((again[kind] == prompts[kind]).all() for kind in KINDS)
    other = adversarial.adversarial_prompts(language, 2, longest=300)
    assert (other["random ids"] != prompts["random ids"]).any() and (other["cut word"] == prompts["cut word"]).all()


def test_a_cut_word_is_not_cut_where_the_tokenizer_would_cut():
    language = aep.load("docs-100k")
    cut = adversarial.adversarial_prompts(language)["cut word"]
    whole = language.encode(language.decode(cut) + "med")
    assert whole[: len(cut)].tolist() != cut.tolist()


def test_stories260k_encodes_every_kind_by_bytes(stories260k):
    language = aep.load(str(stories260k))
    prompts = adversarial.adversarial_prompts(language, 1)
    checked(language, prompts)
    assert list(prompts) == KINDS and len(prompts["very long"]) == language.context_length // 2
    assert language.decode(prompts["another script"]) == adversarial.OTHER_SCRIPT


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_other_architectures_take_every_kind_within_half_their_context(tiny, kind):  # noqa: F811
    language = tiny(kind)
    prompts = adversarial.adversarial_prompts(language, 3)
    checked(language, prompts)
    assert list(prompts) == KINDS and len(prompts["very long"]) == language.context_length // 2


def test_what_a_language_cannot_express_is_left_out(tiny):  # noqa: F811
    without_start = adversarial.adversarial_prompts(tiny("gpt2", bos=False), 3)
    assert list(without_start) == KINDS[1:]
    assert list(adversarial.adversarial_prompts(CHAIN, 3)) == KINDS[:3]
    with pytest.raises(ParameterError, match="longest=0: at least 1 token is needed"):
        adversarial.adversarial_prompts(CHAIN, longest=0)


def probed(language, texts=64, tokens=64, longest=48, **options) -> pd.DataFrame:
    prompts = adversarial.adversarial_prompts(language, 801, longest=longest)
    return adversarial.probe(language, prompts, texts=texts, tokens=tokens, seed=802, **options)


@pytest.fixture(scope="module")
def embedded() -> pd.DataFrame:
    return probed(aep.load("docs-100k"))


def test_the_aep_holds_after_every_prompt_of_an_embedded_model(embedded):
    table = adversarial.by_kind(embedded)
    assert table.prompt.tolist() == KINDS and (table.verdict == "accepted").all()
    assert (table.difference_low < table.difference).all() and (table.tested == 1).all()
    pooled = adversarial.by_kind(embedded.assign(prompt="all"))
    assert pooled.verdict.tolist() == ["accepted"] and pooled.texts.item() == 7 * 64


@pytest.mark.parametrize("control", [{"forget": True}, {"adaptor": aep.temperature(0.8)}])
def test_a_forgotten_prompt_and_another_temperature_are_rejected(control):
    found = probed(aep.load("docs-100k"), **control)
    table = adversarial.by_kind(found)
    assert (table.verdict == "rejected").sum() >= len(table) - 1, table[["prompt", "mean_z", "verdict"]]
    assert adversarial.by_kind(found.assign(prompt="all")).verdict.tolist() == ["rejected"]
    assert ("start token alone" in set(table.prompt)) == ("adaptor" in control)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_the_aep_holds_after_every_prompt_of_other_architectures_and_a_forgotten_prompt_is_noticed(tiny, kind):  # noqa: F811
    own, forgotten = (probed(tiny(kind), texts=100, tokens=45, forget=flag) for flag in (False, True))
    assert (adversarial.by_kind(own).verdict == "accepted").all()
    assert adversarial.by_kind(forgotten.assign(prompt="all")).verdict.tolist() == ["rejected"]


def test_the_aep_holds_after_every_prompt_of_stories260k(stories260k):
    language = aep.load(str(stories260k))
    assert (adversarial.by_kind(probed(language)).verdict == "accepted").all()
    assert (adversarial.by_kind(probed(language, forget=True)).verdict == "rejected").all()


def test_a_model_without_a_start_token_is_probed_too(tiny):  # noqa: F811
    language = tiny("gpt2", bos=False)
    own, forgotten = probed(language, tokens=40), probed(language, tokens=40, forget=True)
    assert set(own.tokens) == {40} and set(forgotten.tokens) == {39}  # the first token is context there
    assert (adversarial.by_kind(own).verdict == "accepted").all()


def test_rows_are_those_of_sample_and_score(tiny):  # noqa: F811
    language = tiny("gpt2")
    prompts = {"start token alone": np.empty(0, np.int64), "two": np.array([5, 6]), "one": np.array([9])}
    table = adversarial.probe(language, prompts, texts=2, tokens=30, seed=4)
    assert table.prompt.tolist() == ["start token alone"] * 2 + ["two"] * 2 + ["one"] * 2
    assert table.prompt_tokens.tolist() == [0, 0, 2, 2, 1, 1]
    texts = aep.sample(language, [prompts["two"], prompts["one"]], texts=2, tokens=30, seed=4)
    np.testing.assert_allclose(table.l[2:], Paths.of(aep.score(texts, language)).surprisal.mean(axis=1))
    alone = aep.sample(language, texts=2, tokens=30, seed=5)
    np.testing.assert_allclose(table.h[:2], Paths.of(aep.score(alone, language)).entropy.mean(axis=1))
    forgotten = adversarial.probe(language, prompts, texts=2, tokens=30, seed=4, forget=True)
    by_hand = Paths.of(aep.score(texts.ids, language))
    np.testing.assert_allclose(forgotten.difference, (by_hand.surprisal - by_hand.entropy).mean(axis=1))
    assert set(forgotten.context) == {"forgotten"} and set(table.context) == {"as sampled"}


def test_a_prompt_says_nothing_about_an_exact_chain_beyond_its_last_symbol():
    """300 texts of 200 symbols after each of three prompts: accepted; scored at temperature .8: rejected."""
    assert (adversarial.by_kind(probed(CHAIN, texts=300, tokens=200)).verdict == "accepted").all()
    other = adversarial.by_kind(probed(CHAIN, texts=300, tokens=200, adaptor=aep.temperature(0.8)))
    assert (other.verdict == "rejected").all()


def test_texts_without_a_test_are_said_to_have_none_and_leave_the_others_alone():
    point = MarkovChain([[0.0, 1.0], [1.0, 0.0]], name="two-cycle")
    found = pd.concat([probed(point, texts=60, tokens=60), probed(CHAIN, texts=60, tokens=60)])
    table = adversarial.by_kind(found).set_index("model")
    assert set(table.verdict["two-cycle"]) == {"no test"} and set(table.verdict[CHAIN.name]) == {"accepted"}
    assert table.mean_z["two-cycle"].isna().all() and (table.difference["two-cycle"].to_numpy()[1:] == 0).all()
    nothing = adversarial.by_kind(probed(point, texts=60, tokens=60))
    assert set(nothing.verdict) == {"no test"}


def test_nothing_to_forget_is_refused():
    with pytest.raises(ParameterError, match="there is no prompt to start from and to forget"):
        adversarial.probe(CHAIN, {"start": np.empty(0, np.int64)}, texts=2, tokens=30, seed=1, forget=True)


def test_the_figure_has_a_row_per_prompt_and_a_marker_per_model_and_control(embedded):
    table = adversarial.by_kind(embedded)
    figure, ax = plt.subplots()
    draw.plot_prompts(ax, {"own": table, "control": table[table.prompt != KINDS[0]]}, colours(["docs-100k"]))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == KINDS
    points = [container.lines[0].get_xdata().astype(float) for container in ax.containers]
    np.testing.assert_allclose(points[0], table.difference.astype(float))
    assert len(points[1]) == 6
    plt.close(figure)
