"""The first code cell of every notebook: on Google Colab it fetches the repository, anywhere else it does nothing."""

import subprocess
import sys

import nbformat
import pytest

from aep import outputs

FILES = outputs.notebook_files()
CELLS = {number: nbformat.read(path, 4).cells[1] for number, path in FILES.items()}
SOURCE = CELLS["01"].source


@pytest.fixture
def called(monkeypatch, tmp_path):
    """The commands that the cell would run, in an empty folder, with the search path put back."""
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    return commands


@pytest.mark.parametrize("number", FILES)
def test_it_is_the_same_in_every_notebook_and_folded_away(number):
    cell = CELLS[number]
    assert cell.source == SOURCE and cell.metadata.tags == ["colab"] and not cell.outputs
    assert cell.metadata.cellView == "form" and cell.metadata.jupyter.source_hidden


def test_elsewhere_it_does_nothing(called):
    before = list(sys.path)
    exec(SOURCE, {})
    assert called == [] and sys.path == before


def test_on_colab_it_wants_an_address(called, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    with pytest.raises(AssertionError, match="fill in the address"):
        exec(SOURCE, {})
    assert called == []


def test_on_colab_it_clones_and_installs_once(called, monkeypatch, tmp_path):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    filled = SOURCE.replace('address = ""', 'address = "https://example.org/aep; rm -r ."')
    exec(filled, {})
    assert called[0] == ["git", "clone", "--depth", "1", "https://example.org/aep; rm -r .", "aep"]  # no shell
    assert called[1][1:] == ["-m", "pip", "install", "--quiet", "--editable", "aep"]
    assert sys.path[0] == str(tmp_path / "aep" / "lib")
    (tmp_path / "aep").mkdir()
    exec(filled, {})
    assert len(called) == 2
