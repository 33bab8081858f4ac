"""Progress and messages of commands, on terminals and in log files."""

import gc
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from prompt_recovery.errors import printable

log = logging.getLogger(__name__)

EVERY_S = 30.0
"""Seconds between two lines about progress where no bar can be drawn."""
SILENT_S = 3.0
"""Seconds after which work says what it does. Shorter work needs no line."""
IMPORTING = "importing PyTorch and other libraries"
"""What commands announce before they import what is heavy."""


def forgive_characters() -> None:
    """Makes standard output and standard error replace characters that they cannot encode.

    Otherwise, printing a table would end a run in a C locale or in some terminals of Windows.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def quiet() -> None:
    """Silences progress bars, reports and warnings of libraries, which a user cannot act on.

    It imports `transformers`. `TRANSFORMERS_VERBOSITY` has the meaning that it has there.
    """
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        set_verbosity_error()
    # PEFT asks for it by its old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*is deprecated.*")
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)


class PrintableFormatter(logging.Formatter):
    """Formats a log message, which may contain texts and names from elsewhere, as one safe line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Returns the line."""
        record.message = printable(record.message)
        return super().formatMessage(record)


def tell(message: str, *values: object) -> None:
    """Logs a line about slow work.

    Where nobody has set up logging, as in a Python session, it goes to standard error instead.
    """
    if log.hasHandlers():
        log.info(message, *values)
    else:
        print(printable(message % values), file=sys.stderr, flush=True)


def when_silent(said: Callable[..., object], *values: object) -> threading.Timer:
    """Calls a function after `SILENT_S`, unless the returned timer is cancelled before."""
    timer = threading.Timer(SILENT_S, said, values)
    timer.daemon = True
    timer.start()
    return timer


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Says what takes longer than `SILENT_S`, and in the end how long it took.

    The lines go to the log, so that they are on terminals and in log files alike; see `tell`.

    Args:
        what: What is done, such as "loading the backbone smollm2".
    """
    begun = time.monotonic()
    timer = when_silent(tell, "%s …", what)
    try:
        yield
    finally:
        timer.cancel()
        if time.monotonic() - begun >= SILENT_S:
            tell("%s took %s", what, duration(time.monotonic() - begun))


@contextmanager
def importing() -> Iterator[None]:
    """Announces the imports of a command, and keeps the garbage collector out of them.

    What is imported stays. No collection needs to look at it, neither meanwhile nor, which would
    take half a second, when the process ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with announced(IMPORTING):
            yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


class NowAndThen:
    """Decides when it is time for another line about progress.

    The first one is due `SILENT_S` after the beginning, and the others every `EVERY_S`.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._next = self._begun + SILENT_S

    def is_due(self) -> bool:
        """Returns whether a line is due. If it is, the next one is due `EVERY_S` later."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + EVERY_S
        return True

    def left(self, done: float, total: float, done_before: float = 0.0) -> str:
        """Returns how long the rest will take, in words.

        Args:
            done: The amount of work that is done.
            total: The amount of all work.
            done_before: The amount that had been done at the beginning.
        """
        rate = (done - done_before) / max(time.monotonic() - self._begun, 1e-9)
        return f"about {duration((total - done) / rate)} left" if rate > 0 else "just begun"


def duration(seconds: float) -> str:
    """Returns a rough duration in words, such as `40 s`, `12 min` or `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _PlainOrDrawn(Progress):
    """A progress bar on a terminal, and otherwise a line in the log now and then."""

    tells: bool
    """Whether lines are logged, because nothing can be drawn and something is to be shown."""
    _due: NowAndThen
    _timer: threading.Timer | None = None

    def add_task(self, description: str, *args: Any, **options: Any) -> TaskID:
        task = super().add_task(printable(description), *args, **options)
        self._due = NowAndThen()
        self._before = self._by_id(task).completed
        self._cancel()
        if self.tells:
            self._timer = when_silent(self._say, task)  # of a long first step
        return task

    def stop(self) -> None:
        self._cancel()
        super().stop()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        if "description" in changes:
            changes["description"] = printable(changes["description"])
        super().update(task_id, **changes)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._say(task_id)

    def _by_id(self, task_id: TaskID) -> Any:
        return next(task for task in self.tasks if task.id == task_id)

    def _say(self, task_id: TaskID) -> None:
        if not self.tells or not self._due.is_due():
            return
        task = self._by_id(task_id)
        done = f"{task.completed:,.0f}"
        if task.total:
            left = self._due.left(task.completed, task.total, self._before)
            done += f" of {task.total:,.0f}, {left}"
        told = [str(value) for value in task.fields.values() if value]
        tell("%s: %s", task.description, ", ".join([done, *told]))


def progress_bar(
    *further: ProgressColumn, disable: bool = False, console: Console | None = None
) -> Progress:
    """Returns a progress bar with a count and the time left, which disappears at the end.

    If the output is not a terminal but, for example, a log file, a plain line is logged now and
    then instead.

    Args:
        further: Further columns.
        disable: Whether to show nothing, as in all processes of a run except the first.
        console: Console to show it on. None is standard output.
    """
    shown_on = console or Console()
    bar = _PlainOrDrawn(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *further,
        transient=True,
        disable=disable or not shown_on.is_terminal,  # else, rich would print an empty line
        console=shown_on,
    )
    bar.tells = not disable and not shown_on.is_terminal
    return bar
