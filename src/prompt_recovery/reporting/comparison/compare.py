"""The job of `prompt-recovery compare`, which writes a report of many runs."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

from markupsafe import Markup

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.reporting.comparison.analysis import Arm, Comparison, Factor, analyse, distinct
from prompt_recovery.reporting.comparison.runs import (
    Apart,
    Run,
    comparable,
    from_folders,
    from_wandb,
)
from prompt_recovery.reporting.comparison.words import (
    ARM_HEADINGS,
    FACTOR_HEADINGS,
    METHOD,
    answers,
    arm_cells,
    duration,
    factor_rows,
    factor_title,
    verdict,
)
from prompt_recovery.reporting.html import (
    Fact,
    Interval,
    Line,
    Section,
    facts,
    heat_table,
    html_table,
    interval_chart,
    line_chart,
    page,
    paragraph,
    write_page,
)
from prompt_recovery.reporting.origin import about_table, origin
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.storage import atomic_write, read_json
from prompt_recovery.tables import Table, counted, escape_markdown, print_tables, to_markdown

log = logging.getLogger(__name__)


def compare(
    patterns: Sequence[str], project: str | None, output: Path, command: str = ""
) -> Comparison:
    """Compares runs and writes `report.html`, `report.md` and `report.json`.

    If there is a report of other runs in the folder, it is moved into `earlier/`.

    Args:
        patterns: Run folders, folders of runs, or glob patterns.
        project: A W&B project, "entity/name".
        output: Folder of the report.
        command: The command line, for the report.

    Raises:
        PromptRecoveryError: If there are no runs to compare, W&B cannot be reached, or the report
            cannot be written.
    """
    if not patterns and project is None:
        raise PromptRecoveryError(
            "nothing to compare: give 'runs=[<folder>, …]' or project=<entity/name>"
        )
    runs, apart = from_folders(patterns)
    if project is not None:
        theirs, unfinished = from_wandb(project)
        runs, apart = runs + theirs, apart + unfinished
    chosen, others = comparable(runs)
    chosen, repeated = distinct(chosen)
    apart = apart + others + repeated
    if not chosen:
        reasons = "; ".join(f"{a.name} {a.reason}" for a in apart[:3])
        raise PromptRecoveryError(f"no finished run to compare: {reasons}")
    comparison = analyse(chosen)
    compared = [*patterns, *([] if project is None else [f"W&B project {project}"])]
    about = {"compared": ", ".join(compared), **origin(command, output)}
    _keep_earlier(output, about["compared"])
    write_page(output / "report.html", _html(comparison, chosen, apart, about))
    for name, text in (
        ("report.md", _markdown(comparison, chosen, apart, about)),
        ("report.json", json.dumps(_json(comparison, apart) | {"about": about}, indent=2) + "\n"),
    ):
        with atomic_write(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    _say(comparison, apart, output)
    return comparison


_REPORT = ("report.html", "report.md", "report.json")


def _keep_earlier(output: Path, compared: str) -> None:
    """Moves a report of other runs into `earlier/`, so that it isn't overwritten."""
    record = read_json(output / "report.json")
    about = record.get("about") if isinstance(record, dict) else None
    if not isinstance(about, dict) or about.get("compared") in (None, compared):
        return
    changed = (output / "report.json").stat().st_mtime
    name = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(changed))
    earlier = RunFolder.create(output / "earlier", name).path
    for file in _REPORT:
        with suppress(FileNotFoundError):
            (output / file).rename(earlier / file)
    log.info("the earlier report, of %s, has been moved to %s", about["compared"], earlier)


def _say(comparison: Comparison, apart: Sequence[Apart], output: Path) -> None:
    print_tables(_arm_table(comparison, 7, verdict(comparison)))
    for said in answers(comparison):
        log.info("%s %s: %s", said.question, said.answer, said.detail)
    for one in apart:
        log.warning("left out: %s: %s", one.name, one.reason)
    log.info("report: %s", output / "report.html")


def _html(
    comparison: Comparison,
    runs: Sequence[Run],
    apart: Sequence[Apart],
    about: Mapping[str, str],
) -> str:
    lead = paragraph(verdict(comparison), "verdict") + facts(
        [
            Fact(a.question, a.answer, a.detail, "good" if a.good else "")
            for a in answers(comparison)
        ]
    )
    if apart:
        runs_apart = "1 run is" if len(apart) == 1 else f"{len(apart)} runs are"
        lead += paragraph(f"{runs_apart} left out and listed below: not comparable.", "quiet")
    sections = [Section("Variants", _variants(comparison))]
    if comparison.factors:
        body = Markup("").join(html_table(_factor_table(f)) for f in comparison.factors)
        sections.append(Section("Effect of each setting", body))
    sections.append(Section("Learning and cost", _plots(comparison)))
    sections.append(Section("By category", _categories(comparison)))
    sections.append(Section("Runs", _runs(runs, apart)))
    sections.append(Section("How it was made", html_table(about_table(about))))
    return page(
        f"{counted(len(runs), 'run')} compared", sections, lead, f"Data {' '.join(runs[0].data)}."
    )


def _variants(comparison: Comparison) -> Markup:
    chart = interval_chart(
        [
            Interval(arm.label, arm.mean, *arm.interval, best=number == 0)
            for number, arm in enumerate(comparison.arms)
        ],
        "Mean test SCS with 95 % intervals over seeds and examples",
    )
    return chart + html_table(_arm_table(comparison)) + paragraph(METHOD, "quiet")


