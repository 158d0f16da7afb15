"""Negative controls of the calibration of z: on exact languages, in the resumable command, and as committed."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import aep
from aep import information as info
from aep.analysis import controls as c
from aep.analysis.calibration import LEVEL, is_accepted
from aep.analysis.self_aep import drift
from aep.errors import ParameterError
from aep.languages import MarkovChain
from aep.neural.loading import card, embedded
from aep.outputs import committed

CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
OTHER = MarkovChain([[0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]])
WARM = aep.temperature(0.95)
TOKENS = 160


def drawn(language: MarkovChain, texts: int, seed: int, adaptor: aep.adaptors.Adaptor | None = None) -> aep.Texts:
    return aep.sample(language, None, texts=texts, tokens=TOKENS, seed=seed, adaptor=adaptor, record=True, batch=500)


@pytest.fixture(scope="module")
def exact() -> pd.DataFrame:
    """The rows of a Markov chain, 1,000 texts each; seeds fixed before the first run."""
    own, warm, foreign = drawn(CHAIN, 1000, 71), drawn(CHAIN, 1000, 72, WARM), drawn(OTHER, 1000, 73)
    rows = {
        "own": c.control(own, CHAIN),
        "own, sigma x 1.25": c.control(own, CHAIN, sigma=1.25),
        "temperature .95": c.control(warm, CHAIN, source=CHAIN, adaptor=WARM),
        "another model": c.control(foreign, CHAIN, source=OTHER),
    }
    table = pd.DataFrame([{"model": "chain", "kind": kind, **row} for kind, row in rows.items()])
    return c.verdicts(table).set_index("kind")


# -------------------------------------------------------------------------------------------------------- exact languages


def test_a_chain_accepts_its_own_texts_and_rejects_every_control(exact):
    assert exact.rejected.to_dict() == {kind: kind != "own" for kind in exact.index}
    assert (exact.tested == 1000).all()


def test_single_texts_are_falsely_rejected_at_most_at_the_level_and_controls_are_found(exact):
    assert (exact.loc["own", ["z_share_p", "e_share_p"]] > LEVEL).all()
    assert exact.z_share_p["another model"] < 1e-6
    assert exact.z_share["temperature .95"] < 0.15  # 1,000 texts give it away, a single one of 160 symbols hardly
    assert exact.z_share["own, sigma x 1.25"] < exact.z_share["own"]  # a test with too large a σ rejects too little
    assert exact.e_share["own, sigma x 1.25"] == exact.e_share["own"]  # the e-process knows no σ
    for name in ("mean_z", "predicted_z", "z_share", "e_share"):
        assert ((exact[f"{name}_low"] <= exact[name]) & (exact[name] <= exact[f"{name}_high"])).all()


def test_the_measured_mean_of_z_is_the_predicted_one(exact):
    """A correct build misses the last line with a chance of 4 · .001 for a new choice of seeds."""
    foreign = exact.loc[["temperature .95", "another model"]]
    assert (foreign.mean_z_low < foreign.predicted_z_high).all() and (
        foreign.predicted_z_low < foreign.mean_z_high
    ).all()
    assert (exact.predicted_z[["own", "own, sigma x 1.25"]] == 0).all()
    assert (abs(exact.prediction_z) < stats.norm.isf(0.0005)).all()


def test_the_prediction_for_independent_symbols_is_the_closed_form():
    """b, H and V are constants then: predicted z = sqrt(T) (b - H)/sqrt(V), the same for every text."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.3, 0.1])
    scorer, source = MarkovChain(np.tile(p, (3, 1))), MarkovChain(np.tile(q, (3, 1)))
    row = c.control(drawn(source, 60, 5), scorer, source=source, predict=60)
    shift = info.cross_entropy(np.log(q), np.log(p)) - info.entropy(np.log(p))
    expected = np.sqrt(TOKENS) * shift / np.sqrt(info.varentropy(np.log(p)))
    assert [row[f"predicted_z{end}"] for end in ("", "_low", "_high")] == pytest.approx([expected] * 3)


def test_the_prediction_on_all_texts_is_that_of_the_drift_table():
    texts = drawn(OTHER, 80, 9)
    row, expected = c.control(texts, CHAIN, source=OTHER, predict=80), drift(aep.score(texts, CHAIN, source=OTHER))
    assert row["predicted_z"] == pytest.approx(expected["predicted_z"])
    assert row["prediction_z"] == pytest.approx(expected["z_pooled"])
    assert c.control(texts, CHAIN, source=OTHER, predict=20)["predicted_z"] != row["predicted_z"]


def test_the_law_that_wrote_the_texts_predicts_them_and_another_law_does_not():
    """The negative control of `prediction_z`: texts of temperature .7, said to be of temperature .95."""
    texts = drawn(CHAIN, 200, 11, aep.temperature(0.7))
    claimed = c.control(texts, CHAIN, source=CHAIN, adaptor=WARM)
    assert abs(claimed["prediction_z"]) > 6
    assert abs(c.control(texts, CHAIN, source=CHAIN, adaptor=aep.temperature(0.7))["prediction_z"]) < 3.3


