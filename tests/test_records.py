"""Texts and records come back from Parquet as they went in; what was damaged, altered or is foreign is refused by name."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import aep
from aep.errors import PromptError, RecordError
from aep.languages import FiniteLanguage, MarkovChain
from aep.records import KERNEL_VERSION, SCHEMA_VERSION, Records, Texts, content_key
from damage import FAULTS, rewritten

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])


@pytest.fixture
def chain():
    return MarkovChain(P, [0.2, 0.5, 0.3], eos=2)


@pytest.fixture
def texts(chain):
    return aep.sample(chain, [[0], [1, 2]], texts=3, tokens=12, seed=1, stop="eos", adaptor=aep.nucleus(0.95))


@pytest.fixture
def record(texts, chain):
    return aep.score(texts, chain, source=chain, adaptor=aep.nucleus(0.95), adaptors=[aep.top_k(1)])


# --------------------------------------------------------------------------------------------------------- round trip


def test_texts_come_back_from_parquet(texts, chain, tmp_path):
    texts.to_parquet(tmp_path / "t.parquet")
    back = Texts.from_parquet(tmp_path / "t.parquet", chain)
    assert back.sampler == texts.sampler
    for name in ("ids", "prompts"):
        for a, b in zip(getattr(texts, name), getattr(back, name), strict=True):
            assert b.dtype == np.int64
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(back.prompt, texts.prompt)
    np.testing.assert_array_equal(back.finished, texts.finished)
    for name in ("log_q", "log_normaliser"):
        for a, b in zip(getattr(texts, name), getattr(back, name), strict=True):
            np.testing.assert_array_equal(a.astype(np.float32), b)
    assert back.decode(0) == texts.decode(0)
    assert list(tmp_path.iterdir()) == [tmp_path / "t.parquet"]


def test_given_texts_without_a_sampler_come_back_too(chain, tmp_path):
    given = Texts.from_strings(chain, ["a b c", "b"])
    given.to_parquet(tmp_path / "t.parquet")
    back = Texts.from_parquet(tmp_path / "t.parquet")
    assert back.log_q is back.log_normaliser is back.finished is None
    assert [ids.tolist() for ids in back.ids] == [[0, 1, 2], [1]]
    with pytest.raises(RecordError, match=r"do not know their language: texts.with_language\(aep.load\(name\)\)"):
        back.decode(0)
    assert back.with_language(chain).decode(1) == "b"


def test_records_come_back_from_parquet_in_single_precision(record, tmp_path):
    record.to_parquet(tmp_path / "r.parquet")
    back = Records.from_parquet(tmp_path / "r.parquet")
    assert back.meta == record.meta
    assert list(back.columns) == list(record.columns)
    assert np.isneginf(record["log_q_top_k(1)"]).any()
    for name, values in record.columns.items():
        if values.dtype.kind == "i":
            np.testing.assert_array_equal(back[name], values)
            assert back[name].dtype == np.int64
        else:
            np.testing.assert_array_equal(back[name], values.astype(np.float32), err_msg=name)
            assert back[name].dtype == np.float64
    pd.testing.assert_frame_equal(back.to_pandas()[["text", "rank"]], record.to_pandas()[["text", "rank"]])


def test_a_record_is_read_by_text_as_a_matrix_or_flat(record, chain):
    lengths = record.lengths
    assert len(record) == lengths.sum() == len(record.to_pandas())
    parts = record.by_text("entropy")
    assert [len(p) for p in parts] == lengths.tolist()
    np.testing.assert_array_equal(np.concatenate(parts), record["entropy"])
    assert len(set(lengths)) > 1
    with pytest.raises(RecordError, match=rf"texts have {lengths.min()} to {lengths.max()} tokens: use by_text"):
        record.matrix("entropy")
    even = aep.score(aep.sample(chain, texts=3, tokens=5, seed=2), chain)
    assert even.matrix("surprisal").shape == (3, 5)
    np.testing.assert_array_equal(even.matrix("position"), np.tile(np.arange(5), (3, 1)))


# ------------------------------------------------------------------------------------------------------ refused files


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_with_its_name_in_one_line(record, tmp_path, fault):
    path = tmp_path / "r.parquet"
    record.to_parquet(path)
    assert len(Records.from_parquet(path)) == len(record)
    damage, message = FAULTS[fault]
    damage(path)
    with pytest.raises(RecordError, match=message) as caught:
        Records.from_parquet(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whichever_byte_is_flipped_the_file_is_refused_or_says_the_same(record, tmp_path):
    path = tmp_path / "r.parquet"
    record.to_parquet(path)
    whole, data = Records.from_parquet(path), path.read_bytes()
    refused = 0
    for place in range(0, len(data), 61):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            back = Records.from_parquet(path)
        except RecordError:
            refused += 1
            continue
        assert back.meta == whole.meta
        for name, values in whole.columns.items():
            np.testing.assert_array_equal(back[name], values)
    assert refused > len(data) / 61 / 2


def test_altered_ids_of_texts_are_refused(texts, tmp_path):
    path = tmp_path / "t.parquet"
    texts.to_parquet(path)
    others = pa.array([[1, 1]] * len(texts), pa.list_(pa.int32()))
    rewritten(path, lambda t: t.set_column(t.column_names.index("ids"), "ids", others))
    with pytest.raises(RecordError, match="was altered"):
        Texts.from_parquet(path)


@pytest.mark.parametrize("place", ["no/such/folder/r.parquet", "file/r.parquet"])
def test_a_place_that_cannot_be_written_is_named(record, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot write .*r.parquet"):
        record.to_parquet(tmp_path / place)


def test_a_missing_column_names_the_call_that_provides_it(texts, chain):
    plain = aep.score(texts, chain)
    with pytest.raises(RecordError, match=r"no column 'cross_entropy': it comes from score\(texts, scorer, source="):
        plain["cross_entropy"]
    with pytest.raises(RecordError, match=r"no column 'log_q_top_k\(2\)': it comes from .*adaptors=\["):
        plain["log_q_top_k(2)"]
    with pytest.raises(RecordError, match="unknown column 'entrop': did you mean 'entropy'"):
        plain["entrop"]


def test_ids_that_are_no_ids_are_refused_not_rounded(chain):
    with pytest.raises(PromptError, match="text 1 must be .*float64"):
        Texts.from_ids(chain, [np.array([0, 1]), np.array([0.5, 1.7])])


# ------------------------------------------------------------------------------------------------------ parts of them


def same_texts(a: Texts, b: Texts) -> bool:
    lists = ("ids", "log_q", "log_normaliser")
    equal = all(np.array_equal(x, y) for n in lists for x, y in zip(getattr(a, n), getattr(b, n), strict=True))
    prompts = [x.prompts[p].tolist() for x in (a, b) for p in x.prompt]
    return (
        equal
        and prompts[: len(a)] == prompts[len(a) :]
        and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("finished", "stream"))
    )


def test_texts_taken_apart_and_joined_again_are_the_same_texts(texts):
    parts = [texts.select([0, 1]), texts.select([2]), texts.select([3, 4, 5])]
    assert [len(p.prompts) for p in parts] == [1, 1, 1]
    assert parts[2].prompts[0].tolist() == [1, 2]
    joined = Texts.concatenate(parts)
    assert same_texts(joined, texts)
    assert len(joined.prompts) == 2
    assert joined.sampler == texts.sampler
    np.testing.assert_array_equal(joined.keys(), texts.keys())
    turned = texts.select([5, 0])
    np.testing.assert_array_equal(turned.keys(), texts.keys()[[5, 0]])
    np.testing.assert_array_equal(turned.ids[0], texts.ids[5])


def test_given_texts_are_taken_apart_and_joined_too(chain):
    given = Texts.from_ids(chain, [[0, 1], [2], [1, 1, 1]])
    joined = Texts.concatenate([given.select([2]), given.select([0, 1])])
    assert [ids.tolist() for ids in joined.ids] == [[1, 1, 1], [0, 1], [2]]
    assert joined.log_q is joined.stream is joined.finished is None


def test_texts_of_two_samplers_are_not_joined_and_nothing_is_not_texts(texts, chain):
    other = aep.sample(chain, [[0]], texts=1, tokens=12, seed=2, stop="eos", adaptor=aep.nucleus(0.95))
    with pytest.raises(RecordError, match="different samplers cannot be concatenated: seed 1 and 2"):
        Texts.concatenate([texts, other])
    with pytest.raises(RecordError, match="no texts to concatenate"):
        Texts.concatenate([])


def test_a_key_of_a_text_depends_on_its_ids_prompt_sampler_and_stream_and_on_nothing_around_it(texts, chain):
    alone = aep.sample(chain, [[0]], texts=1, tokens=12, seed=1, stop="eos", adaptor=aep.nucleus(0.95))
    assert alone.keys()[0] == texts.keys()[0]
    assert len(set(texts.keys())) == len(texts)
    same_ids = Texts.from_ids(chain, alone.ids)
    one_more = Texts.from_ids(chain, [np.append(alone.ids[0], 0)])
    assert len({alone.keys()[0], same_ids.keys()[0], one_more.keys()[0]}) == 3
    twins = aep.sample(FiniteLanguage([1.0, 0.0]), texts=2, tokens=3, seed=0)
    assert twins.keys()[0] != twins.keys()[1]
    renamed = MarkovChain(P, [0.2, 0.5, 0.3], eos=2, name="another name")
    again = aep.sample(renamed, [[0]], texts=1, tokens=12, seed=1, stop="eos", adaptor=aep.nucleus(0.95))
    assert again.keys()[0] == alone.keys()[0]
    assert (texts.keys() >= 0).all()


def test_records_taken_apart_and_joined_again_are_the_same_records(record, texts, tmp_path):
    keyed = Records(record.columns, record.meta, record.language, texts.keys())
    joined = Records.concatenate([keyed.select([0, 1, 2]), keyed.select([3]), keyed.select([4, 5])])
    for name, values in record.columns.items():
        np.testing.assert_array_equal(joined[name], values)
    np.testing.assert_array_equal(joined.text_keys, texts.keys())
    assert joined.meta == record.meta
    assert len(keyed.select([])) == len(keyed.select([]).text_keys) == 0
    turned = keyed.select([5, 0])
    np.testing.assert_array_equal(turned.by_text("entropy")[0], record.by_text("entropy")[5])
    np.testing.assert_array_equal(turned["text"], np.repeat([0, 1], turned.lengths))
    turned.to_parquet(tmp_path / "r.parquet")
    np.testing.assert_array_equal(Records.from_parquet(tmp_path / "r.parquet").text_keys, texts.keys()[[5, 0]])


def test_records_with_other_columns_are_not_joined(record, texts, chain):
    with pytest.raises(RecordError, match="with and without 'cross_entropy' cannot be concatenated"):
        Records.concatenate([record, aep.score(texts, chain)])
    with pytest.raises(RecordError, match="no records to concatenate"):
        Records.concatenate([])


def test_a_content_key_depends_on_every_part_and_both_versions_and_on_nothing_else(monkeypatch):
    parts = {"a": 1, "ids": [np.array([1, 2])]}
    assert content_key(parts) == content_key({"ids": [np.array([1, 2])], "a": 1})
    others = [{**parts, "a": 2}, {**parts, "ids": [np.array([1]), np.array([2])]}, {**parts, "ids": [np.array([2, 1])]}]
    keys = {content_key(x) for x in [parts, *others]}
    for name, version in (("SCHEMA_VERSION", SCHEMA_VERSION), ("KERNEL_VERSION", KERNEL_VERSION)):
        with monkeypatch.context() as patch:
            patch.setattr(f"aep._parquet.{name}", version + 1)
            keys.add(content_key(parts))
    assert len(keys) == 6


# --------------------------------------------------------------------------------------------------------- in Jupyter


class Tags(HTMLParser):
    """Collects the tags of a piece of HTML and checks that they close."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.seen, self.text = [], set(), ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


