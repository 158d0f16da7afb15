"""The committed text of 16,384 tokens: what the file says, that it is the draw it says it is, and that it is scored exactly.

Its seed was fixed before the first run. A correct build with another seed misses a check of z below with a chance of about
.002 in all; the text of 2,048 tokens under another model is expected ten standard deviations off.
"""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

import aep
from aep import _parquet, data_table
from aep.analysis import long_text as m
from aep.analysis.self_aep import per_text
from aep.errors import ModelError, ParameterError, RecordError
from aep.information import entropy, log_normalise, surprisal, varentropy
from aep.languages import MarkovChain
from aep.neural import language as neural
from aep.sampling import draw, text_stream
from damage import FAULTS, with_header
from tiny_models import one_thread  # noqa: F401

CHAIN = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
LOOP = MarkovChain([*[[0.39, 0.3, 0.3, 0.01]] * 3, [0.0, 0.0, 0.0, 1.0]], [1.0, 0.0, 0.0, 0.0])
LEVEL = 0.001


@pytest.fixture(scope="module")
def found():
    return m.long_text()


@pytest.fixture(scope="module")
def records(found):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neural, "_SEGMENT", 512)  # attention inside a segment costs its square
        return aep.score(found.texts, found.language, context="rolling")


def elsewhere(folder, file=None, language=CHAIN, **options):
    """A repository that holds nothing but this long text and its row."""
    path = folder / "data" / m.FILE
    path.parent.mkdir(parents=True)
    (folder / "data" / "README.md").write_text("# Data\n")
    if file is None:
        m.write_long_text(path, language, **({"prompt": "a b", "tokens": 40, "seed": 3} | options))
    else:
        shutil.copy(file, path)
    data_table.update(folder)
    return path


def first(found, tokens):
    """The beginning of the text as a text."""
    return aep.Texts([found.ids[:tokens]], found.texts.prompts, np.zeros(1, int), language=found.language)


# ------------------------------------------------------------------------------------------------------------ the file


def test_the_file_holds_the_text_and_everything_that_determines_it(found, repository):
    path = repository / "data" / m.FILE
    assert path.stat().st_size < 30_000
    said = json.loads(pq.read_schema(path).metadata[b"aep_meta"])
    named = {k: v for k, v in said["sampler"].items() if k != "versions"}
    assert named == {
        "language": "docs-3m",
        "fingerprint": found.language.fingerprint,
        "adaptor": "ancestral()",
        "seed": m.SEED,
        "stop": "never",
        "tokens": 16_384,
        "dtype": "float64",
    }
    assert said["prompt"] == "The function" and said["command"] == "python -m aep.analysis.long_text"
    assert said["start_token"] == found.language.bos
    assert (found.model, found.sampler, found.seed, found.dtype) == ("docs-3m", "ancestral()", m.SEED, "float64")
    assert found.prompt == found.language.decode(found.texts.prompts[0])
    assert found.start_token == found.language.bos and found.fingerprint == found.language.fingerprint
    assert len(found.texts) == 1 and found.ids.shape == (16_384,)
    assert found.texts.stream.tolist() == [[0, 0]]  # the number of the prompt and of the text
    assert found.ids.shape[0] > 100 * found.language.model.config.sliding_window


def test_any_reader_of_texts_reads_it_too(found, repository):
    texts = aep.Texts.from_parquet(repository / "data" / m.FILE)
    np.testing.assert_array_equal(texts.ids[0], found.ids)
    np.testing.assert_array_equal(texts.keys(), found.texts.keys())


