"""One long text of an embedded model: sampled once, committed, read from then on, and sampled again where it is checked.

``python -m aep.analysis.long_text`` writes `data/results/long_text.parquet` (minutes of one core): the ids of one ancestral
sample 128 times as long as the model's sliding window, with everything that determines them. It is scored with the model's
own rolling cache, positions never reset: ``aep.score(found.texts, found.language, context="rolling")``. Model, prompt,
length and seed were fixed before the first run; the text was not chosen among several.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from .. import _parquet, data_table
from ..adaptors import parse
from ..errors import ModelError, ParameterError, RecordError
from ..neural.loading import load
from ..outputs import repository
from ..records import Records, Texts
from ..sampling import sample
from ..scoring import score
from .self_aep import per_text
from .typicality import Paths, effective_tokens, running_sigma, z_test

__all__ = ["LongText", "by_block", "is_repeated", "long_text", "write_long_text"]

FILE = "results/long_text.parquet"
COMMAND = "python -m aep.analysis.long_text"
MODEL, PROMPT, TOKENS, SEED = "docs-3m", "The function", 16_384, 16_384


@dataclass(frozen=True)
class LongText:
    """The committed text, and what determines it.

    `texts` holds the one text (ids, prompt, sampler, random stream), `language` the model that wrote it; `prompt` is the
    string, `start_token` the id before it, `command` what made the file.
    """

    texts: Texts
    language: Any
    prompt: str
    start_token: int | None
    command: str

    @property
    def ids(self) -> Int[np.ndarray, " tokens"]:
        """The sampled token ids, without the prompt."""
        return self.texts.ids[0]

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.texts.sampler["language"]

    @property
    def fingerprint(self) -> str:
        """Hash of the model's configuration and weights."""
        return self.texts.sampler["fingerprint"]

    @property
    def sampler(self) -> str:
        """The adaptor, as `aep.adaptors.parse` reads it."""
        return self.texts.sampler["adaptor"]

    @property
    def seed(self) -> int:
        """Seed of the sample; the stream is ``text_stream(seed, 0, 0)``."""
        return self.texts.sampler["seed"]

    @property
    def dtype(self) -> str:
        """The precision the text was sampled in."""
        return self.texts.sampler["dtype"]

    def sampled_again(self, tokens: int = 512, *, store: Any = None) -> Int[np.ndarray, " tokens"]:
        """The first `tokens` ids, sampled anew from the stored seed, prompt and adaptor: they equal ``ids[:tokens]``.

        With a `store` (as `aep.sample` takes it) what was sampled anew there before is found again.
        A token is drawn from its own uniform of the text's stream, so its beginning does not depend on how long the text
        becomes. Raises ParameterError unless `tokens` is an integer from 1 to the length of the text.
        """
        if isinstance(tokens, bool) or not isinstance(tokens, int | np.integer) or not 1 <= tokens <= len(self.ids):
            raise ParameterError(f"tokens={tokens!r}: an integer from 1 to {len(self.ids)} is needed")
        how = {"seed": self.seed, "adaptor": parse(self.sampler), "store": store}
        return sample(self.language, self.texts.prompts, tokens=int(tokens), **how).ids[0]


def long_text(language: Any = None, *, root: Path | None = None) -> LongText:
    """The committed text as `aep.score` takes it, compared with its checksum in data/README.md and with its model.

    Parameters
    ----------
    language : the model that wrote it, if it is loaded already; None loads it in the precision of the file
    root : the repository whose file is read, by default this one

    Raises
    ------
    RecordError : the file is missing, damaged, altered, or holds other texts
    ModelError : the model has other weights than the one that wrote the text, or computes in another precision
    """
    path = data_table.verified(FILE, root)
    table, header = _parquet.read(path, "texts")
    lacking = [name for name in ("sampler", "prompts", "prompt", "start_token", "command") if name not in header.meta]
    if lacking or len(table) != 1:
        what = f"its description lacks {lacking[0]!r}" if lacking else f"it has {len(table)} texts"
        raise RecordError(f"data/{FILE} is not the one long text ({what}): restore it from git, or run `{COMMAND}`")
    said = {name: header.meta[name] for name in ("prompt", "start_token", "command")}
    texts = Texts.from_table(table, header.meta)
    sampler = texts.sampler
    language = load(sampler["language"], dtype=sampler["dtype"]) if language is None else language
    for what, found in (("fingerprint", language.fingerprint), ("dtype", getattr(language, "dtype_name", "float64"))):
        if found != sampler[what]:
            raise ModelError(
                f"data/{FILE} was sampled from {sampler['language']} of {what} {sampler[what]}, but {language.name} has "
                f"{what} {found}: give the model that wrote it, restore both from git, or run `{COMMAND}`"
            )
    return LongText(texts.with_language(language), language, **said)


