import csv
import json
from dataclasses import asdict, replace

import pyarrow.parquet as pq
import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.interface import Candidate, Prediction
from prompt_recovery.recovery.predictions import (
    PredictionStore,
    spreadsheet_safe,
    write_predictions,
)
from prompt_recovery.recovery.spans import Evidence, Span

SPANS = (Span("original", 0, 4, 0.5), Span("rewritten", 2, 9, -1.25))
EVIDENCE = (
    Evidence("model", "occlusion", "log_probability", -4.5, SPANS),
    Evidence("retriever", "integrated_gradients", "cosine", 0.75, SPANS[:1]),
)
CANDIDATES = (Candidate("Make it rhyme", -3.5, 0.4), Candidate("rhyme", -9.0, 0.1))
PREDICTIONS = [
    Prediction("a", "Make it rhyme", False, CANDIDATES, 0.25),
    Prediction("=b,1", '=HYPERLINK("x")\n"quoted", then\x00 more'),
    Prediction("c", "+ - @ ="),
    Prediction("d", "Улучши 字🐈", fallback=True),
    Prediction("e", "half \ud83d pair"),
]


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"unknown format; use one of .csv, .jsonl"):
        write_predictions(tmp_path / "x.xlsx", PREDICTIONS, "Improve it")


def test_a_submission_is_valid_and_runs_no_formula(tmp_path):
    path = tmp_path / "new" / "submission.csv"
    write_predictions(path, PREDICTIONS, "Improve it")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [r["id"] for r in rows] == ["a", "b,1", "c", "d", "e"]
    assert [r["rewrite_prompt"] for r in rows] == [
        "Make it rhyme",
        'HYPERLINK("x") "quoted", then more',
        "Improve it",
        "Улучши 字🐈",
        "half pair",
    ]
    assert list(rows[0]) == ["id", "rewrite_prompt"]


def test_ids_run_no_formula_and_stay_distinct(tmp_path, caplog):
    ids = ["=1+1", "1+1", "-5", "@", "+x", "=x", "\t=y", "a  b", "two\nlines"]
    write_predictions(tmp_path / "p.csv", [Prediction(i, "Improve it") for i in ids], "Improve it")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        found = [row["id"] for row in csv.DictReader(file, strict=True)]
    assert found == ["'=1+1", "1+1", "-5", "'@", "x", "'=x", "y", "a  b", "two\nlines"]
    assert "5 ids begin like a formula" in caplog.text


def test_jsonl_and_parquet_have_the_alternatives(tmp_path):
    write_predictions(tmp_path / "p.jsonl", PREDICTIONS, "Improve it")
    write_predictions(tmp_path / "p.parquet", PREDICTIONS, "Improve it")
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()]
    assert rows == pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert rows[0]["confidence"] == 0.25
    assert rows[0]["candidates"][1] == {"text": "rhyme", "log_probability": -9.0, "score": 0.1}
    assert rows[3]["fallback"] is True
    assert rows[1]["rewrite_prompt"].startswith("=HYPERLINK")  # no spreadsheet reads these


def test_a_store_keeps_evidence_and_reads_what_older_versions_wrote(tmp_path):
    path = tmp_path / "part.jsonl"
    store = PredictionStore(path, "i")
    explained = replace(PREDICTIONS[0], evidence=EVIDENCE)
    store.add([explained])
    assert list(PredictionStore(path, "i").done.values()) == [explained]
    values = asdict(PREDICTIONS[1])
    del values["evidence"]
    damaged = asdict(explained) | {"id": "z", "evidence": [{"source": "model"}]}
    with path.open("a") as file:
        for row in (values, damaged):
            file.write(json.dumps({"predictions": [row]}) + "\n")
    assert list(PredictionStore(path, "i").done.values()) == [explained, PREDICTIONS[1]]


@pytest.mark.parametrize("text", ["=cmd()", "\t=1", "-1", "+x", "@y", " =z", "\n=\n=a", "=\r-b"])
def test_no_cell_begins_like_a_formula(text):
    assert spreadsheet_safe(text)[:1] not in tuple("=+-@\t\r\n ")


def test_a_store_goes_on_with_its_own_predictions_only(tmp_path):
    path = tmp_path / "part.jsonl"
    store = PredictionStore(path, "i")
    store.add(PREDICTIONS[:2])
    store.add(PREDICTIONS[2:])
    assert list(PredictionStore(path, "i").done.values()) == PREDICTIONS
    path.write_bytes(path.read_bytes()[:-5])  # as a kill leaves it
    assert list(PredictionStore(path, "i").done.values()) == PREDICTIONS[:2]
    with path.open("a") as file:  # lines of another shape are work to do again
        file.write('{"predictions": [{"id": "c"}]}\n[]\n{"predictions": null}\n')
    store = PredictionStore(path, "i")
    assert list(store.done.values()) == PREDICTIONS[:2]
    store.add(PREDICTIONS[2:])
    assert list(PredictionStore(path, "i").done.values()) == PREDICTIONS
    assert PredictionStore(path, "other").done == {}
    assert PredictionStore(path, "i").done == {}
