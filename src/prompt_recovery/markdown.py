"""Markdown of which texts are never a part, only a content."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_NUMBER = r"[+-]?[\d.,]+ ?%?"
_NUMBERS = re.compile(f"({_NUMBER}( … {_NUMBER})?)?")  # one, an interval, or nothing


def escape(text: str) -> str:
    """A text in one line that no renderer takes for markup, HTML or the end of a table's cell."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]>|#~$])", r"\\\1", line)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
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
        for row in (map(escape, headings), kinds, *(map(escape, row) for row in cells))
    )
