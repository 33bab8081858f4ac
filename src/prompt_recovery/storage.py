"""Files that survive a kill.

`atomic_write` replaces a whole file, `Journal` appends one value at a time, many processes may
share a `KeyValueStore`, `made_once` fills a folder of the cache, and `locked` keeps other processes
out.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import yaml

from prompt_recovery.errors import PromptRecoveryError

T = TypeVar("T")

log = logging.getLogger(__name__)

_YAML_BYTES, _YAML_VALUES = 1 << 22, 100_000  # more than any record has
_JSON_BYTES = 1 << 30  # likewise
# The exceptions that may be raised while a JSON value of an unexpected shape is read.
MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def cache_dir(*parts: str) -> Path:
    """Returns a folder in `$PROMPT_RECOVERY_CACHE` (default: `~/.cache/prompt_recovery`).

    It is created if necessary.

    Raises:
        PromptRecoveryError: If the folder cannot be created.
    """
    root = os.environ.get("PROMPT_RECOVERY_CACHE")
    try:
        folder = Path(root or Path.home() / ".cache" / "prompt_recovery", *parts)
    except RuntimeError as error:
        raise PromptRecoveryError(
            "there is no home folder for the cache: set PROMPT_RECOVERY_CACHE or HOME to a folder "
            "you can write to"
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot make the cache folder {folder} ({error.strerror}): "
            "set PROMPT_RECOVERY_CACHE to a folder you can write to"
        ) from error
    return folder


def local_path(text: str) -> Path:
    """Expands `~` to the home folder. A `~name` without such a user stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def fingerprint(*parts: Any) -> str:
    """Returns twenty hex digits that change if any of the JSON-serialisable `parts` changes."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, which is synced and renamed to `path` on success.

    If the process is killed, either the old or the new file is left, and never a part of it. The
    temporary file `.<name>.<8 hex digits>` of a process that was killed is deleted when another one
    writes the same file an hour or more later.

    A new file gets the mode that the umask gives. A file that is replaced keeps its mode, its owner
    and its extended attributes if the user may set them. Links are followed.

    Raises:
        PromptRecoveryError: If the file cannot be written, or `path` is a folder or a device.
    """
    temporary: Path | None = None
    try:
        target = path.resolve() if path.is_symlink() else path
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        if mode is not None and not target.is_file():
            raise PromptRecoveryError(f"cannot write {path}: it is not a file; give another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean_up(target)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            _copy_attributes(target, temporary)
            temporary.chmod(mode)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot write {path} ({error.strerror}): free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


_STALE_S = 3600.0  # a file that is being written changes more often
_cleaned_up: set[Path] = set()  # the files that this process has cleaned up after


def _clean_up(target: Path) -> None:
    """Deletes the temporary files of processes that were killed while they wrote this file."""
    if target in _cleaned_up:
        return
    _cleaned_up.add(target)
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}")
    with suppress(OSError):
        for path in list(target.parent.iterdir()):
            if ours.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > _STALE_S:
                        path.unlink()


def same_file(one: Path, other: Path) -> bool:
    """Returns whether two paths lead to the same file, also through links. Neither has to exist."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def require_writable(folder: Path) -> None:
    """Checks that files can be written into a folder, which is created if necessary.

    Call this before long work whose results are written there.

    Raises:
        PromptRecoveryError: If they cannot be written, or the disk is nearly full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # It has no name, so that nothing is left of it if the process is killed.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBED))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot write into {folder} ({error.strerror}): free some space, make the folder "
            "writable or choose another"
        ) from error


_PROBED = 1 << 20  # bytes


def _copy_attributes(old: Path, new: Path) -> None:
    """Gives a file the owner and the extended attributes, such as access lists, of another file."""
    found = old.stat()
    with suppress(
        OSError, AttributeError
    ):  # Windows has no owners, and only root may give files away
        os.chown(new, found.st_uid, found.st_gid)
    with suppress(OSError, AttributeError):  # Linux only
        for name in os.listxattr(old):
            with suppress(OSError):
                os.setxattr(new, name, os.getxattr(old, name))


