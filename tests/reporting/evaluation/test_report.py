"""What the three forms of a report say."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from prompt_recovery.metrics.statistics import PairedGain
from prompt_recovery.recovery.interface import Prediction
from prompt_recovery.recovery.spans import Evidence, Span, evidence_of
from prompt_recovery.reporting.evaluation.markdown import report_markdown
from prompt_recovery.reporting.evaluation.metric_hacking import UNKNOWN, MetricHackingCheck
from prompt_recovery.reporting.evaluation.page import report_page
from prompt_recovery.reporting.evaluation.report import (
    CATEGORIES,
    Report,
    SecondOpinion,
    notes,
    report_record,
    verdict,
)
from prompt_recovery.reporting.evaluation.scores import evaluate
from prompt_recovery.reporting.evaluation.tables import cost_table
from prompt_recovery.tables import escape_markdown
from tests.reporting.html.test_page import ATTACK, Checked


def check(n, kept, interval):
    return MetricHackingCheck(np.full(n, 0.01, np.float32), np.full(n, 0.1), kept, interval)


@pytest.fixture
def report(examples, scs):
    """The best knows half of the truths; the last hacks the metric; texts attack."""
    truths = [e.rewrite_prompt for e in examples]
    answers = {
        "good": [t if n % 2 else ATTACK for n, t in enumerate(truths)],
        f"fair {ATTACK}": ["Make it joyful | really\n# yes"] * len(truths),
        "bad": ["lucrarea"] * len(truths),
    }
    evaluations = []
    for name, texts in answers.items():
        predictions = [
            Prediction(e.id, t, confidence=n / 40 if name == "good" else None)
            for n, (e, t) in enumerate(zip(examples, texts, strict=True))
        ]
        evaluations.append(evaluate(name, predictions, examples, scs, 4.0))
    evaluations.sort(key=lambda e: -e.mean)
    checks = [
        check(40, 0.1, (0.0, 0.2)) if e.name == "bad" else check(40, 1.1, (1.0, 1.2))
        for e in evaluations
    ]
    hostile = [replace(e, category=ATTACK, original_text=ATTACK) for e in examples[:5]]
    return Report(
        dataset="d | own",
        examples=[*hostile, *examples[5:]],
        evaluations=[replace(evaluations[0], seconds=None), *evaluations[1:]],
        encoder="first",
        exponent=3.0,
        second=SecondOpinion("second", 0.001, checks),
        kinds={"good": "recoverer"},
        about={"evaluated": ATTACK},
    )


def test_the_first_screen_says_who_wins_by_how_much_and_whether_it_is_chance(report):
    said = verdict(report)
    gain = report.evaluations[0].mean - report.evaluations[1].mean
    assert report.evaluations[0].name in said.split(" comes first")[0]
    assert f"{gain:+.3f} against {report.evaluations[1].name}" in said
    head = report_page(report).split("<main>")[0]
    assert f"{report.best.mean:.3f}" in head
    assert f"{gain:+.3f}" in head
    assert re.search(r'class="value (good|bad)">(yes|no)<', head)
    assert "made elsewhere" in head
    assert "flagged: bad" in head


def test_equals_are_not_called_better(report):
    alone = replace(report, evaluations=report.evaluations[:1], second=None)
    assert "comes first" not in verdict(alone)
    twin = replace(report.best, name="twin")
    twins = replace(report, evaluations=[report.best, twin], second=None)
    assert "not significantly better than any other" in verdict(twins)
    assert ">no<" in report_page(twins)
    assert report_record(twins)["not_significantly_behind"] == ["twin"]


def test_an_unknown_second_opinion_is_not_said_to_hold(report):
    unknown = check(40, np.nan, (np.nan, np.nan))
    second = SecondOpinion("second", 0.0, [unknown] * 3)
    head = report_page(replace(report, second=second)).split("<main>")[0]
    assert ">unknown<" in head
    assert UNKNOWN in head
    assert ">holds<" not in head


def test_a_winner_by_tricks_is_called_one(report):
    second = SecondOpinion("second", 0.0, [check(40, 0.1, (0.0, 0.2))] * 3)
    assert "does not hold under second" in verdict(replace(report, second=second))
    assert "does not hold under second" in report_markdown(replace(report, second=second))


def test_the_page_is_whole_and_texts_are_data(report):
    html = report_page(report)
    parsed = Checked(html)
    assert not {"script", "img"} & set(parsed.tags)
    for title in ("Results", "Two encoders", "Calibration", "By category", "By length",
                  "Best and worst answers", "How it was made"):  # fmt: skip
        assert f">{title}</h2>" in html
    assert "lucrarea" in html


def test_few_rows_are_called_so_and_have_no_chart_of_the_calibration(report):
    few = replace(
        report,
        examples=report.examples[:12],
        second=None,
        evaluations=[
            replace(e, predictions=e.predictions[:12], scs=e.scs[:12], cosine=e.cosine[:12],
                    exact=e.exact[:12], rouge_l=e.rouge_l[:12], prompts=())
            for e in report.evaluations
        ],
    )  # fmt: skip
    [name] = report.calibrations
    said = (
        f"Too few rows to compare the expected with the actual SCS of {name}: 12 answers with an "
        "expected SCS, and it takes 30."
    )
    assert "perfect calibration" not in report_page(few)
    for text in (report_page(few), report_markdown(few)):
        assert said in text and "With only 12 rows, other rows may well give other numbers." in text
    assert all("calibration" not in r for r in report_record(few)["recoverers"])
    alone = replace(report, evaluations=[replace(e, prompts=()) for e in report.evaluations])
    for text in (report_page(alone), report_markdown(alone)):
        assert "Too few rows" not in text and "With only" not in text


def test_rows_that_share_a_prompt_are_said_to_and_resampled_together(report):
    shared = (
        "The 40 rows have 20 different prompts. Rows that share a prompt are not independent of "
        "each other: intervals and p-values resample prompts, not rows."
    )
    for text in (report_page(report), report_markdown(report)):
        assert shared in text
        assert "With only 40 rows of 20 prompts, other rows may well give other numbers." in text
    assert report_record(report)["prompts"] == 20
    alone = replace(report, evaluations=[replace(e, prompts=()) for e in report.evaluations])
    assert shared not in report_page(alone) and report_record(alone)["prompts"] == 40
    assert alone.gains[0].mean == report.gains[0].mean
    assert alone.gains[0].interval != report.gains[0].interval


def test_an_interval_and_a_p_value_that_disagree_are_explained(report, monkeypatch):
    def said(*gains):
        monkeypatch.setattr(Report, "gains", [PairedGain(*gain) for gain in gains])
        assert all(escape_markdown(note) in report_markdown(report) for note in notes(report))
        return " ".join(notes(report))

    _, second, third = (e.name for e in report.evaluations)
    agree = (0.2, (0.1, 0.3), 0.01)
    assert "although" not in said(agree, (0.1, (-0.1, 0.3), 0.4))
    told = said(agree, (0.1, (0.01, 0.2), 0.06))
    assert f"difference to {third} leaves out 0, although the p-value is not below 0.05" in told
    told = said((0.1, (-0.01, 0.2), 0.04), agree)
    assert f"difference to {second} is below 0.05, although the interval includes 0" in told


def test_too_few_prompts_for_any_difference_to_be_significant_are_said_to_be(report):
    def with_prompts(*names):
        prompts = [names[n % len(names)] for n in range(40)]
        changed = [replace(e, prompts=prompts) for e in report.evaluations]
        return " ".join(notes(replace(report, evaluations=changed)))

    assert (
        "With 5 prompts and 2 comparisons, no p-value can be below 0.12, so that nothing can be "
        "called significant here." in with_prompts(*"abcde")
    )
    assert "no p-value" not in with_prompts(*"abcdefgh")


def test_the_best_and_worst_answers_show_what_speaks_for_them(report):
    best, _ = report.samples()
    example = report.examples[best[0]]
    span = Span("rewritten", 0, len(example.rewritten_text), 1.5)
    evidence = (Evidence("the model", "occlusion", "log_probability", -9.0, (span,)),)
    explained = replace(report, evidence={best[0]: evidence})
    html = report_page(explained)
    Checked(html)
    assert html.count("<mark ") == 1
    assert 'title="+1.50"' in html
    assert "<mark " not in report_page(report)
    first, *others = report_record(explained)["best_answers"]
    assert evidence_of(first["evidence"][0]) == evidence[0]
    assert all("evidence" not in sample for sample in others)


def test_markdown_holds_no_markup_of_others(report):
    text = report_markdown(report)
    assert "<script" not in text
    assert "<img" not in text
    assert "\n# yes" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) > 3
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        widths = {len(re.split(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table


def test_the_time_is_told_by_source_where_it_is_known(report):
    assert "Seconds per example" not in report_markdown(report) + report_page(report)
    by_source = {"choice": 2.0, f"s {ATTACK}": 1.0}
    fair = replace(report.evaluations[1], seconds_by_source=by_source)
    heard = replace(
        report.evaluations[2], seconds_by_source={"a": 1.0, "channel": 3.0, "choice": 0.004}
    )
    told = replace(report, evaluations=[report.best, fair, heard])
    table = cost_table(told)
    assert table.headings == ["recoverer", "a", f"s {ATTACK}", "channel", "choice", "together"]
    assert table.rows == [
        [fair.name, "–", "0.025", "–", "0.05", "0.1"],
        [heard.name, "0.025", "–", "0.075", "< 0.001", "0.1"],
    ]
    assert "## Seconds per example" in report_markdown(told)
    page = report_page(told)
    assert "Seconds per example" in page and "<img" not in page
    rows = report_record(told)["recoverers"]
    assert "seconds_per_example_by_source" not in rows[0]
    assert rows[2]["seconds_per_example_by_source"]["channel"] == pytest.approx(0.075)


def test_json_has_every_number(report):
    record = json.loads(json.dumps(report_record(report)))
    first, *others = record["recoverers"]
    assert first["name"] == record["best"] == report.best.name
    assert first["seconds_per_example"] is None
    assert others[0]["seconds_per_example"] == pytest.approx(0.1)
    assert {"scs", "ci_low", "ci_high", "p"} == set(others[0]["behind_best"])
    assert sum(row["examples"] for row in record["by_category"]) == 40
    assert sum(row["examples"] for row in record["by_words"]) == 40
    [calibrated] = [r for r in record["recoverers"] if "calibration" in r]
    assert len(calibrated["calibration"]["bins"]) == 4
    assert [r["name"] for r in record["recoverers"] if r["second_encoder"]["suspicious"]] == ["bad"]


def test_many_categories_are_put_together(report):
    many = [replace(e, category=f"c{n}") for n, e in enumerate(report.examples)]
    rows = replace(report, examples=many).categories()
    assert len(rows) == CATEGORIES
    assert rows[-1][0] == f"{40 - CATEGORIES + 1} smaller ones"
    assert sum(count for _, count, _ in rows) == 40
    weighted = sum(count * means[0] for _, count, means in rows) / 40
    assert weighted == pytest.approx(report.best.mean)


def test_samples_are_the_extremes(report):
    best, worst = report.samples()
    assert report.best.scs[best[0]] == report.best.scs.max()
    assert report.best.scs[worst[0]] == report.best.scs.min()
    assert not set(best) & set(worst)
