"""Independent Metropolis-Hastings: from texts of a locally normalised adaptor to its globally normalised law.

Proposals y are texts of the local sampler, q(y) = Π γ(p_t)(y_t)/Z_t; the target is π(y) ∝ Π γ(p_t)(y_t), so that the
importance weight is w(y) = π(y)/q(y) ∝ Π Z_t(y) and y' replaces y with probability min{1, w(y')/w(y)}. On rejection the
current text is stored again. The record of a text has log Z_t of every token (`Texts.log_normaliser`): no second pass over
a network. Source: paper 2406.10203, section 4 and Algorithm 1; Hastings 1970; Wang 2022 for the rate of convergence.

There is one chain (or several) per prompt and never one over several prompts: the normaliser differs from prompt to prompt,
so a pooled chain would prefer prompts with large Z and change their marginal.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..adaptors import Adaptor
from ..errors import DistributionError, ParameterError, PromptError, RecordError
from ..languages.protocol import Language, check_count
from ..records import Texts
from ..sampling import sample

__all__ = [
    "SCHEMES",
    "Chains",
    "Info",
    "Kernel",
    "Proposals",
    "State",
    "fresh_chains",
    "fresh_texts",
    "from_pool",
    "kernel",
    "pool_chains",
    "pool_target",
    "proposals",
]

_TRUNCATIONS = ("top_k(30)", "top_k(50)", "nucleus(0.9)", "nucleus(0.95)", "eta(0.0009)", "locally_typical(0.9)")
_TEMPERATURES = (0.5, 0.75, 1.0, 1.25, 1.5)

SCHEMES: tuple[str, ...] = (
    "ancestral()",
    *(cut if tau == 1 else f"temperature({tau})|{cut}" for cut in _TRUNCATIONS for tau in _TEMPERATURES),
)
"""The 31 sampling schemes of the public code of 2406.10203 (the paper's text says 25), as strings of adaptors."""


class State(NamedTuple):
    """Where a chain is: a text (its index, or its token ids) and log w = Σ_t log Z_t of that text, nats."""

    text: Any
    log_weight: float


class Info(NamedTuple):
    """What one step did: the proposal, the log-probability min{0, log w' - log w} of accepting it, and whether it was."""

    proposal: State
    log_acceptance: float
    accepted: bool


Propose = Callable[[np.random.Generator], State]
Kernel = Callable[[np.random.Generator, State], tuple[State, Info]]


def kernel(propose: Propose) -> Kernel:
    """The kernel (rng, state) -> (state, info) of independent Metropolis-Hastings with proposals of `propose(rng)`.

    A proposal of weight w' replaces the current text with probability min{1, w'/w}; otherwise the state stays what it
    is and counts once more. Accepted when log w' + E > log w with E ~ Exp(1), which is the same event and cannot overflow.
    A proposal of log-weight -inf (a text cut at the cap) is always rejected. DistributionError for a weight NaN or +inf.

    >>> step = kernel(lambda rng: State("b", 0.0))
    >>> state, info = step(np.random.default_rng(0), State("a", -1.0))
    >>> state.text, info.accepted, info.log_acceptance
    ('b', True, 0.0)
    """

    def step(rng: np.random.Generator, state: State) -> tuple[State, Info]:
        proposal = propose(rng)
        if not (state.log_weight < np.inf and proposal.log_weight < np.inf):  # NaN is not, either
            raise DistributionError(f"log-weights {state.log_weight} and {proposal.log_weight}: give numbers or -inf")
        accepted = bool(proposal.log_weight + rng.standard_exponential() > state.log_weight)
        gain = proposal.log_weight - state.log_weight if proposal.log_weight > -np.inf else -np.inf
        info = Info(proposal, min(0.0, gain), accepted)
        return (proposal if accepted else state), info

    return step


def from_pool(log_weight: Float[np.ndarray, " texts"]) -> Propose:
    """Proposals that are drawn uniformly, with replacement, from a finite pool of stored texts of one prompt.

    The text of a state is its index in the pool. What such a chain converges to is `pool_target`, not π.
    """
    _ended(log_weight)

    def propose(rng: np.random.Generator) -> State:
        text = int(rng.random() * len(log_weight))
        return State(text, float(log_weight[text]))

    return propose


def fresh_texts(
    language: Language,
    prompt: str | Sequence[int | np.integer] | np.ndarray | None = None,
    *,
    tokens: int,
    adaptor: Adaptor | str | None = None,
    stop: str = "eos",
) -> Propose:
    """Proposals that are drawn anew by `sample` at every step: the chain converges to π itself.

    The text of a state is the tuple of its token ids. One text at a time: to read and to test; `fresh_chains` runs over
    texts that were drawn in batches. Raises what `sample` raises.
    """

    def propose(rng: np.random.Generator) -> State:
        prompts = None if prompt is None else [prompt]
        seed = int(rng.integers(2**63))
        drawn = sample(language, prompts, tokens=tokens, seed=seed, adaptor=adaptor, stop=stop)
        return State(tuple(drawn.ids[0].tolist()), float(proposals(drawn).log_weight[0]))

    return propose


class Proposals(NamedTuple):
    """Stored texts as Metropolis-Hastings sees them: `log_weight` (texts,) = Σ_t log Z_t, nats; `prompt` (texts,).

    With all log-weights at 0 every proposal is accepted and the chains keep the local law: a control.
    """

    log_weight: np.ndarray
    prompt: np.ndarray


def proposals(texts: Texts) -> Proposals:
    """Log-weights of stored texts from the record of their sampler, after a check that one chain per prompt is possible.

    Under ``stop="eos"`` a text that was cut at the length cap is no string: its log-weight is -inf, it is proposed and
    never accepted, and the target is π given that the string fits below the cap. Under ``stop="never"`` the target is the
    law of strings of exactly that length.

    Raises RecordError where the texts have no log_normaliser, DistributionError for a log Z that is not finite, and
    PromptError where two prompts are the same.
    """
    if texts.log_normaliser is None:
        raise RecordError("these texts have no log_normaliser: sample them with aep.sample, which records log Z_t")
    log_weight = np.array([float(z.sum()) for z in texts.log_normaliser])
    bad = np.flatnonzero(~np.isfinite(log_weight))
    if bad.size:
        z = texts.log_normaliser[bad[0]]
        t = int(np.argmin(np.isfinite(z)))
        why = "its adaptor removed all tokens there" if np.isneginf(z[t]) else "its sampler or its file is damaged"
        raise DistributionError(f"text {bad[0]} has log Z = {z[t]} at position {t}: {why}")
    _check_weights(log_weight)
    _check_prompts(texts)
    if texts.sampler.get("stop") == "eos" and texts.finished is not None:
        log_weight = np.where(texts.finished, log_weight, -np.inf)
    return Proposals(log_weight, np.asarray(texts.prompt, np.int64))


def _check_prompts(texts: Texts) -> None:
    seen: dict[tuple, int] = {}
    for index in map(int, np.unique(texts.prompt)):
        first = seen.setdefault(tuple(texts.prompts[index].tolist()), index)
        if first != index:
            same = f"prompts {first} and {index} are the same"
            raise PromptError(f"{same}: give each once and ask for more texts per prompt")


def _check_weights(log_weight: np.ndarray) -> None:
    if not len(log_weight):
        raise RecordError("the pool is empty: sample at least one text per prompt")
    bad = np.flatnonzero(np.isnan(log_weight) | np.isposinf(log_weight))
    if bad.size:
        raise DistributionError(
            f"text {bad[0]} has log-weight {log_weight[bad[0]]}: Σ log Z_t must be a number or -inf"
        )


def pool_target(log_weight: Float[np.ndarray, " texts"]) -> Float[np.ndarray, " texts"]:
    """w_i / Σ_j w_j: the law that a chain over this finite pool converges to (self-normalised importance weights).

    RecordError for an empty pool or one without a finite weight.

    >>> pool_target(np.log(np.array([1., 3.]))).round(3).tolist()
    [0.25, 0.75]
    """
    w = np.exp(log_weight - log_weight[_ended(log_weight)].max())
    return w / w.sum()


class Chains(NamedTuple):
    """Chains that ran side by side, each over the texts of one prompt.

    `text` (prompts, chains, steps): index of the text stored after each step, the current one again on rejection;
    `accepted` likewise; `start` (prompts, chains): the text before the first step, not stored; `prompt` (prompts,).
    """

    text: np.ndarray
    accepted: np.ndarray
    start: np.ndarray
    prompt: np.ndarray

    def after(self, steps: int) -> "Chains":
        """The same chains without their first `steps` steps (burn-in); ParameterError if nothing is left."""
        if not 0 <= steps < self.text.shape[-1]:
            raise ParameterError(f"{steps} steps cannot be dropped from chains of {self.text.shape[-1]}")
        start = self.text[..., steps - 1] if steps else self.start
        return self._replace(text=self.text[..., steps:], accepted=self.accepted[..., steps:], start=start)

    def mean(self, values: Float[np.ndarray, " texts"]) -> Float[np.ndarray, "prompts chains"]:
        """Mean of `values` (texts,) over the texts that each chain stored: of a corpus, if a chain is one."""
        if values.ndim != 1 or len(values) <= self.text.max():
            raise ParameterError(
                f"values of shape {values.shape}: one per text is needed, {self.text.max() + 1} at least"
            )
        total = np.zeros(self.start.shape)
        room = np.empty(self.start.shape)
        for step in np.moveaxis(self.text, -1, 0):  # as it lies in memory
            total += np.take(values, step, out=room, mode="clip")
        return total / self.text.shape[-1]


def pool_chains(pool: Proposals, *, chains: int = 1, steps: int, rng: np.random.Generator) -> Chains:
    """Chains over a finite pool: every proposal is drawn uniformly, with replacement, from the stored texts of the prompt.

    Given the pool, such a chain converges to the self-normalised importance weights w_i / Σ_j w_j on it (`pool_target`),
    not to the global law: more steps never make up for a small pool. Its bias is of order 1/size (`string_laws.pool_bias`);
    over two texts per prompt it goes but part of the way from the local to the global law. `fresh_chains` has no such limit.

    `chains` per prompt, `steps` >= 1 each; starts are drawn uniformly from the texts of the prompt that ended.
    Raises ParameterError for a length or number below 1, RecordError for an empty pool or a prompt of which no text ended.

    >>> pool = Proposals(np.log(np.array([1., 3.])), np.array([0, 0]))
    >>> found = pool_chains(pool, chains=500, steps=40, rng=np.random.default_rng(0))
    >>> found.text.shape, bool(abs(found.text[..., 20:].mean() - .75) < .02)
    ((1, 500, 40), True)
    """
    check_count(1, chains=chains, steps=steps)
    prompts, groups = _by_prompt(pool)
    ended = [group[_ended(pool.log_weight[group], f" of prompt {k}")] for k, group in zip(prompts, groups, strict=True)]
    start = np.stack([group[rng.integers(group.size, size=chains)] for group in ended])
    order, sizes = np.concatenate(groups), np.array([len(group) for group in groups])
    size = np.repeat(sizes.astype(np.float64), chains)
    offset = np.repeat(np.cumsum(sizes) - sizes, chains)
    uniform = np.empty(len(size))

    def propose(step: int, out: np.ndarray) -> None:
        rng.random(out=uniform)
        np.multiply(uniform, size, out=out, casting="unsafe")
        np.add(out, offset, out=out)

    text, accepted = _walk(pool.log_weight[order], np.argsort(order)[start].ravel(), steps, propose, rng)
    ordered = np.array_equal(order, np.arange(len(order)))
    return _chains(text if ordered else order[text], accepted, start, prompts)


def fresh_chains(pool: Proposals, *, chains: int = 1, rng: np.random.Generator) -> Chains:
    """Chains whose every proposal is another stored text, used once: independent Metropolis-Hastings as it is defined.

    The texts of a prompt, in the order in which they were drawn, are dealt out to its `chains`: n texts make chains of
    n/chains - 1 steps, whose first text that ended is the start. The cut texts before it are proposed first, so that a chain
    whose first text was cut begins by standing still, once for each: its early acceptance is too low, which a burn-in drops.
    Such a chain converges to the global law π of the prompt;
    what is left after s steps is at most (1 - 1/w*)^s in total variation, w* = max π/q. `pool_chains` is for the case in
    which there are too few texts for that, and converges to something else.

    Raises ParameterError where prompts have different numbers of texts or `chains` does not divide them into at least two
    each, RecordError for an empty pool or a chain of which no text ended.
    """
    check_count(1, chains=chains)
    prompts, groups = _by_prompt(pool)
    sizes = sorted({len(group) for group in groups})
    if len(sizes) > 1:
        raise ParameterError(f"prompts have {sizes[0]} to {sizes[-1]} texts: fresh chains need the same number of each")
    if sizes[0] % chains or sizes[0] < 2 * chains:
        raise ParameterError(
            f"{sizes[0]} texts per prompt cannot be dealt out to {chains} chains: each needs the same number, at least 2"
        )
    dealt = np.stack(groups).reshape(len(groups) * chains, -1)
    rows, ended = np.arange(len(dealt)), np.isfinite(pool.log_weight[dealt])
    first = np.argmax(ended, axis=1)
    if not ended.any(axis=1).all():
        of = f"a chain of prompt {prompts[np.argmin(ended.any(axis=1)) // chains]}"
        raise RecordError(f"none of the {dealt.shape[1]} texts of {of} ended before the cap: raise tokens=")
    start = dealt[rows, first]
    dealt[rows, first] = dealt[:, 0]  # the cut texts before the start are proposed after it, and rejected
    queue = np.ascontiguousarray(dealt[:, 1:].T)
    text, accepted = _walk(pool.log_weight, start, len(queue), lambda step, out: np.copyto(out, queue[step]), rng)
    return _chains(text, accepted, start.reshape(len(groups), chains), prompts)


def _walk(
    log_weight: Float[np.ndarray, " texts"],
    start: Int[np.ndarray, " chains"],
    steps: int,
    propose: Callable[[int, np.ndarray], None],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "steps chains"], Bool[np.ndarray, "steps chains"]]:
    """All chains one step at a time, without an allocation per step: stored texts and acceptances, (steps, chains)."""
    width = len(start)
    text = np.empty((steps, width), np.int32)
    accepted = np.empty((steps, width), bool)
    state, current = start.astype(np.intp), log_weight[start]
    proposal, weight, threshold = np.empty(width, np.intp), np.empty(width), np.empty(width)
    for step in range(steps):
        propose(step, proposal)
        np.take(log_weight, proposal, out=weight, mode="clip")  # "raise" would copy
        rng.standard_exponential(out=threshold)
        np.add(threshold, weight, out=threshold)
        np.putmask(state, np.greater(threshold, current, out=accepted[step]), proposal)
        np.take(log_weight, state, out=current, mode="clip")
        text[step] = state
    return text, accepted