def _sync_folder(folder: Path) -> None:
    """Makes a new file in a folder survive a power cut, if the operating system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_small(path: Path, most: int) -> str:
    """The text of a file that may come from a stranger.

    Args:
        path: The file.
        most: The largest number of bytes that it may have.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a regular file but, for example, a link to a device that never
            ends, or if it is too large or not UTF-8.
    """
    if not path.is_file() and path.exists():
        raise ValueError(f"{path}: is not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: is too large")
    return content.decode()


def read_json(path: Path) -> Any:
    """Returns the value in a JSON file, or None if the file does not exist or is damaged."""
    try:
        return json.loads(read_small(path, _JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a small YAML file, such as a record, which may come from a stranger.

    With aliases, a few lines can stand for billions of values, so the values are counted.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it contains no mapping, or too many values.
    """
    text = read_small(path, _YAML_BYTES)
    try:
        values = yaml.safe_load(text)
        if not isinstance(values, dict):
            raise ValueError(f"{path}: is not a YAML mapping")
        waiting: list[Any] = [values]
        count = 0
        while waiting:
            value = waiting.pop()
            count += 1
            inside = value if isinstance(value, list) else ()
            waiting.extend(value.values() if isinstance(value, dict) else inside)
            if count + len(waiting) > _YAML_VALUES:
                raise ValueError(f"{path}: holds too many values")
    except (yaml.YAMLError, RecursionError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: is not a YAML mapping") from error
    return values


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Writes a value to a JSON file, atomically.

    Raises:
        PromptRecoveryError: If the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(_json_text(value, indent) + "\n", encoding="utf-8")


def read_jsonl(path: Path) -> list[Any]:
    """Returns the values in a JSONL file.

    Only a line feed ends a line, because texts may contain other line breaks.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a line is not JSON.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Writes values as the lines of a JSONL file, atomically.

    Raises:
        PromptRecoveryError: If the file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(_json_text(value) + "\n")


def _json_text(value: Any, indent: int | None = None) -> str:
    """Returns readable JSON. Texts with half a surrogate pair are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def _unchanged(value: Any) -> Any:
    return value


class Journal(Generic[T]):
    """An append-only JSONL file of finished work, which is not lost if the process is killed.

    If a kill has left an incomplete last line, it is cut off when the file is opened. The work of a
    damaged line has to be done again: the line is skipped or, if the order matters, cut off
    together with all lines after it.

    Args:
        path: The file, created if necessary. Only one process may have it open.
        decode: Converts a line's value into what is kept in memory. It may raise any of `MALFORMED`
            if the value has an unexpected shape.
        in_order: Whether a line is useless without all lines before it.
        sync_every_s: With 0, each value is on the disk when `append` returns. Otherwise, values are
            handed to the operating system, which is enough to survive a kill, and synced at this
            interval in seconds, so that a power cut loses no more than that.

    Attributes:
        path: The file.
        kept: (place, decoded value) of each line that was in the file when it was opened.

    Raises:
        PromptRecoveryError: If the file cannot be read or written. `append` raises it, too.
    """

    def __init__(
        self,
        path: Path,
        decode: Callable[[Any], T] = _unchanged,
        *,
        in_order: bool = False,
        sync_every_s: float = 0.0,
    ) -> None:
        self.path = path
        self.kept: list[tuple[int, T]] = []
        self._sync_every_s = sync_every_s
        self._unsynced = False
        self._failure: OSError | None = None
        self._lock = threading.Lock()  # of the position in the file
        self._closed = threading.Event()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            self._file = path.open("ab+", buffering=0)
            self._finalizer = weakref.finalize(self, self._file.close)
            if is_new:
                _sync_folder(path.parent)
            self._end = self._read(decode, in_order)
            self._file.truncate(self._end)
        except OSError as error:
            raise self._unwritable(error) from error
        self._syncing: threading.Thread | None = None
        if sync_every_s > 0:
            self._syncing = threading.Thread(target=self._sync_now_and_then, daemon=True)
            self._syncing.start()

    def _read(self, decode: Callable[[Any], T], in_order: bool) -> int:
        """Decodes the lines, and returns the position at which the last line to keep ends."""
        end = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    self.kept.append((end, decode(json.loads(line))))
                except MALFORMED:
                    if in_order:
                        break
                end += len(line)
        return end

    @property
    def values(self) -> list[T]:
        """The decoded values that were in the file when it was opened, in order."""
        return [value for _, value in self.kept]

    def read(self, place: int) -> Any:
        """Returns the JSON value of the line that starts at a position in the file."""
        with self._lock:
            self._file.seek(place)
            parts: list[bytes] = []
            while not parts or (parts[-1] and b"\n" not in parts[-1]):
                parts.append(self._file.read(1 << 14))
        return json.loads(b"".join(parts).partition(b"\n")[0])

    def append(self, value: Any, sync: bool = False) -> int:
        """Appends a JSON-serialisable value.

        Args:
            value: The value. It is not kept in memory.
            sync: Whether the value must be on the disk on return, whatever `sync_every_s` is.

        Returns:
            The position of its line, for `read`.

        Raises:
            PromptRecoveryError: If it cannot be written, for example because the disk is full. The
                lines before it stay.
        """
        line = json.dumps(value).encode() + b"\n"
        try:
            if self._failure is not None:
                raise self._failure
            with self._lock:
                place = self._end
                try:
                    left = line
                    while left:
                        left = left[os.write(self._file.fileno(), left) :]
                    if sync or not self._sync_every_s:
                        os.fsync(self._file.fileno())
                except OSError:
                    self._file.truncate(place)  # an incomplete line would spoil the next one
                    raise
                self._end += len(line)
                self._unsynced = self._sync_every_s > 0 and not sync
        except OSError as error:
            raise self._unwritable(error) from error
        return place

    def close(self) -> None:
        """Syncs and closes the file. This is only needed if values are synced at intervals."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            if self._syncing is not None:
                self._syncing.join()
            self._sync()
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self._finalizer()

    def _sync(self) -> None:
        if self._unsynced:
            self._unsynced = False
            os.fsync(self._file.fileno())

    def _sync_now_and_then(self) -> None:
        while not self._closed.wait(self._sync_every_s):
            try:
                self._sync()
            except OSError as error:
                self._failure = error  # raised by the next `append`
                return

    def _unwritable(self, error: OSError) -> PromptRecoveryError:
        return PromptRecoveryError(
            f"cannot write {self.path} ({error.strerror}): free some space or make the folder "
            "writable, and run again; what is finished is kept"
        )


class ResultStore(Generic[T]):
    """Saves finished results batch by batch, so that a killed process loses little work.

    A file that was made with other settings is overwritten.

    Args:
        path: The journal. Only one process may use it at a time.
        identity: Fingerprint of everything that the results depend on.
        name: What the results are called in the file.
        decode: Makes a result from plain values, which include its id. It may raise any of
            `MALFORMED`.

    Attributes:
        done: The finished results by their ids.

    Raises:
        PromptRecoveryError: If the file cannot be read or, in `keep`, cannot be written.
    """

    def __init__(
        self, path: Path, identity: str, name: str, decode: Callable[[dict[str, Any]], T]
    ) -> None:
        def decoded(line: dict[str, Any]) -> str | dict[str, T]:
            """The identity, with which a journal begins, or a batch of results."""
            if "identity" in line:
                return str(line["identity"])
            return {str(values["id"]): decode(dict(values)) for values in line[name]}

        self.done: dict[str, T] = {}
        self._name = name
        self._journal = Journal(path, decoded)
        begun = self._journal.values
        if begun and begun[0] != identity:
            log.warning("%s was made with other settings and is overwritten", path)
            self.remove()
            self._journal, begun = Journal(path, decoded), []
        if not begun:
            self._journal.append({"identity": identity})
        for batch in begun[1:]:
            self.done |= batch if isinstance(batch, dict) else {}

    def keep(self, results: Mapping[str, T]) -> None:
        """Saves a batch of results, which are dataclasses, by their ids."""
        rows = [{"id": id_, **asdict(cast(Any, result))} for id_, result in results.items()]
        self._journal.append({self._name: rows})
        self.done |= results

    def remove(self) -> None:
        """Deletes the file, once all results are written elsewhere."""
        self._journal.close()
        self._journal.path.unlink(missing_ok=True)


class KeyValueStore:
    """A small database of byte strings in the cache folder, which many processes may use at once.

    It only saves time. If it cannot be read or written, it is treated as empty, and a damaged one
    is replaced. It uses SQLite directly, because `diskcache` unpickles what it finds on the disk
    (CVE-2025-69872).

    Args:
        kind: Name of the folder.
        name: Name of the file. It must contain a fingerprint of everything that the values depend
            on, except their keys.
    """

    def __init__(self, kind: str, name: str) -> None:
        self._path = cache_dir(kind) / f"{name}.sqlite"

    def read(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Returns the values of the keys that are known."""
        found: dict[bytes, bytes] = {}

        def select(database: sqlite3.Connection) -> None:
            for key in keys:
                query = "SELECT value FROM blobs WHERE key = ?"
                row = database.execute(query, (key,)).fetchone()
                if row is not None and isinstance(row[0], bytes):
                    found[key] = row[0]

        self._use(select)
        return found

    def write(self, values: Mapping[bytes, bytes]) -> None:
        """Adds values. If the process is killed meanwhile, none of them is added."""

        def insert(database: sqlite3.Connection) -> None:
            statement = "INSERT OR REPLACE INTO blobs VALUES (?, ?)"
            database.executemany(statement, list(values.items()))

        self._use(insert)

    def _use(self, task: Callable[[sqlite3.Connection], None]) -> None:
        table = "CREATE TABLE IF NOT EXISTS blobs (key BLOB PRIMARY KEY, value BLOB)"
        try:
            with closing(sqlite3.connect(self._path, timeout=60)) as database, database:
                database.execute(table)
                task(database)
        except sqlite3.OperationalError:  # for example, no permission or a full disk
            pass
        except sqlite3.DatabaseError:  # damaged: what a killed writer left has to be removed first
            with suppress(OSError):
                self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)
                self._path.unlink(missing_ok=True)


