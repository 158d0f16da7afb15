"""The store: what it has is not computed again, what it lost is, and nobody's interrupt or fault costs more than a shard."""

import io
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import aep
from aep import _parquet
from aep import store as module
from aep.__main__ import main
from aep.errors import ParameterError, RecordError
from aep.information import THETAS
from aep.languages import MarkovChain
from aep.records import Records, Texts, store_home
from aep.store import SHARD, Store, open_store, shards_of
from damage import FAULTS

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])


class Counted(MarkovChain):
    """A chain that counts the texts and batches it is asked for."""

    texts = batches = 0

    def start(self, prompts):
        type(self).texts += len(prompts)
        type(self).batches += 1
        return super().start(prompts)


@pytest.fixture
def chain():
    Counted.texts = Counted.batches = 0
    return Counted(P, [0.2, 0.5, 0.3], eos=2)


def same(a: Texts, b: Texts) -> bool:
    lists = ("ids", "prompts", "log_q", "log_normaliser")
    equal = all(
        np.array_equal(np.float32(x), np.float32(y)) for n in lists for x, y in zip(getattr(a, n), getattr(b, n))
    )
    return (
        equal
        and len(a) == len(b)
        and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("prompt", "finished", "stream"))
    )


def drawn_by(call) -> int:
    """How many texts a call draws."""
    before = Counted.texts
    call()
    return Counted.texts - before


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# ------------------------------------------------------------------------------------------------- what is kept, where


