"""Files of pairs, and the settings of a call of `recover` with one."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prompt_recovery.changes.text import require_measures
from prompt_recovery.data.examples import Row, id_of_cell, require_mapped, text_of_cell
from prompt_recovery.data.files import read_rows
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.predictions import format_of
from prompt_recovery.recovery.spans import Explain, method_of, require_method
from prompt_recovery.settings import AnyPath, Cosine
from prompt_recovery.storage import fingerprint, same_file

log = logging.getLogger(__name__)

_BATCH = 32  # pairs whose results are saved together
_WITHOUT_IDS = "number the rows"


@dataclass(frozen=True)
class PairColumns:
    """Column names in a file of pairs. If `id` is None, the rows are numbered from 0."""

    id: str | None = "id"
    original_text: str = "original_text"
    rewritten_text: str = "rewritten_text"


@dataclass(frozen=True, kw_only=True)
class RecoveryOptions:
    """The settings that the configuration of `recover` and its job share.

    Attributes:
        input: Pairs to recover: CSV, JSONL or Parquet, also .csv.gz and .jsonl.gz; None for one
            pair.
        output: The file of answers. A .csv file has the columns id,rewrite_prompt; .jsonl and
            .parquet files also have candidates and confidence.
        original: The original text of one pair, in place of a file.
        rewritten: What a model made of it.
        columns: The names of the columns in the input; columns.id=null numbers the rows from 0.
        threshold: Answers with a lower expected SCS are replaced by the mean prompt. None replaces
            none.
        measures: Whether to show measures of both texts, such as length, reading level and tone: as
            a table for one pair, and in a column of .jsonl and .parquet outputs. None does so for
            one pair if the extra [measures] is installed.
        explain: Whether answers come with evidence, the words of both texts that support them. true
            or occlusion measures how much the answer loses when the words are left out;
            integrated_gradients, with Captum (extra `explain`), measures the share of each word.
            This takes about as long as the answer, or several times as long. A .csv output has
            no evidence.
    """

    input: AnyPath | None = None
    output: AnyPath = "submission.csv"
    original: str | None = None
    rewritten: str | None = None
    columns: PairColumns = field(default_factory=PairColumns)
    threshold: Cosine | None = None
    measures: bool | None = None
    explain: Explain = False

    def refuse_contradictions(self, confidence: bool) -> None:
        """Checks the settings against each other.

        Args:
            confidence: Whether answers have a confidence, which `threshold` needs.

        Raises:
            PromptRecoveryError: If neither a file nor a pair is given, or both; if a text is blank;
                if `threshold` has nothing to compare with; if the output's format is unknown or
                the output is the input; if `measures` or `explain` are asked for where a CSV file
                has no column for them; or if their extra is not installed.
        """
        if self.input is None and self.original is None and self.rewritten is None:
            raise PromptRecoveryError(
                "give input=<file of pairs>, or original=<text> and rewritten=<text>"
            )
        require_whole_pair(self.original, self.rewritten)
        if self.input is not None and self.original is not None:
            raise PromptRecoveryError(
                "input= is a file of pairs, and original= and rewritten= are one pair: give one or "
                "the other"
            )
        for name, text in (("original", self.original), ("rewritten", self.rewritten)):
            if text is not None and not text.strip():
                raise PromptRecoveryError(f"{name}=: the text is blank; give both texts")
        if self.threshold is not None and not confidence:
            raise PromptRecoveryError(
                f"threshold={self.threshold} needs confidence=true: it is an expected SCS"
            )
        if self.measures:
            require_measures()
        require_method(method_of(self.explain))
        if self.input is not None:
            csv = format_of(Path(self.output)) == ".csv"
            if csv and self.measures:
                raise PromptRecoveryError(
                    f"measures=true needs output=<.jsonl or .parquet>: {self.output} is a "
                    "submission, which has no further columns"
                )
            if csv and method_of(self.explain) is not None:
                raise PromptRecoveryError(
                    f"explain={str(self.explain).lower()} needs output=<.jsonl or .parquet>: "
                    f"{self.output} is a submission, which has no further columns"
                )
            if same_file(Path(self.input).expanduser(), Path(self.output).expanduser()):
                raise PromptRecoveryError(
                    f"output={self.output}: is the input, which would be overwritten; give another "
                    "file"
                )

    def pairs(self) -> list[Pair]:
        """Returns the pairs of the file; none if there is no file.

        Raises:
            PromptRecoveryError: As for `read_pairs`.
        """
        if self.input is None:
            return []
        return read_pairs(Path(self.input).expanduser(), self.columns)


def require_whole_pair(original: str | None, rewritten: str | None) -> None:
    """Checks that both texts of a pair are given, or neither.

    Raises:
        PromptRecoveryError: If only one of them is given.
    """
    if (original is None) == (rewritten is None):
        return
    given, missing, meant = ("original", "rewritten", "the text that a model made of it")
    if original is None:
        given, missing, meant = ("rewritten", "original", "the text that it was made from")
    raise PromptRecoveryError(f"{given}= is one text of a pair: give {missing}= too, {meant}")


def read_pairs(
    path: Path, columns: PairColumns, file: str = "input", setting: str = "columns"
) -> list[Pair]:
    """Reads pairs from a CSV, JSONL or Parquet file, in order. Blank texts are allowed.

    A row that repeats an earlier one is left out. A warning gives their number.

    Args:
        path: The file.
        columns: The names of its columns.
        file: The setting that names the file, for messages.
        setting: The setting that maps the columns, for messages.

    Raises:
        PromptRecoveryError: If the file does not exist, lacks a column, has a row without an id, or
            has two rows with the same id and different texts. The message names the file and the
            row.
    """
    if not path.exists():
        raise PromptRecoveryError(f"{file}={path}: no such file")
    seen: dict[str, tuple[Pair, str]] = {}
    repeated = 0
    for number, row in enumerate(read_rows(path, file)):
        pair = _pair(row, columns, number, setting)
        known, place = seen.setdefault(pair.id, (pair, row.place))
        if known != pair:
            raise PromptRecoveryError(
                f"{row.place}: id '{pair.id}' was already used at {place}, with other texts; make "
                f"ids unique, or {_WITHOUT_IDS} with {setting}.id=null"
            )
        repeated += place != row.place
    if not seen:
        raise PromptRecoveryError(f"{path}: holds no rows")
    if repeated:
        repeat = "row that repeats" if repeated == 1 else "rows that repeat"
        log.warning("%s: left out %s %s an earlier one", path.name, f"{repeated:,}", repeat)
    return [pair for pair, _ in seen.values()]


def batches(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Batches of pairs whose results are saved together, those with the longest texts first.

    They depend on the pairs alone and not on their order.
    """
    order = sorted(pairs, key=lambda p: (-len(p.original_text) - len(p.rewritten_text), p.id))
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]


def digest(pair: Pair) -> str:
    """A fingerprint of a pair, whose texts may hold broken Unicode."""
    return fingerprint(pair.id, ascii(pair.original_text), ascii(pair.rewritten_text))


def _pair(row: Row, columns: PairColumns, number: int, setting: str) -> Pair:
    require_mapped(row, vars(columns), setting, _WITHOUT_IDS)
    otherwise = f"{_WITHOUT_IDS} with {setting}.id=null"
    id_ = str(number) if columns.id is None else id_of_cell(row, columns.id, otherwise)
    texts = (_text(row, columns.original_text), _text(row, columns.rewritten_text))
    return Pair(id_, *texts)


def _text(row: Row, column: str) -> str:
    value = row.values[column]
    if isinstance(value, str):  # broken Unicode, too: every pair gets an answer
        return value
    try:
        return text_of_cell(value)
    except ValueError as error:
        raise PromptRecoveryError(
            f"{row.place}: column '{column}' {error}; correct or remove the row"
        ) from None
