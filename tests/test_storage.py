"""Files are written whole or not at all, and what stands in the way is one line."""

import os

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import BlobStore, atomic_write, cache_dir, locked


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

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


def test_a_store_remembers_and_a_damaged_one_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    BlobStore("kind", "name").write({b"a": b"1", b"b": b"2"})
    store = BlobStore("kind", "name")
    assert store.read([b"a", b"c"]) == {b"a": b"1"}
    (tmp_path / "kind" / "name.sqlite").write_bytes(b"no database" * 100)
    store.write({b"a": b"1"})
    assert store.read([b"a"]) == {}
