"""Pair records at scale: every source's texts, drawn once per sampler and scored under every language of a list.

For an ordered pair (A, B) and a sampler of A: a_t = -log p_B(x_t), b_t = -Σ_v p_A(v) log p_B(v) and v_t the variance of
-log p_B(v) under p_A, the law the token was drawn from: A's with the sampler's adaptor. This is what "source-masked" means
here: the source's own support mask applies to p_A, the prompt is context and in no sum, and the scorer stays untruncated.
Paper 2405.13798 and the final report behind it; everything in nats.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from .._progress import progress
from ..adaptors import Adaptor, ancestral, as_adaptor
from ..errors import ContextTooLong, ParameterError, unknown_name
from ..information import THETAS
from ..languages.protocol import Language
from ..records import Records, Texts, theta_column
from ..sampling import check_context, checked_adaptor, ids_of_prompts, sample
from ..scoring import check_languages, check_pair, description, score
from ..store import open_store
from .typicality import z_test

__all__ = ["PairRecords", "check_pairs", "pair_columns", "pair_records", "text_seed"]

Pair = tuple[str, str, str]


@dataclass(frozen=True, eq=False, repr=False)
class PairRecords(Mapping):
    """(source, sampler, scorer) -> `Records` with the columns of a pair; `texts` maps (source, sampler) to the `Texts`.

    Row k of every record of one source and sampler is text k of `texts[source, sampler]`, whoever scored it. `samplers`
    maps the label of a sampler to its adaptor. No language is held: `texts[...].with_language(...)` decodes. A scored
    token takes about 200 bytes per scorer. KeyError, naming the nearest labels, for an unknown pair.
    """

    records: dict[Pair, Records]
    texts: dict[tuple[str, str], Texts]
    samplers: dict[str, Adaptor]

    def __getitem__(self, pair: Pair) -> Records:
        if pair not in self.records:
            raise KeyError(unknown_name("pair", "/".join(map(str, pair)), ["/".join(known) for known in self.records]))
        return self.records[pair]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        languages, samplers = len({source for source, _ in self.texts}), len(self.samplers)
        texts = next(iter(self.texts.values()))
        return (
            f"PairRecords: {languages} languages, {samplers} sampler{'s' * (samplers != 1)}, {len(self)} pairs, "
            f"{len(texts)} texts of {len(texts.ids[0])} tokens from each source and sampler"
        )

    def by_scorer(self, source: str, sampler: str = "ancestral") -> dict[str, Records]:
        """The records of the same texts under every scorer; KeyError, naming the nearest, for texts that nobody drew."""
        if (source, sampler) not in self.texts:
            raise KeyError(unknown_name("source and sampler", f"{source}/{sampler}", map("/".join, self.texts)))
        return {scorer: found for (a, s, scorer), found in self.items() if (a, s) == (source, sampler)}

    def per_text(self) -> pd.DataFrame:
        """One row per (text, scorer), in the order of the records: what `pair_columns` computes, and whose text it is.

        source, scorer, sampler (labels), adaptor (as a string), prompt (index), text (its number after that prompt),
        record (its row in `texts[source, sampler]` and in the records), tokens, then the columns of `pair_columns`.
        """
        parts = []
        for (source, sampler, scorer), records in self.items():
            texts = self.texts[source, sampler]
            adaptor = self.samplers[sampler]
            whose = {"source": source, "scorer": scorer, "sampler": sampler, "adaptor": str(adaptor)}
            whose |= {"prompt": texts.stream[:, 0], "text": texts.stream[:, 1], "record": np.arange(len(texts))}
            columns = pair_columns(records, adaptor)
            parts.append(pd.DataFrame(whose | {"tokens": records.lengths} | columns))
        return pd.concat(parts, ignore_index=True)


def pair_columns(records: Records, adaptor: Adaptor | None = None) -> dict[str, np.ndarray]:
    """Per text of a pair record: means over its T tokens, standard deviations, tests and scores. Arrays (texts,); nats.

    * `l_B` = mean a, `h_B` = mean H_B, `h_AB` = mean b, `h_A` = mean H of the adapted law of A, `l_A` = -mean log p_A
    * `gap_pair` = l_B - h_AB (mean zero when A wrote the text), `gap_B` = l_B - h_B
    * `sigma_pair` = sqrt(Σ v)/T, `sigma_B` = sqrt(Σ V_B)/T
    * `z_pair`, `z_B`: gap over sigma, NaN where `z_pair_has_test`, `z_B_has_test` is False (`typicality.z_test`)
    * `kl` = mean(b - H_A) >= 0, the Rao-Blackwellised KL rate; `llr` = mean(log p_A(x) - log p_B(x)), of the same mean
    * `kl_same`: the KL rate against B *under the same adaptor*, mean(b/τ + Λ_B(1/τ) - H_A), where the record has it:
      for ancestral sampling (it is `kl`) and for temperatures with 1/τ in `THETAS`; else NaN
    * `fast_detect_gpt` = (Σb - Σa)/sqrt(Σv), which is -z_pair (Bao et al. 2024: A its reference, B its scoring model), NaN
      where Σv = 0; `binoculars` = Σa/Σb, aligned (Hans et al. 2024: A its observer, B its performer), NaN where Σb = 0

    A scorer that forbids a token the source allows has b_t = inf: `h_AB` and `kl` are inf then, and there is no test.
    RecordError for a record without the columns of a pair, or of texts of several lengths.
    """
    names = ("surprisal", "entropy", "varentropy", "cross_entropy", "cross_varentropy")
    a, h, big_v, b, v = map(records.matrix, names)
    own = {name: records.matrix(f"source_{name}") for name in ("surprisal", "entropy")}
    means = {"l_B": a, "h_B": h, "h_AB": b, "h_A": own["entropy"], "l_A": own["surprisal"]}
    found = {name: np.mean(x, axis=1) for name, x in means.items()}
    sum_a, sum_b, sum_v, tokens = np.sum(a, axis=1), np.sum(b, axis=1), np.sum(v, axis=1), a.shape[1]
    with np.errstate(invalid="ignore"):  # inf - inf where the scorer forbids the token that came
        found |= {"gap_pair": found["l_B"] - found["h_AB"], "gap_B": found["l_B"] - found["h_B"]}
        found |= {"sigma_pair": np.sqrt(sum_v) / tokens, "sigma_B": np.sqrt(np.sum(big_v, axis=1)) / tokens}
        for name, test in (("z_pair", z_test(a, b, v)), ("z_B", z_test(a, h, big_v))):
            found |= {name: test.z, f"{name}_has_test": test.has_test}
        found["kl"] = np.mean(b - own["entropy"], axis=1)
        found["llr"] = found["l_B"] - found["l_A"]
        found["kl_same"] = np.mean(_same_adaptor(records, b, adaptor or ancestral()) - own["entropy"], axis=1)
        nan = np.full(len(a), np.nan)
        found["fast_detect_gpt"] = np.divide(sum_b - sum_a, np.sqrt(sum_v), out=nan.copy(), where=sum_v > 0)
        found["binoculars"] = np.divide(sum_a, sum_b, out=nan.copy(), where=sum_b > 0)
    return found


def _same_adaptor(records: Records, b: np.ndarray, adaptor: Adaptor) -> np.ndarray:
    """-Σ_v p_A(v) log q_B(v), q_B the scorer under A's adaptor: from b and Λ_B where that is a temperature of the grid."""
    if adaptor.is_ancestral:
        return b
    kinds = dict(adaptor.steps)
    near = [theta for theta in THETAS if np.isclose(theta, 1 / kinds.get("temperature", np.nan))]
    if len(kinds) > 1 or not near:
        return np.full_like(b, np.nan)
    return b * near[0] + records.matrix(theta_column(near[0]))


