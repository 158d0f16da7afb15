"""Sampled tokens and scored values as they were when `KERNEL_VERSION` got its number: a store made then is still right.

If this fails and the new values are meant: raise `KERNEL_VERSION` in lib/aep/_parquet.py (which makes every stored file be
computed again) and write the file anew with ``python tests/test_golden.py``.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import aep
from aep.languages import MarkovChain
from aep.records import KERNEL_VERSION

FILE = Path(__file__).parent / "golden" / "kernel.json"
CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
CUT = aep.temperature(0.8) | aep.nucleus(0.9)


def measured() -> dict[str, list]:
    """Ids and every column of one short text of a network and of a chain, as sampler, scorer and pair."""
    found: dict[str, list] = {}
    network, other = aep.load("docs-100k"), aep.load("docs-400k")
    for name, language, source, tokens in (("network", other, network, 24), ("chain", CHAIN, CHAIN, 12)):
        texts = aep.sample(source, None, texts=1, tokens=tokens, seed=5, adaptor=CUT)
        records = aep.score(texts, language, source=source, adaptor=CUT, adaptors=[CUT])
        found[f"{name} log_q"], found[f"{name} log_normaliser"] = (
            v[0].tolist() for v in (texts.log_q, texts.log_normaliser)
        )
        found |= {f"{name} {column}": values.tolist() for column, values in records.columns.items()}
    return found


@pytest.fixture(scope="module")
def golden():
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_values_have_not_changed_since_the_kernel_got_its_version(golden):
    assert golden["kernel_version"] == KERNEL_VERSION, "write the golden file anew: python tests/test_golden.py"
    found = measured()
    assert set(found) == set(golden["values"])
    for name, values in found.items():
        np.testing.assert_allclose(values, golden["values"][name], rtol=1e-7, atol=1e-7, err_msg=name)


def test_the_golden_file_notices_a_change(golden):
    """Negative control: the values of another seed are not these."""
    other = aep.sample(CHAIN, None, texts=1, tokens=12, seed=6, adaptor=CUT)
    assert other.ids[0].tolist() != golden["values"]["chain token"]


if __name__ == "__main__":
    FILE.write_text(
        json.dumps({"kernel_version": KERNEL_VERSION, "values": measured()}, indent=0) + "\n", encoding="utf-8"
    )
