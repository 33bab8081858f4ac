"""How good predictions are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.metrics.scs import SCS, sharpen
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.recovery.interface import Pair, Prediction, Recoverer


@dataclass(frozen=True)
class Evaluation:
    """One recoverer on one dataset of n examples.

    Attributes:
        name: of the recoverer.
        predictions: in the order of the examples.
        scs: fp32 [n].
        cosine: fp32 [n].
        exact: bool [n], equal up to case, punctuation and white space.
        rouge_l: fp32 [n], in [0, 1].
        interval: the 95 % bootstrap interval of the mean SCS.
        seconds: that recovering all of them took; None for predictions that came ready-made.
    """

    name: str
    predictions: list[Prediction]
    scs: NDArray[np.float32]
    cosine: NDArray[np.float32]
    exact: NDArray[np.bool_]
    rouge_l: NDArray[np.float32]
    interval: tuple[float, float]
    seconds: float | None

    @property
    def mean(self) -> float:
        """The mean SCS."""
        return float(self.scs.mean())

    def by_category(self, examples: Sequence[RewriteExample]) -> dict[str, tuple[float, int]]:
        """category → (mean SCS, number of examples), the largest category first."""
        groups: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            groups.setdefault(example.category or "(none)", []).append(i)
        ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        return {name: (float(self.scs[rows].mean()), len(rows)) for name, rows in ordered}

    def by_length(
        self, examples: Sequence[RewriteExample], groups: int = 4
    ) -> dict[tuple[int, int], tuple[float, int]]:
        """(fewest, most words of both texts) → (mean SCS, number of examples), the shortest first.

        The groups are of equal size, as far as texts of equal length allow.
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
    """Predictions, with a progress bar, and the seconds that they took."""
    with Progress(transient=True) as progress:
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
) -> Evaluation:
    """Compares predictions with the true prompts of their examples, in order.

    Raises:
        ValueError: they are not one to one.
    """
    if [p.id for p in predictions] != [e.id for e in examples]:
        raise ValueError("predictions and examples must have the same ids in the same order")
    predicted = [p.rewrite_prompt for p in predictions]
    truths = [e.rewrite_prompt for e in examples]
    cosine = scs.cosine(predicted, truths)
    scores = np.asarray(sharpen(cosine, scs.exponent), np.float32)
    both = list(zip(predicted, truths, strict=True))
    return Evaluation(
        name=name,
        predictions=list(predictions),
        scs=scores,
        cosine=cosine,
        exact=np.array([normalise(p) == normalise(t) for p, t in both], bool),
        rouge_l=np.array([rouge_l(p, t) for p, t in both], np.float32),
        interval=bootstrap_interval(scores),
        seconds=seconds,
    )


def rouge_l(prediction: str, truth: str) -> float:
    """The F-measure of the longest common subsequence of words (Lin, 2004), in [0, 1].

    Words are those of any script, in lower case.
    """
    from torchmetrics.functional.text import rouge_score

    scores = rouge_score(
        prediction, truth, normalizer=normalise, tokenizer=str.split, rouge_keys="rougeL"
    )
    return float(scores["rougeL_fmeasure"])


@dataclass(frozen=True)
class CalibrationBin:
    """Examples of about the same confidence: expected and actual mean SCS."""

    expected: float
    actual: float
    interval: tuple[float, float]
    count: int


def calibration(evaluation: Evaluation, groups: int = 10) -> list[CalibrationBin]:
    """Expected against actual SCS by decile of confidence, the lowest first.

    Args:
        evaluation: predictions without a confidence don't count.
        groups: of equal size; fewer if there are fewer predictions.

    Returns:
        Nothing if no prediction carries a confidence.
    """
    known = [
        (p.confidence, float(score))
        for p, score in zip(evaluation.predictions, evaluation.scs, strict=True)
        if p.confidence is not None
    ]
    if not known:
        return []
    # Equals stay in the order of their examples: their scores must not decide where they go.
    values = np.array(sorted(known, key=lambda pair: pair[0]), np.float64)
    return [
        CalibrationBin(
            float(part[:, 0].mean()),
            float(part[:, 1].mean()),
            bootstrap_interval(part[:, 1]),
            len(part),
        )
        for part in np.array_split(values, min(groups, len(values)))
    ]


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """The mean distance of expected and actual SCS over bins, weighted by their sizes."""
    distances = [abs(b.expected - b.actual) for b in bins]
    return float(np.average(distances, weights=[b.count for b in bins]))