def text_seed(seed: int, source: str, adaptor: Adaptor) -> int:
    """The seed of one source's texts under one adaptor: 48 bits of a SHA-256 of seed, label and adaptor.

    Texts of different sources and samplers are independent this way, and stay the same when others join the list.

    >>> text_seed(0, "A", ancestral()) == text_seed(0, "A", ancestral()) != text_seed(0, "B", ancestral())
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}|{source}|{adaptor}".encode()).digest()[:6])


def pair_records(
    languages: Mapping[str, Any],
    prompts: Any = None,
    *,
    samplers: Mapping[str, Any] | None = None,
    texts: int,
    tokens: int,
    seed: int,
    adaptors: Sequence[Adaptor] = (),
    store: Any = None,
    batch: int = 64,
) -> PairRecords:
    """Draw `texts` texts of every language after every prompt with every sampler; score all under all languages.

    Parameters
    ----------
    languages : label -> language over one vocabulary, such as an `aep.neural.shelf.Shelf`. They are asked for in an order in
        which K languages of which one is kept are loaded K(K+1)/2 times, K times where all are kept; besides those that the
        mapping keeps, one more is in memory
    prompts : as in `sample`; None is the start token alone
    samplers : label -> adaptor (or its string, or None: ancestral); {"ancestral": None} unless given
    texts, tokens : texts per prompt, each of exactly `tokens` tokens (``stop="never"``)
    seed : with label and adaptor it determines the seed of a source's texts (`text_seed`)
    adaptors : adaptors of the *scorers* whose `log_q_<adaptor>` columns are wanted, as in `score`
    store : where texts and records are kept: the same call goes on after an interrupt with what is missing
    batch : texts sampled side by side; changes no text in double precision

    Returns
    -------
    PairRecords of all K² ordered pairs and all samplers, the pairs (A, A) included. An ancestral source's own record is
    written while its texts are drawn (b = H_A, v = V_A then), unless `adaptors` asks for more columns.

    Raises
    ------
    VocabularyMismatch, ContextTooLong, PromptError, AdaptorError, ParameterError : before anything is drawn
    """
    samplers = {"ancestral": None} if samplers is None else samplers
    _labelled("languages", languages, "{'a': language}")
    _labelled("samplers", samplers, "{'cold': 'temperature(.5)'}")
    chosen = {k: as_adaptor(v) for k, v in samplers.items()}
    check_pairs(languages, prompts, chosen, texts=texts, tokens=tokens, seed=seed, batch=batch)
    names, opened = list(languages), open_store(store)
    with progress(total=len(names) ** 2 * len(chosen), desc="pairs", unit="pair") as bar:
        draws = {"prompts": prompts, "texts": texts, "tokens": tokens, "store": opened, "batch": batch}
        work = _Work(chosen, seed, draws, {"adaptors": list(adaptors), "store": opened}, bar)
        for i, name in enumerate(names):
            first = languages[name]
            work.draw(name, first)
            for other in reversed(names[i + 1 :]):  # the last of them comes first next: it is there already
                second = languages[other]
                work.draw(other, second)
                work.score(name, first, other, second)
                work.score(other, second, name, first)
                del second  # before the next one is loaded
    ordered = {(a, s, b): work.records[a, s, b] for a in names for s in chosen for b in names}
    return PairRecords(ordered, {(a, s): work.texts[a, s] for a in names for s in chosen}, chosen)


class _Work:
    """Texts and records as they come about, without references to the languages, so that a network can leave the memory."""

    def __init__(
        self, samplers: dict[str, Adaptor], seed: int, draws: dict[str, Any], scores: dict[str, Any], bar: Any
    ):
        self.samplers, self.seed, self.draws, self.scores, self.bar = samplers, seed, draws, scores, bar
        self.texts: dict[tuple[str, str], Texts] = {}
        self.records: dict[Pair, Records] = {}

    def draw(self, source: str, language: Language) -> None:
        """The texts of a source and their records under itself, unless they are there."""
        for label, adaptor in self.samplers.items():
            if (source, label) in self.texts:
                continue
            record = adaptor.is_ancestral and not self.scores["adaptors"]  # the laws drawn from are those of the record
            options = {"seed": text_seed(self.seed, source, adaptor), "adaptor": adaptor, "record": record}
            drawn = sample(language, **self.draws, **options)
            self.records[source, label, source] = _own(drawn, language, adaptor, self.scores)
            self.texts[source, label] = replace(drawn, language=None, records=None)
            self.bar.update(1)

    def score(self, source: str, wrote: Language, scorer: str, reads: Language) -> None:
        """The records of a source's texts under another language."""
        for label, adaptor in self.samplers.items():
            records = score(self.texts[source, label], reads, source=wrote, adaptor=adaptor, **self.scores)
            self.records[source, label, scorer] = replace(records, language=None)
            self.bar.update(1)


