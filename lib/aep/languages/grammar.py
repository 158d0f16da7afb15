"""Probabilistic context-free grammars: exact next-token laws, strings, entropies and counts of a language with recursion."""

import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from .. import information
from ..errors import DistributionError, ParameterError, unknown_name
from .grammar_algebra import check_consistent, closure, expectation_matrix, least_fixed_point, spectral_radius
from .grammar_chart import Chart, Column
from .grammar_counts import Derivations, length_law, string_counts
from .grammar_format import RuleSet, parse_rules
from .grammar_proof import conflicts
from .protocol import ExactLanguage, as_ids, check_count, content_hash, vocabulary_hash
from .stochastic import prompt_batch

__all__ = ["Grammar", "PositionEntropy", "embedded_grammars"]

_FOLDER = Path(__file__).resolve().parents[3] / "data" / "grammars"
_CHECKED_TO = 8
_SMALLEST_SUM = 1e-280  # of p^theta: below it, terms may have underflowed


class PositionEntropy(NamedTuple):
    """The entropy of a string by position t = 0, 1, ..., each (positions,).

    `entropy` = E[H_t 1{T > t}] (nats), whose sum is the entropy of the string; `alive` = P(T > t), T counting the end token,
    with all of `left_out` in it, the probability of the prefixes that were not followed up to t: too large by that at most.
    """

    entropy: np.ndarray
    alive: np.ndarray
    left_out: np.ndarray


