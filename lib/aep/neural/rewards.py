"""Rewards of whole texts: the rule of the tales, any sequence-classification model, or a Python callable.

A reward is a number per text, of prompt and continuation together: r(x, y) of 2406.10203, Eq. 1. Its unit is that of β.
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import AutoModelForSequenceClassification

from .._progress import progress
from ..errors import DistributionError, ModelError, ParameterError, VocabularyMismatch, unknown_name
from ..languages import Grammar
from ..languages.protocol import vocabulary_hash
from ..records import Texts
from .language import with_exact_norms
from .loading import embedded, embedded_rewards, load_pretrained, resolve

__all__ = ["JOY", "RULE", "SORROW", "Reward", "load_reward", "rule_points", "word_points"]

#: The name of the rule: one point for every word of joy or kindness in a tale, minus one for every word of sorrow or fear.
RULE = "tales-rule"
_JOY = """
    happy glad proud smiled laughed joy danced clapped hugged best wonderful sweet good kind helped help shared share
    shares helps gave taught friend friends friendly together thank honest forgive forgives fine
"""
_SORROW = """
    sad angry tired cried scared afraid alone broken burned bad terrible cold unhappy lonely nobody unlucky never fight
    lost ugly grumpy scary strange
"""
JOY, SORROW = frozenset(_JOY.split()), frozenset(_SORROW.split())


@dataclass(frozen=True)
class Reward:
    """A reward with its name: called with `Texts`, it returns (texts,) finite numbers, float64.

    `fingerprint` is a hash of what determines it, or "" for a callable. Raises DistributionError where the function returns
    another shape, or a number that is not finite, naming the text.
    """

    name: str
    function: Callable[[Texts], Any] = field(repr=False, compare=False)
    fingerprint: str = ""

    def __call__(self, texts: Texts) -> Float[np.ndarray, " texts"]:
        """r of every text with its prompt."""
        said = self.function(texts)
        try:
            found = np.asarray(said, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DistributionError(f"reward {self.name!r} gives no numbers, one per text: {error}") from None
        if found.shape != (len(texts),):
            raise DistributionError(
                f"reward {self.name!r}: shape {found.shape} for {len(texts)} texts; one number each"
            )
        bad = np.flatnonzero(~np.isfinite(found))
        if bad.size:
            raise DistributionError(
                f"reward {self.name!r} of text {bad[0]} is {found[bad[0]]}: a reward has to be finite ({bad.size} are not)"
            )
        return found


def load_reward(
    which: Any,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> Reward:
    """A reward by name, or from a callable.

    Parameters
    ----------
    which : "tales-rule"; the name of an embedded reward model; a folder or hub id of a sequence-classification model with
        one output; or a callable that takes `Texts` and returns a number per text. A model whose tokenizer is that of the
        texts reads their ids, another one reads prompt and text as one string.
    revision, dtype, device : as for `load`

    Raises
    ------
    ModelError, DeviceError : as `load`; ModelError for a model without a single output
    ParameterError : for what is none of these
    """
    if isinstance(which, Reward):
        return which
    if callable(which):
        return Reward(getattr(which, "__name__", type(which).__name__), which)
    if not isinstance(which, str | os.PathLike):
        raise ParameterError(f"reward={which!r}: give {RULE!r}, the name of a reward model, or a callable of Texts")
    if str(which) == RULE:
        return Reward(RULE, rule_points, Grammar.load("tales").fingerprint)
    try:
        return resolve(str(which), embedded_rewards, _classifier, revision=revision, dtype=dtype, device=device)
    except ModelError as error:
        known = embedded_rewards()
        if str(which) in {*embedded(), *known} or os.path.isdir(os.path.expanduser(which)):
            raise
        raise ModelError(f"{error}; {unknown_name('reward', str(which), [RULE, *known])}") from None


# --------------------------------------------------------------------------------------------------------------- the rule


def word_points(symbols: Sequence[str]) -> Float[np.ndarray, " vocab"]:
    """The points of every word of a vocabulary: 1 for `JOY`, -1 for `SORROW`, else 0."""
    return np.array([(word in JOY) - float(word in SORROW) for word in symbols])


def rule_points(texts: Texts) -> Float[np.ndarray, " texts"]:
    """Σ of the points of the words of prompt and text; VocabularyMismatch for texts that are no tales.

    Additive over words, so that p exp(r/β) of a grammar is a grammar again (`analysis.grammar_tilts`).
    """
    grammar = Grammar.load("tales")
    theirs = getattr(texts.language, "vocabulary_hash", None)
    if texts.language is not None and theirs != grammar.vocabulary_hash:
        raise VocabularyMismatch(
            f"reward {RULE!r} counts words of the grammar of tales; {texts.language.name} has another vocabulary"
        )
    points = word_points(grammar.symbols)
    of_prompt = np.array([points[p].sum() for p in texts.prompts])
    return np.array([points[ids].sum() for ids in texts.ids]) + of_prompt[texts.prompt]


# ----------------------------------------------------------------------------------------------------------- a classifier


def _classifier(
    place: Path | str, name: str, fingerprint: str, dtype: str | None, device: torch.device, **where
) -> Reward:
    """The reward of the sequence-classification model in `place`."""
    model, tokenizer = load_pretrained(place, name, dtype, device, auto=AutoModelForSequenceClassification, **where)
    if model.config.num_labels != 1:
        raise ModelError(f"model {name!r} has {model.config.num_labels} outputs: a reward model has one")
    if model.config.pad_token_id is None:
        model.config.pad_token_id = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
    return Reward(name, functools.partial(_read, with_exact_norms(model.eval()), tokenizer), fingerprint)


@torch.no_grad()
def _read(model, tokenizer, texts: Texts, *, batch: int = 256) -> np.ndarray:
    """The output of `model` for every text, those of similar length together."""
    ids = _token_ids(tokenizer, texts)
    found, order = np.empty(len(ids)), np.argsort([len(i) for i in ids], kind="stable")
    pad = model.config.pad_token_id or 0
    with progress(total=len(ids), desc="rewards", unit="text") as bar:
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            width = max(len(ids[i]) for i in group)
            rows, mask = torch.full((len(group), width), pad), torch.zeros((len(group), width), dtype=torch.long)
            for k, i in enumerate(group):
                rows[k, : len(ids[i])], mask[k, : len(ids[i])] = torch.as_tensor(ids[i]), 1
            said = model(input_ids=rows.to(model.device), attention_mask=mask.to(model.device)).logits
            found[group] = said[:, 0].double().cpu().numpy()
            bar.update(len(group))
    return found


def _token_ids(tokenizer, texts: Texts) -> list[np.ndarray]:
    """Start token, prompt and text; the ids of the texts if the tokenizer is theirs, else the string encoded again."""
    if texts.language is None:
        raise ModelError("texts without a language cannot be read: give .with_language(aep.load(name)) first")
    if getattr(texts.language, "vocabulary_hash", None) == vocabulary_hash(tokenizer.get_vocab()):
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [
            np.concatenate([bos, texts.prompts[p], i]).astype(int) for p, i in zip(texts.prompt, texts.ids, strict=True)
        ]
    decode = texts.language.decode
    whole = [np.concatenate([texts.prompts[p], i]) for p, i in zip(texts.prompt, texts.ids, strict=True)]
    return [np.array(tokenizer(decode(i)).input_ids) for i in whole]
