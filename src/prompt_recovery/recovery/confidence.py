"""Confidence: the SCS that an answer can be expected to have.

Under MBR the score of an answer is already called its expected SCS, but that is its mean under the
recoverer's posterior. The confidence is this score calibrated on validation examples; it is what
`recover` prints as the expected SCS and compares with the threshold.

A recoverer is as sure of itself on texts from another source as on texts like its training
examples, although its answers are worse there. The confidence therefore also depends on the
familiarity of a pair: how similar it is to the training examples.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.choice import LogLinear
from prompt_recovery.recovery.interface import Prediction, Recoverer, pairs_of
from prompt_recovery.recovery.joining import Joining
from prompt_recovery.runs.folder import calibration_file
from prompt_recovery.storage import MALFORMED, read_json, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """A piecewise linear function from the score of an answer to its confidence.

    With a familiarity, the function is that of the score plus a multiple of the familiarity.

    Attributes:
        scores: k ≥ 1 knots in ascending order; the function is constant outside their range.
        expected: The expected SCS at each knot, in [-1, 1], in ascending order.
        examples: The number of examples that it was fitted on.
        per_familiarity: What a unit of familiarity adds to the score, ≥ 0.
    """

    scores: tuple[float, ...]
    expected: tuple[float, ...]
    examples: int
    per_familiarity: float = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Calibration":
        """From plain values, as `asdict` gives them.

        Raises:
            ValueError, KeyError, TypeError: If they are damaged.
        """
        scores = tuple(float(value) for value in values["scores"])
        expected = tuple(float(value) for value in values["expected"])
        per_familiarity = float(values.get("per_familiarity", 0.0))
        if not scores or len(scores) != len(expected):
            raise ValueError("a calibration has as many expected values as scores")
        if not np.isfinite([*scores, *expected, per_familiarity]).all():
            raise ValueError("a calibration has finite values")
        return cls(scores, expected, int(values["examples"]), per_familiarity)

    def __call__(self, score: float, familiarity: float | None = None) -> float:
        """The confidence in an answer with this score to a pair of this familiarity."""
        place = score + self.per_familiarity * (familiarity or 0.0)
        return float(np.interp(place, self.scores, self.expected))


class CalibratedRecoverer(Recoverer, Protocol):
    """A recoverer whose scores may have a calibration.

    Attributes:
        calibration: From the score of a candidate to its confidence; None if predictions have
            none.
    """

    calibration: Calibration | None


def fit(
    scores: Sequence[float],
    actual: Sequence[float],
    familiarity: Sequence[float] | None = None,
) -> Calibration:
    """The least-squares line of the actual SCS on the score (Mincer and Zarnowitz, 1969).

    Under MBR the score is the SCS that the model itself expects, and the line says how far to trust
    it. Its slope is never negative and its values are never below 0. Isotonic regression has too
    much freedom for a few hundred examples: fitted on validation, its squared error on test
    answers was 5 % higher.

    With a familiarity, it is the least-squares plane, and it goes on falling to 0 for pairs that
    are less familiar than all examples. Neither slope is negative.

    Args:
        scores: The scores of n ≥ 1 answers.
        actual: The SCS of each answer against the truth.
        familiarity: The familiarity of each pair.
    """
    score, scs = np.asarray(scores, np.float64), np.asarray(actual, np.float64)
    if familiarity is not None:
        near = np.asarray(familiarity, np.float64)
        of_score, of_near = _slopes(score, near, scs)
        if of_score > 0 and of_near > 0:
            line = fit((score + of_near / of_score * near).tolist(), actual)
            return replace(_down_to_zero(line), per_familiarity=of_near / of_score)
    slope = _slope(score, scs)
    if slope == 0.0:
        return Calibration((float(score.mean()),), (float(scs.mean()),), len(score))
    zero = float(score.mean() - scs.mean() / slope)  # where the line is 0
    low, high = float(score.min()), float(score.max())
    knots = sorted({low, high, zero} if low < zero < high else {low, high})
    return Calibration(
        tuple(knots), tuple(max(slope * (knot - zero), 0.0) for knot in knots), len(score)
    )


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The slope of the least-squares line, or 0 if it is negative."""
    spread = float(np.mean((x - x.mean()) ** 2))
    together = float(np.mean((x - x.mean()) * (y - y.mean())))
    # Where all x or all y are alike, their covariance is rounding error.
    known = spread > 1e-24 and together > 1e-12 * spread**0.5
    return together / spread if known else 0.0