def test_a_text_without_a_test_is_refused_among_own_ones_and_not_rejected_among_others():
    """Symbols 0 and 1 follow each other for certain: a text that begins there has no test."""
    loop, start = [[0.0, 1, 0, 0], [1, 0, 0, 0]], [0.5, 0, 0.5, 0]
    scorer = MarkovChain([*loop, [0, 0, 0.6, 0.4], [0, 0, 0.3, 0.7]], start)
    source = MarkovChain([*loop, [0, 0, 0.9, 0.1], [0, 0, 0.1, 0.9]], start)
    texts = drawn(source, 100, 3)
    free = sum(int(ids[0] == 2) for ids in texts.ids)
    row = c.control(texts, scorer, source=source)
    assert 0 < row["tested"] == free < 100 == row["texts"]
    assert row["z_share"] <= free / 100
    with pytest.raises(ParameterError, match=r"\d+ of 100 texts have no test"):
        c.control(drawn(scorer, 100, 3), scorer)


def test_the_record_written_while_sampling_gives_the_row_that_a_pass_of_its_own_gives():
    recorded = c.own_texts(CHAIN, texts=60, tokens=64, seed=1)
    plain = aep.sample(CHAIN, None, texts=60, tokens=64, seed=1)
    assert plain.records is None
    assert c.control(plain, CHAIN) == pytest.approx(c.control(recorded, CHAIN))


# ---------------------------------------------------------------------------------------------------------------- verdicts


def holm(p: np.ndarray, level: float) -> np.ndarray:
    """Holm's procedure as it is taught: from the smallest, stop at the first that stays."""
    rejected = np.zeros(len(p), bool)
    for k, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] > level / (len(p) - k):
            break
        rejected[i] = True
    return rejected


def test_a_row_is_rejected_when_holm_over_all_rows_rejects_one_of_its_values():
    rng = np.random.default_rng(4)
    for size in (1, 2, 7, 34):
        p = rng.uniform(size=(size, 3)) * 10.0 ** -rng.integers(0, 7, size=(size, 3))
        table = pd.DataFrame(p, columns=["mean_p", "square_p", "shape_p"])
        table = pd.concat([pd.DataFrame({"model": "a", "kind": range(size)}), table], axis=1)
        for level in (0.001, 0.05):
            expected = holm(p.ravel(), level).reshape(p.shape).any(axis=1)
            assert (c.verdicts(table, level).rejected == expected).all()


def test_a_verdict_is_taken_anew_when_rows_are_added():
    rows = pd.DataFrame({"model": ["a", "b"], "kind": "own", "mean_p": [0.0003, 0.5], "square_p": 0.5, "shape_p": 0.5})
    alone = c.verdicts(rows[:1])
    assert list(alone.columns[:3]) == ["model", "kind", "rejected"] and alone.rejected.all()  # .0003 <= .001/3
    assert not c.verdicts(pd.concat([alone, rows[1:]])).rejected.any()  # > .001/6


# ------------------------------------------------------------------------------------------------------------- the command


def a_row(name: str, kind: str, mean_z: float = 0.1) -> dict:
    p = {"mean_p": 0.5, "square_p": 0.5, "shape_p": 0.5}
    return {"model": name, "kind": kind, "mean_z": mean_z, "predicted_z": 0.0, "z_share": 0.05, "e_share": 0.01, **p}


