"""Building blocks of pages. Every text is escaped unless it is `Markup`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from markupsafe import Markup

from prompt_recovery.reporting.html.page import render
from prompt_recovery.tables import Table, one_line

Tone = Literal["", "good", "bad"]


@dataclass(frozen=True)
class Fact:
    """One of the key numbers at the beginning of a page."""

    label: str
    value: str
    detail: str = ""
    tone: Tone = ""


def facts(items: Sequence[Fact]) -> Markup:
    """Renders facts side by side."""
    return render("facts.html.jinja", items=items)


def paragraph(text: str | Markup, kind: Literal["", "quiet", "verdict"] = "") -> Markup:
    """Renders a paragraph: plain, less prominent ("quiet"), or as the page's verdict."""
    return Markup('<p class="{}">{}</p>\n').format(kind, text)


def html_table(table: Table, tones: Mapping[str, Tone] | None = None) -> Markup:
    """Renders a table, which scrolls sideways if it is too wide. Its first column stays visible.

    Args:
        table: The table. Its title becomes the caption.
        tones: Texts of cells that are coloured as good or bad.
    """
    kinds = [
        "text" if column in table.wide else "number" if numeric else ""
        for column, numeric in enumerate(table.numeric)
    ]
    table = replace(table, rows=[[one_line(cell) for cell in row] for row in table.rows])
    return render("table.html.jinja", table=table, kinds=kinds, tones=tones or {})


def heat_table(
    headings: Sequence[str],
    rows: Sequence[tuple[str, str, Sequence[float]]],
    highest: float,
    caption: str,
) -> Markup:
    """Renders a table of numbers, with stronger background colours for higher numbers.

    Args:
        headings: Headings of the first two columns and of the numbers.
        rows: Rows of a name, a detail such as its size, and the numbers.
        highest: The number with the strongest colour, > 0. Numbers ≤ 0 have no colour.
        caption: Description of the table. A note about the colours is appended.
    """
    shaded = [
        (name, about, [(f"{value:.3f}", min(max(value / highest, 0), 1)) for value in values])
        for name, about, values in rows
    ]
    return render("heat.html.jinja", headings=headings, rows=shaded, caption=caption)
