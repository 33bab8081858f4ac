"""Trains a detector: scorecards for a text and for a pair."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.detection.classifier import Scorecard, fit_scorecard
from prompt_recovery.detection.items import FOLDS, Item, labels_of
from prompt_recovery.errors import PromptRecoveryError

PER_ORIGINAL = 2
"""The number of examples of each original that a detector is trained on."""


@dataclass(frozen=True)
class CrossFitted:
    """A calibrated scorecard, and one for each fold that was trained without its groups.

    Attributes:
        whole: Trained on all training items.
        folds: `folds[k]` was trained on the training items that are not in fold k.
    """

    whole: Scorecard
    folds: Sequence[Scorecard]

    def probabilities(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """The probability of each item by the scorecard that hasn't seen its original, fp64 [n]."""
        return np.array([self.folds[i.fold].probability(i.features) for i in items], np.float64)


def cross_fit(train: Sequence[Item], val: Sequence[Item]) -> CrossFitted:
    """Fits scorecards on training items, and their calibration on validation items.

    The same originals occur in training and validation. So a validation item is scored by a
    scorecard that was trained without the item's original.

    Raises:
        PromptRecoveryError: If there are too few originals.
    """
    if len({item.fold for item in train}) < FOLDS or len({i.label for i in val}) < 2:
        raise PromptRecoveryError(
            "a detector needs more examples: training originals in all of five folds, and some "
            "validation examples"
        )
    folds = [_fit([item for item in train if item.fold != k]) for k in range(FOLDS)]
    log_odds = np.array([folds[item.fold].log_odds(item.features) for item in val], np.float64)
    whole = _fit(train).calibrated(log_odds, labels_of(val))
    return CrossFitted(whole, [fold.calibrated(log_odds, labels_of(val)) for fold in folds])


def _fit(items: Sequence[Item]) -> Scorecard:
    features = [item.features for item in items]
    return fit_scorecard(features, labels_of(items), np.ones(len(items)))


def at_most(examples: Sequence[RewriteExample], per_original: int) -> list[RewriteExample]:
    """Keeps at most this many examples of each original, the first ones, in order."""
    counts: Counter[str] = Counter()
    kept = []
    for example in examples:
        group = normalise(example.original_text)
        counts[group] += 1
        if counts[group] <= per_original:
            kept.append(example)
    return kept
