"""The corpus: what is read, how it is split, and what is said when an installation differs from the list."""

import json
import random

import pytest

from aep.errors import RecordError
from aep.neural.training import corpus

PROSE = "The quick brown fox jumps over the lazy dog while nobody counts the words of this sentence. " * 3


@pytest.fixture(scope="module")
def pinned():
    """The check of this installation; skips what can only hold under the listed package versions."""
    result = corpus.check()
    other = [name for name, (listed, here) in result.versions.items() if listed != here]
    if other:
        pytest.skip(f"other versions than listed: {', '.join(other)}")
    return result


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Reads the documents of a package made of the given files."""

    def read(files):
        for name, text in files.items():
            path = tmp_path / "sample" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        corpus.documents.cache_clear()
        return corpus.documents(("sample",))

    yield read
    corpus.documents.cache_clear()


def doc(word):
    return f'"""{word} {PROSE}"""'


def test_every_listed_document_is_installed_identically_under_the_pinned_versions(pinned):
    assert pinned.identical == pinned.listed > 9000
    assert not pinned.missing
    assert not pinned.changed
    assert str(pinned) == f"{pinned.listed} of the {pinned.listed} listed documents are installed here, identically."


def test_held_out_documents_share_no_13_gram_with_training(pinned):
    def word_grams(split):  # literally, independent of the hashes that the split was made with
        found = set()
        for document in corpus.load_split(split):
            words = document.text.split()
            found.update(hash(tuple(words[i : i + 13])) for i in range(len(words) - 12))
        return found

    training = word_grams("training")
    assert len(training) > 1_000_000
    for split in ("held-out", "validation"):
        here = word_grams(split)
        assert len(here) > 50_000
        assert training.isdisjoint(here)


def test_the_split_fills_its_shares_and_the_largest_cluster_is_in_training(pinned):
    listed = corpus.manifest()
    total = sum(row["characters"] for row in listed["counts"].values())
    assert listed["counts"]["held-out"]["characters"] / total == pytest.approx(0.10, abs=0.002)
    assert listed["counts"]["validation"]["characters"] / total == pytest.approx(0.05, abs=0.002)
    assert listed["largest_cluster"] > 1000
    assert listed["13-grams shared with training"] == {"validation": 0, "held-out": 0}
    assert {row["split"] for row in listed["documents"]} == set(corpus.SPLITS)


def test_docstrings_of_modules_classes_and_functions_are_read_with_their_names(package):
    text = f"{doc('module')}\nclass A:\n    {doc('class')}\n    def f(self):\n        {doc('method')}\n"
    text += f"        def inner():\n            {doc('inner')}\n            return '\\d'\nif True:\n"
    text += f"    async def g():\n        {doc('async')}\n    def short():\n        'too short'\n"
    found = {d.id: d.text.split()[0] for d in package({"__init__.py": "", "part/one.py": text})}
    assert found == {
        "sample.part.one": "module",
        "sample.part.one:A": "class",
        "sample.part.one:A.f": "method",
        "sample.part.one:A.f.inner": "inner",
        "sample.part.one:g": "async",
    }


def test_tests_examples_vendored_folders_and_duplicates_are_left_out(package):
    found = package(
        {
            "__init__.py": doc("first"),
            "a.py": doc("second"),
            "b.py": doc("second"),
            "tests/helpers.py": doc("third"),
            "test_b.py": doc("fourth"),
            "externals/other.py": doc("fifth"),
            "_examples/show.py": doc("sixth"),
            "version.py": doc("seventh"),
        }
    )
    assert [d.id for d in found] == ["sample", "sample.a"]


def test_documents_of_one_name_are_told_apart(package):
    text = f"class A:\n    def x(self):\n        {doc('getter')}\n    def x(self, v):\n        {doc('setter')}\n"
    assert [d.id for d in package({"__init__.py": text})] == ["sample:A.x", "sample:A.x#2"]


def test_clusters_are_those_of_pairwise_comparison():
    rng = random.Random(5)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randrange(2, 9))) for _ in range(60)]

    def trigrams(text):
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    groups = [{i} for i in range(len(texts))]
    for i in range(len(texts)):
        for j in range(i):
            if trigrams(texts[i]) & trigrams(texts[j]):
                a, b = (next(g for g in groups if k in g) for k in (i, j))
                if a is not b:
                    groups.remove(b)
                    a |= b
    found = corpus.clusters(texts, n=3)
    assert len(groups) > 3  # something to get wrong
    assert sorted(found) == sorted(sorted(g) for g in groups)


def test_the_split_does_not_depend_on_the_order_of_the_documents():
    rng = random.Random(1)
    found = []
    for i in range(3000):
        text = " ".join(rng.choices("abcdefghijklmnop", k=20))
        found.append(corpus.Document(f"d{i}", text, corpus.hashlib.sha256(text.encode()).hexdigest()))
    where = {d.id: d.split for d in corpus.split(found)}
    rng.shuffle(found)
    assert where == {d.id: d.split for d in corpus.split(found)}
    assert sum(s == "held-out" for s in where.values()) == pytest.approx(300, abs=2)


def test_a_cluster_is_never_divided_and_a_large_one_is_in_training():
    rng = random.Random(2)
    found = []
    for i in range(2000):
        shared = f"start of group {i // 2 if i < 1900 else 'large'} with words enough to make a thirteen gram here"
        text = f"{shared} {rng.random()} end"
        found.append(corpus.Document(f"d{i}", text, corpus.hashlib.sha256(text.encode()).hexdigest()))
    where = [d.split for d in corpus.split(found)]
    assert all(where[i] == where[i + 1] for i in range(0, 1900, 2))
    assert set(where[1900:]) == {"training"}
    assert set(where[:1900]) == set(corpus.SPLITS)
    divided = [d._replace(split="training" if i % 2 else "held-out") for i, d in enumerate(found)]
    assert corpus.shared_grams([*divided, found[0]._replace(split="validation")])["held-out"] >= 950


def test_a_document_that_changed_or_went_is_named(tmp_path, monkeypatch):
    here = tuple(corpus.Document(f"m:f{i}", "", str(i)) for i in range(3))
    monkeypatch.setattr(corpus, "documents", lambda: here)
    rows = [{"id": "m:f0", "sha256": "0"}, {"id": "m:f1", "sha256": "other"}, {"id": "m:gone", "sha256": "9"}]
    path = tmp_path / "corpus.json"
    path.write_text(
        json.dumps({"versions": {"numpy": "0.1"}, "documents": [row | {"split": "training"} for row in rows]})
    )
    result = corpus.check(path)
    assert (result.listed, result.identical) == (3, 1)
    assert (result.changed, result.missing) == (("m:f1",), ("m:gone",))
    assert "listed: 0.1" in str(result)
    assert "1 missing: m:gone. 1 changed: m:f1." in str(result)
    with pytest.raises(RecordError, match=r"2 of 3 training documents .* first 'm:f1'.*constraints\.txt"):
        corpus.load_split("training", path)


def test_an_unknown_split_and_a_damaged_list_are_named(tmp_path):
    with pytest.raises(RecordError, match=r"unknown split 'heldout': did you mean 'held-out'"):
        corpus.load_split("heldout")
    with pytest.raises(RecordError, match=r"'none\.json' is missing"):
        corpus.manifest(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RecordError, match=r"'bad\.json' is damaged"):
        corpus.manifest(tmp_path / "bad.json")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(corpus.PACKAGES, "not_there", "not-there")
    with pytest.raises(RecordError, match="'not_there' of the corpus is not installed: pip install not-there"):
        corpus.documents(("not_there",))


def test_a_split_found_by_its_checksums_is_the_parsed_one(pinned, monkeypatch):
    quick = corpus.load_split("held-out", packages=("pandas",))
    assert len(quick) > 400 and all(d.id.startswith("pandas") and d.split == "held-out" for d in quick)
    monkeypatch.setattr(corpus, "_quoted", lambda packages: {})
    assert corpus.load_split("held-out", packages=("pandas",)) == quick
