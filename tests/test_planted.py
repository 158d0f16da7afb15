"""Planted documents: drawn, assigned, put into the stream exactly so often, absent from the twin, and measured exactly.

Seeds were fixed before the first run. The tests of the assignment, of the schedule and of unseen tales reject a correct
build with a probability of .001, .002 and .001 for a new seed; every other one is exact.
"""

import dataclasses
import hashlib
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import aep
from aep import data_table, outputs
from aep.errors import DistributionError, ModelError, ParameterError, PromptError, RecordError
from aep.languages import Grammar, Template
from aep.neural.training import cards, configs, export, planted, planted_run, tales, train
from tiny_models import one_thread  # noqa: F401

DOCUMENTS = planted.planted()
GRAMMAR, LAW = DOCUMENTS.grammar, planted.canary_law()
FEW = planted.planted(per_count=1)  # 127 insertions of either kind
TWO = planted.planted(per_count=2)
NAMES = [name for name in configs.FAMILY if isinstance(configs.get(name), configs.PlantedSpec)]
TINY = configs.PlantedSpec(
    "tiny", hidden=16, layers=2, heads=2, feed_forward=24, steps=64, warmup=3, validate_every=32,
    vocabulary=GRAMMAR.vocab_size, window=32, batch=8, length=96,
)  # fmt: skip


def batches(documents, *, steps=64, batch=4, length=96, seed=0, twin=False):
    return planted.PlantedBatches(documents, steps=steps, batch=batch, length=length, seed=seed, twin=twin)


def texts_of(row):
    """The whole texts of a row with their end tokens, and the words of the one that was cut."""
    ends = np.flatnonzero(row == 0)
    return [row[a + 1 : b + 1] for a, b in itertools.pairwise(ends)], row[ends[-1] + 1 :]


# -- a law of one form


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 9))
def test_a_template_gives_every_text_its_probability_and_no_other_text_any(sizes, seed):
    symbols = ("<end>", "a", "b", "c")
    law = Template([symbols[1 : n + 1] for n in sizes], symbols)
    texts = [[*x, 0] for x in itertools.product(*(range(1, n + 1) for n in sizes))]
    assert law.size == len(texts) and sum(math.exp(law.log_probability(x)) for x in texts) == pytest.approx(1)
    records = aep.score([np.array(x) for x in texts], law)
    by_text = np.bincount(records["text"], records["surprisal"])
    assert by_text == pytest.approx(law.entropy()) and np.bincount(records["text"], records["entropy"])[0] == (
        pytest.approx(law.entropy())
    )
    other = np.random.default_rng(seed).integers(4, size=len(sizes) + 1)
    assert math.isfinite(law.log_probability(other)) == (other.tolist() in texts)


def test_after_a_text_a_template_begins_the_next_and_refuses_what_it_cannot_write():
    law = Template([["a"], ["a", "b"]], ["<end>", "a", "b"], name="two")
    assert law.log_probability([1, 2, 0, 1, 1, 0]) == pytest.approx(-2 * np.log(2))
    assert np.array_equal(law.start([[1, 2, 0]])[0], law.start([[]])[0])
    log_p, state = law.start([[1], [2]])
    assert (
        np.isfinite(log_p[0]).any()
        and np.isnan(log_p[1]).all()
        and np.isnan(law.step(state, np.array([1, 1]))[0][1]).all()
    )
    with pytest.raises(DistributionError):
        aep.score([np.array([2, 2, 0])], law)
    with pytest.raises(PromptError, match="token id 7"):
        law.step(state, np.array([7, 1]))


@pytest.mark.parametrize(
    ("choices", "said"),
    [([], "at least one place"), ([["a"], []], r"choices\[1\]=\[\]"), ([["a", "a"]], "different words"),
     ([["x"]], "'x' is none"), ([["<end>"]], "'<end>' is none")],
)  # fmt: skip
def test_a_template_refuses_lists_that_make_no_law(choices, said):
    with pytest.raises(ParameterError, match=said):
        Template(choices, ["<end>", "a"])


# -- the documents


