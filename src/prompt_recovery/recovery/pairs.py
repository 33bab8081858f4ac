"""Files of pairs and of predictions, and the journal of finished predictions."""

import csv
import json
import logging
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prompt_recovery.data.examples import Row
from prompt_recovery.data.sources import read_rows
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction
from prompt_recovery.settings import AnyPath, Cosine
from prompt_recovery.storage import Journal, atomic_write

log = logging.getLogger(__name__)

_FORMULA = "=+-@\t\r"  # characters that begin a formula in a spreadsheet (OWASP)


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
        output: .csv is id,rewrite_prompt; .jsonl and .parquet also have candidates and confidence.
        original: The original text of one pair, in place of a file.
        rewritten: What a model made of it.
        columns: What the input calls its columns; columns.id=null numbers the rows from 0.
        threshold: The mean prompt answers where the expected SCS is lower; None: nowhere.
    """

    input: AnyPath | None = None
    output: AnyPath = "submission.csv"
    original: str | None = None
    rewritten: str | None = None
    columns: PairColumns = field(default_factory=PairColumns)
    threshold: Cosine | None = None

    def refuse_contradictions(self, confidence: bool) -> None:
        """Checks the settings against each other.

        Args:
            confidence: Whether answers have a confidence, which `threshold` needs.

        Raises:
            PromptRecoveryError: If neither a file nor a pair is given, or both; if a text is blank;
                if `threshold` has nothing to compare with; or if the output's format is unknown.
        """
        one = (self.original is not None, self.rewritten is not None)
        if (self.input is not None) == any(one) or any(one) != all(one):
            raise PromptRecoveryError(
                "give input=<file of pairs>, or original=<text> and rewritten=<text>"
            )
        for name, text in (("original", self.original), ("rewritten", self.rewritten)):
            if text is not None and not text.strip():
                raise PromptRecoveryError(f"{name}=: the text is blank; give both texts")
        if self.threshold is not None and not confidence:
            raise PromptRecoveryError(
                f"threshold={self.threshold} needs confidence=true: it is an expected SCS"
            )
        if self.input is not None:
            writer_of(Path(self.output))


def read_pairs(path: Path, columns: PairColumns) -> list[Pair]:
    """Reads pairs from a CSV, JSONL or Parquet file, in order. Blank texts are allowed.

    A row that repeats an earlier one is left out. A warning gives their number.

    Raises:
        PromptRecoveryError: If the file does not exist, lacks a column, has a row without an id, or
            has two rows with the same id and different texts. The message names the file and the
            row.
    """
    if not path.exists():
        raise PromptRecoveryError(f"input={path}: no such file")
    seen: dict[str, tuple[Pair, str]] = {}
    repeated = 0
    for number, row in enumerate(read_rows(path)):
        pair = _pair(row, columns, number)
        known, place = seen.setdefault(pair.id, (pair, row.place))
        if known != pair:
            raise PromptRecoveryError(
                f"{row.place}: id '{pair.id}' was already used at {place}, with other texts; make "
                "ids unique, or number the rows with columns.id=null"
            )
        repeated += place != row.place
    if not seen:
        raise PromptRecoveryError(f"{path}: holds no rows")
    if repeated:
        log.warning("%s: left out %d rows that repeat an earlier one", path.name, repeated)
    return [pair for pair, _ in seen.values()]


def _pair(row: Row, columns: PairColumns, number: int) -> Pair:
    for name in ("id", "original_text", "rewritten_text"):
        theirs = getattr(columns, name)
        if theirs is not None and theirs not in row.values:
            present = ", ".join(map(str, row.values)) or "none"
            or_number = ", or number the rows with columns.id=null" if name == "id" else ""
            raise PromptRecoveryError(
                f"{row.place}: column '{theirs}' is missing (columns here: {present}); map it with "
                f"columns.{name}=<your column>{or_number}"
            )
    id_ = str(number) if columns.id is None else _text(row.values[columns.id])
    if not id_.strip() or not _is_unicode(id_):
        raise PromptRecoveryError(
            f"{row.place}: column '{columns.id}' is {'not a text' if id_.strip() else 'empty'}; "
            "give the row an id, or number the rows with columns.id=null"
        )
    texts = (_text(row.values[columns.original_text]), _text(row.values[columns.rewritten_text]))
    return Pair(id_, *texts)


def _text(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def writer_of(path: Path) -> Callable[[Path, Sequence[Prediction], str], None]:
    """Returns the function that writes the format of an output file.

    Raises:
        PromptRecoveryError: If the format is unknown.
    """
    writer = _WRITERS.get(path.suffix)
    if writer is None:
        raise PromptRecoveryError(f"output={path}: unknown format; known are {', '.join(_WRITERS)}")
    return writer


def write_predictions(path: Path, predictions: Sequence[Prediction], mean_prompt: str) -> None:
    """Writes predictions, in order, to a file. The file is written atomically.

    A CSV file is a submission to the Kaggle competition with the columns `id,rewrite_prompt` only.
    Characters that a spreadsheet would interpret as a formula are removed from the beginning of its
    prompts. JSONL and Parquet files also have the confidence and all candidates.

    Args:
        path: A `.csv`, `.jsonl` or `.parquet` file.
        predictions: Predictions with distinct ids.
        mean_prompt: Replaces a prompt that is empty after cleaning.

    Raises:
        PromptRecoveryError: If the format is unknown or the file cannot be written.
    """
    writer = writer_of(path)
    with atomic_write(path) as temporary:
        writer(temporary, predictions, mean_prompt)


def one_line(text: str) -> str:
    """Returns a text without line breaks, control characters or broken Unicode."""
    whole = text.encode("utf-8", "ignore").decode()
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in whole)
    return " ".join(kept.split())


def spreadsheet_safe(text: str) -> str:
    """Returns a text as one line that no spreadsheet interprets as a formula."""
    return one_line(text).lstrip(_FORMULA + " ")


def _write_csv(path: Path, predictions: Sequence[Prediction], mean_prompt: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "rewrite_prompt"])
        last = spreadsheet_safe(mean_prompt)
        table.writerows([p.id, spreadsheet_safe(p.rewrite_prompt) or last] for p in predictions)


def _write_jsonl(path: Path, predictions: Sequence[Prediction], mean_prompt: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in _rows(predictions, mean_prompt):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, predictions: Sequence[Prediction], mean_prompt: str) -> None:
    candidate = pa.struct(
        [("text", pa.string()), ("log_probability", pa.float64()), ("score", pa.float64())]
    )
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("rewrite_prompt", pa.string()),
            ("fallback", pa.bool_()),
            ("confidence", pa.float64()),
            ("candidates", pa.list_(candidate)),
        ]
    )
    pq.write_table(pa.Table.from_pylist(_rows(predictions, mean_prompt), schema), path)


def _rows(predictions: Sequence[Prediction], mean_prompt: str) -> list[dict[str, Any]]:
    return [
        {
            "id": p.id,
            "rewrite_prompt": one_line(p.rewrite_prompt) or mean_prompt,
            "fallback": p.fallback,
            "confidence": p.confidence,
            "candidates": [asdict(c) for c in p.candidates],
        }
        for p in predictions
    ]


_WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}


class PredictionStore:
    """Saves finished predictions batch by batch, so that a killed process loses little work.

    A file that was made with other settings is overwritten.

    Args:
        path: The journal. Only one process may use it at a time.
        identity: Fingerprint of everything that predictions depend on.

    Raises:
        PromptRecoveryError: If the file cannot be read or, in `add`, cannot be written.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.done: dict[str, Prediction] = {}
        self._journal = Journal(path, _decoded)
        begun = self._journal.values
        if begun and begun[0] != identity:
            log.warning("%s was begun with other settings: it is begun anew", path)
            self.remove()
            self._journal, begun = Journal(path, _decoded), []
        if not begun:
            self._journal.append({"identity": identity})
        for batch in begun[1:]:
            self.done |= {p.id: p for p in batch if isinstance(p, Prediction)}

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Saves the predictions of a batch."""
        self._journal.append({"predictions": [asdict(p) for p in predictions]})
        self.done |= {p.id: p for p in predictions}

    def remove(self) -> None:
        """Deletes the file, once all predictions are written elsewhere."""
        self._journal.close()
        self._journal.path.unlink(missing_ok=True)


def _decoded(line: dict[str, Any]) -> str | list[Prediction]:
    """Decodes a line: the identity, with which a journal begins, or a batch of predictions."""
    if "identity" in line:
        return str(line["identity"])
    return [_prediction(values) for values in line["predictions"]]


def _prediction(values: dict[str, Any]) -> Prediction:
    candidates = tuple(Candidate(**c) for c in values.pop("candidates"))
    return Prediction(**values, candidates=candidates)
