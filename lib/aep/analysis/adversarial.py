"""Prompts made to upset a model, and the self-AEP after each: a prompt is context, so l - h has mean zero whatever it is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from .. import intervals
from ..adaptors import Adaptor, ancestral
from ..errors import ParameterError, PromptError
from ..records import Texts
from ..sampling import sample
from ..scoring import score
from .calibration import is_accepted, normal_p_values
from .typicality import Paths, running_sigma, z_test

__all__ = ["FOREIGN", "OTHER_SCRIPT", "adversarial_prompts", "by_kind", "probe"]

FOREIGN = "Der Wind weht über das Meer, und die müden Boote kehren heim, bevor die Straße im Nebel verschwindet."
OTHER_SCRIPT = "Ο άνεμος φυσά πάνω από τη θάλασσα. 海の上を風が吹く。🌬"
_CUT = "The function computes the transfor"  # ... med
_PROSE = "The wind goes over the sea and the boats come home before the night. "
_TOKENS = 24  # of the short prompts made of ids


def adversarial_prompts(language: Any, seed: int = 0, *, longest: int = 512) -> dict[str, Int[np.ndarray, " ids"]]:
    """Token ids of every kind of prompt; `very long` fills half the context of the language, or `longest` if that is less.

    Kinds: `start token alone` (no ids), `random ids` (uniform, special ids excluded), `one token repeated` (a random one),
    `another language` (German), `another script` (Greek, Japanese, a pictograph), `cut word` (the text ends inside a word),
    `very long` (one sentence over and over). The two sets of random ids depend on `seed`, the others on the tokenizer.

    A kind the language cannot express is left out: the first without a start token, a string of which the tokenizer
    keeps no character, all strings for a language without words. No prompt takes more than half the context; a longer
    one loses its beginning. ParameterError unless `longest` is at least 1.
    """
    if longest < 1:
        raise ParameterError(f"longest={longest!r}: at least 1 token is needed")
    rng, ordinary = np.random.default_rng(seed), _ordinary_ids(language)
    half = max((getattr(language, "context_length", None) or 2 * longest) // 2, 1)
    prompts = {} if language.needs_context(True) else {"start token alone": np.empty(0, np.int64)}
    prompts["random ids"] = rng.choice(ordinary, size=_TOKENS)
    prompts["one token repeated"] = np.repeat(rng.choice(ordinary), _TOKENS)
    strings = {"another language": FOREIGN, "another script": OTHER_SCRIPT, "cut word": _CUT}
    prompts |= {kind: _encoded(language, text) for kind, text in strings.items()}
    sentence = _encoded(language, _PROSE)
    if len(sentence):
        prompts["very long"] = np.resize(sentence, min(half, longest))
    return {kind: ids[-half:] for kind, ids in prompts.items() if len(ids) or kind == "start token alone"}


def _ordinary_ids(language: Any) -> np.ndarray:
    """The ids that stand for text: in the vocabulary of the tokenizer, without its special ids, start and end token."""
    tokenizer = getattr(language, "tokenizer", None)
    size = language.vocab_size if tokenizer is None else min(language.vocab_size, len(tokenizer))
    special = {getattr(language, "bos", None), language.eos, *getattr(tokenizer, "all_special_ids", ())}
    return np.array([i for i in range(size) if i not in special])


def _encoded(language: Any, text: str) -> np.ndarray:
    try:
        return language.encode(text)
    except PromptError:  # an exact language knows its own symbols only
        return np.empty(0, np.int64)


def probe(
    language: Any,
    prompts: Mapping[str, np.ndarray],
    *,
    texts: int,
    tokens: int,
    seed: int,
    adaptor: Adaptor | None = None,
    forget: bool = False,
    store: Any = None,
) -> pd.DataFrame:
    """One row per text after each prompt: final l, h, l - h, σ (nats per token), z, whether z is a test.

    Two negative controls: an `adaptor`, whose texts are scored under raw p all the same; and `forget`, which scores texts
    without the prompt they were drawn after, hence under another context than the sampler's (an empty prompt has none to
    forget and is left out; without a start token the first token of each text is then only context).
    """
    drawn = {"seed": seed, "texts": texts, "tokens": tokens, "adaptor": adaptor, "store": store, "record": not forget}
    kinds = [kind for kind, ids in prompts.items() if len(ids)]
    parts = []
    if kinds:
        found = sample(language, [prompts[kind] for kind in kinds], **drawn)
        parts.append(_per_text(language, found, kinds, forget, store))
    for kind in (kind for kind, ids in prompts.items() if not len(ids) and not forget):
        found = sample(language, None, **drawn | {"seed": seed + 1})  # the other prompts have the streams of `seed`
        parts.append(_per_text(language, found, [kind], forget, store))
    if not parts:
        raise ParameterError("there is no prompt to start from" + (" and to forget" if forget else ""))
    table = pd.concat(parts, ignore_index=True)
    order = {kind: i for i, kind in enumerate(prompts)}
    table = table.sort_values("prompt", key=lambda kind: kind.map(order), kind="stable", ignore_index=True)
    table.insert(1, "sampler", str(adaptor or ancestral()))
    table.insert(2, "context", "forgotten" if forget else "as sampled")
    return table


def _per_text(language: Any, texts: Texts, kinds: list[str], forget: bool, store: Any) -> pd.DataFrame:
    lengths = np.array([len(p) for p in texts.prompts])[texts.prompt]
    if forget:
        kept = replace(texts, prompts=[np.empty(0, np.int64)], prompt=np.zeros(len(texts), np.int64), records=None)
    paths = Paths.of(score(kept if forget else texts, language, store=store))
    test = z_test(*paths[:3])
    l, h = paths.surprisal.mean(axis=1), paths.entropy.mean(axis=1)
    columns = {"l": l, "h": h, "difference": l - h, "sigma": running_sigma(paths.varentropy)[:, -1]}
    table = pd.DataFrame({"model": language.name, "prompt": np.array(kinds)[texts.prompt], "prompt_tokens": lengths})
    return table.assign(tokens=paths.surprisal.shape[-1], **columns, z=test.z, has_test=test.has_test)


def by_kind(table: pd.DataFrame, *, level: float = 0.001) -> pd.DataFrame:
    """Per model and prompt: mean l, h and l - h with 95% t intervals over texts (nats per token), and whether z is N(0,1).

    Table: `probe`, models concatenated; the same with ``prompt="all"`` gives one row per model. `tested` is the share of
    texts with a test, `mean_z`, `mean_square_z` the moments of their z (0 and 1 under the AEP), `mean_p`, `square_p`,
    `shape_p` the p-values of `calibration.normal_p_values`. `verdict`: "accepted" or "rejected" by Holm at `level` over all
    p-values of all rows, so that a correct build has any "rejected" with a chance of at most `level` (as far as z is normal
    at this length); "no test" where fewer than half of the texts have one.
    """
    rows = []
    for (model, prompt), part in table.groupby(["model", "prompt"], sort=False):
        row = {"model": model, "prompt": prompt, "prompt_tokens": part.prompt_tokens.iloc[0], "texts": len(part)}
        row |= {"tokens": part.tokens.iloc[0]}
        for name, column in (("l", "l"), ("h", "h"), ("difference", "difference")):
            row |= intervals.mean(part[column].to_numpy()).columns(name)
        z = part.z[part.has_test].to_numpy()
        row["tested"] = len(z) / len(part)
        known = 2 * len(z) >= len(part)
        row |= {"mean_z": z.mean(), "mean_square_z": np.mean(z**2)} if known else {}
        rows.append(row | (normal_p_values(z) if known else {}))
    found = pd.DataFrame(rows).reindex(columns=[*_COLUMNS, "mean_p", "square_p", "shape_p"])
    tested = found.mean_p.notna()
    accepted = is_accepted(found[tested], level=level).map({True: "accepted", False: "rejected"})
    return found.assign(verdict=accepted.reindex(found.index).fillna("no test"))


_COLUMNS = ["model", "prompt", "prompt_tokens", "texts", "tokens"]
_COLUMNS += [name + end for name in ("l", "h", "difference") for end in ("", "_low", "_high")]
_COLUMNS += ["tested", "mean_z", "mean_square_z"]
