"""Data files: the raw rows of CSV, JSONL, JSON and Parquet files.

The extension of its name says how a file is read: `pairs.csv.jsonl` is JSONL, and so is
`PAIRS.JSONL`. Files that are compressed with gzip are recognised by their content, whatever the
name. Texts are read exactly as they are in the file; where this is impossible, the file is refused
with a message of one line.
"""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from prompt_recovery.data.examples import Row
from prompt_recovery.errors import PromptRecoveryError, first_line

_TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".json")
SUFFIXES = (*_TEXT_FORMATS, ".parquet", *(f"{suffix}.gz" for suffix in _TEXT_FORMATS))
"""The endings of data files, in lower case."""

_SEPARATORS = ",;\t|"
_LONGEST_FIELD = min(sys.maxsize, 2**31 - 1)  # what a C long holds on every platform
_GZIP = b"\x1f\x8b"
_FOREIGN = {
    b"PK\x03\x04": "is a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"BZh91AY&": "is packed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "is packed with xz; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "is packed with zstd; unpack it with unzstd",
    b"\xff\xfe\x00\x00": "is not UTF-8 but UTF-32; convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW",
    b"\xff\xfe": "is not UTF-8 but UTF-16; convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW",
    b"\xfe\xff": "is not UTF-8 but UTF-16; convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW",
    b"version https://git-lfs": "is a pointer to the file, of Git LFS; fetch it with git lfs pull",
    b"<!doctype html": "is a web page; download the file itself",
    b"<html": "is a web page; download the file itself",
}
_NO_TEXT = {
    b"PAR1\x15": "is Parquet; give it the ending .parquet",
    _GZIP: "is packed with gzip twice; unpack it with gunzip",
}


def is_data_file(name: str) -> bool:
    """Whether a name has the ending of a data file."""
    return name.lower().endswith(SUFFIXES)


def data_files(folder: Path, *others: str) -> list[Path]:
    """The data files directly in a folder, by name.

    `.json` files are left out: in a folder, they seldom hold rows, but describe the folder.

    Args:
        folder: The folder.
        others: Further endings to look for.
    """
    endings = (*(s for s in SUFFIXES if ".json" not in s or ".jsonl" in s), *others)
    found = (p for p in folder.iterdir() if p.name.lower().endswith(endings))
    return sorted(p for p in found if p.name[0] != ".")


def read_rows(path: Path, setting: str = "data.path") -> Iterator[Row]:
    """The raw rows of one data file, in order.

    The fields of a CSV file may be separated by commas, semicolons, tabs or bars, which are
    recognised from its first line. A JSON file holds one list of objects, and a JSONL file one
    object on each line, or a list like a JSON file. Bytes in a Parquet file are decoded.

    Args:
        path: The file.
        setting: The setting that gives it, for the message where it does not exist.

    Raises:
        PromptRecoveryError: If the file does not exist, cannot be read, has an unknown format or is
            corrupt. The message names the file and the row or the line, and says what to do.
    """
    name = path.name.lower()
    if path.is_dir():
        kept = (
            "; use data=folder data.path=…"
            if setting == "data.path"
            else f"; give {setting}=<file>"
        )
        raise PromptRecoveryError(f"{path}: is a folder{kept}")
    if not is_data_file(name):
        raise PromptRecoveryError(f"{path}: unknown format; use one of {', '.join(SUFFIXES)}")
    suffix = Path(name.removesuffix(".gz")).suffix
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
            return
        with _opened(path) as text:
            if suffix in (".csv", ".tsv"):
                yield from _csv_rows(path, text, "\t" if suffix == ".tsv" else None)
            else:
                yield from _json_rows(path, text)
    except FileNotFoundError as error:
        raise PromptRecoveryError(f"{path}: no such file; give {setting}=<file>") from error
    except PermissionError as error:
        raise PromptRecoveryError(
            f"{path}: no permission to read it; `chmod +r` it or copy it elsewhere"
        ) from error
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        raise _corrupt(path, error) from error


