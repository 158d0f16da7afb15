"""The coloured token map: HTML that Jupyter shows for texts and records. Token ids and numbers in, a string out.

Letters have no colour of their own, so that they follow the theme of the notebook; grounds are half transparent and can be
read on white and on black (contrast at least 4.5 to 1 at full depth). Blue, red and orange are told apart by the
colour-blind.
"""

import unicodedata
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

__all__ = ["SHOWN", "deviation", "heading", "pieces", "text_maps", "token_map", "visible"]

SHOWN = 400
"""Tokens of a map at most; a longer text is cut, and the map says so."""

_BELOW, _ABOVE, _DRAWN = "5,113,176", "202,0,32", "213,120,0"
_DEEPEST = 0.6  # opacity of the ground: dark and light letters stay readable
_LONGEST = 80  # characters of one token
_TEXTS = 3
_AHEAD = 8  # tokens decoded beyond those shown: a character that is cut in two is whole there
_PART = "·"
_MARKS = {"\n": "⏎\n", "\t": "⇥\t", "\r": "\\r", "\xa0": "⍽", "\ufffd": _PART}
_KEPT = "\u200c\u200d"  # joiners: scripts and emoji need them


def visible(text: str, marks: dict[str, str] = _MARKS) -> str:
    r"""The text with marks for line ends, tabs and broken bytes, and with codes for control and formatting characters.

    >>> visible("a\n\x1b[0m")
    'a⏎\n\\x1b[0m'
    """
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and c not in _KEPT + "".join(marks)
        else marks.get(c, c)
        for c in text
    )


def pieces(decode: Callable[[Any], str], ids: Sequence[int] | np.ndarray, shown: int = SHOWN) -> list[str]:
    """What each of the first `shown` tokens adds to the text, made visible.

    Several tokens may share one character (bytes of UTF-8): it stands at the one that completes it, and a dot at
    the others, as at bytes that never become a character.
    """
    whole = decode(ids[: shown + _AHEAD])
    found, end = [], 0
    for k in range(min(shown, len(ids))):
        text, start = decode(ids[: k + 1]), end
        while end < min(len(text), len(whole)) and text[end] == whole[end]:
            end += 1
        piece = whole[start:end]
        if not piece:
            found.append(_PART if len(text) > end or text.endswith("\ufffd") else "∅")
        else:
            cut = piece[:_LONGEST] + ("…" if len(piece) > _LONGEST else "")
            found.append("␣" * len(cut) if not cut.strip(" ") else visible(cut))
    return found


def deviation(surprisal: np.ndarray, entropy: np.ndarray, varentropy: np.ndarray) -> np.ndarray:
    """(a_t - H_t)/sqrt(V_t) of every token; without variance 0 or, for what was not expected, inf.

    >>> deviation(np.array([2.0, 5.0]), np.array([1.0, 0.0]), np.array([4.0, 0.0])).tolist()
    [0.5, inf]
    """
    sure = np.where(surprisal - entropy > 1e-6, np.inf, 0.0)
    return np.divide(surprisal - entropy, np.sqrt(np.maximum(varentropy, 0)), out=sure, where=varentropy > 0)


def token_map(
    decode: Callable[[Any], str],
    ids: np.ndarray,
    surprisal: np.ndarray,
    entropy: np.ndarray,
    varentropy: np.ndarray,
    rank: np.ndarray,
    *,
    found: np.ndarray | None = None,
) -> str:
    """Tokens on a ground by their deviation (a_t - H_t)/sqrt(V_t), cut at ±3: blue below expectation, red above.

    A line stands below those that are `found` (one entry per token).
    """
    a, h, v = surprisal[:SHOWN], entropy[:SHOWN], varentropy[:SHOWN]
    titles = [
        f"surprisal {x:.2f}, entropy {y:.2f} nats, rank {r}, token {t}"
        for x, y, r, t in zip(a, h, rank[:SHOWN], ids[:SHOWN], strict=True)
    ]
    shown = pieces(decode, ids)
    swatches = "".join(_swatch(f"{d:+d}" if d else "0", d / 3) for d in (-3, -2, -1, 0, 1, 2, 3))
    meaning = "(surprisal − entropy) / √varentropy: blue is less surprising than the model expects, red more"
    meaning += "; underlined: found" if found is not None else ""
    return _legend(swatches, meaning, shown) + _body(
        shown, deviation(a, h, v) / 3, titles, len(ids), found=found if found is None else found[:SHOWN]
    )


