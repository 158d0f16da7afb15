"""Whether a table or figure made again agrees with the one that lies there.

Another processor sums in another order, and a number that is printed with ten digits moves in the last of them. A result
that has moved by less than can matter is not a new result: the file is left as it is, and `git status` shows real changes.
"""

import re
import zlib
from itertools import zip_longest

__all__ = ["pdfs_agree", "texts_agree"]

_NUMBER = re.compile(rb"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_STREAM = re.compile(rb"stream\r?\n(.*?)\r?\nendstream", re.DOTALL)


def texts_agree(old: bytes, new: bytes, *, relative: float = 1e-6, absolute: float = 1e-12) -> bool:
    """Whether two texts differ in nothing but numbers, and in these by at most max(absolute, relative · larger).

    Two integers must be equal: a count has no rounding.

    >>> texts_agree(b"tau,mean\\n0.5,1.23456789", b"tau,mean\\n0.5,1.23456788"), texts_agree(b"n\\n12", b"n\\n13")
    (True, False)
    """
    if old == new:
        return True
    pairs = zip_longest(_NUMBER.split(old), _NUMBER.split(new))
    return all(a == b or (i % 2 == 1 and _close(a, b, relative, absolute)) for i, (a, b) in enumerate(pairs))


def _close(a: bytes | None, b: bytes | None, relative: float, absolute: float) -> bool:
    if a is None or b is None or (_is_integer(a) and _is_integer(b)):
        return False
    x, y = float(a), float(b)
    return abs(x - y) <= max(absolute, relative * max(abs(x), abs(y)))


def _is_integer(text: bytes) -> bool:
    return text.lstrip(b"+-").isdigit()


def pdfs_agree(old: bytes, new: bytes, *, points: float = 1e-3) -> bool:
    """Whether two PDF files have the same pages but for coordinates and colours that differ by at most `points`.

    Compared are the pages' sizes and every stream (drawing, fonts, images), decompressed.
    """
    return old == new or texts_agree(_content(old), _content(new), relative=0.0, absolute=points)


def _content(pdf: bytes) -> bytes:
    return b"\n".join(re.findall(rb"/MediaBox\s*\[[^]]*\]", pdf) + [_inflated(s) for s in _STREAM.findall(pdf)])


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return stream
