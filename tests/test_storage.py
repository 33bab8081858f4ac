"""Files are written whole or not at all, and no kill takes anything that is finished."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prompt_recovery import storage
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import (
    Journal,
    KeyValueStore,
    atomic_write,
    cache_dir,
    locked,
    made_once,
    read_json,
    read_jsonl,
    read_small,
    read_yaml,
    write_json,
    write_jsonl,
)

LINE_BREAKS = "a\u2028b\u2029c\x85d\x0be\rf\ng"  # all that str.splitlines would split at
VALUES = st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=5)
PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(PromptRecoveryError, match=r"metrics\.json \(No space left.*free some space"),
        atomic_write(path) as temporary,
    ):
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_an_interrupted_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_killed_writers_have_left_is_deleted_when_it_is_old(tmp_path):
    path = tmp_path / "out.csv"
    names = [".out.csv.0123abcd", ".out.csv.part.jsonl", ".other.csv.0123abcd", "out.csv.0123abcd"]
    for name in (*names, ".out.csv.99999999"):
        (tmp_path / name).write_text("half")
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"out.csv", ".out.csv.99999999", *names[1:]}, "one may be under way"
    assert path.read_text() == "whole"


@pytest.fixture
def umask():
    old = os.umask(0o077)
    yield os.umask
    os.umask(old)


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_umask_decides_the_mode_of_a_new_file(tmp_path, umask):
    for mask, expected in ((0o077, 0o600), (0o027, 0o640), (0o002, 0o664)):
        umask(mask)
        write_json(tmp_path / f"{mask}", 1)
        assert mode(tmp_path / f"{mask}") == expected


@pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX's")
def test_a_replaced_file_keeps_its_mode_and_a_link_stays_one(tmp_path, umask):
    path = tmp_path / "real" / "a.json"
    write_json(path, 1)
    path.chmod(0o664)
    (tmp_path / "link.json").symlink_to(path)
    write_json(tmp_path / "link.json", 2)
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(path) == 2
    assert mode(path) == 0o664


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes are Linux's")
def test_a_replaced_file_keeps_its_attributes_and_its_owner(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    try:
        os.setxattr(path, "user.note", b"mine")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    if os.geteuid() == 0:
        os.chown(path, 1234, 1234)
    before = path.stat()
    write_json(path, "new")
    assert path.read_text() == '"new"\n'
    assert os.getxattr(path, "user.note") == b"mine"
    assert (path.stat().st_uid, path.stat().st_gid) == (before.st_uid, before.st_gid)


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path / "file" / "a", "choose another folder"),
        (tmp_path, "not a file"),
    ):
        with pytest.raises(PromptRecoveryError, match=reason) as raised:
            write_json(path, 1)
        assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be synced elsewhere")
def test_the_file_is_synced_before_it_has_its_name_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    fsync, path = os.fsync, tmp_path / "a"

    def spy(descriptor):
        events.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", spy)
    write_json(path, 1)
    [(first, before), (second, after)] = events
    assert first.startswith(f"{tmp_path}/.a.") and not before
    assert second == str(tmp_path) and after


def test_json_is_read_back_and_anything_else_is_none(tmp_path):
    path = tmp_path / "new" / "a.json"
    assert read_json(path) is None
    write_json(path, {"ü": [1, None, LINE_BREAKS]})
    assert read_json(path) == {"ü": [1, None, LINE_BREAKS]}
    for damage in (b'{"a": ', b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(damage)
        assert read_json(path) is None


def test_a_strangers_file_is_regular_and_small(tmp_path):
    (tmp_path / "a").write_text("é")
    (tmp_path / "link").symlink_to("a")
    assert read_small(tmp_path / "link", 2) == "é"
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, most in (("a", 1), ("zero", 9), ("pipe", 9), ("loop", 9), ("none", 9), (".", 9)):
        with pytest.raises((OSError, ValueError)):
            read_small(tmp_path / name, most)
    for name in ("zero", "pipe", "loop"):
        assert read_json(tmp_path / name) is None
        with pytest.raises((OSError, ValueError)):
            read_yaml(tmp_path / name)


def test_a_jsonl_line_ends_at_a_line_feed_only(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"text": LINE_BREAKS}, {"text": "half \ud83d pair"}, {}]
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows[:1]), "utf-8")
    assert read_jsonl(path) == rows[:1]
    path.write_text('{"a": 1}\n{"b": ')
    with pytest.raises(ValueError, match="Expecting"):
        read_jsonl(path)


@given(values=VALUES, cut=st.floats(0, 1), more=VALUES)
@PROPERTY
def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(values, cut, more, tmp_path):
    path = tmp_path / "folder" / "a.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for value in values:
        journal.append(value)
    assert Journal(path).values == values
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    again = Journal(path)
    kept = again.values
    assert kept == values[: len(kept)]
    assert len(kept) == path.read_bytes().count(b"\n")
    for value in more:
        assert again.read(again.append(value)) == value
    assert Journal(path).values == kept + more


DAMAGE = st.sampled_from([b"\x00\x00", b"\xff\xfe", b"[1", b"7", b'"text"', b"{}", b"[" * 20_000])


@given(values=st.lists(st.integers(), min_size=1, max_size=5), data=st.data())
@PROPERTY
def test_an_odd_line_is_work_to_do_again(values, data, tmp_path):
    path = tmp_path / "a.jsonl"
    number = data.draw(st.integers(0, len(values) - 1))
    lines = [json.dumps({"value": v}).encode() for v in values]
    lines[number] = data.draw(DAMAGE)

    def decode(line):
        return line["value"]

    path.write_bytes(b"".join(line + b"\n" for line in lines))
    whole = path.read_bytes()
    journal = Journal(path, decode)
    assert journal.values == values[:number] + values[number + 1 :]
    assert [journal.read(place)["value"] for place, _ in journal.kept] == journal.values
    assert path.read_bytes() == whole
    ordered = Journal(path, decode, in_order=True)
    assert ordered.values == values[:number]
    ordered.append({"value": 0})
    assert Journal(path, decode).values == [*values[:number], 0]


def test_long_lines_are_read_whole(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    places = [journal.append(size * "x") for size in (1, 16_382, 16_383, 16_384, 100_000, 0)]
    assert [len(journal.read(place)) for place in places] == [1, 16_382, 16_383, 16_384, 100_000, 0]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch, call):
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    journal.append({"a": 1})
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(PromptRecoveryError, match=r"a\.jsonl \(No space left.*is kept"):
            journal.append({"b": 2})

        def half(descriptor, data):
            patched.setattr(os, "write", full)
            return write(descriptor, data[: len(data) // 2])

        patched.setattr(os, "write", half)
        with pytest.raises(PromptRecoveryError, match="No space"):
            journal.append({"b": 2})
    assert path.read_text() == '{"a": 1}\n'
    journal.append({"c": 3})
    assert Journal(path).values == [{"a": 1}, {"c": 3}]


def test_a_journal_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.jsonl", tmp_path):
        with pytest.raises(PromptRecoveryError, match="cannot write"):
            Journal(path)


def test_each_value_is_synced_or_all_of_a_while(tmp_path, monkeypatch):
    journal, batched = Journal(tmp_path / "a"), Journal(tmp_path / "b", sync_every_s=0.2)
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), fsync(file)))
    for n in range(3):
        journal.append(n)
    assert len(synced) == 3
    for n in range(100):
        batched.append(n)
    assert len(synced) <= 3 + 20
    before = len(synced)
    batched.append("dear", sync=True)
    assert len(synced) > before
    batched.append("last")
    batched.close()
    before = len(synced)
    batched.close()
    assert len(synced) == before
    assert Journal(tmp_path / "b").values == [*range(100), "dear", "last"]


def test_a_failure_to_sync_is_told_by_the_next_append(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "a", sync_every_s=0.01)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        deadline = time.monotonic() + 30
        with pytest.raises(PromptRecoveryError, match="No space"):
            while time.monotonic() < deadline:
                journal.append(1)
                time.sleep(0.005)
    journal.close()


WRITER = """
import sys
from pathlib import Path
from prompt_recovery.storage import Journal, write_json
journal = Journal(Path(sys.argv[1]), sync_every_s=float(sys.argv[2]))
n = len(journal.kept)
while True:
    journal.append({"n": n, "text": "x" * (n % 5000)})
    write_json(Path(sys.argv[1]).with_name("state.json"), {"n": n, "text": "x" * 100_000})
    print(n, flush=True)
    n += 1
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
@pytest.mark.parametrize("sync_every_s", [0, 60])
def test_sigkill_takes_nothing_that_was_finished(tmp_path, sync_every_s):
    path, finished = tmp_path / "a.jsonl", 0
    for wait in (0.0, 0.013, 0.029):
        command = [sys.executable, "-c", WRITER, str(path), str(sync_every_s)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            first = int(process.stdout.readline())
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            last = [first, *map(int, process.stdout.read().split("\n")[:-1])][-1]
        assert first >= finished
        values = Journal(path).values
        assert [v["n"] for v in values] == list(range(len(values)))
        assert len(values) >= last + 1
        state = read_json(tmp_path / "state.json")
        assert state["n"] >= last and len(state["text"]) == 100_000
        finished = last + 1


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path / "file"))
    with pytest.raises(PromptRecoveryError, match="set PROMPT_RECOVERY_CACHE to a folder"):
        cache_dir("tokens")


