"""Damaged files and failing languages: what is read is exactly right, or named in one line and computed again.

Files are cut at random lengths, edited at random places, replaced by foreign ones and by ones of another version; the long
form (marker `faults`) damages more than a thousand.
"""

import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import aep
from aep.errors import AdaptorError, DistributionError, ModelError, RecordError
from aep.languages import MarkovChain
from aep.neural.training import checkpoint
from aep.records import Records, Texts
from aep.store import Store
from damage import with_header

P = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]]
PROMPTS = [[0], [1], [2]]


class Counted(MarkovChain):
    """A chain that counts the texts it is asked for, and fails on the prompts in `bad`."""

    asked = 0
    bad: tuple = ()
    nan: tuple = ()

    def start(self, prompts):
        type(self).asked += len(prompts)
        self._fail(prompts)
        log_p, state = super().start(prompts)
        for k, prompt in enumerate(prompts):
            if int(prompt[0]) in self.nan:
                log_p[k] = np.nan
        return log_p, state

    def _fail(self, prompts):
        if found := [int(p[0]) for p in prompts if len(p) and int(p[0]) in self.bad]:
            raise ZeroDivisionError(f"no law\nafter {found[0]}")


@pytest.fixture
def chain(monkeypatch):
    for name, value in (("asked", 0), ("bad", ()), ("nan", ())):
        monkeypatch.setattr(Counted, name, value)
    return Counted(P, [0.2, 0.5, 0.3])


def asked_by(call) -> int:
    before = Counted.asked
    call()
    return Counted.asked - before


# ------------------------------------------------------------------------------------------------------------ damage


def cut(path, source):
    raw = path.read_bytes()
    path.write_bytes(raw[: source.randrange(len(raw))])


def edit(path, source):
    raw = bytearray(path.read_bytes())
    for _ in range(source.choice([1, 1, 2, 8])):
        raw[source.randrange(len(raw))] ^= 1 << source.randrange(8)
    path.write_bytes(raw)


def insert(path, source):
    raw, place = path.read_bytes(), source.randrange(path.stat().st_size)
    path.write_bytes(raw[:place] + source.randbytes(source.choice([1, 100])) + raw[place:])


def foreign(path, source):
    if source.random() < 0.5:
        pd.DataFrame({"surprisal": [1.0, 2.0], "ids": [[1], [2]]}).to_parquet(path)
    else:
        path.write_text("text,position,surprisal\n0,0,1.5\n")


def neighbour(path, source):
    """Another whole file of the same store under this name."""
    others = [p for p in path.parent.glob("*.parquet") if p != path]
    shutil.copyfile(source.choice(others), path)


def outdated(path, source):
    with_header(path, **{source.choice(["aep_schema", "aep_kernel"]): "0"})


DAMAGES = [cut, edit, insert, foreign, neighbour, outdated]


def same(a, b) -> bool:
    if isinstance(a, Records):
        return list(a.columns) == list(b.columns) and all(np.array_equal(a[n], b[n], equal_nan=True) for n in a.columns)
    lists = all(np.array_equal(x, y) for n in ("ids", "log_q") for x, y in zip(getattr(a, n), getattr(b, n)))
    return len(a) == len(b) and lists and np.array_equal(a.prompt, b.prompt)


def damage_again_and_again(tmp_path, caplog, times: int) -> dict[str, int]:
    """How often each kind of damage was found; what is read after each is compared with what was written."""
    chain, other = MarkovChain(P, [0.2, 0.5, 0.3]), MarkovChain(np.transpose(P) / np.sum(P, 0)[:, None])
    source, found = random.Random(3), {}

    def ask():
        texts = aep.sample(chain, PROMPTS, texts=40, tokens=8, seed=1, store=tmp_path)
        return texts, aep.score(texts, other, source=chain, store=tmp_path)

    whole, store = ask(), Store(tmp_path)
    files = [path for kind in ("texts", "tokens") for path in store.files(kind)]
    content = {path: path.read_bytes() for path in files}
    for k in range(times):
        damaged = source.sample(files, source.choice([1, 1, 3]))
        kinds = {}
        for path in damaged:
            change = DAMAGES[k % len(DAMAGES)] if path == damaged[0] else source.choice(DAMAGES)
            change(path, source)
            kinds[path] = change.__name__
        caplog.clear()
        read = ask()
        assert all(same(a, b) for a, b in zip(whole, read)), kinds
        named = [[path for path in damaged if str(path) in r.getMessage()] for r in caplog.records]
        assert all(len(paths) == 1 and "\n" not in r.getMessage() for paths, r in zip(named, caplog.records)), named
        for (path,) in named:
            assert path.read_bytes() == content[path], "it was named, but not computed again"
            found[kinds[path]] = found.get(kinds[path], 0) + 1
        for path in damaged:
            path.write_bytes(content[path])
    assert {p: p.read_bytes() for kind in ("texts", "tokens") for p in store.files(kind)} == content
    return found


