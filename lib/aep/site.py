"""The committed notebooks as pages of a site: ``python -m aep.site FOLDER`` (``make html``), with an index to begin from.

The index has what the README's table says of every notebook (claim, figures, minutes) and its first figure. Pages are
those of nbconvert, made fit for a narrow screen, with a link back. Nothing is executed and no server is needed; formulas
are set by MathJax, which a browser fetches from its usual place.
"""

import re
import shutil
import sys
from html import escape
from pathlib import Path
from typing import NamedTuple

from .errors import AepError, ParameterError, make_room
from .outputs import repository, write_atomically

__all__ = ["Entry", "build", "entries", "main"]

_ROW = re.compile(
    r"^\| (?P<claim>.+) \| \[(?P<title>[^\]]+)\]\(notebooks/(?P<stem>\w+)\.ipynb\) \| (?P<figures>\S+) "
    r"\| (?P<minutes>\S+) \|$",
    re.M,
)
_NARROW = """<style>
.aep-back { position: sticky; top: 0; z-index: 9; padding: .5em 1em; background: #fff; border-bottom: 1px solid #ddd;
  font-family: system-ui, sans-serif; font-size: 14px }
.aep-back a { margin-right: 1.2em }
body .jp-RenderedHTMLCommon table, body .jp-RenderedText, body .jp-InputArea-editor pre { overflow-x: auto }
body .jp-RenderedHTMLCommon table { display: block; max-width: 100% }
body .jp-RenderedHTMLCommon mjx-container, body .MathJax_Display { overflow-x: auto; overflow-y: hidden }
body .jp-OutputArea-output img { max-width: 100%; height: auto }
@media (max-width: 760px) {
  body.jp-Notebook { padding: 0 .4em }
  body .jp-InputPrompt, body .jp-OutputPrompt, body .jp-Collapser { display: none }
  body .jp-InputArea, body .jp-OutputArea-child { display: block; width: 100% }
  body .jp-Cell { padding: 2px }
}
</style>"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The asymptotic equipartition property of language models</title>
<style>
:root {{ color-scheme: light }}
body {{ margin: 0 auto; max-width: 62rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a;
  background: #fff }}
h1 {{ font-size: 1.5rem; line-height: 1.25 }}
article {{ display: grid; grid-template-columns: 22rem 1fr; gap: 1.2rem; padding: 1.2rem 0; border-top: 1px solid #ddd }}
article img {{ width: 100%; height: auto; max-height: 15rem; object-fit: contain; object-position: top }}
article h2 {{ margin: 0 0 .3rem; font-size: 1.1rem }}
article p {{ margin: .2rem 0 }}
.small {{ color: #555; font-size: .9rem }}
a {{ color: #0b57a4 }}
@media (max-width: 700px) {{ article {{ grid-template-columns: 1fr }} }}
</style>
</head>
<body>
<h1>The asymptotic equipartition property of language models</h1>
<p>The notebooks as they are committed, with every output. Each says what it claims, what would refute it and what it
does not show.</p>
{articles}
</body>
</html>
"""


class Entry(NamedTuple):
    """A notebook of the README's table: what it claims, its figures (as written there) and its minutes."""

    stem: str
    title: str
    claim: str
    figures: str
    minutes: str


def entries(readme: str) -> list[Entry]:
    """The rows of the README's table of claims. AepError if there are none.

    >>> entries("| It rains | [01 · Weather](notebooks/01_w.ipynb) | 01a-01c | 0.6 |")[0].minutes
    '0.6'
    """
    found = [Entry(m["stem"], m["title"], m["claim"], m["figures"], m["minutes"]) for m in _ROW.finditer(readme)]
    if not found:
        raise AepError(
            "README.md has no table of notebooks: | claim | [title](notebooks/NAME.ipynb) | figures | minutes |"
        )
    return found


