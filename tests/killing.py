"""Work that is killed at random moments and begun again must end as if nothing had happened.

    assert_kills_change_nothing(tmp_path, prepare, start, left)

`start` begins the work in a folder, or goes on with it. The helper lets it end once undisturbed,
and then begins it in another folder, kills it with SIGKILL at a random moment, starts it again, and
so on, until it has been killed often enough and has ended by itself. Then `left`, which reads what
the work has left in a folder, must find the same as in the first one.

The number of kills is $PROMPT_RECOVERY_TEST_KILLS, by default 1, since each takes as long as the
work does. Before a release: PROMPT_RECOVERY_TEST_KILLS=20 pytest -k kills
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.forks import PROCESSES

KILLS = int(os.environ.get("PROMPT_RECOVERY_TEST_KILLS", "1"))
_TIMEOUT_S = 280 + 60 * KILLS

TIMED = ("seconds", "train/seconds", "train/tokens_per_second", "peak_memory_bytes")
"""Metrics that differ between equal runs."""


class Call:
    """A function call in a process of its own, with the methods of `tests.forks.Fork`."""

    def __init__(self, function, *arguments):
        self._process = PROCESSES.Process(target=function, args=arguments)
        self._process.start()

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        return self._process.exitcode

    def kill(self):
        self._process.kill()


def assert_kills_change_nothing(
    folder: Path,
    prepare: Callable[[Path], None],
    start: Callable[[Path], Any],
    left: Callable[[Path], Any],
    *,
    after: Callable[[Path], bool] | None = None,
    within: float | None = None,
    kills: int = KILLS,
    check: Callable[[Path, int], None] = lambda folder, kills: None,
) -> None:
    """Kills work again and again, and compares what it leaves.

    Args:
        folder: an empty folder, in which the work is done in folders of its own.
        prepare: puts into a new folder what the work needs.
        start: starts the work, whose process has `poll`, `wait` and `kill`; its errors may go to
            `stderr` in the folder.
        left: reads what the work has left, without what differs between equal runs.
        after: kills only once this is true of the folder.
        within: the longest time in seconds until a kill; by default, that of the whole work.
        kills: how often to kill it in all, in one folder or several.
        check: is called with each folder in which the work has ended and the number of kills there.
    """
    whole = folder / "whole"
    whole.mkdir(parents=True)
    prepare(whole)
    begun = time.monotonic()
    _ended(start(whole), whole)
    within = within or time.monotonic() - begun
    expected = left(whole)
    assert expected, "there is something to compare"
    check(whole, 0)
    rng = random.Random(0)
    done = number = 0
    while done < kills:
        number += 1
        again = folder / str(number)
        again.mkdir()
        prepare(again)
        begun = time.monotonic()
        killed = _killed_until_it_ends(again, start, kills - done, within, after, rng)
        if not killed:  # the machine is faster than it was, so that kills come too late
            within = min(within, time.monotonic() - begun)
        found = left(again)
        assert found == expected, f"after {killed} kills"
        check(again, killed)
        done += killed


def _killed_until_it_ends(folder, start, at_most, within, after, rng):
    """Returns how often the work was killed in this folder before it ended by itself."""
    kills = 0
    while True:
        process = start(folder)
        if kills < at_most:
            deadline = time.monotonic() + _TIMEOUT_S
            while after is not None and process.poll() is None and not after(folder):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            # Half of them early, else the rest would only ever meet the end.
            until = time.monotonic() + rng.uniform(0, within * rng.choice((0.3, 1.0)))
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.001)
            process.kill()
        if process.wait(_TIMEOUT_S) == -signal.SIGKILL:
            kills += 1
        else:
            _ended(process, folder)
            return kills


def _ended(process, folder):
    code = process.wait(_TIMEOUT_S)
    said = folder / "stderr"
    assert code == 0, f"{code}: {said.read_text()[-3000:] if said.exists() else ''}"


def run_files(run: Path, *names: str) -> dict[str, Any]:
    """What a run has left: these files, and its metrics without those that are timed."""
    metrics = json.loads((run / "metrics.json").read_text(), parse_constant=_no_number)
    found: dict[str, Any] = {name: (run / name).read_bytes() for name in names}
    return found | {"metrics": {k: v for k, v in metrics.items() if k not in TIMED}}


def _no_number(name):
    raise AssertionError(f"metrics.json holds {name}, which is not JSON")
