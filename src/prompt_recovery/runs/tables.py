"""The table of the trials of a multirun or a sweep."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompt_recovery.runs.trials import Outcome
from prompt_recovery.settings.secrets import redacted
from prompt_recovery.storage import atomic_write
from prompt_recovery.tables import Table, print_tables, to_markdown

_SETTING_WIDTH = 29  # beside the other columns of `terminal_table`, in a terminal of 80


def outcome_table(
    outcomes: Sequence[Outcome], metric: str, goal: str = "maximize", title: str = ""
) -> Table:
    """Builds a table with one row per trial and the best finished trial in bold.

    Settings that all trials share are left out.

    Args:
        outcomes: The trials, in order.
        metric: The metric to compare trials by.
        goal: "maximize" or "minimize".
        title: Title of the table.
    """
    rows = [
        [
            " ".join(settings),
            _state(outcome),
            _number(outcome.metric(metric), 4),
            _number(outcome.metric("test/scs"), 4),
            _interval(outcome),
            _number(outcome.metric("seconds"), 0),
            outcome.folder.name,
        ]
        for outcome, settings in zip(outcomes, _own_settings(outcomes), strict=True)
    ]
    headings = ["trial", "state", metric, "test/scs", "95 % interval", "seconds", "folder"]
    return Table(headings, rows, title, best_of(outcomes, metric, goal))


def terminal_table(
    outcomes: Sequence[Outcome], metric: str, goal: str = "maximize", title: str = ""
) -> Table:
    """Builds the same table for a terminal of 80 columns, in which no word is broken.

    Each setting has a line of its own, and each interval stands under its value. The folders are
    left out, and so are the states if all trials have finished, and columns without a value.

    Args:
        outcomes: The trials, in order.
        metric: The metric to compare trials by.
        goal: "maximize" or "minimize".
        title: Title of the table.
    """
    columns: dict[str, list[Any]] = {
        "trial": [
            tuple(line for setting in settings for line in _in_lines(setting))
            for settings in _own_settings(outcomes)
        ],
        metric: [_number(o.metric(metric), 4) for o in outcomes],
        "test/scs": [
            (_number(o.metric("test/scs"), 4), interval)
            if (interval := _interval(o))
            else _number(o.metric("test/scs"), 4)
            for o in outcomes
        ],
        "seconds": [_number(o.metric("seconds"), 0) for o in outcomes],
    }
    if any(o.state != "finished" for o in outcomes):
        columns["state"] = [o.state for o in outcomes]
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    rows = [list(row) for row in zip(*shown.values(), strict=True)]
    return Table(list(shown), rows, title, best_of(outcomes, metric, goal))


def best_of(outcomes: Sequence[Outcome], metric: str, goal: str = "maximize") -> int | None:
    """Returns the index of the best finished trial, or None if none has finished."""
    sign = 1 if goal == "maximize" else -1
    finished = [
        (sign * o.metric(metric), i)
        for i, o in enumerate(outcomes)
        if o.state == "finished" and math.isfinite(o.metric(metric))
    ]
    return max(finished)[1] if finished else None


def show_outcomes(
    outcomes: Sequence[Outcome],
    folder: Path,
    metric: str,
    goal: str = "maximize",
    title: str = "",
) -> None:
    """Prints `terminal_table`, and writes `outcome_table` to `summary.md` in the folder.

    Args:
        outcomes: The trials, in order.
        folder: Folder of the multirun or the sweep.
        metric: The metric to compare trials by.
        goal: "maximize" or "minimize".
        title: Title of the printed table.
    """
    print_tables(terminal_table(outcomes, metric, goal, title))
    with atomic_write(folder / "summary.md") as temporary:
        table = outcome_table(outcomes, metric, goal)
        temporary.write_text(redacted(to_markdown(table)) + "\n", encoding="utf-8")


def _own_settings(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Returns each trial's settings without those that all trials share."""
    settings = [o.label.split() for o in outcomes]
    shared = set.intersection(*map(set, settings)) if len(settings) > 1 else set()
    return [
        [word for word in words if word not in shared] or words or ["(defaults)"]
        for words in settings
    ]


def _in_lines(setting: str) -> list[str]:
    """Puts the value of a long setting on a line of its own."""
    name, equals, value = setting.partition("=")
    if not equals or len(setting) <= _SETTING_WIDTH:
        return [setting]
    return [name + equals, "  " + value]


def _interval(outcome: Outcome) -> str:
    low, high = outcome.metric("test/scs_ci_low"), outcome.metric("test/scs_ci_high")
    return f"{low:.3f} … {high:.3f}" if math.isfinite(low) else ""


def _state(outcome: Outcome) -> str:
    if outcome.state == "finished" or not outcome.reason:
        return outcome.reason or outcome.state  # "finished before" says both
    return f"{outcome.state}: {outcome.reason}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""
