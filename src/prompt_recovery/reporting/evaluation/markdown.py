"""An evaluation's report as Markdown."""

from collections.abc import Sequence

from prompt_recovery.reporting.evaluation.report import (
    Report,
    cost,
    metric_name,
    p_text,
    score,
    span,
    verdict,
)
from prompt_recovery.reporting.evaluation.scores import calibration_error
from prompt_recovery.tables import escape_markdown, markdown_table


def report_markdown(report: Report) -> str:
    """The report; texts are escaped, so that none of them is markup or ends a table's cell."""
    return (
        "\n\n".join(
            [
                f"# {escape_markdown(report.dataset)}: {len(report.examples)} examples",
                escape_markdown(verdict(report)),
                _results(report),
                *_second(report),
                *_calibration(report),
                *_groups("By category", "category", report.categories(), report),
                *_groups("By length", "words of both texts", report.lengths(), report),
                _samples("Best answers", report, report.samples()[0]),
                _samples("Worst answers", report, report.samples()[1]),
                *_about(report),
            ]
        )
        + "\n"
    )


def _results(report: Report) -> str:
    heads = ["", "SCS", "95 % interval", "against the best", "cosine", "exact", "ROUGE-L",
             "s / example"]  # fmt: skip
    rows = []
    for number, e in enumerate(report.evaluations):
        behind = "best"
        if number:
            gain = report.gains[number - 1]
            low, high = gain.interval
            behind = f"{-gain.mean:+.3f} ({span((-high, -low), True)}), {p_text(gain.p)}"
        rows.append(
            [e.name, score(e.mean), span(e.interval), behind, score(e.cosine.mean()),
             f"{e.exact.mean():.1%}", score(e.rouge_l.mean()), cost(e)]
        )  # fmt: skip
    return markdown_table(heads, rows) + (
        f"\n\n{escape_markdown(metric_name(report))}. "
        "Differences are paired, with bootstrap intervals; "
        "p-values are those of a sign-flip permutation test, adjusted for the number of "
        "comparisons (Holm)."
    )


def _second(report: Report) -> list[str]:
    if report.second is None:
        return []
    rows = []
    for e, check in zip(report.evaluations, report.second.checks, strict=True):
        means = map(score, (e.mean, check.scs.mean(), check.expected.mean()))
        rows.append([e.name, *means, check.kept_text, check.verdict])
    heads = ["", f"SCS, {report.encoder}", f"SCS, {report.second.encoder}", "expected", "kept", ""]
    return [
        "## Two encoders",
        markdown_table(heads, rows),
        "Expected is what human prompts that have the same SCS under "
        f"{escape_markdown(report.encoder)} have under {escape_markdown(report.second.encoder)} "
        "(embeddings centred on such prompts; chance "
        f"is {score(report.second.chance)}). Kept is the share of what is expected above chance; "
        "where it is surely below 50 %, the score is flagged.",
    ]


def _calibration(report: Report) -> list[str]:
    parts = []
    for name, bins in report.calibrations.items():
        rows = [[str(b.count), score(b.expected), score(b.actual), span(b.interval)] for b in bins]
        parts += [
            f"## Calibration of {escape_markdown(name)}",
            f"Mean distance of expected and actual SCS: {score(calibration_error(bins))}.",
            markdown_table(["examples", "expected SCS", "actual SCS", "95 % interval"], rows),
        ]
    return parts


def _groups(
    title: str, heading: str, groups: Sequence[tuple[str, int, list[float]]], report: Report
) -> list[str]:
    if not groups:
        return []
    heads = [heading, "n", *(e.name for e in report.evaluations)]
    rows = [[name, count, *map(score, means)] for name, count, means in groups]
    return [f"## {title}", markdown_table(heads, rows)]


def _samples(title: str, report: Report, places: Sequence[int]) -> str:
    rows = [
        [f"{report.best.scs[i]:.2f}", _short(report.examples[i].rewrite_prompt),
         _short(report.best.predictions[i].rewrite_prompt)]
        for i in places
    ]  # fmt: skip
    heads = ["SCS", "true prompt", report.best.name]
    return f"## {title}\n\n{markdown_table(heads, rows)}"


def _about(report: Report) -> list[str]:
    if not report.about:
        return []
    return ["## How it was made", markdown_table(["", ""], report.about.items())]


def _short(text: str, longest: int = 300) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