def test_without_a_store_nothing_is_written(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("AEP_HOME", str(tmp_path))
    aep.sample(chain, texts=3, tokens=5, seed=0)
    assert open_store(None) is None
    assert not list(tmp_path.iterdir())


def test_true_is_the_store_of_this_user_and_a_folder_may_be_a_string(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("AEP_HOME", str(tmp_path / "home"))
    first = aep.sample(chain, texts=3, tokens=5, seed=0, store=True)
    assert open_store(True).folder == store_home() / "records" == tmp_path / "home" / "records"
    (kept,) = files(tmp_path)
    assert kept.startswith("home/records/texts/") and kept.endswith(".parquet")
    assert drawn_by(lambda: aep.sample(chain, texts=3, tokens=5, seed=0, store=True)) == 0
    assert drawn_by(lambda: aep.sample(chain, texts=3, tokens=5, seed=0, store=str(tmp_path / "other"))) == 3
    again = aep.sample(chain, texts=3, tokens=5, seed=0, store=Store(tmp_path / "other"))
    assert same(first, again)


@pytest.mark.parametrize("store", [3, False, ["a"]])
def test_what_is_no_store_is_refused(chain, store):
    with pytest.raises(ParameterError, match="store=.*give a folder, True for the store"):
        aep.sample(chain, tokens=2, seed=0, store=store)
    assert Counted.texts == 0


def test_a_store_that_cannot_be_a_folder_is_named_before_any_work(chain, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot use the store .*file"):
        aep.sample(chain, tokens=2, seed=0, store=tmp_path / "file")
    assert Counted.texts == 0


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="unknown kind of record 'text': did you mean 'texts'"):
        Store(tmp_path).get("text", {})


# ------------------------------------------------------------------------------------------------------------- shards


def test_texts_from_the_store_are_those_drawn_without_one(chain, tmp_path):
    arguments = {"texts": 20, "tokens": 9, "seed": 1, "stop": "eos", "adaptor": aep.temperature(0.8)}
    prompts = [[0], [1, 2], [0], [2]]  # two are equal, with streams of their own
    plain = aep.sample(chain, prompts, **arguments)
    first, again = (aep.sample(chain, prompts, **arguments, store=tmp_path) for _ in range(2))
    assert same(plain, first) and same(first, again)
    assert first.sampler == again.sampler == plain.sampler
    assert again.language is chain
    for a, b in zip(first.log_q, again.log_q, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, a.astype(np.float32))
    assert len(files(tmp_path)) == 4 * 2


def test_texts_that_end_with_another_token_are_other_texts(tmp_path):
    asked = {"texts": 4, "tokens": 12, "seed": 0, "stop": "eos"}
    for eos in (0, 2):
        language = MarkovChain(P, [0.2, 0.5, 0.3], eos=eos)
        assert same(aep.sample(language, **asked), aep.sample(language, **asked, store=tmp_path))


def test_more_texts_draw_only_what_is_missing(chain, tmp_path):
    def sample(texts, prompts=([0],)):
        return aep.sample(chain, list(prompts), texts=texts, tokens=6, seed=3, store=tmp_path)

    assert drawn_by(lambda: sample(100)) == 100
    assert len(files(tmp_path)) == 7
    whole = 100 // SHARD * SHARD
    assert drawn_by(lambda: sample(200)) == 200 - whole
    assert drawn_by(lambda: sample(100)) == 0
    assert drawn_by(lambda: sample(50)) == 0  # two texts of the fourth shard
    assert drawn_by(lambda: sample(200, ([0], [1]))) == 200
    kept = sample(200, ([0], [1], [2]))
    assert same(kept, aep.sample(chain, [[0], [1], [2]], texts=200, tokens=6, seed=3))


def test_missing_shards_share_batches(chain, tmp_path):
    aep.sample(chain, [[0]], texts=16, tokens=4, seed=0, store=tmp_path)
    Counted.batches = 0
    aep.sample(chain, [[0], [1], [2]], texts=32, tokens=4, seed=0, store=tmp_path, batch=40)
    assert Counted.batches == 2


def test_another_batch_size_name_or_version_of_a_library_is_no_other_shard(chain, tmp_path, monkeypatch):
    def sample(language=chain, **change):
        return aep.sample(language, [[0]], **({"texts": 5, "tokens": 6, "seed": 3} | change), store=tmp_path)

    sample()
    assert drawn_by(lambda: sample(batch=2)) == 0
    renamed = Counted(P, [0.2, 0.5, 0.3], eos=2, name="other")
    assert drawn_by(lambda: sample(renamed)) == 0
    assert sample(renamed).sampler["language"] == "other"
    monkeypatch.setattr("aep.sampling.np.__version__", "0.0")
    assert drawn_by(sample) == 0
    assert sample().sampler["versions"]["numpy"] != "0.0"


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"tokens": 7}, {"adaptor": aep.top_k(2)}, {"stop": "eos"}, {"prompts": [[1]]}], ids=str
)
def test_whatever_changes_a_text_changes_its_shard(chain, tmp_path, change):
    def sample(prompts=([0],), **change):
        return aep.sample(chain, list(prompts), **({"texts": 5, "tokens": 6, "seed": 3} | change), store=tmp_path)

    sample()
    assert drawn_by(lambda: sample(**change)) == 5
    assert drawn_by(sample) == 0


def test_another_language_prompt_index_dtype_or_version_is_another_shard(chain, tmp_path, monkeypatch):
    def sample(language=chain, prompts=([0],)):
        return aep.sample(language, list(prompts), texts=5, tokens=6, seed=3, store=tmp_path)

    sample()
    other = Counted(P.T / P.T.sum(axis=1, keepdims=True), [0.2, 0.5, 0.3], eos=2, name=chain.name)
    assert drawn_by(lambda: sample(other)) == 5
    assert drawn_by(lambda: sample(chain, ([1], [0]))) == 10
    single = Counted(P, [0.2, 0.5, 0.3], eos=2)
    single.dtype_name = "float32"
    assert drawn_by(lambda: sample(single)) == 5
    for version in ("KERNEL_VERSION", "SCHEMA_VERSION"):
        with monkeypatch.context() as patch:
            patch.setattr(_parquet, version, 99)
            patch.setattr("aep.store.KERNEL_VERSION", _parquet.KERNEL_VERSION)
            assert drawn_by(sample) == 5
            assert drawn_by(sample) == 0
    assert drawn_by(sample) == 0


