"""Scores of predictions, and their calibration."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.metrics.scs import SCS, sharpen
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.recovery.interface import Pair, Prediction, Recoverer
from prompt_recovery.terminal import progress_bar

_PER_BIN = 10  # the fewest predictions whose mean says something about their confidence
_UNKNOWN: Mapping[str, float] = {}
FEWEST_CALIBRATED = 3 * _PER_BIN
"""The number of predictions with a confidence from which their calibration can be seen."""


@dataclass(frozen=True)
class Evaluation:
    """One recoverer on one dataset of n examples.

    Attributes:
        name: Name of the recoverer.
        predictions: Predictions in the order of the examples.
        scs: SCS, fp32 [n].
        cosine: Cosine similarity, fp32 [n].
        exact: Whether prediction and truth are equal up to case, punctuation and white space,
            bool [n].
        rouge_l: ROUGE-L, fp32 [n], in [0, 1].
        interval: 95 % bootstrap interval of the mean SCS.
        seconds: Seconds that all predictions took. None for predictions from elsewhere.
        seconds_by_source: How many of them each source, the channel and the choice took; empty if
            this is not known.
        prompts: The normalised true prompt of each example. Those that share one are not
            independent. Empty if all of them are.
    """

    name: str
    predictions: list[Prediction]
    scs: NDArray[np.float32]
    cosine: NDArray[np.float32]
    exact: NDArray[np.bool_]
    rouge_l: NDArray[np.float32]
    interval: tuple[float, float]
    seconds: float | None
    seconds_by_source: Mapping[str, float] = field(default_factory=dict)
    prompts: Sequence[str] = ()

    @property
    def mean(self) -> float:
        """The mean SCS."""
        return float(self.scs.mean())

    def by_category(self, examples: Sequence[RewriteExample]) -> dict[str, tuple[float, int]]:
        """Returns (mean SCS, number of examples) by category, largest category first."""
        groups: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            groups.setdefault(example.category or "(none)", []).append(i)
        ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        return {name: (float(self.scs[rows].mean()), len(rows)) for name, rows in ordered}

    def by_length(
        self, examples: Sequence[RewriteExample], groups: int = 4
    ) -> dict[tuple[int, int], tuple[float, int]]:
        """Returns (mean SCS, number of examples) by (fewest, most words in both texts).

        The groups are in order of length, and of equal size as far as ties allow.
        """
        words = np.array(
            [len(e.original_text.split()) + len(e.rewritten_text.split()) for e in examples]
        )
        edges = np.quantile(words, np.linspace(0, 1, groups + 1)[1:-1], method="higher")
        group = np.searchsorted(edges, words, side="right")
        return {
            (int(words[rows].min()), int(words[rows].max())): (
                float(self.scs[rows].mean()),
                int(rows.sum()),
            )
            for rows in (group == g for g in np.unique(group))
        }


def timed(recoverer: Recoverer, pairs: Sequence[Pair]) -> tuple[list[Prediction], float]:
    """Recovers prompts with a progress bar. Returns the predictions and the seconds they took."""
    with progress_bar() as progress:
        bar = progress.add_task(f"recovering: {recoverer.name}", total=len(pairs))
        start = time.perf_counter()
        predictions = recoverer.recover(pairs, lambda n: progress.advance(bar, n))
        return predictions, time.perf_counter() - start


def evaluate(
    name: str,
    predictions: Sequence[Prediction],
    examples: Sequence[RewriteExample],
    scs: SCS,
    seconds: float | None,
    seconds_by_source: Mapping[str, float] = _UNKNOWN,
) -> Evaluation:
    """Compares predictions with the true prompts of their examples, in order.

    Raises:
        ValueError: If the ids of predictions and examples differ.
    """
    if [p.id for p in predictions] != [e.id for e in examples]:
        raise ValueError("predictions and examples must have the same ids in the same order")
    predicted = [p.rewrite_prompt for p in predictions]
    truths = [e.rewrite_prompt for e in examples]
    cosine = scs.cosine(predicted, truths)
    scores = np.asarray(sharpen(cosine, scs.exponent), np.float32)
    both = list(zip(predicted, truths, strict=True))
    prompts = [normalise(truth) for truth in truths]
    return Evaluation(
        name=name,
        predictions=list(predictions),
        scs=scores,
        cosine=cosine,
        exact=np.array([normalise(p) == t for p, t in zip(predicted, prompts, strict=True)], bool),
        rouge_l=np.array([rouge_l(p, t) for p, t in both], np.float32),
        interval=bootstrap_interval(scores, groups=prompts),
        seconds=seconds,
        seconds_by_source=seconds_by_source,
        prompts=prompts,
    )


def rouge_l(prediction: str, truth: str) -> float:
    """Returns the F-measure of the longest common subsequence of words (Lin, 2004), in [0, 1].

    Words of any script count, in lower case.
    """
    from torchmetrics.functional.text import rouge_score

    scores = rouge_score(
        prediction, truth, normalizer=normalise, tokenizer=str.split, rouge_keys="rougeL"
    )
    return float(scores["rougeL_fmeasure"])


@dataclass(frozen=True)
class CalibrationBin:
    """Expected and actual mean SCS of examples with similar confidence."""

    expected: float
    actual: float
    interval: tuple[float, float]
    count: int


def calibration(evaluation: Evaluation, groups: int = 10) -> list[CalibrationBin]:
    """Compares expected and actual SCS in groups of similar confidence, lowest first.

    Args:
        evaluation: The evaluation. Predictions without a confidence are ignored.
        groups: Largest number of bins, which have equal sizes. With ten groups, they are deciles.
            Fewer are made if a bin would have fewer than ten predictions.

    Returns:
        The bins, or an empty list if fewer than `FEWEST_CALIBRATED` predictions have a confidence.
    """
    confidence = [p.confidence for p in evaluation.predictions]
    known = [i for i, value in enumerate(confidence) if value is not None]
    if len(known) < FEWEST_CALIBRATED:
        return []
    # The sort is stable, so that the scores do not decide the order of equal confidences.
    order = sorted(known, key=lambda i: confidence[i] or 0.0)
    expected = np.array([value or 0.0 for value in confidence], np.float64)
    actual, prompts = evaluation.scs.astype(np.float64), evaluation.prompts
    return [
        CalibrationBin(
            float(expected[part].mean()),
            float(actual[part].mean()),
            bootstrap_interval(actual[part], groups=[prompts[i] for i in part] if prompts else ()),
            len(part),
        )
        for part in np.array_split(order, min(groups, len(order) // _PER_BIN))
    ]


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Returns the mean distance of expected and actual SCS over bins, weighted by their size."""
    distances = [abs(b.expected - b.actual) for b in bins]
    return float(np.average(distances, weights=[b.count for b in bins]))
