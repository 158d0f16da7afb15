"""Texts and records come back from Parquet as they went in; what was damaged, altered or is foreign is refused by name."""

import json
import os
import signal
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import aep
from aep import records as module
from aep.errors import PromptError, RecordError
from aep.languages import FiniteLanguage, MarkovChain
from aep.records import Records, Texts, content_key, stored

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])


class Counted(MarkovChain):
    """A chain that counts how often it was asked."""

    calls = 0

    def start(self, prompts):
        type(self).calls += 1
        return super().start(prompts)


@pytest.fixture
def chain():
    Counted.calls = 0
    return Counted(P, [0.2, 0.5, 0.3], eos=2)


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
    with pytest.raises(RecordError, match="read from a file: give"):
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


def rewritten(path, change):
    """The file after `change(table)`, its header kept."""
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def with_header(path, **entries):
    table = pq.read_table(path)
    header = {**table.schema.metadata, **{k.encode(): v.encode() for k, v in entries.items()}}
    pq.write_table(table.replace_schema_metadata(header), path)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


def one_value(table):
    column = table.column("surprisal").to_numpy().copy()
    column[3] += np.float32(1e-3)
    return table.set_column(table.column_names.index("surprisal"), "surprisal", pa.array(column))


FAULTS = {
    "missing": (lambda p: p.unlink(), "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "damaged or no Parquet file.*make it again"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-200]), "damaged or no Parquet file"),
    "text": (lambda p: p.write_text("text,position\n0,0\n"), "damaged or no Parquet file"),
    "a flipped byte": (flip_a_byte, "damaged or no Parquet file|altered"),
    "foreign": (lambda p: pd.DataFrame({"x": [1.0]}).to_parquet(p), "holds 'a foreign table', not 'records'"),
    "other kind": (lambda p: with_header(p, aep_kind="texts"), "holds 'texts', not 'records'"),
    "other version": (
        lambda p: with_header(p, aep_schema="99"),
        "has schema version 99, this aep reads 1: make it again",
    ),
    "altered value": (lambda p: rewritten(p, one_value), "was altered after it was written"),
    "altered name": (lambda p: rewritten(p, lambda t: t.rename_columns({"rank": "Rank"})), "was altered"),
    "missing column": (lambda p: rewritten(p, lambda t: t.drop_columns(["entropy"])), "was altered"),
    "missing rows": (lambda p: rewritten(p, lambda t: t.slice(0, 4)), "was altered"),
    "altered description": (lambda p: with_header(p, aep_meta=json.dumps({"scorer": "other"})), "was altered"),
}


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
    rewritten(path, lambda t: t.set_column(2, "ids", pa.array([[1, 1]] * len(texts), pa.list_(pa.int32()))))
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


# --------------------------------------------------------------------------------------------------------- the store


def test_a_store_is_asked_before_the_language_is(chain, tmp_path):
    def both(**change):
        arguments = {"texts": 2, "tokens": 6, "seed": 1} | change
        texts = aep.sample(chain, store=tmp_path, **arguments)
        return texts, aep.score(texts, chain, store=tmp_path)

    texts, record = both()
    asked, files = Counted.calls, sorted(tmp_path.iterdir())
    assert [f.name.split("-")[0] for f in files] == ["records", "texts"]
    again, record_again = both()
    assert Counted.calls == asked
    assert sorted(tmp_path.iterdir()) == files
    for name, values in record.columns.items():
        np.testing.assert_array_equal(record_again[name], values)
    for name in ("ids", "log_q"):
        for a, b in zip(getattr(texts, name), getattr(again, name), strict=True):
            np.testing.assert_array_equal(a, b)
    for change in ({"seed": 2}, {"tokens": 7}, {"texts": 3}, {"adaptor": aep.top_k(2)}, {"stop": "eos"}):
        before = Counted.calls
        both(**change)
        assert Counted.calls > before, change
    before = Counted.calls
    aep.score(texts, chain, store=tmp_path, adaptors=[aep.top_k(1)])
    assert Counted.calls == before + 1


def test_another_language_has_another_key(chain, tmp_path):
    other = Counted(P.T / P.T.sum(axis=1, keepdims=True), [0.2, 0.5, 0.3], eos=2, name=chain.name)
    first = aep.sample(chain, texts=4, tokens=20, seed=1, store=tmp_path)
    second = aep.sample(other, texts=4, tokens=20, seed=1, store=tmp_path)
    assert any(not np.array_equal(a, b) for a, b in zip(first.ids, second.ids, strict=True))
    scored = [aep.score(first, x, store=tmp_path)["surprisal"] for x in (chain, other)]
    assert not np.allclose(*scored)


@pytest.mark.parametrize("fault", ["empty", "truncated", "a flipped byte", "other version", "altered description"])
def test_a_damaged_stored_file_is_made_again(chain, tmp_path, fault):
    def run():
        return aep.score([[0, 1, 2]], chain, store=tmp_path)

    first = run()
    (path,) = tmp_path.iterdir()
    FAULTS[fault][0](path)
    before = Counted.calls
    again = run()
    assert Counted.calls == before + 1
    np.testing.assert_array_equal(again["surprisal"], first["surprisal"])
    run()
    assert Counted.calls == before + 1


def test_a_store_that_is_no_folder_is_named(chain, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot use the store .*file"):
        aep.sample(chain, tokens=2, seed=0, store=tmp_path / "file")


def test_a_content_key_depends_on_every_part_and_on_nothing_else():
    parts = {"a": 1, "ids": [np.array([1, 2])]}
    assert content_key(parts) == content_key({"ids": [np.array([1, 2])], "a": 1})
    others = [{**parts, "a": 2}, {**parts, "ids": [np.array([1]), np.array([2])]}, {**parts, "ids": [np.array([2, 1])]}]
    assert len({content_key(x) for x in [parts, *others]}) == 4


def test_an_error_while_writing_leaves_neither_a_file_nor_a_rest(record, tmp_path, monkeypatch):
    def half(table, path, **_):
        path.write_bytes(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module.pq, "write_table", half)
    with pytest.raises(KeyboardInterrupt):
        stored(Records, tmp_path, {"x": 1}, lambda: record, None)
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, time, numpy as np
from aep import records
def half(table, path, **_):
    path.write_bytes(b"PAR1 half")
    print("writing", flush=True)
    time.sleep(60)
records.pq.write_table = half
records.stored(records.Records, sys.argv[1], {"x": 1}, lambda: records.Records({"text": np.zeros(3, int)}), None)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill a process outright")
def test_a_run_killed_while_writing_leaves_no_visible_file_and_the_next_one_finishes(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "writing\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(timeout=10)
    child.stdout.close()
    assert not [f for f in tmp_path.iterdir() if not f.name.startswith(".")]
    made = stored(Records, tmp_path, {"x": 1}, lambda: Records({"text": np.zeros(3, int)}), None)
    assert len(made) == 3
    assert len([f for f in tmp_path.iterdir() if not f.name.startswith(".")]) == 1


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
