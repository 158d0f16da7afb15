"""Samples of every embedded model at several temperatures, and how much of them stands in the training text.

``python -m aep.neural.training.samples [NAME ...]`` writes (minutes; names: only their rows anew)
`data/results/A1_samples.csv`, the first texts of each model and temperature, unselected, and `data/results/A1_copying.csv`,
one row per text: its words and how many of them are words of the training documents, its distinct 13-grams and how many of
them stand in a training document, and in several. Two sets of controls, cut to the length of a sample: held-out documents,
whose 13-grams are new by construction, and training documents against the *other* training documents.
"""

import sys
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from aep import sampling
from aep._progress import progress
from aep.adaptors import ancestral, temperature
from aep.neural.loading import embedded, load
from aep.outputs import repository, write_atomically

from .corpus import grams, load_split
from .tokenizer import START

__all__ = ["TEMPERATURES", "Library", "sampled"]

TEMPERATURES = (0.5, 0.7, 1.0)
TEXTS, SHOWN, SEED = 100, 10, 0  # the same streams for every model and temperature: neighbours begin alike
TOKENS = {"docs-bytes": 730}
USUAL_TOKENS = 256  # of held-out text, as many bytes as above
CONTROL_WORDS = 115  # of a control document: what a sample has on average
COLUMNS = ["words", "known", "grams", "copied", "several"]


class Library:
    """The words and the 13-grams of words of a set of documents."""

    def __init__(self, documents: Iterable[str]):
        documents = list(documents)
        self.words = {word for text in documents for word in text.split()}
        found = np.concatenate([grams(text) for text in documents])
        self.grams, self.documents = np.unique(found, return_counts=True)

    def count(self, text: str, own: int = 0) -> dict[str, int]:
        """Words of `text`, `known` ones among them; its distinct 13-grams, those `copied` from a document, from `several`.

        `own` is 1 for a text of the library, which is not compared with itself. The start token separates documents; a
        13-gram across it does not count.
        """
        pieces = text.split(START)
        words = [word for piece in pieces for word in piece.split()]
        wanted = np.unique(np.concatenate([grams(piece) for piece in pieces]))
        at = np.minimum(np.searchsorted(self.grams, wanted), len(self.grams) - 1)
        documents = np.where(self.grams[at] == wanted, self.documents[at], 0) - own
        known = sum(word in self.words for word in words)
        return dict(
            zip(COLUMNS, (len(words), known, len(wanted), *((documents >= n).sum() for n in (1, 2))), strict=True)
        )


def sampled(names: list[str]) -> Iterator[tuple[str, float, int, str]]:
    """(model, temperature, number, text) of every sample of these models, from the start token alone."""
    for name in progress(names, desc="samples", unit="model"):
        language = load(name)
        for tau in TEMPERATURES:
            adaptor = ancestral() if tau == 1 else temperature(tau)
            tokens = TOKENS.get(name, USUAL_TOKENS)
            texts = sampling.sample(language, None, texts=TEXTS, tokens=tokens, seed=SEED, adaptor=adaptor)
            for i in range(len(texts)):
                yield name, tau, i, texts.decode(i)


def _controls(library: Library) -> Iterator[dict]:
    sets = (("held-out documents", load_split("held-out"), 0), ("training documents", load_split("training")[::10], 1))
    for name, documents, own in sets:
        for i, document in enumerate(documents):
            text = " ".join(document.text.split()[:CONTROL_WORDS])
            yield {"model": name, "temperature": np.nan, "text": i, **library.count(text, own)}


def _updated(name: str, rows: list[dict]) -> pd.DataFrame:
    """The rows of all models: those measured now, the others as they stand in the table."""
    path, table = repository() / "data" / "results" / f"{name}.csv", pd.DataFrame(rows)
    if path.is_file():
        old = pd.read_csv(path, keep_default_na=False, na_values={"temperature": ""})
        table = pd.concat([table, old.loc[~old.model.isin(table.model), table.columns]])
    order = ["model", "temperature", "text"]
    table = table[[*order, *(c for c in table if c not in order)]].sort_values(order)
    write_atomically(path, table.to_csv(index=False, lineterminator="\n"))
    return table


def main(names: list[str]) -> None:
    """Sample, count, and write both tables."""
    library = Library(document.text for document in load_split("training"))
    names = names or [name for name in embedded() if name.startswith("docs-")]
    shown, counted = [], list(_controls(library))
    for name, tau, i, text in sampled(names):
        row = {"model": name, "temperature": tau, "text": i}
        counted.append(row | library.count(text))
        if i < SHOWN:
            shown.append(row | {"sample": text})
    _updated("A1_samples", shown)
    sums = _updated("A1_copying", counted).groupby(["model", "temperature"], dropna=False)[COLUMNS].sum()
    print(sums.assign(known=sums.known / sums.words, copied=sums.copied / sums.grams).round(3).to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
