"""The benchmark table: what a row is, and that only measured rows are replaced. The rows themselves are not timed here."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch

from aep.bench import peers, registry, sampling, scoring
from aep.errors import AepError, ParameterError
from aep.records import Texts
from aep.scoring import score


@pytest.fixture
def two_rows(monkeypatch):
    monkeypatch.setattr(registry, "_ROWS", {})
    monkeypatch.setattr(registry.pkgutil, "iter_modules", lambda _: [])
    registry.row("a_row", unit="ratio", note="of a to b")(lambda: [3.0, 1.0, 2.0])
    registry.row("b_row", unit="s")(lambda: [0.5, 0.25, 1 / 3, 4])
    return registry


def test_a_row_is_the_median_and_the_range_of_its_runs(two_rows, tmp_path):
    measured = two_rows.run(["a_row"], tmp_path / "bench.csv")
    table = pd.read_csv(tmp_path / "bench.csv")
    assert list(table.columns) == registry.COLUMNS == list(measured.columns)
    (row,) = table.to_dict("records")
    assert (row["name"], row["value"], row["low"], row["high"], row["runs"]) == ("a_row", 2.0, 1.0, 3.0, 3)
    assert row["unit"] == "ratio" and row["note"].startswith("of a to b; ") and "cores" in row["note"]


def test_only_the_measured_rows_are_replaced(two_rows, tmp_path):
    path = tmp_path / "bench.csv"
    path.write_text("name,value,unit,low,high,runs,note\na_row,9,ratio,9,9,3,old\nother,1,s,1,1,3,kept\n")
    two_rows.run(["b_row"], path)
    table = pd.read_csv(path).set_index("name")
    assert list(table.index) == ["a_row", "b_row", "other"]
    assert table.loc["a_row", "note"] == "old" and table.loc["other", "note"] == "kept"
    two_rows.run([], path)
    assert pd.read_csv(path).set_index("name").loc["a_row", "value"] == 2


def test_an_unknown_row_is_refused_before_anything_is_measured(two_rows, tmp_path):
    with pytest.raises(ParameterError, match="unknown benchmark row 'a_rwo': did you mean 'a_row'"):
        two_rows.run(["b_row", "a_rwo"], tmp_path / "bench.csv")
    assert not (tmp_path / "bench.csv").exists()


def test_fewer_than_three_runs_are_no_measurement(two_rows, tmp_path):
    registry.row("c_row", unit="s")(lambda: [1.0, 2.0])
    with pytest.raises(ParameterError, match="'c_row' gave 2 runs"):
        two_rows.run(["c_row"], tmp_path / "bench.csv")


def test_every_row_of_the_package_has_a_unit():
    rows = registry.rows()
    assert rows and all(row.unit for row in rows.values())


def test_the_committed_table_holds_known_rows_of_at_least_three_runs(repository):
    path = repository / "data" / "results" / "bench.csv"
    if not path.is_file():
        pytest.skip("nothing has been measured yet")
    table = pd.read_csv(path)
    assert list(table.columns) == registry.COLUMNS
    assert set(table["name"]) <= set(registry.rows())
    assert (
        (table["runs"] >= 3).all()
        and (table["low"] <= table["value"]).all()
        and (table["value"] <= table["high"]).all()
    )


# --------------------------------------------------------------------------------------------------- what is compared


def test_the_plain_columns_are_those_of_score():
    lm = peers.language()
    ids = np.random.default_rng(0).integers(lm.vocab_size, size=(2, 40))
    logits = lm.model(input_ids=torch.as_tensor(np.concatenate([np.zeros((2, 1), int), ids], axis=1))).logits[:, :-1]
    plain = scoring.plain_columns(logits, torch.as_tensor(ids))
    records = score(Texts.from_ids(lm, ids), lm)
    assert len(plain) == 14
    for name, column in plain.items():
        np.testing.assert_allclose(records[name].reshape(ids.shape), column.numpy(), atol=2e-5, err_msg=name)


def test_generate_without_options_of_its_own_gives_the_logits_that_score_sees():
    sampling._same_columns()


def test_generate_is_given_every_option_that_would_change_its_law():
    lm = sampling.language()
    out = lm.model.generate(torch.zeros(2, 1, dtype=int), max_new_tokens=9, output_scores=True, **sampling.OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(out.logits, out.scores, strict=True))


def test_numbers_that_differ_are_not_timed():
    peers.agree(np.zeros(3), np.full(3, 9e-5), "x")
    for other in (np.full(3, 2e-4), np.zeros(2), np.array([0, 0, np.nan])):
        with pytest.raises(AepError, match="x: shapes"):
            peers.agree(np.zeros(3), other, "x")


def test_a_missing_library_is_named_with_the_command_that_installs_it():
    with pytest.raises(ParameterError, match=r"no_such_library.*pip install -e \"\.\[bench\]\""):
        peers._needed("no_such_library.part")


@pytest.mark.parametrize("theirs", ["minicons", "lm_eval"])
def test_other_libraries_give_the_same_log_probabilities(theirs):
    if importlib.util.find_spec(theirs) is None:
        pytest.skip(f"{theirs} is not installed (make bench installs it)")
    found, ours = getattr(peers, theirs)(16), peers.ours()
    if theirs == "lm_eval":
        found, ours = found / peers.TOKENS, ours.sum(1) / peers.TOKENS
    peers.agree(ours, found, theirs)
    with pytest.raises(AepError):  # and not those of the neighbouring text
        peers.agree(ours, np.roll(found, 1, axis=0), theirs)
