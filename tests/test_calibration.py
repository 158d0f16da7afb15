"""z on every embedded model's own texts (appendix A1): short here, whole under `make test-slow`, and as committed."""

import numpy as np
import pandas as pd
import pytest

import aep
from aep.analysis import calibration as c
from aep.errors import ParameterError
from aep.languages import MarkovChain
from aep.neural.loading import embedded
from aep.outputs import committed

MODELS = sorted(embedded())
CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])


@pytest.mark.parametrize("name", MODELS)
def test_z_of_a_models_own_texts_is_standard_normal_in_short(name):
    """A correct build misses with a chance of about .003 per model for a new choice of seed; more texts of two models."""
    sizes = {"texts": 150, "tokens": 160} if name in ("docs-100k", "tales") else {"texts": 60, "tokens": 160}
    row = pd.DataFrame([c.calibrate(aep.load(name), seed=7, **sizes)])
    assert c.is_accepted(row).all()
    assert row.false_alarms_p.item() > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_committed_row_is_measured_again(name):
    expected = committed("A1_calibration").set_index("model").loc[name]
    found = c.calibrate(aep.load(name))
    for column, value in expected.items():
        assert found[column] == pytest.approx(value, rel=2e-5, abs=1e-9), column


def test_the_committed_table_has_every_model_and_accepts_all_of_them_and_no_control():
    table = committed("A1_calibration").set_index("model")
    assert sorted(table.index) == MODELS
    assert (table.texts >= 2000).all() and (table.tokens >= 256).all()
    assert c.is_accepted(table).all() and not c.is_accepted(table, prefix="control_").any()
    assert (table.false_alarms_p > c.LEVEL).all()


def test_an_exact_language_is_accepted_and_its_control_is_not():
    row = pd.DataFrame([c.calibrate(CHAIN, texts=1000, tokens=300, seed=2, control=aep.temperature(0.7))])
    assert c.is_accepted(row).all() and not c.is_accepted(row, prefix="control_").any()
    assert row.power.item() > 0.7 and row.false_alarms.item() < 0.05


def test_texts_without_a_test_are_refused_by_name():
    point = MarkovChain([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ParameterError, match="50 of 50 texts have no test"):
        c.calibrate(point, texts=50, tokens=64)


def test_holm_lets_one_small_p_value_fall_only_below_its_share_of_the_level():
    rows = pd.DataFrame({"mean_p": [0.0002, 0.5], "square_p": [0.5, 0.5], "shape_p": [0.5, 0.5]})
    assert c.is_accepted(rows).tolist() == [True, True]  # .0002 > .001/6
    rows.loc[0, "mean_p"] = 0.0001
    assert c.is_accepted(rows).tolist() == [False, True]
    rows.loc[1, "square_p"] = 0.00019  # second smallest of six: .001/5
    assert c.is_accepted(rows).tolist() == [False, False]


def test_the_p_values_have_their_level_on_normal_numbers():
    rng = np.random.default_rng(5)
    found = pd.DataFrame([c.normal_p_values(rng.normal(size=60)) for _ in range(2000)])
    for name, p in found.items():
        assert 0.035 < (p <= 0.05).mean() < 0.066, name  # four standard errors of the larger binomial count
