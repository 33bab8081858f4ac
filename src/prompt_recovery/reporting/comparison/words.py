"""The results of a comparison as sentences and table cells, for the page and the Markdown file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prompt_recovery.reporting.comparison.analysis import Arm, Comparison, Difference, Factor

ARM_HEADINGS = ["variant", "seeds", "SCS", "95 % interval", "± over seeds", "behind the best",
                "p", "tokens / s", "a run took", "memory", "trained"]  # fmt: skip
FACTOR_HEADINGS = ["", "SCS", "runs", "behind the best", "p"]


@dataclass(frozen=True)
class Answer:
    """An answer to one of the questions at the beginning of the report."""

    question: str
    answer: str
    detail: str
    good: bool = False


def answers(comparison: Comparison) -> list[Answer]:
    """Answers which backbone and objective are best, whether that is significant, and the cost."""
    best = comparison.arms[0]
    total = sum(run.metrics.get("seconds", math.nan) for a in comparison.arms for run in a.runs)
    runs = sum(len(arm.runs) for arm in comparison.arms)
    return [
        _which("backbone", "model", comparison),
        _which("objective", "objective", comparison),
        _significant(comparison),
        Answer(
            "What did it cost?",
            f"{duration(best.cost('seconds'))}, {memory(best.cost('peak_memory_bytes'))}",
            f"a run of {best.label}, at {number(best.cost('train/tokens_per_second'), 0)} "
            "tokens / s" + (f"; all {runs} runs: {duration(total)}" if runs > 1 else ""),
        ),
    ]


def _which(name: str, key: str, comparison: Comparison) -> Answer:
    question = f"Which {name}?"
    factor = comparison.factor("backbone" if key == "model" else key)
    if factor is None:
        run = comparison.arms[0].runs[0]
        part = run.config.get(key, {})
        own = str(part.get("name") or str(part.get("_target_", "?")).rsplit(".", 1)[-1].lower())
        return Answer(question, own, "the same in all runs")
    best, *others = factor.levels
    tested = [level for level in others if level.behind]
    if not tested:
        return Answer(
            question, best.name, f"of the best run; no two runs differ in the {name} alone"
        )
    closest = min(tested, key=lambda level: level.behind.mean if level.behind else math.inf)
    assert closest.behind is not None
    return Answer(
        question,
        best.name,
        f"{difference(closest.behind)} over {closest.name}, {p_text(closest.behind.p)}",
        closest.behind.significant,
    )


def _clear(comparison: Comparison) -> int:
    """Returns the number of variants that the first one is significantly better than."""
    return sum(d.significant for d in comparison.behind if d)


def _significant(comparison: Comparison) -> Answer:
    question = "Is it significant?"
    if len(comparison.arms) < 2:
        return Answer(question, "not known", "there is only one variant")
    behind = [d for d in comparison.behind if d]
    clear = _clear(comparison)
    second = comparison.arms[1]
    first = behind[0]
    detail = (
        f"{comparison.arms[0].label} against {second.label}: {difference(first)}, {p_text(first.p)}"
    )
    if clear == len(behind):
        return Answer(question, "yes", detail, True)
    if clear:
        return Answer(question, f"against {clear} of {len(behind)}", detail)
    return Answer(question, "no", detail)


def verdict(comparison: Comparison) -> str:
    """Returns the report's first sentence. It calls a variant best only if that is significant."""
    best = comparison.arms[0]
    clear, others = _clear(comparison), len(comparison.arms) - 1
    claim = "is best" if 0 < clear == others else "scores highest"
    if others and not clear:
        claim += ", not significantly"
    baseline = best.cost("baseline/mean_prompt_scs")
    text = f"{best.label} {claim}: SCS {best.mean:.3f} ({span(best.interval)})"
    if math.isfinite(baseline):
        text += f", mean prompt {baseline:.3f}"
    count = len(comparison.arms[0].runs[0].scores)
    return f"{text}, on {count} test examples."


def arm_cells(arm: Arm, behind: Difference | None) -> list[str]:
    """Returns the cells of an arm's row under `ARM_HEADINGS`."""
    return [
        arm.label,
        ", ".join(str(run.seed) for run in arm.runs),
        f"{arm.mean:.3f}",
        span(arm.interval),
        number(arm.over_seeds, 3),
        "best" if behind is None else difference(behind),
        "" if behind is None else p_cell(behind),
        number(arm.cost("train/tokens_per_second"), 0),
        duration(arm.cost("seconds")),
        memory(arm.cost("peak_memory_bytes")),
        millions(arm.cost("model/trainable_parameters"), arm.cost("model/parameters")),
    ]


def factor_rows(factor: Factor) -> list[list[str]]:
    """Returns the rows of a factor's table under `FACTOR_HEADINGS`."""
    return [
        [
            level.name,
            number(level.mean, 3),
            str(level.runs),
            "best" if level.best else difference(level.behind) if level.behind else "never alone",
            p_cell(level.behind) if level.behind else "",
        ]
        for level in factor.levels
    ]


def factor_title(factor: Factor) -> str:
    """Returns a heading: the factor, and in parentheses the settings that change along with it.

    If several of these belong to one group, the group is named instead.
    """
    groups: dict[str, list[str]] = {}
    for key in factor.along:
        groups.setdefault(key.partition(".")[0], []).append(key)
    names = [keys[0] if len(keys) == 1 else group for group, keys in groups.items()]
    along = f" (with {', '.join(names)})" if names else ""
    return f"Effect of {factor.name}{along}"


METHOD = (
    "Intervals are bootstrapped over seeds and test examples together, and examples that share a "
    "prompt are resampled together; “± over seeds” is half of Student's 95 % interval. "
    "Differences are paired by example and, where variants have seeds in common, by seed, on those "
    "alone; p-values are those of a sign-flip permutation test on the examples' means over seeds, "
    "adjusted for the number of comparisons (Holm). The effect of a setting is measured where all "
    "other settings are the same. A difference is called significant where interval and test agree."
)


def difference(d: Difference) -> str:
    """Formats a difference and its interval."""
    return f"{d.mean:+.3f} ({d.interval[0]:+.3f} … {d.interval[1]:+.3f})"


def p_text(p: float) -> str:
    """Formats a p-value for a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_cell(d: Difference) -> str:
    """Formats a p-value for a table, with a star if the difference is significant."""
    return f"{'< 0.001' if d.p < 0.001 else f'{d.p:.3f}'}{' *' if d.significant else ''}"


def span(interval: Sequence[float]) -> str:
    """Formats an interval."""
    return f"{interval[0]:.3f} … {interval[1]:.3f}"


def number(value: float, digits: int) -> str:
    """Formats a number, or returns a dash if it is not finite."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """Formats a duration, such as 42 s, 7.8 min or 2.1 h."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory(size: float) -> str:
    """Formats a size in GiB."""
    return f"{size / 2**30:.1f} GiB" if math.isfinite(size) else "–"


def millions(trained: float, all_of_them: float) -> str:
    """Formats the numbers of trained and of all parameters, in millions."""
    if not math.isfinite(trained) or not math.isfinite(all_of_them):
        return "–"
    return f"{trained / 1e6:.1f} of {all_of_them / 1e6:,.0f} M"
