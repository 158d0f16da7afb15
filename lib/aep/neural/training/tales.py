"""The model `tales`, trained on tales that the grammar tells anew for every step, and how far from the grammar it is.

``python -m aep.neural.training.tales`` writes (a minute) `data/results/A1_tales_gap.csv`, the KL rate from the grammar to
the model, whole and by place in the tale, and `data/results/A1_tales_samples.csv`, the first tales that it tells itself,
unselected. The end token belongs to its tale: it is scored. Everything is in nats.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from transformers import MistralForCausalLM

from aep import intervals
from aep.errors import ModelError
from aep.languages import Grammar, embedded_grammars
from aep.neural.language import NeuralLanguage
from aep.neural.loading import load
from aep.outputs import repository, write_atomically
from aep.records import Records, Texts
from aep.sampling import sample
from aep.scoring import score

from . import configs
from .data import FreshBatches, fresh_rows
from .export import Facts, Material, rounded, sha256_of
from .tokenizer import word_tokenizer

__all__ = ["NAME", "gap_table", "grammatical", "held_out_tales", "kinds_of_words", "material", "tale_facts"]

NAME = "tales"
VALIDATION_ROWS = 128
LONGEST = 128  # tokens: that of the window; a longer tale has a probability of 2e-14
HELD_OUT, HELD_OUT_SEED = 5000, 20_001  # tales of the grammar, from streams that training does not use
SAMPLES, SAMPLES_SEED = 4000, 20_002  # tales of the model
SHOWN = 10
_POSITIONS = (0, 1, 5, 10, 20, 30, 40, 50)
_CHOICES = (0.0, 0.5, 1.0, 2.0)
_KINDS = {  # words by the symbols of the grammar that write them, the first kind that fits
    "name": ("SheName", "HeName"),
    "trait": ("CTrait", "VTrait", "CKind", "VKind"),
    "animal": ("CBeast", "VBeast", "Animals"),
    "relative": ("Relative",),
    "feeling": ("Glad", "Sad", "Scared", "Feeling", "Joy", "Grief"),
    "place": ("Inside", "Under", "Behind", "Place", "Home", "House", "Water"),
    "thing": ("ToyName", "Colour", "CThing", "Dish", "CDish", "Ingredient", "Secret", "Stuff"),
}
_WORDS = {"pronoun": ("she", "he", "her", "his", "him", "they", "it"), "full stop": (".",), "end": ("<end>",)}


def material(spec: configs.ModelSpec) -> Material:
    """What `tales` is trained on: tales of data/grammars/tales.pcfg, and its words as the vocabulary, with the same ids."""
    grammar = Grammar.load(NAME)
    if grammar.vocab_size != spec.vocabulary:
        raise ModelError(
            f"{spec.name!r} has a vocabulary of {spec.vocabulary} tokens, its grammar {grammar.vocab_size}: set the former"
        )
    draw, validation = grammar.sample_strings, np.random.default_rng([spec.seed, 1, 0])  # training has [seed, 0, step]
    held = fresh_rows(draw, validation, VALIDATION_ROWS, spec.length)
    return Material(
        FreshBatches(draw, batch=spec.batch, length=spec.length, seed=spec.seed),
        held,
        word_tokenizer(grammar.symbols),
        sha256_of(embedded_grammars()[NAME]),
        lambda run, folder: tale_facts(run, folder, grammar),
    )


# ------------------------------------------------------------------------------------------------------ how far it is off


def held_out_tales(grammar: Grammar, tales: int = HELD_OUT) -> Texts:
    """Tales of the grammar with their end tokens."""
    return sample(grammar, None, texts=tales, tokens=LONGEST, seed=HELD_OUT_SEED, stop="eos")


def grammatical(drawn: Texts, grammar: Grammar) -> Bool[np.ndarray, " texts"]:
    """Which texts are whole tales of the grammar: they came to their end, and have a probability."""
    ended = [len(ids) > 0 and ids[-1] == grammar.eos for ids in drawn.ids]
    return np.array([e and grammar.log_probability(ids) > -math.inf for e, ids in zip(ended, drawn.ids, strict=True)])


def kinds_of_words(grammar: Grammar) -> list[str]:
    """The kind of every token of the grammar of tales, "other" where it has none of `gap_table`'s kinds."""
    kinds, first = dict.fromkeys(range(grammar.vocab_size), "other"), grammar.rules.start
    for kind, symbols in reversed(_KINDS.items()):
        for rule in grammar.rules.rules:
            if grammar.rules.name(rule.left) in symbols:
                words = [s for s in rule.right if s < first]
                kinds |= dict.fromkeys(words[-1:], kind)  # of several words the last one: "a big cake"
    for kind, words in _WORDS.items():
        kinds |= {i: kind for i, word in enumerate(grammar.symbols) if word in words}
    return list(kinds.values())