def test_a_text_is_written_read_and_sampled_again_and_stays_as_it_is_when_made_again(tmp_path):
    path = elsewhere(tmp_path)
    found = m.long_text(CHAIN, root=tmp_path)
    expected = aep.sample(CHAIN, "a b", tokens=40, seed=3)
    np.testing.assert_array_equal(found.ids, expected.ids[0])
    np.testing.assert_array_equal(found.texts.keys(), expected.keys())
    assert (found.prompt, found.start_token, found.command) == ("a b", None, m.COMMAND)
    for tokens in (1, 17, 40):
        np.testing.assert_array_equal(found.sampled_again(tokens), found.ids[:tokens])
    sampler = _parquet.read(path, "texts")[1].meta["sampler"]
    with_header(path, aep_meta=json.dumps({"sampler": sampler}))  # damaged: made again
    m.write_long_text(path, CHAIN, prompt="a b", tokens=40, seed=3)
    before = path.stat().st_mtime_ns
    m.write_long_text(path, CHAIN, prompt="a b", tokens=40, seed=3)
    assert path.stat().st_mtime_ns == before
    m.long_text(CHAIN, root=tmp_path)  # the checksum in the table is right again
    m.write_long_text(path, CHAIN, prompt="a b", tokens=40, seed=4)
    with pytest.raises(RecordError, match="long_text.parquet differs from data/README.md.*`python -m aep.data_table`"):
        m.long_text(CHAIN, root=tmp_path)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path, repository):
    path = elsewhere(tmp_path, repository / "data" / m.FILE)
    shutil.copy(repository / "data" / "README.md", tmp_path / "data" / "README.md")
    path.unlink()
    with pytest.raises(RecordError, match="long_text.parquet is missing: .* or run `python -m aep.analysis.long_text`"):
        m.long_text(root=tmp_path)


@pytest.mark.parametrize("fault", sorted(set(FAULTS) & {"empty", "truncated", "text", "a flipped byte"}))
def test_a_damaged_file_is_refused_by_its_checksum_and_without_one_by_its_content(fault, tmp_path, repository):
    path = elsewhere(tmp_path, repository / "data" / m.FILE)
    harm, message = FAULTS[fault]
    harm(path)
    with pytest.raises(RecordError, match="long_text.parquet differs from data/README.md: restore it from git"):
        m.long_text(root=tmp_path)
    data_table.update(tmp_path)  # as if the damage had been committed
    with pytest.raises(RecordError, match=message):
        m.long_text(root=tmp_path)


def test_a_file_of_other_texts_is_refused(tmp_path):
    path = elsewhere(tmp_path)
    texts = aep.sample(CHAIN, "a b", texts=2, tokens=5, seed=1)
    texts.to_parquet(path)
    data_table.update(tmp_path)
    with pytest.raises(RecordError, match="not the one long text .its description lacks 'prompt'.: restore it"):
        m.long_text(CHAIN, root=tmp_path)
    table, meta = texts.to_table()
    meta |= {"prompt": "a b", "start_token": None, "command": m.COMMAND}
    _parquet.write(table, "texts", meta, path)
    data_table.update(tmp_path)
    with pytest.raises(RecordError, match="not the one long text .it has 2 texts."):
        m.long_text(CHAIN, root=tmp_path)


def test_a_model_of_other_weights_or_another_precision_is_refused(found, tmp_path):
    other = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.3, 0.2]])
    elsewhere(tmp_path)
    with pytest.raises(
        ModelError, match=f"fingerprint {CHAIN.fingerprint}, but .* has fingerprint {other.fingerprint}"
    ):
        m.long_text(other, root=tmp_path)
    with pytest.raises(ModelError, match="docs-3m of fingerprint .*, but docs-100k has .*: give the model that wrote"):
        m.long_text(aep.load("docs-100k"))
    with pytest.raises(ModelError, match="of dtype float64, but docs-3m has dtype float32"):
        m.long_text(aep.load("docs-3m", dtype="float32"))
    assert m.long_text(found.language).language is found.language


# ------------------------------------------------------------------------------------------------------------- the draw


def test_its_beginning_is_sampled_again_from_its_own_seed(found):
    np.testing.assert_array_equal(found.sampled_again(64), found.ids[:64])
    other = aep.sample(found.language, found.texts.prompts, tokens=64, seed=found.seed + 1)
    assert np.mean(other.ids[0] == found.ids[:64]) < 0.5