def test_an_interrupt_keeps_the_finished_shards(chain, tmp_path, monkeypatch):
    def sample():
        return aep.sample(chain, texts=64, tokens=4, seed=0, batch=20, store=tmp_path)

    def interrupted(self, prompts):
        if Counted.batches == 2:
            raise KeyboardInterrupt
        return start(self, prompts)

    start = Counted.start
    monkeypatch.setattr(Counted, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample()
    assert len(files(tmp_path)) == 40 // SHARD
    monkeypatch.setattr(Counted, "start", start)
    assert drawn_by(sample) == 64 - 40 // SHARD * SHARD
    assert same(sample(), aep.sample(chain, texts=64, tokens=4, seed=0))


def test_shards_follow_prompts_and_the_numbers_of_the_streams(chain):
    drawn = aep.sample(chain, [[0], [1]], texts=20, tokens=2, seed=0)
    assert [(s[0], len(s)) for s in shards_of(drawn)] == [(0, 16), (16, 4), (20, 16), (36, 4)]
    middle = drawn.select(range(10, 30))
    assert [len(s) for s in shards_of(middle)] == [6, 4, 10]
    np.testing.assert_array_equal(middle.select(shards_of(middle)[1]).keys(), drawn.select(shards_of(drawn)[1]).keys())
    given = Texts.from_ids(chain, [[0]] * 35)
    assert [len(s) for s in shards_of(given)] == [16, 16, 3]


# ------------------------------------------------------------------------------------------------------ get, put, fetch


def record(value: float = 0.1) -> Records:
    columns = {"text": np.repeat([0, 1], 3), "position": np.tile(np.arange(3), 2), "surprisal": np.full(6, 1.5)}
    columns |= {"entropy": np.full(6, value), "rank": np.arange(6)}
    return Records(columns, {"scorer": "m", "pair": (1, 2)}, "language", np.array([7, 2**62]))


def test_what_put_get_and_fetch_return_is_what_the_file_holds(tmp_path):
    store = Store(tmp_path)
    assert store.get("tokens", {"x": 1}) is None
    calls = []

    def make():
        calls.append(1)
        return record()

    returned = [store.fetch("tokens", {"x": 1}, make, "language"), store.get("tokens", {"x": 1}, "language")]
    returned += [store.fetch("tokens", {"x": 1}, make, "language"), store.put("tokens", {"x": 2}, record())]
    assert len(calls) == 1
    for found in returned:
        assert found["entropy"].tolist() == [float(np.float32(0.1))] * 6
        assert found["entropy"].dtype == np.float64 and found["text"].dtype == np.int64
        assert found.meta == {"scorer": "m", "pair": [1, 2]}
        assert found.text_keys.tolist() == [7, 2**62]
        assert found.language == "language"
    assert store.missing("tokens", [{"x": 3}, {"x": 1}, {"x": 2}, {"x": 4}]) == [0, 3]
    assert store.missing("texts", [{"x": 1}]) == [0]


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"missing"}))
def test_a_damaged_file_is_named_once_in_one_line_and_made_again(tmp_path, caplog, fault):
    store, parts = Store(tmp_path), {"x": 1}
    store.put("tokens", parts, record())
    path = store.path("tokens", parts)
    FAULTS[fault][0](path)
    made = store.fetch("tokens", parts, record)
    (line,) = [r.getMessage() for r in caplog.records]
    assert str(path) in line and line.endswith("is computed again") and "\n" not in line
    caplog.clear()
    again = store.fetch("tokens", parts, lambda: pytest.fail("made a third time"))
    np.testing.assert_array_equal(again["entropy"], made["entropy"])
    assert not caplog.records


