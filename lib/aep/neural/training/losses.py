"""Every embedded model and every baseline on the same held-out documents.

``python -m aep.neural.training.losses`` writes (minutes) `data/results/A1_losses.csv`, one row per held-out document and
one column per model and n-gram, so that any two of them can be compared document by document, and
`data/results/A1_compressors.csv`, what general-purpose compressors make of the same text.
"""

import bz2
import lzma

import numpy as np
import pandas as pd
from transformers import AutoTokenizer

from aep.neural.loading import embedded
from aep.outputs import write_atomically

from .baselines import compressed_bits_per_byte, n_gram_losses
from .corpus import ROOT, load_split
from .evaluate import document_losses, load_stored
from .tokenizer import encode

__all__ = ["compressors", "losses"]

_REFERENCE = "docs-400k"  # whose tokenizer the BPE models share


def losses() -> pd.DataFrame:
    """Id, BPE tokens and bytes of each held-out document, and its surprisal (nats, summed) under each law."""
    held = load_split("held-out")
    texts = [d.text for d in held]
    folders = {name: folder for name, folder in embedded().items() if name.startswith("docs-")}
    columns: dict[str, object] = {"document": [d.id for d in held], "bytes": [len(t.encode()) for t in texts]}
    tokenizer = AutoTokenizer.from_pretrained(folders[_REFERENCE], local_files_only=True)
    ids = encode(tokenizer, texts)
    columns["tokens"] = [len(i) for i in ids]
    training = encode(tokenizer, [d.text for d in load_split("training")])
    columns |= n_gram_losses(training, ids, len(tokenizer))
    for name, folder in folders.items():
        own = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        columns[name] = document_losses(load_stored(folder), ids if len(own) == len(tokenizer) else encode(own, texts))
    return pd.DataFrame(columns)


def compressors() -> pd.DataFrame:
    """Nats per byte of bz2 and xz on the held-out text as one stream: no training text, for scale only."""
    texts = [d.text for d in load_split("held-out")]
    methods = {"bz2": bz2.compress, "xz": lambda raw: lzma.compress(raw, preset=9)}
    rows = [(name, compressed_bits_per_byte(texts, compress) * np.log(2)) for name, compress in methods.items()]
    return pd.DataFrame(rows, columns=["compressor", "nats_per_byte"])


def main() -> None:
    """Measure, and write both tables."""
    for name, table in (("A1_compressors", compressors()), ("A1_losses", losses())):
        text = table.to_csv(index=False, float_format="%.8g", lineterminator="\n")
        write_atomically(ROOT / "data" / "results" / f"{name}.csv", text)
    sums = table.drop(columns=["document", "bytes", "tokens"]).sum()
    print((sums / table.bytes.sum()).round(4).to_string(), "nats per byte", sep="\n")


if __name__ == "__main__":
    main()