def _own(texts: Texts, language: Language, adaptor: Adaptor, options: dict[str, Any]) -> Records:
    """The record of a pair (A, A): for ancestral sampling the plain columns again, b = H_A and v = V_A."""
    if not adaptor.is_ancestral:
        return replace(score(texts, language, source=language, adaptor=adaptor, **options), language=None)
    plain = score(texts, language, **options)
    columns = {f"source_{name}": plain[name] for name in ("surprisal", "entropy", "varentropy")}
    columns |= {"cross_entropy": plain["entropy"], "cross_varentropy": plain["varentropy"]}
    meta = description(texts, language, language, adaptor, options["adaptors"])
    return replace(plain, columns=plain.columns | columns, meta=meta, language=None)


def _labelled(name, value, such) -> None:
    if not isinstance(value, Mapping):
        raise ParameterError(f"{name}={value!r}: give a label for each, such as {such}")


def check_pairs(
    languages: Mapping[str, Any],
    prompts: Any,
    samplers: Mapping[str, Adaptor],
    *,
    texts: int,
    tokens: int,
    seed: int,
    batch: int = 64,
) -> None:
    """Everything that `pair_records` can refuse, before anything is drawn; arguments and errors as there.

    Every language is asked for once, the first of the list last.
    """
    if not languages or not samplers:
        raise ParameterError(f"{'samplers' if languages else 'languages'} is empty: at least one is needed")
    before = None
    for name in reversed(list(languages)):
        language = languages[name]
        check_languages(language)
        check_pair(before, language)
        for adaptor in samplers.values():
            checked_adaptor(texts, tokens, seed, batch, adaptor, "never", language)
        ids = ids_of_prompts(language, prompts)
        limit = getattr(language, "context_length", None)
        for i, prompt in enumerate(ids):
            if limit is not None and len(prompt) >= limit:
                raise ContextTooLong(
                    f"prompt {i} has {len(prompt)} tokens, {language.name} a context of {limit}: shorten it"
                )
        check_context(language, ids, tokens)
        before = language