def test_every_kind_has_fifty_documents_for_every_count_and_all_differ():
    assert planted.PER_COUNT >= 50 and len(DOCUMENTS) == 2 * planted.PER_COUNT * len(planted.COUNTS)
    assert len({ids.tobytes() for ids in DOCUMENTS.ids}) == len(DOCUMENTS)
    for kind, count in itertools.product(planted.KINDS, planted.COUNTS):
        assert ((DOCUMENTS.kind == kind) & (DOCUMENTS.count == count)).sum() == planted.PER_COUNT


def test_log_probabilities_are_those_of_stepping_through_the_laws():
    for kind, law in (("tale", GRAMMAR), ("canary", LAW)):
        chosen = DOCUMENTS.of(kind)
        records = aep.score(chosen.texts(law).select(range(0, len(chosen), 13)), law)
        assert -np.bincount(records["text"], records["surprisal"]) == pytest.approx(chosen.log_p[::13], abs=1e-9)


def test_tales_are_of_the_grammar_and_canaries_are_not_but_over_the_same_words():
    canaries = DOCUMENTS.of("canary")
    assert all(GRAMMAR.log_probability(ids) == -math.inf for ids in canaries.ids)
    assert canaries.log_p == pytest.approx(-6 * np.log(10)) and LAW.size == 10**6
    assert LAW.vocabulary_hash == GRAMMAR.vocabulary_hash and LAW.symbols == GRAMMAR.symbols
    words = GRAMMAR.decode(canaries.ids[0]).split()
    assert all(word in slot for word, slot in zip(words[planted.SECRET], planted.SLOTS, strict=True))
    assert np.isfinite(DOCUMENTS.of("tale").log_p).all()


def test_every_block_has_every_count_once_and_neighbouring_log_probabilities():
    for kind in planted.KINDS:
        chosen = DOCUMENTS.of(kind)
        for block in range(planted.PER_COUNT):
            assert sorted(chosen.count[chosen.block == block]) == list(planted.COUNTS)
        assert (np.diff(chosen.log_p) >= 0).all() and (np.diff(chosen.block) >= 0).all()


def test_counts_are_assigned_independently_of_length_and_of_log_probability_within_blocks():
    drawn = DOCUMENTS.of("tale")
    blocks = drawn.block.reshape(-1, len(planted.COUNTS))
    assert (blocks == blocks[:, :1]).all()
    for value in (drawn.length, drawn.log_p, np.arange(len(drawn)) % len(planted.COUNTS)):
        columns = value.reshape(blocks.shape)
        by_count = np.take_along_axis(columns, np.argsort(drawn.count.reshape(blocks.shape), axis=1), axis=1)
        assert stats.friedmanchisquare(*by_count.T).pvalue > 0.001 / 3
    # Matched: the groups differ in mean log p by far less than chance would let unmatched ones differ.
    means = [drawn.log_p[drawn.count == c].mean() for c in planted.COUNTS]
    assert np.std(means) < 0.1 * drawn.log_p.std() / np.sqrt(planted.PER_COUNT)


def test_another_seed_gives_other_documents_and_the_same_seed_the_same():
    again, other = planted._drawn.__wrapped__(0, 1), planted.planted(1, 1)
    assert again.hashes() == FEW.hashes() and (again.count == FEW.count).all()
    assert not set(other.hashes()) & set(FEW.hashes())


def test_the_committed_table_lists_the_documents_by_hash():
    listed = pd.read_csv(outputs.repository() / "data" / planted.FILE)
    assert list(listed) == ["sha256", "kind", "count", "block", "length", "log_p_truth"]
    text = GRAMMAR.decode(DOCUMENTS.ids[5]).removesuffix(" <end>")
    assert listed["sha256"][5] == hashlib.sha256(text.encode()).hexdigest()
    assert planted.verified() is planted.planted() is planted.planted(seed=0)


@pytest.mark.parametrize("damage", ["count", "log_p_truth", "rows"])
def test_a_table_that_does_not_fit_the_documents_is_refused(damage, monkeypatch, tmp_path):
    table = DOCUMENTS.table()
    if damage == "rows":
        table = table[:-1]
    else:
        table.loc[3, damage] += 1
    table.to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr(data_table, "verified", lambda _: tmp_path / "t.csv")
    with pytest.raises(RecordError, match="other documents than seed 0|other log-probabilities"):
        planted.verified()


