"""The table of the trials of a multirun or a sweep."""

import math
from collections.abc import Sequence
from pathlib import Path

from prompt_recovery.runs.trials import Outcome
from prompt_recovery.settings.secrets import redacted
from prompt_recovery.storage import atomic_write
from prompt_recovery.tables import Table, print_tables, to_markdown


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
    settings = [label.split() for label in (o.label for o in outcomes)]
    shared = set.intersection(*map(set, settings)) if len(settings) > 1 else set()
    rows = []
    for outcome, words in zip(outcomes, settings, strict=True):
        low, high = outcome.metric("test/scs_ci_low"), outcome.metric("test/scs_ci_high")
        interval = f"{low:.3f} … {high:.3f}" if math.isfinite(low) else ""
        rows.append(
            [
                " ".join(w for w in words if w not in shared) or outcome.label or "(defaults)",
                _state(outcome),
                _number(outcome.metric(metric), 4),
                _number(outcome.metric("test/scs"), 4),
                interval,
                _number(outcome.metric("seconds"), 0),
                outcome.folder.name,
            ]
        )
    headings = ["trial", "state", metric, "test/scs", "95 % interval", "seconds", "folder"]
    return Table(headings, rows, title, best_of(outcomes, metric, goal))


def best_of(outcomes: Sequence[Outcome], metric: str, goal: str = "maximize") -> int | None:
    """Returns the index of the best finished trial, or None if none has finished."""
    sign = 1 if goal == "maximize" else -1
    finished = [
        (sign * o.metric(metric), i)
        for i, o in enumerate(outcomes)
        if o.state == "finished" and math.isfinite(o.metric(metric))
    ]
    return max(finished)[1] if finished else None


def show_outcomes(table: Table, folder: Path) -> None:
    """Prints the table and writes it to `summary.md` in the folder of the multirun or sweep."""
    print_tables(table)
    with atomic_write(folder / "summary.md") as temporary:
        temporary.write_text(redacted(to_markdown(table)) + "\n", encoding="utf-8")


def _state(outcome: Outcome) -> str:
    if outcome.state == "finished" or not outcome.reason:
        return outcome.reason or outcome.state  # "finished before" says both
    return f"{outcome.state}: {outcome.reason}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""
