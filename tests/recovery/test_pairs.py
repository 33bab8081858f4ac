import csv
import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.pairs import PairColumns, read_pairs


def lines(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_rows_are_read_leniently(tmp_path):
    rows = [
        {"id": 7, "original_text": None, "rewritten_text": "b"},
        {"id": "x", "original_text": 12.5, "rewritten_text": " "},
        {"id": 7, "original_text": None, "rewritten_text": "b"},
        {"id": "y", "original_text": float("nan"), "rewritten_text": "\ud83d"},
    ]
    pairs = read_pairs(lines(tmp_path / "p.jsonl", rows), PairColumns())
    assert pairs == [Pair("7", "", "b"), Pair("x", "12.5", " "), Pair("y", "", "\ud83d")]


def test_every_format_is_read(tmp_path):
    rows = [
        {"key": "1", "before": 'a,"\n', "after": "=b"},
        {"key": "2", "before": "", "after": "字"},
    ]
    with (tmp_path / "p.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    lines(tmp_path / "p.jsonl", rows)
    columns = PairColumns("key", "before", "after")
    for name in ("p.csv", "p.parquet", "p.jsonl"):
        expected = [Pair("1", 'a,"\n', "=b"), Pair("2", "", "字")]
        assert read_pairs(tmp_path / name, columns) == expected
    numbered = read_pairs(tmp_path / "p.csv", PairColumns(None, "before", "after"))
    assert [p.id for p in numbered] == ["0", "1"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "p.jsonl: is empty"),
        ([{"id": 1, "original_text": "a"}], "row 1: column 'rewritten_text' is missing"),
        ([{"original_text": "a", "rewritten_text": "b"}], "number the rows with columns.id=null"),
        (
            [{"a": "b"}],
            "columns 'id', 'original_text' and 'rewritten_text' are missing .columns here: a.; map "
            "them with columns.id=<your column> columns.original_text=<your column> columns.rew",
        ),
        ([{"id": " ", "original_text": "a", "rewritten_text": "b"}], "row 1: column 'id' is empty"),
        ([{"id": "\ud83d", "original_text": "a", "rewritten_text": "b"}], "not a text"),
        (
            [{"id": 1, "original_text": t, "rewritten_text": "b"} for t in "ab"],
            "row 2: id '1' was already used at p.jsonl, row 1",
        ),
    ],
)
def test_what_has_no_answer_names_the_row(tmp_path, rows, message):
    with pytest.raises(PromptRecoveryError, match=message):
        read_pairs(lines(tmp_path / "p.jsonl", rows), PairColumns())


@pytest.mark.parametrize("value", [True, ["x"], {"a": 1}, b"\xe9", datetime.date(2024, 1, 1)])
@pytest.mark.parametrize("column", ["id", "original_text", "rewritten_text"])
def test_values_that_are_no_texts_are_not_spelt_out(tmp_path, value, column):
    row = {"id": "1", "original_text": "a", "rewritten_text": "b", column: value}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    with pytest.raises(PromptRecoveryError, match=rf"p\.parquet, row 1: column '{column}' "):
        read_pairs(tmp_path / "p.parquet", PairColumns())


def test_ids_from_a_table_with_gaps_and_texts_as_bytes(tmp_path):
    rows = {
        "id": [1.0, 2.0],
        "original_text": [b"a", "für".encode()],
        "rewritten_text": [b"b", b""],
    }
    pq.write_table(pa.table(rows), tmp_path / "p.parquet")
    expected = [Pair("1", "a", "b"), Pair("2", "für", "")]
    assert read_pairs(tmp_path / "p.parquet", PairColumns()) == expected


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"input=.*none.csv: no such file"):
        read_pairs(tmp_path / "none.csv", PairColumns())


def test_a_folder_is_no_file_of_pairs(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    with pytest.raises(PromptRecoveryError, match=r"pairs: is a folder; give input=<file>$"):
        read_pairs(folder, PairColumns())