def test_a_lock_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PromptRecoveryError, match=r"cannot write .*a\.lock"),
        locked(tmp_path / "file" / "a"),
    ):
        pass


def test_a_lock_that_is_held_is_refused_at_once(tmp_path):
    with (
        locked(tmp_path / "a"),
        locked(tmp_path / "b", "b is busy"),
        pytest.raises(PromptRecoveryError, match=r"^a is busy$"),
        locked(tmp_path / "a", "a is busy"),
    ):
        pass
    with locked(tmp_path / "a", "a is busy"):
        pass


def test_a_folder_of_the_cache_is_made_once(tmp_path):
    made = []

    def make(folder):
        assert list(folder.iterdir()) == []
        made.append(folder)
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_text("whole")
        time.sleep(0.05)
        (folder / "mark").write_text("")

    killed = tmp_path / ".model.partial"
    killed.mkdir()
    (killed / "mark").write_text("of a process that was killed")
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: made_once(tmp_path / "model", "mark", make), range(3)))
    assert found == [tmp_path / "model"] * 3 and len(made) == 1
    assert (tmp_path / "model" / "inner" / "weights").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["model"]


def test_what_is_left_of_a_folder_that_was_cleaned_up_in_part_is_replaced(tmp_path):
    left = tmp_path / "model"
    left.mkdir()
    (left / "weights").write_text("old")
    assert made_once(left, "mark", lambda folder: (folder / "mark").touch()) == left
    assert [p.name for p in left.iterdir()] == ["mark"]


