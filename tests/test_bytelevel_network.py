"""Bytes of networks: laws in a shared cache are those of the network asked anew, whatever the histories beside them."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp

import aep
from aep.errors import ContextTooLong, ModelError, PromptError
from aep.neural.byte_rows import PromptRows
from aep.neural.byte_tree import TreeRows
from aep.neural.bytelevel import END, ByteLanguage, byte_probability
from byte_oracles import byte_string_probability, masked, spelled
from tiny_models import CONFIGS, VOCAB, WINDOW, one_thread, save_model, tiny  # noqa: F401

# <unk>, <s>, </s>, then 20 byte strings over a, b and c, some of them prefixes of others
PIECES = [None, None, None, *(b"a b c ab bc ca aa bb cc abc bca cab aab abb bbc bcc cca caa abca bcab".split())]
BATCH = 1e-10


def follow(rows, language, steps: int, seed: int) -> float:
    """Random trees of histories of three texts, cut and copied on the way; the largest deviation of a law."""
    rng, worst = np.random.default_rng(seed), 0.0
    histories, owner = [[], [], []], [0, 1, 2]
    laws, new = rows.begin(3), histories
    for step in range(steps):
        for law, history in zip(laws, new, strict=True):
            expected = language.start([np.array(history, dtype=np.int64)])[0][0].numpy()
            worst = max(worst, np.abs(log_softmax(law) - expected).max())
        if step % 9 == 8:  # texts change places, one twice
            texts = np.array([2, 0, 0])
            pairs = [(i, k) for k, text in enumerate(texts) for i in np.flatnonzero(np.array(owner) == text)]
            rows.select(texts, *(np.array(x) for x in zip(*pairs, strict=True)))
            histories, owner = [histories[i] for i, _ in pairs], [k for _, k in pairs]
        members = [
            sorted(np.flatnonzero(np.array(owner) == text), key=lambda i: -len(histories[i])) for text in range(3)
        ]
        kept = np.concatenate([rng.permutation([m[0], *rng.permutation(m[1:])[:2]]) for m in members]).astype(int)
        rows.keep(kept)
        histories, owner = [histories[i] for i in kept], [owner[i] for i in kept]
        parents = rng.choice(len(histories), size=rng.integers(1, 7))
        parents[0] = max(range(len(histories)), key=lambda i: len(histories[i]))  # one that grows at every step
        tokens = rng.integers(0, VOCAB, size=len(parents))
        laws, new = (
            rows.extend(parents, tokens),
            [[*histories[p], int(t)] for p, t in zip(parents, tokens, strict=True)],
        )
        histories, owner = histories + new, owner + [owner[p] for p in parents]
    assert max(map(len, histories)) > 3 * WINDOW and len({len(h) for h in histories}) > 2
    return worst


@pytest.mark.parametrize("kind", CONFIGS)
def test_laws_in_a_shared_cache_are_those_of_every_history_alone(tiny, kind):  # noqa: F811
    language = tiny(kind)
    assert follow(TreeRows(language), language, 60, seed=1) < BATCH
    assert follow(PromptRows(language), language, 60, seed=1) < BATCH


def test_a_network_with_both_kinds_of_attention_has_both_masks(tmp_path):
    import transformers

    from tiny_models import save_tokenizer

    config = transformers.Gemma3TextConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"] * 2,
        max_position_embeddings=96,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.35,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.Gemma3ForCausalLM(config).double().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    language = aep.load(str(tmp_path))
    # its norms round to single precision, one row at a time, so the order of the rows may show at 1e-7
    assert follow(TreeRows(language), language, 40, seed=2) < 1e-5


def test_a_network_that_does_not_follow_the_mask_is_refused_with_a_way_out(tiny, monkeypatch):  # noqa: F811
    language = tiny("mistral")
    base = language.model.base_model
    forward = type(base).forward
    monkeypatch.setattr(
        base, "forward", lambda **kw: forward(base, **{k: v for k, v in kw.items() if k != "attention_mask"})
    )
    with pytest.raises(ModelError, match="shared=False"):
        ByteLanguage(language, PIECES)
    monkeypatch.undo()
    assert ByteLanguage(language, PIECES, shared=False)


@pytest.mark.parametrize("kind", CONFIGS)
def test_bytes_of_a_network_are_sums_over_its_token_sequences(tiny, kind):  # noqa: F811
    language = tiny(kind)
    known, cache = spelled(PIECES, language.eos), {}

    def next_p(prefix):
        if prefix not in cache:
            cache[prefix] = np.exp(language.start([np.array(prefix, dtype=np.int64)])[0][0].numpy()).tolist()
        return cache[prefix]

    texts = [b"abcabca", b"aabbccab", b"c", b"ca"]
    exact = [byte_string_probability(masked(next_p, known), known, (*s, END)) for s in texts]
    found = byte_probability(ByteLanguage(language, PIECES, width=None), texts, end=True)
    np.testing.assert_allclose(np.exp(found.log_p), exact, rtol=1e-10)
    alone = byte_probability(ByteLanguage(language, PIECES, width=None, shared=False), texts, end=True)
    np.testing.assert_allclose(alone.log_p, found.log_p, atol=1e-10)
    narrow = byte_probability(ByteLanguage(language, PIECES, width=3), texts, end=True)
    assert (narrow.log_p <= found.log_p + 1e-12).all() and (narrow.log_p < found.log_p - 1e-6).any()


def test_rows_are_the_laws_of_stepping_for_prompts_and_texts_of_different_lengths(tiny):  # noqa: F811
    language = ByteLanguage(tiny("mistral"), PIECES, width=4)
    rng = np.random.default_rng(5)
    prompts = [rng.integers(97, 100, size=n) for n in (0, 3, 3, 0)]
    texts = [rng.integers(97, 100, size=n) for n in (5, 1, 9, 7)]
    rows = np.concatenate(list(language.rows(prompts, texts, chunk=4)))
    text, position = aep.languages.protocol.row_order(texts)
    assert len(rows) == len(text)
    for row, i, t in zip(rows, text, position, strict=True):
        expected, _ = language.start([np.concatenate([prompts[i], texts[i][:t]])])
        np.testing.assert_allclose(row, expected[0], atol=1e-9)


def test_without_a_start_token_something_must_stand_before_the_text(tiny):  # noqa: F811
    language = tiny("gpt2", bos=False)
    with pytest.raises(PromptError, match="has no start token.*`before`"):
        ByteLanguage(language, PIECES)
    given = ByteLanguage(language, PIECES, before=[5, 3], width=None)
    law, _ = given.start([np.empty(0, np.int64)])
    own = language.start([np.array([5, 3])])[0][0].numpy()
    allowed = [i for i, p in enumerate(PIECES) if p is not None] + [language.eos]
    starts_with_a = [i for i, p in enumerate(PIECES) if p is not None and p.startswith(b"a")]
    np.testing.assert_allclose(law[0, 97], logsumexp(own[starts_with_a]) - logsumexp(own[allowed]), atol=1e-12)
    with pytest.raises(PromptError, match="needs the start token"):
        next(ByteLanguage(tiny("gpt2"), PIECES).rows([np.empty(0, np.int64)], [np.array([97, 98])], bos=False))


def test_a_text_over_the_context_is_refused_by_its_tokens_not_by_its_bytes(tiny):  # noqa: F811
    language = ByteLanguage(tiny("gpt2"), PIECES, width=2)
    with pytest.raises(ContextTooLong, match="has a context of 96"):
        byte_probability(language, [b"abc" * 200])
    rolling = ByteLanguage(tiny("mistral"), PIECES, width=2)  # a sliding window in every layer: any length
    assert np.isfinite(byte_probability(rolling, [b"abc" * 120]).log_p).all()


def docs(name: str) -> tuple:
    """An embedded model of the byte-level BPE family, and the bytes of its tokens by its own decoder table."""
    language = aep.load(name)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    tokens = language.tokenizer.convert_ids_to_tokens(range(language.vocab_size))
    return language, [None if i == language.eos else bytes(table[c] for c in t) for i, t in enumerate(tokens)]


def test_for_the_byte_model_the_route_is_the_identity():
    language, pieces = docs("docs-bytes")
    symbol = np.array([END if p is None else p[0] for p in pieces])
    texts = [np.random.default_rng(i).integers(0, 257, size=150) for i in range(2)]
    texts += [language.encode("The quick brown fox jumps over the lazy dog.\n")]
    own = torch.cat([x.log_softmax(-1) for x in language.rows([np.empty(0, int)] * 3, texts)]).numpy()
    for width in (1, 8):
        byte = ByteLanguage(language, pieces, width=width)
        rows = np.concatenate(list(byte.rows([np.empty(0, int)] * 3, [symbol[t] for t in texts])))
        np.testing.assert_allclose(rows[:, symbol], own, atol=1e-10)


def test_bytes_are_at_least_as_probable_as_their_canonical_tokens():
    language, pieces = docs("docs-100k")
    strings = ["def f(x):\n", "the theorem", "Zürich", " a  b"]
    exact = byte_probability(ByteLanguage(language, pieces, width=None, limit=4000), strings).log_p
    beam = byte_probability(ByteLanguage(language, pieces, width=8), strings).log_p
    tokens = [aep.score(s, language).to_pandas().surprisal.sum() for s in strings]
    assert (exact <= 0).all() and (beam <= exact + 1e-12).all() and (beam > exact - 0.05).all()
    assert (exact >= -np.array(tokens)).all()


def test_the_tree_is_right_beyond_the_window_of_an_embedded_model():
    language = aep.load("docs-100k")
    text = np.concatenate(aep.sample(language, texts=1, tokens=400, seed=1).ids)
    text = text[text != language.eos]
    rows = TreeRows(language)
    laws = [rows.begin(1)]
    for t in text:  # one history with a second, dead branch at every step
        last = rows._tokens.size - 1
        laws.append(rows.extend(np.array([last, last]), np.array([int(t) ^ 1, int(t)]))[1:])
        rows.keep(np.array([last + 2]))
    own = torch.cat([x.log_softmax(-1) for x in language.rows([np.empty(0, int)], [np.append(text, 0)])]).numpy()
    np.testing.assert_allclose(log_softmax(np.concatenate(laws), axis=1), own, atol=1e-10)
    assert rows._slot_depth.shape[1] < 2 * 128 + 64 < 2 * len(text), "slots that nobody sees are removed"
