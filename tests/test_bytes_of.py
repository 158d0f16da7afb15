"""Any model per byte: the bytes before every text, on exact languages by brute force, then `aep.per_byte` of networks."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import aep
from aep.__main__ import main
from aep.analysis.attribution import choices
from aep.analysis.candidates import evidence
from aep.analysis.pairs import pair_records
from aep.analysis.typicality import calibration, z_test
from aep.bench import bytes as bytes_rows
from aep.errors import DistributionError, ModelError, ParameterError, PromptError, VocabularyMismatch
from aep.languages import FiniteLanguage
from aep.neural.byte_smc import byte_monte_carlo
from aep.neural.bytelevel import END, ByteLanguage, byte_probability
from byte_oracles import CASES, CHAIN, byte_string_probability, masked, spelled
from oracles import strings
from test_bytelevel import A, B, all_strings, letters, oracle
from tiny_models import one_thread, save_model, tiny  # noqa: F401

PREFIXES = [b"a", b"ba", b"abaa"]
PIECES = CASES["chain, ambiguous"][1]


def conditional(case, prefix: bytes, texts) -> np.ndarray:
    """P(prefix s) / P(prefix) of every text, by brute force."""
    return oracle(case, [(*prefix, *s) for s in texts]) / oracle(case, [tuple(prefix)])[0]


# ------------------------------------------------------------------------------------------------ bytes before a text


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("case", CASES)
def test_with_a_prefix_every_probability_is_conditional_on_it(case, prefix):
    texts = all_strings(case, 5)
    exact = conditional(case, prefix, texts)
    found = byte_probability(ByteLanguage(*CASES[case], width=None, prefix=prefix), list(map(np.array, texts)))
    np.testing.assert_allclose(np.exp(found.log_p), exact, rtol=1e-11, atol=0)
    np.testing.assert_allclose(found.log_conditional, found.log_p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("case", CASES)
def test_with_a_prefix_the_kept_mass_of_a_beam_is_a_bound_at_any_width(case, prefix):
    texts = all_strings(case, 5)
    exact, lower = conditional(case, prefix, texts), []
    for width, cutoff in ((1, 0.0), (2, 0.0), (4, 0.0), (1, 0.3), (4, 0.1)):
        language = ByteLanguage(*CASES[case], width=width, cutoff=cutoff, prefix=prefix)
        found = byte_probability(language, list(map(np.array, texts)))
        kept = np.exp(found.log_p)
        assert (kept <= exact * (1 + 1e-11)).all()
        assert (exact <= (kept + np.exp(found.log_lost)) * (1 + 1e-11)).all()
        lower.append((kept < exact * (1 - 1e-6)).any())
    assert any(lower), "a beam that loses nothing tests nothing"


def test_the_laws_after_a_prefix_are_those_of_a_prompt_that_begins_with_it():
    plain, after = (ByteLanguage(CHAIN, PIECES, width=None, prefix=p) for p in (b"", b"ab"))
    texts = [np.array(letters(s), dtype=np.int64) for s in strings(2, 4)]
    expected, _ = plain.start([np.concatenate([[A, B], s]) for s in texts])
    found, state = after.start(texts)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    chosen = np.array([3, 3, 0, 7])
    found, _ = after.step(after.select(state, chosen), np.array([A, B, B, A]))
    last = [np.concatenate([[A, B], texts[i], [b]]) for i, b in zip(chosen, (A, B, B, A), strict=True)]
    np.testing.assert_allclose(found, plain.start(last)[0], atol=1e-12)
    prompts = [np.array([B]), np.empty(0, np.int64)]
    rows = np.concatenate(list(after.rows(prompts, [texts[5], texts[9]])))
    begun = [np.concatenate([[A, B], p]).astype(np.int64) for p in prompts]
    np.testing.assert_allclose(rows, np.concatenate(list(plain.rows(begun, [texts[5], texts[9]]))), atol=1e-12)


def test_the_monte_carlo_estimate_is_that_of_the_conditional_probability_and_unbiased():
    texts = [np.array(letters(s)) for s in ((0, 0, 1, 0, 0, 1), (1, 0, 0, 1, 0, 0))]
    exact = conditional("chain, ambiguous", b"aa", [tuple(t) for t in texts])
    language = ByteLanguage(CHAIN, PIECES, prefix=b"aa")
    many = byte_monte_carlo(language, texts, particles=64, replicates=2, seed=0)
    np.testing.assert_allclose(np.exp(many.log_p), exact, rtol=1e-12)
    few = np.exp(byte_monte_carlo(language, texts, particles=2, replicates=2000, seed=1, batch=500).log_estimates)
    error = few.std(axis=1, ddof=1) / np.sqrt(2000)
    assert (error > 0).all() and (np.abs(few.mean(axis=1) - exact) < 4 * error).all()


def test_sampled_texts_follow_the_law_after_the_prefix():
    language = ByteLanguage(CHAIN, PIECES, width=None, prefix=b"ab")
    texts = aep.sample(language, texts=4000, tokens=2, seed=5, batch=1000)
    found = [s for s in all_strings("chain, ambiguous", 2) if len(s) == 2]
    p = conditional("chain, ambiguous", b"ab", found)
    counts = np.array([sum(tuple(ids) == s for ids in texts.ids) for s in found])
    assert np.abs((counts - 4000 * p) / np.sqrt(4000 * p * (1 - p))).max() < 4.2
    own = aep.score(texts, language).to_pandas().groupby("text").surprisal.sum().to_numpy()
    np.testing.assert_allclose(own, -byte_probability(language, texts.ids).log_p, atol=1e-11)


def test_what_is_wrong_with_a_prefix_is_said_and_another_prefix_is_another_language():
    with pytest.raises(PromptError, match=r"the prefix has at position 1 byte 0x63 \(b'c'\)"):
        ByteLanguage(CHAIN, PIECES, prefix=b"ac")
    never = ByteLanguage(FiniteLanguage([0.5, 0.5]), [b"ab", b"b"], prefix=b"aa")
    with pytest.raises(DistributionError, match="begins with b'aa', its prefix"):
        byte_probability(never, [b"b"])
    with pytest.raises(ParameterError, match="more than limit=2"):
        byte_probability(ByteLanguage(CHAIN, PIECES, prefix=b"aab", limit=2), [b"b"])
    found = {ByteLanguage(CHAIN, PIECES, prefix=p).fingerprint for p in (b"", b"a", b"ab", b"b")}
    assert len(found) == 4 and ByteLanguage(CHAIN, PIECES, prefix="a").fingerprint in found


# ----------------------------------------------------------------------------------------------------- a whole model

WORDS = ["\u2581", "a", "b", "ab", "\u2581a", "\u2581ab", "ba", "\u2581b"]
MERGES = [("a", "b"), ("\u2581", "a"), ("\u2581", "ab"), ("b", "a"), ("\u2581", "b")]


def save_sentence_piece(folder, prepend: str) -> None:
    """A tokenizer of Llama's kind, which puts a space before a text in one of two ways, or none."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *WORDS]
    model = models.BPE({w: i for i, w in enumerate(words)}, MERGES, unk_token="<unk>", byte_fallback=True)
    tokenizer, parts = Tokenizer(model), [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prepend == "pre-tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        before = [normalizers.Prepend("\u2581")] if prepend == "normalizer" else []
        tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(parts)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.fixture(scope="module", params=["normalizer", "pre-tokenizer", "no space"])
def llama(request, tmp_path_factory):
    """A tiny network with such a tokenizer, and what stands before its texts."""
    folder = save_model(tmp_path_factory.mktemp("bytes"), "mistral", vocab_size=259 + len(WORDS))
    save_sentence_piece(folder, request.param)
    return aep.load(str(folder)), b"" if request.param == "no space" else b" "


def test_a_sentence_piece_model_per_byte_is_its_sum_over_tokens_after_the_space(llama):
    model, prefix = llama
    language = aep.per_byte(model, width=None)
    assert language.prefix == prefix
    known, cache = spelled(language.pieces, model.eos), {}

    def next_p(before):
        if before not in cache:
            cache[before] = np.exp(model.start([np.array(before, dtype=np.int64)])[0][0].numpy()).tolist()
        return cache[before]

    law = masked(next_p, known)
    texts = ["ab", "a b", " a", "bab"]
    joint = [byte_string_probability(law, known, (*prefix, *s.encode())) for s in texts]
    exact = np.array(joint) / byte_string_probability(law, known, tuple(prefix))
    np.testing.assert_allclose(np.exp(byte_probability(language, texts).log_p), exact, rtol=1e-10)
    narrow = byte_probability(aep.per_byte(model, 2), texts)
    assert (np.exp(narrow.log_p) <= exact * (1 + 1e-10)).all()


def test_the_bytes_of_a_model_are_at_least_as_probable_as_the_tokens_of_its_tokenizer(llama):
    model, _ = llama
    texts = ["a", "ab", "a b", "ba ab", "bé"]
    tokens = np.array([aep.score(s, model).to_pandas().surprisal.sum() for s in texts])
    found = byte_probability(aep.per_byte(model, width=None), texts).log_p
    assert (found >= -tokens).all() and (found <= 0).all() and (found > -tokens + 1e-3).any()
    records = aep.score(texts, aep.per_byte(model, width=None)).to_pandas()
    np.testing.assert_allclose(records.groupby("text").surprisal.sum(), -found, atol=1e-9)


def test_per_byte_of_a_real_sentence_piece_model(stories260k):
    model = aep.load(str(stories260k))
    language, texts = aep.per_byte(model), ["Once upon a time, there was a little girl", "Tom said.", "été"]
    assert language.prefix == b" " and language.name == "stories260K/bytes[8,0.0001]"
    found = byte_probability(language, texts)
    tokens = np.array([aep.score(s, model).to_pandas().surprisal.sum() for s in texts])
    assert (found.log_p >= -tokens).all()
    assert (found.log_p[:2] < -tokens[:2] + 1.0).all(), "tokens of its own text hold nearly all of it"
    wrong = ByteLanguage(model, language.pieces)  # without the space: another law, which a test must tell apart
    assert byte_probability(wrong, texts[:1]).log_p[0] < found.log_p[0] - 1
    short = byte_probability(aep.per_byte(model, None), ["Once"])
    assert -1e-2 < byte_probability(language, ["Once"]).log_p[0] - short.log_p[0] <= 1e-12


def test_per_byte_of_the_byte_model_is_itself():
    model = aep.load("docs-bytes")
    language, text = aep.per_byte("docs-bytes"), "A law of large numbers, naïvely.\n"
    symbol = np.array([END if p is None else p[0] for p in language.pieces])
    ids = model.encode(text)
    assert symbol[ids].tolist() == list(text.encode())
    own = torch.cat([x.log_softmax(-1) for x in model.rows([np.empty(0, int)], [ids])]).numpy()
    rows = np.concatenate(list(language.rows([np.empty(0, int)], [symbol[ids]])))
    np.testing.assert_allclose(rows[:, symbol], own, atol=1e-10)


def test_per_byte_takes_a_name_a_model_or_a_language_of_bytes(tiny):  # noqa: F811
    by_name = aep.per_byte("docs-100k", 4)
    model = aep.load("docs-100k")
    assert by_name.fingerprint == aep.per_byte(model, width=4).fingerprint
    assert (by_name.beam_width, by_name.cutoff, by_name.prefix) == (4, 1e-4, b"")
    again = aep.per_byte(by_name, 16, cutoff=0)
    assert again.fingerprint == ByteLanguage(model, by_name.pieces, width=16).fingerprint
    assert aep.per_byte(by_name, None).beam_width is None
    with pytest.raises(ParameterError, match=r"docs-100k/bytes\[4,0.0001\] is a language of bytes already"):
        aep.per_byte(by_name, before=[1])
    with pytest.raises(VocabularyMismatch, match=r"finite\(2\).* has no tokenizer.*ByteLanguage\(language, pieces\)"):
        aep.per_byte(FiniteLanguage([0.5, 0.5]))
    with pytest.raises(VocabularyMismatch, match="cannot be compared per byte: its tokens are of a WordLevel"):
        aep.per_byte(tiny("llama"))
    with pytest.raises(ModelError, match="docs-100k"):
        aep.per_byte("docs-100")
    with pytest.raises(ParameterError, match="width=0"):
        aep.per_byte(model, 0)


def test_models_of_different_tokenizers_are_told_of_per_byte():
    a, b = aep.load("docs-100k"), aep.load("docs-bytes")
    with pytest.raises(VocabularyMismatch, match=r"different vocabularies.*each as aep.per_byte\(model\)"):
        aep.score("text", a, source=b)
    with pytest.raises(VocabularyMismatch, match=r"aep.per_byte\(model\)"):
        aep.score(aep.sample(a, texts=1, tokens=4, seed=0), aep.per_byte(b))


# ------------------------------------------------------------------------------- everything else of the library on it


@pytest.fixture(scope="module")
def both():
    """Two embedded models of different tokenizers, per byte, and the records of every pair through a store."""
    languages = {name: aep.per_byte(name, 4) for name in ("docs-100k", "docs-bytes")}
    return languages, pair_records(languages, texts=8, tokens=48, seed=7, batch=8, store=True)


def test_strings_ids_and_the_store_give_the_same_records_of_bytes(both, tmp_path):
    languages, _ = both
    language = languages["docs-100k"]
    strings = ["The naïve mean.\n", "x = 1"]
    found = aep.score(strings, language, store=tmp_path)
    ids = aep.score([np.frombuffer(s.encode(), np.uint8).astype(int) for s in strings], language)
    again = aep.score(strings, language, store=tmp_path)
    for name in ("text", "position", "token", "surprisal", "entropy", "varentropy"):
        np.testing.assert_array_equal(found[name], again[name])
        np.testing.assert_allclose(ids[name], found[name], atol=1e-12)
    drawn = aep.sample(language, texts=8, tokens=48, seed=7, batch=8)
    kept = aep.sample(language, texts=8, tokens=48, seed=7, batch=8, store=tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(drawn.ids, kept.ids, strict=True))
    assert aep.sample(language, ["The "], texts=2, tokens=9, seed=1, stop="eos").decode(0)


def test_two_models_of_different_tokenizers_are_compared_calibrated_and_told_apart(both):
    _, pairs = both
    z = []
    for source, _, scorer in pairs:
        columns = pairs[source, "ancestral", scorer].columns
        assert all(np.isfinite(columns[name]).all() for name in ("surprisal", "entropy", "cross_entropy"))
        own = pairs[source, "ancestral", source].columns
        np.testing.assert_allclose(columns["source_entropy"], own["entropy"], atol=1e-9)
        if source == scorer:
            np.testing.assert_allclose(columns["cross_entropy"], columns["entropy"], atol=1e-9)
            paths = (columns[name].reshape(8, 48) for name in ("surprisal", "entropy", "varentropy"))
            z.append(z_test(*paths, least=1.0).z)
        else:
            assert columns["cross_entropy"].mean() > columns["source_entropy"].mean()
    assert calibration(np.concatenate(z)).is_calibrated
    for wrote in ("docs-100k", "docs-bytes"):
        found = choices(evidence(pairs.by_scorer(wrote)), [48], rules=["maximum likelihood"])
        assert (found.choice == wrote).sum() >= 6


def test_a_real_model_and_an_embedded_one_are_compared_per_byte(stories260k):
    languages = {"stories": aep.per_byte(str(stories260k), 4), "docs": aep.per_byte("docs-100k", 4)}
    pairs = pair_records(languages, texts=3, tokens=40, seed=3)
    for wrote in languages:
        found = choices(evidence(pairs.by_scorer(wrote)), [40], rules=["maximum likelihood"])
        assert (found.choice == wrote).all()


# --------------------------------------------------------------------------------------------------- the command line


def command(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_score_per_byte_is_that_of_the_library(capsys, tmp_path):
    (tmp_path / "t.txt").write_bytes("The naïve mean.\r\n".encode())
    output = tmp_path / "t.parquet"
    options = ["--per-byte", "--width", 4, "--adaptor", "top_k(50)", "-o", output]
    code, out, _ = command(capsys, "score", "docs-100k", tmp_path / "t.txt", *options)
    direct = aep.score("The naïve mean.\r\n", aep.per_byte("docs-100k", 4), adaptors=[aep.top_k(50)])
    found = aep.Records.from_parquet(output)
    assert code == 0 and "18 bytes of" in out and "docs-100k/bytes[4,0.0001] (float64)" in out
    assert "nats per byte" in out and "bits per byte of 18 bytes" in out
    for name in ("token", "surprisal", "entropy", "log_q_top_k(50)"):
        np.testing.assert_allclose(found[name], direct[name], rtol=1e-6)


def test_sample_per_byte_is_that_of_the_library(capsys, tmp_path):
    options = ["--per-byte", "--texts", 2, "--tokens", 12, "--seed", 3, "--prompt", "The", "--no-store"]
    code, out, _ = command(capsys, "sample", "docs-100k", *options, "-o", tmp_path / "t.parquet")
    language = aep.per_byte("docs-100k")
    direct = aep.sample(language, ["The"], texts=2, tokens=12, seed=3)
    found = aep.Texts.from_parquet(tmp_path / "t.parquet")
    assert code == 0 and "2 texts, 24 bytes from docs-100k/bytes[8,0.0001]" in out
    assert all(np.array_equal(a, b) for a, b in zip(found.ids, direct.ids, strict=True))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--width", 4], "--width 4 belongs to bytes: say --per-byte too"),
        (["--per-byte", "--width", 0], "--width 0: at least one token sequence"),
        (["--per-byte", "--context", "strided"], "--context strided is of tokens"),
        (["--per-byte", "--context", "rolling"], "--context rolling is of tokens"),
        (["--per-byte", "--bos", "never"], "--bos never: with --per-byte the start token"),
        (["--per-bite"], "did you mean --per-byte"),
    ],
)
def test_options_that_do_not_go_with_bytes_are_one_line(capsys, tmp_path, arguments, expected):
    (tmp_path / "t.txt").write_text("text")
    code, _, err = command(capsys, "score", "docs-100k", tmp_path / "t.txt", *arguments, "-o", tmp_path / "t.parquet")
    assert code == 2 and expected in err and err.count("\n") == 1