def test_a_folder_that_does_not_fit_leaves_nothing_and_is_named(tmp_path):
    def make(folder):
        (folder / "mark").write_text("half")
        full()

    with pytest.raises(PromptRecoveryError, match=r"cannot write .*model \(No space left.*CACHE"):
        made_once(tmp_path / "model", "mark", make)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    return KeyValueStore("kind", "name")


def test_a_store_remembers(store):
    store.write({b"a": b"1", b"b": b"2"})
    assert KeyValueStore("kind", "name").read([b"a", b"c"]) == {b"a": b"1"}
    store.write({b"a": b"3"})
    assert store.read([b"a", b"b"]) == {b"a": b"3", b"b": b"2"}


@pytest.mark.parametrize("damage", ["no database", "cut"])
def test_a_damaged_store_is_empty_and_begun_anew(store, tmp_path, damage):
    values = {bytes([n]): 3000 * bytes([n]) for n in range(50)}
    store.write(values)
    path = tmp_path / "kind" / "name.sqlite"
    whole = path.read_bytes()
    path.write_bytes(b"no database" * 100 if damage == "no database" else whole[: len(whole) // 2])
    assert store.read([b"\x01", b"\x02"]).items() <= values.items()
    store.write(values)
    store.write(values)
    assert store.read(values) == values


def test_a_store_of_another_shape_is_empty(store, tmp_path):
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "kind" / "name.sqlite")) as database, database:
        database.execute("CREATE TABLE blobs (key TEXT)")
    store.write({b"a": b"1"})
    assert store.read([b"a"]) == {}


def _write(number, folder):
    os.environ["PROMPT_RECOVERY_CACHE"] = str(folder)
    for n in range(20):
        KeyValueStore("kind", "name").write({f"{number}/{n}".encode(): b"1"})


def test_many_processes_write_a_store(store, tmp_path):
    command = f"from tests.test_storage import _write; _write(%d, {str(tmp_path)!r})"
    workers = [subprocess.Popen([sys.executable, "-c", command % n]) for n in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    keys = [f"{number}/{n}".encode() for number in range(4) for n in range(20)]
    assert len(store.read(keys)) == 80


def test_a_kill_while_a_folder_is_tried_leaves_nothing_in_it(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(storage.os, "fsync", lambda _: seen.append(list(tmp_path.iterdir())))
    storage.require_writable(tmp_path)
    assert seen == [[]]