def gap_table(records: Records, grammar: Grammar) -> pd.DataFrame:
    """The KL rate from the grammar to the scorer of `records` (tales of the grammar with source=grammar), and where it sits.

    At every token k = Σ_w p(w) log p(w)/q(w) ≥ 0 over the whole law of the next word, p of the grammar and q of the scorer:
    b - H of SPEC 1.1, exact given what came before. Columns: `by` and `part`; `tokens`; `entropy`, mean H of the grammar;
    `gap`, mean k, with its 95% interval `low` to `high` (ratio of sums, tales as units); `share` of Σ k. All in nats per
    token. Parts: the whole tale; sentences; tokens before; how much is open (H of the grammar); kind of the word that came.
    """
    text, token, position = records["text"], records["token"], records["position"]
    k, entropy = records["cross_entropy"] - records["source_entropy"], records["source_entropy"]
    stop = token == grammar.symbols.index(".")
    before = np.cumsum(stop) - stop
    sentence = before - before[np.flatnonzero(position == 0)][np.unique(text, return_inverse=True)[1]]
    groups = {
        "tale": np.full(len(text), "all"),
        "sentence": np.where(token == grammar.eos, "end", (sentence + 1).astype(str)),
        "tokens before": _binned(position, _POSITIONS),
        "entropy of the grammar": np.where(entropy < 1e-9, "0", _binned(entropy, _CHOICES)),
        "next word": np.array(kinds_of_words(grammar))[token],
    }
    rows, whole = [], k.sum()
    for by, part in groups.items():
        for value in sorted(set(part), key=_natural):
            inside = part == value
            total, size = (np.bincount(text, w * inside) for w in (k, np.ones(len(k))))
            found = intervals.ratio(total, size)
            row = {"by": by, "part": value, "tokens": int(inside.sum()), "entropy": entropy[inside].mean()}
            row |= {"gap": found.estimate, "low": max(0.0, found.low), "high": found.high}
            rows.append(row | {"share": k[inside].sum() / whole if whole else math.nan})
    return pd.DataFrame(rows)


def _binned(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    names = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges)] + [f"{edges[-1]:g} or more"]
    return np.array(names)[np.searchsorted(edges, values, side="right") - 1]


def _natural(part: str) -> tuple[float, str]:
    head = part.split(":")[0].split(" ")[0]
    return (float(head) if head.replace(".", "").isdigit() else math.inf, part)


# --------------------------------------------------------------------------------------------------------------- the card


def tale_facts(run, folder: Path, grammar: Grammar) -> Facts:
    """What the card says of the model stored in `folder`: the gap, and how many of its tales are grammatical."""
    language = load(folder, dtype="float64")
    texts = held_out_tales(grammar)
    records = score(texts, language, source=grammar)
    n_tokens = np.array([len(ids) for ids in texts.ids])
    n_bytes = np.array([len(grammar.decode(ids[:-1]).encode()) for ids in texts.ids])
    losses, gaps = _sums(records)
    drawn = sample(language, None, texts=SAMPLES, tokens=LONGEST, seed=SAMPLES_SEED, stop="eos")
    share = intervals.share(grammatical(drawn, grammar))
    gap = rounded(gaps, n_tokens, 8)
    single = _sums(score(texts, _unrounded(run, language), source=grammar))[1]
    held_out = {
        "tales": len(texts),
        "tokens": int(n_tokens.sum()),
        "bytes": int(n_bytes.sum()),
        "seed": HELD_OUT_SEED,
        "intervals": "95%, tales as units (ratio estimator; Clopper and Pearson for the share)",
        "nats_per_byte": rounded(losses, n_bytes),
        "entropy_rate": round(grammar.entropy_rate(), 6),
        "grammar_nats_per_token": rounded(np.bincount(records["text"], records["source_surprisal"]), n_tokens),
        "kl_rate": gap,
        "log_perplexity": {name: round(grammar.entropy_rate() + x, 6) for name, x in gap.items()},
        "kl_rate_in_percent": {name: round(100 * x / grammar.entropy_rate(), 3) for name, x in gap.items()},
        "kl_rate_lost_by_float16": rounded(gaps - single, n_tokens, 9),
        "grammatical": {"texts": SAMPLES, "seed": SAMPLES_SEED}
        | {name: round(x, 4) for name, x in zip(("value", "low", "high"), share, strict=True)},
        "evaluated_on": "the stored float16 weights, in float64; each tale alone after the start token, its end scored",
    }
    data = {
        "what": "Tales drawn anew from a probabilistic grammar for every step: one comes again by chance only.",
        "grammar": f"data/grammars/{NAME}.pcfg",
        "sha256": sha256_of(embedded_grammars()[NAME]),
        "fingerprint": grammar.fingerprint,
        "longer_than_window": float(f"{grammar.length_law(4 * LONGEST)[LONGEST + 1 :].sum():.1e}"),
        "training_tokens": run.step * run.spec.batch * run.spec.length,
    }
    words = f"{grammar.vocab_size - 1} words of the grammar between white space, and {grammar.symbols[0]}"
    return Facts(words, data, rounded(losses, n_tokens), held_out, {"the grammar": "MIT"})


def _sums(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """Per tale: its surprisal, and Σ (b - H)."""
    k = records["cross_entropy"] - records["source_entropy"]
    return np.bincount(records["text"], records["surprisal"]), np.bincount(records["text"], k)


def _unrounded(run, stored: NeuralLanguage) -> NeuralLanguage:
    """The best weights of `run` as they were trained, in double precision."""
    model = MistralForCausalLM(run.spec.config()).to(torch.float64)
    model.load_state_dict(run.best)
    return NeuralLanguage(model, stored.tokenizer, name=f"{NAME} before rounding", fingerprint="")


def main() -> None:
    """Measure the committed model, and write both tables."""
    grammar, language = Grammar.load(NAME), load(NAME)
    table = gap_table(score(held_out_tales(grammar), language, source=grammar), grammar)
    drawn = sample(language, None, texts=SHOWN, tokens=LONGEST, seed=SAMPLES_SEED, stop="eos")
    rows = enumerate(zip(grammatical(drawn, grammar), drawn.ids, strict=True))
    shown = pd.DataFrame([{"text": i, "grammatical": bool(g), "tale": language.decode(ids)} for i, (g, ids) in rows])
    folder = repository() / "data" / "results"
    for name, found in (("A1_tales_gap", table), ("A1_tales_samples", shown)):
        write_atomically(folder / f"{name}.csv", found.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
