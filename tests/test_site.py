"""The site of the committed notebooks: an entry and a page for each, and no link that leads nowhere."""

import re
from html.parser import HTMLParser

import pytest

from aep import outputs, site
from aep.errors import AepError, ParameterError

ROW = "| It *rains* & pours | [01 · Weather](notebooks/01_w.ipynb) | 01a-01c | 0.6 |"


class Links(HTMLParser):
    """Local targets of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value and not re.match(r"(https?|data|mailto):|#", value):
                self.found.add(value.partition("#")[0])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "html"
    return folder, site.build(folder)


def test_an_entry_is_a_row_of_the_table():
    assert site.entries(ROW) == [site.Entry("01_w", "01 · Weather", "It *rains* & pours", "01a-01c", "0.6")]
    with pytest.raises(AepError, match="no table of notebooks"):
        site.entries("no table")


def test_there_is_a_page_for_every_notebook_and_an_index(built):
    folder, written = built
    assert {path.stem for path in written} == {path.stem for path in outputs.notebook_files().values()} | {"index"}
    index = (folder / "index.html").read_text(encoding="utf-8")
    assert "<em>selected</em>" in index and index.count("<article>") == len(written) - 1


def test_the_cell_for_colab_is_not_on_a_page(built):
    assert not any("COLAB_RELEASE_TAG" in page.read_text(encoding="utf-8") for page in built[1])


def test_every_local_link_of_every_page_leads_somewhere(built):
    folder, written = built
    for page in written:
        for target in Links(page.read_text(encoding="utf-8")).found:
            assert (folder / target).is_file(), f"{page.name}: {target}"


def test_pages_are_written_again_but_other_files_are_not_touched(built, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ParameterError, match="holds other files"):
        site.build(tmp_path)
    assert site.main([str(tmp_path)]) == 2 and str(tmp_path) in capsys.readouterr().err
    assert site.main([]) == 2 and "usage" in capsys.readouterr().err