def _corrupt(path: Path, error: Exception) -> PromptRecoveryError:
    return PromptRecoveryError(
        f"{path}: is corrupt or cut short ({first_line(error)}); fetch or make it again"
    )


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """Opens a text file, which is unpacked if it is gzip.

    Raises:
        PromptRecoveryError: If its first bytes are those of another format.
    """
    with _unpacked(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        yield text


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        if file.peek(2).startswith(_GZIP) or path.name.lower().endswith(".gz"):
            with gzip.open(file) as unpacked:
                _require_text(path, unpacked.peek(64))
                yield cast(IO[bytes], unpacked)
        else:
            _require_text(path, file.peek(64))
            yield file


def _require_text(path: Path, content: bytes) -> None:
    """Refuses a file whose first bytes are those of no text, or of no UTF-8."""
    _refuse(path, content, _FOREIGN | _NO_TEXT)
    if b"\x00" in content[:2]:
        raise PromptRecoveryError(
            f"{path}: is not UTF-8 text, since it begins with a zero byte or a character of two "
            "bytes; convert it, for example from UTF-16: iconv -f UTF-16LE -t UTF-8 FILE > NEW"
        )


def _refuse(path: Path, content: bytes, formats: Mapping[bytes, str]) -> None:
    """Refuses a file that begins as one of other formats does."""
    if not content:
        raise PromptRecoveryError(f"{path}: is empty; give a file with rows")
    first = content[:64]
    for signature, said in formats.items():
        if first.startswith(signature) or first.lstrip().lower().startswith(signature):
            raise PromptRecoveryError(f"{path}: {said}")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> PromptRecoveryError:
    """The error for bytes that are not UTF-8. Codecs give their place within a block only."""
    place = ""
    with _unpacked(path) as raw:
        for number, line in enumerate(raw, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as here:
                place = f", line {number}, byte {here.start + 1}"
                error = here
                break
    return PromptRecoveryError(
        f"{path}{place}: is not UTF-8 (0x{error.object[error.start]:02x}); convert the file, for "
        "example from the encoding of Windows: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
    )


def _csv_rows(path: Path, text: io.TextIOWrapper, separator: str | None) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    skipped, head = _first_line(text)
    told = re.fullmatch(r"sep=(.)\s*", head)  # the first line of some files made for Excel
    if told:
        separator = told[1]
        more, head = _first_line(text)
        skipped += more + 1
    if separator is None:
        separator = max(_SEPARATORS, key=lambda s: len(_fields(head, s)))
    # Where the names of columns have a blank before them, it belongs to the separator.
    blanks = any(name[:1] == " " for name in _fields(head, separator))
    record: list[str] = []

    def lines() -> Iterator[str]:
        for line in chain([head], text):
            record.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=separator, skipinitialspace=blanks, strict=True)
    try:
        names = _column_names(path, next(reader, []))
        number = 0
        record.clear()
        for values in reader:
            if values:
                number += 1
                place = f"{path.name}, row {number}"
                _refuse_loose_quotes(place, values, separator, record, blanks)
                if len(values) != len(names):
                    raise PromptRecoveryError(
                        f"{place}: has {'more' if len(values) > len(names) else 'fewer'} fields "
                        "than the header; quote texts that hold commas or line breaks"
                    )
                yield Row(place, dict(zip(names, values, strict=True)))
            record.clear()
    except csv.Error as error:
        line = skipped + reader.line_num
        advice = "check its quotes"
        if head.lstrip()[:1] in ("{", "["):
            advice = "if it is JSON, give it the ending .jsonl or .json"
        raise PromptRecoveryError(
            f"{path.name}, line {line}: is not valid CSV ({error}); {advice}"
        ) from error


def _first_line(text: io.TextIOWrapper) -> tuple[int, str]:
    """The first line that is not blank, and the number of lines before it."""
    for number, line in enumerate(text):
        if line.strip():
            return number, line
    return 0, ""


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _column_names(path: Path, header: Sequence[str]) -> list[str]:
    names = [name.strip() for name in header]
    _refuse_repeated(path, names)
    return names


def _refuse_repeated(path: Path, names: Sequence[str]) -> None:
    """Refuses two columns of one name, except where spreadsheets add nameless ones."""
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise PromptRecoveryError(
                f"{path.name}: has the column '{name}' twice; rename or remove one of them"
            )
        seen.add(name)


def _refuse_loose_quotes(
    place: str, values: Sequence[str], separator: str, record: Sequence[str], blanks: bool
) -> None:
    """Refuses `1, "a text"`, whose quotes would become part of the text, or split it."""
    if not blanks and any(v[:1] == " " and v.lstrip(" ")[:1] == '"' for v in values):
        raw = "".join(record)
        if any(separator + v in raw for v in values if v.lstrip(" ")[:1] == '"' and v[0] == " "):
            raise PromptRecoveryError(
                f"{place}: has a blank between the separator and a quotation mark; remove it "
                "throughout the file"
            )


class _RepeatedKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RepeatedKeyError(f"the key '{twice}' comes twice in one object")
    return values


def _json(text: str, place: str, hint: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        said = f"{error.msg}, {line}column {error.colno}"
    except _RepeatedKeyError as error:
        said = str(error)
    except RecursionError:
        said = "it is nested too deeply"
    except ValueError:  # the limit of Python on digits
        said = "a number has too many digits"
    raise PromptRecoveryError(f"{place}: is not valid JSON ({said}); {hint}")


def _json_rows(path: Path, text: io.TextIOWrapper) -> Iterator[Row]:
    text.reconfigure(newline="\n")  # texts hold other line breaks
    before, first = _first_line(text)
    if first.lstrip()[:1] == "[":
        yield from _array_rows(path, first + text.read())
        return
    if path.name.lower().removesuffix(".gz").endswith(".json") and not _is_json(first):
        keys = _json(first + text.read(), path.name, "a file must hold one list of objects")
        raise PromptRecoveryError(
            f"{path.name}: is one object (with {', '.join(map(str, keys)) or 'no keys'}); a JSON "
            "file must hold a list of objects, and a JSONL file one object on each line"
        )
    for number, line in enumerate(chain([first], text), start=before + 1):
        if line.strip():
            place = f"{path.name}, row {number}"
            yield _json_row(place, _json(line, place, "each line must be one object"))


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        return True
    return True


def _array_rows(path: Path, text: str) -> Iterator[Row]:
    values = _json(text, path.name, "a file that begins with [ must be one list of objects")
    for number, value in enumerate(values, start=1):
        yield _json_row(f"{path.name}, row {number}", value)


def _json_row(place: str, values: Any) -> Row:
    if not isinstance(values, dict):
        raise PromptRecoveryError(f"{place}: is not a JSON object; each row must be one")
    return Row(place, values)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # takes a fifth of a second, which other files need not wait for
    import pyarrow.parquet as pq

    number = 0
    with path.open("rb") as file:
        packed = {_GZIP: "is packed with gzip; unpack it with gunzip"}
        _refuse(path, file.peek(64), _FOREIGN | packed)
    try:
        with pq.ParquetFile(path) as parquet:
            _refuse_repeated(path, parquet.schema_arrow.names)
            for batch in parquet.iter_batches(batch_size=1024):
                columns = [
                    _cells(path, name, column, number)
                    for name, column in zip(batch.schema.names, batch.columns, strict=True)
                ]
                for values in zip(*columns, strict=True):
                    number += 1
                    row = dict(zip(batch.schema.names, values, strict=True))
                    yield Row(f"{path.name}, row {number}", row)
    except pa.ArrowException as error:
        raise _corrupt(path, error) from error


def _cells(path: Path, name: str, column: Any, before: int) -> list[Any]:
    """The values of a column as Python has them; bytes are texts."""
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError, NotImplementedError, TypeError):
        values = []
        for number, scalar in enumerate(column, start=before + 1):
            try:
                values.append(scalar.as_py())
            except (ValueError, OverflowError, NotImplementedError, TypeError) as error:
                raise PromptRecoveryError(
                    f"{path.name}, row {number}: column '{name}' holds a value that cannot be "
                    f"read ({first_line(error)}); correct it or leave the column out"
                ) from error
    for number, value in enumerate(values):
        if isinstance(value, bytes):
            try:
                values[number] = value.decode()
            except UnicodeDecodeError as error:
                raise PromptRecoveryError(
                    f"{path.name}, row {before + number + 1}: column '{name}' holds bytes that are "
                    "not UTF-8; write the column as texts"
                ) from error
    return values
