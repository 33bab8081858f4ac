"""Confidence: the SCS that an answer can be expected to have.

Under MBR the score of an answer is already called its expected SCS, but that is its mean under the
recoverer's posterior. The confidence is this score calibrated on validation examples; it is what
`recover` prints as the expected SCS and compares with the threshold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import Prediction, Recoverer, pairs_of
from prompt_recovery.runs.folder import calibration_file
from prompt_recovery.storage import MALFORMED, read_json, write_json


@dataclass(frozen=True)
class Calibration:
    """A piecewise linear function from the score of an answer to its confidence.

    Attributes:
        scores: k ≥ 1 knots in ascending order; the function is constant outside their range.
        expected: The expected SCS at each knot, in [-1, 1], in ascending order.
        examples: The number of examples that it was fitted on.
    """

    scores: tuple[float, ...]
    expected: tuple[float, ...]
    examples: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Calibration":
        """From plain values, as `asdict` gives them."""
        return cls(tuple(values["scores"]), tuple(values["expected"]), int(values["examples"]))

    def __call__(self, score: float) -> float:
        """The confidence in an answer with this score."""
        return float(np.interp(score, self.scores, self.expected))


class CalibratedRecoverer(Recoverer, Protocol):
    """A recoverer whose scores may have a calibration.

    Attributes:
        calibration: From the score of a candidate to its confidence; None if predictions have
            none.
    """

    calibration: Calibration | None


def fit(scores: Sequence[float], actual: Sequence[float]) -> Calibration:
    """The least-squares line of the actual SCS on the score (Mincer and Zarnowitz, 1969).

    Under MBR the score is the SCS that the model itself expects, and the line says how far to trust
    it. Its slope is never negative and its values are never below 0. Isotonic regression has too
    much freedom for a few hundred examples: fitted on validation, its squared error on test
    answers was 5 % higher.

    Args:
        scores: The scores of n ≥ 1 answers.
        actual: The SCS of each answer against the truth.
    """
    score, scs = np.asarray(scores, np.float64), np.asarray(actual, np.float64)
    spread = float(np.mean((score - score.mean()) ** 2))
    together = float(np.mean((score - score.mean()) * (scs - scs.mean())))
    # Where all SCS are alike, their covariance with the scores is rounding error.
    slope = together / spread if together > 1e-12 * spread**0.5 else 0.0
    if slope == 0.0:
        return Calibration((float(score.mean()),), (float(scs.mean()),), len(score))
    zero = float(score.mean() - scs.mean() / slope)  # where the line is 0
    low, high = float(score.min()), float(score.max())
    knots = sorted({low, high, zero} if low < zero < high else {low, high})
    return Calibration(
        tuple(knots), tuple(max(slope * (knot - zero), 0.0) for knot in knots), len(score)
    )


def calibrate(
    recoverer: Recoverer,
    examples: Sequence[RewriteExample],
    scs: SCS,
    progress: Callable[[int], None] = lambda _: None,
) -> Calibration | None:
    """Fits a calibration on examples that the recoverer was not trained on.

    Returns None if the recoverer chose no answer to any of them.
    """
    predictions = recoverer.recover(pairs_of(examples), progress)
    scored = [
        (p.candidates[0].score, p.rewrite_prompt, e.rewrite_prompt)
        for p, e in zip(predictions, examples, strict=True)
        if p.candidates
    ]
    if not scored:
        return None
    scores, answers, truths = zip(*scored, strict=True)
    return fit(scores, scs(answers, truths).tolist())


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    """The calibrations kept beside an adapter, by key; empty if the file is missing or damaged."""
    values = read_json(calibration_file(folder))
    try:
        for entry in values.values():
            Calibration.of(entry)
    except MALFORMED:
        return {}
    return dict(values)


def keep(folder: Path, key: str, values: dict[str, Any]) -> None:
    """Adds a fitted calibration to those kept beside an adapter.

    Raises:
        PromptRecoveryError: The file cannot be written.
    """
    write_json(calibration_file(folder), kept(folder) | {key: values}, indent=1)


def with_fallback(
    predictions: Sequence[Prediction], threshold: float, fallback: str
) -> list[Prediction]:
    """Replaces predictions whose confidence is below a threshold by the fallback."""
    return [
        replace(p, rewrite_prompt=fallback, fallback=True)
        if p.confidence is not None and p.confidence < threshold
        else p
        for p in predictions
    ]