def test_an_interrupted_command_goes_on_with_the_first_row_that_is_missing(tmp_path):
    wanted, path, calls = [("a", "own"), ("a", "x"), ("b", "own")], tmp_path / "part.csv", []

    def measure(name, kind, stop=None):
        if (name, kind) == stop:
            raise KeyboardInterrupt
        calls.append((name, kind))
        return a_row(name, kind, 1 / 3)

    with pytest.raises(KeyboardInterrupt):
        c.resumed(wanted, path, lambda *row: measure(*row, stop=("b", "own")))
    assert calls == wanted[:2]
    found = c.resumed(wanted, path, measure)
    assert calls == wanted
    whole = c.resumed(wanted, tmp_path / "whole.csv", measure)
    pd.testing.assert_frame_equal(found, whole)
    assert c.resumed(wanted[1:2], path, measure)[["model", "kind"]].values.tolist() == [["a", "x"]]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The command in an empty folder, with rows that cost nothing."""
    monkeypatch.setattr(c, "repository", lambda: tmp_path)
    monkeypatch.setattr(c, "_measured", lambda name, kind, *_: a_row(name, kind))
    return tmp_path / "data" / "results" / "02_controls.csv"


def test_the_command_writes_every_row_in_order_and_keeps_those_of_other_models(elsewhere, monkeypatch, capsys):
    c.main([])
    table = pd.read_csv(elsewhere)
    assert list(zip(table.model, table.kind, strict=True)) == [(n, k) for n in c.NEIGHBOURS for k in c.kinds(n)]
    assert not list((elsewhere.parents[2] / "runs").iterdir())
    monkeypatch.setattr(c, "_measured", lambda name, kind, *_: a_row(name, kind, 0.7))
    c.main(["docs-1m"])
    again = pd.read_csv(elsewhere)
    assert (again.mean_z == np.where(again.model == "docs-1m", 0.7, 0.1)).all()
    assert again[["model", "kind"]].equals(table[["model", "kind"]])
    assert "docs-1m, own: mean z 0.700" in capsys.readouterr().out


def test_rows_that_wait_for_another_command_are_kept(elsewhere):
    c.resumed([("docs-3m", "own")], c._unfinished(), a_row)
    c.main(["docs-1m"])
    assert pd.read_csv(c._unfinished()).model.tolist() == ["docs-3m"]


def test_other_models_or_settings_have_another_unfinished_table(monkeypatch):
    before = c._unfinished()
    monkeypatch.setattr(c, "SEED", c.SEED + 1)
    assert c._unfinished() != before == c._unfinished().with_name(before.name)


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ParameterError, match="docs-3m"):
        c.main(["docs-3n"])


# ------------------------------------------------------------------------------------------------------- embedded models


def test_every_model_of_documentation_has_its_controls_and_its_neighbours_share_its_vocabulary():
    assert sorted(c.NEIGHBOURS) == sorted(name for name in embedded() if name.startswith("docs-"))
    for name, neighbours in c.NEIGHBOURS.items():
        assert c.kinds(name) == [k for k in c.KINDS if k in neighbours or k not in ("another model", "the twin")]
        for other in neighbours.values():
            assert other != name
            assert card(other)["sha256"]["tokenizer.json"] == card(name)["sha256"]["tokenizer.json"]
    sizes = [card(name)["vocab_size"] for name in embedded()]
    assert sizes.count(card("docs-bytes")["vocab_size"]) == 1  # no other model over bytes


def test_a_row_of_the_smallest_model_in_short(monkeypatch):
    """The path of the command over a network, with texts of top-k 50, whose z is far below zero."""
    for name, value in {"TEXTS": 60, "TOKENS": 48, "PREDICT": 30}.items():
        monkeypatch.setattr(c, name, value)
    language = aep.load("docs-100k")
    row = c._measured("docs-100k", "top-k 50", lambda name: language, pytest.fail)
    assert row["dtype"] == "float64" and row["texts"] == row["tested"] == 60 and row["source"] == "docs-100k"
    assert row["mean_z_high"] < -1 and abs(row["prediction_z"]) < stats.norm.isf(0.0005)
    assert not is_accepted(pd.DataFrame([row])).any()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return committed("02_controls")


def test_the_committed_table_has_the_promised_rows(table):
    pairs = list(zip(table.model, table.kind, strict=True))
    assert pairs == [(name, kind) for name in c.NEIGHBOURS for kind in c.kinds(name)]
    assert (table.texts >= 1000).all() and (table.tokens >= 256).all() and (table.tested == table.texts).all()
    assert (table.rejected == c.verdicts(table).rejected).all()


def test_the_committed_table_accepts_own_texts_of_every_model(table):
    """By Holm over the whole table, and over the 18 p-values of own texts alone, which is stricter."""
    own = table[table.kind == "own"]
    assert len(own) == len(c.NEIGHBOURS) and not own.rejected.any() and is_accepted(own).all()
    assert (own[["z_share_p", "e_share_p"]] > LEVEL).all(axis=None)


def test_the_committed_table_rejects_every_control_that_shifts_z(table):
    """The 50 most probable of 257 bytes hold nearly all of the mass: no test of 1,000 texts need see that they are cut."""
    controls = table[table.kind != "own"].set_index(["model", "kind"])
    unseen = controls[~controls.rejected]
    assert set(unseen.index) <= {("docs-bytes", "top-k 50")}
    assert (abs(unseen.predicted_z) * np.sqrt(unseen.texts) < 4).all()


def test_the_committed_shifts_of_z_are_the_predicted_ones(table):
    """N(0,1) each: the largest of them misses with a chance of .001 at most."""
    assert (abs(table.prediction_z) < stats.norm.isf(0.0005 / len(table))).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(c.NEIGHBOURS))
def test_the_committed_rows_are_measured_again(name, table):
    language = cache(aep.load)
    own = cache(lambda other: c.own_texts(language(other)))
    for expected in table[table.model == name].to_dict("records"):
        found = c._measured(name, expected["kind"], language, own)
        for column, value in found.items():
            close = value if isinstance(value, str) else pytest.approx(value, rel=2e-5, abs=1e-9)
            assert expected[column] == close, (expected["kind"], column)
