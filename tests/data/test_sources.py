"""Every bad input gives one clear line that names the file and the row and says what to do."""

import csv
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prompt_recovery.data.examples import ColumnNames
from prompt_recovery.data.sources import file, folder, hub
from prompt_recovery.errors import PromptRecoveryError


def packed(content):
    """Gzip without the time, which would give the processes of a test run different test names."""
    return gzip.compress(content, mtime=0)


GOOD = {
    "id": "1",
    "original_text": "A cat sat.",
    "rewritten_text": "🐈 sat – とても静か.",
    "rewrite_prompt": "Add an emoji",
}


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def write(path, rows):
    """Writes rows in the format that the name says."""
    if ".csv" in path.name:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "wt", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "wt", encoding="utf-8") as out:
            out.writelines(json.dumps(r) + "\n" for r in rows)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    rows = [GOOD, {**GOOD, "id": "2", "original_text": 'With "quotes",\ncommas and lines'}]
    dataset = file(write(tmp_path / name, rows))
    assert [(e.id, e.original_text, e.rewritten_text) for e in dataset.examples] == [
        (r["id"], r["original_text"], r["rewritten_text"]) for r in rows
    ]


def test_a_folder_is_one_dataset_and_ids_are_unique_across_shards(tmp_path):
    write(tmp_path / "b.csv", [{**GOOD, "id": "2"}])
    write(tmp_path / "a.parquet", [GOOD])
    (tmp_path / "notes.txt").write_text("ignored")
    assert [e.id for e in folder(tmp_path).examples] == ["1", "2"]
    write(tmp_path / "c.jsonl", [GOOD])
    with pytest.raises(PromptRecoveryError, match=r"c\.jsonl, row 1: id '1' .* a\.parquet, row 1"):
        folder(tmp_path)


def test_huge_texts_and_foreign_scripts_are_fine(tmp_path):
    row = {**GOOD, "original_text": "слово 字 " * 20_000}
    for name in ("a.csv", "a.jsonl"):
        [example] = file(write(tmp_path / name, [row])).examples
        assert len(example.original_text) > 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"original_text": ""}, "row 2: column 'original_text' is empty; fix the row"),
        ({"rewritten_text": " \n"}, "row 2: column 'rewritten_text' is empty"),
        ({"rewrite_prompt": None}, "row 2: column 'rewrite_prompt' is missing"),
        ({"rewrite_prompt": float("nan")}, "row 2: column 'rewrite_prompt' is missing .*NaN"),
        ({"original_text": 7}, "row 2: column 'original_text' is not a text but a int"),
        ({"original_text": "a \ud83d b"}, "row 2: .* half a surrogate"),
        ({"id": ""}, "row 2: column 'id' is empty"),
        ({"id": "1"}, "row 2: id '1' was already used at bad.jsonl, row 1; make ids unique"),
    ],
)
def test_bad_rows(tmp_path, change, message):
    path = jsonl(tmp_path / "bad.jsonl", GOOD, {**GOOD, "id": "2", **change})
    with pytest.raises(PromptRecoveryError, match=message) as caught:
        file(path)
    assert str(caught.value).startswith("bad.jsonl, row 2: ")
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", GOOD, {**GOOD, "id": "2", "original_text": ""})
    dataset = file(path, drop_invalid=True)
    assert len(dataset.examples) == 1
    assert dataset.dropped == {"column 'original_text' is empty": 1}


def test_all_missing_columns_are_named_with_what_is_there_and_the_settings(tmp_path):
    path = write(tmp_path / "a.csv", [{"before": "a", "after": "b", "rewrite_prompt": "c"}])
    with pytest.raises(PromptRecoveryError) as caught:
        file(path)
    assert str(caught.value) == (
        "a.csv, row 1: columns 'id', 'original_text' and 'rewritten_text' are missing (columns "
        "here: before, after, rewrite_prompt); map them with data.columns.id=<your column> "
        "data.columns.original_text=<your column> data.columns.rewritten_text=<your column>, or "
        "derive ids from the texts with data.columns.id=null"
    )
    path = write(tmp_path / "a.csv", [{"id": "1", "before": "a", "after": "b", "prompt": "c"}])
    names = ColumnNames(original_text="before", rewritten_text="after", rewrite_prompt="prompt")
    assert file(path, names).examples[0].original_text == "a"


def test_ids_can_come_from_the_texts(tmp_path):
    rows = [{k: v for k, v in GOOD.items() if k != "id"}]
    [example] = file(write(tmp_path / "a.csv", rows), ColumnNames(id=None)).examples
    assert len(example.id) == 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": "1",', r"a\.jsonl, row 1: is not valid JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl, row 1: is not a JSON object"),
        ("a.jsonl", b"\xff\xfe\x00", "is not UTF-8"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n", "holds no usable rows"),
        ("a.jsonl.gz", b"not gzip at all", "is corrupt or cut short"),
        ("a.jsonl.gz", packed(json.dumps(GOOD).encode())[:-9], "is corrupt or cut short"),
        ("a.parquet", b"PAR1 but no more", "is corrupt or cut short"),
        ("a.csv", b"id,original_text\n1,2,3\n", r"a\.csv, row 1: has more fields"),
        ("a.csv", b"id,original_text\n1\n", r"a\.csv, row 1: has fewer fields"),
        ("a.csv", b'id,original_text\n1,"open\n', r"is not valid CSV"),
        ("a.xlsx", b"", "unknown format; use one of .csv"),
    ],
)
def test_corrupt_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PromptRecoveryError, match=message) as caught:
        file(path)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_permission(tmp_path):
    with pytest.raises(PromptRecoveryError, match="no such file; give data.path"):
        file(tmp_path / "none.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(PromptRecoveryError, match="use data=folder"):
        file(tmp_path / "d.csv")
    with pytest.raises(PromptRecoveryError, match="is not a folder"):
        folder(tmp_path / "none")
    with pytest.raises(PromptRecoveryError, match="holds no data file"):
        folder(tmp_path / "d.csv")
    if os.geteuid() != 0:
        path = write(tmp_path / "secret.csv", [GOOD])
        path.chmod(0)
        with pytest.raises(PromptRecoveryError, match="no permission to read it"):
            file(path)


def test_permission_error_message(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", [GOOD])

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PromptRecoveryError, match=r"a\.csv: no permission to read it; `chmod"):
        file(path)


def test_hub_without_network_is_one_line():
    pytest.importorskip("datasets")
    with pytest.raises(PromptRecoveryError, match="cannot load the dataset 'a/b'") as caught:
        hub("a/b")
    assert "\n" not in str(caught.value)