def test_a_vocabulary_without_bytes_is_one_line_on_the_command_line(capsys, tmp_path):
    folder = save_model(tmp_path / "words", "llama")
    code, _, err = command(capsys, "sample", folder, "--per-byte", "-o", tmp_path / "t.parquet")
    assert code == 2 and "words cannot be compared per byte" in err and err.count("\n") == 1


# ------------------------------------------------------------------------------------------------------- other inputs


def test_texts_of_one_length_may_be_one_array():
    texts = np.array([letters(s) for s in strings(2, 4)])
    language = ByteLanguage(CHAIN, PIECES, width=4)
    found = byte_probability(language, texts)
    np.testing.assert_array_equal(found.log_p, byte_probability(language, list(texts)).log_p)
    estimate = byte_monte_carlo(language, texts[:2], particles=64, replicates=2, seed=0)
    np.testing.assert_allclose(np.exp(estimate.log_p), oracle("chain, ambiguous", [tuple(t) for t in texts[:2]]))
    with pytest.raises(PromptError):
        byte_probability(language, texts[0])


def test_the_tokens_that_a_bench_row_counts_are_those_that_the_beam_follows():
    texts = bytes_rows.texts(2, 12)
    assert [len(s) for s in texts] == [12, 12]
    few, many = (bytes_rows.beam_tokens(cutoff, 2, 12) for cutoff in (0.1, 0.0))
    assert 2 * 11 <= few < many, "at least one token of every text is followed after every byte but the last"
    drawn = bytes_rows.language().language.decode(
        aep.sample(bytes_rows.language().language, texts=2, tokens=12, seed=0).ids[0]
    )
    assert drawn.encode()[:12] == bytes(texts[0].tolist())
