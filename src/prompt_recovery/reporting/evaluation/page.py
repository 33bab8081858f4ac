"""An evaluation's report as an HTML page."""

import numpy as np
from markupsafe import Markup

from prompt_recovery.reporting.evaluation.metric_hacking import UNKNOWN
from prompt_recovery.reporting.evaluation.report import (
    COST_NOTE,
    COST_TITLE,
    LEVEL,
    Report,
    SecondOpinion,
    cost,
    metric_name,
    notes,
    p_text,
    score,
    span,
    verdict,
)
from prompt_recovery.reporting.evaluation.scores import calibration_error
from prompt_recovery.reporting.evaluation.tables import cost_table, encoder_table, ranking_table
from prompt_recovery.reporting.html.charts import Interval, Line, interval_chart, line_chart
from prompt_recovery.reporting.html.evidence import evidence_html
from prompt_recovery.reporting.html.page import Section, page, render
from prompt_recovery.reporting.html.parts import (
    Fact,
    Tone,
    facts,
    heat_table,
    html_table,
    paragraph,
)
from prompt_recovery.reporting.origin import about_table
from prompt_recovery.tables import Table, counted

_LINES = 5  # number of recoverers in the chart of distributions
_ODD = 3  # number of answers shown for each flagged recoverer
_LONGEST = 3000  # maximum number of characters shown of a text


def report_page(report: Report) -> str:
    """Renders the page."""
    sections = [Section("Results", _results(report))]
    if report.second is not None:
        sections.append(Section("Two encoders", _two_encoders(report, report.second)))
    if report.calibrations or report.uncalibrated:
        sections.append(Section("Calibration", _calibration(report)))
    if report.categories():
        sections.append(Section("By category", _categories(report)))
    sections.append(Section("By length", _lengths(report)))
    costs = cost_table(report)
    if costs is not None:
        sections.append(Section(COST_TITLE, html_table(costs) + paragraph(COST_NOTE, "quiet")))
    sections.append(Section("Best and worst answers", _samples(report)))
    if report.about:
        sections.append(Section("How it was made", html_table(about_table(report.about))))
    return page(
        f"Prompt recovery on {report.dataset}",
        sections,
        lead=paragraph(verdict(report), "verdict") + facts(_facts(report)),
        foot=f"{metric_name(report)}; {counted(len(report.examples), 'example')}.",
    )


def _facts(report: Report) -> list[Fact]:
    best = report.best
    said = [
        Fact(
            "Mean SCS of the best",
            score(best.mean),
            f"95 % interval {span(best.interval)}, {counted(len(report.examples), 'example')}",
        )
    ]
    if report.gains:
        gain, second = report.gains[0], report.evaluations[1]
        said += [
            Fact(f"Ahead of {second.name}", f"{gain.mean:+.3f}", span(gain.interval, signed=True)),
            Fact(
                "Significant?",
                "yes" if gain.p < LEVEL else "no",
                f"{p_text(gain.p)} against {second.name}",
                "good" if gain.p < LEVEL else "bad",
            ),
        ]
    if best.seconds is None:
        said.append(Fact("Cost", "unknown", "its predictions were made elsewhere"))
    else:
        said.append(Fact("Cost", f"{cost(best)} s", "per example, on this machine"))
    if report.second is not None:
        names, verdict_ = report.suspicious, report.second.checks[0].verdict
        tone: Tone = {"falls": "bad", "holds": "good"}.get(verdict_, "")  # type: ignore[assignment]
        told = f"flagged: {', '.join(names)}" if names else "no recoverer's score is flagged"
        if not tone:
            told = f"{UNKNOWN}; {told}"
        said.append(Fact("Under a second encoder", verdict_ if tone else "unknown", told, tone))
    return said


