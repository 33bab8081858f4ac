"""How sure a recoverer is: the SCS that its answer may be expected to have."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_recovery.cache import written_whole
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS

if TYPE_CHECKING:
    from prompt_recovery.recovery.recoverer import Prediction, Recoverer

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
    """Isotonic regression (Zadrozny and Elkan, KDD 2002) on means of neighbours.

    Args:
        scores: n ≥ 1 of them.
        actual: the SCS of each against the truth.
    """
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(np.asarray(scores), kind="stable")
    # A few lucky answers at the end of the scale would make a step of their own.
    groups = np.array_split(order, max(min(round(len(order) ** 0.5), len(order)), 1))
    middle = [float(np.mean(np.asarray(scores)[g])) for g in groups]
    means = [float(np.mean(np.asarray(actual)[g])) for g in groups]
    fitted = IsotonicRegression().fit(middle, means, [len(g) for g in groups]).predict(middle)
    knots = dict(zip(middle, fitted.tolist(), strict=True))  # equal scores have one value
    return Calibration(tuple(knots), tuple(knots.values()), len(order))


def calibrate(
    recoverer: "Recoverer",
    examples: Sequence[RewriteExample],
    scs: SCS,
    progress: Callable[[int], None] = lambda _: None,
) -> Calibration | None:
    """Fits the confidence of a recoverer's answers on examples that it was not trained on.

    None if it chose no answer to any of them.
    """
    from prompt_recovery.recovery.recoverer import pairs_of

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
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        for entry in values.values():
            Calibration.of(entry)
        return dict(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def keep(folder: Path, key: str, values: dict[str, Any]) -> None:
    """Adds something fitted to what is kept beside an adapter.

    Raises:
        PromptRecoveryError: the file cannot be written.
    """
    entries = kept(folder) | {key: values}
    try:
        with written_whole(folder / FILE) as temporary:
            temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise PromptRecoveryError(f"cannot write {folder / FILE} ({error.strerror})") from error


def with_mean_prompt(
    predictions: Sequence["Prediction"], threshold: float, mean_prompt: str
) -> list["Prediction"]:
    """Lets the mean prompt answer where the confidence is below a threshold, as a fallback."""
    return [
        replace(p, rewrite_prompt=mean_prompt, fallback=True)
        if p.confidence is not None and p.confidence < threshold
        else p
        for p in predictions
    ]
