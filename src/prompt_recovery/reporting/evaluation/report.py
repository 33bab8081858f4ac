"""What an evaluation found out, as data: JSON, Markdown and HTML say the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.statistics import PairedGain, holm, paired_gain
from prompt_recovery.reporting.evaluation.metric_hacking import MetricHackingCheck
from prompt_recovery.reporting.evaluation.scores import (
    CalibrationBin,
    Evaluation,
    calibration,
    calibration_error,
)

LEVEL = 0.05  # of significance
CATEGORIES = 20  # shown; the rest together
_SAMPLES = 4


@dataclass(frozen=True)
class SecondOpinion:
    """The same predictions under another encoder.

    Attributes:
        encoder: its name.
        chance: the mean SCS there of prompts that have nothing to do with each other.
        checks: one for each evaluation.
    """

    encoder: str
    chance: float
    checks: Sequence[MetricHackingCheck]


@dataclass(frozen=True)
class Report:
    """An evaluation of k recoverers on n examples.

    Attributes:
        dataset: its name.
        examples: the rows.
        evaluations: k of them, the best first.
        encoder: of the metric.
        exponent: of the metric.
        second: the second encoder's opinion, if there is one.
        kinds: recoverer, baseline or predictions, by name.
        about: what else there is to say of how it was made.
    """

    dataset: str
    examples: Sequence[RewriteExample]
    evaluations: Sequence[Evaluation]
    encoder: str
    exponent: float
    second: SecondOpinion | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Evaluation:
        """The one with the highest mean SCS."""
        return self.evaluations[0]

    @cached_property
    def gains(self) -> list[PairedGain]:
        """How far the best is ahead of each other one, on the same examples; k − 1 of them.

        The p-values are adjusted (Holm) for as many comparisons.
        """
        gains = [paired_gain(self.best.scs, e.scs) for e in self.evaluations[1:]]
        adjusted = holm([g.p for g in gains])
        return [PairedGain(g.mean, g.interval, p) for g, p in zip(gains, adjusted, strict=True)]

    @property
    def tied(self) -> list[str]:
        """Those that the best isn't significantly ahead of."""
        pairs = zip(self.evaluations[1:], self.gains, strict=True)
        return [e.name for e, gain in pairs if gain.p >= LEVEL]

    @property
    def suspicious(self) -> list[str]:
        """Those whose score doesn't hold under the second encoder."""
        if self.second is None:
            return []
        pairs = zip(self.evaluations, self.second.checks, strict=True)
        return [e.name for e, check in pairs if check.suspicious]

    @cached_property
    def calibrations(self) -> dict[str, list[CalibrationBin]]:
        """Expected against actual SCS by decile, of those that say how sure they are."""
        found = {e.name: calibration(e) for e in self.evaluations}
        return {name: bins for name, bins in found.items() if bins}

    def categories(self) -> list[tuple[str, int, list[float]]]:
        """(category, examples, mean SCS of each), the largest first; small ones are put together.

        Nothing if there is only one category.
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
        """(words of both texts, examples, mean SCS of each), the shortest first."""
        tables = [e.by_length(self.examples) for e in self.evaluations]
        return [
            (f"{low} … {high}", count, [t[low, high][0] for t in tables])
            for (low, high), (_, count) in tables[0].items()
        ]

    def samples(self) -> tuple[list[int], list[int]]:
        """The places of the best's best and worst answers, the extreme ones first."""
        order = np.argsort(-self.best.scs, kind="stable").tolist()
        count = min(_SAMPLES, max(len(order) // 2, 1))
        return order[:count], order[: -count - 1 : -1]


def score(value: float) -> str:
    """A score as text."""
    return f"{value:.3f}"


def span(interval: tuple[float, float], signed: bool = False) -> str:
    """An interval as text."""
    return " … ".join(f"{value:+.3f}" if signed else score(value) for value in interval)


def p_text(p: float) -> str:
    """A p-value as text."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def cost(evaluation: Evaluation) -> str:
    """Seconds per example as text; a dash for predictions that came ready-made."""
    if evaluation.seconds is None:
        return "–"
    each = evaluation.seconds / len(evaluation.scs)
    return f"{each:.2g}" if each >= 0.001 else "< 0.001"


def metric_name(report: Report) -> str:
    """What was measured."""
    return f"SCS (cosine^{report.exponent:g}) of {report.encoder}"


def report_record(report: Report) -> dict[str, Any]:
    """Everything in the report, as JSON."""
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
    return {
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


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def verdict(report: Report) -> str:
    """Who wins, by how much, and whether that is more than chance, in words."""
    best, others = report.best, report.evaluations[1:]
    said = f"{best.name} comes first with a mean SCS of {score(best.mean)}"
    if not others:
        return f"{best.name} has a mean SCS of {score(best.mean)}."
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
    return said


def _some(report: Report, tied: bool) -> str:
    names = [e.name for e in report.evaluations[1:] if (e.name in report.tied) == tied]
    if len(names) <= 3:
        return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"{len(names)} of the {len(report.evaluations) - 1} others"
