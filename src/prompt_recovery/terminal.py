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
from pathlib import Path
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
COVERED_S = 15.0
"""The same for work within other work whose steps are counted already; see `covered`."""
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


class _Passing(logging.Handler):
    """Passes records of a level on to the handlers that a logger had before."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger.getEffectiveLevel())
        self._handlers = [*logger.handlers]
        self._parent = logger.parent if logger.propagate else None

    def emit(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        if self._parent is not None:
            self._parent.callHandlers(record)


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """Writes what the package logs to a file, too, with times.

    Where nobody has set up logging, as in a Python session, it is also shown on standard error, as
    the commands do. Otherwise, what is shown stays as it is.
    """
    logger = logging.getLogger(__package__)
    before = (logger.handlers, logger.level, logger.propagate)
    written = logging.FileHandler(file, encoding="utf-8", delay=True)
    written.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    shown: logging.Handler
    if logger.hasHandlers():
        shown = _Passing(logger)
    else:
        shown = logging.StreamHandler()
        shown.setFormatter(PrintableFormatter("%(message)s"))
    logger.handlers, logger.propagate = [written, shown], False
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
        written.close()


def tell(message: str, *values: object) -> None:
    """Logs a line about slow work.

    Where nobody has set up logging, as in a Python session, it goes to standard error instead.
    """
    if log.hasHandlers():
        log.info(message, *values)
    else:
        print(printable(message % values), file=sys.stderr, flush=True)


def when_silent(
    said: Callable[..., object], *values: object, after: float | None = None
) -> threading.Timer:
    """Calls a function after some seconds, unless the returned timer is cancelled before.

    Args:
        said: The function.
        values: Its arguments.
        after: The seconds; by default `SILENT_S`.
    """
    timer = threading.Timer(SILENT_S if after is None else after, said, values)
    timer.daemon = True
    timer.start()
    return timer


_start: list[threading.Timer] = []


def announce_start(command: str) -> None:
    """Says that a command is starting, if `has_started` is not called within `SILENT_S`.

    Before the first line of its own, a command imports libraries and reads its settings, which
    takes seconds on a slow or a busy machine.
    """
    _start.append(when_silent(tell, "starting %s …", command))


def has_started() -> None:
    """Ends the wait that `announce_start` began; from here on, work announces itself."""
    while _start:
        _start.pop().cancel()


@contextmanager
def announced(what: str, anyway: bool = False) -> Iterator[None]:
    """Says what takes longer than `SILENT_S`, and in the end how long it took.

    The lines go to the log, so that they are on terminals and in log files alike; see `tell`.
    Within work that is counted, there is one line, and only after `COVERED_S`.

    Args:
        what: What is done, such as "loading the backbone smollm2".
        anyway: Whether to say it in the same way within work that is counted, too.
    """
    inside = _is_covered() and not anyway
    begun = time.monotonic()
    timer = when_silent(tell, "%s …", what, after=_patience(inside))
    try:
        yield
    finally:
        timer.cancel()
        _tell_end(what, begun, inside)


@contextmanager
def counting(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Does the same as `announced` for work with steps, and says now and then how far it is.

    Unlike `progress_bar`, it also draws nothing on a terminal, so that it can be used anywhere
    inside other work.

    Args:
        what: What is done, such as "embedding 1,249 texts".
        total: The number of its steps.
        unit: What the steps are, such as "tokens". Empty if `what` says it.

    Yields:
        A function to call with the number of steps that have just been done.
    """
    inside = _is_covered()
    due, done, before = NowAndThen(_patience(inside)), 0, 0
    begun = time.monotonic()

    def say() -> None:
        if due.is_due():
            units = f" {unit}" if unit else ""
            left = due.left(done, total, before)
            tell("%s: %s of %s%s, %s", what, f"{done:,}", f"{total:,}", units, left)

    def advance(count: int) -> None:
        nonlocal done, before
        done += count
        if not before:  # what is loaded or read first says little about the rest
            before = done
            due.begin()
        if done < total:
            say()

    timer = when_silent(say, after=_patience(inside))  # of a long first step
    try:
        yield advance
    finally:
        timer.cancel()
        _tell_end(what, begun, inside)


def _patience(inside: bool) -> float:
    return COVERED_S if inside else SILENT_S


def _tell_end(what: str, begun: float, inside: bool) -> None:
    took = time.monotonic() - begun
    if not inside and took >= SILENT_S:
        tell("%s took %s", what, duration(took))


_covers: list[object] = []  # one for each `covered` that has not ended
_bars: "list[_PlainOrDrawn]" = []  # those that have begun and not ended


def _is_covered() -> bool:
    """Whether steps of other work are counted at the moment, by a bar or within `covered`."""
    return bool(_covers) or any(not task.finished for bar in [*_bars] for task in bar.tasks)


@contextmanager
def covered() -> Iterator[None]:
    """Marks work whose steps are counted by something other than a `progress_bar`.

    What it does in each step is announced only if it takes long, so that a few lines about the
    whole are not lost among many about its parts. The steps of a bar are covered without it.
    """
    mark = object()
    _covers.append(mark)
    try:
        yield
    finally:
        _covers.remove(mark)


@contextmanager
def importing() -> Iterator[None]:
    """Announces the imports of a command, and keeps the garbage collector out of them.

    Imported modules are never freed, so no collection needs to look at them: neither during the
    imports nor when the process ends, which would take half a second.
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

    Args:
        first: The seconds until the first one, if not `SILENT_S`.
    """

    def __init__(self, first: float | None = None) -> None:
        self.begin()
        self._next = self._begun + (SILENT_S if first is None else first)

    def begin(self) -> None:
        """Starts the clock from which `left` estimates the remaining time."""
        self._begun = time.monotonic()

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

    def start(self) -> None:
        if self.tells or not self.disable:
            _bars.append(self)
        super().start()

    def stop(self) -> None:
        self._cancel()
        if self in _bars:
            _bars.remove(self)
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
