"""The rows about detectors: what is timed against each other computes the same numbers."""

import numpy as np
import pytest

from aep.analysis.detection import SCORES
from aep.bench import detection, registry, scoring


def test_separate_methods_give_the_scores_of_one_pass():
    texts = scoring.texts(2, 24)
    ours, theirs = detection.one_pass(texts, compiled=False), detection.separate(texts)
    assert set(theirs) == set(ours) == set(SCORES)
    np.testing.assert_allclose(ours[theirs.columns], theirs, atol=1e-3)
    # and every score is one that another text does not have
    assert (np.abs(theirs.diff().iloc[1]) > 1e-4).all()


def test_every_separate_method_goes_through_its_networks_by_itself(monkeypatch):
    passes = []
    for i, lm in enumerate(detection._pair()):
        forward = lm.model.forward
        monkeypatch.setattr(lm.model, "forward", lambda *a, i=i, f=forward, **k: passes.append(i) or f(*a, **k))
    detection.separate(scoring.texts(1, 8))
    assert (passes.count(0), passes.count(1)) == (len(detection.METHODS), 4)


def test_numbers_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr(detection, "one_pass", lambda texts: detection.separate(texts) + 0.01)
    monkeypatch.setattr(detection, "TOKENS", 8)
    with pytest.raises(ValueError, match="scores of separate methods"):
        registry.rows()["scores_vs_separate"].measure()


def test_the_records_that_are_scored_have_all_that_every_score_needs():
    record, texts = detection.random_records(3, 20)
    found = detection.scores(record, strings=texts)
    assert found.shape == (3, len(SCORES)) and found.notna().all(axis=None)