@pytest.mark.parametrize("foreign", ["another key", "no store", "another kernel"])
def test_a_whole_file_that_does_not_belong_there_is_made_again(tmp_path, caplog, foreign, monkeypatch):
    store, parts = Store(tmp_path), {"x": 1}
    path = store.path("tokens", parts)
    if foreign == "another key":
        store.put("tokens", {"x": 2}, record(0.7))
        store.path("tokens", {"x": 2}).rename(path)
    elif foreign == "no store":
        store.make_folders()
        record(0.7).to_parquet(path)
    else:
        store.make_folders()
        with monkeypatch.context() as patch:
            patch.setattr(_parquet, "KERNEL_VERSION", 0)
            _parquet.write(record(0.7).to_table()[0], "tokens", {}, path, path.stem)
    assert store.fetch("tokens", parts, record)["entropy"][0] == pytest.approx(0.1)
    (line,) = [r.getMessage() for r in caplog.records]
    assert str(path) in line and ("foreign" in line or "kernel version 0" in line)


def test_a_damaged_shard_alone_is_drawn_again(chain, tmp_path, caplog):
    def sample():
        return aep.sample(chain, texts=40, tokens=6, seed=1, store=tmp_path)

    first = sample()
    path = sorted((tmp_path / "texts").iterdir())[0]
    FAULTS["truncated"][0](path)
    again = []
    assert drawn_by(lambda: again.append(sample())) in (8, 16)
    assert same(first, again[0])
    assert [str(path) in r.getMessage() for r in caplog.records] == [True]


def test_the_line_about_a_damaged_file_reaches_stderr_as_one_line(chain, tmp_path, capsys):
    aep.sample(chain, texts=1, tokens=2, seed=1, store=tmp_path)
    (path,) = (tmp_path / "texts").iterdir()
    path.write_bytes(b"")
    stream = logging.StreamHandler()  # as Python's handler of last resort
    logging.getLogger("aep.store").addHandler(stream)
    aep.sample(chain, texts=1, tokens=2, seed=1, store=tmp_path)
    logging.getLogger("aep.store").removeHandler(stream)
    assert capsys.readouterr().err.count("\n") == 1