@pytest.mark.parametrize("tokens", [0, 16_385, True])
def test_only_what_there_is_can_be_sampled_again(tokens, found):
    with pytest.raises(ParameterError, match="an integer from 1 to 16384 is needed"):
        found.sampled_again(tokens)


def test_every_token_is_the_draw_of_its_uniform_given_the_tokens_before(found, monkeypatch):
    """By induction the whole text is the sample of its seed; no uniform lies where rounding could decide (1e-9)."""
    monkeypatch.setattr(neural, "_SEGMENT", 512)
    uniform = text_stream(found.seed, *found.texts.stream[0].tolist()).random(len(found.ids))
    drawn, margin = [], []
    for logits in found.language.rows(found.texts.prompts, found.texts.ids, chunk=512):
        log_p, u = log_normalise(logits), uniform[512 * len(drawn) :][: len(logits)]
        drawn.append(draw(log_p, u).numpy())
        margin.append(np.abs(torch.cumsum(torch.exp(log_p), -1).numpy() - u[:, None]).min())
    np.testing.assert_array_equal(np.concatenate(drawn), found.ids)
    assert min(margin) > 1e-9


@pytest.mark.slow
def test_the_whole_text_is_sampled_again(found):
    np.testing.assert_array_equal(found.sampled_again(len(found.ids)), found.ids)


# ---------------------------------------------------------------------------------------------------------- the scoring


def alone(found, end, tokens=500, reach=None):
    """Log-probabilities of the last `tokens` tokens before `end` by one pass without a cache, at their own positions.

    A token sees layers·(window - 1) tokens before the one it is predicted from; `reach` (by default all of these) are given.
    """
    config = found.language.model.config
    reach = config.num_hidden_layers * (config.sliding_window - 1) if reach is None else reach
    context = np.concatenate([[found.start_token], found.texts.prompts[0]])
    everything = np.concatenate([context, found.ids])
    stop = len(context) + end
    begin = max(stop - tokens - 1 - reach, 0)
    ids, positions = (torch.as_tensor(x)[None] for x in (everything[begin : stop - 1], np.arange(begin, stop - 1)))
    with torch.inference_mode():
        logits = found.language.model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, -tokens:]
    return log_normalise(logits).numpy()


@pytest.mark.parametrize("end", [700, 3000, 16_384])
def test_a_rolling_pass_equals_one_pass_without_a_cache_wherever_it_ends(end, found, records):
    log_p = alone(found, end)
    part = slice(end - len(log_p), end)
    a, h, v = (records[name][part] for name in ("surprisal", "entropy", "varentropy"))
    np.testing.assert_allclose(a, surprisal(log_p, found.ids[part]), atol=1e-10)
    np.testing.assert_allclose(h, entropy(log_p), atol=1e-10)
    np.testing.assert_allclose(v, varentropy(log_p), atol=1e-10)


def test_a_fresh_window_is_not_the_rolling_distribution(found, records):
    window = found.language.model.config.sliding_window
    at = np.arange(2000, 2000 + 40)
    fresh = [surprisal(alone(found, t + 1, tokens=1, reach=window - 1), found.ids[t : t + 1])[0] for t in at]
    assert np.abs(fresh - records["surprisal"][at]).max() > 0.05


def test_segments_with_a_cache_equal_one_full_pass_over_the_first_3000_tokens(found, records):
    whole = aep.score(first(found, 3000), found.language, chunk=170)  # in one segment, without a cache
    for name, values in whole.columns.items():
        np.testing.assert_allclose(values, records[name][:3000], atol=1e-10, err_msg=name)


# ----------------------------------------------------------------------------------------------------------- its values


