"""An evaluation's report as Markdown."""

from prompt_recovery.reporting.evaluation.report import (
    COST_NOTE,
    COST_TITLE,
    Report,
    metric_name,
    notes,
    score,
    verdict,
)
from prompt_recovery.reporting.evaluation.scores import calibration_error
from prompt_recovery.reporting.evaluation.tables import (
    answer_table,
    calibration_table,
    cost_table,
    encoder_table,
    group_table,
    ranking_table,
)
from prompt_recovery.reporting.origin import about_table
from prompt_recovery.tables import counted, escape_markdown, to_markdown


def report_markdown(report: Report) -> str:
    """Renders the report. Texts are escaped, so that they cannot break the Markdown."""
    parts = [
        f"# {escape_markdown(report.dataset)}: {counted(len(report.examples), 'example')}",
        escape_markdown(verdict(report)),
        to_markdown(ranking_table(report)),
        f"{escape_markdown(metric_name(report))}. Differences to the best are paired, with "
        "bootstrap intervals; p-values are those of a sign-flip permutation test, adjusted for the "
        "number of comparisons (Holm).",
        *map(escape_markdown, notes(report)),
        *_encoders(report),
        *_calibration(report),
        *_cost(report),
    ]
    for title, heading, groups in (
        ("By category", "category", report.categories()),
        ("By length", "words of both texts", report.lengths()),
    ):
        if groups:
            parts += [f"## {title}", to_markdown(group_table(heading, groups, report))]
    for title, places in zip(("Best answers", "Worst answers"), report.samples(), strict=True):
        answers = answer_table(report.best, report.examples, title, places)
        parts += [f"## {title} of {escape_markdown(report.best.name)}", to_markdown(answers)]
    if report.about:
        parts += ["## How it was made", to_markdown(about_table(report.about))]
    return "\n\n".join(parts) + "\n"


def _encoders(report: Report) -> list[str]:
    if report.second is None:
        return []
    first, second = escape_markdown(report.encoder), escape_markdown(report.second.encoder)
    return [
        "## Two encoders",
        to_markdown(encoder_table(report, report.second)),
        f"Expected is what human prompts that have the same SCS under {first} have under {second} "
        f"(embeddings centred on such prompts; chance is {score(report.second.chance)}). Kept is "
        "the share of what is expected above chance; where it is surely below 50 %, the score is "
        "flagged.",
    ]


def _cost(report: Report) -> list[str]:
    table = cost_table(report)
    return [] if table is None else [f"## {COST_TITLE}", to_markdown(table), COST_NOTE]


def _calibration(report: Report) -> list[str]:
    parts = []
    for name, bins in report.calibrations.items():
        parts += [
            f"## Calibration of {escape_markdown(name)}",
            f"Mean distance of expected and actual SCS: {score(calibration_error(bins))}.",
            to_markdown(calibration_table(bins)),
        ]
    if report.uncalibrated:
        parts += ["## Calibration", escape_markdown(report.uncalibrated)]
    return parts
