"""What was sampled and what was measured: `Texts` and `Records`, in memory and as Parquet.

A text is its token ids, with everything that determines them. A record has one row per scored token and the columns that
`Records` lists. Files carry a schema version and a checksum of their content; a damaged or altered one is refused by name.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ._display import heading, text_maps, token_map
from ._parquet import KERNEL_VERSION, SCHEMA_VERSION, content_key, read, write
from .errors import PromptError, RecordError, unknown_name
from .information import THETAS
from .languages.protocol import as_ids

__all__ = [
    "KERNEL_VERSION",
    "SCHEMA_VERSION",
    "Records",
    "Texts",
    "content_key",
    "store_home",
    "theta_column",
]

_INTEGERS = ("text", "position", "token", "rank", "greedy")
OF_ONE = ("surprisal", "entropy", "varentropy", "mass_above")
OF_A_PAIR = ("cross_entropy", "cross_varentropy", "source_surprisal", "source_entropy", "source_varentropy")


def store_home() -> Path:
    """Where records and training checkpoints are kept: ``${AEP_HOME:-~/.cache/aep}``."""
    return Path(os.path.expanduser(os.environ.get("AEP_HOME") or "~/.cache/aep"))


def theta_column(theta: float) -> str:
    """The column of Λ(θ).

    >>> theta_column(.875), theta_column(2)
    ('log_partition_0_875', 'log_partition_2')
    """
    return f"log_partition_{theta:g}".replace(".", "_")


@dataclass(frozen=True)
class Texts:
    """Sampled (or given) token ids and how they came about.

    `ids`: one integer array per text; `prompts`: the distinct prompts as ids; `prompt`: index into them per text;
    `sampler`: language, fingerprint, adaptor, seed, stop rule, dtype, versions; `finished`: False for a text that was
    cut at the length cap under ``stop="eos"``; `log_q`, `log_normaliser`: what the sampler drew each token with
    (nats), or None; `stream`: per text the indices of prompt and text of its random stream (texts, 2), or None. They
    stay those of the first drawing, whatever is selected or joined later. `records`: what ``sample(..., record=True)``
    wrote on the way, or None.
    """

    ids: list[np.ndarray]
    prompts: list[np.ndarray]
    prompt: np.ndarray
    sampler: dict[str, Any] = field(default_factory=dict)
    finished: np.ndarray | None = None
    log_q: list[np.ndarray] | None = None
    log_normaliser: list[np.ndarray] | None = None
    language: Any = field(default=None, repr=False, compare=False)
    stream: np.ndarray | None = None
    records: "Records | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def from_strings(cls, language: Any, strings: Sequence[str]) -> "Texts":
        """Texts that a person wrote, encoded by the tokenizer of `language`; PromptError for an empty one."""
        strings = [strings] if isinstance(strings, str) else list(strings)
        encode_all = getattr(language, "encode_all", lambda texts: [language.encode(text) for text in texts])
        return cls.from_ids(language, encode_all(strings))

    @classmethod
    def from_ids(cls, language: Any, ids: Sequence[Sequence[int | np.integer] | np.ndarray] | np.ndarray) -> "Texts":
        """Texts given as token ids, without prompt and without a sampler; PromptError for an empty one."""
        arrays = [as_ids(row, language.vocab_size, f"text {k}") for k, row in enumerate(ids)]
        empty = next((f"text {k} is empty" for k, a in enumerate(arrays) if not a.size), None)
        if empty or not arrays:
            raise PromptError(f"{empty or 'no text is given'}: there is nothing to score")
        return cls(arrays, [np.empty(0, np.int64)], np.zeros(len(arrays), int), language=language)

    def __len__(self) -> int:
        return len(self.ids)

    def decode(self, text: int) -> str:
        """The string of one text (without its prompt)."""
        if self.language is None:
            raise RecordError("these texts do not know their language: texts.with_language(aep.load(name)).decode(...)")
        return self.language.decode(self.ids[text])

    def with_language(self, language: Any) -> "Texts":
        """The same texts, and their records, with a language that can decode them, or with None, to let a network go."""
        return replace(self, language=language, records=self.records and replace(self.records, language=language))

    def keys(self) -> np.ndarray:
        """One 63-bit hash per text: of prompt and ids, and for a sampled text of sampler, seed and random stream.

        It does not depend on library versions or on the texts around it, and joins `texts` and `tokens` in the store.
        """
        sampler = {k: v for k, v in self.sampler.items() if k not in ("versions", "language")}
        common = json.dumps(sampler, sort_keys=True)
        keys = np.empty(len(self), np.int64)
        for i, ids in enumerate(self.ids):
            digest = hashlib.sha256(common.encode())
            digest.update(b"" if self.stream is None else np.asarray(self.stream[i], np.int64).tobytes())
            for part in (self.prompts[self.prompt[i]], ids):
                digest.update(f"|{len(part)}|".encode() + np.asarray(part, np.int64).tobytes())
            keys[i] = int.from_bytes(digest.digest()[:8]) >> 1
        return keys

    def select(self, indices: Sequence[int | np.integer] | np.ndarray) -> "Texts":
        """The texts with these indices, in this order, with the prompts they need."""
        indices = np.asarray(indices, dtype=np.int64)
        used, prompt = np.unique(np.asarray(self.prompt)[indices], return_inverse=True)
        chosen = {
            n: None if (v := getattr(self, n)) is None else [v[i] for i in indices]
            for n in ("ids", "log_q", "log_normaliser")
        }
        rows = {n: None if (v := getattr(self, n)) is None else v[indices] for n in ("finished", "stream")}
        rows["records"] = None if self.records is None else self.records.select(indices)
        return replace(self, prompts=[self.prompts[p] for p in used], prompt=prompt, **chosen, **rows)

    @classmethod
    def concatenate(cls, parts: "Sequence[Texts]") -> "Texts":
        """The texts of `parts` one after the other, equal prompts merged, no records; sampler and language of the first.

        RecordError if there are none, or if their samplers differ by more than versions and the language's name.
        """
        parts = list(parts)
        if not parts:
            raise RecordError("there are no texts to concatenate")
        for part in parts[1:]:
            if (differs := _difference(parts[0].sampler, part.sampler)) is not None:
                raise RecordError(f"texts of different samplers cannot be concatenated: {differs}")
        index: dict[tuple, int] = {}
        prompt = [index.setdefault(tuple(part.prompts[p].tolist()), len(index)) for part in parts for p in part.prompt]
        joined: dict[str, Any] = {"ids": [a for part in parts for a in part.ids]}
        for name in ("log_q", "log_normaliser", "finished", "stream"):
            values = [getattr(part, name) for part in parts]
            known = all(v is not None for v in values)
            lists = name.startswith("log_")
            joined[name] = None if not known else [a for v in values for a in v] if lists else np.concatenate(values)
        prompts = [np.array(p, np.int64) for p in index]
        return replace(parts[0], prompts=prompts, prompt=np.array(prompt, np.int64), records=None, **joined)

    def to_parquet(self, path: str | Path) -> None:
        """One row per text; log-probabilities as float32. RecordError for a place that cannot be written."""
        table, meta = self.to_table()
        write(table, "texts", meta, Path(path))

    def to_table(self) -> tuple[pa.Table, dict[str, Any]]:
        """The table of `to_parquet` and its description."""
        table = {
            "text": np.arange(len(self), dtype=np.int32),
            "text_key": self.keys(),
            "prompt": np.asarray(self.prompt, dtype=np.int32),
            "ids": _lists(self.ids, np.int32),
        }
        if self.stream is not None:
            table["stream_prompt"], table["stream_text"] = np.asarray(self.stream, np.int32).T.copy()
        if self.finished is not None:
            table["finished"] = np.asarray(self.finished)
        for name in ("log_q", "log_normaliser"):
            if (values := getattr(self, name)) is not None:
                table[name] = _lists(values, np.float32)
        return pa.table(table), {"sampler": self.sampler, "prompts": [p.tolist() for p in self.prompts]}

    @classmethod
    def from_parquet(cls, path: str | Path, language: Any = None) -> "Texts":
        """Inverse of `to_parquet`; RecordError for a missing, damaged, altered or foreign file."""
        table, header = read(Path(path), "texts")
        return cls.from_table(table, header.meta, language)

    @classmethod
    def from_table(cls, table: pa.Table, meta: Mapping[str, Any], language: Any = None) -> "Texts":
        """Inverse of `to_table`, in single precision."""
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        plain = {n: c.to_numpy(zero_copy_only=False) for n, c in columns.items() if not pa.types.is_list(c.type)}
        lists = {
            n: np.split(c.flatten().to_numpy().astype(np.int64 if n == "ids" else np.float64), c.offsets[1:-1])
            for n, c in columns.items()
            if n not in plain
        }
        streams = ("stream_prompt", "stream_text")
        return cls(
            ids=lists["ids"],
            prompts=[np.asarray(p, np.int64) for p in meta["prompts"]],
            prompt=plain["prompt"].astype(np.int64),
            sampler=meta["sampler"],
            finished=plain.get("finished"),
            log_q=lists.get("log_q"),
            log_normaliser=lists.get("log_normaliser"),
            language=language,
            stream=np.stack([plain[n] for n in streams], axis=1).astype(np.int64) if streams[0] in plain else None,
        )

    def _repr_html_(self) -> str:
        how = ", ".join(f"{k} {self.sampler[k]}" for k in ("language", "adaptor", "seed", "stop") if k in self.sampler)
        head = f"{len(self)} texts, {sum(map(len, self.ids))} tokens" + (f" ({how})" if how else "")
        if self.language is None:
            return heading(head)
        prompts = [self.prompts[p] for p in self.prompt]
        return text_maps(head, self.language.decode, self.ids, prompts, self.log_q)


@dataclass(frozen=True)
class Records:
    """One row per scored token: columns as flat arrays, sorted by text and position (nats; defined in `aep.information`).

    text, position, token; surprisal, entropy, varentropy (nats²); rank, greedy (the most probable token) and mass_above
    (probability of the tokens above the one that came); log_partition_θ, log Σ_v p(v)^θ, for each θ of `THETAS`. With
    adaptors: log_q_<adaptor>. With a source: cross_entropy, cross_varentropy, and the source's own surprisal, entropy
    and varentropy as source_*.

    ``records["entropy"]`` is a flat array, ``records.matrix("entropy")`` is (texts, T) when all texts are equally long,
    ``records.by_text("entropy")`` a list of arrays. `meta` says how the record was made; `text_keys` are
    `Texts.keys` of the texts, or None.
    """

    columns: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)
    language: Any = field(default=None, repr=False, compare=False)
    text_keys: np.ndarray | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            if name in OF_A_PAIR or name.startswith("log_q_"):
                options = "source=..., adaptor=..." if name in OF_A_PAIR else "adaptors=[...]"
                call = f"score(texts, scorer, {options})"
                raise RecordError(f"this record has no column {name!r}: it comes from {call}")
            raise RecordError(unknown_name("column", name, self.columns))
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["text"])

    @property
    def lengths(self) -> np.ndarray:
        """Number of scored tokens of each text."""
        return np.bincount(self.columns["text"])

    def by_text(self, name: str) -> list[np.ndarray]:
        """One array per text."""
        return np.split(self[name], np.cumsum(self.lengths)[:-1])

    def matrix(self, name: str) -> np.ndarray:
        """(texts, T); RecordError if the texts are not equally long."""
        lengths = self.lengths
        if len(set(lengths.tolist())) != 1:
            raise RecordError(f"texts have {lengths.min()} to {lengths.max()} tokens: use by_text({name!r})")
        return self[name].reshape(len(lengths), lengths[0])

    def log_partition(self) -> dict[float, np.ndarray]:
        """The grid θ -> Λ(θ), flat arrays."""
        return {theta: self[theta_column(theta)] for theta in THETAS}

    def to_pandas(self) -> pd.DataFrame:
        """The record as a data frame, one row per scored token."""
        return pd.DataFrame(self.columns)

    def select(self, texts: Sequence[int | np.integer] | np.ndarray) -> "Records":
        """The rows of these texts, in this order, numbered 0, 1, ..."""
        texts = np.asarray(texts, dtype=np.int64)
        start = np.concatenate([[0], np.cumsum(self.lengths)])
        rows = np.concatenate([np.empty(0, np.int64), *(np.arange(start[t], start[t + 1]) for t in texts)])
        columns = {name: values[rows] for name, values in self.columns.items()}
        columns["text"] = np.repeat(np.arange(len(texts)), self.lengths[texts])
        return replace(self, columns=columns, text_keys=None if self.text_keys is None else self.text_keys[texts])

    @classmethod
    def concatenate(cls, parts: "Sequence[Records]") -> "Records":
        """The rows of `parts` one after the other, texts numbered through; description and language of the first.

        RecordError if there are none, or if their columns differ.
        """
        parts = list(parts)
        if not parts:
            raise RecordError("there are no records to concatenate")
        first = parts[0]
        for part in parts[1:]:
            if missing := set(first.columns) ^ set(part.columns):
                raise RecordError(f"records with and without {min(missing)!r} cannot be concatenated")
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns}
        offset = np.cumsum([0] + [len(part.lengths) for part in parts[:-1]])
        columns["text"] = np.concatenate([part.columns["text"] + n for part, n in zip(parts, offset, strict=True)])
        keys = [part.text_keys for part in parts]
        return replace(first, columns=columns, text_keys=None if any(k is None for k in keys) else np.concatenate(keys))

    def to_parquet(self, path: str | Path) -> None:
        """Integers as int32, everything else as float32. RecordError for a place that cannot be written."""
        table, meta = self.to_table()
        write(table, "tokens", meta, Path(path))

    def to_table(self) -> tuple[pa.Table, dict[str, Any]]:
        """The table of `to_parquet` and its description."""
        table = {n: c.astype(np.int32 if n in _INTEGERS else np.float32) for n, c in self.columns.items()}
        if self.text_keys is not None:
            table["text_key"] = np.asarray(self.text_keys, np.int64)[self.columns["text"]]
        return pa.table(table), self.meta

    @classmethod
    def from_parquet(cls, path: str | Path, language: Any = None) -> "Records":
        """Inverse of `to_parquet` (in single precision); RecordError for a missing, damaged, altered or foreign file."""
        table, header = read(Path(path), "tokens")
        return cls.from_table(table, header.meta, language)

    @classmethod
    def from_table(cls, table: pa.Table, meta: Mapping[str, Any], language: Any = None) -> "Records":
        """Inverse of `to_table`, in single precision."""
        columns = {n: table.column(n).to_numpy() for n in table.column_names}
        keys = columns.pop("text_key", None)
        columns = {n: c.astype(np.int64 if n in _INTEGERS else np.float64) for n, c in columns.items()}
        if keys is not None:
            keys = keys[np.unique(columns["text"], return_index=True)[1]]
        return cls(columns, dict(meta), language, keys)

    def _repr_html_(self) -> str:
        lengths = self.lengths
        head = f"{len(lengths)} texts, {len(self)} scored tokens, scorer {self.meta.get('scorer', '?')}"
        if self.language is None or not len(self):
            return heading(head)
        columns = [self[n][: lengths[0]] for n in ("token", "surprisal", "entropy", "varentropy", "rank")]
        return heading(f"{head}; text 0:") + token_map(self.language.decode, *columns)


def _lists(arrays: Sequence[np.ndarray], dtype: Any) -> pa.ListArray:
    """One list per array, built without a Python object per value."""
    offsets = np.cumsum([0, *map(len, arrays)]).astype(np.int32)
    flat = np.concatenate([np.asarray(a, dtype) for a in arrays]) if len(arrays) else np.empty(0, dtype)
    return pa.ListArray.from_arrays(offsets, pa.array(flat))


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The first entry in which two descriptions of a sampler differ, versions and the language's name aside."""
    for name in sorted((set(a) | set(b)) - {"versions", "language"}):
        if a.get(name) != b.get(name):
            return f"{name} {a.get(name)!r} and {b.get(name)!r}"
    return None
