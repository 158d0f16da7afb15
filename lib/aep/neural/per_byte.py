"""Any model as a language of bytes, in one call: the pieces of its vocabulary and what stands before a text are found."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ParameterError, VocabularyMismatch
from .bytelevel import LIMIT, ByteLanguage
from .loading import load
from .token_bytes import pieces_of

__all__ = ["CUTOFF", "per_byte"]

CUTOFF = 1e-4


def per_byte(
    model: Any,
    width: int | None = 8,
    *,
    cutoff: float = CUTOFF,
    limit: int = LIMIT,
    before: Sequence[int] | np.ndarray = (),
    shared: bool = True,
) -> ByteLanguage:
    """A model as a language of bytes, comparable with every other model per byte, whatever the tokenizers.

    P(s) = Σ over the token sequences that cover the bytes s of their probability, given what the tokenizer puts before
    every text (a space, in the Llama family). It is at least the probability of the tokens that the tokenizer makes of s
    (of a tokenizer that normalises text first, such as NFC: for text that is normalised already).

    Parameters
    ----------
    model : a `NeuralLanguage`, or a name, folder or hub id for `aep.load`. A `ByteLanguage` gets this width and cutoff
    width : token sequences followed per text, the heaviest; None follows all of them, for short texts
    cutoff : share of a text's weight below which a longer sequence is not begun; plays no part without a width
    limit, before, shared : see `ByteLanguage`

    Returns
    -------
    A `Language` of 257 symbols, the 256 bytes and the end; surprisals and entropies under it are nats per byte.

    Raises
    ------
    VocabularyMismatch : a vocabulary whose tokens do not concatenate to text (WordPiece, word lists), by its name
    ModelError : as `aep.load`, and for a network that cannot share its cache (then give shared=False)
    PromptError : a model without a start token, and nothing in `before`
    ParameterError : a width, limit or cutoff out of range

    Notes
    -----
    Its next-byte laws are those of the sequences that are followed; `neural.bytelevel.byte_probability` gives the certified
    lower bound of log P(s), and `neural.byte_smc.byte_monte_carlo` an unbiased estimate of P(s).

    >>> import aep
    >>> records = aep.score("é", aep.per_byte("docs-100k"))
    >>> records["token"].tolist()
    [195, 169]
    """
    cutoff = cutoff if width is not None else 0.0
    if isinstance(model, ByteLanguage):
        if limit != LIMIT or len(before) or not shared:
            raise ParameterError(
                f"{model.name} is a language of bytes already: only its width and cutoff can be changed"
            )
        return model.with_width(width, cutoff=cutoff)
    if isinstance(model, str | os.PathLike):
        model = load(model)
    if not hasattr(model, "tokenizer"):
        name = getattr(model, "name", repr(model))
        raise VocabularyMismatch(
            f"{name} has no tokenizer, so what its tokens spell is not known: give their byte strings to "
            "aep.neural.bytelevel.ByteLanguage(language, pieces)"
        )
    pieces, prefix = pieces_of(model)
    options: dict[str, Any] = {"limit": limit, "before": before, "prefix": prefix, "shared": shared}
    return ByteLanguage(model, pieces, width=width, cutoff=cutoff, **options)
