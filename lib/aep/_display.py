"""The coloured token map: HTML that Jupyter shows for texts and records. Strings and numbers in, a string out."""

from collections.abc import Sequence
from html import escape

import numpy as np

__all__ = ["plain_text", "token_map"]

_SHOWN = 400


def token_map(
    pieces: Sequence[str], surprisal: np.ndarray, entropy: np.ndarray, varentropy: np.ndarray, rank: np.ndarray
) -> str:
    """Tokens on a diverging ground by their deviation (a_t - H_t)/σ_t, cut at ±3: blue below expectation, red above.

    Only the first 400 tokens are shown, and the map says so. A return sign marks the end of a line.
    """
    a, h, v = surprisal[:_SHOWN], entropy[:_SHOWN], varentropy[:_SHOWN]
    deviation = np.divide(a - h, np.sqrt(v), out=np.zeros_like(a), where=v > 0)
    spans = []
    for piece, d, x, y, r in zip(pieces[:_SHOWN], deviation, a, h, rank[:_SHOWN], strict=True):
        title = f"surprisal {x:.2f}, entropy {y:.2f} nats, rank {r}"
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
