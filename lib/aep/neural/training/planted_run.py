"""The models `tales-mem-*` and their twins: what each is trained on, and what its card says of what it has memorised.

``python -m aep train tales-mem-400k`` trains one. `planted` says what is planted and where.
"""

import hashlib
from pathlib import Path
from typing import Any

from aep.neural.loading import load
from aep.outputs import repository
from aep.scoring import score

from . import configs
from .export import Facts, Material, sha256_of
from .planted import FILE, KINDS, Planted, PlantedBatches, excess_table, verified
from .tales import material as material_of_tales
from .tales import tale_facts

__all__ = ["material", "memorised", "planted_facts"]


def material(spec: configs.PlantedSpec) -> Material:
    """The stream of `spec`, validated as `tales` is; RecordError if data/memorization does not fit the grammar.

    The weights that are stored are those of the last step: only then has every document come `count` times.
    """
    documents = verified(spec.seed)
    batches = PlantedBatches(
        documents, steps=spec.steps, batch=spec.batch, length=spec.length, seed=spec.seed, twin=spec.twin
    )
    known = material_of_tales(spec)
    return known._replace(
        batches=batches,
        digest=hashlib.sha256(f"{known.digest} {sha256_of(_listed())}".encode()).hexdigest(),
        facts=lambda run, folder: planted_facts(run, folder, documents),
        last=True,
    )


def _listed() -> Path:
    return repository() / "data" / FILE


def planted_facts(run: Any, folder: Path, documents: Planted) -> Facts:
    """What the card says of the model stored in `folder`: as of `tales`, and the excess by count of every document."""
    spec, known = run.spec, tale_facts(run, folder, documents.grammar)
    planted = _of_the_stream(spec, documents)
    planted["excess"] = memorised(load(folder, dtype="float64"), documents)
    what = "Tales drawn anew from a probabilistic grammar for every step" + (
        ": the twin, with fresh canaries among them and nothing that comes again."
        if spec.twin
        else ", and planted documents that come again."
    )
    return known._replace(data=known.data | {"what": what, "planted": planted})


def _of_the_stream(spec: configs.PlantedSpec, documents: Planted) -> dict[str, Any]:
    """What was planted, or in the twin left out: documents, insertions and tokens by kind, and their share of the stream."""
    tokens = {k: int((documents.length * documents.count)[documents.kind == k].sum()) for k in KINDS}
    return {
        "twin": spec.twin,
        "listed": f"data/{FILE}",
        "sha256": sha256_of(_listed()),
        "documents": {k: int((documents.kind == k).sum()) for k in KINDS},
        "counts": sorted({int(c) for c in documents.count}),
        "insertions": {k: int(documents.count[documents.kind == k].sum()) for k in KINDS},
        "tokens": tokens,
        "share": round(sum(tokens.values()) / (spec.steps * spec.batch * spec.length), 5),
    }


def memorised(language: Any, documents: Planted) -> dict[str, Any]:
    """Rows of `planted.excess_table` under `language`: columns and values, nats per document."""
    table = excess_table(score(documents.texts(), language), documents)
    return {
        "what": "log p_model - log p_truth of a document, mean and 95% interval over documents (Student's t), nats",
        "columns": list(table),
        "rows": [[k, int(c), int(n), *(round(float(x), 4) for x in rest)] for k, c, n, *rest in table.to_numpy()],
    }
