"""The coloured token map: HTML that Jupyter shows for texts and records. Strings and numbers in, a string out."""

from collections.abc import Sequence
from html import escape

import numpy as np

__all__ = ["plain_text", "token_map"]

_SHOWN = 400


def token_map(pieces: Sequence[str], deviation: np.ndarray, titles: Sequence[str]) -> str:
    """Tokens on a diverging ground: blue below expectation (over-typical), red above, by deviation in σ, cut at ±3.

    Only the first 400 tokens are shown, and the map says so. A dot marks the end of a token that is white space.
    """
    spans = []
    for piece, d, title in zip(pieces[:_SHOWN], deviation[:_SHOWN], titles[:_SHOWN], strict=False):
        alpha = min(abs(float(d)), 3.0) / 3.0 * 0.75 if np.isfinite(d) else 0.0
        colour = "202,0,32" if d > 0 else "5,113,176"
        shown = escape(piece).replace("\n", "⏎\n") or "∅"
        spans.append(f'<span title="{escape(title)}" style="background:rgba({colour},{alpha:.2f})">{shown}</span>')
    more = f"<i> … {len(pieces) - _SHOWN} more tokens</i>" if len(pieces) > _SHOWN else ""
    return f'<div style="white-space:pre-wrap;font-family:monospace;line-height:1.5">{"".join(spans)}{more}</div>'


def plain_text(head: str, bodies: Sequence[str]) -> str:
    """A heading and escaped texts in boxes."""
    boxes = "".join(
        f'<pre style="white-space:pre-wrap;border-left:3px solid #bbb;padding-left:.6em">{escape(b)}</pre>'
        for b in bodies
    )
    return f"<p><b>{escape(head)}</b></p>{boxes}"
