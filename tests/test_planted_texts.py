"""Longer texts with planted documents in them, a false discovery rate kept over repetitions, and documentation."""

import numpy as np
import pandas as pd
import pytest

import aep
from aep.analysis.memorization import false_discovery_proportion, found_spans, span_errors, window_audit
from aep.errors import ParameterError, RecordError
from aep.languages import MarkovChain
from aep.neural.training import corpus, planted_texts
from aep.neural.training.planted import planted, unseen
from aep.neural.training.planted_texts import long_texts
from aep.records import Texts


def test_a_planted_document_stands_whole_where_its_span_says():
    documents = planted().of("canary").select(np.arange(400) < 20)
    found = long_texts(documents, tokens=96, seed=3)
    assert all(len(ids) == 96 for ids in found.ids)
    for ids, span, document in zip(found.ids, found.spans.itertuples(), documents.ids, strict=True):
        assert np.array_equal(ids[span.start : span.stop], document)
        assert span.start == 0 or ids[span.start - 1] == 0  # after the end of a tale
    assert found.spans["start"].nunique() > 5
    again, other = (long_texts(documents, tokens=96, seed=s).ids for s in (3, 4))
    assert all(map(np.array_equal, found.ids, again)) and not all(map(np.array_equal, found.ids, other))
    with pytest.raises(ParameterError, match="twice as long"):
        long_texts(documents, tokens=20, seed=1)


def test_a_planted_document_may_begin_at_the_same_token_in_every_text():
    documents = unseen("canary", 10, 1)
    for at in (0, 36, 96 - 15):
        found = long_texts(documents, tokens=96, seed=1, at=at)
        assert (found.spans["start"] == at).all() and all(len(ids) == 96 for ids in found.ids)
        assert all(np.array_equal(x[at : at + 15], d) for x, d in zip(found.ids, documents.ids, strict=True))
    with pytest.raises(ParameterError, match="from 0 to 81"):
        long_texts(documents, tokens=96, seed=1, at=82)


@pytest.mark.parametrize(("procedure", "step"), [("bh", 8), ("e-bh", 4)])
def test_the_mean_false_discovery_proportion_over_experiments_is_at_most_its_level(procedure, step):
    """Scored by a chain that knows a cycle by heart; half of the audited texts hold a stretch of it, all else is uniform.

    The text is no draw of the scorer, so that N(0, 1) is no law of z here. The seed was fixed before the first run; a
    correct build fails with probability of about .001.
    """
    knows = MarkovChain(np.full((4, 4), 0.1) + 0.6 * np.eye(4)[[1, 2, 3, 0]], name="knows a cycle")
    rng, alpha, repeats, texts, tokens = np.random.default_rng(0), 0.2, 25, 10, 48
    letters = rng.integers(0, 4, size=(repeats, 110, tokens))  # of each experiment: 10 texts under audit, 100 held out
    starts = rng.integers(0, tokens - 16, size=(repeats, texts // 2))
    for run, text in np.ndindex(starts.shape):
        letters[run, text, starts[run, text] :][:16] = np.arange(16) % 4
    away = (3 * np.arange(tokens) + rng.integers(0, 2, size=(100, tokens))) % 4  # against the cycle: another kind
    records = aep.score(Texts.from_ids(knows, [*letters.reshape(-1, tokens), *away]), knows)
    ask = {"step": step, "procedure": procedure, "alpha": alpha} | ({"level": 2 / 101} if procedure == "e-bh" else {})
    proportions, recall, unmatched = [], [], []
    for run in range(repeats):
        spans = pd.DataFrame({"text": range(texts // 2), "start": starts[run], "stop": starts[run] + 16})
        audited = records.select(range(110 * run, 110 * run + texts))
        found = window_audit(audited, records.select(range(110 * run + texts, 110 * run + 110)), 8, **ask)
        proportions.append(false_discovery_proportion(found, spans))
        recall.append(span_errors(found_spans(found), spans).spans_found)
        if run < 5:
            wrong = window_audit(audited, records.select(range(110 * repeats, 110 * repeats + 100)), 8, **ask)
            unmatched.append(false_discovery_proportion(wrong, spans))
    assert np.mean(proportions) <= alpha + 3.1 * np.std(proportions, ddof=1) / np.sqrt(repeats)
    assert np.mean(recall) > 0.5
    assert np.mean(unmatched) > 2 * alpha, "negative control: a null of another kind must not keep the level"


def test_documents_of_some_packages_are_those_of_all_from_these_packages(monkeypatch, tmp_path):
    texts = [
        f"{name} document {k} of a text that is long enough " + " ".join(f"{name}{k}{j}" for j in range(40))
        for name in ("numpy", "pandas")
        for k in range(4)
    ]
    found = [corpus.Document(f"{t.split()[0]}.m:f{k}", t, f"sha{k}") for k, t in enumerate(texts)]
    monkeypatch.setattr(corpus, "documents", lambda packages: [d for d in found if d.id.split(".")[0] in packages])
    rows = [{"id": d.id, "sha256": d.sha256, "split": ("training", "held-out")[k % 2]} for k, d in enumerate(found)]
    monkeypatch.setattr(corpus, "manifest", lambda path: {"documents": rows})
    assert [d.id for d in corpus.load_split("held-out", packages=("pandas",))] == [found[5].id, found[7].id]
    language = aep.load("docs-100k")
    drawn = planted_texts.prose(language, documents=2, tokens=20, seed=1, packages=("pandas",))
    assert drawn.seen.tolist() == [True, True, False, False] and all(len(x) == 20 for x in drawn.ids)
    assert set(drawn.names) == {found[k].id for k in (4, 5, 6, 7)} and "2 documents of pandas" in drawn.line
    with pytest.raises(ParameterError, match="2 training documents stand alone and have 20 tokens, not 3"):
        planted_texts.prose(language, documents=3, tokens=20, seed=1, packages=("pandas",))


def test_where_the_listed_documents_are_not_installed_one_line_says_so(monkeypatch):
    def missing(name, packages):
        raise RecordError("3 of 9 training documents are not installed identically")

    monkeypatch.setattr(corpus, "load_split", missing)
    drawn = planted_texts.prose(None, documents=2, tokens=20, seed=1)
    assert drawn.ids == [] and drawn.line == "Skipped: 3 of 9 training documents are not installed identically"


def test_planted_documents_are_refused_to_a_model_of_other_tokens():
    grammar = planted().grammar
    planted_texts.check_words(aep.load("tales"), grammar)
    with pytest.raises(ParameterError, match="docs-100k has other tokens than the words of the grammar tales"):
        planted_texts.check_words(aep.load("docs-100k"), grammar)
