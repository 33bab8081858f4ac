"""How sure a recoverer is: the SCS that its answer may be expected to have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import Prediction, Recoverer, pairs_of
from prompt_recovery.storage import MALFORMED, read_json, write_json

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """A rising function from the score of an answer to its expected SCS, linear between knots.

    Attributes:
        scores: k ≥ 1 of them, rising; beyond the outermost the function is constant.
        expected: SCS at each, in [-1, 1].
        examples: how many it was fitted on.
    """

    scores: tuple[float, ...]
    expected: tuple[float, ...]
    examples: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Calibration":
        """From plain values, as they are kept."""
        return cls(tuple(values["scores"]), tuple(values["expected"]), int(values["examples"]))

    def __call__(self, score: float) -> float:
        """The expected SCS of an answer with this score."""
        return float(np.interp(score, self.scores, self.expected))


def fit(scores: Sequence[float], actual: Sequence[float]) -> Calibration:
    """The least-squares line of the actual SCS on the score (Mincer and Zarnowitz, 1969).

    Under MBR a score is the SCS that the model itself expects, and the line says how far to trust
    it. It never falls, nor below 0. Isotonic regression has more freedom than some hundred
    examples can fill: fitted on validation, its squared error on test answers was 5 % higher.

    Args:
        scores: n ≥ 1 of them.
        actual: the SCS of each against the truth.
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
    """Fits the confidence of a recoverer's answers on examples that it was not trained on.

    None if it chose no answer to any of them.
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
    """What was fitted and kept beside an adapter, by key; nothing if there is no such file, or a
    damaged one."""
    values = read_json(folder / FILE)
    try:
        for entry in values.values():
            Calibration.of(entry)
    except MALFORMED:
        return {}
    return dict(values)


def keep(folder: Path, key: str, values: dict[str, Any]) -> None:
    """Adds something fitted to what is kept beside an adapter.

    Raises:
        PromptRecoveryError: the file cannot be written.
    """
    write_json(folder / FILE, kept(folder) | {key: values}, indent=1)


def with_mean_prompt(
    predictions: Sequence[Prediction], threshold: float, mean_prompt: str
) -> list[Prediction]:
    """Lets the mean prompt answer where the confidence is below a threshold, as a fallback."""
    return [
        replace(p, rewrite_prompt=mean_prompt, fallback=True)
        if p.confidence is not None and p.confidence < threshold
        else p
        for p in predictions
    ]
