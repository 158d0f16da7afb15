"""The sampling schemes of 2406.10203 on a trio of prior, aligned language and reward: one row per text, of any language.

For an opening x and a text y of the aligned language under an adaptor, `measure` gives log p_plus(y|x) and log p(y|x),
log p(y) of the text by itself (what the public code correlates), rewards of prompt and text, and the secret reward of Eq.
4, β log(p_plus(y|x)/p(y|x)), all in nats or in the unit of the reward. A text ends with its end token; the opening is
given and not drawn: an adaptor acts on what follows alone, and may continue an opening that it could not have written.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from ..adaptors import Adaptor, parse
from ..errors import AdaptorError, ParameterError, PromptError, VocabularyMismatch, unknown_name
from ..languages import Grammar
from ..languages.grammar import embedded_grammars
from ..languages.protocol import Language, check_count
from ..optimum import check_beta
from ..records import Records, Texts
from ..scoring import check_languages
from ..store import Store, open_store
from .joint_sampling import Drawn, Job, draw_jobs, log_probabilities
from .metropolis import SCHEMES, Proposals

__all__ = ["Trio", "measure", "openings", "pool", "prompt_ids", "schemes", "temperature_of"]

BLOCK = 256  # texts of a scheme in one file of the store
_OF_TOKEN = {
    "log_q": "log_q",
    "log_normaliser": "log_normaliser",
    "log_p_plus": "source_surprisal",
    "log_p": "surprisal",
    "log_p_alone": "surprisal_alone",
}


class Trio(NamedTuple):
    """A prior p, an aligned language p_plus, rewards r (the first is that of Eq. 1), and β.

    A reward is called with `Texts` and has a `name` and a `fingerprint` (`neural.rewards.load_reward`).
    At the optimum p_plus(y|x) = p(y|x) exp(r(x, y)/β) / Z(x) (Eq. 1): log p + r/β - log p_plus is a constant per opening.
    """

    prior: Language
    aligned: Language
    rewards: tuple[Callable[[Texts], np.ndarray], ...]
    beta: float

    def check(self) -> "Trio":
        """The trio itself; VocabularyMismatch where ids mean different strings, ParameterError for β ≤ 0 or no reward."""
        check_languages(self.prior, self.aligned)
        a, b = self.prior, self.aligned
        hashes = [getattr(x, "vocabulary_hash", None) for x in (a, b)]
        if a.vocab_size != b.vocab_size or a.eos != b.eos or (all(hashes) and hashes[0] != hashes[1]):
            raise VocabularyMismatch(
                f"prior {a.name} ({a.vocab_size} tokens) and aligned {b.name} ({b.vocab_size} tokens) have different "
                "vocabularies: log p_plus - log p needs one tokenizer for both"
            )
        check_beta(self.beta)
        if not self.rewards:
            raise ParameterError("rewards=(): a trio has at least one reward")
        for reward in self.rewards:
            if not (callable(reward) and hasattr(reward, "name") and hasattr(reward, "fingerprint")):
                raise ParameterError(f"reward {reward!r}: give load_reward(it), which names and checks a callable")
        return self


def schemes(names: str | Iterable[str] = "all") -> dict[str, Adaptor]:
    """Sampling schemes by name: "all" 31 of them, or a list (or a comma-separated text) of some.

    ParameterError, with the nearest, for one that is not among `metropolis.SCHEMES`.

    >>> len(schemes()), list(schemes("top_k(30) | temperature(.5), ancestral()"))
    (31, ['temperature(0.5)|top_k(30)', 'ancestral()'])
    """
    if isinstance(names, str):
        names = SCHEMES if names.strip() == "all" else [name.strip() for name in names.split(",")]
    found = {}
    for name in names:
        try:
            adaptor = parse(name)
        except AdaptorError:
            adaptor = None
        if str(adaptor) not in SCHEMES:
            raise ParameterError(unknown_name("scheme", str(name), SCHEMES))
        found[str(adaptor)] = adaptor
    return found


def temperature_of(name: str) -> float:
    """The temperature of a scheme; 1 where it has none.

    >>> temperature_of("temperature(0.5)|top_k(30)"), temperature_of("ancestral()")
    (0.5, 1.0)
    """
    return parse(name).tau


def openings(grammar: Grammar, count: int, *, seed: int, end: str = ".") -> list[Int[np.ndarray, " _"]]:
    """`count` distinct openings: the first sentence, with its `end`, of strings that the grammar draws, in their order.

    Frequent openings are met first, as in any draw without repeats. ParameterError for a grammar without the word `end`,
    or one that has not shown `count` different openings in 200 strings for each.
    """
    if end not in grammar.symbols:
        raise ParameterError(f"{grammar.name} has no word {end!r}: an opening ends with one")
    stop, rng = grammar.symbols.index(end), np.random.default_rng([seed, 0])
    found: dict[tuple[int, ...], None] = {}
    for _ in range(200 * count):
        ids = grammar.sample_strings(rng, 1)[0].tolist()
        if stop in ids:
            found.setdefault(tuple(ids[: ids.index(stop) + 1]))
        if len(found) == count:
            return [np.array(ids) for ids in found]
    raise ParameterError(
        f"count={count}: {grammar.name} showed {len(found)} different openings in {200 * count} strings"
    )


def prompt_ids(which: str, language: Language, count: int, *, seed: int) -> list[Int[np.ndarray, " _"]]:
    """`count` distinct prompts as ids: openings of an embedded grammar by its name, or the first lines of a text file.

    ParameterError for what is neither, or a file with too few different lines; PromptError for a line that the language
    cannot encode.
    """
    if which in embedded_grammars():
        return openings(Grammar.load(which), count, seed=seed)
    path = Path(which).expanduser()
    if not path.is_file():
        raise ParameterError(f"{unknown_name('set of prompts', which, embedded_grammars())}, or a file of one per line")
    lines = dict.fromkeys(line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(lines) < count:
        raise ParameterError(f"count={count}: {path.name} has {len(lines)} different lines")
    return [language.encode(line) for line in list(lines)[:count]]


def measure(
    trio: Trio,
    prompts: Sequence[Int[np.ndarray, " _"]],
    adaptors: Mapping[str, Adaptor],
    *,
    texts: int,
    tokens: int,
    seed: int,
    alone: bool = True,
    store: Any = None,
) -> pd.DataFrame:
    """`texts` texts per prompt and scheme, drawn from the aligned language and measured: one row per text.

    Parameters
    ----------
    adaptors : name -> adaptor, for example of `schemes`. A scheme has a seed of its own: schemes are independent, and the
        texts of one do not depend on which others are asked for
    tokens : length cap; a text that reaches it without an end is marked (`finished` False) and is no string
    alone : whether log p(y) without the prompt is wanted (`log_p_alone`; NaN without)
    store : as for `sample`; a file per scheme and block of prompts, found again by any later request for it

    Returns
    -------
    Columns `scheme`, `prompt` (index), `text`, `tokens` (T, a stopping time, the end counted), `finished`; sums over
    tokens `log_q`, `log_z` (Σ log Z_t of the local normalisers), `log_p_plus`, `log_p`, `log_p_alone`; `reward_<name>` of
    prompt and text for every reward; `secret` = β (log_p_plus - log_p), Eq. 4 without its constant per prompt.

    Raises VocabularyMismatch, ParameterError, PromptError for a prompt given twice, DistributionError for a reward that is
    not finite, and what `sample` raises.
    """
    trio.check()
    check_count(1, texts=texts, tokens=tokens)
    check_count(0, seed=seed)
    if len({tuple(p.tolist()) for p in prompts}) < len(prompts) or not len(prompts):
        raise PromptError("prompts have to be distinct, and at least one: ask for more texts per prompt instead")
    size, opened, parts = max(1, BLOCK // texts), open_store(store), []
    for first in range(0, len(prompts), size):
        block = _Block(trio, prompts, range(first, min(first + size, len(prompts))), texts, tokens, seed, alone)
        parts.append(block.table(adaptors, opened))
    table = pd.concat(parts, ignore_index=True)
    rank = {name: k for k, name in enumerate(adaptors)}
    order = np.lexsort((table["text"], table["prompt"], table["scheme"].map(rank)))
    return table.iloc[order].reset_index(drop=True)


def pool(table: pd.DataFrame, *, least: int = 64) -> Proposals:
    """The texts of one scheme as a pool for Metropolis-Hastings chains, one per prompt: log-weight Σ log Z_t.

    A text that was cut at the cap has log-weight -inf. ParameterError below `least` texts of a prompt: fewer recover only
    a part of the way from the local to the global law.
    """
    if table["scheme"].nunique() != 1:
        raise ParameterError(f"texts of {table['scheme'].nunique()} schemes: a pool has those of one")
    _check_pool(table["prompt"].to_numpy(), least)
    log_weight = np.where(table["finished"], table["log_z"], -np.inf)
    return Proposals(log_weight, table["prompt"].to_numpy(np.int64))


# ------------------------------------------------------------------------------------------------------ blocks of prompts


class _Block(NamedTuple):
    """The texts of every scheme after some of the prompts."""

    trio: Trio
    prompts: Sequence[np.ndarray]
    of: range
    texts: int
    tokens: int
    seed: int
    alone: bool

    def table(self, adaptors: Mapping[str, Adaptor], store: Store | None) -> pd.DataFrame:
        """The rows of these prompts, scheme by scheme."""
        records = self._records(adaptors, store)
        tables = []
        for name, found in records.items():
            each = np.arange(len(found.lengths))
            sums = {
                column: np.bincount(found["text"], found[column])
                for column in _OF_TOKEN.values()
                if column in found.columns
            }
            ends = np.cumsum(found.lengths) - 1
            table = {
                "scheme": name,
                "prompt": self.of.start + each // self.texts,
                "text": each % self.texts,
                "tokens": found.lengths,
                "finished": found["token"][ends] == self.trio.aligned.eos,
                "log_q": sums["log_q"],
                "log_z": sums["log_normaliser"],
                "log_p_plus": -sums["source_surprisal"],
                "log_p": -sums["surprisal"],
                "log_p_alone": -sums["surprisal_alone"] if self.alone else np.nan,
            }
            tables.append(pd.DataFrame(table))
        table = pd.concat(tables, ignore_index=True)
        for reward in self.trio.rewards:
            table[f"reward_{reward.name}"] = np.concatenate(self._rewards(reward, adaptors, records, store))
        with np.errstate(invalid="ignore"):
            return table.assign(secret=self.trio.beta * (table["log_p_plus"] - table["log_p"]))

    def _records(self, adaptors: Mapping[str, Adaptor], store: Store | None) -> dict[str, Records]:
        found = {n: store.get("tokens", self._parts(a)) if store else None for n, a in adaptors.items()}
        missing = [name for name, records in found.items() if records is None]
        jobs = [
            Job(adaptors[name], _seed(self.seed, adaptors[name]), prompt, text)
            for name in missing
            for prompt in self.of
            for text in range(self.texts)
        ]
        drawn = dict(draw_jobs(self.trio.aligned, self.prompts, jobs, tokens=self.tokens))
        texts = [drawn[i] for i in range(len(jobs))]
        read = self._read([self.prompts[job.prompt] for job in jobs], [text.ids for text in texts])
        size = len(self.of) * self.texts
        for k, name in enumerate(missing):
            mine = slice(k * size, (k + 1) * size)
            records = self._as_records(adaptors[name], texts[mine], {n: values[mine] for n, values in read.items()})
            found[name] = store.put("tokens", self._parts(adaptors[name]), records) if store else records
        return found

    def _read(self, contexts: list[np.ndarray], ids: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
        """log p of every token under the prior, after the prompt and (where it is wanted) by itself."""
        read = {"log_p": log_probabilities(self.trio.prior, contexts, ids)}
        if self.alone:
            read["log_p_alone"] = log_probabilities(self.trio.prior, [np.empty(0, np.int64)] * len(ids), ids)
        return read

    def _as_records(self, adaptor: Adaptor, drawn: list[Drawn], read: dict[str, list[np.ndarray]]) -> Records:
        lengths = [len(text.ids) for text in drawn]
        columns = {
            "text": np.repeat(np.arange(len(drawn)), lengths),
            "position": np.concatenate([np.arange(n) for n in lengths]),
            "token": np.concatenate([text.ids for text in drawn]),
        }
        of_text = {name: [getattr(text, name) for text in drawn] for name in ("log_q", "log_normaliser", "log_p_plus")}
        for name, values in (of_text | read).items():
            column = _OF_TOKEN[name]
            columns[column] = np.concatenate(values) * (-1.0 if "surprisal" in column else 1.0)
        meta = {k: v for k, v in self._parts(adaptor).items() if k not in ("prompts", "drawn_and_read")}
        return Records(columns, meta)

    def _parts(self, adaptor: Adaptor) -> dict[str, Any]:
        """Everything that determines the texts of a scheme in this block, and what is read off them."""
        a, p = self.trio.aligned, self.trio.prior
        return {
            "drawn_and_read": 1,
            "source": a.name,
            "source_fingerprint": a.fingerprint,
            "scorer": p.name,
            "scorer_fingerprint": p.fingerprint,
            "dtype": [getattr(x, "dtype_name", "float64") for x in (a, p)],
            "adaptor": str(adaptor),
            "seed": int(self.seed),
            "stop": "eos",
            "eos": a.eos,
            "tokens": int(self.tokens),
            "texts": int(self.texts),
            "alone": bool(self.alone),
            "first": self.of.start,
            "prompts": [self.prompts[i] for i in self.of],
        }

    def _rewards(self, reward, adaptors, records: dict[str, Records], store: Store | None) -> list[np.ndarray]:
        """r of the texts of every scheme; kept in the store for a reward with a fingerprint, at the last token of a text."""
        kept = bool(store and getattr(reward, "fingerprint", ""))
        parts = {
            name: self._parts(adaptors[name]) | {"reward": reward.name, "reward_fingerprint": reward.fingerprint}
            for name in (adaptors if kept else ())
        }
        found = {name: store.get("tokens", parts[name]) if kept else None for name in adaptors}
        missing = [name for name, values in found.items() if values is None]
        out = {name: values["reward"] for name, values in found.items() if values is not None}
        if missing:
            values = reward(self._as_texts([records[name] for name in missing]))
            for name, part in zip(missing, np.split(values, len(missing)), strict=True):
                out[name] = part
                if kept:
                    ends = np.cumsum(records[name].lengths) - 1
                    columns = {n: records[name][n][ends] for n in ("text", "position", "token")} | {"reward": part}
                    meta = {"scorer": reward.name, "source": self.trio.aligned.name, "adaptor": str(adaptors[name])}
                    out[name] = store.put("tokens", parts[name], Records(columns, meta))["reward"]
        return [out[name] for name in adaptors]

    def _as_texts(self, records: list[Records]) -> Texts:
        ids = [each for found in records for each in found.by_text("token")]
        prompt = np.tile(np.repeat(np.arange(len(self.of)), self.texts), len(records))
        return Texts(ids, [self.prompts[i] for i in self.of], prompt, language=self.trio.aligned)


def _seed(seed: int, adaptor: Adaptor) -> int:
    """The seed of a scheme: another one for every adaptor, whatever stands beside it."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{adaptor}".encode()).digest()[:7])


def _check_pool(prompt: np.ndarray, least: int) -> None:
    which, count = np.unique(prompt, return_counts=True)
    few = np.argmin(count)
    if count[few] < least:
        raise ParameterError(
            f"prompt {which[few]} has {count[few]} texts: the global law needs a pool of at least {least} per prompt, "
            "two recover less than half of the way from the local to the global law"
        )
