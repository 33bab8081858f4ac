import errno
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prompt_recovery import journal
from prompt_recovery.errors import PromptRecoveryError

VALUES = st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=5)


@given(values=VALUES, cut=st.floats(0, 1), more=VALUES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_goes_on(values, cut, more, tmp_path):
    path = tmp_path / "folder" / "a.jsonl"
    path.unlink(missing_ok=True)
    for value in values:
        journal.append(path, value)
    assert journal.whole(path) == values
    if values:
        data = path.read_bytes()
        path.write_bytes(data[: int(cut * len(data))])
    kept = journal.whole(path)
    assert kept == values[: len(kept)]
    assert len(kept) == (path.read_bytes().count(b"\n") if values else 0)
    for value in more:
        journal.append(path, value)
    assert journal.whole(path) == kept + more


def test_lines_that_are_no_json_end_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\x00\x00\n{"b": 2}\n')
    assert journal.whole(path) == [{"a": 1}]
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    journal.append(path, {"a": 1})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(PromptRecoveryError, match=r"a\.jsonl \(No space left.*finished is kept"):
        journal.append(path, {"b": 2})
    assert path.read_text() == '{"a": 1}\n'


def test_what_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PromptRecoveryError, match="cannot write"):
        journal.append(tmp_path / "file" / "a.jsonl", 1)
    with pytest.raises(PromptRecoveryError, match="cannot write"):
        journal.whole(tmp_path)
