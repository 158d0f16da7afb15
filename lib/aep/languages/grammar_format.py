"""The text format of a probabilistic context-free grammar, read with errors that name the line.

One symbol per line or block; the first symbol is the start symbol; `#` begins a comment; a line that begins with `|` goes on
with the alternatives of the line before::

    Tale   -> Hero Event Tale [0.4] | Hero Event [0.6]
    Hero   -> "the" "fox" | "the" "old owl"        # no probabilities: equal shares
    Event  -> "sang" [1/3]
            | "slept" [2/3]

Words stand in quotes; one pair of quotes may hold several. An alternative without symbols derives the empty string. The
probabilities of a symbol, decimal or fractions, sum to one: nothing is renormalised. But for its extensions (several words
in one pair of quotes, equal shares, fractions) this is the format of ``nltk.PCFG.fromstring``.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from ..errors import DistributionError, ParameterError, nearest

__all__ = ["END", "Rule", "RuleSet", "parse_rules"]

END = "<end>"
_TOLERANCE = 1e-12
_PIECE = re.compile(
    r"""\s*(?:(?P<arrow>->)|(?P<bar>\|)|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|\[(?P<weight>[^\]]*)\]"""
    r"""|(?P<comment>\#.*)|(?P<name>(?:(?!->)[^\s"'\[\]|\#])+))"""
)


class Rule(NamedTuple):
    """left -> right with its probability; symbols are numbers, tokens before nonterminals; `line` is where it stands."""

    left: int
    right: tuple[int, ...]
    probability: float
    line: int


@dataclass(frozen=True)
class RuleSet:
    """The rules of a grammar over numbered symbols.

    `tokens` are the strings of symbols 0 ... V-1 (0 is the end token, the others stand in the order in which they first
    appear), `nonterminals` the names of symbols V ... V+N-1 (the first one is the start symbol).
    """

    tokens: tuple[str, ...]
    nonterminals: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def start(self) -> int:
        """The number of the start symbol."""
        return len(self.tokens)

    def name(self, symbol: int) -> str:
        """A nonterminal's name, or a word in quotes."""
        v = len(self.tokens)
        return self.nonterminals[symbol - v] if symbol >= v else f'"{self.tokens[symbol]}"'


class _Alternative(NamedTuple):
    right: tuple[str, ...]  # a word keeps its opening quote, so that it is no name
    weight: Fraction | None
    line: int


def parse_rules(text: str) -> RuleSet:
    """The rules that `text` writes down, checked.

    Raises
    ------
    ParameterError : with the line: what is not of the format; a symbol without a rule (and the nearest that have one), out
        of the start symbol's reach, or that derives no string; an alternative given twice
    DistributionError : probabilities of a symbol that do not sum to one, or of which some are missing

    >>> parse_rules('S -> "a" S [1/4] | "b" [3/4]').tokens
    ('<end>', 'a', 'b')
    """
    alternatives: dict[str, list[_Alternative]] = {}
    left, held = "", []
    for number, line in enumerate(text.splitlines(), 1):
        pieces = _pieces(line, number)
        if not pieces:
            continue
        if pieces[0][0] == "bar" and held:
            held += [("bar", "", number), *pieces[1:]]
            continue
        if held:
            alternatives.setdefault(left, []).extend(_alternatives(held))
        if [kind for kind, _, _ in pieces[:2]] != ["name", "arrow"]:
            raise ParameterError(f"line {number}: a rule is written  Symbol -> ... | ...,  got {line.strip()!r}")
        left, held = pieces[0][1], pieces[1:]
    if not held:
        raise ParameterError("the grammar has no rule: write  Symbol -> ... | ...")
    alternatives.setdefault(left, []).extend(_alternatives(held))
    return _checked(_numbered({symbol: _weighted(symbol, found) for symbol, found in alternatives.items()}))


def _pieces(line: str, number: int) -> list[tuple[str, str, int]]:
    """(kind, text, line) of everything on one line; a quoted string is a word or several."""
    found, at = [], 0
    while at < len(line.rstrip()):
        match = _PIECE.match(line, at)
        if match is None:
            raise ParameterError(f"line {number}, column {at + 1}: cannot read {line[at:].strip()!r}")
        kind, text = next((k, v) for k, v in match.groupdict().items() if v is not None)
        at = match.end()
        if kind == "comment":
            break
        if kind in ("single", "double"):
            words = text.split()
            if not words or END in words:
                what = f"{END} is the end token, which every string has" if words else "an empty pair of quotes"
                raise ParameterError(f"line {number}: {what}; an alternative without symbols is the empty string")
            found += [("word", word, number) for word in words]
        else:
            found.append((kind, text, number))
    return found


