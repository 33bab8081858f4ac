"""Where expensive results are kept between runs, and how files are written whole or not at all."""

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError


def cache_dir(*parts: str) -> Path:
    """A folder under `$PROMPT_RECOVERY_CACHE` (default `~/.cache/prompt_recovery`), made if needed.

    Raises:
        PromptRecoveryError: the folder cannot be made.
    """
    root = os.environ.get("PROMPT_RECOVERY_CACHE") or Path.home() / ".cache" / "prompt_recovery"
    folder = Path(root, *parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot make the cache folder {folder} ({error.strerror}): "
            "set PROMPT_RECOVERY_CACHE to a folder you can write to"
        ) from error
    return folder


def fingerprint(*parts: Any) -> str:
    """Twenty hex digits that change when any of the JSON-serialisable `parts` changes."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed onto `path`.

    A process killed at any moment leaves the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot write {path} ({error.strerror}): free some space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


class BlobStore:
    """A small database of byte strings in the cache folder, which many processes may use at once.

    It only saves time: one that cannot be read or written is treated as empty.

    Args:
        kind: the folder.
        name: the file; put into it a fingerprint of all that the values depend on but their key.
    """

    def __init__(self, kind: str, name: str) -> None:
        self._path = cache_dir(kind) / f"{name}.sqlite"

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=60)
        database.execute("CREATE TABLE IF NOT EXISTS blobs (key BLOB PRIMARY KEY, value BLOB)")
        return database

    def read(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """What is known of these keys."""
        found: dict[bytes, bytes] = {}
        try:
            with closing(self._open()) as database:
                for key in keys:
                    query = "SELECT value FROM blobs WHERE key = ?"
                    row = database.execute(query, (key,)).fetchone()
                    if row is not None:
                        found[key] = row[0]
        except sqlite3.Error:
            pass
        return found

    def write(self, values: Mapping[bytes, bytes]) -> None:
        """Adds values: all of them or, if the process is killed meanwhile, none."""
        try:
            with closing(self._open()) as database, database:
                statement = "INSERT OR REPLACE INTO blobs VALUES (?, ?)"
                database.executemany(statement, list(values.items()))
        except sqlite3.Error:
            pass


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds `<path>.lock` against other processes; a process that dies lets go of it.

    Raises:
        PromptRecoveryError: the lock cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot write {path}.lock ({error.strerror}): make the folder writable, or set "
            "PROMPT_RECOVERY_CACHE to another"
        ) from error
    try:
        yield
    finally:
        lock.release()