def build(folder: Path) -> list[Path]:
    """Write ``index.html``, a page per notebook of the README's table and the first figure of each; the files written.

    ParameterError for a folder that holds other things than such a site, or a part of one.
    """
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor

    root = repository()
    listed = entries((root / "README.md").read_text(encoding="utf-8"))
    ours = {"index.html", "figures", *(f"{entry.stem}.html" for entry in listed)}
    there = list(folder.iterdir()) if folder.exists() else []
    if not (folder / "index.html").is_file() and not all(_is_ours(path, ours) for path in there):
        raise ParameterError(f"{folder} holds other files: give a new folder, or one that this command wrote")
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    exporter, written = HTMLExporter(), []
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"colab"}), enabled=True)
    for entry in listed:
        body, _ = exporter.from_filename(str(root / "notebooks" / f"{entry.stem}.ipynb"))
        written.append(folder / f"{entry.stem}.html")
        write_atomically(written[-1], _page(body, entry, listed))
        print(f"{written[-1]}", flush=True)
    articles = "\n".join(_article(entry, _lead(root, entry, folder)) for entry in listed)
    written.append(folder / "index.html")
    write_atomically(written[-1], _PAGE.format(articles=articles))
    return written


def _is_ours(path: Path, ours: set[str]) -> bool:
    """Whether a file of a folder without index is one that a run of this command may have left that was cut off."""
    return path.name in ours or (path.name.startswith(".") and path.name.endswith(".tmp"))


def _page(body: str, entry: Entry, listed: list[Entry]) -> str:
    """A page of nbconvert with a link back, links to notebooks turned to pages, and room for a narrow screen."""
    links = "".join(
        f'<a href="{other.stem}.html">{escape(other.stem.partition("_")[0])}</a>'
        if other != entry
        else f"<b style='margin-right:1.2em'>{escape(entry.title)}</b>"
        for other in listed
    )
    body = re.sub(r'(href=")(?:\./)?(\w+)\.ipynb', r"\1\2.html", body)
    body = body.replace("</head>", f"{_NARROW}</head>", 1)
    return re.sub(
        r"(<body[^>]*>)",
        lambda m: f'{m[1]}<nav class="aep-back"><a href="index.html">all notebooks</a>{links}</nav>',
        body,
        count=1,
    )


def _lead(root: Path, entry: Entry, folder: Path) -> str | None:
    """The first figure of a notebook, copied beside the page."""
    number = entry.stem.partition("_")[0]
    images = sorted((root / "figures").glob(f"fig{number}*.png"))
    return shutil.copy(images[0], folder / "figures" / images[0].name).name if images else None


def _article(entry: Entry, image: str | None) -> str:
    page = f"{entry.stem}.html"
    picture = (
        f'<a href="{page}"><img src="figures/{image}" alt="first figure of {escape(entry.title)}"></a>' if image else ""
    )
    return (
        f'<article><div>{picture}</div><div><h2><a href="{page}">{escape(entry.title)}</a></h2>'
        f"<p>{_emphasis(entry.claim)}.</p>"
        f'<p class="small">Figures {escape(entry.figures)}; {escape(entry.minutes)} minutes on two cores</p></div></article>'
    )


def _emphasis(claim: str) -> str:
    """Markdown's *emphasis* as HTML; the rest escaped."""
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", escape(claim))


def main(arguments: list[str]) -> int:
    """``python -m aep.site FOLDER``; errors on one line."""
    if len(arguments) != 1:
        print("usage: python -m aep.site FOLDER", file=sys.stderr)
        return 2
    try:
        written = build(Path(arguments[0]))
    except (AepError, OSError) as error:
        strerror, filename = getattr(error, "strerror", None), getattr(error, "filename", None)
        message = f"{strerror}: {str(filename)!r}" if strerror and filename else str(error)
        print(f"aep: {message}{make_room(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("aep: interrupted; finished pages are kept, and the same command makes all again", file=sys.stderr)
        return 130
    print(f"open {written[-1].resolve().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
