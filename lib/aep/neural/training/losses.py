"""Every embedded model and every baseline on the same held-out documents.

``python -m aep.neural.training.losses [NAME ...]`` writes (minutes; names: only these models anew)
`data/results/A1_losses.csv`, one row per held-out document and one column per model and n-gram, so that any two of them
can be compared document by document, and `data/results/A1_compressors.csv`, what general-purpose compressors make of the
same text. Documents of one `cluster` share a 13-gram of words, directly or through others: they are not independent.
"""

import bz2
import lzma
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from transformers import AutoTokenizer

from aep.neural.loading import embedded
from aep.outputs import write_atomically

from .baselines import compressed_bits_per_byte, n_gram_losses
from .corpus import ROOT, clusters, load_split
from .evaluate import document_losses, load_stored
from .tokenizer import encode

__all__ = ["compressors", "losses"]

_REFERENCE = "docs-400k"  # whose tokenizer the BPE models share


def losses(names: Sequence[str] = (), known: pd.DataFrame | None = None) -> pd.DataFrame:
    """Id, cluster, BPE tokens and bytes of each held-out document, and its surprisal (nats, summed) under each law.

    Models that are not in `names` (if any are) are taken over from the table `known`.
    """
    held = load_split("held-out")
    texts = [d.text for d in held]
    folders = {name: folder for name, folder in embedded().items() if name.startswith("docs-")}
    cluster = np.zeros(len(texts), int)
    for i, members in enumerate(clusters(texts)):
        cluster[members] = i
    columns: dict[str, object] = {"document": [d.id for d in held], "cluster": cluster}
    columns["bytes"] = [len(t.encode()) for t in texts]
    tokenizer = AutoTokenizer.from_pretrained(folders[_REFERENCE], local_files_only=True)
    ids = encode(tokenizer, texts)
    columns["tokens"] = [len(i) for i in ids]
    training = encode(tokenizer, [d.text for d in load_split("training")])
    columns |= n_gram_losses(training, ids, len(tokenizer))
    for name, folder in folders.items():
        if names and name not in names and known is not None and name in known:
            columns[name] = known[name].to_numpy()
            continue
        own = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        columns[name] = document_losses(load_stored(folder), ids if len(own) == len(tokenizer) else encode(own, texts))
    return pd.DataFrame(columns)


def compressors() -> pd.DataFrame:
    """Nats per byte of bz2 and xz on the held-out text as one stream: no training text, for scale only."""
    texts = [d.text for d in load_split("held-out")]
    methods = {"bz2": bz2.compress, "xz": lambda raw: lzma.compress(raw, preset=9)}
    rows = [(name, compressed_bits_per_byte(texts, compress) * np.log(2)) for name, compress in methods.items()]
    return pd.DataFrame(rows, columns=["compressor", "nats_per_byte"])


def main(names: list[str]) -> None:
    """Measure, and write both tables."""
    folder = ROOT / "data" / "results"
    known = pd.read_csv(folder / "A1_losses.csv") if names else None
    for name, table in (("A1_compressors", compressors()), ("A1_losses", losses(names, known))):
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.8g", lineterminator="\n"))
    sums = table.drop(columns=["document", "cluster", "bytes", "tokens"]).sum()
    print((sums / table.bytes.sum()).round(4).to_string(), "nats per byte", sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
