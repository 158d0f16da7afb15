"""Pair records of many texts of one exact language under another, all texts of a step at once."""

import numpy as np

from aep.adaptors import Adaptor, ancestral
from aep.records import Records
from aep.reduction import row_columns
from aep.sampling import draw


def drawn_pair(
    source, scorer, *, texts: int, tokens: int, seed: int, adaptor: Adaptor | None = None, prompt=()
) -> Records:
    """Texts that `source` draws with `adaptor` after `prompt`, scored under `scorer`: every column of a pair."""
    adaptor, rng = adaptor or ancestral(), np.random.default_rng(seed)
    own, state = source.start([list(prompt)] * texts)
    other, reading = scorer.start([list(prompt)] * texts)
    steps = []
    for _ in range(tokens):
        ids = draw(adaptor(own), rng.random(texts))
        steps.append(row_columns(other, ids, own, adaptor) | {"token": ids})
        own, state = source.step(state, ids)
        other, reading = scorer.step(reading, ids)
    columns = {name: np.stack([step[name] for step in steps], axis=1).ravel() for name in steps[0]}
    numbers = {"text": np.repeat(np.arange(texts), tokens), "position": np.tile(np.arange(tokens), texts)}
    return Records(numbers | columns, {"scorer": scorer.name, "source": source.name, "adaptor": str(adaptor)})