def test_two_at_once_end_with_one_whole_file_and_nobody_fails(tmp_path):
    store, parts = Store(tmp_path), {"x": 1}
    at_once, failed = threading.Barrier(8), []

    def ask():
        at_once.wait()
        for _ in range(20):
            try:
                store.put("tokens", parts, record())
                found = store.get("tokens", parts)
                failed.extend([] if found is not None and len(found) == 6 else ["no whole file"])
            except RecordError as error:
                failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(files(tmp_path)) == 1


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=str)
def test_an_error_while_writing_leaves_neither_a_file_nor_a_rest(tmp_path, monkeypatch, error):
    def half(table, header, path):
        path.write_bytes(b"PAR1 half")
        raise error

    monkeypatch.setattr(_parquet, "_write_file", half)
    expected = RecordError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        Store(tmp_path).fetch("tokens", {"x": 1}, record)
    if expected is RecordError:
        assert "cannot write" in str(caught.value) and str(caught.value).endswith(
            "No space left on device: make room, and the same command goes on"
        )
    assert not files(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is writable for this user")
def test_a_store_that_cannot_be_written_is_one_line_and_can_still_be_read(tmp_path):
    store = Store(tmp_path)
    store.put("tokens", {"x": 1}, record())
    (tmp_path / "tokens").chmod(0o500)
    with pytest.raises(RecordError, match="cannot write .*Permission denied"):
        store.put("tokens", {"x": 2}, record())
    assert len(store.get("tokens", {"x": 1})) == 6
    (tmp_path / "tokens").chmod(0o700)


# --------------------------------------------------------------------------------------------------- the store as tables


@pytest.fixture
def filled(chain, tmp_path):
    """A store of 20 texts of each of two prompts, scored alone and as a pair, with what was put into it."""
    store = Store(tmp_path / "store")
    texts = aep.sample(chain, [[0], [1, 2]], texts=20, tokens=7, seed=1, store=store)
    other = MarkovChain(P.T / P.T.sum(axis=1, keepdims=True), [0.2, 0.5, 0.3], name="other")
    records = {}
    for name, scorer, source in (("alone", chain, None), ("pair", other, chain)):
        parts = []
        for run in shards_of(texts):
            shard = texts.select(run)
            found = replace(aep.score(shard, scorer, source=source), text_keys=shard.keys())
            parts.append(store.put("tokens", {"scorer": scorer.fingerprint, "texts": shard.keys()}, found))
        records[name] = Records.concatenate(parts)
    return store, texts, records


def test_the_views_hold_every_text_and_every_token_once(filled, chain):
    store, texts, records = filled
    table = store.sql("SELECT * FROM texts ORDER BY prompt, number")
    assert table["text_key"].tolist() == texts.keys().tolist()
    assert table["prompt"].tolist() == texts.prompt.tolist()
    assert table["number"].tolist() == list(range(20)) * 2
    assert table["length"].unique().tolist() == [7]
    assert [list(ids) for ids in table["ids"]] == [ids.tolist() for ids in texts.ids]
    assert set(table["model"]) == {chain.name} and set(table["fingerprint"]) == {chain.fingerprint}
    assert set(table["seed"]) == {1} and set(table["stop"]) == {"never"} and set(table["adaptor"]) == {"ancestral()"}
    assert table["prompt_ids"].unique().tolist() == ["[0]", "[1,2]"]
    for name, scorer in (("alone", chain.name), ("pair", "other")):
        tokens = store.sql(
            "SELECT t.*, x.prompt, x.number FROM tokens t JOIN texts x USING (text_key) "
            f"WHERE scorer = '{scorer}' ORDER BY x.prompt, x.number, position"
        )
        record = records[name]
        assert len(tokens) == len(record)
        for column in set(record.columns) - {"text"}:
            np.testing.assert_array_equal(tokens[column], record[column], err_msg=column)
        assert tokens["cross_entropy"].isna().all() == (name == "alone")
        assert set(tokens["source"].fillna("")) == {chain.name if name == "pair" else ""}
        assert set(tokens["context"]) == {"full"} and set(tokens["adaptor"]) == {"ancestral()"}


def test_a_group_by_text_is_the_mean_of_each_text(filled):
    store, texts, records = filled
    means = store.sql("SELECT text_key, avg(surprisal) AS l FROM tokens WHERE source IS NULL GROUP BY text_key")
    wanted = dict(zip(texts.keys().tolist(), records["alone"].matrix("surprisal").mean(axis=1), strict=True))
    assert means.set_index("text_key")["l"].to_dict() == pytest.approx(wanted, abs=1e-12)


def test_the_view_of_shards_says_what_the_files_are(filled):
    store, texts, _ = filled
    shards = store.sql(
        "SELECT kind, count(*) AS files, sum(rows) AS rows, sum(bytes) AS size FROM shards GROUP BY kind"
    )
    shards = shards.set_index("kind")
    assert shards["files"].to_dict() == {"texts": 4, "tokens": 8}
    assert shards["rows"].to_dict() == {"texts": 40, "tokens": 2 * 280}
    assert shards["size"].sum() == sum(p.stat().st_size for p in store.folder.rglob("*.parquet"))
    described = store.sql("SELECT DISTINCT meta->>'$.scorer' AS s FROM shards WHERE kind = 'tokens' ORDER BY s")
    assert described["s"].tolist() == sorted(["other", texts.sampler["language"]])


def test_an_empty_store_has_empty_views_with_their_columns(tmp_path):
    store = Store(tmp_path / "nowhere")
    assert store.sql("SELECT model, ids, length FROM texts").empty
    assert store.sql("SELECT scorer, cross_entropy, log_partition_0_5 FROM tokens").empty
    assert store.sql("SELECT * FROM shards").empty
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT surprise FROM tokens", '"surprise" not found'),
        ("SELECT * FROM token", "token does not exist"),
    ],
)
def test_a_wrong_query_is_one_line(filled, query, message):
    with pytest.raises(RecordError, match=f"the query failed: .*{message}") as caught:
        filled[0].sql(query)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["empty", "truncated", "foreign", "text", "other version", "half written"])