def test_texts_can_be_scored_and_know_their_language():
    texts = FEW.texts()
    assert len(texts) == 16 and texts.decode(0).endswith("<end>")
    assert texts.decode(15).startswith("the secret word of the house was ")


@pytest.mark.parametrize("kind", planted.KINDS)
def test_unseen_documents_are_of_the_same_law_and_none_is_planted(kind):
    found, known = planted.unseen(kind, 300, seed=0), DOCUMENTS.of(kind)
    assert len(found) == len(set(found.hashes()) - set(DOCUMENTS.hashes())) == 300 and not found.count.any()
    assert np.isfinite(found.log_p).all() and set(found.kind) == {kind}
    assert planted.unseen(kind, 3, seed=0).hashes() == found.hashes()[:3] != planted.unseen(kind, 3, seed=1).hashes()
    if kind == "tale":
        assert stats.ks_2samp(found.log_p, known.log_p).pvalue > 0.001
    else:
        assert found.log_p == pytest.approx(-6 * np.log(10))


@pytest.mark.parametrize(
    ("ask", "said"),
    [(lambda: planted.planted(seed=-1), "seed=-1"), (lambda: planted.planted(per_count=0), "per_count=0"),
     (lambda: DOCUMENTS.of("tales"), "kind='tales'"),
     (lambda: planted.unseen("tail", 3, 0), "kind='tail'"), (lambda: planted.unseen("tale", 0, 0), "n=0"),
     (lambda: planted.schedule(FEW, 100), "254 insertions do not fit into 100 rows"),
     (lambda: batches(FEW, length=30), "length=30: a planted document has")],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(ask, said):
    with pytest.raises(ParameterError, match=said) as error:
        ask()
    assert "\n" not in str(error.value)


# -- the stream


def test_every_document_stands_in_the_stream_exactly_as_often_as_its_count_and_in_the_twin_never():
    known = {ids.tobytes(): i for i, ids in enumerate(FEW.ids)}
    for twin in (False, True):
        found, source = np.zeros(len(FEW), int), batches(FEW, twin=twin)
        for row in np.concatenate([source[step] for step in range(source.steps)]):
            for text in texts_of(row)[0]:
                if (i := known.get(text.tobytes())) is not None:
                    found[i] += 1
        assert np.array_equal(found, np.zeros(len(FEW)) if twin else FEW.count)


def test_the_schedule_is_seeded_uniform_over_the_training_and_at_most_one_a_row():
    plan = planted.schedule(DOCUMENTS, 32_000)
    assert np.array_equal(np.bincount(plan.document, minlength=len(DOCUMENTS)), DOCUMENTS.count)
    assert (np.diff(plan.row) > 0).all() and plan.row[0] >= 0 and plan.row[-1] < 32_000
    assert stats.kstest(plan.row / 32_000, "uniform").pvalue > 0.001
    often = plan.row[DOCUMENTS.count[plan.document] == 64]
    assert stats.kstest(often / 32_000, "uniform").pvalue > 0.001
    assert all(map(np.array_equal, plan, planted.schedule(DOCUMENTS, 32_000)))
    assert not np.array_equal(plan.row, planted.schedule(DOCUMENTS, 32_000, seed=1).row)


def test_the_twin_has_a_fresh_document_of_the_same_kind_and_the_same_tales_everywhere_else():
    ours, twin = batches(FEW), batches(FEW, twin=True)
    planned = set(ours.schedule.row.tolist())
    known = {ids.tobytes() for ids in FEW.ids}
    changed = 0
    for row in range(256):
        a, b = ours[row // 4][row % 4], twin[row // 4][row % 4]
        if row not in planned:
            assert np.array_equal(a, b)
            continue
        (whole, cut), (whole_b, cut_b) = texts_of(a), texts_of(b)
        (place,) = [i for i, text in enumerate(whole) if text.tobytes() in known]
        texts, others = [*whole, cut], [*whole_b, cut_b]
        laws = [math.isfinite(LAW.log_probability(x[place])) for x in (texts, others)]
        assert laws[0] == laws[1] and others[place].tobytes() not in known
        assert all(map(np.array_equal, texts[:place], others[:place]))
        for x, y in zip(texts[place + 1 :], others[place + 1 :], strict=False):
            assert np.array_equal(x[: len(y)], y[: len(x)])  # equal but for where the row ends
        changed += 1
    assert changed == 254


def test_rows_are_whole_tales_but_for_the_last_and_depend_on_nothing_but_seed_and_step():
    source = batches(FEW)
    rows = source[5]
    assert rows.shape == (4, 97) and (rows[:, 0] == 0).all()
    assert np.array_equal(batches(FEW)[5], rows) and not np.array_equal(batches(FEW, seed=1)[5], rows)
    fresh = []
    for row in np.concatenate([batches(FEW, twin=True)[step] for step in range(20)]):
        whole, cut = texts_of(row)
        strange = [x for x in whole if GRAMMAR.log_probability(x) == -math.inf]
        assert len(strange) <= 1 and math.isfinite(GRAMMAR.log_probability(cut))
        assert all(math.isfinite(LAW.log_probability(x)) for x in strange)
        fresh += [x.tobytes() for x in strange]
    assert 20 < len(set(fresh)) == len(fresh)


def test_a_document_as_long_as_its_row_fits():
    long = FEW.select(FEW.length == FEW.length.max())
    long = dataclasses.replace(long, count=np.full(len(long), 3))
    source = batches(long, length=int(long.length[0]), steps=3, batch=2)
    rows = np.concatenate([source[step] for step in range(3)])
    inside = sum(row[1:].tobytes() == long.ids[0].tobytes() for row in rows)
    assert inside == 3


def test_a_drawn_tale_that_is_a_planted_one_is_drawn_again():
    short = Grammar('S -> "a" S [1/2] | "b" [1/2]')
    ids = [np.array([2, 0])]
    documents = planted.Planted(ids, np.array(["tale"]), np.array([1]), np.array([0]), np.array([-np.log(2)]), short)
    rows = np.concatenate([planted.PlantedBatches(documents, steps=4, batch=2, length=40, seed=0)[i] for i in range(4)])
    whole = [text.tobytes() for row in rows for text in texts_of(row)[0]]
    assert whole.count(ids[0].tobytes()) == 1


# -- what is measured


def uniform_records(documents):
    """The documents under a law that gives every word the same probability."""
    law = aep.languages.FiniteLanguage(np.full(GRAMMAR.vocab_size, 1 / GRAMMAR.vocab_size))
    return aep.score(documents.ids, law)


def test_the_excess_is_the_sum_of_log_probabilities_less_the_truth():
    records, each = uniform_records(DOCUMENTS), -np.log(GRAMMAR.vocab_size)
    assert planted.excess(records, DOCUMENTS) == pytest.approx(DOCUMENTS.length * each - DOCUMENTS.log_p)
    canaries = DOCUMENTS.of("canary")
    secrets = planted.excess_of_secrets(uniform_records(canaries), canaries)
    assert secrets == pytest.approx(np.full(len(canaries), 6 * each + 6 * np.log(10)))
    own = planted.excess(aep.score(canaries.ids, LAW), canaries)
    assert own == pytest.approx(np.zeros(len(canaries)), abs=1e-9)


def test_the_table_of_excess_has_the_means_by_kind_and_count():
    records = uniform_records(DOCUMENTS)
    table = planted.excess_table(records, DOCUMENTS).set_index(["kind", "count"])
    assert len(table) == 24 and (table["documents"] == planted.PER_COUNT).all()
    mask = (DOCUMENTS.kind == "tale") & (DOCUMENTS.count == 8)
    values = planted.excess(records, DOCUMENTS)[mask]
    half = stats.t.ppf(0.975, 49) * values.std(ddof=1) / np.sqrt(50)
    row = table.loc[("tale", 8)]
    assert (row["excess"], row["low"], row["high"]) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half)
    )


