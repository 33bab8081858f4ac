"""What pages are made of. Every text is escaped unless it is `Markup`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from prompt_recovery.reporting.html.page import render

Tone = Literal["", "good", "bad"]
Column = Literal["number", "text", ""]


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


def table(
    headings: Sequence[str | Markup],
    rows: Sequence[Sequence[str | Markup]],
    columns: Sequence[Column] = (),
    best: int | None = None,
    caption: str = "",
) -> Markup:
    """A table that scrolls sideways where it doesn't fit; its first column stays in sight.

    Args:
        headings: of c columns.
        rows: of c cells; the first is the row's heading.
        columns: how the columns are set, c of them: numbers to the right, texts wide; by default
            all but the first are numbers.
        best: the row to set in bold.
        caption: what it shows.
    """
    numbers: list[Column] = ["number"] * (len(headings) - 1)
    return render(
        "table.html.jinja",
        headings=headings,
        rows=rows,
        kinds=columns or ["", *numbers],
        best=best,
        caption=caption,
    )


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
