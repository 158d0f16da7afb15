"""The same seed gives the same text: whatever the batch, the number of threads and the instruction set."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import aep
from aep.neural.loading import embedded

MODELS = sorted(embedded())
SETTINGS = [  # (ATEN_CPU_CAPABILITY, threads); "" is the machine's own instruction set
    pytest.param("default", 1, id="no vector instructions"),
    pytest.param("", 2, id="two threads"),
    pytest.param("avx2", 1, id="avx2", marks=pytest.mark.slow),
    pytest.param("default", 2, id="no vector instructions, two threads", marks=pytest.mark.slow),
]
PROGRAM = """
import json, sys
import torch
torch.set_num_threads(int(sys.argv[1]))
import aep
found = {}
for name in sys.argv[2:]:
    model = aep.load(name)
    texts = aep.sample(model, None, texts=3, tokens=40, seed=5)
    logits = next(iter(model.rows([[]], [texts.ids[0]], chunk=64)))
    found[name] = [[t.tolist() for t in texts.ids], logits[:, :50].tolist()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def here():
    found = {}
    for name in MODELS:
        model = aep.load(name)
        texts = aep.sample(model, None, texts=3, tokens=40, seed=5)
        logits = next(iter(model.rows([np.empty(0, int)], [texts.ids[0]], chunk=64)))
        found[name] = ([t.tolist() for t in texts.ids], logits[:, :50].numpy())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_batch_size_changes_no_token(name, here):
    model = aep.load(name)
    single = aep.sample(model, None, texts=3, tokens=40, seed=5, batch=1)
    many = aep.sample(model, None, texts=64, tokens=40, seed=5, batch=64)
    assert [t.tolist() for t in single.ids] == here[name][0] == [t.tolist() for t in many.ids[:3]]


@pytest.mark.parametrize(("capability", "threads"), SETTINGS)
def test_threads_and_instruction_set_change_no_token_and_logits_by_less_than_1e_6(here, capability, threads):
    environment = os.environ | ({"ATEN_CPU_CAPABILITY": capability} if capability else {})
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-c", PROGRAM, str(threads), *MODELS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-500:]
    for name, (ids, logits) in json.loads(done.stdout).items():
        assert ids == here[name][0], name
        assert np.abs(np.array(logits) - here[name][1]).max() < 1e-6, name