def test_a_record_of_other_texts_or_of_tales_where_secrets_are_asked_for_is_refused():
    with pytest.raises(RecordError, match="a record of 16 texts for 800 planted documents"):
        planted.excess(uniform_records(FEW), DOCUMENTS)
    with pytest.raises(ParameterError, match="a tale has no secret"):
        planted.excess_of_secrets(uniform_records(FEW), FEW)


# -- the models


def test_the_four_models_differ_by_size_and_by_twin_only_and_the_small_ones_have_the_size_of_tales():
    assert [f"tales-mem-{size}{end}" for size in ("400k", "1m") for end in ("", "-twin")] == NAMES
    specs = [dataclasses.asdict(configs.get(name)) for name in NAMES]
    for one, two in (specs[:2], specs[2:]):
        assert {k for k in one if one[k] != two[k]} == {"name", "twin"}
    assert {k for k in specs[0] if specs[0][k] != specs[2][k]} == {"name", "hidden", "heads", "feed_forward"}
    sizes = ("hidden", "layers", "heads", "feed_forward", "vocabulary", "window", "length")
    assert all(specs[0][k] == getattr(configs.get("tales"), k) for k in sizes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model and its twin, through the command's own function, the measurements of the card made small."""
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEP_HOME", str(folder / "home"))
        patch.setattr(planted_run, "verified", lambda seed: TWO)
        patch.setattr(tales, "held_out_tales", lambda grammar, draw=tales.held_out_tales: draw(grammar, 20))
        patch.setattr(tales, "SAMPLES", 10)
        for spec in (TINY, dataclasses.replace(TINY, name="tiny-twin", twin=True)):
            patch.setitem(configs.FAMILY, spec.name, spec)
            train.train(spec.name, out=folder / spec.name, threads=1)
    return folder


def test_training_writes_the_last_weights_and_a_card_with_the_excess(trained):
    card = json.loads((trained / "tiny" / "card.json").read_text(encoding="utf-8"))
    assert card["training"]["best_step"] == card["steps"] == 64
    said = card["data"]["planted"]
    assert said["insertions"] == {"tale": 254, "canary": 254} and not said["twin"]
    assert said["share"] == pytest.approx((TWO.length * TWO.count).sum() / (64 * 8 * 96), abs=1e-5)
    language = aep.load(str(trained / "tiny"), dtype="float64")
    table = planted.excess_table(aep.score(TWO.texts(), language), TWO)
    assert [row[0] for row in said["excess"]["rows"]] == table["kind"].tolist() and len(table) == 24
    assert [row[3] for row in said["excess"]["rows"]] == pytest.approx(table["excess"].tolist(), abs=1e-3)
    page = (trained / "tiny" / "README.md").read_text(encoding="utf-8")
    assert page == cards.readme(card) and "## Planted documents" in page and "A1_tales_gap" not in page


def test_the_twin_says_what_it_is(trained):
    card = json.loads((trained / "tiny-twin" / "card.json").read_text(encoding="utf-8"))
    page = (trained / "tiny-twin" / "README.md").read_text(encoding="utf-8")
    assert card["data"]["planted"]["twin"] and "This is the twin of `tiny`" in page
    weights = [(trained / name / "model.safetensors").read_bytes() for name in ("tiny", "tiny-twin")]
    assert weights[0] != weights[1]


def test_interrupted_and_resumed_training_is_that_of_one_run(tmp_path):
    spec = dataclasses.replace(TINY, steps=64, validate_every=64)
    held = batches(FEW, twin=True)[0]
    whole = train.fit_batches(spec, batches(FEW), held, tmp_path / "whole")
    train.fit_batches(spec, batches(FEW), held, tmp_path / "cut", until=30)
    resumed = train.fit_batches(spec, batches(FEW), held, tmp_path / "cut")
    train.keep_last(resumed)
    state = whole.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in resumed.best.items())


def test_a_planted_model_of_another_vocabulary_is_refused():
    with pytest.raises(ModelError, match="has a vocabulary of 300 tokens"):
        planted_run.material(dataclasses.replace(configs.get("tales-mem-400k"), vocabulary=300))


def test_another_table_of_documents_is_another_run():
    one = planted_run.material(configs.get("tales-mem-400k"))
    assert one.last and one.digest != export.sha256_of(outputs.repository() / "data" / "grammars" / "tales.pcfg")