def _results(report: Report) -> Markup:
    bars = [
        Interval(e.name, e.mean, *e.interval, best=e is report.best) for e in report.evaluations
    ]
    highest = max(float(np.quantile(e.scs, 0.99)) for e in report.evaluations)
    at = np.linspace(0, max(highest, 0.1), 41)  # a few lucky answers must not stretch the axis
    lines = [
        Line(e.name, [(float(x), float((e.scs >= x).mean())) for x in at])
        for e in report.evaluations[:_LINES]
    ]
    return (
        interval_chart(bars, "Mean SCS with its 95 % bootstrap interval")
        + html_table(ranking_table(report))
        + paragraph(
            "Differences to the best are paired by example. p-values: sign-flip permutation test, "
            "adjusted for the number of comparisons (Holm). Exact: equal up to case, punctuation "
            "and white space. A dash: the predictions were made elsewhere.",
            "quiet",
        )
        + Markup("").join(paragraph(note) for note in notes(report))
        + line_chart(
            lines, "SCS of at least", "share of examples", "How many answers score how much"
        )
    )


def _two_encoders(report: Report, second: SecondOpinion) -> Markup:
    return (
        paragraph(
            "A score that comes from meaning holds under another encoder; a score that comes from "
            f"strings which only {report.encoder} finds similar falls. The expected score is that "
            f"of human prompts with the same SCS, measured with {second.encoder} (its embeddings "
            f"are centred on such prompts; chance: {score(second.chance)}). Kept is the actual "
            "share of the expected score above chance. If it is below 50 % with a confidence of "
            "97.5 %, the score is flagged."
        )
        + html_table(encoder_table(report, second), {"falls": "bad", "holds": "good"})
        + _odd_answers(report, second)
    )


def _odd_answers(report: Report, second: SecondOpinion) -> Markup:
    """Renders the answers of flagged recoverers whose scores fall the most."""
    rows = []
    for e, check in zip(report.evaluations, second.checks, strict=True):
        if check.suspicious:
            worst: dict[str, int] = {}  # each text once, where it falls the most
            for i in np.argsort(check.scs - check.expected, kind="stable").tolist():
                worst.setdefault(e.predictions[i].rewrite_prompt, i)
            rows += [
                [e.name, text[:300], score(float(e.scs[i])), score(float(check.scs[i])),
                 score(float(check.expected[i]))]
                for text, i in list(worst.items())[:_ODD]
            ]  # fmt: skip
    if not rows:
        return Markup("")
    headings = ["", "answer", "SCS", "SCS, second", "expected there"]
    return html_table(Table(headings, rows, "What falls the most", wide=(1,)))


def _calibration(report: Report) -> Markup:
    few = paragraph(report.uncalibrated, "quiet") if report.uncalibrated else Markup("")
    if not report.calibrations:
        return few
    lines = [
        Line(name,
             [(b.expected, b.actual) for b in bins], marks=True)
        for name, bins in report.calibrations.items()
    ]  # fmt: skip
    said = "; ".join(
        f"{name}: {score(calibration_error(bins))}" for name, bins in report.calibrations.items()
    )
    return (
        line_chart(
            lines,
            "expected SCS",
            "actual SCS",
            "Groups of answers with similar confidence; the dashed line is perfect calibration",
            diagonal=True,
        )
        + paragraph(f"Mean distance of expected and actual SCS over groups. {said}.", "quiet")
        + few
    )


def _categories(report: Report) -> Markup:
    return _heat(report, "category", report.categories(), "Mean SCS")


def _lengths(report: Report) -> Markup:
    return _heat(report, "words", report.lengths(), "Mean SCS by the number of words in both texts")


def _heat(
    report: Report, heading: str, groups: list[tuple[str, int, list[float]]], caption: str
) -> Markup:
    highest = max(0.01, *(value for _, _, means in groups for value in means))
    rows = [(name, str(count), means) for name, count, means in groups]
    headings = [heading, "n", *(e.name for e in report.evaluations)]
    return heat_table(headings, rows, highest, caption)


def _samples(report: Report) -> Markup:
    def shown(place: int) -> dict[str, object]:
        example = report.examples[place]
        return {
            "example": example,
            "original": _cut(example.original_text),
            "rewritten": _cut(example.rewritten_text),
            "evidence": evidence_html(
                report.evidence.get(place, ()), example.original_text, example.rewritten_text
            ),
            "answers": [
                (e.name, f"{e.scs[place]:.2f}", _cut(e.predictions[place].rewrite_prompt, 400))
                for e in report.evaluations
            ],
        }

    best, worst = report.samples()
    groups = [("Best", [shown(i) for i in best]), ("Worst", [shown(i) for i in worst])]
    return render("samples.html.jinja", groups=groups, name=report.best.name)


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[:longest] + " […]"
