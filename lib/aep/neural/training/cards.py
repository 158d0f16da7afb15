"""The page of an embedded model, for a person: README.md from the facts of card.json."""

from .aligned_cards import aligned_page
from .planted_cards import planted_clause, planted_section

__all__ = ["LICENCES", "readme"]

#: The licences of the packages whose docstrings are the training text.
LICENCES = {
    "numpy": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "pandas": "BSD-3-Clause",
    "scikit-learn": "BSD-3-Clause",
    "matplotlib": "Matplotlib licence (based on the PSF licence)",
}


_WHERE = "Where in a tale it sits is in `data/results/A1_tales_gap.csv`. "  # of `tales`


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def readme(card: dict) -> str:
    """Markdown of `card`, as `export.card` makes it."""
    if "recipe" in card:
        page = aligned_page(card)
    else:
        page = _tales(card) if "grammar" in card["data"] else _documents(card)
    return page + "\n| file | sha256 |\n|---|---|\n" + _files(card)


def _files(card: dict) -> str:
    return "".join(f"| `{name}` | `{digest}` |\n" for name, digest in card["sha256"].items())


def _training(card: dict) -> str:
    """The row of the table that says how it was trained."""
    training, sizes = card["training"], card["sizes"]
    return f"""| training | `{training["command"]}`: {card["steps"]:,} steps of {sizes["batch"]} × {sizes["length"]} \
tokens, seed {card["seed"]}; {card["seconds"] / 60:.1f} minutes on {training["device"]} (threads: {training["threads"]}; \
processor time {training["cpu_seconds"] / 60:.1f} minutes) |"""


def _shape(card: dict) -> str:
    sizes = card["sizes"]
    return f"""`{card["architecture"]}`: width {sizes["hidden"]}, {sizes["layers"]} layers, {sizes["heads"]} heads, \
feed-forward {sizes["feed_forward"]}, tied embeddings"""


def _documents(card: dict) -> str:
    held, training, sizes, data = card["held_out"], card["training"], card["sizes"], card["data"]
    versions = ", ".join(f"{name} {v}" for name, v in data["versions"].items())
    licences = "; ".join(f"{name}: {v}" for name, v in card["licence"]["text"].items())
    loss = _interval(card["held_out_loss"], card["held_out_low"], card["held_out_high"])
    return f"""# {card["name"]}

A language model of {card["parameters"]:,} parameters that writes Python documentation, trained by this repository for
experiments on the asymptotic equipartition property. It is small enough to be run in float64 on any machine, and it is
not meant to inform anyone about anything: what it says of a function is made up.

| | |
|---|---|
| architecture | {_shape(card)} |
| context | sliding window of {sizes["window"]} tokens: exact with a rolling cache for texts of any length |
| tokenizer | {card["tokenizer"]}; token 0 starts and ends a text and is never added by itself |
| data | docstrings of {versions}, as listed in `{data["manifest"]}`; {data["training_tokens"]:,} training tokens |
{_training(card)}
| held-out loss | **{loss} nats per token**, \
{_interval(**held["nats_per_byte"])} nats per byte |
| for scale | token frequencies alone: {_interval(**held["unigram_nats_per_token"])} nats per token |

The loss is measured on {held["documents"]:,} documents ({held["tokens"]:,} tokens) that share no 13-gram of words with
the training text, on the stored float16 weights loaded in float64, each document alone after the start token. In
brackets the 95% interval, with the document as the unit of sampling. Weights of step {training["best_step"]:,}, the
best on the validation documents ({training["validation_loss"]:.3f} nats per token). All numbers, the learning curve and
the library versions are in `card.json`.

Licence: the weights are under the licence of this repository ({card["licence"]["weights"]}). The text they were trained
on is not included; it comes under {licences}.
"""


def _tales(card: dict) -> str:
    held, sizes, data = card["held_out"], card["sizes"], card["data"]
    loss = _interval(card["held_out_loss"], card["held_out_low"], card["held_out_high"])
    percent = "{value:.2f}% ({low:.2f} to {high:.2f}%)".format(**held["kl_rate_in_percent"])
    share = "{value:.1%} ({low:.1%} to {high:.1%})".format(**held["grammatical"])
    lost = held["kl_rate_lost_by_float16"]["value"]
    gap, expected = ("{value:.5f} ({low:.5f} to {high:.5f})".format(**held[k]) for k in ("kl_rate", "log_perplexity"))
    return f"""# {card["name"]}

A language model of {card["parameters"]:,} parameters that tells small tales, trained by this repository on a grammar whose
every probability is known: what the model should have learnt, and by how much it missed it, can be said exactly.

| | |
|---|---|
| architecture | {_shape(card)} |
| context | sliding window of {sizes["window"]} tokens, which holds a whole tale: a longer one has a probability of \
{data["longer_than_window"]:.0e}; exact with a rolling cache for tale after tale |
| tokenizer | the {card["tokenizer"]}, which starts and ends a tale; ids are those of the grammar, and an unknown \
word is an error |
| data | tales drawn anew for every step from `{data["grammar"]}` (sha256 `{data["sha256"][:16]}…`): \
{data["training_tokens"]:,} tokens, in which a tale comes again by chance only{planted_clause(data)} |
{_training(card)}
| held-out loss | **{loss} nats per token**, {_interval(**held["nats_per_byte"])} nats per byte |
| the grammar itself on these tales | {_interval(**held["grammar_nats_per_token"])} nats per token |
| entropy of the grammar | {held["entropy_rate"]:.5f} nats per token, exact |
| KL rate grammar to model | **{gap} nats per token**: {percent} of the entropy |
| log-perplexity on the grammar's tales | {expected} nats per token: entropy + KL rate, without the luck of these tales |
| grammatical | {share} of {held["grammatical"]["texts"]:,} tales sampled from the model |

Measured on {held["tales"]:,} tales ({held["tokens"]:,} tokens) of another seed, on the stored float16 weights loaded in
float64, each tale alone after the start token, its end token scored. The KL rate is the mean over tokens of the exact
divergence between the two laws of the next word, given the words before; unlike the loss minus the entropy it has no noise
from which word came. {"" if "planted" in data else _WHERE}Rounding to float16 changed it by
{lost:.1e}. In brackets the 95% interval, with the tale as the unit of sampling. All numbers, the learning curve and the
library versions are in `card.json`.
{planted_section(card)}
Licence: weights and grammar are under the licence of this repository ({card["licence"]["weights"]}).
"""
