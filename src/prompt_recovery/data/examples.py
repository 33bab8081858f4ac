"""Rewrite examples: the rows of every dataset, and their validation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import fingerprint
from prompt_recovery.tables import counted

TEXT_COLUMNS = ("original_text", "rewritten_text", "rewrite_prompt")
OPTIONAL_COLUMNS = ("category", "rewriter", "source")
COLUMNS = ("id", *TEXT_COLUMNS, *OPTIONAL_COLUMNS)


_REPEATED = "repeats an earlier row"
_WITHOUT_IDS = "derive ids from the texts"
_LONGEST_PROMPT = 50_000  # characters: a completion is never cut, and must fit into memory


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
    """The names of our columns in a dataset; with `id=None`, ids are derived from the texts."""

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

    def dropped_rows(self) -> list[str]:
        """A sentence for each reason why rows were left out."""
        return [
            f"data {self.name}: left out {counted(n, 'row')}: {why}"
            for why, n in self.dropped.items()
        ]

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


def problem_with_prompt(value: Any) -> str | None:
    """The reason why `value` cannot be a prompt or another completion; None if it can."""
    problem = problem_with_text(value)
    if problem is None and len(value) > _LONGEST_PROMPT:
        return f"has {len(value):,} characters, and a prompt may have at most {_LONGEST_PROMPT:,}"
    return problem


def text_of_cell(value: Any) -> str:
    """The text of a cell that may hold a number, as ids do: 1.0 is "1", and null and NaN are "".

    Raises:
        ValueError: If it holds anything else, such as a list; the message completes "column 'id' ".
    """
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("is not a text but broken Unicode (half a surrogate pair)") from None
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal):
        if math.isfinite(value):
            return str(int(value)) if value == int(value) else str(value)
        raise ValueError("is infinite")
    raise ValueError(f"is not a text or a number but a {type(value).__name__}")


def id_of_cell(row: Row, column: str, otherwise: str) -> str:
    """The id in a row.

    Args:
        row: The row.
        column: The column with the ids.
        otherwise: What a user can do instead of giving the row an id, for the message.

    Raises:
        PromptRecoveryError: If the cell is empty, or holds neither a text nor a number.
    """
    try:
        id_ = text_of_cell(row.values[column]).strip()
        problem = "" if id_ else "is empty"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise PromptRecoveryError(
            f"{row.place}: column '{column}' {problem}; give the row an id, or {otherwise}"
        )
    return id_


def require_columns(row: Row, names: Iterable[str], advice: str) -> None:
    """Checks that a row has columns.

    Args:
        row: The row.
        names: The names of the columns in the file.
        advice: What a user can do, for the message.

    Raises:
        PromptRecoveryError: If it lacks some. The message names all of them, and those that it has.
    """
    missing = [name for name in names if name not in row.values]
    if missing:
        *first, last = (f"'{name}'" for name in missing)
        said = f"columns {', '.join(first)} and {last} are" if first else f"column {last} is"
        present = ", ".join(map(str, row.values)) or "none"
        raise PromptRecoveryError(
            f"{row.place}: {said} missing (columns here: {present}); {advice}"
        )


def require_mapped(
    row: Row, names: Mapping[str, str | None], setting: str, without_ids: str
) -> None:
    """Checks that a row has the columns that ours are mapped to.

    Args:
        row: The row.
        names: Our columns, each with its name in the file; None is one that the file lacks.
        setting: The setting that maps them, such as "data.columns".
        without_ids: What `<setting>.id=null` does, such as "number the rows".

    Raises:
        PromptRecoveryError: As for `require_columns`. The message gives the settings.
    """
    wanted = {theirs: ours for ours, theirs in names.items() if theirs is not None}
    missing = [ours for theirs, ours in wanted.items() if theirs not in row.values]
    mapped = " ".join(f"{setting}.{ours}=<your column>" for ours in missing)
    advice = f"map {'them' if len(missing) > 1 else 'it'} with {mapped}"
    if "id" in missing:
        advice += f", or {without_ids} with {setting}.id=null"
    require_columns(row, wanted, advice)


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
            instead of raising an error at the first one. Duplicate ids always raise an error,
            except where ids come from the texts: a repeated row is left out and counted.
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
        wanted = {ours: getattr(columns, ours) for ours in ("id", *TEXT_COLUMNS)}
        require_mapped(row, wanted, "data.columns", _WITHOUT_IDS)
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
        others = {ours: optional_cell(row, getattr(columns, ours)) for ours in OPTIONAL_COLUMNS}
        if columns.id is None:
            id_ = fingerprint(texts)
            if id_ in seen:
                dropped[_REPEATED] = dropped.get(_REPEATED, 0) + 1
                continue
        else:
            id_ = text_of_cell(row.values[columns.id]).strip()
        if id_ in seen:
            raise PromptRecoveryError(
                f"{row.place}: id '{id_}' was already used at {seen[id_]}; make ids unique, or "
                f"{_WITHOUT_IDS} with data.columns.id=null, which leaves out rows that repeat an "
                "earlier one"
            )
        seen[id_] = row.place
        examples.append(RewriteExample(id=id_, **texts, **others))
        for column, values in further.items():
            values[id_] = optional_cell(row, column)
    if not examples:
        reason = f" (left out: {dropped})" if dropped else ""
        raise PromptRecoveryError(f"{name}: holds no usable rows{reason}; check the file")
    return Dataset(name, examples, dropped, further)


def _problem_with_row(row: Row, columns: ColumnNames) -> str | None:
    if columns.id is not None:
        try:
            if not text_of_cell(row.values[columns.id]).strip():
                return f"column '{columns.id}' is empty"
        except ValueError as error:
            return f"column '{columns.id}' {error}"
    for ours in TEXT_COLUMNS:
        theirs = getattr(columns, ours)
        check = problem_with_prompt if ours == "rewrite_prompt" else problem_with_text
        problem = check(row.values[theirs])
        if problem is not None:
            return f"column '{theirs}' {problem}"
    return None


def optional_cell(row: Row, column: str) -> str:
    """The text in a column that a row may lack, without blanks around it."""
    try:
        return text_of_cell(row.values.get(column)).strip()
    except ValueError as error:
        raise PromptRecoveryError(
            f"{row.place}: column '{column}' {error}; correct it or remove the column"
        ) from None
