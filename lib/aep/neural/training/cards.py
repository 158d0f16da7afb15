"""The page of an embedded model, for a person: README.md from the facts of card.json."""

__all__ = ["LICENCES", "readme"]

#: The licences of the packages whose docstrings are the training text.
LICENCES = {
    "numpy": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "pandas": "BSD-3-Clause",
    "scikit-learn": "BSD-3-Clause",
    "matplotlib": "Matplotlib licence (based on the PSF licence)",
}


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def readme(card: dict) -> str:
    """Markdown of `card`, as `export.card` makes it."""
    held, training, sizes, data = card["held_out"], card["training"], card["sizes"], card["data"]
    versions = ", ".join(f"{name} {v}" for name, v in data["versions"].items())
    licences = "; ".join(f"{name}: {v}" for name, v in card["licence"]["text"].items())
    loss = _interval(card["held_out_loss"], card["held_out_low"], card["held_out_high"])
    files = "\n".join(f"| `{name}` | `{digest}` |" for name, digest in card["sha256"].items())
    return f"""# {card["name"]}

A language model of {card["parameters"]:,} parameters that writes Python documentation, trained by this repository for
experiments on the asymptotic equipartition property. It is small enough to be run in float64 on any machine, and it is
not meant to inform anyone about anything: what it says of a function is made up.

| | |
|---|---|
| architecture | `{card["architecture"]}`: width {sizes["hidden"]}, {sizes["layers"]} layers, {sizes["heads"]} heads, \
feed-forward {sizes["feed_forward"]}, tied embeddings |
| context | sliding window of {sizes["window"]} tokens: exact with a rolling cache for texts of any length |
| tokenizer | {card["tokenizer"]}; token 0 starts and ends a text and is never added by itself |
| data | docstrings of {versions}, as listed in `{data["manifest"]}`; {data["training_tokens"]:,} training tokens |
| training | `{training["command"]}`: {card["steps"]:,} steps of {sizes["batch"]} × {sizes["length"]} \
tokens, seed {card["seed"]}; {card["seconds"] / 60:.1f} minutes on {training["device"]} (threads: {training["threads"]}; \
processor time {training["cpu_seconds"] / 60:.1f} minutes) |
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

| file | sha256 |
|---|---|
{files}
"""
