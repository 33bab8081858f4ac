"""Rewrite examples: the rows of every dataset, and their validation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import fingerprint

TEXT_COLUMNS = ("original_text", "rewritten_text", "rewrite_prompt")
OPTIONAL_COLUMNS = ("category", "rewriter", "source")
COLUMNS = ("id", *TEXT_COLUMNS, *OPTIONAL_COLUMNS)


@dataclass(frozen=True, slots=True)
class RewriteExample:
    """An original text, its rewrite, and the prompt that the rewriter was given."""

    id: str
    original_text: str
    rewritten_text: str
    rewrite_prompt: str
    category: str = ""
    rewriter: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row, and its place in messages, such as "train.csv, row 7"."""

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """A dataset's own names of our columns; with `id=None`, ids are derived from the texts."""

    id: str | None = "id"
    original_text: str = "original_text"
    rewritten_text: str = "rewritten_text"
    rewrite_prompt: str = "rewrite_prompt"
    category: str = "category"
    rewriter: str = "rewriter"
    source: str = "source"


@dataclass
class Dataset:
    """Validated examples with unique ids, in the order of their source.

    Attributes:
        name: The name that messages and run records use.
        examples: The examples.
        dropped: The number of rows that were left out, by reason. Nothing is dropped silently.
        also: The further columns that were asked for: name → id → text, blank where a row has none.
    """

    name: str
    examples: list[RewriteExample]
    dropped: dict[str, int] = field(default_factory=dict)
    also: dict[str, dict[str, str]] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """A hash that changes with any text or id, but not with the order of the rows."""
        return fingerprint(
            sorted(
                (e.id, e.original_text, e.rewritten_text, e.rewrite_prompt) for e in self.examples
            )
        )


def problem_with_text(value: Any) -> str | None:
    """The reason why `value` cannot be a text of an example; None if it can."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "is missing (null or NaN)"
    if not isinstance(value, str):
        return f"is not a text but a {type(value).__name__}"
    if not value.strip():
        return "is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds half a surrogate pair (broken Unicode)"
    return None


def validate(
    rows: Iterable[Row],
    name: str,
    columns: ColumnNames,
    drop_invalid: bool = False,
    also: Sequence[str] = (),
) -> Dataset:
    """Turns raw rows into a dataset.

    Args:
        rows: The rows, in order.
        name: The dataset's name in messages, for example the name of its file.
        columns: The source's names of the columns.
        drop_invalid: Whether to leave out rows with an unusable text and count them by reason,
            instead of raising an error at the first one. Duplicate ids always raise an error.
        also: Further columns to keep, such as somebody's predictions.

    Raises:
        PromptRecoveryError: If a column is missing, a text is unusable or an id is used twice. The
            message names the file, the row and the column, and says what to do.
    """
    examples: list[RewriteExample] = []
    dropped: dict[str, int] = {}
    seen: dict[str, str] = {}
    further: dict[str, dict[str, str]] = {column: {} for column in also}
    for row in rows:
        _require_columns(row, columns)
        problem = _problem_with_row(row, columns)
        if problem is not None:
            if not drop_invalid:
                raise PromptRecoveryError(
                    f"{row.place}: {problem}; fix the row, or leave such rows out with "
                    "data.drop_invalid=true"
                )
            dropped[problem] = dropped.get(problem, 0) + 1
            continue
        texts = {ours: row.values[getattr(columns, ours)] for ours in TEXT_COLUMNS}
        others = {
            ours: _optional(row.values.get(getattr(columns, ours))) for ours in OPTIONAL_COLUMNS
        }
        id_ = fingerprint(texts) if columns.id is None else str(row.values[columns.id]).strip()
        if id_ in seen:
            raise PromptRecoveryError(
                f"{row.place}: id '{id_}' was already used at {seen[id_]}; make ids unique, or "
                "derive them from the texts with data.columns.id=null after removing repeated rows"
            )
        seen[id_] = row.place
        examples.append(RewriteExample(id=id_, **texts, **others))
        for column, values in further.items():
            values[id_] = _optional(row.values.get(column))
    if not examples:
        reason = f" (left out: {dropped})" if dropped else ""
        raise PromptRecoveryError(f"{name}: holds no usable rows{reason}; check the file")
    return Dataset(name, examples, dropped, further)


def _require_columns(row: Row, columns: ColumnNames) -> None:
    for ours in ("id", *TEXT_COLUMNS):
        theirs = getattr(columns, ours)
        if theirs is not None and theirs not in row.values:
            present = ", ".join(map(str, row.values)) or "none"
            raise PromptRecoveryError(
                f"{row.place}: column '{theirs}' is missing (columns here: {present}); "
                f"map it with data.columns.{ours}=<your column>"
            )


def _problem_with_row(row: Row, columns: ColumnNames) -> str | None:
    if columns.id is not None and not _optional(row.values[columns.id]):
        return f"column '{columns.id}' is empty"
    for ours in TEXT_COLUMNS:
        theirs = getattr(columns, ours)
        problem = problem_with_text(row.values[theirs])
        if problem is not None:
            return f"column '{theirs}' {problem}"
    return None


def _optional(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value).strip()