EVIL = ["<script>alert(1)</script>", '"><img src=x>', "&amp;\n", ""]


def test_html_of_texts_and_records_escapes_every_token():
    language = FiniteLanguage([0.4, 0.3, 0.2, 0.1], symbols=EVIL, name="<b>evil</b>")
    texts = aep.sample(language, texts=2, tokens=50, seed=3)
    for shown in (texts, aep.score(texts, language)):
        html = shown._repr_html_()
        parsed = Tags(html)
        assert parsed.seen <= {"p", "b", "pre", "div", "span", "i"}
        assert "<script>alert(1)</script>" in parsed.text
        assert "<b>evil</b>" in parsed.text


def test_html_works_for_one_token_for_a_sure_token_and_for_long_texts(chain):
    assert "1 texts, 1 tokens" in Tags(aep.sample(chain, tokens=1, seed=0)._repr_html_()).text
    one = aep.score([[1]], chain)
    assert "1 texts, 1 scored tokens" in Tags(one._repr_html_()).text
    sure = FiniteLanguage([1.0, 0.0])
    assert "surprisal inf" in aep.score([[0, 1, 0]], sure)._repr_html_()
    long = aep.score(aep.sample(chain, texts=2, tokens=450, seed=0), chain)
    assert "50 more tokens" in Tags(long._repr_html_()).text
    assert long._repr_html_().count("<span") == 400


def test_html_of_what_was_read_from_a_file_has_no_language_and_says_what_it_is(texts, record, tmp_path):
    texts.to_parquet(tmp_path / "t.parquet")
    record.to_parquet(tmp_path / "r.parquet")
    assert "6 texts" in Texts.from_parquet(tmp_path / "t.parquet")._repr_html_()
    assert f"{len(record)} scored tokens" in Records.from_parquet(tmp_path / "r.parquet")._repr_html_()


def test_the_colour_of_a_token_is_its_deviation(chain):
    html = aep.score([[1, 2]], chain)._repr_html_()
    spans = html.split("<span")[1:]
    assert "5,113,176" in spans[0]  # the likeliest first symbol: below expectation
    assert "202,0,32" in spans[1]