def test_z_of_the_whole_text_and_of_its_blocks_is_that_of_a_correct_sample(found, records):
    row = per_text(records, found.texts, found.model).iloc[0]
    assert row.tokens == 16_384 and row.has_test
    assert abs(row.z) < stats.norm.isf(LEVEL / 2)
    blocks = m.by_block(records, found.texts)
    assert len(blocks) == 16 and blocks.has_test.all()
    low, high = stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], 16)
    assert low < np.sum(blocks.z**2) < high
    weighted = np.sum(blocks.z * blocks.sigma) / np.sqrt(np.sum(blocks.sigma**2))  # equal blocks: z of the whole
    assert weighted == pytest.approx(row.z, abs=1e-9)


def test_the_same_text_under_another_model_is_found_out(found):
    text, other = first(found, 2048), aep.load("docs-1m")
    row = per_text(aep.score(text, other), text, other.name).iloc[0]
    assert row.has_test and row.z > stats.norm.isf(LEVEL / 2)


def test_the_text_stays_alive(found, records):
    """No block is a repetition loop: its variance is shared by hundreds of tokens, and hardly any of it was there before."""
    blocks = m.by_block(records, found.texts)
    assert blocks.varentropy.min() > 1
    assert blocks.effective_tokens.min() > 300
    assert blocks.repeated.max() < 0.2


def test_blocks_are_those_of_the_record_cut_by_hand():
    texts = aep.sample(CHAIN, "a b", tokens=700, seed=5)
    records = aep.score(texts, CHAIN)
    blocks = m.by_block(records, texts, size=300)
    assert blocks["first"].tolist() == [1, 301, 601] and blocks["last"].tolist() == [300, 600, 700]
    for row, part in zip(blocks.itertuples(), (slice(300), slice(300, 600), slice(600, 700)), strict=True):
        a, h, v = (records[name][part] for name in ("surprisal", "entropy", "varentropy"))
        assert row.log_perplexity == pytest.approx(sum(a) / len(a))
        assert row.difference == pytest.approx(row.log_perplexity - row.empirical_entropy)
        assert row.z == pytest.approx(sum(a - h) / sum(v) ** 0.5)
        assert row.z == pytest.approx(row.difference / row.sigma)
        assert row.varentropy == pytest.approx(sum(v) / len(v))


def test_a_repetition_loop_shows_in_its_blocks_as_no_test_and_nothing_new():
    texts = aep.sample(LOOP, None, tokens=1600, seed=6)
    fall = int(np.argmax(texts.ids[0] == 3))
    assert 50 < fall < 800
    blocks = m.by_block(aep.score(texts, LOOP), texts, size=fall)
    assert blocks.has_test.iloc[0] and not blocks.has_test.iloc[1:].any() and blocks.z.iloc[1:].isna().all()
    assert blocks.varentropy.iloc[0] > 0.01 and (blocks.varentropy.iloc[2:] < 1e-9).all()
    assert blocks.repeated.iloc[0] < 0.9 and (blocks.repeated.iloc[2:] == 1).all()


def test_repetitions_are_those_of_a_literal_search():
    rng = np.random.default_rng(7)
    for gram in (1, 2, 3, 30):
        ids = rng.integers(3, size=30)
        windows = [tuple(ids[max(t - gram + 1, 0) : t + 1]) for t in range(30)]
        expected = [t + 1 >= gram and windows[t] in windows[gram - 1 : t] for t in range(30)]
        assert m.is_repeated(ids, gram).tolist() == expected


def test_blocks_of_several_texts_or_of_no_size_are_refused():
    texts = aep.sample(CHAIN, "a b", texts=2, tokens=40, seed=5)
    records = aep.score(texts, CHAIN)
    with pytest.raises(ParameterError, match="blocks are those of one text, not of 2"):
        m.by_block(records, texts)
    with pytest.raises(ParameterError, match="size=1: blocks of at least 2 tokens"):
        m.by_block(records.select([0]), texts.select([0]), size=1)
    with pytest.raises(ParameterError, match="gram=0: at least 1 token"):
        m.is_repeated(texts.ids[0], 0)
