"""A store of answered requests, and a rewriter that never makes the same request twice."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from prompt_recovery.rewriters.base import OF_ONE_REQUEST, Answer, Chat, Rewriter
from prompt_recovery.storage import Journal

_FIELDS = tuple(field.name for field in fields(Answer))
_SYNC_S = 1.0  # upper bound of the work that is lost in a power cut
_MOST = 1e12  # more tokens, or dollars, than any answer takes


def request_key(identity: str, chat: Chat, seed: int) -> str:
    """Returns 64 hex digits that identify a request to the rewriter with this identity."""
    text = json.dumps([identity, chat, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_transient(error: str) -> bool:
    """Returns whether a request that failed with this error may succeed later.

    Only errors that certainly concern this one request are final. HTTP 400 and 403 are not among
    them, because some endpoints also answer so if a key has expired, a quota is used up or a model
    has another name.
    """
    return bool(error) and error not in OF_ONE_REQUEST


class RequestStore:
    """Answers by request key, in a journal with one line per answer.

    A power cut loses the lines of the last second at most. Answers that cost money are synced
    immediately and never lost. Only the positions of lines are held in memory.

    Args:
        path: The file, created if necessary. Only one process may have it open.

    Raises:
        PromptRecoveryError: If the file cannot be opened or, in `put`, cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path, _key, sync_every_s=_SYNC_S)
        self._places = {key: place for place, key in self._journal.kept}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Answer | None:
        """Returns the answer to a request, or None if there is none yet."""
        place = self._places.get(key)
        return None if place is None else _answer(self._journal.read(place))

    def put(self, key: str, answer: Answer) -> None:
        """Stores the answer to a request."""
        values = {name: getattr(answer, name) for name in _FIELDS}
        if not answer.detail:
            del values["detail"]
        self._places[key] = self._journal.append({"key": key, **values}, sync=answer.cost > 0)

    def close(self) -> None:
        """Syncs and closes the file."""
        self._journal.close()


def _key(line: dict[str, Any]) -> str:
    answer = _answer(line)
    texts = (line["key"], answer.text, answer.error, answer.detail)
    numbers = (answer.prompt_tokens, answer.completion_tokens, answer.cost)
    if not (
        all(isinstance(text, str) for text in texts)
        and isinstance(line.get("finished", True), bool)
        and all(type(number) in (int, float) and 0 <= number < _MOST for number in numbers)
        and all(type(number) is int for number in numbers[:2])
    ):
        raise TypeError("it holds no answer")
    if is_transient(answer.error):  # an older version stored more failures than are final
        raise ValueError("it may succeed now")
    return str(line["key"])


def _answer(line: dict[str, Any]) -> Answer:
    return Answer(**{name: line[name] for name in _FIELDS if name in line})


class Remembering:
    """Wraps a rewriter to store its answers and to ask it only for answers that are missing.

    Transient failures, such as a timeout, are not stored, so that the next run asks again.

    Args:
        rewriter: The wrapped rewriter.
        store: Where answers are stored.
        seen: Called with each new answer of the wrapped rewriter.

    Attributes:
        failed_for_now: Number of transient failures.
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
        """Identity of the wrapped rewriter."""
        return self._rewriter.identity

    @property
    def name(self) -> str:
        """Name of the wrapped rewriter."""
        return self._rewriter.name

    def card(self) -> dict[str, str]:
        """Returns the card of the wrapped rewriter."""
        return self._rewriter.card()

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Yields stored answers first, then new ones. Equal requests are made only once."""
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
        """Closes the wrapped rewriter."""
        self._rewriter.close()
