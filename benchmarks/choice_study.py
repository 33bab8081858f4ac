"""What the choice gains over plain MBR, and which features and settings count.

    python benchmarks/choice_study.py REPORT.json RUN [RUN …] [test]

For each run (or its retriever folder): the posteriors of the validation examples, the features of
their best candidates, and the cross-fitted gain of the choice, with each feature left out and with
other numbers of candidates and ridge penalties. With `test`, the choice that is fitted on all
validation examples also answers the test examples, whether it is kept on validation or not.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.recovery.choice import RIDGE, ChoiceFit, fit_choice
from prompt_recovery.recovery.confidence import fit as fit_confidence
from prompt_recovery.recovery.decoding import Choice
from prompt_recovery.recovery.features import Features
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.load import load_recoverer, splits_of
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.runs.folder import recoverer_folders

COUNTS = (4, 8, 12, 16)
RIDGES = (0.03, 0.1, 0.3)
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """The features of examples, the SCS of their candidates against the truth, and the truth."""

    features: list[Features]
    actual: list[Values]
    prompts: list[str]

    def best(self, count: int) -> "Rows":
        """The same with fewer candidates."""
        kept = [
            Features(f.candidates[:count], f.values[:count], f.utility[:count, :count])
            for f in self.features
        ]
        return replace(self, features=kept, actual=[values[:count] for values in self.actual])

    def without(self, column: int) -> "Rows":
        """The same without one feature."""
        kept = [replace(f, values=np.delete(f.values, column, axis=1)) for f in self.features]
        return replace(self, features=kept)


def rows_of(recoverer: PosteriorRecoverer, examples: Sequence[RewriteExample]) -> Rows:
    assert recoverer.scs is not None
    pairs = pairs_of(examples)
    said = recoverer.said(pairs)
    found = recoverer.features(pairs, said)
    actual = [
        recoverer.scs.matrix(f.texts, [examples[i].rewrite_prompt])[:, 0].astype(np.float64)
        for i, f in found.items()
    ]
    return Rows(list(found.values()), actual, [examples[i].rewrite_prompt for i in found])


def answered(fitted: ChoiceFit, rows: Rows) -> tuple[Values, Values]:
    """The score of each answer, and its SCS."""
    assert fitted.model is not None
    best = [fitted.model.rank(f)[0] for f in rows.features]
    actual = [
        values[f.texts.index(answer.text)]
        for answer, f, values in zip(best, rows.features, rows.actual, strict=True)
    ]
    return np.array([answer.score for answer in best]), np.array(actual)


def calibration_error(expected: Values, actual: Values, groups: int = 10) -> float:
    """The mean difference of both in groups of equal size by the expected SCS."""
    parts = np.array_split(np.argsort(expected, kind="stable"), groups)
    return float(np.mean([abs(expected[p].mean() - actual[p].mean()) for p in parts]))


def study(run: str, with_test: bool) -> tuple[dict[str, Any], Values | None, Values | None]:
    """The study of a run, and its test answers' SCS under plain MBR and under the choice."""
    own = Choice(candidates=max(COUNTS))
    recoverer = load_recoverer(run, own, "fp32")
    splits = splits_of(recoverer_folders(run)[0])
    names = recoverer.feature_names
    every = rows_of(recoverer, splits.val)
    count = Choice().candidates

    def crossed(rows: Rows, columns: Sequence[str], ridge: float = RIDGE) -> dict[str, float]:
        found = fit_choice(columns, rows.features, rows.actual, rows.prompts, ridge)
        gain = found.scs - found.scs_plain
        return {"scs": found.scs, "gain": gain, "standard error": found.error}

    rows = every.best(count)
    report: dict[str, Any] = {
        "run": Path(run).parent.name if Path(run).name == "retriever" else Path(run).name,
        "plain MBR": float(np.mean([values[0] for values in rows.actual])),
        "best candidate": float(np.mean([values.max() for values in rows.actual])),
        "choice": crossed(rows, names),
        "without": {
            name: crossed(rows.without(n), [other for other in names if other != name])
            for n, name in enumerate(names)
        },
        "candidates": {str(n): crossed(every.best(n), names) for n in COUNTS},
        "ridge": {str(ridge): crossed(rows, names, ridge) for ridge in RIDGES},
    }
    if not with_test:
        return report, None, None
    given = names, rows.features, rows.actual, rows.prompts
    fitted = fit_choice(*given)
    report["kept"] = fitted.model is not None
    forced = fitted if fitted.model else fit_choice(*given, keep=True)
    assert forced.model is not None
    report["weights"] = dict(forced.model.weights)
    test = rows_of(recoverer, splits.test).best(count)
    plain = np.array([values[0] for values in test.actual])
    scores, chosen = answered(forced, test)
    calibration = fit_confidence(*(values.tolist() for values in answered(forced, rows)))
    confidence = np.array([calibration(score) for score in scores])
    report["test"] = {
        "plain MBR": float(plain.mean()),
        "choice": float(chosen.mean()),
        "calibration error of the choice": calibration_error(confidence, chosen),
    }
    return report, plain, chosen


def main() -> None:
    path, *runs = sys.argv[1:]
    with_test = runs[-1:] == ["test"]
    reports, gains = [], []
    for run in runs[:-1] if with_test else runs:
        report, plain, chosen = study(run, with_test)
        reports.append(report)
        mean = float(np.mean([r["choice"]["gain"] for r in reports]))
        result: dict[str, Any] = {"runs": reports, "mean gain on validation": mean}
        if plain is not None and chosen is not None:
            gains.append(chosen - plain)
            gain = np.mean(gains, axis=0)  # of each example, over the runs
            low, high = bootstrap_interval(gain)
            result["gain on test"] = {"mean": float(gain.mean()), "low": low, "high": high}
        text = json.dumps(result, indent=1) + "\n"  # after each run, so that a kill costs little
        Path(path).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
