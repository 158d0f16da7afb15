"""Slow, literal oracles: every string, one multiplication at a time, plain Python floats. Nothing here is clever."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

Strings = tuple[int, ...]
Next = Callable[[Strings], Sequence[float]]


def strings(vocab: int, length: int) -> Iterator[Strings]:
    """All strings of exactly `length` symbols 0 ... vocab-1."""
    return itertools.product(range(vocab), repeat=length)


def strings_up_to(vocab: int, length: int) -> Iterator[Strings]:
    """All strings of at most `length` symbols, the empty one first."""
    for n in range(length + 1):
        yield from strings(vocab, n)


def probability(next_p: Next, string: Strings) -> float:
    """p(x) = product over t of p(x_t | x_<t)."""
    total = 1.0
    for t, symbol in enumerate(string):
        total *= next_p(string[:t])[symbol]
    return total


def distribution(next_p: Next, vocab: int, length: int) -> dict[Strings, float]:
    """Every string of `length` symbols with its probability."""
    return {s: probability(next_p, s) for s in strings(vocab, length)}


def entropy(p: Sequence[float]) -> float:
    """-sum p log p, nats."""
    return -sum(x * math.log(x) for x in p if x > 0)


def varentropy(p: Sequence[float]) -> float:
    """Variance of -log p under p, nats squared."""
    mean = entropy(p)
    return sum(x * (-math.log(x) - mean) ** 2 for x in p if x > 0)


def cross_entropy(p: Sequence[float], q: Sequence[float]) -> float:
    """-sum p log q, nats."""
    return -sum(x * math.log(y) for x, y in zip(p, q, strict=True) if x > 0)


def cross_varentropy(p: Sequence[float], q: Sequence[float]) -> float:
    """Variance of -log q under p, nats squared."""
    mean = cross_entropy(p, q)
    return sum(x * (-math.log(y) - mean) ** 2 for x, y in zip(p, q, strict=True) if x > 0)


def log_partition(p: Sequence[float], theta: float) -> float:
    """log sum p^theta."""
    return math.log(sum(x**theta for x in p if x > 0))


def log_perplexity(next_p: Next, string: Strings) -> float:
    """l = (1/T) sum -log p(x_t | x_<t)."""
    return -sum(math.log(next_p(string[:t])[s]) for t, s in enumerate(string)) / len(string)


def empirical_entropy(next_p: Next, string: Strings) -> float:
    """h = (1/T) sum H_t along the string."""
    return sum(entropy(next_p(string[:t])) for t in range(len(string))) / len(string)


def sum_varentropy(next_p: Next, string: Strings) -> float:
    """sum V_t along the string."""
    return sum(varentropy(next_p(string[:t])) for t in range(len(string)))


def expectation(next_p: Next, vocab: int, length: int, value: Callable[[Strings], float]) -> float:
    """E[value(x)] over all strings of `length` symbols."""
    return sum(p * value(s) for s, p in distribution(next_p, vocab, length).items() if p > 0)


# ------------------------------------------------------------------------------------------------- next-symbol laws


def language_next(language) -> Next:
    """The next-symbol law of an exact language, asked anew with the whole prefix as its prompt."""
    cache: dict[Strings, list[float]] = {}

    def next_p(prefix: Strings) -> list[float]:
        if prefix not in cache:
            log_p, _ = language.start([list(prefix)])
            cache[prefix] = [math.exp(x) for x in log_p[0]]
        return cache[prefix]

    return next_p


def markov_next(transition, initial) -> Next:
    """The law of a Markov chain, from its matrix."""
    return lambda prefix: list(transition[prefix[-1]]) if prefix else list(initial)


def hidden_markov_probability(transition, emission, initial, string: Strings) -> float:
    """p(x) as a sum over every path of hidden states."""
    total = 0.0
    for path in itertools.product(range(len(initial)), repeat=len(string)):
        p = 1.0
        for t, (state, symbol) in enumerate(zip(path, string, strict=True)):
            p *= (initial[state] if t == 0 else transition[path[t - 1]][state]) * emission[state][symbol]
        total += p
    return total


def mixture_probability(weights, parts: Sequence[Next], string: Strings) -> float:
    """p(x) = sum_k w_k p_k(x)."""
    return sum(w * probability(part, string) for w, part in zip(weights, parts, strict=True))


# ------------------------------------------------------------------------------------------------------- adaptors


def top_k(p: Sequence[float], k: int) -> list[float]:
    """Locally normalised top-k; every token that ties with the k-th value is kept."""
    threshold = sorted(p, reverse=True)[k - 1]
    kept = [x if x >= threshold else 0.0 for x in p]
    return [x / sum(kept) for x in kept]
