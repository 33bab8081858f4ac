"""A rewriter that answers at once, or as slowly, badly or deadly as a test wants.

Workers of a cluster import this module, so it imports nothing heavy.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters.base import Answer, Chat

_WORDS = (
    "amber bridge candle dawn ember field garden harbour island jetty kettle lantern meadow night "
    "orchard pebble quarry river stone thistle umbrella valley window yard zephyr"
).split()


def digest(chat: Chat, seed: int) -> bytes:
    return hashlib.sha256(json.dumps([chat, seed]).encode()).digest()


@dataclass
class FakeRewriter:
    """Answers that are a function of chat and seed.

    Attributes:
        seconds: of sleep before each answer.
        log: a file for a line when a request comes and one when its answer has been taken.
        errors: how many of 256 requests fail, and with what; asked again they fail again, unless
            `mended` is there.
        deadly: kills its process at every request of which the digest begins with this byte, as
            long as the file `log` doesn't show that it did so before.
    """

    seconds: float = 0.0
    log: Path | None = None
    errors: dict[str, int] = field(default_factory=dict)
    deadly: int | None = None
    words: int = 60
    name: str = "Fake-1"
    identity: str = "fake"
    cost: float = 0.0
    asked: list[str] = field(default_factory=list)

    def card(self) -> dict[str, str]:
        return {"model": "fake", "backend": "none", "licence": "MIT"}

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        order = range(len(chats))
        for index in reversed(order):  # any order will do
            key = digest(chats[index], seeds[index])
            self._say("asked", key)
            if self.deadly == key[0] and self._times("asked", key) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.seconds:
                time.sleep(self.seconds)
            yield index, self.answer(key)
            self._say("answered", key)

    def answer(self, key: bytes) -> Answer:
        for error, share in self.errors.items():
            if key[0] < share:
                return Answer("", error, detail=f"said with {error}")
        words = [_WORDS[byte % len(_WORDS)] for byte in (key * (self.words // 32 + 1))]
        # Numbers make the runs of words distinct, so that no filter minds.
        text = " ".join(f"{w} {key[n % 32] + n}" for n, w in enumerate(words[: self.words // 2]))
        return Answer(text, prompt_tokens=100, completion_tokens=self.words, cost=self.cost)

    def close(self) -> None:
        pass

    def _say(self, what: str, key: bytes) -> None:
        self.asked += [key.hex()] if what == "asked" else []
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{what} {key.hex()} {os.getpid()}\n")

    def _times(self, what: str, key: bytes) -> int:
        assert self.log is not None
        return sum(
            line.startswith(f"{what} {key.hex()}") for line in self.log.read_text().splitlines()
        )


class Broke(FakeRewriter):
    """Answers three requests."""

    def answers(self, chats, seeds):
        for number, pair in enumerate(super().answers(chats, seeds)):
            if number == 3:
                raise PromptRecoveryError("the account's credit is used up: add credit")
            yield pair


def without_a_model(ready: Path) -> FakeRewriter:
    """A rewriter the first time, and then, in a worker, an error."""
    if ready.exists():
        raise PromptRecoveryError("rewriter 'x' names no model: set rewriter.model.path")
    ready.write_text("")
    return FakeRewriter()
