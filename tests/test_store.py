"""The store: what it has is not computed again, what it lost is, and nobody's interrupt or fault costs more than a shard."""

import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import aep
from aep import _parquet
from aep.errors import ParameterError, RecordError
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
        assert "cannot write" in str(caught.value) and str(caught.value).endswith("No space left on device")
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
