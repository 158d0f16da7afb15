"""The pages of the reward model and of the aligned policies."""

__all__ = ["aligned_page"]


def aligned_page(card: dict) -> str:
    """Markdown of the card of a model that `aligned.train` made, without the list of files."""
    return _reward(card) if card["recipe"]["kind"] == "reward" else _policy(card)


def _interval(found: dict, name: str, digits: int = 3) -> str:
    value, low, high = (found[name + end] for end in ("", "_low", "_high"))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _training(card: dict, unit: str) -> str:
    recipe, training = card["recipe"], card["training"]
    trainer = f"`{training['trainer']}` {card['versions']['trl']}"
    size = f"{recipe['steps']:,} steps of {recipe['batch']} {unit}, seed {recipe['seed']}"
    cost = f"{card['seconds'] / 60:.0f} minutes by the clock of a busy machine, {training['device']}"
    return f"| training | `{training['command']}`, by {trainer}: {size}; {cost} (threads: {training['threads']}) |"


def _licence(card: dict) -> str:
    return f"""
All numbers, the learning curve and the library versions are in `card.json`; in brackets the 95% interval, with the text
as the unit of sampling. Licence: that of this repository ({card["licence"]["weights"]}).
"""


def _reward(card: dict) -> str:
    held = card["held_out"]

    def said(name: str) -> str:
        found = held[name]
        return f"{found['value']:.4f} ({found['low']:.4f} to {found['high']:.4f})"

    return f"""# {card["name"]}

A reward model of {card["parameters"]:,} parameters for small tales: a number per tale, trained by this repository on
preferences drawn from a rule that can be written down: {card["rule"]}
(`aep.neural.rewards`).

| | |
|---|---|
| architecture | `{card["architecture"]}`, the body of `{card["prior"]["name"]}` with one output, read at the last word |
| data | pairs of tales of the grammar, drawn anew; the first preferred with probability σ(r1 − r0) of the rule's points |
{_training(card, "pairs")}
| accuracy on {held["preferences"]:,} fresh pairs | {said("accuracy")}; of the rule itself {said("accuracy of the rule")} |
| log-likelihood of a preference | {said("log-likelihood")} nats; under the rule {said("log-likelihood of the rule")} |
| slope on the rule | {said("slope on the rule")}, correlation {said("correlation with the rule")} |

Preferences determine a reward up to a constant, which is whatever training left.
{_licence(card)}"""


def _policy(card: dict) -> str:
    found, recipe = card["alignment"], card["recipe"]
    rewards = [name for name in found if isinstance(found[name], dict)]
    rows = {
        "E[r] under the model": "mean_reward",
        "KL(π‖p), nats per tale": "kl",
        "log E_p[exp(r/β)]": "log_z",
        "**J* − J = β KL(π‖p*)**": "shortfall",
        "E[r] under p*": "best_reward",
        "share of the reward at equal KL": "share",
        "slope of log π − log p on r/β": "slope",
        "correlation of the two": "correlation",
    }
    table = "".join(f"| {k} | {' | '.join(_interval(found[r], v) for r in rewards)} |\n" for k, v in rows.items())
    share = "{value:.1%} ({low:.1%} to {high:.1%})".format(**card["grammatical"])
    return f"""# {card["name"]}

`{card["prior"]["name"]}` aligned to a reward: a language model of {card["parameters"]:,} parameters that tells small tales,
trained by this repository to be p exp(r/β)/Z with β = {recipe["beta"]:g}, and how far it is from that is measured. The rule
behind the reward: {card["rule"]} (`aep.neural.rewards`).

| | |
|---|---|
| architecture | `{card["architecture"]}`, that of `{card["prior"]["name"]}`, from whose weights it started |
{_training(card, "texts" if recipe["kind"] == "rloo" else "pairs of texts")}
| grammatical | {share} of {found["texts"]:,} tales sampled from it |

| over {found["texts"]:,} tales from the start token | {" | ".join(f"r: {name}" for name in rewards)} |
|---|{"---|" * len(rewards)}
{table}
Measured on the stored float16 weights, loaded in float64.
{_licence(card)}"""