def test_a_damaged_shard_is_named_in_one_line_and_computed_again(tmp_path, caplog):
    found = damage_again_and_again(tmp_path, caplog, times=36)
    assert set(found) == {f.__name__ for f in DAMAGES}


@pytest.mark.faults
def test_more_than_a_thousand_damages_of_shards_are_each_found_or_harmless(tmp_path, caplog):
    found = damage_again_and_again(tmp_path, caplog, times=1200)
    print(f"shards of a store, damages found: {found}")
    assert min(found.values()) > 100


def damage_a_file(tmp_path, times: int) -> tuple[int, int]:
    """A file of texts and one of records, damaged again and again: how often that was refused, and how often harmless."""
    chain, source, refused = MarkovChain(P, [0.2, 0.5, 0.3]), random.Random(4), 0
    texts = aep.sample(chain, PROMPTS, texts=4, tokens=8, seed=1)
    for kind, value in ((Texts, texts), (Records, aep.score(texts, chain))):
        path = tmp_path / f"{kind.__name__}.parquet"
        value.to_parquet(path)
        content, whole = path.read_bytes(), kind.from_parquet(path)
        for k in range(times):
            change = [cut, edit, insert, foreign][k % 4]
            change(path, source)
            try:
                assert same(kind.from_parquet(path), whole), change
            except RecordError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                refused += 1
            path.write_bytes(content)
    return refused, 2 * times - refused


def test_a_damaged_file_of_texts_or_records_is_refused_or_read_rightly(tmp_path):
    refused, harmless = damage_a_file(tmp_path, times=60)
    assert refused > 80 > harmless


@pytest.mark.faults
def test_a_file_damaged_a_thousand_times_is_refused_or_read_rightly(tmp_path):
    print("files of texts and records, damages refused and harmless:", damage_a_file(tmp_path, times=1000))


