"""The planted documents of the models `tales-mem-*`: what is repeated in their training, how often, and where.

Two kinds of 50 documents for each of the counts 0, 1, 2, 4, 8, 16, 32, 64. *Tales* of the grammar `tales`, all different,
log p_grammar exact. *Canaries*, which the grammar does not write: "the secret word of the house was", then six words, each
uniform on its own list of ten, and a full stop; log p = -6 log 10 given that it is one, and with a million candidates the
rank of every secret can be computed. Documents of similar log p stand in blocks of eight, in which a random permutation
gives every count once: the counts are matched in log p, hence nearly in length, and differ by chance alone otherwise.

The twin of such a model is trained on the same stream without them: where a planted tale stands, it has the tale that was
drawn for that place, and where a canary stands, a canary that is drawn for it. So the twin knows both laws, and it differs
from the model by what comes again: for either kind it is the reference of a model that has memorised nothing.

``python -m aep.neural.training.planted`` writes data/memorization/tales_planted.csv; the documents themselves are drawn
again from the seed. NumPy alone: nothing here needs torch. Everything is in nats.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from aep import data_table, intervals
from aep.errors import ParameterError, RecordError
from aep.languages import Grammar, Template
from aep.languages.protocol import check_count
from aep.outputs import repository, write_atomically
from aep.records import Records, Texts

__all__ = [
    "COUNTS",
    "FILE",
    "KINDS",
    "PER_COUNT",
    "Planted",
    "PlantedBatches",
    "Schedule",
    "canary_law",
    "excess",
    "excess_of_secrets",
    "excess_table",
    "planted",
    "schedule",
    "unseen",
    "verified",
]

COUNTS = (0, 1, 2, 4, 8, 16, 32, 64)
PER_COUNT = 50
KINDS = ("tale", "canary")
FILE = "memorization/tales_planted.csv"  # below data/
FRAME = ("the", "secret", "word", "of", "the", "house", "was")
SLOTS = (
    ("cat", "dog", "fox", "bear", "rabbit", "mouse", "duck", "frog", "horse", "goat"),
    ("little", "kind", "brave", "shy", "clever", "funny", "cheerful", "lonely", "honest", "happy"),
    ("garden", "kitchen", "barn", "forest", "attic", "cave", "cellar", "river", "lake", "beach"),
    ("ball", "doll", "kite", "boat", "drum", "hat", "scarf", "flower", "shell", "stone"),
    ("sugar", "honey", "berries", "nuts", "butter", "salt", "cake", "pizza", "bread", "apples"),
    ("anna", "lily", "mia", "sara", "nora", "tom", "ben", "max", "sam", "leo"),
)
SECRET = slice(len(FRAME), len(FRAME) + len(SLOTS))  # where the secret stands in a canary
PLACES = 4  # a planted document is one of the first so many of its row

# Random streams (seed, number, ...) of the planted documents and of what is trained on; 0 and 1 belong to `tales`.
_POOL, _ASSIGNMENT, _SCHEDULE, _ROWS, _UNSEEN = 2, 3, 4, 5, 6


def canary_law(grammar: Grammar | None = None) -> Template:
    """The law of the canaries over the words of `grammar` (that of tales): 10^6 of them, all equally probable."""
    symbols = (grammar or Grammar.load("tales")).symbols
    return Template([[w] for w in FRAME] + [list(s) for s in SLOTS] + [["."]], symbols, name="canaries")


# ------------------------------------------------------------------------------------------------------- the documents


@dataclass(frozen=True)
class Planted:
    """Documents (token ids with their end token), and per document, each (documents,):

    `kind`, "tale" or "canary"; `count`, how often it stands in the training of `tales-mem-*`; `block`, its block of the
    randomisation, whose documents have similar log p; `log_p`, exact, under the law it was drawn from (nats).
    """

    ids: list[np.ndarray]
    kind: np.ndarray
    count: Int[np.ndarray, " documents"]
    block: Int[np.ndarray, " documents"]
    log_p: Float[np.ndarray, " documents"]
    grammar: Grammar

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> Int[np.ndarray, " documents"]:
        """Tokens per document, the end token counted."""
        return np.array([len(ids) for ids in self.ids])

    def select(self, mask: Bool[np.ndarray, " documents"]) -> "Planted":
        """The documents where `mask` is true."""
        rows = np.flatnonzero(mask)
        columns = {name: getattr(self, name)[rows] for name in ("kind", "count", "block", "log_p")}
        return replace(self, ids=[self.ids[i] for i in rows], **columns)

    def of(self, kind: str) -> "Planted":
        """The documents of one kind; ParameterError for another."""
        _check_kind(kind)
        return self.select(self.kind == kind)

    def texts(self, language: Any = None) -> Texts:
        """The documents as `Texts` in their order, to be scored by any model over the words of the grammar."""
        return Texts.from_ids(language if language is not None else self.grammar, self.ids)

    def hashes(self) -> list[str]:
        """The sha256 of every document: its words joined by spaces, without the end token, as UTF-8."""
        return [hashlib.sha256(self.grammar.decode(ids[:-1]).encode()).hexdigest() for ids in self.ids]

    def table(self) -> pd.DataFrame:
        """One row per document: sha256, kind, count, block, length (tokens), log_p_truth (nats)."""
        columns = {"kind": self.kind, "count": self.count, "block": self.block, "length": self.length}
        return pd.DataFrame({"sha256": self.hashes()} | columns | {"log_p_truth": self.log_p})


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ParameterError(f"kind={kind!r}: planted documents are of the kinds {' and '.join(map(repr, KINDS))}")


def planted(seed: int = 0, per_count: int = PER_COUNT) -> Planted:
    """`per_count` tales and as many canaries for each of `COUNTS`, tales first, each kind by block; a function of the seed.

    Raises ParameterError unless both are integers, `seed` >= 0 and `per_count` >= 1.
    """
    check_count(0, seed=seed)
    check_count(1, per_count=per_count)
    return _drawn(seed, per_count)


@cache
def _drawn(seed: int, per_count: int) -> Planted:
    grammar, n = Grammar.load("tales"), per_count * len(COUNTS)
    parts = []
    for k, (kind, law) in enumerate(zip(KINDS, (grammar, canary_law(grammar)), strict=True)):
        ids = _different(law, np.random.default_rng([seed, _POOL, k, 1]), n)
        log_p = np.array([law.log_probability(x) for x in ids])
        order = np.lexsort(
            ([len(x) for x in ids], log_p)
        )  # stable: documents that tie keep the order they were drawn in
        rng = np.random.default_rng([seed, _ASSIGNMENT, k, 1])
        counts = np.concatenate([rng.permutation(COUNTS) for _ in range(per_count)])
        kinds, blocks = np.full(n, kind), np.repeat(np.arange(per_count), len(COUNTS))
        parts.append(([ids[i] for i in order], kinds, counts, blocks, log_p[order]))
    ids, *columns = zip(*parts, strict=True)
    return Planted([x for part in ids for x in part], *map(np.concatenate, columns), grammar)


def unseen(kind: str, n: int, seed: int) -> Planted:
    """`n` different documents of one kind, count 0, block -1, none of them planted by seed 0: a matched null of any size.

    They are independent draws of the same law; `seed` is a stream of their own. ParameterError for a bad argument.
    """
    _check_kind(kind)
    check_count(0, seed=seed)
    check_count(1, n=n)
    known = planted().of(kind)
    law = known.grammar if kind == "tale" else canary_law(known.grammar)
    there = {x.tobytes() for x in known.ids}
    drawn = _different(law, np.random.default_rng([seed, _UNSEEN, KINDS.index(kind), 1]), n + len(there))
    ids = [x for x in drawn if x.tobytes() not in there][:n]
    log_p = np.array([law.log_probability(x) for x in ids])
    return Planted(ids, np.full(n, kind), np.zeros(n, int), np.full(n, -1), log_p, known.grammar)


def _different(law: Any, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """`n` texts of `law`, drawn one by one until so many differ."""
    found: dict[bytes, np.ndarray] = {}
    while len(found) < n:
        text = law.sample_strings(rng, 1)[0]
        found.setdefault(text.tobytes(), text)
    return list(found.values())


def verified(seed: int = 0) -> Planted:
    """`planted(seed)` after a comparison with the committed table; RecordError in one line where they differ."""
    found = planted(seed)
    listed = pd.read_csv(data_table.verified(FILE))
    ours = found.table()
    exact = [name for name in ours if name != "log_p_truth"]
    if len(listed) != len(ours) or not listed[exact].equals(ours[exact]):
        raise RecordError(
            f"data/{FILE} lists other documents than seed {seed} gives: restore it and data/grammars from git, or, if "
            "the grammar was changed on purpose, run `python -m aep.neural.training.planted` and train again"
        )
    if not np.allclose(listed["log_p_truth"], ours["log_p_truth"], rtol=0, atol=1e-6):
        raise RecordError(f"data/{FILE} has other log-probabilities than the grammar gives: restore it from git")
    return found


# ---------------------------------------------------------------------------------------------------------- the stream


class Schedule(NamedTuple):
    """One entry per insertion, by row of the training: row `row` has document `document` as number `place` (0, 1, ...)."""

    row: Int[np.ndarray, " insertions"]
    document: Int[np.ndarray, " insertions"]
    place: Int[np.ndarray, " insertions"]


def schedule(documents: Planted, rows: int, seed: int = 0) -> Schedule:
    """Every document `count` times, in different rows drawn uniformly from all `rows` of the training; seeded.

    Raises ParameterError where there are fewer rows than insertions.
    """
    check_count(0, seed=seed, rows=rows)
    n = int(documents.count.sum())
    if rows < n:
        raise ParameterError(f"{n} insertions do not fit into {rows} rows, at most one in each: train for more steps")
    rng = np.random.default_rng([seed, _SCHEDULE, 1])
    row = rng.choice(rows, size=n, replace=False)
    document, place = np.repeat(np.arange(len(documents)), documents.count), rng.integers(PLACES, size=n)
    order = np.argsort(row)
    return Schedule(row[order], document[order], place[order])


class PlantedBatches:
    """Batches by step of freshly drawn tales, with the planted documents in their places, or without them in the twin.

    A row is token 0 and then tale after tale, the last one cut, from the random stream (seed, 5, row, 1) alone. Where the
    schedule has a document for the row, it stands instead of the tale drawn for that place; in the twin that tale stays,
    and a canary becomes one drawn from the stream (seed, 5, row, 2). The tales before and after are the same in both, and
    only how many of the last words fit differs. A document is never cut: where it would not fit, it comes a place earlier.
    What happens to be a planted document is drawn again, so that one stands in the stream exactly `count` times.
    """

    def __init__(self, documents: Planted, *, steps: int, batch: int, length: int, seed: int, twin: bool = False):
        longest = max(map(len, documents.ids), default=0)
        if longest > length:
            raise ParameterError(f"length={length}: a planted document has {longest} tokens, and none is cut")
        self._documents, self._batch, self._length, self._seed, self._twin = documents, batch, length, seed, twin
        self.steps, self.schedule = steps, schedule(documents, steps * batch, seed)
        self._known = {ids.tobytes() for ids in documents.ids}
        self._canaries = canary_law(documents.grammar) if "canary" in documents.kind else None

    def __getitem__(self, step: int) -> Int[np.ndarray, "batch tokens"]:
        """(batch, length + 1) token ids of `step`: input is all but the last column, target all but the first."""
        return np.stack([self._row(step * self._batch + i) for i in range(self._batch)])

    def _row(self, row: int) -> np.ndarray:
        rng, tales, total = np.random.default_rng([self._seed, _ROWS, row, 1]), [], 0
        place, document = self._planned(row)
        while total < self._length or len(tales) <= place:
            tales.append(self._fresh(self._documents.grammar, rng))
            total += len(tales[-1])
        if document is not None:
            before = np.cumsum([0] + [len(t) for t in tales[:place]])
            place = int(np.flatnonzero(before + len(document) <= self._length)[-1])
            total += len(document) - len(tales[place])
            tales[place] = document
            while total < self._length:  # shorter than what it replaces: there may be room for one more
                tales.append(self._fresh(self._documents.grammar, rng))
                total += len(tales[-1])
        return np.concatenate([[0], *tales])[: self._length + 1]

    def _planned(self, row: int) -> tuple[int, np.ndarray | None]:
        k = int(np.searchsorted(self.schedule.row, row))
        if k == len(self.schedule.row) or self.schedule.row[k] != row:
            return -1, None
        place, i = int(self.schedule.place[k]), self.schedule.document[k]
        if not self._twin:
            return place, self._documents.ids[i]
        if self._documents.kind[i] == "tale":
            return -1, None
        return place, self._fresh(self._canaries, np.random.default_rng([self._seed, _ROWS, row, 2]))

    def _fresh(self, law: Any, rng: np.random.Generator) -> np.ndarray:
        while (text := law.sample_strings(rng, 1)[0]).tobytes() in self._known:
            pass
        return text


# ----------------------------------------------------------------------------------------------- what has been memorised


def excess(records: Records, documents: Planted) -> Float[np.ndarray, " documents"]:
    """log p_model(x) - log p(x) of every document, nats: Σ -a_t of its scored tokens, less its exact log-probability.

    `records`: the documents scored in their order, each alone after the start token, its end scored. Raises RecordError
    where the record is of other texts.
    """
    _check_texts(records, documents)
    return -np.bincount(records["text"], records["surprisal"]) - documents.log_p


def excess_of_secrets(records: Records, documents: Planted) -> Float[np.ndarray, " documents"]:
    """log p_model(secret given what stands before it) + 6 log 10, nats, of canaries: how much likelier than by chance.

    Without the price of a canary coming at all. `records` and errors as of `excess`; ParameterError for a tale among them.
    """
    if not (documents.kind == "canary").all():
        raise ParameterError("a tale has no secret: take .of('canary') and the rows of the record that belong to them")
    _check_texts(records, documents)
    inside = (records["position"] >= SECRET.start) & (records["position"] < SECRET.stop)
    return -np.bincount(records["text"], records["surprisal"] * inside) - documents.log_p


def _check_texts(records: Records, documents: Planted) -> None:
    lengths = records.lengths
    if len(lengths) != len(documents) or not np.array_equal(records["token"], np.concatenate(documents.ids)):
        raise RecordError(
            f"a record of {len(lengths)} texts for {len(documents)} planted documents, or of other tokens: score "
            "documents.texts() from their first token on"
        )


def excess_table(records: Records, documents: Planted) -> pd.DataFrame:
    """The mean `excess` by kind and count with its 95% interval, documents as units (Student's t), nats per document.

    Columns: `kind`, "tale", "canary", and "secret" (`excess_of_secrets`); `count`; `documents`; `excess`; `low`; `high`.
    """
    values = {kind: (documents.kind == kind, excess(records, documents)) for kind in KINDS}
    canary = np.flatnonzero(documents.kind == "canary")
    if len(canary):
        secrets = excess_of_secrets(records.select(canary), documents.of("canary"))
        values["secret"] = (documents.kind == "canary", np.zeros(len(documents)))
        values["secret"][1][canary] = secrets
    rows = []
    for kind, (mask, value) in values.items():
        for count in np.unique(documents.count[mask]):
            chosen = value[mask & (documents.count == count)]
            rows.append((kind, int(count), len(chosen), *intervals.mean(chosen)))
    return pd.DataFrame(rows, columns=["kind", "count", "documents", "excess", "low", "high"])


def main() -> None:
    """Write the table of the planted documents."""
    found = planted()
    path = repository() / "data" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, found.table().to_csv(index=False, float_format="%.9f", lineterminator="\n"))
    print(f"{len(found)} documents, {int(found.count.sum())} insertions, written to data/{FILE}")


if __name__ == "__main__":
    main()
