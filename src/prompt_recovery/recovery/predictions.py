"""Files of predictions, and the journal of finished predictions."""

import csv
import json
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.interface import Candidate, Prediction
from prompt_recovery.recovery.spans import evidence_of
from prompt_recovery.storage import ResultStore, atomic_write

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_SIGNS = ("=", "+", "-", "@")
Columns = Mapping[str, Sequence[Mapping[str, Any]]]
_NO_COLUMNS: Columns = {}
_FORMULA = "=+-@\t\r"  # characters that begin a formula in a spreadsheet (OWASP)


def format_of(path: Path) -> str:
    """Returns the format of an output file, which is its suffix.

    Raises:
        PromptRecoveryError: If the format is unknown.
    """
    if path.suffix not in _WRITERS:
        raise PromptRecoveryError(
            f"output={path}: unknown format; use one of {', '.join(_WRITERS)}"
        )
    return path.suffix


def write_predictions(
    path: Path,
    predictions: Sequence[Prediction],
    fallback: str,
    columns: Columns = _NO_COLUMNS,
) -> None:
    """Writes predictions, in order, to a file. The file is written atomically.

    A CSV file is a submission to the Kaggle competition with the columns `id,rewrite_prompt` only.
    Characters that a spreadsheet would interpret as a formula are removed from the beginning of its
    prompts and ids. JSONL and Parquet files also have the confidence and all candidates.

    Args:
        path: A `.csv`, `.jsonl` or `.parquet` file.
        predictions: Predictions with distinct ids.
        fallback: Replaces a prompt that is empty after cleaning.
        columns: Further columns of JSONL and Parquet files, with one object for each prediction.

    Raises:
        PromptRecoveryError: If the format is unknown or the file cannot be written.
    """
    write = _WRITERS[format_of(path)]
    with atomic_write(path) as temporary:
        write(temporary, predictions, fallback, columns)


def one_line(text: str) -> str:
    """Returns a text without line breaks, control characters or broken Unicode."""
    whole = text.encode("utf-8", "ignore").decode()
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in whole)
    return " ".join(kept.split())


def spreadsheet_safe(text: str) -> str:
    """Returns a text as one line that no spreadsheet interprets as a formula."""
    return one_line(text).lstrip(_FORMULA + " ")


def _write_csv(
    path: Path, predictions: Sequence[Prediction], fallback: str, _columns: Columns
) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "rewrite_prompt"])
        fallback = spreadsheet_safe(fallback)
        ids = _safe_ids([p.id for p in predictions])
        table.writerows(
            [id_, spreadsheet_safe(p.rewrite_prompt) or fallback]
            for id_, p in zip(ids, predictions, strict=True)
        )


def _safe_ids(ids: Sequence[str]) -> list[str]:
    """Ids that no spreadsheet interprets as a formula, and that are still distinct.

    Numbers stay as they are. Where nothing would be left of an id, or another id, an apostrophe
    makes it a text.
    """
    formulas = [id_ for id_ in ids if id_.strip()[:1] in _SIGNS and not _NUMBER.fullmatch(id_)]
    taken = set(ids) - set(formulas) | {""}
    safe: dict[str, str] = {}
    for id_ in formulas:
        short = id_.lstrip(_FORMULA + " ")
        safe[id_] = f"'{id_.strip()}" if short in taken else short
        taken.add(safe[id_])
    if formulas:
        log.warning(
            "%d ids begin like a formula and are written without its sign, the first is %r",
            len(formulas),
            formulas[0],
        )
    return [safe.get(id_, id_) for id_ in ids]


def _write_jsonl(
    path: Path, predictions: Sequence[Prediction], fallback: str, columns: Columns
) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(_rows(predictions, fallback)):
            row |= {name: values[number] for name, values in columns.items()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(
    path: Path, predictions: Sequence[Prediction], fallback: str, columns: Columns
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    table = pa.Table.from_pylist(_rows(predictions, fallback), schema)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)


def _rows(predictions: Sequence[Prediction], fallback: str) -> list[dict[str, Any]]:
    return [
        {
            "id": p.id,
            "rewrite_prompt": one_line(p.rewrite_prompt) or fallback,
            "fallback": p.fallback,
            "confidence": p.confidence,
            "candidates": [asdict(c) for c in p.candidates],
        }
        for p in predictions
    ]


_WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}


class PredictionStore(ResultStore[Prediction]):
    """Saves finished predictions.

    Args:
        path: The journal. Only one process may use it at a time.
        identity: Fingerprint of everything that predictions depend on.

    Raises:
        PromptRecoveryError: If the file cannot be read or, in `add`, cannot be written.
    """

    def __init__(self, path: Path, identity: str) -> None:
        super().__init__(path, identity, "predictions", _prediction)

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Saves the predictions of a batch."""
        self.keep({p.id: p for p in predictions})


def _prediction(values: dict[str, Any]) -> Prediction:
    candidates = tuple(Candidate(**c) for c in values.pop("candidates"))
    evidence = tuple(evidence_of(e) for e in values.pop("evidence", ()))
    return checked_prediction(Prediction(**values, candidates=candidates, evidence=evidence))


def checked_prediction(prediction: Prediction) -> Prediction:
    """Returns a prediction that was read from a file.

    Raises:
        TypeError: If a value in it is of another type than it should be.
    """
    texts = [prediction.id, prediction.rewrite_prompt, *(c.text for c in prediction.candidates)]
    numbers = [prediction.confidence, *(c.log_probability for c in prediction.candidates)]
    scores = [c.score for c in prediction.candidates]
    if not (
        all(isinstance(text, str) for text in texts)
        and all(number is None or isinstance(number, int | float) for number in numbers)
        and all(isinstance(score, int | float) for score in scores)
        and isinstance(prediction.fallback, bool)
    ):
        raise TypeError("it holds no prediction")
    return prediction
