"""How far the aligned models are from their optimum, and the reward model from its rule.

``python -m aep.neural.training.aligned_facts`` measures the committed models anew (minutes) and writes
`data/results/04_aligned_models.csv` and `data/results/04_reward_model.csv`. Texts are the unit; nats.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import aep
from aep import intervals, optimum
from aep.languages import Grammar
from aep.neural.loading import embedded, embedded_rewards, load
from aep.neural.rewards import RULE, Reward, load_reward, rule_points
from aep.outputs import repository, write_atomically
from aep.records import Texts
from aep.sampling import sample
from aep.scoring import score

from .configs import ALIGNED
from .tales import grammatical
from .trl_runs import LONGEST, preferences

__all__ = ["facts_of", "policy_table", "reward_table"]

TEXTS, SEED = 10_000, 40_001  # tales of every policy, drawn from the start token
PAIRS, PAIRS_SEED = 20_000, 40_002  # fresh preferences for the reward model
HELD_OUT = 2000  # tales of the grammar, for the loss


def policy_table(policy: Any, prior: Any, rewards: Sequence[Reward], beta: float, texts: Texts) -> pd.DataFrame:
    """A row per reward: what `texts` of `policy` say of it as an approximation of p exp(r/β), each with its 95% interval.

    Columns: `reward` r; `mean_reward` E_π[r]; `kl` KL(π‖p) per text; `log_z` log E_p[exp(r/β)] with the policy as proposal,
    `effective` texts and `pareto_k` of its weights; `optimum` J* = β log Z; `shortfall` J* - J = β KL(π‖p*); `best_reward`
    E[r] under p*, by the weights; `share` of the gain in reward that the best law of the same KL has, `beta_at_kl` its β';
    `slope` and `correlation` of log π - log p on r/β.
    """
    log_policy = np.array([q.sum() for q in texts.log_q])
    records = score(texts, prior)
    log_p = -np.bincount(records["text"], records["surprisal"], minlength=len(texts))
    rows = []
    for reward in rewards:
        r = reward(texts)
        z, at = optimum.log_normaliser(log_p, log_policy, r, beta), optimum.reward_at_kl(log_p, log_policy, r)
        agrees = optimum.slope_and_correlation(log_p, log_policy, r, beta)
        found = {
            "mean_reward": intervals.mean(r),
            "kl": optimum.kl(log_policy, log_p),
            "log_z": intervals.Interval(*z[:3]),
            "optimum": z.optimum(beta),
            "shortfall": optimum.shortfall(log_p, log_policy, r, beta),
            "best_reward": optimum.expectation(r, optimum.weights(log_p, log_policy, r, beta)),
            "share": at.share,
            "slope": agrees.slope,
            "correlation": agrees.correlation,
        }
        row = {"model": policy.name, "beta": beta, "r": reward.name, "texts": len(texts)}
        for name, interval in found.items():
            row |= interval.columns(name)
        rows.append(
            row | {"beta_at_kl": at.beta, "effective": z.effective, "pareto_k": z.pareto_k, "spread": agrees.spread}
        )
    return pd.DataFrame(rows)


def reward_table(reward: Reward, grammar: Grammar, language: Any, *, pairs: int = PAIRS) -> pd.DataFrame:
    """What `reward` has learnt of the rule, on fresh preferences: `quantity`, `value` with `low` and `high`.

    Accuracy is the share of pairs whose chosen tale has the larger reward, beside that of the rule itself (ties count half):
    more no reward can reach on average. Slope, correlation and spread are those of reward on rule over single tales.
    """
    chosen, rejected = preferences(grammar, pairs, PAIRS_SEED)
    both = [Texts.from_ids(language, part) for part in (chosen, rejected)]
    (up, down), (rule_up, rule_down) = ([f(t) for t in both] for f in (reward, rule_points))
    x, y = rule_up - rule_up.mean(), up - up.mean()
    slope = float((x * y).sum() / (x * x).sum())
    rows = {
        "accuracy": intervals.mean((up > down) + 0.5 * (up == down)),
        "accuracy of the rule": intervals.mean((rule_up > rule_down) + 0.5 * (rule_up == rule_down)),
        "log-likelihood": intervals.mean(-np.logaddexp(0, down - up)),
        "log-likelihood of the rule": intervals.mean(-np.logaddexp(0, rule_down - rule_up)),
        "slope on the rule": intervals.ratio(x * y, x * x),
        "correlation with the rule": intervals.Interval(*[float(np.corrcoef(x, y)[0, 1])] * 3)._replace(
            **dict(zip(("low", "high"), _fisher(float(np.corrcoef(x, y)[0, 1]), len(x)), strict=True))
        ),
        "spread about the rule": intervals.Interval(float((y - slope * x).std(ddof=2)), math.nan, math.nan),
    }
    return pd.DataFrame(
        [{"quantity": k, "value": v[0], "low": v[1], "high": v[2], "pairs": pairs} for k, v in rows.items()]
    )


def _fisher(r: float, n: int) -> tuple[float, float]:
    half = 1.96 / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


@functools.cache
def _prior() -> Any:
    return load("tales")


def tales_of(policy: Any) -> Texts:
    """Tales of a policy from the start token, with their end tokens and the log-probability of each token."""
    return sample(policy, None, texts=TEXTS, tokens=LONGEST, seed=SEED, stop="eos", batch=256)


def facts_of(spec: Any, folder: Path) -> dict:
    """What the card says of the model stored in `folder`; `spec` is its `aligned.AlignedSpec`."""
    grammar = Grammar.load("tales")
    if spec.kind == "reward":
        table = reward_table(load_reward(folder), grammar, _prior())
        return {"rule": _rule(), "held_out": {"preferences": PAIRS, "seed": PAIRS_SEED} | _facts(table, "quantity")}
    policy = load(folder, dtype="float64")
    table = policy_table(policy, _prior(), _rewards(), spec.beta, texts := tales_of(policy)).assign(model=spec.name)
    held = sample(grammar, None, texts=HELD_OUT, tokens=LONGEST, seed=SEED, stop="eos")
    records = score(held, policy)
    losses = np.bincount(records["text"], records["surprisal"])
    tokens, letters = (
        np.array([f(t) for t in held.ids]) for f in (len, lambda t: len(grammar.decode(t[:-1]).encode()))
    )
    per_token, per_byte = (intervals.ratio(losses, size) for size in (tokens, letters))
    names = ("value", "low", "high")
    return {
        "held_out_loss": round(per_token[0], 6),
        "held_out_low": round(per_token[1], 6),
        "held_out_high": round(per_token[2], 6),
        "held_out": {
            "tales": HELD_OUT,
            "of": "the grammar, which is not what the model aims at",
            "nats_per_byte": {k: round(x, 6) for k, x in zip(names, per_byte, strict=True)},
        },
        "alignment": {"texts": TEXTS, "seed": SEED, "cut": int((~texts.finished).sum())}
        | {
            row["r"]: {k: _plain(v) for k, v in row.items() if k not in ("model", "r", "texts")} for row in _rows(table)
        },
        "grammatical": {
            k: round(x, 4) for k, x in zip(names, intervals.share(grammatical(texts, grammar)), strict=True)
        },
        "rule": _rule(),
    }


def _rewards() -> list[Reward]:
    return [load_reward(name) for name in (*embedded_rewards(), RULE)]


def _rule() -> str:
    return "one point for every word of joy or kindness, minus one for every word of sorrow or fear"


def _rows(table: pd.DataFrame) -> list[dict]:
    return table.to_dict("records")


def _plain(value: Any) -> Any:
    return round(float(value), 6) if isinstance(value, float | np.floating) else value


def _facts(table: pd.DataFrame, key: str) -> dict:
    return {row[key]: {k: _plain(row[k]) for k in ("value", "low", "high")} for row in _rows(table)}


def main() -> None:
    """Measure the committed models, and write both tables."""
    prior, rewards, parts = _prior(), _rewards(), []
    for name in ("tales", *(n for n, spec in ALIGNED.items() if spec.kind != "reward" and n in embedded())):
        policy = aep.load(name)
        beta = 1.0 if name == "tales" else ALIGNED[name].beta
        parts.append(policy_table(policy, prior, rewards, beta, tales_of(policy)))
    tables = {
        "04_aligned_models": pd.concat(parts),
        "04_reward_model": reward_table(rewards[0], Grammar.load("tales"), prior),
    }
    folder = repository() / "data" / "results"
    for name, found in tables.items():
        write_atomically(folder / f"{name}.csv", found.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        print(found.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
