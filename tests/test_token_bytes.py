"""The bytes of tokens: every kind of vocabulary that can be inverted, built here, and those that are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import aep
from aep.errors import VocabularyMismatch
from aep.neural.token_bytes import _PROBES, pieces_of, token_bytes

BYTES = [f"<0x{b:02X}>" for b in range(256)]


def language(tokenizer: Tokenizer, extra: int = 0, **special) -> SimpleNamespace:
    """What `pieces_of` asks of a language."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)

    def encode(text):
        return np.array(fast.encode(text, add_special_tokens=False), dtype=np.int64)

    return SimpleNamespace(tokenizer=fast, name="toy", vocab_size=len(fast) + extra, encode=encode)


def sentence_piece(prepend: bool = True, unigram: bool = False) -> Tokenizer:
    words = ["<unk>", "<s>", *BYTES, "\u2581", "t", "h", "e", "th", "the", "\u2581the"]
    if unigram:
        model = models.Unigram([(word, -float(i)) for i, word in enumerate(words)], unk_id=0, byte_fallback=True)
    else:
        merges = [("t", "h"), ("th", "e"), ("\u2581", "the")]
        model = models.BPE({w: i for i, w in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True)
    found = Tokenizer(model)
    steps = ([normalizers.Prepend("\u2581")] if prepend else []) + [normalizers.Replace(" ", "\u2581")]
    found.normalizer = normalizers.Sequence(steps)
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    found.decoder = decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if prepend else []))
    return found


@pytest.mark.parametrize("name", ["docs-400k", "docs-bytes"])
def test_the_tokens_of_an_embedded_model_spell_every_probe(name):
    model = aep.load(name)
    pieces, prefix = pieces_of(model)
    assert prefix == b"" and pieces[model.eos] is None
    for probe in _PROBES:
        assert b"".join(pieces[i] for i in model.encode(probe)) == probe.encode()
    assert {p for p in pieces if p and len(p) == 1} == {bytes([b]) for b in range(256)}


def test_a_byte_model_has_one_byte_per_token_and_nothing_else():
    pieces = token_bytes(aep.load("docs-bytes"))
    assert sorted(p for p in pieces if p) == [bytes([b]) for b in range(256)] and pieces.count(None) == 1


@pytest.mark.parametrize("unigram", [False, True])
@pytest.mark.parametrize(("prepend", "prefix"), [(True, b" "), (False, b"")])
def test_sentence_pieces_are_their_bytes_and_the_space_before_a_text_is_its_prefix(prepend, prefix, unigram):
    found = pieces_of(language(sentence_piece(prepend, unigram), unk_token="<unk>", bos_token="<s>"))
    assert found.prefix == prefix
    assert found.pieces[:3] == [None, None, b"\x00"] and found.pieces[257] == b"\xff"
    assert found.pieces[-1] == b" the" and found.pieces[258] == b" "


def test_special_tokens_and_rows_without_a_token_match_no_bytes_and_added_words_stand_for_themselves():
    tokenizer = sentence_piece()
    tokenizer.add_tokens(["straße"])
    tokenizer.add_special_tokens(["<pad>"])
    found = pieces_of(language(tokenizer, extra=3, unk_token="<unk>", bos_token="<s>", pad_token="<pad>"))
    assert found.pieces[-5:] == ["straße".encode(), None, None, None, None]


def test_a_vocabulary_that_does_not_concatenate_is_refused_by_its_name():
    words = {"[UNK]": 0, "the": 1, "##re": 2}
    pieces, listed = Tokenizer(models.WordPiece(words, unk_token="[UNK]")), Tokenizer(models.WordLevel(words, "[UNK]"))
    pieces.decoder, listed.pre_tokenizer = decoders.WordPiece(), pre_tokenizers.Whitespace()
    for tokenizer, kind in ((pieces, "WordPiece"), (listed, "WordLevel")):
        with pytest.raises(VocabularyMismatch, match=f"toy cannot be compared per byte.*{kind}"):
            pieces_of(language(tokenizer, unk_token="[UNK]"))


def test_a_tokenizer_that_changes_the_text_or_cannot_write_a_byte_is_refused():
    lower = sentence_piece()
    lower.normalizer = normalizers.Sequence([normalizers.Lowercase(), lower.normalizer])
    with pytest.raises(VocabularyMismatch, match="do not spell the text"):
        pieces_of(language(lower, unk_token="<unk>"))
    small = Tokenizer(models.BPE({"<unk>": 0, "\u2581": 1, "a": 2}, [], unk_token="<unk>"))
    small.decoder = decoders.Metaspace()
    with pytest.raises(VocabularyMismatch, match="not every byte has one"):
        pieces_of(language(small, unk_token="<unk>"))


def test_a_tokenizer_of_another_library_is_refused_by_its_class():
    class Whole:
        pass

    model = SimpleNamespace(tokenizer=Whole(), name="toy", vocab_size=3)
    with pytest.raises(VocabularyMismatch, match="toy cannot be compared per byte: its Whole is not one"):
        pieces_of(model)


def test_the_pieces_of_a_sentence_piece_model(stories260k):
    found = pieces_of(aep.load(str(stories260k)))
    assert found.prefix == b" " and found.pieces[:4] == [None, None, None, b"\x00"]
    assert found.pieces[403] == b" Once"