def made_once(folder: Path, mark: str, make: Callable[[Path], None]) -> Path:
    """Makes a folder in the cache once, in one process. Others wait for it, and then find it.

    The folder is synced and renamed when it is complete. A process that is killed leaves
    `.<name>.partial` beside it, which the next one deletes. A folder without its mark, such as one
    that something has cleaned up in part, is replaced.

    Args:
        folder: The folder. Its parent must exist.
        mark: Name of a file that a complete folder contains.
        make: Writes the files into an empty folder.

    Raises:
        PromptRecoveryError: If it cannot be written.
    """
    if (folder / mark).is_file():
        return folder
    scratch = folder.with_name(f".{folder.name}.partial")
    with locked(scratch):
        if (folder / mark).is_file():  # another process has made it meanwhile
            return folder
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir()
            make(scratch)
            for file in (path for path in scratch.rglob("*") if path.is_file()):
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            shutil.rmtree(folder, ignore_errors=True)
            scratch.rename(folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def unwritable(path: Path, error: OSError) -> PromptRecoveryError:
    """Returns the error for a file or a folder of the cache that cannot be written."""
    return PromptRecoveryError(
        f"cannot write {path} ({error.strerror}): free some space, or set PROMPT_RECOVERY_CACHE to "
        "another folder"
    )


@contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Locks `<path>.lock` for this process. The lock of a process that dies is released.

    Args:
        path: The path to lock, which does not have to exist.
        refusal: Message of the error if another process holds the lock. None waits for it.

    Raises:
        PromptRecoveryError: If the lock cannot be written, or another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if refusal is None else 0)
    except Timeout as error:
        raise PromptRecoveryError(refusal or f"{path}.lock is held") from error
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot write {path}.lock ({error.strerror}): make the folder writable, or choose "
            "another (PROMPT_RECOVERY_CACHE, where it is the cache)"
        ) from error
    try:
        yield
    finally:
        lock.release()
