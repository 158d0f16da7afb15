"""Where alignment trainers come to rest: the same small prior and reward, several trainers, measured exactly (notebook A3).

``python -m aep.neural.training.trainer_trials [--seeds 0 1 2] [--variants loop rloo ...]`` trains the prior once, every
variant with every seed, and writes `data/results/A3_trainers.csv` (one row per finished run), `A3_curves.csv` (the way
there), `A3_fixed_points.csv` (where each should rest) and `A3_family.csv` (p exp(r/β') for other β'). The same command
resumes: a run that is in the store is not repeated. An hour of one core; needs the extra [train], but for the variant
"loop".

The prior is a network of 110,000 parameters that writes strings of three letters, at most ten tokens; β = .5, and the reward
is a sum of points of letters. Since all 88,573 strings can be listed, p* and every fixed point (`fixed_points`) are known,
and a policy's distance from them is a finite sum: the sampled estimates of `aep.optimum` stand beside it as they would be
all there is for a larger model.
"""

import argparse
import copy
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import special
from transformers import MistralForCausalLM
from transformers.utils.logging import disable_progress_bar

from aep import optimum
from aep.errors import AepError, ParameterError, unknown_name
from aep.languages import MarkovChain
from aep.languages.protocol import content_hash
from aep.neural.language import NeuralLanguage
from aep.outputs import repository, write_atomically

from . import fixed_points
from .checkpoint import store
from .configs import ModelSpec
from .data import FreshBatches
from .policy_gradient import NetworkPolicy, align
from .tokenizer import save_tokenizer, word_tokenizer
from .train import advance, begin
from .trainer_variants import VARIANTS, Setting, train_with_trl
from .trl_runs import trl

__all__ = [
    "BETA",
    "CHAIN",
    "LONGEST",
    "POINTS",
    "Problem",
    "Run",
    "finished",
    "measured",
    "predicted",
    "problem",
    "run",
    "tables",
]

#: The language of the prior's training text: a Markov chain over end, a, b, c; a string is what comes between two ends.
CHAIN = MarkovChain(
    np.array([[0, 0.2, 0.4, 0.4], [0.25, 0.05, 0.35, 0.35], [0.25, 0.2, 0.2, 0.35], [0.25, 0.2, 0.4, 0.15]]),
    np.array([0, 0.2, 0.4, 0.4]),
    eos=0,
    name="three letters",
    symbols=("<end>", "a", "b", "c"),
)
_SUMS = np.cumsum(CHAIN.transition, axis=1)[:, :-1]
POINTS = np.array([0.5, -0.5, -0.5])  # of a, b, c
BETA, LONGEST = 0.5, 10
SPEC = ModelSpec(
    "three-letters", hidden=64, layers=2, heads=4, feed_forward=200, vocabulary=4, steps=1000, batch=256, length=LONGEST
)
SETTING = Setting(beta=BETA, longest=LONGEST, steps=600, texts=256, rate=1e-3)
WATCHED = (50, 100, 200, 400)  # steps, besides the last
FAMILY = tuple(np.round(np.geomspace(0.1, 20, 60), 4).tolist())  # β' of the curve of largest rewards
SAMPLED = 4096  # fresh texts of the common evaluation
VERSION = 1  # of what a run is: part of its key in the store


class Problem(NamedTuple):
    """The prior with everything that can be said of it exactly: its laws, the outcomes, their rewards and lengths."""

    folder: Path
    laws: list[np.ndarray]
    log_p: np.ndarray
    reward: np.ndarray
    length: np.ndarray

    @property
    def log_best(self) -> np.ndarray:
        """log p* of every outcome."""
        tilted = self.log_p + self.reward / BETA
        return tilted - special.logsumexp(tilted)

    def distance(self, log_pi: np.ndarray) -> fixed_points.Distance:
        """How far a law is from p*."""
        return fixed_points.distance(log_pi, self.log_p, self.reward, self.length, BETA)

    def ipo_loss(self, log_pi: np.ndarray) -> float:
        """The loss that "dpo-ipo" minimises, of any law."""
        return fixed_points.ipo_loss(log_pi, self.log_p, self.reward, self.length, BETA)


