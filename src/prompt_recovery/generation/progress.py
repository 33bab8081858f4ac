"""Live progress of requests."""

import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType

from rich.progress import TextColumn

from prompt_recovery.rewriters.base import Answer
from prompt_recovery.terminal import progress_bar

_SHOW_EVERY_S = 0.1


@dataclass
class Tally:
    """Counts over answered requests.

    Attributes:
        asked: Number of requests that have been answered, including failures.
        failures: Number of failed requests by reason.
        prompt_tokens: Number of tokens in the requests.
        completion_tokens: Number of tokens in the answers.
        cost: Cost in US dollars.
    """

    asked: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def count(self, answer: Answer) -> None:
        """Adds an answer."""
        self.asked += 1
        if answer.error:
            self.failures[answer.error] += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.cost += answer.cost

    def says(self) -> str:
        """Summarises tokens, cost and failures in a few words, leaving out those that are zero."""
        parts = []
        if self.completion_tokens:
            parts.append(f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out")
        if self.cost:
            parts.append(f"${self.cost:,.2f}" if self.cost >= 1 else f"${self.cost:.4f}")
        parts += [f"{count} {reason}" for reason, count in sorted(self.failures.items())]
        return ", ".join(parts)


class RequestProgress:
    """A progress line with count, rate, time left, tokens, cost and failures by reason.

    Args:
        title: Description of the work.
        total: Number of requests.
        done: Number of requests that had been answered before.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.tally = Tally()
        self._display = progress_bar(
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[says]}", markup=False),
        )
        self._task = self._display.add_task(title, total=total, completed=done, rate="", says="")
        self._done, self._shown, self._started = done, 0.0, 0.0

    def __enter__(self) -> "RequestProgress":
        self._started = time.monotonic()
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.stop()

    def __call__(self, answer: Answer) -> None:
        """Counts an answer."""
        self.tally.count(answer)
        now = time.monotonic()
        if now - self._shown >= _SHOW_EVERY_S:
            self._shown = now
            seconds = now - self._started
            self._display.update(
                self._task,
                completed=self._done + self.tally.asked,
                rate=f"{self.tally.asked / seconds:.1f}/s" if seconds > 0 else "",
                says=self.tally.says(),
            )
