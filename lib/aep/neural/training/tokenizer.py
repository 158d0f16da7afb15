"""The tokenizers, with one special token that starts and ends a text: byte-level BPE, or the words of a list.

BPE: all 256 bytes are in the alphabet, nothing is normalised and no space is added, so that any text can be encoded and
decoding gives it back exactly. Training is deterministic.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from aep.errors import ParameterError

__all__ = ["BYTES", "START", "encode", "save_tokenizer", "train_tokenizer", "word_tokenizer"]

START = "<|text|>"  #: the one special token, id 0: begins a text and ends it
BYTES = 257  #: size of the vocabulary that is raw bytes and the special token: no merges


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with `size` tokens from `texts`; id 0 is the special token, 1..256 the bytes (257: only those).

    The tokenizer adds no special token by itself.
    """
    if size < BYTES:
        raise ParameterError(f"vocabulary of {size} tokens: at least {BYTES} are needed (256 bytes and {START})")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer, START)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Words between white space, the id of each its place in `words`; the first one starts and ends a text.

    No token stands for an unknown word: encoding one is an error. Decoding puts one space between words.

    >>> tokenizer = word_tokenizer(["<end>", "a", "cat", "."])
    >>> tokenizer.encode("a cat . <end>"), tokenizer.decode([1, 2, 3])
    ([1, 2, 3, 0], 'a cat .')
    """
    twice = next((word for word in words if words.count(word) > 1 or word.split() != [word]), None)
    if twice is not None or len(words) < 2:
        raise ParameterError(
            f"words={twice if twice is not None else list(words)!r}: at least two, each once, without spaces"
        )
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer, words[0])


def _wrapped(tokenizer: Tokenizer, start: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=start,
        clean_up_tokenization_spaces=False,
        add_bos_token=False,
        add_eos_token=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into `folder`, loadable by ``AutoTokenizer``."""
    tokenizer.save_pretrained(folder)


def encode(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[np.ndarray]:
    """Token ids of each text (int64, without any special token)."""
    # The backend, because the wrapper would warn about texts longer than a context length that does not concern us.
    batch = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [np.array(e.ids, dtype=np.int64) for e in batch]