def mean_curve(arm: Arm) -> list[tuple[float, float]]:
    """Returns (step, val/scs) points, averaged over seeds.

    If all runs have the same number of validations, the n-th validations are averaged, whose steps
    may differ, because seeds may make different numbers of preferences. Otherwise, only the steps
    that all runs have in common are used.
    """
    if len({len(run.curve) for run in arm.runs}) == 1:
        each = zip(*(run.curve for run in arm.runs), strict=True)
        return [(mean(step for step, _ in at), mean(scs for _, scs in at)) for at in each]
    curves = [dict(run.curve) for run in arm.runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return [(step, mean(curve[step] for curve in curves)) for step in steps]


def _plots(comparison: Comparison) -> Markup:
    figures = Markup("")
    curves = [Line(a.label, mean_curve(a), marks=True) for a in comparison.arms if mean_curve(a)]
    if curves:
        figures += line_chart(curves, "optimiser step", "val/scs", "Learning, mean over seeds")
    for metric, label, scale in (
        ("train/tokens_per_second", "tokens / s in training", 1.0),
        ("model/parameters", "million parameters", 1e-6),
    ):
        dots = [
            Line(a.label, [(scale * a.cost(metric), a.mean)], marks=True)
            for a in comparison.arms
            if math.isfinite(a.cost(metric))
        ]
        if dots:
            figures += line_chart(dots, label, "test SCS", f"Test SCS against {label}")
    return Markup('<div class="figures">{}</div>').format(figures)


def _categories(comparison: Comparison) -> Markup:
    rows = [(name, str(count), means) for name, count, means in comparison.by_category()]
    highest = max(max(means) for _, _, means in rows)
    headings = ["category", "n", *(arm.label for arm in comparison.arms)]
    return heat_table(headings, rows, max(highest, 1e-6), "Mean test SCS")


def _arm_table(comparison: Comparison, columns: int | None = None, title: str = "") -> Table:
    rows = [arm_cells(a, b) for a, b in zip(comparison.arms, comparison.behind, strict=True)]
    return Table(ARM_HEADINGS[:columns], [row[:columns] for row in rows], title, best=0)


def _factor_table(factor: Factor) -> Table:
    return Table(FACTOR_HEADINGS, factor_rows(factor), factor_title(factor), best=0)


def _apart_table(apart: Sequence[Apart]) -> Table:
    title = "Runs that cannot be compared fairly with these"
    return Table(["run", "why"], [[one.name, one.reason] for one in apart], title, wide=(1,))


def _run_table(runs: Sequence[Run]) -> Table:
    rows = [
        [
            run.name,
            str(run.seed),
            f"{sum(run.scores.values()) / len(run.scores):.4f}",
            f"{run.metrics.get('val/scs', math.nan):.4f}",
            duration(run.metrics.get("seconds", math.nan)),
        ]
        for run in sorted(runs, key=lambda run: run.name)
    ]
    return Table(["run", "seed", "test SCS", "val/scs", "time"], rows)


def _runs(runs: Sequence[Run], apart: Sequence[Apart]) -> Markup:
    body = html_table(_run_table(runs))
    return body + html_table(_apart_table(apart)) if apart else body


def _markdown(
    comparison: Comparison,
    runs: Sequence[Run],
    apart: Sequence[Apart],
    about: Mapping[str, str],
) -> str:
    parts = [
        f"# {counted(len(runs), 'run')} compared",
        escape_markdown(verdict(comparison)),
        "\n".join(
            f"- {question} **{answer}**: {detail}"
            for question, answer, detail in (
                map(escape_markdown, (a.question, a.answer, a.detail)) for a in answers(comparison)
            )
        ),
        "## Variants",
        to_markdown(_arm_table(comparison)),
        escape_markdown(METHOD),
    ]
    for factor in comparison.factors:
        title = escape_markdown(factor_title(factor))
        parts += [f"## {title}", to_markdown(_factor_table(factor))]
    headings = ["category", "n", *(arm.label for arm in comparison.arms)]
    parts += [
        "## By category",
        to_markdown(
            Table(
                headings,
                [[n, c, *(f"{m:.3f}" for m in ms)] for n, c, ms in comparison.by_category()],
            )
        ),
        "## Runs",
        to_markdown(_run_table(runs)),
    ]
    if apart:
        parts += ["## Set apart", to_markdown(_apart_table(apart))]
    parts += ["## How it was made", to_markdown(about_table(about))]
    return "\n\n".join(parts) + "\n"


def _json(comparison: Comparison, apart: Sequence[Apart]) -> dict[str, Any]:
    return {
        "variants": [
            {
                "label": arm.label,
                "settings": dict(arm.settings),
                "seeds": [run.seed for run in arm.runs],
                "runs": [run.name for run in arm.runs],
                "test/scs": arm.mean,
                "test/scs_by_seed": [float(m) for m in arm.scores.mean(1)],
                "test/scs_ci_low": arm.interval[0],
                "test/scs_ci_high": arm.interval[1],
                "behind": behind
                and {"mean": behind.mean, "interval": behind.interval, "p": behind.p},
            }
            for arm, behind in zip(comparison.arms, comparison.behind, strict=True)
        ],
        "apart": [{"run": one.name, "reason": one.reason} for one in apart],
    }