def problem(home: Path | None = None, spec: ModelSpec = SPEC) -> Problem:
    """The prior, trained by the first call (a minute), and what follows from it."""
    key = content_hash("trainer trials", spec.hash(), CHAIN.fingerprint, POINTS)[:12]
    folder = (store() if home is None else home) / f"trainers-{key}"
    if not (folder / "prior" / "config.json").exists():
        _train_prior(spec, folder)
    laws = fixed_points.next_token_laws(_language(_model(folder / "prior")), LONGEST)
    length = fixed_points.lengths(len(POINTS), LONGEST).astype(float)
    log_p = fixed_points.log_probabilities(laws)
    return Problem(folder, laws, log_p, fixed_points.rewards(POINTS, LONGEST), length)


def _train_prior(spec: ModelSpec, folder: Path) -> None:
    """Train on rows that begin with a whole string; written under another name first, so that half a prior is none."""

    def strings(rng: np.random.Generator, size: int) -> list[np.ndarray]:
        return [_string(rng) for _ in range(size)]

    run, batches = begin(spec, "cpu"), FreshBatches(strings, batch=spec.batch, length=spec.length, seed=spec.seed)
    run.model.set_attn_implementation("sdpa")  # rows are shorter than the window
    while run.step < spec.steps:
        advance(run, torch.from_numpy(batches[run.step]))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run.model.generation_config.pad_token_id = 0
        run.model.save_pretrained(Path(name) / "prior")
        save_tokenizer(word_tokenizer(list(CHAIN.symbols)), Path(name) / "prior")
        (Path(name) / "prior").rename(folder / "prior")


def _string(rng: np.random.Generator) -> np.ndarray:
    found, token = [], 0
    while not found or token:
        token = int(np.searchsorted(_SUMS[token], rng.random(), side="right"))
        found.append(token)
    return np.array(found)


def _model(folder: Path) -> MistralForCausalLM:
    return MistralForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _language(model: MistralForCausalLM) -> NeuralLanguage:
    """The network in double precision, as a language."""
    tokenizer = word_tokenizer(list(CHAIN.symbols))
    return NeuralLanguage(copy.deepcopy(model).double(), tokenizer, name="policy", fingerprint="")


# ------------------------------------------------------------------------------------------------------------------ runs


class Run(NamedTuple):
    """A finished run: processor time per step, the exact J*-J after some steps (points, 2), log π of every outcome."""

    variant: str
    seed: int
    setting: Setting
    seconds: float
    curve: np.ndarray
    log_pi: np.ndarray


def _with_loop(given: Problem, seed: int, setting: Setting, watch: Callable[[Any, int], None]) -> Any:
    """The policy that the small loop of `policy_gradient` ends at."""
    policy, prior = (NetworkPolicy(_model(given.folder / "prior"), longest=LONGEST) for _ in range(2))
    points = torch.tensor([0.0, *POINTS], dtype=torch.float32)
    align(
        policy,
        prior.log_probability,
        lambda drawn: points[drawn].sum(-1),
        beta=setting.beta,
        steps=setting.steps,
        texts=setting.texts,
        rate=setting.rate,
        seed=seed,
        watch=lambda step: watch(policy.model, step),
    )
    return policy.model


