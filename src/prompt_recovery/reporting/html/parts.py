"""What pages are made of. Every text is escaped unless it is `Markup`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from prompt_recovery.reporting.html.page import render
from prompt_recovery.tables import Table

Tone = Literal["", "good", "bad"]


@dataclass(frozen=True)
class Fact:
    """One of the few numbers that a page begins with."""

    label: str
    value: str
    detail: str = ""
    tone: Tone = ""


def facts(items: Sequence[Fact]) -> Markup:
    """Facts side by side."""
    return render("facts.html.jinja", items=items)


def paragraph(text: str | Markup, kind: Literal["", "quiet", "verdict"] = "") -> Markup:
    """A paragraph: plain, in the background, or as the page's first sentence."""
    return Markup('<p class="{}">{}</p>\n').format(kind, text)


def html_table(table: Table, tones: Mapping[str, Tone] | None = None) -> Markup:
    """A table that scrolls sideways where it doesn't fit; its first column stays in sight.

    Args:
        table: its title becomes the caption.
        tones: cells of these texts are coloured as good or bad.
    """
    kinds = [
        "text" if column in table.wide else "number" if numeric else ""
        for column, numeric in enumerate(table.numeric)
    ]
    return render("table.html.jinja", table=table, kinds=kinds, tones=tones or {})


def heat_table(
    headings: Sequence[str],
    rows: Sequence[tuple[str, str, Sequence[float]]],
    highest: float,
    caption: str,
) -> Markup:
    """A table of numbers, each on a colour that is the stronger the higher it is.

    Args:
        headings: of the first two columns and the numbers'.
        rows: a name, something about it (its size), and the numbers.
        highest: the number on the strongest colour, > 0; those ≤ 0 have none.
        caption: what it shows; that colours rise with numbers is said after it.
    """
    shaded = [
        (name, about, [(f"{value:.3f}", min(max(value / highest, 0), 1)) for value in values])
        for name, about, values in rows
    ]
    return render("heat.html.jinja", headings=headings, rows=shaded, caption=caption)