def _slopes(
    score: NDArray[np.float64], near: NDArray[np.float64], scs: NDArray[np.float64]
) -> tuple[float, float]:
    """The slopes of the least-squares plane; (0, 0) if the examples do not determine it."""
    centred = np.stack([score - score.mean(), near - near.mean()])
    products = centred @ centred.T
    if np.linalg.det(products) <= 1e-6 * products[0, 0] * products[1, 1]:
        return 0.0, 0.0
    of_score, of_near = np.linalg.solve(products, centred @ (scs - scs.mean()))
    return float(of_score), float(of_near)


def _down_to_zero(line: Calibration) -> Calibration:
    """The same line, continued below its lowest knot until it is 0."""
    if len(line.scores) < 2 or line.expected[0] <= 0:
        return line
    (x0, x1), (y0, y1) = line.scores[:2], line.expected[:2]
    zero = x0 - y0 * (x1 - x0) / (y1 - y0)
    return replace(line, scores=(zero, *line.scores), expected=(0.0, *line.expected))


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
    return calibrate_on(predictions, examples, scs)


def calibrate_on(
    predictions: Sequence[Prediction],
    examples: Sequence[RewriteExample],
    scs: SCS,
    familiarity: Sequence[float | None] | None = None,
) -> Calibration | None:
    """Fits a calibration on predictions that are known already; None if none chose an answer.

    Args:
        predictions: The predictions for the examples, in order.
        examples: Examples that the recoverer was not trained on.
        scs: The metric.
        familiarity: [n], the familiarity of each pair, if the confidence is to depend on it.
    """
    chosen = [i for i, prediction in enumerate(predictions) if prediction.candidates]
    if not chosen:
        return None
    answers = [predictions[i].rewrite_prompt for i in chosen]
    truths = [examples[i].rewrite_prompt for i in chosen]
    return fit(
        [predictions[i].candidates[0].score for i in chosen],
        scs(answers, truths).tolist(),
        None if familiarity is None else [familiarity[i] or 0.0 for i in chosen],
    )


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    """What is kept beside the weights in a folder, by key; damaged entries are left out."""
    file = calibration_file(folder)
    values = read_json(file)
    entries = values if isinstance(values, dict) else {}
    whole = {key: entry for key, entry in entries.items() if _is_whole(entry)}
    if len(whole) < len(entries):
        log.warning("%s: is damaged; what is missing is fitted again", file)
    return whole


def _is_whole(entry: Any) -> bool:
    try:
        if "scores" in entry or not {"joining", "choice"} & set(entry):
            Calibration.of(entry)
        if "joining" in entry:
            Joining.of(entry["joining"])
        if "choice" in entry:
            LogLinear.of(entry["choice"])
    except (*MALFORMED, PromptRecoveryError):
        return False
    return True


def keep(folder: Path, key: str, values: dict[str, Any]) -> None:
    """Adds a fitted calibration to those kept beside an adapter.

    Raises:
        PromptRecoveryError: If the file cannot be written.
    """
    write_json(calibration_file(folder), kept(folder) | {key: values}, indent=1)


def with_fallback(
    predictions: Sequence[Prediction], threshold: float, fallback: str
) -> list[Prediction]:
    """Replaces predictions whose confidence is below a threshold by the fallback."""
    return [
        replace(p, rewrite_prompt=fallback, fallback=True, evidence=())
        if p.confidence is not None and p.confidence < threshold
        else p
        for p in predictions
    ]