def _alternatives(pieces: list[tuple[str, str, int]]) -> list[_Alternative]:
    """The alternatives behind an arrow: symbols, then perhaps one probability."""
    found, right, weight = [], [], None
    line = pieces[0][2]
    for kind, text, number in [*pieces[1:], ("bar", "", pieces[-1][2])]:
        if kind == "bar":
            found.append(_Alternative(tuple(right), weight, line))
            right, weight, line = [], None, number
        elif kind == "arrow":
            raise ParameterError(f"line {number}: a second arrow; each symbol begins a line of its own")
        elif weight is not None:
            raise ParameterError(
                f"line {number}: {text!r} after a probability, where | or the end of the line is expected"
            )
        elif kind == "weight":
            weight = _weight(text, number)
        else:
            right.append(f'"{text}' if kind == "word" else text)
    return found


def _weight(text: str, number: int) -> Fraction:
    try:
        weight = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        weight = Fraction(0)
    if not 0 < weight <= 1 or float(weight) == 0:  # float: 1e-400 is above 0 as a fraction only
        raise DistributionError(f"line {number}: [{text}] is not a probability above 0 and at most 1")
    return weight


def _weighted(symbol: str, found: list[_Alternative]) -> list[_Alternative]:
    """The alternatives of one symbol with their probabilities, which sum to one."""
    lines = {}
    for alternative in found:
        if alternative.right in lines:
            written = " ".join(s.replace('"', "") for s in alternative.right) or "the empty string"
            raise ParameterError(
                f"line {alternative.line}: {symbol} derives {written!r} on line {lines[alternative.right]} already"
            )
        lines[alternative.right] = alternative.line
    without = [a for a in found if a.weight is None]
    if without and len(without) < len(found):
        raise DistributionError(
            f"line {without[0].line}: this alternative of {symbol} has no probability, others have: give all or none"
        )
    if without:
        return [a._replace(weight=Fraction(1, len(found))) for a in found]
    total = sum(a.weight for a in found)
    if abs(total - 1) > _TOLERANCE:
        raise DistributionError(
            f"line {found[0].line}: the probabilities of {symbol} sum to {float(total):.9g}, not to 1"
        )
    return found


def _numbered(alternatives: dict[str, list[_Alternative]]) -> RuleSet:
    """Names replaced by numbers; a symbol without a rule is refused here."""
    words = {END: 0}
    for alternative in (a for found in alternatives.values() for a in found):
        for symbol in alternative.right:
            if symbol.startswith('"'):
                words.setdefault(symbol[1:], len(words))
            elif symbol not in alternatives:
                close = nearest(symbol, alternatives)
                hint = f"did you mean {' or '.join(close)}?" if close else "words stand in quotes"
                raise ParameterError(f"line {alternative.line}: symbol {symbol} has no rule; {hint}")
    names = {name: len(words) + i for i, name in enumerate(alternatives)}
    rules = [
        Rule(
            names[left],
            tuple(words[s[1:]] if s.startswith('"') else names[s] for s in a.right),
            float(a.weight),
            a.line,
        )
        for left, found in alternatives.items()
        for a in found
    ]
    return RuleSet(tuple(words), tuple(names), tuple(rules))


def _checked(grammar: RuleSet) -> RuleSet:
    """The grammar itself, if every symbol can be reached from the first one and derives a string."""
    v, first_line = len(grammar.tokens), {}
    for rule in grammar.rules:
        first_line.setdefault(rule.left, rule.line)
    reached, growing = {grammar.start}, True
    while growing:
        found = {s for r in grammar.rules if r.left in reached for s in r.right if s >= v}
        growing, reached = bool(found - reached), reached | found
    for symbol, line in first_line.items():
        if symbol not in reached:
            raise ParameterError(
                f"line {line}: {grammar.name(symbol)} is out of reach of the start symbol {grammar.name(grammar.start)}"
            )
    derives, growing = set(), True
    while growing:
        found = {r.left for r in grammar.rules if all(s < v or s in derives for s in r.right)}
        growing, derives = bool(found - derives), derives | found
    for symbol, line in first_line.items():
        if symbol not in derives:
            raise ParameterError(
                f"line {line}: {grammar.name(symbol)} derives no string: give it an alternative that comes to an end"
            )
    return grammar
