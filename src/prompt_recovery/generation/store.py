"""Finished requests, kept in a file as they come, and a rewriter that never asks one twice."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters.base import Answer, Chat, Rewriter

_FIELDS = tuple(field.name for field in fields(Answer))
_SYNC_S = 1.0  # the most work that a power cut takes away
_PERMANENT = re.compile(r"http_4(?!08|09|25|29)\d\d|too_long|content_filter")


def request_key(identity: str, chat: Chat, seed: int) -> str:
    """64 hex digits that stand for a request to a rewriter of this identity."""
    text = json.dumps([identity, chat, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_transient(error: str) -> bool:
    """Whether a request that failed with this reason is worth asking again another day."""
    return bool(error) and not _PERMANENT.fullmatch(error)


class RequestStore:
    """Answers by request key, in an append-only file with one line for each.

    A killed process loses no line that was written: the next one reads them all and cuts off a
    torn last line. A power cut takes the last second's lines at most, and none that cost money:
    those are synced one by one. Only the lines' places are held in memory.

    Args:
        path: the file; made if needed. Only one process may have it open.

    Raises:
        PromptRecoveryError: the file cannot be opened or written; also later, by `put`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._failure: OSError | None = None
        self._unsynced = False
        self._closed = threading.Event()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._end = self._read()
            os.truncate(path, self._end)
        except OSError as error:
            raise self._mend(error) from error
        self._syncing = threading.Thread(target=self._sync_now_and_then, daemon=True)
        self._syncing.start()

    def _read(self) -> int:
        """Finds the whole lines; returns where the last of them ends."""
        end = 0
        with self._path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    key = json.loads(line)["key"]
                except (ValueError, KeyError, TypeError):
                    key = None  # a damaged line is one request to ask again
                if key is not None:
                    self._places[key] = (end, len(line))
                end += len(line)
        return end

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Answer | None:
        """The answer to a request, or None if there is none yet."""
        place = self._places.get(key)
        if place is None:
            return None
        values = json.loads(os.pread(self._file, place[1], place[0]))
        return Answer(**{name: values[name] for name in _FIELDS if name in values})

    def put(self, key: str, answer: Answer) -> None:
        """Keeps the answer to a request."""
        values = {name: getattr(answer, name) for name in _FIELDS}
        line = json.dumps({"key": key, **values}).encode() + b"\n"
        try:
            if self._failure is not None:
                raise self._failure
            self._append(line)
            self._places[key] = (self._end, len(line))
            self._end += len(line)
            self._unsynced = True
            if answer.cost > 0:
                self._sync()
        except OSError as error:
            raise self._mend(error) from error

    def _append(self, line: bytes) -> None:
        left = line
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.truncate(self._file, self._end)  # half a line would spoil the next one
            raise

    def close(self) -> None:
        """Syncs and closes the file."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._syncing.join()
        try:
            self._sync()
        except OSError as error:
            raise self._mend(error) from error
        finally:
            os.close(self._file)

    def _sync(self) -> None:
        if self._unsynced:
            self._unsynced = False
            os.fsync(self._file)

    def _sync_now_and_then(self) -> None:
        while not self._closed.wait(_SYNC_S):
            try:
                self._sync()
            except OSError as error:
                self._failure = error  # raised by the next `put`
                return

    def _mend(self, error: OSError) -> PromptRecoveryError:
        return PromptRecoveryError(
            f"cannot write {self._path} ({error.strerror}): free some space or make the folder "
            "writable, and run again; finished requests are kept"
        )


class Remembering:
    """A rewriter that keeps the answers of another, and asks it only for what isn't kept.

    Answers that failed for a reason that may pass (a timeout, say) are not kept, so that the next
    run asks again.

    Args:
        rewriter: the other one.
        store: where answers are kept.
        seen: called with every answer that has been asked for, as it comes.

    Attributes:
        failed_for_now: how many answers were not kept.
    """

    def __init__(
        self,
        rewriter: Rewriter,
        store: RequestStore,
        seen: Callable[[Answer], None] = lambda _: None,
    ) -> None:
        self._rewriter = rewriter
        self._store = store
        self.seen = seen
        self.failed_for_now = 0

    @property
    def identity(self) -> str:
        """The other's."""
        return self._rewriter.identity

    @property
    def name(self) -> str:
        """The other's."""
        return self._rewriter.name

    def card(self) -> dict[str, str]:
        """The other's."""
        return self._rewriter.card()

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Kept answers first, then the others; equal requests are asked once."""
        waiting: dict[str, list[int]] = {}
        for index, (chat, seed) in enumerate(zip(chats, seeds, strict=True)):
            key = request_key(self.identity, chat, seed)
            kept = self._store.get(key)
            if kept is not None:
                yield index, kept
            else:
                waiting.setdefault(key, []).append(index)
        keys = list(waiting)
        first = [waiting[key][0] for key in keys]
        if not first:
            return
        asked: Any = self._rewriter.answers([chats[i] for i in first], [seeds[i] for i in first])
        with closing(asked):
            for number, answer in asked:
                key = keys[number]
                if is_transient(answer.error):
                    self.failed_for_now += 1
                else:
                    self._store.put(key, answer)
                self.seen(answer)
                for index in waiting[key]:
                    yield index, answer

    def close(self) -> None:
        """Closes the other."""
        self._rewriter.close()