def test_a_damaged_file_is_left_out_of_the_tables_in_one_line(filled, fault, caplog):
    store, _, _ = filled
    path = store.files("tokens")[3]
    lost = store.sql(f"SELECT rows FROM shards WHERE shard = '{path.stem}'")["rows"][0]
    if fault == "half written":
        (path.parent / f".{path.name}.0123.tmp").write_bytes(path.read_bytes()[:100])
        lost = 0
    else:
        FAULTS[fault][0](path)
        FAULTS[fault][0](store.files("tokens")[4])
        lost += store.sql("SELECT 280 * 2 - sum(rows) AS n FROM shards WHERE kind = 'tokens'")["n"][0] - lost
        caplog.clear()
    assert store.sql("SELECT count(*) AS n FROM tokens")["n"][0] == 2 * 280 - lost
    assert store.sql("SELECT count(*) AS n FROM texts")["n"][0] == 40
    lines = {r.getMessage() for r in caplog.records}
    assert len(lines) == (fault != "half written")
    assert all(str(path) in line and "and 1 more" in line and line.endswith("left out") for line in lines)


def test_a_file_with_a_damaged_content_does_not_break_the_others(filled, caplog):
    store, _, _ = filled
    path = store.files("tokens")[3]
    data, rows = path.read_bytes(), len(Records.from_parquet(path))
    total = store.sql("SELECT count(*) AS n, sum(surprisal) AS s FROM tokens")
    found = set()
    for place in range(10, len(data) // 2, 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        caplog.clear()
        columns = ", ".join(f"sum({c}) AS {c}" for c in ("surprisal", "entropy", "rank", "token", "text_key"))
        read = store.sql(f"SELECT count(*) AS n, {columns} FROM tokens")
        n = read["n"][0]
        assert n in (total["n"][0], total["n"][0] - rows)
        assert [str(path) in r.getMessage() for r in caplog.records] == [True] * int(n != total["n"][0])
        assert [p for p, _ in store.damaged()] == [path] * int(n != total["n"][0])
        assert n != total["n"][0] or read["surprisal"][0] == total["s"][0]
        found.add(n)
    assert len(found) == 2


def test_files_that_vanish_while_a_query_begins_are_no_error(filled, monkeypatch):
    store, _, _ = filled
    ask = module._ask

    def pruned(query, shards):
        monkeypatch.setattr(module, "_ask", ask)
        store.files("tokens")[0].unlink()
        return ask(query, shards)

    monkeypatch.setattr(module, "_ask", pruned)
    assert store.sql("SELECT count(DISTINCT shard) AS n FROM tokens")["n"][0] == 7


def test_a_token_of_a_network_takes_at_most_64_bytes(tmp_path):
    """All columns of one model. Measured on 64 texts of 256 tokens: 44.1 bytes per token, 64.5 with Parquet's defaults."""
    language = aep.load("docs-400k")
    texts = aep.sample(language, texts=16, tokens=32, seed=0)
    record = replace(aep.score(texts, language), text_keys=texts.keys())
    assert len(record.columns) == 3 + 6 + len(THETAS)
    store = Store(tmp_path)
    store.put("tokens", {"x": 1}, record)
    assert store.path("tokens", {"x": 1}).stat().st_size / len(record) <= 64


# ------------------------------------------------------------------------------------------------- python -m aep store


@pytest.fixture
def home(filled, tmp_path, monkeypatch):
    """The filled store as the store of this user, beside a checkpoint and something foreign."""
    monkeypatch.setenv("AEP_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "training" / "a").mkdir(parents=True)
    (tmp_path / "home" / "training" / "a" / "checkpoint").write_bytes(b"0" * 1_000_000)
    (tmp_path / "home" / "letter.txt").write_text("not ours")
    filled[0].folder.rename(tmp_path / "home" / "records")
    return tmp_path / "home"


def command(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["store", *arguments])
    return code, *capsys.readouterr()


def test_the_command_lists_kinds_models_and_scorers(home, capsys, chain):
    code, out, err = command(capsys)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].startswith(f"{home}: 13 files, 1.")
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ["texts", "tokens", "training"]
    assert lines[3] == "  training: 1 files, 1.0 MB"
    for line in (f"texts of {chain.name}: 4 files, 40 texts", f"tokens under {chain.name}: 4 files, 280 tokens"):
        assert sum(line in found for found in lines) == 1
    assert any("tokens under other: 4 files" in line for line in lines)


def test_verify_names_the_damaged_and_prune_damaged_deletes_them_alone(home, capsys):
    assert command(capsys, "--verify")[:2] == (0, command(capsys)[1] + "every record is whole\n")
    store = Store(home / "records")
    damaged = [store.files("texts")[0], store.files("tokens")[2]]
    FAULTS["truncated"][0](damaged[0])
    FAULTS["altered description"][0](damaged[1])
    old, fresh = (home / "records" / "texts" / f".x.parquet.{n}.tmp" for n in (1, 2))
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    code, out, _ = command(capsys, "--verify")
    assert code == 1 and out.endswith("2 damaged files; python -m aep store --prune --damaged\n")
    assert [line.split(" ")[1] for line in out.splitlines() if line.startswith("damaged: ")] == [*map(str, damaged)]
    code, out, _ = command(capsys, "--prune", "--damaged", "--yes")
    assert code == 0 and "3 damaged files deleted" in out
    assert not any(path.exists() for path in (*damaged, old)) and fresh.exists()
    fresh.unlink()
    assert command(capsys, "--verify")[0] == 0
    assert command(capsys, "--prune", "--damaged")[:2] == (0, command(capsys)[1] + "nothing to prune\n")
    assert len(files(home)) == 10 + 2


def test_prune_of_a_kind_deletes_that_kind_and_prune_deletes_all_but_what_is_not_ours(home, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = command(capsys, "--prune", "--kind", "tokens")
    assert code == 2 and "say --yes" in err and len(files(home)) == 14
    assert command(capsys, "--prune", "--kind", "tokens", "--yes")[0] == 0
    assert {f.split("/")[0] for f in files(home)} == {"letter.txt", "records", "training"} and len(files(home)) == 6
    code, out, _ = command(capsys, "--prune", "--yes")
    assert code == 0 and "5 files deleted, 1.0 MB freed" in out
    assert [p.name for p in home.rglob("*")] == ["letter.txt"]


@pytest.mark.parametrize("options", [["--yes"], ["--kind", "texts"], ["--damaged", "--verify"]])
def test_options_of_prune_without_prune_are_refused(home, capsys, options):
    code, _, err = command(capsys, *options)
    assert code == 2 and "use them with --prune" in err and len(files(home)) == 14


def test_records_written_while_sampling_are_put_into_the_store_by_score(chain, tmp_path):
    texts = aep.sample(chain, None, texts=SHARD + 3, tokens=9, seed=1, record=True)
    sampled = Counted.batches
    found = aep.score(texts, chain, store=tmp_path)
    assert Counted.batches == sampled, "a second pass, although the record was there"
    assert len(Store(tmp_path).files("tokens")) == 2
    before = Counted.batches
    plain = aep.sample(chain, None, texts=SHARD + 3, tokens=9, seed=1)
    drawn = Counted.batches
    again = aep.score(plain, chain, store=tmp_path)
    assert drawn > before and Counted.batches == drawn, "the stored records were computed again"
    assert all(np.array_equal(found[name], again[name], equal_nan=True) for name in found.columns)


@pytest.mark.parametrize("store", [5, 1.5])
def test_what_is_no_store_is_refused_for_texts_with_a_record_too(chain, store):
    with pytest.raises(ParameterError, match="store="):
        aep.score(aep.sample(chain, None, tokens=3, seed=1, record=True), chain, store=store)


def test_an_empty_query_is_refused(tmp_path):
    with pytest.raises(RecordError, match="query is empty"):
        Store(tmp_path).sql("  ")


def test_a_seed_that_no_column_can_hold_is_refused(chain):
    with pytest.raises(ParameterError, match=r"seed=.*below 2\*\*63"):
        aep.sample(chain, None, tokens=3, seed=2**63)
