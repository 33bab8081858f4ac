import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.store import (
    Remembering,
    RequestStore,
    is_transient,
    request_key,
)
from prompt_recovery.rewriters.base import Answer, in_order
from tests.generation.fakes import FakeRewriter


def chats(count):
    return [[{"role": "user", "content": f"täxt {n} 🐝"}] for n in range(count)]


@pytest.fixture
def store(tmp_path):
    store = RequestStore(tmp_path / "requests.jsonl")
    yield store
    store.close()


def test_answers_come_back_as_they_were(tmp_path, store):
    answers = {
        "a" * 64: Answer("Two\nlines, “quoted” 🐝 \x00 \udc80", "", False, 3, 4, 0.25),
        "b" * 64: Answer("", "too_long"),
    }
    for key, answer in answers.items():
        assert key not in store
        assert store.get(key) is None
        store.put(key, answer)
        assert store.get(key) == answer
    store.close()
    again = RequestStore(tmp_path / "requests.jsonl")
    assert len(again) == 2
    assert {key: again.get(key) for key in answers} == answers
    again.close()


def test_a_key_stands_for_rewriter_chat_and_seed():
    chat = chats(1)[0]
    keys = {request_key(identity, chat, seed) for identity in ("a", "b") for seed in (0, 1)} | {
        request_key("a", [{"role": "user", "content": "other"}], 0)
    }
    assert len(keys) == 5
    swapped = [{"content": chat[0]["content"], "role": "user"}]
    assert request_key("a", swapped, 0) == request_key("a", chat, 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What five answers leave behind."""
    path = tmp_path_factory.mktemp("whole") / "requests.jsonl"
    store = RequestStore(path)
    for n in range(5):
        store.put(f"{n}" * 64, Answer(f"ünswer {n}" * n))
    store.close()
    return path.read_bytes()


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_file_cut_anywhere_keeps_its_whole_lines(whole, tmp_path_factory, data):
    end = data.draw(st.integers(0, len(whole)))
    path = tmp_path_factory.mktemp("cut") / "requests.jsonl"
    path.write_bytes(whole[:end])
    store = RequestStore(path)
    kept = whole[:end].count(b"\n")
    assert len(store) == kept
    for n in range(5):
        if f"{n}" * 64 not in store:
            store.put(f"{n}" * 64, Answer(f"ünswer {n}" * n))
    store.close()
    assert path.read_bytes() == whole


def test_a_damaged_line_is_one_answer_lost(whole, tmp_path):
    path = tmp_path / "requests.jsonl"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + b'"\xff' + lines[1][2:] + b"".join(lines[2:]))
    with path.open("a") as file:
        file.write('7\n[]\n{"key": 1}\n{"key": "x", "text": ["a"]}\n{"text": "no key"}\n')
    store = RequestStore(path)
    assert len(store) == 4
    assert store.get("3" * 64) == Answer("ünswer 3" * 3)
    store.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_tokens": "abc"},
        {"completion_tokens": None},
        {"prompt_tokens": -1},
        {"completion_tokens": 1.5},
        {"prompt_tokens": True},
        {"prompt_tokens": 10**400},
        {"finished": "no"},
        {"cost": float("nan")},
        {"cost": float("inf")},
        {"cost": "1"},
        {"detail": ["a"]},
        {"error": None},
        {"key": 7},
    ],
)
def test_a_field_of_another_type_is_one_answer_lost(tmp_path, changes):
    path = tmp_path / "requests.jsonl"
    line = {"key": "a" * 64, "text": "x", "prompt_tokens": 3, "cost": 0, "finished": True}
    path.write_text(json.dumps(line | changes) + "\n" + json.dumps(line | {"key": "b"}) + "\n")
    store = RequestStore(path)
    assert len(store) == 1
    assert store.get("b") == Answer("x", prompt_tokens=3)
    store.close()


def test_what_cost_money_is_synced_at_once_and_the_rest_soon(store, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), fsync(file)))
    store.put("a" * 64, Answer("free"))
    assert not synced
    for n in range(3):
        store.put(f"{n}" * 64, Answer("paid", cost=0.01))
    assert len(synced) == 3
    store.put("b" * 64, Answer("free"))
    deadline = time.monotonic() + 30
    while len(synced) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(synced) == 4


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_one_line(store, monkeypatch, call):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(PromptRecoveryError, match="No space"):
        patched.setattr(os, call, full)
        store.put("a" * 64, Answer("paid", cost=1.0))
    store.put("b" * 64, Answer("later"))
    assert store.get("b" * 64) == Answer("later")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PromptRecoveryError, match="make the folder writable") as raised:
        RequestStore(tmp_path / "file" / "requests.jsonl")
    assert "\n" not in str(raised.value)


def test_nothing_is_asked_twice(store):
    fake = FakeRewriter(errors={"too_long": 60})
    seen = []
    rewriter = Remembering(fake, store, seen.append)
    asked = chats(40)
    first = in_order(rewriter, asked[:25], range(25))
    assert first == in_order(FakeRewriter(errors={"too_long": 60}), asked[:25], range(25))
    assert in_order(rewriter, asked, range(40))[:25] == first
    assert len(fake.asked) == len(set(fake.asked)) == len(seen) == 40
    assert any(a.error for a in first)  # what fails for good isn't asked again either


def test_equal_requests_are_asked_once(store):
    fake = FakeRewriter()
    chat = chats(1)[0]
    answers = in_order(Remembering(fake, store), [chat] * 5, [1, 2, 1, 2, 1])
    assert answers[0] == answers[2] == answers[4] != answers[1] == answers[3]
    assert len(fake.asked) == 2


def test_what_failed_for_now_is_asked_again(tmp_path):
    store = RequestStore(tmp_path / "requests.jsonl")
    flaky = FakeRewriter(errors={"timeout": 128})
    first = in_order(Remembering(flaky, store), chats(40), range(40))
    failed = [n for n, answer in enumerate(first) if answer.error]
    assert 5 < len(failed) < 35
    well = FakeRewriter()
    second = in_order(Remembering(well, store), chats(40), range(40))
    store.close()
    assert len(well.asked) == len(failed)
    assert second == in_order(FakeRewriter(), chats(40), range(40))


def test_failures_that_an_older_version_kept_are_asked_again(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text(
        "".join(
            json.dumps({"key": c * 64, "text": "", "error": error}) + "\n"
            for c, error in zip("abc", ["http_400", "http_403", "too_long"], strict=True)
        )
    )
    store = RequestStore(path)
    assert ["a" * 64 in store, "b" * 64 in store, "c" * 64 in store] == [False, False, True]
    store.put("a" * 64, Answer("", "content_filter", detail="not that"))
    store.close()
    again = RequestStore(path)
    assert again.get("a" * 64).detail == "not that"
    again.close()


def test_answers_that_came_before_a_crash_are_kept(store):
    class Crashing(FakeRewriter):
        def answers(self, chats, seeds):
            for number, pair in enumerate(super().answers(chats, seeds)):
                if number == 7:
                    raise PromptRecoveryError("the account's credit is used up")
                yield pair

    with pytest.raises(PromptRecoveryError, match="credit"):
        in_order(Remembering(Crashing(), store), chats(20), range(20))
    assert len(store) == 7


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        ("", False),
        ("timeout", True),
        ("connection", True),
        ("broken_json", True),
        ("no_completion", True),
        ("http_429", True),
        ("http_408", True),
        ("http_500", True),
        ("http_503", True),
        ("http_400", True),  # a wrong model name or parameter, say
        ("http_403", True),
        ("http_422", True),
        ("unreadable", True),
        ("too_long", False),
        ("content_filter", False),
    ],
)
def test_which_failures_may_pass(error, transient):
    assert is_transient(error) is transient


def test_lines_are_json_that_others_can_read(tmp_path, store):
    store.put("a" * 64, Answer("text", prompt_tokens=7))
    [line] = (tmp_path / "requests.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "key": "a" * 64, "text": "text", "error": "", "finished": True,
        "prompt_tokens": 7, "completion_tokens": 0, "cost": 0.0,
    }  # fmt: skip
