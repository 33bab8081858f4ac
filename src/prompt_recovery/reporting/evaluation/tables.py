"""The tables of an evaluation, for the terminal, Markdown and the page."""

from collections.abc import Sequence

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.reporting.evaluation.report import (
    Report,
    SecondOpinion,
    cost,
    duration,
    p_text,
    score,
    span,
)
from prompt_recovery.reporting.evaluation.scores import CalibrationBin, Evaluation
from prompt_recovery.tables import Table

_LONGEST = 300  # maximum number of characters shown of a prompt


def result_table(evaluations: Sequence[Evaluation], title: str) -> Table:
    """Builds a table with one row for each recoverer, best first."""
    ordered = sorted(evaluations, key=lambda e: -e.mean)
    headings = ["recoverer", "SCS", "95 % interval", "cosine", "exact", "s / example"]
    rows = [
        [e.name, score(e.mean), span(e.interval), score(float(e.cosine.mean())),
         f"{e.exact.mean():.1%}", cost(e)]
        for e in ordered
    ]  # fmt: skip
    return Table(headings, rows, title, best=0)


def ranking_table(report: Report) -> Table:
    """Builds a table with one row for each recoverer and its paired difference to the best."""
    headings = ["recoverer", "SCS", "95 % interval", "to the best", "95 % interval", "p", "cosine",
                "exact", "ROUGE-L", "s / example"]  # fmt: skip
    rows = []
    for number, e in enumerate(report.evaluations):
        behind = ["", "", ""]
        if number:
            gain = report.gains[number - 1]
            low, high = gain.interval
            behind = [f"{-gain.mean:+.3f}", span((-high, -low), signed=True), p_text(gain.p)]
        rows.append(
            [e.name, score(e.mean), span(e.interval), *behind, score(float(e.cosine.mean())),
             f"{e.exact.mean():.1%}", score(float(e.rouge_l.mean())), cost(e)]
        )  # fmt: skip
    return Table(headings, rows, best=0)


def cost_table(report: Report) -> Table | None:
    """Builds a table of the seconds per example by source, channel and choice.

    Returns:
        The table, or None if they are not known of any recoverer.
    """
    told = [e for e in report.evaluations if e.seconds_by_source]
    known = {source for e in told for source in e.seconds_by_source}
    last = [part for part in ("channel", "choice") if part in known]
    parts = [*sorted(known - set(last)), *last]
    rows = [
        [e.name, *(duration(by[p] / len(e.scs)) if p in by else "–" for p in parts), cost(e)]
        for e in told
        for by in [e.seconds_by_source]
    ]
    return Table(["recoverer", *parts, "together"], rows) if rows else None


def category_tables(
    evaluations: Sequence[Evaluation], examples: Sequence[RewriteExample]
) -> list[Table]:
    """Builds a table of mean SCS by category, with one column for each recoverer.

    There is none if all examples have the same category, or none has one.
    """
    columns = [e.by_category(examples) for e in evaluations]
    if len(columns[0]) < 2:
        return []
    headings = ["category", "n", *(e.name for e in evaluations)]
    rows = [
        [category, count, *(score(column[category][0]) for column in columns)]
        for category, (_, count) in columns[0].items()
    ]
    return [Table(headings, rows, "Mean SCS by category")]


def group_table(
    heading: str, groups: Sequence[tuple[str, int, list[float]]], report: Report
) -> Table:
    """Builds a table of mean SCS by group (category or length), with a column per recoverer."""
    headings = [heading, "n", *(e.name for e in report.evaluations)]
    return Table(headings, [[name, count, *map(score, means)] for name, count, means in groups])


def encoder_table(report: Report, second: SecondOpinion) -> Table:
    """Builds a table of the scores under both encoders, and whether they agree."""
    headings = ["recoverer", f"SCS, {report.encoder}", f"SCS, {second.encoder}", "expected there",
                "kept (95 % interval)", "score"]  # fmt: skip
    rows = [
        [e.name, *map(score, (e.mean, float(check.scs.mean()), float(check.expected.mean()))),
         check.kept_text, check.verdict]
        for e, check in zip(report.evaluations, second.checks, strict=True)
    ]  # fmt: skip
    return Table(headings, rows)


def calibration_table(bins: Sequence[CalibrationBin]) -> Table:
    """Builds a table of expected and actual SCS, with one row per group of similar confidence."""
    rows = [[b.count, score(b.expected), score(b.actual), span(b.interval)] for b in bins]
    return Table(["examples", "expected SCS", "actual SCS", "95 % interval"], rows)


def answer_table(evaluation: Evaluation, examples: Sequence[RewriteExample], title: str,
                 places: Sequence[int]) -> Table:  # fmt: skip
    """Builds a table of true and recovered prompts with their SCS, for the given indices."""
    rows = [
        [f"{evaluation.scs[i]:z.2f}", shortened(examples[i].rewrite_prompt),
         shortened(evaluation.predictions[i].rewrite_prompt)]
        for i in places
    ]  # fmt: skip
    return Table(["SCS", "true prompt", "recovered prompt"], rows, title, wide=(1, 2))


def sample_table(
    evaluation: Evaluation, examples: Sequence[RewriteExample], count: int = 10
) -> Table:
    """Builds a table of answers that are evenly spread from the best to the worst."""
    order = sorted(range(len(examples)), key=lambda i: -float(evaluation.scs[i]))
    count = min(count, len(order))
    places = [order[round(n * (len(order) - 1) / max(count - 1, 1))] for n in range(count)]
    title = f"{count} answers of {evaluation.name}, from the best to the worst"
    return answer_table(evaluation, examples, title, places)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Truncates a text that is longer than `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
