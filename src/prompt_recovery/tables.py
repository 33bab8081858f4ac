"""Tables in Markdown and on the terminal, in which a text is always data and never markup."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

_NUMBER = r"[+-]?[\d.,]+ ?%?"
_NUMBERS = re.compile(f"({_NUMBER}( … {_NUMBER})?)?")  # one, an interval, or nothing


def escape_markdown(text: str) -> str:
    """A text in one line that no renderer takes for markup, HTML or the end of a table's cell."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]>|#~$])", r"\\\1", line)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts and numbers, without an end of line; columns of numbers lean right.

    Args:
        headings: c texts.
        rows: of c cells each.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    columns = zip(*cells, strict=True) if cells else [("",)] * len(headings)
    kinds = ["---:" if all(map(_NUMBERS.fullmatch, column)) else "---" for column in columns]
    return "\n".join(
        f"| {' | '.join(row)} |"
        for row in (
            map(escape_markdown, headings),
            kinds,
            *(map(escape_markdown, row) for row in cells),
        )
    )


def terminal_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], best: int | None, title: str
) -> Table:
    """A table for the terminal, the best row in bold."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", ratio=2 if number == 0 else None)
    for number, row in enumerate(rows):
        table.add_row(*(Text(cell) for cell in row), style="bold" if number == best else "")
    return table
