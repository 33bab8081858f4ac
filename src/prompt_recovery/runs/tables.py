"""What is told of trials in a table."""

import math
from collections.abc import Sequence

from prompt_recovery.runs.trials import Outcome


def outcome_rows(
    outcomes: Sequence[Outcome], metric: str, goal: str = "maximize"
) -> tuple[list[str], list[list[str]], int | None]:
    """Headings, rows and the index of the best finished trial (None if none is finished).

    Settings that all trials share are left out.
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
    sign = 1 if goal == "maximize" else -1
    finished = [
        (sign * o.metric(metric), i)
        for i, o in enumerate(outcomes)
        if o.state == "finished" and math.isfinite(o.metric(metric))
    ]
    return headings, rows, max(finished)[1] if finished else None


def _state(outcome: Outcome) -> str:
    if outcome.state == "finished" or not outcome.reason:
        return outcome.reason or outcome.state  # "finished before" says both
    return f"{outcome.state}: {outcome.reason}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""
