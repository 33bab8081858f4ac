"""The results of an evaluation, from which the JSON, Markdown and HTML reports are made."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.statistics import PairedGain, holm, paired_gain, smallest_p
from prompt_recovery.recovery.spans import Evidence
from prompt_recovery.reporting.evaluation.metric_hacking import MetricHackingCheck
from prompt_recovery.reporting.evaluation.scores import (
    FEWEST_CALIBRATED,
    CalibrationBin,
    Evaluation,
    calibration,
    calibration_error,
)
from prompt_recovery.tables import counted

LEVEL = 0.05  # significance level
FEW = 30
"""The number of rows with different prompts below which the report warns that there are few."""
CATEGORIES = 20  # number of rows shown; smaller categories share the last one
_SAMPLES = 4
COST_TITLE = "Seconds per example"
COST_NOTE = (
    "The choice is all that follows what the sources say: embedding and comparing the candidates, "
    "and their features apart from the channel."
)


@dataclass(frozen=True)
class SecondOpinion:
    """Checks of the same predictions with another encoder.

    Attributes:
        encoder: Name of the encoder.
        chance: Mean SCS of unrelated prompts under this encoder.
        checks: One check for each evaluation.
    """

    encoder: str
    chance: float
    checks: Sequence[MetricHackingCheck]


@dataclass(frozen=True)
class Report:
    """An evaluation of k recoverers on n examples.

    Attributes:
        dataset: Name of the dataset.
        examples: The examples.
        evaluations: The k evaluations, best first.
        encoder: Encoder of the metric.
        exponent: Exponent of the metric.
        second: Checks with a second encoder, if there is one.
        kinds: Kind of each recoverer by name: recoverer, baseline or predictions.
        about: Other facts about the evaluation by name.
        evidence: The evidence for the best recoverer's answers to some examples, by their indices.
        displaced: Which rows probably have the prompts of their neighbours; empty if none do.
    """

    dataset: str
    examples: Sequence[RewriteExample]
    evaluations: Sequence[Evaluation]
    encoder: str
    exponent: float
    second: SecondOpinion | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[int, Sequence[Evidence]] = field(default_factory=dict)
    displaced: str = ""

    @property
    def best(self) -> Evaluation:
        """The evaluation with the highest mean SCS."""
        return self.evaluations[0]

    @cached_property
    def gains(self) -> list[PairedGain]:
        """The k − 1 paired differences between the best and each other evaluation.

        The p-values are adjusted for k − 1 comparisons (Holm).
        """
        prompts = self.best.prompts
        gains = [paired_gain(self.best.scs, e.scs, prompts) for e in self.evaluations[1:]]
        adjusted = holm([g.p for g in gains])
        return [PairedGain(g.mean, g.interval, p) for g, p in zip(gains, adjusted, strict=True)]

    @property
    def prompts(self) -> int:
        """The number of different true prompts, which is that of independent observations."""
        return len(set(self.best.prompts)) or len(self.examples)

    @property
    def rows(self) -> str:
        """The number of rows and, if some of them share a prompt, that of the prompts."""
        rows = counted(len(self.examples), "row")
        shared = self.prompts < len(self.examples)
        return f"{rows} of {counted(self.prompts, 'prompt')}" if shared else rows

    @property
    def tied(self) -> list[str]:
        """Names of the recoverers that the best one is not significantly better than."""
        pairs = zip(self.evaluations[1:], self.gains, strict=True)
        return [e.name for e, gain in pairs if gain.p >= LEVEL]

    @property
    def suspicious(self) -> list[str]:
        """Names of the recoverers whose score does not hold under the second encoder."""
        if self.second is None:
            return []
        pairs = zip(self.evaluations, self.second.checks, strict=True)
        return [e.name for e, check in pairs if check.suspicious]

    @cached_property
    def calibrations(self) -> dict[str, list[CalibrationBin]]:
        """Expected and actual SCS in groups of similar confidence, by recoverer that has one."""
        found = {e.name: calibration(e) for e in self.evaluations}
        return {name: bins for name, bins in found.items() if bins}

    @property
    def uncalibrated(self) -> str:
        """Says which recoverers have an expected SCS, but on too few rows to see its calibration.

        Empty if there are none.
        """
        known = {
            e.name: sum(p.confidence is not None for p in e.predictions) for e in self.evaluations
        }
        few = [name for name, count in known.items() if count and name not in self.calibrations]
        if not few:
            return ""
        most = counted(max(known[name] for name in few), "answer")
        return (
            f"Too few rows to compare the expected with the actual SCS of {' and '.join(few)}: "
            f"{most} with an expected SCS, and it takes {FEWEST_CALIBRATED}."
        )

    def categories(self) -> list[tuple[str, int, list[float]]]:
        """Returns (category, number of examples, mean SCS of each recoverer), largest first.

        Small categories are combined. The list is empty if there is only one category.
        """
        tables = [e.by_category(self.examples) for e in self.evaluations]
        names = list(tables[0])
        if len(names) < 2:
            return []
        own = names if len(names) <= CATEGORIES else names[: CATEGORIES - 1]
        rows = [(name, tables[0][name][1], [t[name][0] for t in tables]) for name in own]
        rest = names[len(own) :]
        if rest:
            sizes = [tables[0][name][1] for name in rest]
            means = [
                float(np.average([t[name][0] for name in rest], weights=sizes)) for t in tables
            ]
            rows.append((f"{len(rest)} smaller ones", sum(sizes), means))
        return rows

    def lengths(self) -> list[tuple[str, int, list[float]]]:
        """Returns (words in both texts, number of examples, mean SCS of each), shortest first."""
        tables = [e.by_length(self.examples) for e in self.evaluations]
        return [
            (f"{low} … {high}", count, [t[low, high][0] for t in tables])
            for (low, high), (_, count) in tables[0].items()
        ]

    def samples(self) -> tuple[list[int], list[int]]:
        """Returns indices of the best recoverer's best and worst answers, most extreme first."""
        order = np.argsort(-self.best.scs, kind="stable").tolist()
        count = min(_SAMPLES, max(len(order) // 2, 1))
        return order[:count], order[: -count - 1 : -1]


def notes(report: Report) -> list[str]:
    """Says what one must know to read the scores, intervals and p-values: whether prompts are
    displaced, which rows are not independent, and where an interval and a p-value disagree."""
    said = [report.displaced] if report.displaced else []
    if report.prompts < len(report.examples):
        said.append(
            f"The {counted(len(report.examples), 'row')} have "
            f"{counted(report.prompts, 'different prompt')}. Rows that share a prompt are not "
            "independent of each other: intervals and p-values resample prompts, not rows."
        )
    tests = len(report.gains)
    least = min(tests * smallest_p(report.prompts), 1.0)
    if tests and least >= LEVEL:
        said.append(
            f"With {counted(report.prompts, 'prompt')} and {counted(tests, 'comparison')}, no "
            f"p-value can be below {least:.2g}, so that nothing can be called significant here."
        )
    pairs = list(zip(report.evaluations[1:], report.gains, strict=True))
    apart = [e.name for e, gain in pairs if gain.p >= LEVEL and _leaves_out_zero(gain)]
    if apart:
        said.append(
            f"The interval of the difference to {_listed(apart)} leaves out 0, although the "
            f"p-value is not below {LEVEL}. Intervals are not adjusted for the number of "
            "comparisons, and are too narrow if rows are few. The p-value decides what is called "
            "significant."
        )
    near = [e.name for e, gain in pairs if gain.p < LEVEL and not _leaves_out_zero(gain)]
    if near:
        said.append(
            f"The p-value of the difference to {_listed(near)} is below {LEVEL}, although the "
            "interval includes 0: it is a close case. The p-value decides what is called "
            "significant."
        )
    return said


def _leaves_out_zero(gain: PairedGain) -> bool:
    low, high = gain.interval
    return low > 0 or high < 0


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def score(value: float) -> str:
    """Formats a score. Minus zero is zero."""
    return f"{value:z.3f}"


def span(interval: tuple[float, float], signed: bool = False) -> str:
    """Formats an interval."""
    return " … ".join(f"{value:+.3f}" if signed else score(value) for value in interval)


def p_text(p: float) -> str:
    """Formats a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def cost(evaluation: Evaluation) -> str:
    """Formats the seconds per example, or a dash for predictions from elsewhere."""
    if evaluation.seconds is None:
        return "–"
    return duration(evaluation.seconds / len(evaluation.scs))


def duration(seconds: float) -> str:
    """Formats the seconds of an example."""
    return f"{seconds:.2g}" if seconds >= 0.001 else "< 0.001"


def metric_name(report: Report) -> str:
    """Returns the name of the metric."""
    return f"SCS (cosine^{report.exponent:g}) of {report.encoder}"


def report_record(report: Report) -> dict[str, Any]:
    """Returns everything in the report as JSON values."""
    calibrations = report.calibrations
    rows = []
    for number, e in enumerate(report.evaluations):
        row: dict[str, Any] = {
            "name": e.name,
            "kind": report.kinds.get(e.name, ""),
            "scs": e.mean,
            "scs_ci_low": e.interval[0],
            "scs_ci_high": e.interval[1],
            "cosine": float(e.cosine.mean()),
            "exact_match": float(e.exact.mean()),
            "rouge_l": float(e.rouge_l.mean()),
            "seconds_per_example": None if e.seconds is None else e.seconds / len(e.scs),
            "fallbacks": sum(p.fallback for p in e.predictions),
        }
        if e.seconds_by_source:
            row["seconds_per_example_by_source"] = {
                source: seconds / len(e.scs) for source, seconds in e.seconds_by_source.items()
            }
        if number:
            gain = report.gains[number - 1]
            row["behind_best"] = {
                "scs": gain.mean, "ci_low": gain.interval[0], "ci_high": gain.interval[1],
                "p": gain.p,
            }  # fmt: skip
        if report.second is not None:
            check = report.second.checks[number]
            row["second_encoder"] = {
                "scs": float(check.scs.mean()),
                "expected_scs": float(check.expected.mean()),
                "kept": _finite(check.kept),
                "kept_ci_low": _finite(check.interval[0]),
                "kept_ci_high": _finite(check.interval[1]),
                "suspicious": check.suspicious,
            }
        if e.name in calibrations:
            row["calibration"] = {
                "error": calibration_error(calibrations[e.name]),
                "bins": [vars(b) for b in calibrations[e.name]],
            }
        rows.append(row)
    names = [e.name for e in report.evaluations]
    return {
        "dataset": report.dataset,
        "examples": len(report.examples),
        "prompts": report.prompts,
        "notes": notes(report),
        "metric": {"encoder": report.encoder, "exponent": report.exponent},
        "second_encoder": report.second
        and {"encoder": report.second.encoder, "chance_scs": report.second.chance},
        "best": report.best.name,
        "not_significantly_behind": report.tied,
        "recoverers": rows,
        "by_category": [
            {"category": name, "examples": count, "scs": dict(zip(names, means, strict=True))}
            for name, count, means in report.categories()
        ],
        "by_words": [
            {"words": name, "examples": count, "scs": dict(zip(names, means, strict=True))}
            for name, count, means in report.lengths()
        ],
        "best_answers": [_sample(report, i) for i in report.samples()[0]],
        "worst_answers": [_sample(report, i) for i in report.samples()[1]],
        "about": dict(report.about),
    }


def _sample(report: Report, place: int) -> dict[str, Any]:
    example = report.examples[place]
    sample: dict[str, Any] = {
        "id": example.id,
        "rewrite_prompt": example.rewrite_prompt,
        "predictions": {
            e.name: {
                "rewrite_prompt": e.predictions[place].rewrite_prompt,
                "scs": float(e.scs[place]),
            }
            for e in report.evaluations
        },
    }
    if place in report.evidence:
        sample["evidence"] = [asdict(evidence) for evidence in report.evidence[place]]
    return sample


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def verdict(report: Report) -> str:
    """Says in words which recoverer is best, by how much, and whether that is significant."""
    best, others = report.best, report.evaluations[1:]
    few = f" With only {report.rows}, other rows may well give other numbers."
    few = few if report.prompts < FEW else ""
    said = f"{best.name} comes first with a mean SCS of {score(best.mean)}"
    if not others:
        return f"{best.name} has a mean SCS of {score(best.mean)}.{few}"
    said += f", {report.gains[0].mean:+.3f} against {others[0].name}. "
    if not report.tied:
        said += "It is significantly better than every other."
    elif len(report.tied) == len(others):
        said += "It is not significantly better than any other."
    elif report.tied[0] == others[0].name:
        said += f"It is significantly better only than {_some(report, tied=False)}."
    else:
        said += f"It is significantly better than all but {_some(report, tied=True)}."
    if best.name in report.suspicious:
        said += f" But its score does not hold under {report.second.encoder}: see the two encoders."  # type: ignore[union-attr]
    return said + few


def _some(report: Report, tied: bool) -> str:
    names = [e.name for e in report.evaluations[1:] if (e.name in report.tied) == tied]
    if len(names) <= 3:
        return _listed(names)
    return f"{len(names)} of the {len(report.evaluations) - 1} others"