def _chains(text: np.ndarray, accepted: np.ndarray, start: np.ndarray, prompts: np.ndarray) -> Chains:
    """(steps, prompts · chains) as (prompts, chains, steps), a view."""
    shape = (*start.shape, len(text))
    return Chains(text.T.reshape(shape), accepted.T.reshape(shape), start, prompts)


def _by_prompt(pool: Proposals) -> tuple[np.ndarray, list[np.ndarray]]:
    """The prompts that have texts, and the indices of the texts of each in their order."""
    weights, prompt = np.asarray(pool.log_weight), np.asarray(pool.prompt)
    kinds = weights.dtype.kind + prompt.dtype.kind
    if weights.ndim != 1 or weights.shape != prompt.shape or (weights.size and kinds not in ("fi", "fu")):
        found = f"{weights.dtype} of shape {weights.shape}, {prompt.dtype} of shape {prompt.shape}"
        raise ParameterError(f"one float log-weight and one integer prompt per text are needed, got {found}")
    _check_weights(pool.log_weight)
    prompts, count = np.unique(pool.prompt, return_counts=True)
    order = np.argsort(pool.prompt, kind="stable")
    return prompts, np.split(order, np.cumsum(count)[:-1])


def _ended(log_weight: np.ndarray, of: str = "") -> np.ndarray:
    """The indices of the texts that ended, at least one."""
    _check_weights(log_weight)
    ended = np.flatnonzero(np.isfinite(log_weight))
    if not ended.size:
        raise RecordError(f"none of the {len(log_weight)} texts{of} ended before the length cap: raise tokens=")
    return ended
