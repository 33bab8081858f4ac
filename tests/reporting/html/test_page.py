import re
from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from prompt_recovery.reporting.html import (
    Fact,
    Interval,
    Line,
    Section,
    facts,
    heat_table,
    html_table,
    interval_chart,
    line_chart,
    page,
    paragraph,
    write_page,
)
from prompt_recovery.tables import Table

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "path", "polyline", "circle"}


class Checked(HTMLParser):
    """Tags, attributes and text of a page; raises at tags that don't match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def hostile():
    """A page on which every text is an attack."""
    body = (
        paragraph(ATTACK)
        + html_table(Table([ATTACK, "n"], [[ATTACK, "1"], ["b", ATTACK]], ATTACK, best=0))
        + heat_table([ATTACK, "n", ATTACK], [(ATTACK, ATTACK, [0.2, -0.1])][:1], 0.5, ATTACK)
        + interval_chart([Interval(ATTACK, 0.1, 0.05, 0.2), Interval("b", -0.1, -0.2, 0.0)], ATTACK)
        + line_chart([Line(ATTACK, [(0, 0)]), Line("b", [(1, 1)])], ATTACK, ATTACK, ATTACK, True)
    )
    lead = facts([Fact(ATTACK, ATTACK, ATTACK)])
    return page(ATTACK, [Section(ATTACK, body), Section("More", Markup(""))], lead, ATTACK)


def test_texts_are_data(hostile):
    parsed = Checked(hostile)
    assert not {"script", "img", "iframe", "link"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert "".join(parsed.text).count("alert(1)</script>") >= 14
    assert "49" not in "".join(parsed.text)


def test_a_page_needs_nothing_but_itself(hostile):
    parsed = Checked(hostile)
    assert not [v for n, v in parsed.attributes if n == "src"]
    assert all(value.startswith("#") for name, value in parsed.attributes if name == "href")
    style = re.search(r"<style>(.*)</style>", hostile, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert ("content", "width=device-width, initial-scale=1") in parsed.attributes
    assert any("default-src 'none'" in (v or "") for _, v in parsed.attributes)


def test_links_lead_to_their_sections():
    html = page("T", [Section("By category", Markup("")), Section("What it cost?", Markup(""))])
    parsed = Checked(html)
    links = [v.removeprefix("#") for n, v in parsed.attributes if n == "href"]
    assert links == ["by-category", "what-it-cost"]
    assert set(links) <= {v for n, v in parsed.attributes if n == "id"}


def test_bars_and_intervals_stand_where_their_values_are():
    html = interval_chart([Interval("a", 0.5, 0.25, 0.75), Interval("b", 1.0, 1.0, 1.0)], "c")
    number = r"([\d.]+)"
    [first, second] = re.findall(rf'class="range" style="left:{number}%;width:{number}%', html)
    assert float(second[0]) == 100
    assert float(first[0]) == 25
    assert float(first[1]) == 50


def test_a_line_goes_through_its_points():
    html = line_chart([Line("l", [(0, 0), (10, 1)])], "x", "y", "c")
    [[x0, y0], [x1, y1]] = [
        map(float, p.split(",")) for p in re.search(r'points="([^"]+)"', html)[1].split()
    ]
    assert x0 < x1
    assert y0 > y1, "up is less in SVG"


def test_broken_unicode_does_not_stop_a_page(tmp_path):
    write_page(tmp_path / "a.html", page("half a \ud83d", []))
    assert "half a ?" in (tmp_path / "a.html").read_text("utf-8")
