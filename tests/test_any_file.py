"""Whatever a file holds: its texts arrive as they are, or it is refused in one line.

The readers of all commands get files with arbitrary values, and files that were damaged.
"""

import csv
import io
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prompt_recovery.data.examples import ColumnNames
from prompt_recovery.data.files import read_rows
from prompt_recovery.data.sources import file
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.preferences import read_preferences
from prompt_recovery.recovery.pairs import PairColumns, read_pairs
from prompt_recovery.reporting.evaluation.contenders import from_file
from tests.fuzzing import EXAMPLES

TEXTS = ("original_text", "rewritten_text", "rewrite_prompt")

odd_texts = st.sampled_from(
    [
        "", " ", "\ufeff", "\x00", "\r", "\u2028", "\x1b[2J", "é", "e\u0301", "'", '"', ' "x"',
        "a,b;c\td|e", "null", "NaN", "1e400", "[", "{}", "=1+1", "\ud83d", "🐈", "</s>",
    ]
)  # fmt: skip
texts = odd_texts | st.text(max_size=12) | st.lists(odd_texts, max_size=3).map("".join)
scalars = (
    texts
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(10**30), 1.0, 2024])
)
anything = scalars | st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=3,
)
messages = st.lists(
    st.fixed_dictionaries({}, optional={"role": texts, "content": anything}), max_size=3
)
columns = {
    **dict.fromkeys(("id", *TEXTS, "category", "prediction"), texts | anything),
    **dict.fromkeys(("prompt", "chosen", "rejected"), texts | messages | anything),
    "completions": st.lists(texts, max_size=3) | anything,
    "scores": st.lists(st.floats(), max_size=3) | anything,
    "chosen_score": anything,
}
wild_rows = st.lists(st.fixed_dictionaries({}, optional=columns), max_size=4)
good_rows = st.lists(
    st.fixed_dictionaries(
        {
            **{n: texts.filter(str.strip) for n in ("id", *TEXTS, "chosen", "rejected", "prompt")},
            "category": texts,
        }
    ),
    min_size=1,
    max_size=4,
)
rows_of_any_kind = wild_rows | good_rows


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_array(rows):
    return json.dumps(rows, indent=1).encode()


def as_csv(rows):
    out = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows):
    out = io.BytesIO()
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), out)
    return out.getvalue()


FORMATS = {"a.jsonl": as_jsonl, "a.json": as_array, "a.csv": as_csv, "a.parquet": as_parquet}
READERS = [
    file,
    lambda path: file(path, ColumnNames(id=None), drop_invalid=True),
    lambda path: read_pairs(path, PairColumns()),
    lambda path: read_pairs(path, PairColumns(id=None)),
    read_preferences,
    lambda path: from_file(path).make(),
]


def encoded(name, rows):
    """The file's content, or None where the format cannot hold such values."""
    try:
        return FORMATS[name](rows)
    except (ValueError, OverflowError, pa.ArrowException, UnicodeEncodeError):
        return None


def outcome(reader, path):
    """What a reader gives, or None if it refuses the file as it should."""
    try:
        return reader(path)
    except PromptRecoveryError as error:
        said = str(error)
        assert path.name in said
        assert "\n" not in printable(said)
        assert len(said) < 2000
        return None


quickly = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", FORMATS)
@quickly
@given(rows=rows_of_any_kind)
def test_any_values_are_read_as_they_are_or_refused(tmp_path, name, rows):
    content = encoded(name, rows)
    if content is None:
        return
    path = tmp_path / name
    path.write_bytes(content)
    dataset, lenient, pairs, numbered, preferences, predicted = (
        outcome(reader, path) for reader in READERS
    )
    if name in ("a.csv", "a.parquet") and not any(rows):
        rows = []  # there are no columns
    if name == "a.csv":  # which holds texts only
        rows = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    if dataset or numbered or predicted:
        cells = [row.values for row in read_rows(path)]
        assert all(same(a, b) for a, b in zip(cells, rows, strict=True))
    if dataset:
        assert not dataset.dropped
        for example, row in zip(dataset.examples, rows, strict=True):
            assert [getattr(example, n) for n in TEXTS] == [row[n] for n in TEXTS]
            assert example.id == as_id(row["id"])
    if lenient:
        assert len(lenient.examples) + sum(lenient.dropped.values()) == len(rows), "all are counted"
        kept = [[getattr(e, n) for n in TEXTS] for e in lenient.examples]
        assert all(texts in [[row.get(n) for n in TEXTS] for row in rows] for texts in kept)
    if pairs or numbered:
        check_pairs(rows, pairs, numbered)
    if preferences or predicted:
        check_answers(rows, preferences or [], predicted and predicted.answers)


def check_pairs(rows, pairs, numbered):
    for pair, row in zip(numbered, rows, strict=True):
        for n in TEXTS[:2]:
            if isinstance(row.get(n), str):
                assert getattr(pair, n) == row[n]
    if pairs:  # rows that repeat an earlier one are left out
        texts = [(pair.original_text, pair.rewritten_text) for pair in numbered]
        expected = dict(zip([as_id(row["id"]) for row in rows], texts, strict=True))
        assert {p.id: (p.original_text, p.rewritten_text) for p in pairs} == expected
        assert [p.id for p in pairs] == list(expected)


def check_answers(rows, preferences, answers):
    written = set(texts_in(rows))
    for preference in preferences:  # some rows may be left out
        assert written.issuperset(preference.completions)
        assert written.issuperset(texts_in(preference.prompt))
        assert all(math.isfinite(s) or math.isnan(s) for s in preference.scores)
    for row in rows if answers else []:
        said = row.get("prediction", row.get("rewrite_prompt"))
        if isinstance(said, str):
            assert answers[as_id(row["id"])] == said.strip()
    assert not answers or len(answers) == len(rows)


def as_id(cell):
    """An id as it must arrive: a number is a text, and 1.0 is 1."""
    if isinstance(cell, float):
        cell = int(cell) if cell == int(cell) else cell
    return str(cell).strip()


def texts_in(value):
    """All texts in a value, however deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)
    elif isinstance(value, str):
        yield value


def same(read, written):
    """Whether a row holds what was written; Parquet adds the columns of other rows."""
    return all(repr(read.get(k)) == repr(v) for k, v in written.items() if isinstance(v, str))


@pytest.mark.parametrize("name", FORMATS)
@quickly
@given(data=st.data(), rows=good_rows)
def test_damaged_files_are_read_or_refused(tmp_path, name, data, rows):
    content = encoded(name, rows)
    if not content:
        return
    at = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.binary(max_size=6) | st.sampled_from([b'"', b"\n", b"[", b"\xff\xfe"]))
    length = data.draw(st.integers(0, 8) | st.just(len(content)))
    path = tmp_path / name
    path.write_bytes(content[:at] + damage + content[at + length :])
    for reader in READERS:
        outcome(reader, path)


@quickly
@given(
    content=st.binary(max_size=60) | st.text(max_size=40).map(lambda t: t.encode(errors="replace"))
)
@pytest.mark.parametrize("name", [*FORMATS, "a.csv.gz", "a.tsv", "a.JSONL"])
def test_arbitrary_bytes_are_read_or_refused(tmp_path, name, content):
    path = Path(tmp_path) / name
    path.write_bytes(content)
    for reader in READERS[1:4]:
        outcome(reader, path)
