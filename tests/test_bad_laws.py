"""A language that breaks its promise is refused wherever its law is used, never renormalised."""

import json
import math

import numpy as np
import pytest

import aep
from aep import outputs
from aep.errors import DistributionError, ModelError, ParameterError, PromptError
from aep.languages.protocol import ExactLanguage


class Broken(ExactLanguage):
    """An i.i.d. language that hands out the same given row of "log-probabilities" at every step."""

    eos, name, fingerprint = None, "broken", "broken"

    def __init__(self, row):
        self.row, self.vocab_size = np.asarray(row, dtype=float), len(row)

    def start(self, prompts):
        return np.tile(self.row, (len(prompts), 1)), None

    def step(self, state, ids):
        return np.tile(self.row, (len(ids), 1)), None


ROWS = {
    "sum .9": np.log([0.5, 0.3, 0.1]),
    "raw scores": [3.0, 1.0, 0.0],
    "NaN": [np.nan, 0.0, 0.0],
    "+inf": [np.inf, -1.0, -1.0],
    "empty support": [-np.inf] * 3,
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("adaptor", ["ancestral()", "top_k(2)", "temperature(0.5)", "nucleus(0.9)"])
def test_it_cannot_be_sampled_under_any_adaptor(row, adaptor):
    with pytest.raises(DistributionError):
        aep.sample(Broken(row), None, texts=3, tokens=4, seed=0, adaptor=aep.adaptors.parse(adaptor))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_it_can_be_neither_scorer_nor_source(row):
    fair = Broken(np.log(np.full(3, 1 / 3)))
    with pytest.raises(DistributionError):
        aep.score([[0, 1, 2]], Broken(row))
    with pytest.raises(DistributionError):
        aep.score([[0, 1, 2]], fair, source=Broken(row))


def test_a_language_that_keeps_its_promise_is_not_refused():
    fair = Broken(np.log([0.5, 0.3, 0.2]))
    texts = aep.sample(fair, None, texts=3, tokens=4, seed=0, adaptor=aep.top_k(2))
    assert len(aep.score(texts, fair, source=fair, adaptor=aep.top_k(2))) == 12


def test_an_empty_model_name_is_not_the_current_folder():
    with pytest.raises(ModelError, match="empty"):
        aep.load("")


def test_a_prompt_that_is_not_unicode_is_refused():
    with pytest.raises(PromptError, match="not Unicode"):
        aep.load("docs-400k").encode("\udc80abc")


def test_a_number_outside_its_range_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("AEP_OUTPUT_ROOT", str(tmp_path))
    run = outputs.begin("02", dict(outputs.defaults("02")) | {"tokens": 5})
    with pytest.raises(ParameterError, match="'tokens' must be at least 64, not 5"):
        run.require(tokens=(64, math.inf))
    with pytest.raises(ParameterError, match=r"'alpha' must be between 0\.1 and 0\.5, not 0\.05"):
        run.require(alpha=(0.1, 0.5))
    run.require(alpha=(0.001, 0.5))


def test_run_json_names_no_folder_outside_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("AEP_OUTPUT_ROOT", str(tmp_path))
    given = f"docs-400k,{tmp_path / 'secret' / 'model'},{outputs.repository() / 'data'}"
    run = outputs.begin("02", dict(outputs.defaults("02")) | {"models": given})
    text = (run.folder / "run.json").read_text()
    assert json.loads(text)["parameters"]["models"] == "docs-400k,model,data"
    assert "secret" not in text