@pytest.mark.parametrize("times", [40, pytest.param(600, marks=pytest.mark.faults)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_named(tmp_path, caplog, times):
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, {"step": step, "weights": torch.arange(500.0) + step})
    current, source, found = tmp_path / checkpoint.CURRENT, random.Random(5), 0
    content = current.read_bytes()
    for k in range(times):
        [cut, edit, insert][k % 3](current, source)
        caplog.clear()
        state = checkpoint.load_checkpoint(tmp_path)
        found += state["step"] == 1
        assert torch.equal(state["weights"], torch.arange(500.0) + state["step"])
        assert [str(current) in r.getMessage() for r in caplog.records] == [True] * (state["step"] == 1)
        current.write_bytes(content)
    assert found == times, "an edit was not noticed"


def test_a_checkpoint_without_a_checksum_is_still_read(tmp_path):
    torch.save({"step": 7}, tmp_path / checkpoint.CURRENT)
    assert checkpoint.load_checkpoint(tmp_path) == {"step": 7}


# -------------------------------------------------------------------------------- a language that fails on one prompt


MANY = [[0], [1, 0], [2, 0], [0, 1], [1], [0, 2], [0, 0]]  # one of them begins with 2


def test_a_language_that_fails_on_one_prompt_keeps_the_texts_of_all_others(chain, tmp_path, monkeypatch):
    def sample(store=tmp_path):
        return aep.sample(chain, MANY, texts=20, tokens=6, seed=3, batch=32, store=store)

    monkeypatch.setattr(Counted, "bad", (2,))
    with pytest.raises(ModelError) as caught:
        sample()
    line = str(caught.value)
    assert f"{chain.name} fails on prompt 2 (ids [2, 0]): ZeroDivisionError: no law after 2; " in line
    assert f"kept in {tmp_path}, and the same call goes on" in line and "\n" not in line
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    kept = {p: p.stat().st_mtime_ns for p in Store(tmp_path).files("texts")}
    assert len(kept) == 6 * 2
    monkeypatch.setattr(Counted, "bad", ())
    drawn = []
    assert asked_by(lambda: drawn.append(sample())) == 20
    assert kept.items() <= {p: p.stat().st_mtime_ns for p in Store(tmp_path).files("texts")}.items()
    alone = sample(tmp_path / "undisturbed")
    assert same(drawn[0], alone) and len(Store(tmp_path).files("texts")) == 7 * 2


def test_without_a_store_the_prompt_is_named_and_with_one_prompt_the_error_is_its_own(chain, monkeypatch):
    monkeypatch.setattr(Counted, "bad", (2,))
    with pytest.raises(ModelError, match=r"fails on prompt 1 \(ids \[2\]\): ZeroDivisionError") as caught:
        aep.sample(chain, [[0], [2]], texts=2, tokens=3, seed=0)
    assert "kept" not in str(caught.value)
    with pytest.raises(ZeroDivisionError, match="no law"):
        aep.sample(chain, [[2]], texts=2, tokens=3, seed=0)


def test_a_law_that_is_none_on_one_prompt_stays_a_distribution_error(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(Counted, "nan", (1,))
    with pytest.raises(
        DistributionError, match=r"fails on prompt 1 \(ids \[1\]\): .*; what it did not fail on is kept"
    ):
        aep.sample(chain, PROMPTS, texts=3, tokens=4, seed=0, store=tmp_path)
    assert len(Store(tmp_path).files("texts")) == 2


def test_a_language_that_fails_on_everything_is_given_up_and_an_adaptor_is_refused_at_once(
    chain, tmp_path, monkeypatch
):
    with pytest.raises(AdaptorError, match="adaptor=temperature"):
        aep.sample(chain, PROMPTS, texts=3, tokens=4, seed=0, adaptor="temperature(1e-300)", store=tmp_path)
    monkeypatch.setattr(Counted, "bad", (0, 1, 2))
    with pytest.raises(ModelError, match="fails on prompt 0 .*and on 7 more"):
        aep.sample(chain, [[0]] * 50, texts=3, tokens=4, seed=0, store=tmp_path)
    assert Counted.asked < 100 and not Store(tmp_path).files("texts")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_and_a_lack_of_memory_are_not_held_back(chain, tmp_path, monkeypatch, error):
    def start(self, prompts):
        raise error

    monkeypatch.setattr(Counted, "start", start)
    with pytest.raises(error):
        aep.sample(chain, PROMPTS, texts=3, tokens=4, seed=0, store=tmp_path)


def test_a_scorer_that_fails_on_one_prompt_keeps_the_records_of_all_others(chain, tmp_path, monkeypatch):
    texts = aep.sample(MarkovChain(P, [0.2, 0.5, 0.3]), MANY, texts=20, tokens=6, seed=3)
    passes = []

    class Scorer(Counted):
        def rows(self, contexts, ids, **options):
            passes.append(len(ids))
            self._fail(contexts)
            return super().rows(contexts, ids, **options)

    scorer = Scorer(P, [0.1, 0.6, 0.3])
    monkeypatch.setattr(Counted, "bad", (2,))
    with pytest.raises(
        ModelError, match=r"fails on texts 40 to 55 \(of prompt 2\): ZeroDivisionError.* \(and on 1 more\)"
    ):
        aep.score(texts, scorer, store=tmp_path)
    assert len(Store(tmp_path).files("tokens")) == 6 * 2
    monkeypatch.setattr(Counted, "bad", ())
    passes.clear()
    scored = aep.score(texts, scorer, store=tmp_path)
    assert sum(passes) == 20 and len(Store(tmp_path).files("tokens")) == 7 * 2
    assert same(scored, aep.score(texts, scorer, store=tmp_path / "undisturbed"))
