"""Tables, and their renderings for terminals, in Markdown and in HTML.

`reporting.html` renders them for the pages of reports, and `to_html` for other pages. Texts in
tables are data: no rendering interprets them as markup.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import rich.table
from rich.console import Console
from rich.text import Text

from prompt_recovery.errors import printable

_NUMBER = r"(?:p [<=] |< )?[+-]?[\d.,]+ ?%?"
# One number, an interval, a dash, or nothing.
_NUMBERS = re.compile(f"(?:{_NUMBER}(?: … {_NUMBER})?|–)?")


@dataclass(frozen=True)
class Table:
    """A table of texts and numbers.

    Attributes:
        headings: The headings of c columns.
        rows: Rows of c cells each. The first cell is the name of the row. A tuple is a cell of
            several lines in a terminal, and of one line elsewhere.
        title: A title, which may be empty.
        best: Index of a row that is printed in bold, if any.
        wide: Indices of columns with long texts, which share the remaining width.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    best: int | None = None
    wide: Sequence[int] = ()

    @property
    def numeric(self) -> list[bool]:
        """Whether each column contains numbers only. Such columns are right-aligned."""
        columns = [[one_line(row[n]) for row in self.rows] for n in range(len(self.headings))]
        return [
            number not in self.wide and all(map(_NUMBERS.fullmatch, column))
            for number, column in enumerate(columns)
        ]


def one_line(cell: Any) -> str:
    """Returns the text of a cell. The lines of a tuple are joined with spaces."""
    return " ".join(map(str, cell)) if isinstance(cell, tuple) else str(cell)


def escape_markdown(text: str) -> str:
    """Returns a text in one line, in which nothing is Markdown, HTML or the end of a table cell."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]>|#~$])", r"\\\1", line)


def to_markdown(table: Table) -> str:
    """Returns the table in Markdown, without its title and without a final line break."""

    def line(cells: Sequence[Any]) -> str:
        return f"| {' | '.join(escape_markdown(one_line(cell)) for cell in cells)} |"

    ruler = f"| {' | '.join('---:' if right else '---' for right in table.numeric)} |"
    return "\n".join([line(table.headings), ruler, *map(line, table.rows)])


def to_html(table: Table) -> str:
    """Returns the table as plain HTML without classes, with everything escaped."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in table.headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(one_line(cell))}</td>' for cell in row)}</tr>"
        for row in table.rows
    )
    return (
        f"<table><caption>{escape(table.title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def to_terminal(table: Table) -> rich.table.Table:
    """Converts the table to one of rich, which prints it as wide as the terminal allows."""
    drawn = rich.table.Table(title=Text(printable(table.title)), title_justify="left")
    several = any(isinstance(cell, tuple) and len(cell) > 1 for row in table.rows for cell in row)
    drawn.show_lines = bool(table.wide) or several
    for number, (heading, right) in enumerate(zip(table.headings, table.numeric, strict=True)):
        drawn.add_column(
            Text(printable(heading)),
            justify="right" if right else "left",
            overflow="fold",
            ratio=1 if number in table.wide else None,
        )
    for number, row in enumerate(table.rows):
        cells = (cell if isinstance(cell, tuple) else (cell,) for cell in row)
        drawn.add_row(
            *(Text("\n".join(printable(str(line)) for line in lines)) for lines in cells),
            style="bold" if number == table.best else "",
        )
    return drawn


def counted(number: int, noun: str) -> str:
    """Returns a number with a noun, in the plural unless the number is 1: `1 run`, `1,249 rows`."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def print_tables(*tables: Table) -> None:
    """Prints tables to the terminal, one below the other.

    A title is a line of its own: within a table of rich, it would be wrapped at the table's width.
    """
    console = Console()
    for table in tables:
        if table.title:
            console.print(Text(printable(table.title), style="table.title"))
        console.print(to_terminal(replace(table, title="")))