def write_long_text(
    path: Path, language: Any, *, prompt: str = PROMPT, tokens: int = TOKENS, seed: int = SEED
) -> Texts:
    """Sample one ancestral text and write it to `path` (atomic; with progress); a file that says the same stays as it is.

    Returns the text. Raises what `aep.sample` raises, and RecordError for a place that cannot be written.
    """
    drawn = sample(language, prompt, tokens=tokens, seed=seed)
    table, meta = replace(drawn, log_q=None, log_normaliser=None).to_table()
    meta |= {"prompt": prompt, "start_token": getattr(language, "bos", None), "command": COMMAND}
    if not _says(path, table, meta):
        _parquet.write(table, "texts", meta, path)
    return drawn


def _says(path: Path, table: Any, meta: dict[str, Any]) -> bool:
    """Whether the file holds this text and description already, by whatever versions of the libraries."""
    try:
        lies, header = _parquet.read(path, "texts")
    except RecordError:
        return False
    without = [m | {"sampler": {**m.get("sampler", {}), "versions": None}} for m in (header.meta, meta)]
    return lies.equals(table) and without[0] == without[1]


def by_block(records: Records, texts: Texts, size: int = 1024, gram: int = 8) -> pd.DataFrame:
    """One row per block of `size` tokens of one text (the last may be shorter): is it still alive, and still as predicted?

    Columns: `block` from 1; `first`, `last` token, from 1; `log_perplexity`, `empirical_entropy`, `difference` and `sigma`
    of the block alone (nats per token); its `z` and `has_test` (see `typicality.z_test`): given all that came before, z
    is approximately N(0,1) in every block, so that blocks are as good as independent texts; mean `varentropy` (nats²) and
    `effective_tokens`; `repeated`, the share of its tokens at which a stretch of `gram` tokens ends that stands earlier in
    the text (`is_repeated`). In a repetition loop `varentropy` falls to 0, `repeated` rises to 1 and there is no test.

    Raises ParameterError unless the record has one text and `size` is at least 2.
    """
    if len(texts) != 1 or len(records.lengths) != 1:
        raise ParameterError(f"blocks are those of one text, not of {len(texts)}: use select([i])")
    if isinstance(size, bool) or size < 2:
        raise ParameterError(f"size={size!r}: blocks of at least 2 tokens are needed")
    a, h, v = Paths.of(records, 0)[:3]
    again = is_repeated(texts.ids[0], gram)[-len(a) :]
    rows = []
    for block, begin in enumerate(range(0, len(a), size), 1):
        part = slice(begin, min(begin + size, len(a)))
        test = z_test(a[part], h[part], v[part])
        row = {"block": block, "first": begin + 1, "last": part.stop}
        row |= {"log_perplexity": a[part].mean(), "empirical_entropy": h[part].mean()}
        row |= {"difference": np.mean(a[part] - h[part]), "sigma": running_sigma(v[part])[-1]}
        row |= {"z": float(test.z), "has_test": bool(test.has_test), "varentropy": v[part].mean()}
        row |= {"effective_tokens": float(effective_tokens(v[part])), "repeated": again[part].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def is_repeated(ids: Int[np.ndarray, " tokens"], gram: int = 8) -> Bool[np.ndarray, " tokens"]:
    """Whether the `gram` tokens that end at a position stand, as they are, at an earlier place of the text.

    The two places may overlap: in a loop of period r every position from r + `gram` on is a repetition. ParameterError
    unless `gram` is at least 1.

    >>> is_repeated(np.array([1, 2, 3, 1, 2, 3]), 2).tolist()
    [False, False, False, False, True, True]
    """
    if isinstance(gram, bool) or gram < 1:
        raise ParameterError(f"gram={gram!r}: at least 1 token is needed")
    found = np.zeros(len(ids), bool)
    if len(ids) > gram:
        windows = np.lib.stride_tricks.sliding_window_view(ids, gram)
        _, where, which = np.unique(windows, axis=0, return_index=True, return_inverse=True)
        found[gram - 1 :] = where[which.ravel()] < np.arange(len(windows))
    return found


def main() -> None:
    """Sample the text, write it, and print what became of it."""
    language = load(MODEL)
    drawn = write_long_text(repository() / "data" / FILE, language)
    records = score(drawn, language, context="rolling")
    print(per_text(records, drawn, MODEL).round(4).to_string(index=False))
    print(by_block(records, drawn).round(4).to_string(index=False))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        raise SystemExit(f"{COMMAND} takes no arguments, not {' '.join(sys.argv[1:])}")
    main()
