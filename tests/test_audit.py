"""The audit of a file: what cannot be read is one line, tokens stand on a page, found ones are underlined."""

import numpy as np
import pandas as pd
import pytest

import aep
from aep.__main__ import main
from aep.analysis.audit import (
    SpanMap,
    check_null,
    paired,
    read_null,
    read_text,
    scored_file,
    token_count,
    token_grid,
    window_map,
)
from aep.errors import AepError, ParameterError, VocabularyMismatch
from aep.neural.training.planted import unseen
from aep.records import Records


@pytest.fixture(scope="module")
def tales():
    return aep.load("tales")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"abc\xff", "not UTF-8 text: byte 0xff at position 3"),
        ("né".encode("utf-16"), "not UTF-8"),
        (b"ab\0c", "NUL byte at position 2"),
    ],
)
def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path, raw, message):
    path = tmp_path / "text.txt"
    path.write_bytes(raw)
    with pytest.raises(ParameterError, match=message) as caught:
        read_text(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path):
    (tmp_path / "alice.txt").write_text("Alice was beginning")
    with pytest.raises(ParameterError, match=r"did you mean '.*alice\.txt'"):
        read_text(tmp_path / "alise.txt")
    with pytest.raises(ParameterError, match="its folder .* does not exist"):
        read_text(tmp_path / "no" / "alice.txt")
    with pytest.raises(ParameterError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(ParameterError, match="text_path is empty"):
        read_text("")


def test_line_ends_are_kept_and_a_relative_path_may_start_at_the_repository(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\n")
    assert read_text(tmp_path / "a.txt") == "a\r\nb\n"
    assert read_text("LICENSE").startswith("MIT License")


def test_a_text_shorter_than_the_window_is_refused(tales):
    with pytest.raises(ParameterError, match="fewer than a window of 50"):
        scored_file("once upon a time", tales, window=50)


def test_a_model_of_tales_names_the_first_word_it_does_not_know(tales):
    with pytest.raises(AepError, match="Alice"):
        scored_file("once upon Alice was beginning", tales, window=2)


def test_the_record_is_that_of_score_with_the_context_that_fits(tales):
    text = "once upon a time there was a little girl named lily ."
    found = scored_file(text, tales, window=4)
    direct = aep.score([tales.encode(text)], tales)
    assert np.array_equal(found["surprisal"], direct["surprisal"]) and found.meta["context"] == "full"
    assert len(scored_file(text, tales, window=4, tokens=6)) == 6


def test_tokens_do_not_overlap_on_the_page_and_stay_inside_it(tales):
    record = aep.score(unseen("tale", 3, 1).texts(tales), tales)
    grid = token_grid(record, text=1, start=2, tokens=20, width=40)
    assert grid["position"].tolist() == list(range(2, 22)) and (grid["depth"].abs() <= 1).all()
    assert (grid["x"] + grid["width"] <= 40).all()
    for _, line in grid.groupby("line"):
        assert (line["x"].iloc[1:].to_numpy() >= (line["x"] + line["width"]).iloc[:-1].to_numpy()).all()
    a, h, v = (record.by_text(n)[1][2:22] for n in ("surprisal", "entropy", "varentropy"))
    assert np.allclose(grid["depth"], np.clip((a - h) / np.sqrt(v) / 3, -1, 1))
    with pytest.raises(ParameterError, match="text 1 has tokens 0 to"):
        token_grid(record, text=1, start=10**6)
    with pytest.raises(ParameterError, match="does not know its language"):
        token_grid(Records(record.columns, record.meta))


def test_found_tokens_are_underlined_and_text_is_escaped(tales):
    record = aep.score(unseen("tale", 1, 1).texts(tales), tales)
    found = np.zeros(len(record), bool)
    found[3:5] = True
    html = SpanMap(record, found)._repr_html_()
    assert html.count("border-bottom") == 2 and "&lt;end&gt;" in html and "<end>" not in html
    assert "border-bottom" not in SpanMap(record)._repr_html_()
    assert (
        "from token 4 on" in (later := SpanMap(record, found, start=4)._repr_html_()) and later.count("border-b") == 1
    )


def test_a_window_map_marks_the_tokens_of_found_windows_only():
    table = pd.DataFrame({"start": [0, 4, 6], "stop": [4, 8, 10], "found": [False, True, True]})
    assert np.flatnonzero(window_map(table, 12)).tolist() == [4, 5, 6, 7, 8, 9]


@pytest.fixture
def nineteen(tmp_path):
    for k in range(19):
        (tmp_path / f"{k}.txt").write_text(f"text {k}")
    return [str(tmp_path / f"{k}.txt") for k in range(19)]


def test_a_null_has_no_text_or_at_least_nineteen(nineteen):
    assert read_null(" ") == [] and read_null(", ".join(nineteen), "another")[18] == "text 18"
    with pytest.raises(ParameterError, match="null_paths names 18 files: none, or at least 19"):
        read_null(",".join(nineteen[:18]))


def test_a_text_stands_in_a_null_once_and_is_not_the_audited_one(tmp_path, nineteen):
    respelt = str(tmp_path / "." / "sub" / ".." / "0.txt").replace("sub/../", "./")
    (tmp_path / "copy.txt").write_bytes(b"\xef\xbb\xbftext 3\n")
    for twice, other in ((nineteen[4], "4.txt"), (respelt, "0.txt"), (str(tmp_path / "copy.txt"), "3.txt")):
        with pytest.raises(ParameterError, match=rf"null_paths: .* is the same text as .*{other}") as caught:
            read_null(",".join([*nineteen, twice]))
        assert "\n" not in str(caught.value)
    with pytest.raises(ParameterError, match=r"7\.txt is the same text as the audited text"):
        read_null(",".join(nineteen), "text 7")


def test_empty_names_folders_and_patterns_are_told_as_what_they_are(tmp_path, nineteen):
    with pytest.raises(ParameterError, match="null_paths: name 20 of 20 is empty: leave out the comma"):
        read_null(",".join(nineteen) + ",")
    with pytest.raises(ParameterError, match="is a folder: folders and patterns are not expanded"):
        read_null(str(tmp_path))
    with pytest.raises(ParameterError, match=r"\*\.txt is a pattern: folders and patterns are not expanded"):
        read_null(str(tmp_path / "*.txt"))
    strange = tmp_path / "what[1]?.txt"
    strange.write_text("text 19")  # a name, since there is such a file
    assert len(read_null(",".join([*nineteen, str(strange)]))) == 20


def test_texts_of_a_null_shorter_than_five_windows_are_refused_before_the_work(tales):
    texts = ["once upon a time there was a little girl named lily ."] * 2 + ["once upon a time"]
    assert check_null([], tales, window=4) == [] and check_null(texts[:2], tales, window=2) == [12, 12]
    message = "null_paths: c.txt has 4 tokens of tales, a null for windows of 2 needs at least 10"
    with pytest.raises(ParameterError, match=message) as caught:
        check_null(texts, tales, window=2, paths="a.txt, b.txt, c.txt")
    assert "\n" not in str(caught.value)
    assert check_null(texts, tales, window=2, tokens=4) == [12, 12, 4]  # as long as the audited text: the same context
    with pytest.raises(ParameterError, match="text 2 has 4 tokens"):
        check_null(texts, tales, window=2, tokens=5)
    with pytest.raises(AepError, match=r"null_paths: b\.txt: .*Alice"):
        check_null(["once upon a time", "once Alice"], tales, window=2, tokens=2, paths="a.txt,b.txt")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, capsys):
    path, plain = tmp_path / "bom.txt", tmp_path / "plain.txt"
    path.write_bytes("Return the sum of the array".encode("utf-8-sig"))
    plain.write_text("Return the sum of the array")
    assert read_text(path) == read_text(plain)
    found = []
    for file in (path, plain):
        assert main(["score", "docs-100k", str(file), "-o", str(file.with_suffix(".parquet"))]) == 0
        found.append(capsys.readouterr().out.splitlines()[-2])
    assert found[0] == found[1] and "bits per byte of 27 bytes" in found[0]
    path.write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(ParameterError, match="is empty"):
        read_text(path)


def test_a_reference_that_is_the_model_itself_is_refused(tales):
    with pytest.raises(ParameterError, match="reference tales is the audited model tales itself"):
        token_count("once upon a time", tales, window=2, reference=aep.load("tales"))
    with pytest.raises(ParameterError, match="every difference is 0"):
        scored_file("once upon a time", tales, window=2, reference=tales)


def test_the_number_of_tokens_is_known_before_the_work(tales):
    assert token_count("once upon a time", tales, window=4) == 4
    with pytest.raises(ParameterError, match="4 tokens of tales, fewer than a window of 5"):
        token_count("once upon a time", tales, window=5)


def test_models_and_twins_of_different_number_are_one_line():
    assert paired(["a"], ["b"]) == {"a": "b"}
    with pytest.raises(
        ParameterError, match="tales-mem-1m-twin is not the twin of tales-mem-400k: its twin is tales-mem-400k-t"
    ):
        paired(["tales-mem-400k"], ["tales-mem-1m-twin"])
    with pytest.raises(ParameterError, match=r"planted_models names 2 \(a, b\) and twins 1 \(c\)") as caught:
        paired(["a", "b"], ["c"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["docs-100k", "docs-400k", "docs-bytes"])
def test_any_text_is_read_by_every_model_of_documentation(name):
    record = scored_file(
        "Alice was beginning to get very tired of sitting by her sister\r\non the bank", aep.load(name), window=8
    )
    assert record.meta["context"] == "full" and np.isfinite(record["surprisal"]).all()
    grid = token_grid(record, tokens=60, width=30)
    assert (grid["x"] + grid["width"] <= 30).all() and not grid["piece"].str.contains("\n").any()


def test_a_text_beyond_the_context_is_scored_in_windows(stories260k):
    model = aep.load(str(stories260k))
    record = scored_file("Alice was beginning to get very tired . " * 200, model, window=8, tokens=1000)
    assert len(record) == 1000 and record.meta["context"] == "strided"
    assert SpanMap(record, start=500)._repr_html_().count("<span") == 400


def test_the_record_with_a_reference_is_that_of_the_pair():
    model, other = aep.load("docs-100k"), aep.load("docs-400k-twin")
    text = "Return the sum of the array elements over the given axis."
    record = scored_file(text, model, window=4, reference=other)
    assert np.allclose(record["source_surprisal"], aep.score([other.encode(text)], other)["surprisal"])
    assert token_count(text, model, window=4, reference=other) == len(record)
    with pytest.raises(VocabularyMismatch, match="different vocabularies"):
        token_count(text, model, window=4, reference=aep.load("tales"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"models": "tales", "text_path": "{text}"}, "PromptError: tales knows 339 words, and 'Alice' is none of them"),
        ({"text_path": "{short}"}, "ParameterError: the text has 2 tokens of docs-400k, fewer than a window of 32"),
        ({"text_path": "{nul}"}, "nul.txt holds a NUL byte at position 5"),
        ({"text_path": "{latin}"}, "latin.txt is not UTF-8 text: byte 0xf6 at position 1"),
        ({"text_path": "{empty}"}, "empty.txt is empty"),
        ({"text_path": "{missing}"}, "did you mean"),
        ({"planted_models": "tales-mem-400k"}, "planted_models names 1"),
        ({"planted_models": "tales-mem-400k,tales"}, "is not the twin of tales: it was trained without"),
        ({"reference": "tales"}, "VocabularyMismatch"),
    ],
)
def test_the_notebook_refuses_what_it_cannot_audit_in_one_line_with_exit_code_2(tmp_path, capsys, parameters, message):
    files = {"text": b"Alice was beginning to get very tired of sitting", "short": b"Hi", "nul": b"Alice\0"}
    files |= {"latin": "Schön".encode("latin-1").replace(b"ch", b""), "empty": b""}
    for name, raw in files.items():
        (tmp_path / f"{name}.txt").write_bytes(raw)
    paths = {name: tmp_path / f"{name}.txt" for name in files} | {"missing": tmp_path / "txet.txt"}
    parameters = {name: value.format(**paths) for name, value in parameters.items()}
    assert main(["run", "05", *(word for pair in parameters.items() for word in ("-p", *pair))]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err and "cell 5" in err
