"""Marked texts: every word is there once, escaped, and is readable without its colour."""

import pytest

from prompt_recovery.recovery.spans import Evidence, Span
from prompt_recovery.reporting.html import evidence_css, evidence_html
from tests.reporting.html.test_page import ATTACK, Checked

ORIGINAL = f"It rained. {ATTACK} The end."
REWRITTEN = "Arr, it rained & rained!"
SPANS = (
    Span("original", 0, 10, 0.5),
    Span("original", 11, 11 + len(ATTACK), -1.0),
    Span("rewritten", 0, 4, 2.0),
    Span("rewritten", 5, 14, 0.01),
)
VIEWS = [
    Evidence(f"model {ATTACK}", "occlusion", "log_probability", -12.3456, SPANS),
    Evidence("retriever", "integrated_gradients", "cosine", 0.4321, SPANS[2:]),
]


class Marks(Checked):
    """The attributes of each mark, and its text."""

    def __init__(self, html):
        self.marks = []
        super().__init__(html)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        if tag == "mark":
            self.marks.append([dict(attrs), ""])

    def handle_data(self, data):
        super().handle_data(data)
        if "mark" in self.open:
            self.marks[-1][1] += data


@pytest.fixture(scope="module")
def html():
    return str(evidence_html(VIEWS, ORIGINAL, REWRITTEN))


def test_both_texts_stand_there_whole_and_escaped(html):
    parsed = Checked(html)
    assert not {"script", "img"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert html.count("&lt;script&gt;") == 3  # twice in the text, once in the name
    plain = "".join(parsed.text)
    assert f"It rained.+0.50 {ATTACK}-1.00 The end." in plain
    assert "Arr,+2.00 it rained & rained!" in plain


def test_marks_say_for_or_against_with_their_number(html):
    marks = Marks(html).marks
    first = {attributes["title"]: (attributes, text) for attributes, text in marks[:3]}
    assert list(first) == ["+0.50", "-1.00", "+2.00"]
    assert first["+0.50"][0]["class"] == "for"
    assert first["-1.00"][0]["class"] == "against"
    assert first["+2.00"][0]["style"] == "--share:1.0"
    assert first["+0.50"][0]["style"] == "--share:0.25"
    assert first["-1.00"][1] == f"{ATTACK}-1.00"
    assert "+2.000" in html, "cosines have three digits"


def test_weak_spans_have_their_number_on_hover_only(html):
    assert '<span title="+0.01">it rained</span>' in html


def test_words_that_were_not_read_say_so(html):
    assert html.count('class="unread" title="not read by this model"') >= 2
    assert "The end." in html
    assert "Words in italics were not read." in html


def test_italics_are_explained_where_there_are_any():
    view = Evidence("m", "occlusion", "cosine", 0.5, (Span("original", 0, 4, 1.0),))
    assert "italics" not in str(evidence_html([view], "word", ""))
    assert "italics" in str(evidence_html([view], "word more", ""))


def test_no_evidence_is_nothing():
    assert str(evidence_html([], "a", "b")).strip() == ""


def test_long_texts_are_cut_after_their_last_span():
    text = "word " * 2000
    view = Evidence("m", "occlusion", "cosine", 0.5, (Span("original", 2995, 2999, 1.0),))
    shown = "".join(Checked(str(evidence_html([view], text, "x"))).text)
    assert shown.count("[…]") == 2, "before the span and after it"
    assert len(shown) < 700


def test_of_words_that_were_not_read_the_middle_is_left_out():
    text = f"read{' unread' * 100} the last"
    view = Evidence("m", "occlusion", "cosine", 0.5, (Span("original", 0, 4, 1.0),))
    shown = "".join(Checked(str(evidence_html([view], text, "x"))).text)
    assert shown.count("[…]") == 1
    assert shown.count("unread") < 30
    assert "the last" in shown, "the end stays"


def test_the_style_needs_no_colour_to_tell_for_from_against():
    css = evidence_css()
    assert "solid" in css
    assert "dotted" in css
    assert "color: inherit" in css, "texts keep their contrast in dark and light"
    assert "url(" not in css
