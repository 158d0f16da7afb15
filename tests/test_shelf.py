"""Models by name: loaded once, in order, and never more of them in memory than allowed."""

import gc
import weakref

import pytest

import aep
from aep.errors import ParameterError
from aep.neural import shelf
from aep.neural.language import NeuralLanguage
from aep.neural.shelf import Shelf


@pytest.fixture
def loads(monkeypatch):
    """What was loaded, in order; the models are empty but for their name."""
    asked = []

    def load(place, **options):
        asked.append((place, options))
        model = object.__new__(NeuralLanguage)
        model.name = place
        return model

    monkeypatch.setattr(shelf, "load", load)
    return asked


def test_a_model_is_loaded_when_it_is_asked_for_and_then_kept(loads):
    models = Shelf(["a", "b"], dtype="float32")
    assert list(models) == ["a", "b"] and len(models) == 2 and loads == []
    assert models["b"] is models["b"] and loads == [("b", {"dtype": "float32"})]
    assert {name: model.name for name, model in models.items()} == {"a": "a", "b": "b"}


def test_no_more_than_so_many_are_in_memory_at_once(loads):
    models = Shelf(["a", "b", "c"], held=1)
    for name in models:
        assert models[name].name == name and len(models._loaded) == 1
    assert models["c"] and models["a"] and [name for name, _ in loads] == ["a", "b", "c", "a"]


def test_texts_and_records_without_their_language_let_a_network_go():
    models = Shelf(["docs-100k", "docs-400k"], held=1)
    first = weakref.ref(models["docs-100k"])
    kept = aep.sample(models["docs-100k"], "The", texts=2, tokens=4, seed=1, record=True)
    assert models["docs-400k"] and first() is not None  # the texts hold it
    kept = kept.with_language(None)
    gc.collect()
    assert first() is None and kept.language is None and len(kept.records) == 8


@pytest.mark.parametrize(
    ("names", "held", "message"),
    [([], 1, "at least one"), (["a", "b", "a"], 1, "'a' is named twice"), (["a"], 0, "held")],
)
def test_a_list_that_cannot_be_meant_is_refused(names, held, message):
    with pytest.raises(ParameterError, match=message):
        Shelf(names, held=held)


def test_another_name_is_not_on_the_list(loads):
    with pytest.raises(KeyError):
        Shelf(["a"])["b"]


def test_a_folder_goes_by_its_own_name_and_a_hub_id_without_its_revision(loads, tmp_path):
    models = Shelf([str(tmp_path), "owner/model@main", "docs-100k"])
    assert list(models) == [tmp_path.name, "owner/model", "docs-100k"]
    assert [models[name].name for name in models] == [str(tmp_path), "owner/model@main", "docs-100k"]
