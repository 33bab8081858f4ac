"""Texts come from everywhere, whole and once; created ones have the length that was asked for."""

import json
import sys
from collections import Counter
from itertools import combinations, islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prompt_recovery.data.sources import starter
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.instructions import read_parts
from prompt_recovery.generation.originals import (
    CreatedOriginals,
    OriginalColumns,
    TextRequest,
    file_originals,
    folder_originals,
    hub_originals,
    starter_originals,
    usable,
)
from prompt_recovery.rewriters.base import Answer
from tests.generation.scripted import Scripted


def _jsonl(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_the_starter_has_its_passages_once_each():
    found = starter_originals().originals
    assert {o.text for o in found} == {e.original_text for e in starter().examples}
    assert len({o.id for o in found}) == len({o.text for o in found}) == len(found)
    assert {o.licence for o in found} == {"CC0-1.0"} and all(o.category for o in found)


def test_passages_are_those_of_both_editions_and_more():
    found = starter_originals(more=True).originals
    assert len(found) == len({o.id for o in found}) == len({o.text for o in found}) == 1534
    assert {o.text for o in found} > {e.original_text for e in starter(full=True).examples}
    written = [o for o in found if o.source == "passages"]
    assert len(written) == 750 and {o.licence for o in found} == {"CC0-1.0"}
    assert all(40 <= len(o.text.split()) <= 210 for o in written)
    assert len({o.category for o in written}) > 60
    openings = Counter(" ".join(o.text.split()[:3]) for o in written)
    assert openings.most_common(1)[0][1] <= 5


def test_a_file_gives_texts_ids_and_categories(tmp_path):
    path = _jsonl(
        tmp_path / "a.jsonl",
        {"n": 0, "body": " One text. ", "kind": "news"},
        {"n": 1, "body": "Another text.", "kind": None},
    )
    columns = OriginalColumns(text="body", id="n", category="kind")
    first, second = file_originals(path, columns, licence="MIT").originals
    assert (first.id, first.text, first.category) == ("0", "One text.", "news")
    assert (second.id, second.category, second.source, second.licence) == (
        "1", "", "a.jsonl", "MIT",
    )  # fmt: skip


def test_ids_come_from_the_texts_where_there_are_none(tmp_path):
    rows = [{"original_text": "One."}, {"original_text": "Two."}]
    found = file_originals(_jsonl(tmp_path / "a.jsonl", *rows)).originals
    turned = file_originals(_jsonl(tmp_path / "b.jsonl", *rows[::-1])).originals
    assert [o.id for o in found] == [o.id for o in turned][::-1] and found[0].id != found[1].id


def test_a_folder_is_one_pile_and_repeated_texts_are_reported(tmp_path):
    pq.write_table(pa.table({"original_text": ["One.", "Two."]}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("Three.\n")
    (tmp_path / "c.txt").write_text("two")
    (tmp_path / "picture.png").write_text("ignored")
    found = folder_originals(tmp_path)
    assert [o.text for o in found.originals] == ["One.", "Two.", "Three."]
    assert [(o.text, reason) for o, reason in found.rejected] == [("two", "repeated")]
    assert found.originals[2].category == tmp_path.name


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, r"column 'original_text' is missing \(columns here: text\); map it with "
         r"originals\.columns\.text="),
        ({"original_text": " "}, r"column 'original_text' is empty; .*originals\.drop_invalid"),
        ({"original_text": "a \ud83d"}, "half a surrogate"),
        ({"original_text": 3}, "is not a text but a int"),
    ],
)  # fmt: skip
def test_bad_rows_are_one_line(tmp_path, row, message):
    path = _jsonl(tmp_path / "a.jsonl", {"original_text": "fine"}, row)
    with pytest.raises(PromptRecoveryError, match=message) as caught:
        file_originals(path)
    assert str(caught.value).startswith("a.jsonl, row 2: ") and "\n" not in str(caught.value)


def test_bad_ids_are_one_line(tmp_path):
    columns = OriginalColumns(id="id")
    rows = [{"id": "x", "original_text": "One."}, {"id": "x", "original_text": "Two."}]
    with pytest.raises(PromptRecoveryError, match=r"row 2: id 'x' was already used at a\.jsonl, r"):
        file_originals(_jsonl(tmp_path / "a.jsonl", *rows), columns)
    rows[1]["id"] = None
    with pytest.raises(PromptRecoveryError, match="row 2: column 'id' is empty"):
        file_originals(_jsonl(tmp_path / "a.jsonl", *rows), columns)