class Grammar(ExactLanguage):
    """A probabilistic context-free grammar: strings of words, each ended by the end token (id 0); then a new string begins.

    Parameters: `text`, in the format of `grammar_format`; `name`. Any grammar whose derivations have finite expected length:
    ambiguous ones, left recursion, rules of one symbol (cycles too) and empty rules have correct probabilities. The state
    is an array (batch,) of chart columns, which never change. After tokens that begin no string the rows are NaN, which
    scoring refuses. Lengths count the end token; entropies are in nats.

    Raises ParameterError and DistributionError as `parse_rules` does; DistributionError unless the spectral radius of the
    expectation matrix is below 1.

    >>> language = Grammar('S -> "a" S [1/4] | "b" [3/4]')
    >>> [float(round(p, 12)) for p in np.exp(language.start([[1, 1]])[0][0])]
    [0.0, 0.25, 0.75]
    >>> bool(np.isclose(language.expected_length(), 4 / 3 + 1))
    True
    """

    eos = 0

    def __init__(self, text: str, *, name: str = "grammar"):
        self.rules: RuleSet = parse_rules(text)
        check_consistent(self.rules)
        self.symbols = self.rules.tokens
        self.vocab_size, self.name, self._conflicts = len(self.symbols), name, None
        self.vocabulary_hash = vocabulary_hash({word: i for i, word in enumerate(self.symbols)})
        numbers = np.array([s for r in self.rules.rules for s in (r.left, *r.right, -1)], dtype=np.int64)
        probabilities = np.array([r.probability for r in self.rules.rules])
        self.fingerprint = content_hash("grammar", "\n".join(self.symbols), numbers, probabilities)

    @classmethod
    def load(cls, name: str | Path) -> "Grammar":
        """An embedded grammar (`embedded_grammars`) by its name, or a file of the format by its path.

        Raises ParameterError for an unknown name, with the nearest; errors of a file name the file.

        >>> Grammar.load("palindromes").symbols
        ('<end>', 'a', 'b', 'c')
        """
        known = embedded_grammars()
        path = known.get(str(name), Path(name).expanduser())
        if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
            raise ParameterError(unknown_name("grammar", str(name), known))
        try:
            return cls(path.read_text(encoding="utf-8-sig"), name=path.stem)
        except UnicodeDecodeError as error:
            raise ParameterError(f"{path.name}: byte {error.start} is not UTF-8: save it as UTF-8") from None
        except (ParameterError, DistributionError) as error:
            raise type(error)(f"{path.name}: {error}") from None

    # ------------------------------------------------------------------------------------------- next-token laws

    @cached_property
    def chart(self) -> Chart:
        """The chart: its tables are made when first needed, its columns as prefixes are met."""
        return Chart(self.rules)

    def start(self, prompts: Sequence | np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], Any]:
        """`log_p` (batch, vocab) after each prompt, and the columns reached."""
        ids = prompt_batch(prompts, self.vocab_size)
        state = np.full(len(ids), self.chart.first, dtype=object)
        for column in ids.T:
            state = self._after(state, column)
        return self._laws(state), state

    def step(self, state: Any, ids: np.ndarray) -> tuple[Float[np.ndarray, "batch vocab"], Any]:
        """As `start`, after one more token per row; the old state remains valid. PromptError for a foreign id."""
        state = self._after(state, as_ids(ids, self.vocab_size, "step"))
        return self._laws(state), state

    def _after(self, state: np.ndarray, ids: np.ndarray) -> np.ndarray:
        after = np.empty(len(state), dtype=object)
        after[:] = [self.chart.step(column, token) for column, token in zip(state, ids.tolist(), strict=True)]
        return after

    def _laws(self, state: np.ndarray) -> np.ndarray:
        laws = [self.chart.log_p(column) for column in state]
        return np.array(laws) if laws else np.empty((0, self.vocab_size))

    # ----------------------------------------------------------------------------------------------- probabilities

    def log_probability(self, ids: Sequence | np.ndarray) -> float:
        """log p(x) of whole strings, nats: Σ_t log p(x_t | x_<t), which sums over all derivations; -inf if it is impossible.

        `ids` ends with the end token (id 0): one that does not is a prefix, and so is its probability.

        >>> bool(np.isclose(Grammar('S -> S S [.4] | "a" [.6]').log_probability([1, 1, 0]), np.log(.4 * .36)))
        True
        """
        column, total = self.chart.first, 0.0
        for token in as_ids(ids, self.vocab_size, "text").tolist():
            log_p = self.chart.log_p(column)[token]
            if log_p == -math.inf:
                return -math.inf
            total += float(log_p)
            column = self.chart.step(column, token)
        return total

    def sample_strings(self, rng: np.random.Generator, size: int) -> list[np.ndarray]:
        """`size` strings with their end token, drawn by expanding the start symbol: exact, and without a chart."""
        check_count(0, size=size)
        start, tables = self.rules.start, self._expansions
        return [_expanded(rng, start, tables) for _ in range(size)]

    @cached_property
    def _expansions(self) -> dict[int, tuple[list[float], list[tuple[int, ...]]]]:
        """Of every nonterminal: the running sums of its probabilities, and right sides reversed."""
        found: dict[int, tuple[list[float], list[tuple[int, ...]]]] = {}
        for rule in self.rules.rules:
            sums, rights = found.setdefault(rule.left, ([], []))
            sums.append((sums[-1] if sums else 0.0) + rule.probability)
            rights.append(rule.right[::-1])
        return {symbol: ([*sums[:-1], math.inf], rights) for symbol, (sums, rights) in found.items()}

    # ------------------------------------------------------------------------------------------------ expectations

    def spectral_radius(self) -> float:
        """The spectral radius of the expectation matrix, in [0, 1): how slowly recursion dies out."""
        return spectral_radius(expectation_matrix(self.rules))[0]

    def expected_uses(self) -> Float[np.ndarray, " nonterminals"]:
        """The mean number of times each nonterminal stands in a derivation: the start symbol's row of (I - E)^-1."""
        return closure(expectation_matrix(self.rules))[0]

    def expected_length(self) -> float:
        """E[T], tokens per string, the end token counted."""
        v = self.rules.start
        uses = self.expected_uses()
        return 1 + float(sum(uses[r.left - v] * r.probability * sum(s < v for s in r.right) for r in self.rules.rules))

    def length_law(self, longest: int) -> Float[np.ndarray, " lengths"]:
        """P(T = t) for t = 0 ... `longest` tokens, the end token counted, by dynamic programming.

        >>> [float(p) for p in Grammar('S -> "a" S [1/4] | "b" [3/4]').length_law(3)]
        [0.0, 0.0, 0.75, 0.1875]
        """
        check_count(1, longest=longest)
        return np.append(0.0, length_law(self.rules, longest - 1))

    def derivation_entropy(self) -> float:
        """Entropy of the derivation, nats: Σ_X E[uses of X] H(rules of X) (Grenander 1967); at least that of the string."""
        return float(self.expected_uses() @ self._by_symbol(lambda p, _: -p * math.log(p)))

    def entropy(self, *, checked_to: int | None = None) -> float:
        """Entropy of the string, nats: that of the derivation, which it equals if every string has one derivation.

        That is proved where the grammar has no conflict (`conflicts`). Others are refused, unless `checked_to` is given:
        then it is taken for granted if no string of at most `checked_to` words has two derivations. Raises DistributionError
        with the first length at which one has.
        """
        self._check_unambiguous(checked_to)
        return self.derivation_entropy()

    def entropy_rate(self, *, checked_to: int | None = None) -> float:
        """H / E[T], nats per token: the entropy rate of strings that follow one another without end. Raises as `entropy`."""
        return self.entropy(checked_to=checked_to) / self.expected_length()

    def varentropy(self, *, checked_to: int | None = None) -> float:
        """Var[-log p(x)] of the string, nats². Raises as `entropy` does.

        With m_X the mean surprisal of what X derives, its variance is v_X = Var_rule(-log p + Σ m) + Σ_rules p Σ_right v.
        """
        self._check_unambiguous(checked_to)
        v, up = self.rules.start, closure(expectation_matrix(self.rules))
        mean = up @ self._by_symbol(lambda p, _: -p * math.log(p))

        def square(p: float, right: tuple[int, ...]) -> float:
            return p * (sum(mean[s - v] for s in right if s >= v) - math.log(p)) ** 2

        return float((up @ (self._by_symbol(square) - mean**2))[0])

    def log_partition(self, theta: float, *, checked_to: int | None = None) -> float:
        """Λ(θ) = log Σ_x p(x)^θ over all strings, nats; 0 at θ = 1, +inf where the sum diverges. Raises as `entropy` does.

        The least solution of Z_X = Σ_rules p^θ Π Z. The Rényi entropy of order θ of the strings is Λ(θ)/(1 - θ).
        DistributionError unless 0 < θ < ∞, and where the sum is below 1e-280 and would lose digits to underflow.

        >>> bool(np.isclose(Grammar('S -> "a" S [1/4] | "b" [3/4]').log_partition(2.), np.log((9 / 16) / (1 - 1 / 16))))
        True
        """
        if not 0 < theta < math.inf:
            raise DistributionError(f"theta must be positive and finite, got {theta}")
        self._check_unambiguous(checked_to)
        weights = [rule.probability**theta for rule in self.rules.rules]
        total = float(least_fixed_point(self.rules, weights, 1.0)[0])
        if total < _SMALLEST_SUM:
            raise DistributionError(f"theta={theta:g}: the sum of p^theta over the strings of {self.name} underflows")
        return math.log(total)

    def entropy_by_position(self, positions: int, *, least: float = 0.0) -> PositionEntropy:
        """The entropy of the string split by the position of its tokens: E[H_t 1{T > t}], t = 0 ... `positions` - 1.

        A walk over the columns of the chart with their probabilities: exact, for ambiguous grammars too. These may have as
        many columns as prefixes, hence a cost that grows exponentially with `positions` (18 positions of a left-recursive
        grammar of two letters take minutes); then give `least` in (0, 1): columns of a smaller probability are left out,
        which changes the entropy at t by at most `left_out`[t] log vocab_size.
        """
        check_count(0, positions=positions)
        if not 0 <= least < 1:
            raise ParameterError(f"least={least!r}: a probability of at least 0 and below 1 is needed")
        chart, first = self.chart, self.chart.first
        now, lost = {first.key: (first, 1.0)}, 0.0
        entropy, alive, left_out = np.zeros((3, positions))
        of_column: dict[bytes, float] = {}
        for t in range(positions):
            then: dict[bytes, tuple[Column, float]] = {}
            for column, mass in now.values():
                if column.key not in of_column:
                    of_column[column.key] = float(information.entropy(chart.log_p(column)))
                entropy[t] += mass * of_column[column.key]
                alive[t] += mass
                if mass < least:
                    lost += mass * -math.expm1(chart.log_p(column)[0])
                    continue
                for after, p, _ in chart.successors(column):
                    then[after.key] = (after, then.get(after.key, (after, 0.0))[1] + mass * p)
            left_out[t + 1 :] = lost
            now = then
        return PositionEntropy(entropy, alive + left_out, left_out)

    def _by_symbol(self, value: Any) -> np.ndarray:
        """Σ over the rules of every nonterminal of value(probability, right side)."""
        total = np.zeros(len(self.rules.nonterminals))
        for rule in self.rules.rules:
            total[rule.left - self.rules.start] += value(rule.probability, rule.right)
        return total

    # ------------------------------------------------------------------------------------------------------ counts

    def conflicts(self) -> list[str]:
        """What keeps the grammar from being LALR(1), one line each; an empty list proves that it is unambiguous."""
        if self._conflicts is None:
            self._conflicts = conflicts(self.rules)
        return self._conflicts

    @cached_property
    def derivations(self) -> Derivations:
        """Numbers of derivations, of a string or of all strings of a length; DistributionError if they can be infinite."""
        return Derivations(self.rules)

    def derivation_counts(self, longest: int) -> list[int]:
        """The exact number of derivations of strings of n = 0 ... `longest` words (end token not counted).

        >>> Grammar('S -> S S [.4] | "a" [.6]').derivation_counts(5)   # Catalan numbers
        [0, 1, 1, 2, 5, 14]
        """
        check_count(0, longest=longest)
        return self.derivations.counts(longest)

    def string_counts(self, longest: int) -> list[int]:
        """The exact number of distinct strings of n = 0 ... `longest` words (end token not counted), of any grammar.

        >>> Grammar('S -> S S [.4] | "a" [.6]').string_counts(5)
        [0, 1, 1, 1, 1, 1]
        """
        check_count(0, longest=longest)
        return self.derivation_counts(longest) if not self.conflicts() else string_counts(self.chart, longest)

    def is_unambiguous(self, longest: int) -> bool:
        """Whether every string of at most `longest` words has one derivation: as many derivations as distinct strings.

        DistributionError for a grammar with strings of infinitely many derivations, however long those are.

        >>> Grammar('S -> S S [.4] | "a" [.6]').is_unambiguous(2), Grammar('S -> S S [.4] | "a" [.6]').is_unambiguous(3)
        (True, False)
        """
        return self._first_ambiguous(longest) is None

    def _first_ambiguous(self, longest: int) -> int | None:
        counts = zip(self.derivation_counts(longest), string_counts(self.chart, longest), strict=True)
        return next((n for n, (derivations, strings) in enumerate(counts) if derivations != strings), None)

    def _check_unambiguous(self, checked_to: int | None) -> None:
        if not self.conflicts():
            return
        n = self._first_ambiguous(_CHECKED_TO if checked_to is None else checked_to)
        if n is not None:
            raise DistributionError(
                f"{self.name} is ambiguous at {n} words: its strings have no entropy in closed form; derivation_entropy() "
                "is an upper bound, entropy_by_position(positions) is exact up to a position"
            )
        if checked_to is None:
            raise DistributionError(
                f"{self.name} is not proved to be unambiguous ({self.conflicts()[0]}): no string of at most {_CHECKED_TO} "
                f"words has two derivations; checked_to={_CHECKED_TO} takes that for all"
            )


def _expanded(rng: np.random.Generator, start: int, tables: dict) -> np.ndarray:
    stack, words, uniforms = [start], [], iter(())
    while stack:
        symbol = stack.pop()
        if symbol < start:
            words.append(symbol)
            continue
        sums, rights = tables[symbol]
        u = next(uniforms, None)
        if u is None:
            uniforms = iter(rng.random(64).tolist())
            u = next(uniforms)
        stack.extend(rights[bisect_right(sums, u)])
    return np.array([*words, 0], dtype=np.int64)


def embedded_grammars() -> dict[str, Path]:
    """Name and file of every grammar of data/grammars."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.pcfg"))}
