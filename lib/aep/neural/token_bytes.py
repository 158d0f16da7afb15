"""The byte string of every token: what makes texts of different tokenizers comparable, byte for byte.

Two families can be inverted. Byte-level BPE (GPT-2, Llama 3, the embedded models) writes each byte as one character of an
alphabet of 256. SentencePiece with byte fallback (Llama 2, Gemma, T5) writes a space as "▁", bytes without a piece as
"<0x0A>", and may put a space before the whole text, which is then context and not text. Special tokens match no bytes.
Vocabularies whose tokens do not concatenate to the text (WordPiece, word lists) are refused by name.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..errors import VocabularyMismatch

__all__ = ["Pieces", "pieces_of", "token_bytes"]

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_PROBES = ("Two words.", " a  b\tc\n\nd ", "naïve Ωλ 日本語 🙂", "x=1; # 07/11\r\n")


class Pieces(NamedTuple):
    """`pieces`: per token id its bytes, or None for a special token, a row of the logits without a token or an empty one.

    `prefix`: what the tokenizer puts before every text, b" " or b"": text s is spelled as prefix + s, and P(s | prefix) is
    what is meant by the probability of s. Some tokenizers put none before a text that has a space there already: to them
    " a" and "a" are the same tokens, which spell the text "a".
    """

    pieces: list[bytes | None]
    prefix: bytes


def token_bytes(language: Any) -> list[bytes | None]:
    """`pieces_of` without the prefix."""
    return pieces_of(language).pieces


def pieces_of(language: Any) -> Pieces:
    """The bytes of every token of a `NeuralLanguage`, and what its tokenizer puts before a text.

    Tried on a few strings (white space, accents, other scripts): the pieces of their tokens must spell them.

    Raises
    ------
    VocabularyMismatch : a tokenizer of another kind, or one whose tokens do not spell the text, by its name
    """
    tokenizer, name = language.tokenizer, language.name
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused(name, f"its {type(tokenizer).__name__} is not one of the library `tokenizers`")
    described = json.loads(backend.to_str())
    spell = _speller(described)
    if spell is None:
        raise _refused(
            name, f"its tokens are of a {described['model']['type']} vocabulary and do not concatenate to text"
        )
    special = set(tokenizer.all_special_ids) | {a["id"] for a in described["added_tokens"] if a["special"]}
    literal = {a["id"]: a["content"].encode() for a in described["added_tokens"] if not a["special"]}
    pieces: list[bytes | None] = [None] * language.vocab_size
    for token, i in tokenizer.get_vocab().items():
        if i < language.vocab_size and i not in special:
            pieces[i] = literal.get(i, spell(token)) or None
    return Pieces(pieces, _prefix(language, pieces))


def _speller(described: Mapping[str, Any]):
    """Token -> bytes, by what the decoder does; None for a vocabulary that cannot be inverted."""
    if described["model"]["type"] not in ("BPE", "Unigram"):
        return None
    decoder = described["decoder"] or {}
    kinds = {part["type"] for part in [decoder, *decoder.get("decoders", [])] if part}
    if "ByteLevel" in kinds:
        return _of_byte_level
    return _of_sentence_piece if {"ByteFallback", "Metaspace"} & kinds else None


_ALPHABET = {character: byte for byte, character in bytes_to_unicode().items()}


def _of_byte_level(token: str) -> bytes:
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()  # a token that was added as it stands


def _of_sentence_piece(token: str) -> bytes:
    found = _BYTE.fullmatch(token)
    return bytes([int(found[1], 16)]) if found else token.replace(_SPACE, " ").encode()


def _prefix(language: Any, pieces: list[bytes | None]) -> bytes:
    """The space before every text, or nothing; VocabularyMismatch where the tokens of a probe do not spell it."""
    found = {}
    for probe in _PROBES:
        spelled = [pieces[i] for i in language.encode(probe)]
        if None in spelled:
            raise _refused(language.name, f"it writes {probe!r} with a special token, so not every byte has one")
        whole, text = b"".join(spelled), probe.encode()
        found[probe] = whole.removesuffix(text) if whole.endswith(text) else None
    prefixes = {before for probe, before in found.items() if not (probe.startswith(" ") and before == b"")}
    if len(prefixes) > 1 or prefixes - {b"", b" "}:
        raise _refused(language.name, "its tokens do not spell the text: it is changed before it is cut into tokens")
    return prefixes.pop()


def _refused(name: str, why: str) -> VocabularyMismatch:
    return VocabularyMismatch(f"{name} cannot be compared per byte: {why}")