def test_bad_rows_can_be_left_out_and_are_reported(tmp_path):
    rows = [{"original_text": "fine"}, {"original_text": ""}, {"original_text": None}]
    found = file_originals(_jsonl(tmp_path / "a.jsonl", *rows), drop_invalid=True)
    assert [o.text for o in found.originals] == ["fine"]
    assert Counter(reason for _, reason in found.rejected) == {"no_text": 2}
    with pytest.raises(PromptRecoveryError, match=r"holds no usable texts \(left out: .*no_text"):
        file_originals(_jsonl(tmp_path / "b.jsonl", rows[1]), drop_invalid=True)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"no such file; give originals\.path"):
        file_originals(tmp_path / "none.csv")
    with pytest.raises(PromptRecoveryError, match="is not a folder"):
        folder_originals(tmp_path / "none")
    with pytest.raises(PromptRecoveryError, match="holds no texts"):
        folder_originals(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(PromptRecoveryError, match=r"a\.txt: is not UTF-8"):
        folder_originals(tmp_path)


def test_hub_errors_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install -e .*\[hub\]'"):
        hub_originals("owner/name")


def test_hub_rows_are_validated(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [{"text": "One."}])
    found = hub_originals("owner/name", columns=OriginalColumns(text="text"))
    assert [(o.text, o.source) for o in found.originals] == [("One.", "owner/name")]
    with pytest.raises(PromptRecoveryError, match=r"owner/name\[train\], row 1: column 'original"):
        hub_originals("owner/name")


def test_the_shipped_lists_are_large_and_distinct():
    for name, least in (("topics", 100), ("forms", 30)):
        parts = read_parts(name)
        assert len(set(parts)) == len(parts) >= least
        assert all(part == part.strip() and part for part in parts)


def test_requests_are_balanced_and_meet_in_every_pair(tmp_path):
    (tmp_path / "topics").write_text("".join(f"topic {n}\n" for n in range(6)))
    (tmp_path / "forms").write_text("".join(f"form {n}\n" for n in range(4)))
    source = CreatedOriginals(1, topics=tmp_path / "topics", forms=tmp_path / "forms")
    requests = list(islice(source.requests(), 48))
    assert len({(r.topic, r.form) for r in requests[:24]}) == 24
    assert len({(r.topic, r.form) for r in requests[24:]}) == 24
    assert len({r.seed for r in requests}) == 48
    for until in range(1, 48):
        for used in (Counter(r.topic for r in requests[:until]),
                     Counter(r.form for r in requests[:until])):  # fmt: skip
            assert all(abs(a - b) <= 1 for a, b in combinations(used.values(), 2))
    assert {r.words for r in requests} == {60, 90, 120}
    assert list(islice(source.requests(), 48)) == requests
    other = CreatedOriginals(1, seed=1, topics=source.topics, forms=source.forms)
    assert list(islice(other.requests(), 48)) != requests


def test_requests_ask_for_topic_form_and_length():
    request = TextRequest("a lost dog", "a diary entry", 90, 1)
    assert request.chat()[-1]["content"].startswith(
        "Write a diary entry about a lost dog in about 90 words."
    )


def _sentences(words, seed=0):
    """So many words in sentences of five."""
    text = [f"w{seed}x{n}" for n in range(words)]
    return " ".join(w + "." if n % 5 == 4 else w for n, w in enumerate(text))


@pytest.mark.parametrize(
    ("words", "kept", "reason"),
    [
        (49, 49, "too_short"),
        (50, 50, ""),
        (125, 125, ""),
        (128, 125, ""),
        (200, 125, ""),
        (201, 201, "too_long"),
    ],
)
def test_length_control(words, kept, reason):
    request = TextRequest("t", "f", 100, 0)
    text, found = usable(Answer(_sentences(words)), request)
    assert (len(text.split()), found) == (kept, reason)
    assert found or text.endswith((".", f"x{words - 1}"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("", error="timeout"), "failed_timeout"),
        (Answer(""), "empty"),
        (Answer("I'm sorry, but I cannot write a text about that."), "refusal"),
        (Answer("the cat sat on the mat and " * 15), "looping"),
        (Answer(_sentences(14), finished=False), "too_short"),
        (Answer(_sentences(150).replace(".", "")), "too_short"),  # there is nowhere to cut
    ],
)
def test_unusable_answers(answer, reason):
    text, found = usable(answer, TextRequest("t", "f", 100, 0))
    assert (text, found) == (answer.text.strip(), reason)


def test_an_answer_that_was_cut_off_ends_with_a_sentence():
    text, reason = usable(Answer(_sentences(63), finished=False), TextRequest("t", "f", 60, 0))
    assert reason == "" and len(text.split()) == 60 and text.endswith(".")


def test_what_the_model_says_to_the_user_is_taken_off():
    wrapped = f"Sure! Here's a diary entry about a dog:\n\n{_sentences(60)}"
    text, reason = usable(Answer(wrapped), TextRequest("t", "f", 60, 0))
    assert (text, reason) == (_sentences(60), "")


def test_created_originals_are_as_many_as_asked_for_and_rejected_ones_reported():
    refused = "I'm sorry, but I cannot write that."
    rewriter = Scripted(lambda _, seed: refused if seed % 3 == 0 else _sentences(70, seed))
    source = CreatedOriginals(30, words=[60])
    made = source.write(rewriter)
    assert len(made.originals) == 30 == len({o.id for o in made.originals})
    assert {reason for _, reason in made.rejected} == {"refusal"}
    assert len(rewriter.asked) == 30 + len(made.rejected) == len(set(rewriter.asked))
    first = made.originals[0]
    assert first.licence == "MIT" and first.source == "created by scripted"
    assert first.category in {f.split(" ", 1)[1] for f in read_parts("forms")}
    assert source.write(rewriter) == made


def test_a_rewriter_that_repeats_itself_gives_fewer():
    made = CreatedOriginals(5, words=[60]).write(Scripted(lambda *_: _sentences(60)))
    assert len(made.originals) == 1
    assert Counter(reason for _, reason in made.rejected) == {"repeated": 14}


def test_no_usable_answer_is_an_error():
    with pytest.raises(PromptRecoveryError, match=r"none of 6 answers .* \{'empty': 6\}\); use an"):
        CreatedOriginals(2).write(Scripted(lambda *_: ""))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "originals.count=0: must be ≥ 1"),
        ({"count": 1, "words": []}, r"originals\.words=\[\]: must be"),
        ({"count": 1, "words": [90, 5]}, r"originals.words=\[90, 5\]: must be .* ≥ 20"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(PromptRecoveryError, match=message):
        CreatedOriginals(**settings)


def test_lists_of_the_users_own_are_checked(tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"give originals\.topics=<file>"):
        next(CreatedOriginals(1, topics=tmp_path / "none").requests())
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(PromptRecoveryError, match="holds no forms; write one on each line"):
        next(CreatedOriginals(1, forms=tmp_path / "empty").requests())
