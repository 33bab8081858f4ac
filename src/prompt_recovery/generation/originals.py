"""Original texts: from the starter dataset, from files and the Hub, or written by an LLM."""

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen

from prompt_recovery.data.examples import (
    Row,
    id_of_cell,
    optional_cell,
    problem_with_text,
    require_mapped,
)
from prompt_recovery.data.files import SUFFIXES, data_files, read_rows
from prompt_recovery.data.sources import hub_rows, starter
from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.filters import Draft, Filters, clean_rewrite, reason_to_reject
from prompt_recovery.generation.instructions import read_parts
from prompt_recovery.rewriters.base import Answer, Chat, Rewriter, in_order
from prompt_recovery.settings import AnyPath, AtLeastOne, Count, checked
from prompt_recovery.storage import fingerprint

_TEXT = ".txt"


@dataclass(frozen=True, slots=True)
class Original:
    """A text to be rewritten.

    Attributes:
        id: Unique among the originals.
        text: The text, never blank.
        category: Kind of text: a genre, a form, or whatever its source gives.
        source: Where the text came from.
        licence: Licence of the text; empty if unknown.
    """

    id: str
    text: str
    category: str
    source: str
    licence: str


@dataclass(frozen=True)
class Originals:
    """Distinct texts with unique ids, in the order of their source.

    Attributes:
        name: Name used in messages and dataset cards.
        originals: The texts.
        rejected: The texts that were left out, each with its reason: `no_text` or `repeated`, and
            for created texts also `failed_<error>` or one of the reasons in `filters`. Nothing is
            dropped silently.
    """

    name: str
    originals: list[Original]
    rejected: list[tuple[Original, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OriginalColumns:
    """Column names in a source of texts. If `id` is None, ids are derived from the texts."""

    text: str = "original_text"
    id: str | None = None
    category: str = "category"


_COLUMNS = OriginalColumns()


def starter_originals(more: bool = False) -> Originals:
    """Returns the distinct passages of the dataset shipped with this package.

    Args:
        more: Whether to add those of its second edition, and 750 texts of 48 to 202 words that were
            written for rewriters: business, fiction, knowledge and everyday life.
    """
    passages: dict[str, Original] = {}
    for example in starter(full=more).examples:
        genre = example.source.removeprefix("starter/")
        passage = Original(
            example.id.rpartition("-")[0], example.original_text, genre, "starter", "CC0-1.0"
        )
        passages.setdefault(passage.text, passage)
    if not more:
        return Originals("starter", list(passages.values()))
    with resources.as_file(resources.files(__package__) / "passages.jsonl") as path:
        columns = OriginalColumns("text", "id")
        written = _validated(read_rows(path), "passages", columns, False, "CC0-1.0")
    return Originals("passages", [*passages.values(), *written.originals])


def file_originals(
    path: AnyPath,
    columns: OriginalColumns = _COLUMNS,
    drop_invalid: bool = False,
    licence: str = "",
) -> Originals:
    """Reads the texts of one CSV, JSONL or Parquet file. CSV and JSONL files may be gzipped.

    Args:
        path: The file of texts.
        columns: Names of its columns.
        drop_invalid: Leave out rows without a usable text instead of raising an error.
        licence: Licence of the texts.

    Raises:
        PromptRecoveryError: If the file does not exist, has an unknown format, is corrupt, lacks a
            column, contains an unusable text or uses an id twice. The message names the file and
            the row, and says how to fix it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise PromptRecoveryError(f"{path}: no such file; give originals.path=<file>")
    return _validated(read_rows(path), path.name, columns, drop_invalid, licence)


def folder_originals(
    path: AnyPath,
    columns: OriginalColumns = _COLUMNS,
    drop_invalid: bool = False,
    licence: str = "",
) -> Originals:
    """Reads all data files directly in a folder, and its `.txt` files as one text each.

    The category of a `.txt` file is the folder's name.

    Args:
        path: The folder.
        columns: Names of the columns of its data files.
        drop_invalid: Leave out rows without a usable text instead of raising an error.
        licence: Licence of the texts.

    Raises:
        PromptRecoveryError: If the folder contains no texts, and as for `file_originals`.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise PromptRecoveryError(f"{path}: is not a folder; give originals.path=<folder of texts>")
    known = (*SUFFIXES, _TEXT)
    files = data_files(path, _TEXT)
    if not files:
        raise PromptRecoveryError(f"{path}: holds no texts ({', '.join(known)})")
    rows = (row for file in files for row in _rows(file, columns))
    return _validated(rows, path.name, columns, drop_invalid, licence)


def _rows(file: Path, columns: OriginalColumns) -> Iterable[Row]:
    return [_text_file(file, columns)] if file.suffix.lower() == _TEXT else read_rows(file)


def _text_file(path: Path, columns: OriginalColumns) -> Row:
    try:
        values = {columns.text: path.read_text("utf-8-sig"), columns.category: path.parent.name}
    except UnicodeDecodeError as error:
        raise PromptRecoveryError(
            f"{path}: is not UTF-8 (byte {error.start}); convert it, for example with iconv"
        ) from error
    except OSError as error:
        raise PromptRecoveryError(
            f"{path}: cannot be read ({error.strerror}); make it a readable file or move it away"
        ) from error
    return Row(path.name, {columns.id or "id": path.stem, **values})


def hub_originals(
    repo: str,
    split: str = "train",
    revision: str | None = None,
    columns: OriginalColumns = _COLUMNS,
    drop_invalid: bool = False,
    licence: str = "",
) -> Originals:
    """Reads the texts of one split of a dataset on the Hugging Face Hub (extra `[hub]`).

    Raises:
        PromptRecoveryError: If the extra is not installed or the dataset cannot be loaded, and for
            invalid rows as in `file_originals`.
    """
    rows = hub_rows(repo, split, revision, "originals")
    return _validated(rows, repo, columns, drop_invalid, licence)


def _validated(
    rows: Iterable[Row],
    name: str,
    columns: OriginalColumns,
    drop_invalid: bool,
    licence: str,
) -> Originals:
    found = Originals(name, [])
    places: dict[str, str] = {}
    texts: set[bytes] = set()
    for row in rows:
        wanted = {"id": columns.id, "text": columns.text}
        require_mapped(row, wanted, "originals.columns", "derive ids from the texts")
        text = row.values[columns.text]
        problem = problem_with_text(text)
        if problem is not None:
            if not drop_invalid:
                raise PromptRecoveryError(
                    f"{row.place}: column '{columns.text}' {problem}; fix the row, or leave such "
                    "rows out with originals.drop_invalid=true"
                )
            found.rejected.append((Original(row.place, "", "", name, licence), "no_text"))
            continue
        text = text.strip()
        otherwise = "derive ids from the texts with originals.columns.id=null"
        id_ = fingerprint(text) if columns.id is None else id_of_cell(row, columns.id, otherwise)
        original = Original(id_, text, optional_cell(row, columns.category), name, licence)
        # Collections of texts often contain duplicates, which are not worth an error.
        key = hashlib.sha256(normalise(text).encode()).digest()
        if key in texts:
            found.rejected.append((original, "repeated"))
            continue
        texts.add(key)
        if original.id in places:
            raise PromptRecoveryError(
                f"{row.place}: id '{original.id}' was already used at {places[original.id]}; make "
                "ids unique, or derive them from the texts with originals.columns.id=null"
            )
        places[original.id] = row.place
        found.originals.append(original)
    if not found.originals:
        raise PromptRecoveryError(f"{name}: holds no usable texts{_reasons(found)}; check it")
    return found


def _reasons(found: Originals) -> str:
    counts = Counter(reason for _, reason in found.rejected)
    return f" (left out: {dict(counts)})" if counts else ""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request to an LLM to write a text.

    Attributes:
        topic: What the text is about.
        form: Form of the text with its article, such as "a diary entry".
        words: Approximate length in words.
        seed: Seed for the model that writes it, in [0, 2³¹).
    """

    topic: str
    form: str
    words: int
    seed: int

    def chat(self) -> Chat:
        """Renders the request as a chat with a single turn."""
        content = (
            f"Write {self.form} about {self.topic} in about {self.words} words. "
            "Answer with the text alone, without a title."
        )
        return [{"role": "user", "content": content}]


@checked("originals")
@dataclass(frozen=True)
class CreatedOriginals:
    """Texts written by an LLM, with combinations of topics, forms and lengths.

    Attributes:
        count: Number of texts, ≥ 1.
        words: Lengths to ask for, in words, each ≥ 20. A text shorter than half or longer than
            twice the requested length is rejected. A text that exceeds the requested length by
            more than a quarter is cut at the end of a sentence.
        seed: Determines the requests and is part of their seeds.
        topics: A file with one topic per line. None uses the list shipped with this package.
        forms: A file with one form per line, including its article. None uses the list shipped
            with this package.
    """

    count: AtLeastOne = 200
    words: Annotated[Sequence[Annotated[int, Ge(20)]], MinLen(1)] = (60, 90, 120)
    seed: Count = 0
    topics: AnyPath | None = None
    forms: AnyPath | None = None

    def requests(self) -> Iterator[TextRequest]:
        """Yields an endless sequence of requests, which depends on all settings except `count`.

        The numbers of times that any two topics are used differ by at most one; the same holds for
        forms. No pair of a topic and a form is repeated before all pairs have been used.
        """
        topics, forms = _lines("topics", self.topics), _lines("forms", self.forms)
        rng = random.Random(self.seed)
        rng.shuffle(topics)
        rng.shuffle(forms)
        cycle = math.lcm(len(topics), len(forms))
        number = 0
        while True:
            digest = hashlib.sha256(f"{self.seed}\0{number}".encode()).digest()
            yield TextRequest(
                topics[number % len(topics)],
                # Walking both lists in step gives `cycle` distinct pairs. After that, the forms
                # are shifted by one place.
                forms[(number + number // cycle) % len(forms)],
                self.words[int.from_bytes(digest[4:8], "big") % len(self.words)],
                int.from_bytes(digest[:4], "big") >> 1,
            )
            number += 1

    def write(self, rewriter: Rewriter) -> Originals:
        """Asks the rewriter to write the texts, with a new request for every rejected text.

        The requests depend only on the settings and on the answers so far, so that the work can be
        resumed if the rewriter remembers its answers.

        Returns:
            `count` texts, or fewer if `3 * count` requests did not give enough usable texts.

        Raises:
            PromptRecoveryError: If a list cannot be read or no answer was usable.
        """
        made = Originals(f"created by {rewriter.name}", [])
        licence = rewriter.card().get("licence", "")
        stream = islice(self.requests(), 3 * self.count)
        seen: set[str] = set()
        said = ""
        while requests := list(islice(stream, self.count - len(made.originals))):
            answers = in_order(rewriter, [r.chat() for r in requests], [r.seed for r in requests])
            for request, answer in zip(requests, answers, strict=True):
                said = answer.detail or said
                text, reason = usable(answer, request)
                if not reason and normalise(text) in seen:
                    reason = "repeated"
                form = re.sub(r"^(an?|the) ", "", request.form)
                id_ = fingerprint(request.chat(), request.seed)
                original = Original(id_, text, form, made.name, licence)
                if reason:
                    made.rejected.append((original, reason))
                else:
                    seen.add(normalise(text))
                    made.originals.append(original)
        if not made.originals:
            raise PromptRecoveryError(
                f"none of {len(made.rejected)} answers of {rewriter.name} could be used as an "
                f"original{_reasons(made)}; "
                + (
                    f"the last one without a text was: {said}"
                    if said
                    else "use another rewriter or other originals.words"
                )
            )
        return made


_LEAD_IN = re.compile(
    r"\A[^\n]{0,200}\bhere(?:'s|’s| is| are)\b[^\n]{0,200}:[^\S\n]{0,40}\n\s*", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)")
_ANY_LENGTH = Filters(min_words=0, min_ratio=0.0, max_ratio=math.inf)


def usable(answer: Answer, request: TextRequest) -> tuple[str, str]:
    """Returns the text of an answer and the reason why it is unusable, or "" if it is usable."""
    if answer.error:
        return answer.text, f"failed_{answer.error}"
    text = _LEAD_IN.sub("", clean_rewrite(answer.text), count=1)
    problem = reason_to_reject(Draft(request.chat()[-1]["content"], "", text), _ANY_LENGTH)
    length = len(text.split())
    if problem or length > 2 * request.words:
        return text, problem or "too_long"
    fit = text
    if length > 1.25 * request.words or not answer.finished:
        fit = _cut_at_sentence(text, int(1.25 * request.words))
    return (fit, "") if len(fit.split()) >= request.words / 2 else (text, "too_short")


def _cut_at_sentence(text: str, most: int) -> str:
    """Returns the longest prefix of whole sentences with at most `most` words; may be empty."""
    ends = [m.end() for m in _SENTENCE_END.finditer(text)]
    return next((text[:end] for end in reversed(ends) if len(text[:end].split()) <= most), "")


def _lines(name: str, path: str | Path | None) -> list[str]:
    """Returns the distinct lines of the user's list or, if `path` is None, of the shipped one."""
    if path is None:
        return read_parts(name)
    path = Path(path).expanduser()
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptRecoveryError(
            f"{path}: cannot be read as UTF-8 text; give originals.{name}=<file>, one on each line"
        ) from error
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise PromptRecoveryError(f"{path}: holds no {name}; write one on each line")
    return found
