"""One table, three renderings: the terminal, Markdown and (in `reporting.html`) a page.

The texts in a table are data: no rendering takes them for markup.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
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
        headings: of c columns.
        rows: of c cells each; the first cell names the row.
        title: what the table shows; may be empty.
        best: the index of the row that is set in bold, if there is one.
        wide: the indices of columns that hold long texts; they get the room that is left.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    best: int | None = None
    wide: Sequence[int] = ()

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it holds nothing but numbers; such columns are right-aligned."""
        columns = [[str(row[n]) for row in self.rows] for n in range(len(self.headings))]
        return [
            number not in self.wide and all(map(_NUMBERS.fullmatch, column))
            for number, column in enumerate(columns)
        ]


def escape_markdown(text: str) -> str:
    """A text in one line that no renderer takes for markup, HTML or the end of a table's cell."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]>|#~$])", r"\\\1", line)


def to_markdown(table: Table) -> str:
    """The table in Markdown, without its title and without a line break at the end."""

    def line(cells: Sequence[Any]) -> str:
        return f"| {' | '.join(escape_markdown(str(cell)) for cell in cells)} |"

    ruler = f"| {' | '.join('---:' if right else '---' for right in table.numeric)} |"
    return "\n".join([line(table.headings), ruler, *map(line, table.rows)])


def to_terminal(table: Table) -> rich.table.Table:
    """The table for rich, which prints it as wide as the terminal allows."""
    drawn = rich.table.Table(title=Text(printable(table.title)), title_justify="left")
    drawn.show_lines = bool(table.wide)
    for number, (heading, right) in enumerate(zip(table.headings, table.numeric, strict=True)):
        drawn.add_column(
            Text(printable(heading)),
            justify="right" if right else "left",
            overflow="fold",
            ratio=1 if number in table.wide else None,
        )
    for number, row in enumerate(table.rows):
        cells = (Text(printable(str(cell))) for cell in row)
        drawn.add_row(*cells, style="bold" if number == table.best else "")
    return drawn


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is one: `1 run`, `1,249 rows`."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def print_tables(*tables: Table) -> None:
    """Prints tables to the terminal, one below the other."""
    console = Console()
    for table in tables:
        console.print(to_terminal(table))
