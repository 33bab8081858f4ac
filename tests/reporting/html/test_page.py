import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
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
from prompt_recovery.reporting.html.charts import COLOURS
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


# Machado, Oliveira and Fernandes, 2009: linear RGB as seen without green or without red cones.
_WITHOUT_GREEN = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
_WITHOUT_RED = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
_XYZ = [[0.4339, 0.3763, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8729]]


def lab(colours, seen):
    """CIELAB of hexadecimal colours, [n, 3]."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    f = np.cbrt(np.clip(linear @ np.array(seen).T, 0, 1) @ np.array(_XYZ).T)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_lines_of_a_chart_are_told_apart_by_their_colours(mode):
    css = (files("prompt_recovery.reporting.html") / "page.css").read_text("utf-8")
    colours = [re.findall(rf"--s{n}: (#\w+)", css)[mode] for n in range(COLOURS)]
    for seen, least in ((np.eye(3), 40), (_WITHOUT_GREEN, 20), (_WITHOUT_RED, 20)):
        values = lab(colours, seen)
        apart = np.linalg.norm(values[:, None] - values, axis=2)
        assert apart[np.triu_indices(COLOURS, 1)].min() > least