def text_maps(
    head: str,
    decode: Callable[[Any], str],
    ids: Sequence[np.ndarray],
    prompts: Sequence[np.ndarray],
    log_q: Sequence[np.ndarray] | None,
) -> str:
    """A heading and the first three texts, each after the end of its prompt, on a ground by the surprisal -log q (nats) that
    its tokens were drawn with, cut at 10.
    """
    count = min(_TEXTS, len(ids))
    html = heading(head + (f"; the first {count}:" if count < len(ids) else ""))
    parts = [pieces(decode, row, SHOWN // count) for row in ids[:count]]
    if log_q is not None:
        swatches = "".join(_swatch(str(a), a / 10, _DRAWN) for a in (0, 2, 4, 6, 8, 10))
        meaning = "surprisal (nats) under the law it was drawn from; deeper is more surprising"
        html += _legend(swatches, meaning, [piece for part in parts for piece in part])
    for k, part in enumerate(parts):
        n = len(part)
        surprisal = np.zeros(n) if log_q is None else -log_q[k][:n]
        drawn = [""] * n if log_q is None else [f"drawn with surprisal {a:.2f} nats, " for a in surprisal]
        titles = [f"{how}token {t}" for how, t in zip(drawn, ids[k][:n], strict=True)]
        before = _end(decode(prompts[k][-SHOWN:])) if len(prompts[k]) else ""
        html += _body(part, surprisal / 10, titles, len(ids[k]), before, _DRAWN)
    return html


def heading(text: str) -> str:
    """A line above a map."""
    return f"<p><b>{escape(text)}</b></p>"


def _end(prompt: str) -> str:
    shown = visible(("…" if len(prompt) > 200 else "") + prompt[-200:])
    return f'<i style="opacity:.7">{escape(shown)}</i>'


def _swatch(shown: str, depth: float, colour: str | None = None) -> str:
    """One swatch of the legend."""
    style = f"{_ground(depth, colour)};font-style:normal;padding:0 .4em"
    return f'<i style="{style}">{shown}</i>'


def _ground(depth: float, colour: str | None) -> str:
    """The background of depth -1...1 (0...1 with a colour of its own); none where it is not a number."""
    alpha = 0.0 if np.isnan(depth) else min(abs(float(depth)), 1.0) * _DEEPEST
    return f"background:rgba({colour or (_ABOVE if depth > 0 else _BELOW)},{alpha:.2f})"


def _legend(swatches: str, meaning: str, shown: Sequence[str]) -> str:
    marks = {
        _PART: "part of a character, or bytes that are none",
        "␣": "a token of spaces",
        "∅": "a token without text",
    }
    used = [f"{mark} {what}" for mark, what in marks.items() if any(mark in piece for piece in shown)]
    return f'<div style="font-size:85%">{swatches} {"; ".join([escape(meaning), *used])}</div>'


def _body(
    parts: Sequence[str],
    depth: np.ndarray,
    titles: Sequence[str],
    total: int,
    before: str = "",
    colour: str | None = None,
    found: np.ndarray | None = None,
) -> str:
    lines = [";border-bottom:2px solid" if f else "" for f in (np.zeros(len(parts)) if found is None else found)]
    spans = "".join(
        f'<span title="{escape(title)}" style="{_ground(d, colour)}{line}">{escape(piece)}</span>'
        for piece, d, title, line in zip(parts, depth, titles, lines, strict=True)
    )
    left = total - len(parts)
    more = f"<i> … {left} more tokens: the first {len(parts)} of {total} are shown</i>" if left else ""
    style = "margin:.4em 0;white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;line-height:1.5"
    return f'<div style="{style}">{before}{spans}{more}</div>'
