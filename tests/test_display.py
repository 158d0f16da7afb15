"""The coloured token map: escaped, bounded, readable on white and on black, and whole characters where bytes are tokens."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import aep
from aep._display import SHOWN, pieces, visible
from aep.languages import FiniteLanguage, MarkovChain


class Bytes(FiniteLanguage):
    """A language whose tokens are the 256 bytes of UTF-8, uniform."""

    def __init__(self):
        super().__init__(np.full(256, 1 / 256), name="bytes")

    def encode(self, text):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def decode(self, ids):
        return bytes(int(i) for i in ids).decode("utf-8", errors="replace")


class Marks(HTMLParser):
    """Tags, texts of the tokens, and styles of a piece of HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.tokens, self.styles, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "span":
            self.tokens.append("")
            self.styles.append(dict(attrs)["style"])

    def handle_data(self, data):
        self.text += data
        if self.tags and self.tags[-1] == "span" and self.get_starttag_text().startswith("<span"):
            self.tokens[-1] += data


@pytest.fixture(scope="module")
def raw():
    return Bytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("né", ["n", "·", "é"]),
        ("€😀", ["·", "·", "€", "·", "·", "·", "😀"]),
        ("a\n\t\r", ["a", "⏎\n", "⇥\t", "\\r"]),
        ("  ", ["␣", "␣"]),
        ("\x1b\x00", ["\\x1b", "\\x00"]),
    ],
)
def test_a_character_of_several_bytes_shows_once_and_others_are_made_visible(raw, text, expected):
    assert pieces(raw.decode, raw.encode(text)) == expected


def test_bytes_that_are_no_character_show_as_dots_and_never_as_boxes(raw):
    rng = np.random.default_rng(0)
    for ids in ([0xFF, 0x41, 0xE2, 0x82], rng.integers(256, size=200), rng.integers(0x80, 0x100, size=50)):
        shown = pieces(raw.decode, np.array(ids))
        assert len(shown) == len(ids) and all(shown) and "\ufffd" not in "".join(shown)
    assert pieces(raw.decode, np.array([0xFF, 0x41, 0xE2, 0x82])) == ["·", "A", "·", "·"]


def test_a_character_that_the_cut_splits_is_not_shown_as_broken_text(raw):
    assert pieces(raw.decode, raw.encode("aé€"), 5) == ["a", "·", "é", "·", "·"]


@pytest.mark.parametrize("text", ["naïve — €5 😀", " leading, and  double\n\n    indented", "Ünïcödé ﷽ 漢字"])
def test_the_pieces_of_a_byte_level_model_join_to_the_text(text):
    language = aep.load("docs-400k")
    ids = language.encode(text)
    shown = pieces(language.decode, ids)
    joined = "".join(p for p in shown if p != "·").replace("⏎", "").replace("␣", " ")
    assert len(shown) == len(ids) and joined == text


def test_spaces_between_the_pieces_of_a_sentencepiece_model_are_kept(stories260k):
    language = aep.load(stories260k)
    shown = pieces(language.decode, language.encode("Once upon a time, é"))
    assert "".join(shown).replace("·", "") == "Once upon a time, é".replace(", é", ",␣é")


def test_codes_that_would_turn_or_hide_text_are_shown_as_codes():
    assert visible("a\u202eb\u200bc\ufeff") == "a\\u202eb\\u200bc\\ufeff"
    assert visible("👩\u200d💻") == "👩\u200d💻"  # a joiner is part of an emoji


EVIL = ["<script>x</script>", '"><img src=x onerror=y>', "&lt;b&gt;", "'"]


def test_a_token_cannot_leave_its_place(tmp_path):
    language = FiniteLanguage([0.4, 0.3, 0.2, 0.1], symbols=EVIL, name="<i>evil</i>")
    texts = aep.sample(language, [[1], [0]], texts=2, tokens=30, seed=3)
    for html in (texts._repr_html_(), aep.score(texts, language)._repr_html_()):
        found = Marks(html)
        assert set(found.tags) <= {"p", "b", "div", "span", "i"}
        assert set(EVIL) <= {t.strip() for t in found.tokens} and "<i>evil</i>" in found.text


