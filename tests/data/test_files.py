"""A data file is read as it was meant, or refused in one line that says what to do."""

import bz2
import datetime
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prompt_recovery.data.examples import ColumnNames
from prompt_recovery.data.files import data_files, read_rows
from prompt_recovery.data.sources import file
from prompt_recovery.errors import PromptRecoveryError


def packed(content):
    """Gzip without the time, which would give the processes of a test run different test names."""
    return gzip.compress(content, mtime=0)


ROWS = [
    {"id": "a", "text": 'It rained, all day;\tsaid "he" | so.'},
    {"id": "b", "text": " Línea\u2028uno\r\nlínea dos \x1b[2J"},
]


def values(path):
    return [row.values for row in read_rows(path)]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(separator, head=""):
    lines = [separator.join(["id", "text"])]
    for row in ROWS:
        lines.append(separator.join('"' + v.replace('"', '""') + '"' for v in row.values()))
    return (head + "\n".join(lines) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.csv.jsonl", jsonl(ROWS)),
        ("PAIRS.JSONL", jsonl(ROWS)),
        ("a.jsonl.CSV", separated(",")),
        ("a.csv", separated(";")),
        ("a.csv", separated("\t")),
        ("a.csv", separated("|")),
        ("a.csv", separated(";", "sep=;\n")),
        ("a.csv", separated(",", "\n\n")),
        ("a.tsv", separated("\t")),
        ("a.csv", b"\xef\xbb\xbf" + separated(";")),
        ("a.json", json.dumps(ROWS, indent=2).encode()),
        ("a.jsonl", json.dumps(ROWS).encode()),
        ("a.json", jsonl(ROWS)),
        ("a.csv", packed(separated(","))),
        ("a.JSONL.GZ", packed(jsonl(ROWS))),
        ("a.json.gz", packed(json.dumps(ROWS).encode())),
    ],
)
def test_the_last_ending_and_the_content_tell_the_format(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert values(tmp_path / name) == ROWS


def test_a_blank_after_the_comma_belongs_to_the_separator(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id, text\n1, "It rained, all day"\n2, "x"\n')
    assert values(path) == [{"id": "1", "text": "It rained, all day"}, {"id": "2", "text": "x"}]
    path.write_text("id,text\n1,  two blanks\n")
    assert values(path) == [{"id": "1", "text": "  two blanks"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'id,text\n1, "x"\n', "a.csv, row 1: has a blank between the separator and a q"),
        ("a.csv", b'id,text\n1, "x, y"\n', "a.csv, row 1: has a blank between the separator and"),
        ("a.csv", b"id,text,text\n1,a,b\n", "a.csv: has the column 'text' twice; rename or remove"),
        ("a.csv", b"id, id\n1,a\n", "a.csv: has the column 'id' twice"),
        ("a.jsonl", b'{"id": 1, "id": 2}\n', "the key 'id' comes twice in one object"),
        ("a.jsonl", b'{"id": ' + b"9" * 5000 + b"}", "row 1: is not valid JSON (a number has too"),
        ("a.jsonl", b'{"id": ' + b"[" * 100_000, "row 1: is not valid JSON (it is nested too deep"),
        ("a.json", b"[" * 100_000, "a.json: is not valid JSON (it is nested too deeply)"),
        ("a.json", b'[{"id": 1},\n{"id": 2]', "a.json: is not valid JSON (Expecting ',' delimiter"),
        ("a.json", b"[1]", "a.json, row 1: is not a JSON object; each row must be one"),
        ("a.json", b'{"data": [\n{"id": 1}]}', "a.json: is one object (with data); a JSON file mu"),
        ("a.jsonl", b'{"id": 1,\n"text": "x"}', "row 1: is not valid JSON (Expecting property"),
        ("a.csv", b"id\n1\n2\ncaf\xe9\n", "a.csv, line 4, byte 4: is not UTF-8 (0xe9); convert"),
        ("a.csv", "id\n1\n".encode("utf-16"), "a.csv: is not UTF-8 but UTF-16; convert it: iconv"),
        ("a.csv", "id\n1\n".encode("utf-32"), "a.csv: is not UTF-8 but UTF-32; convert it: iconv"),
        ("a.csv", "id\n1\n".encode("utf-16-le"), "a.csv: is not UTF-8 text, since it begins with"),
        ("a.jsonl", "{}\n".encode("utf-16-be"), "a.jsonl: is not UTF-8 text, since it begins with"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "a.csv: is a pointer to the fi"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "fetch it with git lfs pul"),
        ("a.csv", b" <!DOCTYPE html><html>", "a.csv: is a web page; download the file itself"),
        ("a.parquet", b"<html>Sign in", "a.parquet: is a web page; download the file itself"),
        ("a.csv.gz", packed(packed(b"id\n")), "is packed with gzip twice; unpack"),
        ("a.csv.gz", packed("id\n".encode("utf-16")), "a.csv.gz: is not UTF-8 but UTF-16"),
        ("a.csv", jsonl(ROWS), "is JSON, give it the ending .jsonl or .json"),
        ("a.csv", json.dumps(ROWS).encode(), "is JSON, give it the ending .jsonl or .json"),
        ("a.csv", b"PK\x03\x04..", "a.csv: is a zip archive or a spreadsheet; unpack it"),
        ("a.jsonl", bz2.compress(b"x"), "a.jsonl: is packed with bzip2; unpack it with bunzip2"),
        ("a.csv", b"PAR1\x15\x04", "a.csv: is Parquet; give it the ending .parquet"),
        ("a.parquet", packed(b"x"), "a.parquet: is packed with gzip; unpack it with gunzip"),
        ("a.csv.gz", b"id\n1\n", "a.csv.gz: is corrupt or cut short (Not a gzipped file"),
        ("a.txt", b"", "a.txt: unknown format; use one of .csv, .tsv, .jsonl, .json, .parquet, .c"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptRecoveryError) as raised:
        values(tmp_path / name)
    said = str(raised.value)
    assert message in said
    assert said.startswith((name, str(tmp_path / name)))
    assert "\n" not in said
    assert len(said) < 500


def test_a_byte_that_is_not_utf8_is_found_far_into_the_file(tmp_path):
    path = tmp_path / "a.csv.gz"
    lines = ["id,text\n", *(f"{n},{'x' * 70}\n" for n in range(5000)), "5000,caf\xe9\n"]
    path.write_bytes(packed("".join(lines).encode("latin-1")))
    with pytest.raises(PromptRecoveryError, match="line 5002, byte 9: is not UTF-8"):
        values(path)


def test_bytes_in_parquet_are_texts(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [b"1", None], "text": ["für".encode(), b"x"]}), path)
    assert values(path) == [{"id": "1", "text": "für"}, {"id": None, "text": "x"}]
    pq.write_table(pa.table({"id": [b"1", b"\xe9"]}), path)
    with pytest.raises(PromptRecoveryError, match=r"row 2: column 'id' holds bytes that are not U"):
        values(path)


def test_a_parquet_value_beyond_python_is_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    dates = pa.array([0, 4_000_000], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"id": ["1", "2"], "day": dates}), path)
    with pytest.raises(PromptRecoveryError, match=r"a\.parquet, row 2: column 'day' holds a value"):
        values(path)
    twice = pa.Table.from_arrays([pa.array(["1"]), pa.array(["2"])], names=["id", "id"])
    pq.write_table(twice, path)
    with pytest.raises(PromptRecoveryError, match="has the column 'id' twice"):
        values(path)


