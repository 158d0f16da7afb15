"""Samples of every embedded model at several temperatures, and how much of them stands in the training text.

``python -m aep.neural.training.samples`` writes (minutes) `data/results/A1_samples.csv`, the first texts of each model
and temperature, unselected, and `data/results/A1_copying.csv`, one row per text: its words and how many of them are words
of the training documents, its 13-grams and how many of them stand in one training document or in several. Two rows of
controls: held-out documents, whose 13-grams are new by construction, and training documents against the *other* ones.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from aep import sampling
from aep._progress import progress
from aep.adaptors import ancestral, temperature
from aep.neural.loading import embedded, load
from aep.outputs import write_atomically

from .corpus import ROOT, grams, load_split
from .tokenizer import START

__all__ = ["TEMPERATURES", "Library", "sampled"]

TEMPERATURES = (0.5, 0.7, 1.0)
TEXTS, SHOWN, SEED = 100, 10, 0
TOKENS = {"docs-bytes": 896}
USUAL_TOKENS = 256  # about as many characters as 896 bytes


class Library:
    """The words and the 13-grams of words of a set of documents."""

    def __init__(self, documents: Iterable[str]):
        documents = list(documents)
        self.words = {word for text in documents for word in text.split()}
        found = np.concatenate([grams(text) for text in documents])
        self.grams, self.documents = np.unique(found, return_counts=True)

    def count(self, text: str) -> dict[str, int]:
        """Words of `text`, `known` ones among them; its distinct 13-grams, those of `one` document and of `several`.

        The start token separates documents; a 13-gram across it does not count.
        """
        pieces = text.split(START)
        words = [word for piece in pieces for word in piece.split()]
        wanted = np.unique(np.concatenate([grams(piece) for piece in pieces]))
        at = np.minimum(np.searchsorted(self.grams, wanted), len(self.grams) - 1)
        documents = np.where(self.grams[at] == wanted, self.documents[at], 0)
        return {
            "words": len(words),
            "known": sum(word in self.words for word in words),
            "grams": len(wanted),
            "one": int((documents == 1).sum()),
            "several": int((documents > 1).sum()),
        }


def sampled() -> Iterator[tuple[str, float, int, str]]:
    """(model, temperature, number, text) of every sample, from the start token alone."""
    names = [name for name in embedded() if name.startswith("docs-")]
    for name in progress(names, desc="samples", unit="model"):
        language = load(name)
        for tau in TEMPERATURES:
            adaptor = ancestral() if tau == 1 else temperature(tau)
            tokens = TOKENS.get(name, USUAL_TOKENS)
            texts = sampling.sample(language, None, texts=TEXTS, tokens=tokens, seed=SEED, adaptor=adaptor)
            for i in range(len(texts)):
                yield name, tau, i, texts.decode(i)


def _controls(library: Library) -> Iterator[dict]:
    for document in load_split("held-out"):
        yield {"model": "held-out documents", **library.count(document.text)}
    for document in load_split("training")[::10]:
        found = library.count(document.text)  # in one document: in this one
        yield {"model": "training documents", **found, "one": 0}


def main() -> None:
    """Sample, count, and write both tables."""
    library = Library(document.text for document in load_split("training"))
    shown, counted = [], list(_controls(library))
    for name, tau, i, text in sampled():
        counted.append({"model": name, "temperature": tau, "text": i, **library.count(text)})
        if i < SHOWN:
            shown.append({"model": name, "temperature": tau, "text": i, "sample": text})
    table = pd.DataFrame(counted)
    table["text"] = table.groupby(["model", "temperature"], dropna=False).cumcount()
    columns = ["model", "temperature", "text", "words", "known", "grams", "one", "several"]
    for name, part in (("A1_samples", pd.DataFrame(shown)), ("A1_copying", table[columns])):
        text = part.to_csv(index=False, lineterminator="\n")
        write_atomically(ROOT / "data" / "results" / f"{name}.csv", text)
    sums = table.groupby(["model", "temperature"], dropna=False)[columns[3:]].sum()
    print(
        sums.assign(known=sums.known / sums.words, copied=(sums.one + sums.several) / sums.grams).round(3).to_string()
    )


if __name__ == "__main__":
    main()
