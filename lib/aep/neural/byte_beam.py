"""The beam over token sequences that cover a byte string: one engine, three rules of what is kept.

Let bytes(v) be the byte string of token v. A *history* of the text s is a token sequence that spells exactly s[:j], j < |s|,
and M(r | history) = Σ p(v | history) over the tokens whose bytes begin with r. Every token sequence that covers s is cut,
uniquely, where it first reaches past or to its end, so

    P(s) = Σ_j Σ_histories of s[:j] p(history) M(s[j:] | history),         P(empty) = 1.

With the next symbol b a history either stays open, with M(s[j:] b | history), or a token that is exactly s[j:] closes it and
the longer history opens anew, with M(b | longer history). The end token is a token whose string is the one symbol END.
Kept histories weigh p(history): with all of them P is exact, with some of them what they sum to is a lower bound.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import DistributionError, ParameterError
from .byte_rows import TokenRows
from .byte_trie import SYMBOLS, ByteTrie, log_segment_sums, stretches

__all__ = ["ByteBeam", "Candidates", "Kept", "keep_all", "keep_best", "log_group_sums"]


class Candidates(NamedTuple):
    """Histories that can take the symbol just seen, sorted by text: `log_weight` of p(history) M, `closable` where a token
    is exactly what was seen of it."""

    text: Int[np.ndarray, " n"]
    log_weight: Float[np.ndarray, " n"]
    closable: Bool[np.ndarray, " n"]
    texts: int


class Kept(NamedTuple):
    """Indices of candidates, rising, and the factor (log) on the weight of each."""

    index: Int[np.ndarray, " kept"]
    log_factor: Float[np.ndarray, " kept"]


Rule = Callable[[Candidates], Kept]


class _Open(NamedTuple):
    """Histories with part of a token seen: trie node, log p(history), and the law of the tokens below the node, flat."""

    text: np.ndarray
    node: np.ndarray
    log_p: np.ndarray
    law: np.ndarray
    at: np.ndarray  # where the law of each begins


class _Fresh(NamedTuple):
    """Histories with nothing seen of the next token: rows of `ByteTrie.law`."""

    text: np.ndarray
    log_p: np.ndarray
    values: np.ndarray
    norm: np.ndarray
    mass: np.ndarray


def log_group_sums(values: np.ndarray, group: np.ndarray, groups: int) -> Float[np.ndarray, " groups"]:
    """log Σ exp(values) of every group, -inf of an empty one; relative to the largest of its group."""
    top = np.full(groups, -np.inf)
    np.maximum.at(top, group, values)
    top[np.isneginf(top)] = 0
    with np.errstate(divide="ignore"):
        return np.log(np.bincount(group, np.exp(values - top[group]), minlength=groups)) + top


def keep_all(limit: int) -> Rule:
    """Exact enumeration: every history is kept; ParameterError when a text has more than `limit` of them."""

    def rule(candidates: Candidates) -> Kept:
        most = np.bincount(candidates.text, minlength=1).max()
        if most > limit:
            raise ParameterError(
                f"{most} token sequences cover one text, more than limit={limit}: give a shorter text, a larger limit, or "
                "a width for a beam"
            )
        return Kept(np.arange(len(candidates.text)), np.zeros(len(candidates.text)))

    return rule


def keep_best(width: int) -> Rule:
    """The beam: the `width` heaviest histories of every text.

    If none of them can be closed by a token, the last place goes to the heaviest that can: a vocabulary with a token for
    every byte then never comes to a dead end, whatever the next byte is.
    """

    def rule(candidates: Candidates) -> Kept:
        text, weight, closable, _ = candidates
        size = np.bincount(text, minlength=candidates.texts)
        if size.max(initial=0) <= width:
            return Kept(np.arange(len(text)), np.zeros(len(text)))
        order = np.lexsort((-weight, text))
        rank = np.arange(len(text)) - np.repeat(np.cumsum(size) - size, size)
        kept, ranked = rank < width, closable[order]
        safe = np.zeros(candidates.texts, bool)
        safe[text[kept & ranked]] = True  # `text` is sorted, so text[order] is text
        saved, first = np.unique(text[~kept & ranked], return_index=True)
        first = np.flatnonzero(~kept & ranked)[first][~safe[saved]]
        kept[(rank == width - 1) & np.isin(text, saved[~safe[saved]])] = False
        kept[first] = True
        index = np.sort(order[kept])
        return Kept(index, np.zeros(len(index)))

    return rule


class ByteBeam:
    """The histories of a batch of texts, one symbol at a time: `observe` the next symbol of every text, `expand`, `law`.

    With a `cutoff`, a token that would close a history is not followed where the longer history weighs less than this share
    of all (the heaviest is always followed): fewer passes through the language for a weight that counts as dropped.

    Of every text, (texts,): `log_kept`, log of the summed weight of the kept histories, unrenormalised; `log_dropped`, log
    of the weight dropped since the symbol before; `log_conditional`, log of the normalised probability of the last symbol;
    `histories`, how many are kept.
    """

    def __init__(self, rows: TokenRows, trie: ByteTrie, what: str = "the language", cutoff: float = 0.0):
        self.rows, self.trie, self._what, self._cutoff = rows, trie, what, cutoff

    def begin(self, texts: int, prefix: Int[np.ndarray, " bytes"] | None = None, limit: int = 1) -> None:
        """Empty texts: P(empty) = 1. With a `prefix`, all weights from here on are relative to P(prefix), which is exact:
        all its histories are kept (ParameterError for more than `limit`). DistributionError where it is 0."""
        if prefix is None or not len(prefix):
            self._begin(texts)
            return
        cutoff, self._cutoff = self._cutoff, 0.0
        self._begin(1)
        for symbol in prefix:
            self.observe(np.array([symbol]), keep_all(limit))
        self._cutoff, log_p = cutoff, self.log_kept[0]
        if np.isneginf(log_p):
            raise DistributionError(f"no text of {self._what} begins with {bytes(prefix.tolist())!r}, its prefix")
        self._open = self._open._replace(log_p=self._open.log_p - log_p)
        self.log_kept, self.log_conditional = np.zeros(1), np.zeros(1)
        self.select(np.zeros(texts, np.int64))

    def _begin(self, texts: int) -> None:
        none = np.empty(0, np.int64)
        self.texts = texts
        self._open = _Open(none, none, np.empty(0), np.empty(0), none)
        self._fresh = _Fresh(np.arange(texts), np.zeros(texts), *self.trie.law(self.rows.begin(texts), self._what))
        self.log_kept, self.log_conditional, self._log_followed = (np.zeros(texts) for _ in range(3))
        self.log_dropped, self._log_cut = (np.full(texts, -np.inf) for _ in range(2))
        self.histories = np.ones(texts, np.int64)
        self._expanded = True
        self._spread()

    def observe(self, symbols: Int[np.ndarray, " texts"], rule: Rule) -> None:
        """One more symbol of every text (a text with symbol -1 has ended and loses its histories); keep by `rule`."""
        self.expand()
        trie, opened, fresh = self.trie, self._open, self._fresh
        child, there = trie.child(opened.node, symbols[opened.text])
        segment = np.where(there, self._segment + child - trie.first[opened.node], 0)
        stay = opened.log_p + (self._mass[segment] if len(self._mass) else 0.0)
        first, spelled = trie.child(0, symbols[fresh.text])
        column = np.where(spelled, first - trie.first[0], 0)
        take = fresh.log_p + fresh.mass[np.arange(len(column)), column]
        weight = np.concatenate([np.where(there, stay, -np.inf), np.where(spelled, take, -np.inf)])
        text, node = np.concatenate([opened.text, fresh.text]), np.concatenate([child, first])
        order = np.flatnonzero(weight > -np.inf)
        order = order[np.argsort(text[order], kind="stable")]
        candidates = Candidates(text[order], weight[order], trie.exact[node[order]] > 0, self.texts)
        kept = rule(candidates)
        gone = np.ones(len(order), bool)
        gone[kept.index] = False
        dropped = log_group_sums(candidates.log_weight[gone], candidates.text[gone], self.texts)
        self.log_dropped = np.logaddexp(dropped, self._log_cut)
        self.log_conditional = log_group_sums(candidates.log_weight, candidates.text, self.texts) - self._log_followed
        chosen = order[kept.index]
        self.log_kept = log_group_sums(weight[chosen] + kept.log_factor, text[chosen], self.texts)
        log_p = np.concatenate([opened.log_p, fresh.log_p])[chosen] + kept.log_factor
        self.histories = np.bincount(text[chosen], minlength=self.texts)
        self._open = _Open(text[chosen], node[chosen], log_p, *self._slices(chosen, node[chosen]))
        self.rows.keep(chosen)
        self._expanded = False

    def _slices(self, chosen: np.ndarray, node: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The laws below `node` of the chosen histories, flat, and where each begins."""
        trie, opened, fresh = self.trie, self._open, self._fresh
        lengths = trie.hi[node] - trie.lo[node]
        at = np.cumsum(lengths) - lengths
        law = np.empty(int(lengths.sum()))
        old = chosen < len(opened.text)
        which = chosen[old]
        source = stretches(opened.at[which] + trie.lo[node[old]] - trie.lo[opened.node[which]], lengths[old])
        law[stretches(at[old], lengths[old])] = opened.law[source]
        which = chosen[~old] - len(opened.text)
        source = stretches(which * fresh.values.shape[1] + trie.lo[node[~old]], lengths[~old])
        norm = np.repeat(fresh.norm[which], lengths[~old])
        law[stretches(at[~old], lengths[~old])] = fresh.values.reshape(-1)[source] - norm
        return law, at

    def expand(self) -> None:
        """Close every history that a token can close, all in one pass through the language, and weigh what comes next."""
        if self._expanded:
            return
        trie, opened = self.trie, self._open
        exact = trie.exact[opened.node]
        parent = np.repeat(np.arange(len(exact)), exact)
        position = stretches(opened.at, exact)
        log_p = opened.log_p[parent] + opened.law[position]
        token = trie.tokens[stretches(trie.lo[opened.node], exact)]
        alive = self._followed(opened.text[parent], log_p)
        parent, token, log_p = parent[alive], token[alive], log_p[alive]
        rows = self.rows.extend(parent, token) if len(parent) else np.empty((0, int(trie.tokens.max()) + 1))
        self._fresh = _Fresh(opened.text[parent], log_p, *trie.law(rows, self._what))
        self._expanded = True
        self._spread()

    def _followed(self, text: np.ndarray, log_p: np.ndarray) -> np.ndarray:
        """Which of the histories that a token closes are followed, and what is left of the kept weight."""
        alive = log_p > -np.inf
        if self._cutoff > 0:
            heaviest = np.full(self.texts, -np.inf)
            np.maximum.at(heaviest, text, log_p)
            alive &= (log_p > self.log_kept[text] + np.log(self._cutoff)) | (log_p == heaviest[text])
        self._log_cut = log_group_sums(log_p[~alive], text[~alive], self.texts)
        kept = np.where(np.isneginf(self.log_kept), 0, self.log_kept)
        self._log_followed = kept + np.log1p(-np.exp(self._log_cut - kept))
        return alive

    def _spread(self) -> None:
        """log M of every child of every open node: one segment for each exact token, then one for each child."""
        trie, opened = self.trie, self._open
        exact, children = trie.exact[opened.node], trie.children[opened.node]
        count = exact + children
        ends = np.cumsum(count)
        self._segment = ends - children  # of the first child of each history
        of = np.repeat(np.arange(len(count)), count)
        within = np.arange(len(of)) - np.repeat(ends - count, count)
        is_child = within >= exact[of]
        child = np.where(is_child, trie.first[opened.node[of]] + within - exact[of], 0)
        start = np.where(is_child, trie.lo[child], trie.lo[opened.node[of]] + within)
        self._mass = log_segment_sums(opened.law, opened.at[of] + start - trie.lo[opened.node[of]])
        self._entries = np.flatnonzero(is_child)
        self._cell = opened.text[of[self._entries]] * SYMBOLS + trie.symbol[child[self._entries]]
        self._history = of[self._entries]

    def law(self) -> tuple[Float[np.ndarray, "texts 257"], Float[np.ndarray, " texts"]]:
        """The normalised next-symbol law of every text, and the log of what it was normalised by (the kept weight).

        A text without histories has a row of -inf and a total of -inf.
        """
        self.expand()
        fresh, cells = self._fresh, self.texts * SYMBOLS
        joint = np.full((self.texts, SYMBOLS), -np.inf)
        if len(fresh.text):
            begins = np.flatnonzero(np.append(True, fresh.text[1:] != fresh.text[:-1]))
            values = fresh.mass + fresh.log_p[:, None]
            top = np.maximum.reduceat(values, begins, axis=0)
            top[np.isneginf(top)] = 0
            sizes = np.diff(begins, append=len(fresh.text))
            with np.errstate(divide="ignore"):
                summed = np.log(np.add.reduceat(np.exp(values - np.repeat(top, sizes, axis=0)), begins, axis=0)) + top
            joint[fresh.text[begins][:, None], self.trie.root_symbols] = summed
        values = self._mass[self._entries] + self._open.log_p[self._history]
        deep = log_group_sums(values, self._cell, cells).reshape(joint.shape)
        joint = np.logaddexp(joint, deep)
        total = log_group_sums(joint.reshape(-1), np.repeat(np.arange(self.texts), SYMBOLS), self.texts)
        return joint - np.where(np.isneginf(total), 0, total)[:, None], total

    def select(self, texts: Int[np.ndarray, " new"]) -> None:
        """Go on with the texts `texts`, in that order and as often as they are named."""
        self.expand()
        opened, fresh = self._open, self._fresh
        a, owner_a = _members(opened.text, texts, self.texts)
        b, owner_b = _members(fresh.text, texts, self.texts)
        lengths = (self.trie.hi - self.trie.lo)[opened.node[a]]
        law = opened.law[stretches(opened.at[a], lengths)]
        self._open = _Open(owner_a, opened.node[a], opened.log_p[a], law, np.cumsum(lengths) - lengths)
        self._fresh = _Fresh(owner_b, *(x[b] for x in fresh[1:]))
        self.rows.select(texts, np.concatenate([a, len(opened.text) + b]), np.concatenate([owner_a, owner_b]))
        for name in ("log_kept", "log_dropped", "log_conditional", "histories", "_log_cut", "_log_followed"):
            setattr(self, name, getattr(self, name)[texts])
        self.texts = len(texts)
        self._spread()


def _members(text: np.ndarray, texts: np.ndarray, known: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the entries of every chosen text (`text` is sorted), and the new number of their text."""
    size = np.bincount(text, minlength=known)
    begin = np.cumsum(size) - size
    return stretches(begin[texts], size[texts]), np.repeat(np.arange(len(texts)), size[texts])