def test_files_beside_the_data_are_not_shards(tmp_path):
    for name in ("b.CSV", "a.parquet", "dataset_infos.json", "x.txt", ".hidden.csv", "c.jsonl.gz"):
        (tmp_path / name).touch()
    assert [p.name for p in data_files(tmp_path)] == ["a.parquet", "b.CSV", "c.jsonl.gz"]
    assert "x.txt" in [p.name for p in data_files(tmp_path, ".txt")]


PAIR = {"original_text": "a", "rewritten_text": "b", "rewrite_prompt": "c"}


def test_numbers_are_ids_and_nothing_else_is(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"id": 1.0, **PAIR}, {"id": 2, **PAIR}, {"id": 0.5, **PAIR}]))
    assert [e.id for e in file(path).examples] == ["1", "2", "0.5"]
    for bad, named in ((True, "bool"), ([1], "list"), ({"a": 1}, "dict"), (1e400, "infinite")):
        path.write_bytes(jsonl([{"id": 1, **PAIR}, {"id": bad, **PAIR}]))
        with pytest.raises(PromptRecoveryError, match=rf"a\.jsonl, row 2: column 'id' is.*{named}"):
            file(path)
    path.write_bytes(jsonl([{"id": 1, **PAIR, "category": ["x"]}]))
    with pytest.raises(PromptRecoveryError, match="row 1: column 'category' is not a text or a nu"):
        file(path)
    pq.write_table(
        pa.Table.from_pylist([{"id": datetime.date(2024, 1, 1), **PAIR}]), tmp_path / "a.parquet"
    )
    with pytest.raises(PromptRecoveryError, match="column 'id' is not a text or a number but a da"):
        file(tmp_path / "a.parquet")


def test_repeated_rows_without_ids_are_left_out_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([PAIR, {**PAIR, "rewritten_text": "d"}, PAIR, PAIR]))
    dataset = file(path, ColumnNames(id=None))
    assert [e.rewritten_text for e in dataset.examples] == ["b", "d"]
    assert dataset.dropped == {"repeats an earlier row": 2}
    assert dataset.dropped_rows() == ["data a.jsonl: left out 2 rows: repeats an earlier row"]


def test_a_prompt_that_fits_no_memory_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"id": 1, **PAIR, "rewrite_prompt": "x " * 100_000}]))
    with pytest.raises(PromptRecoveryError, match="row 1: column 'rewrite_prompt' has 200,000 cha"):
        file(path)


def test_a_folder_and_an_empty_file_are_called_what_they_are(tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"is a folder; use data=folder data\.path="):
        list(read_rows(tmp_path))
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(PromptRecoveryError, match=f"{name}: is empty"):
            list(read_rows(tmp_path / name))