def run(given: Problem, variant: str, seed: int, setting: Setting = SETTING) -> Run:
    """Train one variant with one seed; from the store if it is there, which only a finished run is."""
    path = _file(given, variant, seed, setting)
    if path.exists():
        return _read(path, variant, seed, setting)
    curve, watching = [], 0.0

    def watch(model: Any, step: int) -> None:
        nonlocal watching
        if step in WATCHED and step < setting.steps:
            begun = time.process_time()
            curve.append((step, given.distance(_log_pi(model)).gap))
            watching += time.process_time() - begun

    begun = time.process_time()
    if variant == "loop":
        model = _with_loop(given, seed, setting, watch)
    else:
        pairs = _preferences(given, setting, seed) if VARIANTS[variant].kind == "dpo" else None
        points = [0.0, *POINTS]
        model = train_with_trl(variant, given.folder / "prior", points, seed, setting, watch=watch, pairs=pairs)
    seconds = (time.process_time() - begun - watching) / setting.steps
    log_pi = _log_pi(model)
    curve.append((setting.steps, given.distance(log_pi).gap))
    file = io.BytesIO()
    np.savez_compressed(file, seconds=seconds, curve=curve, log_pi=log_pi)
    write_atomically(path, file.getvalue())
    return Run(variant, seed, setting, seconds, np.array(curve), log_pi)


def _file(given: Problem, variant: str, seed: int, setting: Setting) -> Path:
    key = content_hash("trainer run", json.dumps([VERSION, variant, seed, setting._asdict()], sort_keys=True))[:12]
    return given.folder / f"{variant}-{seed}-{key}.npz"


def _read(path: Path, variant: str, seed: int, setting: Setting) -> Run:
    with np.load(path) as found:
        return Run(variant, seed, setting, float(found["seconds"]), found["curve"], found["log_pi"])


def finished(given: Problem, setting: Setting = SETTING) -> list[Run]:
    """Every run with this setting that is in the store."""
    found = []
    for path in sorted(given.folder.glob("*.npz")):
        variant, seed, _ = path.name.rsplit("-", 2)
        if variant in VARIANTS and path == _file(given, variant, int(seed), setting):
            found.append(_read(path, variant, int(seed), setting))
    return found


def _log_pi(model: Any) -> np.ndarray:
    return fixed_points.log_probabilities(fixed_points.next_token_laws(_language(model), LONGEST))


def _preferences(given: Problem, setting: Setting, seed: int) -> tuple[list, list]:
    """(chosen, rejected): pairs of strings of the prior, y before y' with probability σ(r(y) - r(y'))."""
    rng = np.random.default_rng([seed, 5])
    pairs = setting.steps * setting.texts // 2
    drawn = fixed_points.draw(given.log_p, rng, 2 * pairs).reshape(2, pairs)
    first = rng.random(pairs) < special.expit(given.reward[drawn[0]] - given.reward[drawn[1]])
    chosen, rejected = np.where(first, drawn, drawn[::-1])
    known = {i: fixed_points.string(int(i), len(POINTS), LONGEST) for i in np.unique(drawn)}
    return [known[i] for i in chosen], [known[i] for i in rejected]


def measured(given: Problem, run: Run, at_rest: np.ndarray) -> dict[str, Any]:
    """The common evaluation: estimates with intervals from fresh texts of the policy, and the exact values beside them.

    `kl_to_fixed_point`: KL(π||the law that its variant should end at), nats.
    """
    log_pi, seed = run.log_pi, run.seed
    drawn = fixed_points.draw(log_pi, np.random.default_rng([seed, 6]), SAMPLED)
    texts = given.log_p[drawn], log_pi[drawn], given.reward[drawn]
    agreement = optimum.slope_and_correlation(*texts, BETA)
    prior = given.reward[fixed_points.draw(given.log_p, np.random.default_rng([seed, 7]), SAMPLED)]
    equal = optimum.reward_at_kl(*texts, prior=prior)
    found = {"gap": optimum.shortfall(*texts, BETA), "kl": equal.kl, "reward": equal.reward, "share": equal.share}
    found |= {"slope": agreement.slope, "correlation": agreement.correlation}
    row = {name + end: x for name, i in found.items() for end, x in zip(("", "_low", "_high"), i, strict=True)}
    row |= {f"{name}_exact": value for name, value in given.distance(log_pi)._asdict().items()}
    rest = {"kl_to_fixed_point": float(np.exp(log_pi) @ (log_pi - at_rest)), "ipo_loss": given.ipo_loss(log_pi)}
    rest |= {"seconds_per_step": run.seconds}
    return {"variant": run.variant, "seed": seed, **run.setting._asdict(), **row, **rest}