def test_a_long_text_and_a_long_token_are_cut_and_said_to_be():
    chain = MarkovChain([[0.5, 0.5], [0.2, 0.8]], [0.5, 0.5])
    texts = aep.sample(chain, texts=4, tokens=1000, seed=0)
    html = texts._repr_html_()
    assert Marks(html).tags.count("span") <= SHOWN
    assert "the first 3:" in html and html.count("867 more tokens: the first 133 of 1000 are shown") == 3
    html = aep.score(texts, chain)._repr_html_()
    assert Marks(html).tags.count("span") == SHOWN and "the first 400 of 1000 are shown" in html
    assert len(html) < 120_000
    endless = FiniteLanguage([0.5, 0.5], symbols=["a" * 10**5, "b"])
    html = aep.score([[0, 1]], endless)._repr_html_()
    assert len(html) < 5000 and "a…" in html


def test_texts_show_their_prompt_and_what_they_were_drawn_with():
    chain = MarkovChain([[0.5, 0.5], [0.2, 0.8]], [0.5, 0.5])
    texts = aep.sample(chain, [[1] * 500], tokens=5, seed=0)
    found = Marks(texts._repr_html_())
    assert "…" in found.text and len(found.tokens) == 5
    assert "surprisal (nats) under the law it was drawn from" in found.text
    given = aep.Texts.from_ids(chain, [[0, 1, 1]])._repr_html_()
    assert "drawn" not in given and Marks(given).text.endswith("tokensa b b")


def test_the_legend_states_the_meaning_of_colours_and_marks(raw):
    text = Marks(aep.score([raw.encode("é a")], raw)._repr_html_()).text
    assert "blue is less surprising than the model expects, red more" in text
    assert "· part of a character" in text and "␣ a token of spaces" in text
    assert "part of a character" not in Marks(aep.score([raw.encode("abc")], raw)._repr_html_()).text


def contrast(letters: np.ndarray, ground: np.ndarray) -> float:
    """The contrast ratio of WCAG 2 between two sRGB colours (0...255)."""

    def luminance(colour):
        c = np.asarray(colour) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    a, b = sorted((float(luminance(letters)), float(luminance(ground))))
    return (b + 0.05) / (a + 0.05)


def test_letters_stay_readable_on_every_ground_in_a_light_and_in_a_dark_notebook():
    sure = FiniteLanguage([1.0, 0.0])  # its second symbol is infinitely surprising: the deepest ground there is
    chain = MarkovChain([[0.01, 0.99], [0.5, 0.5]], [0.5, 0.5])
    shown = [aep.score([[0, 1, 0]], sure), aep.score([[0, 0, 0]], chain), aep.sample(chain, tokens=300, seed=0)]
    html = "".join(part._repr_html_() for part in shown)
    assert not re.search(r"[; \"]color:", html), "letters follow the theme"
    grounds = set(re.findall(r"background:rgba\((\d+),(\d+),(\d+),([\d.]+)\)", html))
    assert max(float(alpha) for *_, alpha in grounds) == 0.6
    for page, letters in (((255, 255, 255), (33, 33, 33)), ((17, 17, 17), (221, 221, 221))):
        for *rgb, alpha in grounds:
            mixed = float(alpha) * np.array(rgb, float) + (1 - float(alpha)) * np.array(page)
            assert contrast(np.array(letters), mixed) >= 4.5, (page, rgb, alpha)


def test_blue_and_red_are_told_apart_by_the_colour_blind():
    # Viénot, Brettel & Mollon 1999: what a dichromat sees of a linear RGB colour (protan, deutan).
    protan = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
    deutan = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
    below, above = ((np.array(c) / 255) ** 2.2 for c in ((5, 113, 176), (202, 0, 32)))
    for seen in (np.eye(3), protan, deutan):
        a, b = (np.clip(np.array(seen) @ c, 0, 1) ** (1 / 2.2) for c in (below, above))
        assert np.linalg.norm(a - b) > 0.4


def test_an_impossible_token_under_a_sure_law_is_red_and_a_number_that_is_none_has_no_ground():
    html = aep.score([[0, 1, 0]], FiniteLanguage([1.0, 0.0]))._repr_html_()
    assert [s.rpartition(",")[2] for s in Marks(html).styles] == ["0.00)", "0.60)", "0.00)"]
    assert "202,0,32" in Marks(html).styles[1]