# ---------------------------------------------------------------------------------------------------------------- tables


def predicted(given: Problem) -> dict[str, np.ndarray]:
    """log π of every outcome at the fixed point of every variant."""
    laws, reward, length = given.laws, given.reward, given.length
    scaled = fixed_points.scaled_beta(lambda beta: fixed_points.per_token_optimum(laws, reward, beta), reward, BETA)
    found = dict.fromkeys(("loop", "rloo", "grpo-in-reward", "dpo"), given.log_best)
    for name, beta, corrected in (("grpo-beta", BETA, True), ("grpo-defaults", scaled, True), ("grpo-k3", BETA, False)):
        if beta > 0:
            at_rest = fixed_points.per_token_optimum(laws, reward, beta, corrected=corrected)
            found[name] = fixed_points.log_probabilities(at_rest)
    found["dpo-norm"] = fixed_points.normalised_dpo(given.log_p, reward, length, BETA)
    found["dpo-ipo"] = fixed_points.normalised_ipo(given.log_p, reward, length, BETA)
    return found


def tables(given: Problem, runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """`trainers`, one row per run, `curves` and `fixed_points`, in the order of `VARIANTS`; `family`, p exp(r/β') for β'."""
    order, laws = {name: i for i, name in enumerate(VARIANTS)}, predicted(given)
    runs = sorted(runs, key=lambda r: (order[r.variant], r.seed))
    curves = [(r.variant, r.seed, int(step), gap) for r in runs for step, gap in r.curve]
    rest = [
        {"variant": name, **given.distance(law)._asdict(), "ipo_loss": given.ipo_loss(law)}
        for name, law in {"prior": given.log_p, **laws}.items()
    ]
    best = float(BETA * special.logsumexp(given.log_p + given.reward / BETA))
    members = [(beta, given.distance(special.log_softmax(given.log_p + given.reward / beta))) for beta in FAMILY]
    return {
        "trainers": pd.DataFrame([measured(given, r, laws[r.variant]) for r in runs]),
        "curves": pd.DataFrame(curves, columns=["variant", "seed", "step", "gap_exact"]),
        "fixed_points": pd.DataFrame(rest).assign(best_objective=best),
        "family": pd.DataFrame(
            [(b, d.kl, d.reward, d.gap) for b, d in members], columns=["beta", "kl", "reward", "gap"]
        ),
    }


def _write(given: Problem, runs: Sequence[Run]) -> None:
    folder = repository() / "data" / "results"
    for name, found in tables(given, runs).items():
        write_atomically(folder / f"A3_{name}.csv", found.to_csv(index=False, lineterminator="\n", float_format="%.6g"))


def main(arguments: Sequence[str]) -> None:
    """Every run of the command line that is not in the store, then the tables of all that are."""
    parser = argparse.ArgumentParser(prog="python -m aep.neural.training.trainer_trials", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME", help=", ".join(VARIANTS))
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.variants if name not in VARIANTS]
    if unknown:
        raise ParameterError(unknown_name("variant", unknown[0], VARIANTS))
    if set(chosen.variants) != {"loop"}:
        trl()  # before anything takes time
    disable_progress_bar()
    given = problem()
    for seed in chosen.seeds:
        for variant in chosen.variants:
            done = run(given, variant, seed)
            line = f"{variant} seed {seed}: J*-J {done.curve[-1, 1]:.4f} ({done.seconds:.2f} s a step)"
            print(line, file=sys.stderr, flush=True)
    _write(given, finished(given))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AepError as error:
        sys.exit(f"error: {error}")
