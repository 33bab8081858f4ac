"""A calibrated scorecard: a logistic regression on features in bins, kept as plain JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.detection.features import Features

_BINS = 6
_RANGE = (0.005, 0.995)  # quantiles of the training items between which a feature is familiar
_FAMILIAR = 0.99  # the share of the training items that count as familiar


@dataclass(frozen=True)
class Scorecard:
    """Adds a weight for each feature, by the bin that its value falls into.

    It is a logistic regression on one-hot quantile bins: additive, so that each feature's share in
    a verdict can be shown, and bounded, so that no extreme value outweighs all others.

    Attributes:
        names: The names of the d features.
        edges: The inner borders of the bins of each feature, in ascending order.
        weights: The weight of each bin in log-odds, one more than there are borders; the mean over
            the training items is 0.
        bias: The log-odds of an average item.
        lowest: The value of each feature below which it is unfamiliar.
        highest: The value above which it is.
        most_unfamiliar: The largest number of unfamiliar features of an item that is familiar.
        slope: The slope of Platt scaling: the calibrated log-odds are `slope · log-odds + offset`.
        offset: The offset of Platt scaling.
    """

    names: Sequence[str]
    edges: Sequence[Sequence[float]]
    weights: Sequence[Sequence[float]]
    bias: float
    lowest: Sequence[float]
    highest: Sequence[float]
    most_unfamiliar: int
    slope: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Scorecard":
        """From plain values, as `values` gives them.

        Raises:
            KeyError, TypeError, ValueError: If they are not those of a scorecard.
        """
        card = cls(
            names=list(values["names"]),
            edges=[_floats(edges) for edges in values["edges"]],
            weights=[_floats(weights) for weights in values["weights"]],
            bias=float(values["bias"]),
            lowest=_floats(values["lowest"]),
            highest=_floats(values["highest"]),
            most_unfamiliar=int(values["most_unfamiliar"]),
            slope=float(values["slope"]),
            offset=float(values["offset"]),
        )
        d = len(card.names)
        parts = (card.edges, card.weights, card.lowest, card.highest)
        if not all(len(part) == d for part in parts):
            raise ValueError("the lists are of different lengths")
        for edges, weights in zip(card.edges, card.weights, strict=True):
            if len(weights) != len(edges) + 1 or list(edges) != sorted(edges):
                raise ValueError("the bins of a feature are wrong")
        flat = [*chain.from_iterable(card.weights), card.bias, card.slope, card.offset]
        if not all(map(math.isfinite, flat)):
            raise ValueError("a weight is not finite")
        if not all(isinstance(name, str) for name in card.names):
            raise TypeError("a name is no text")
        return card

    @property
    def values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def parts(self, features: Features) -> dict[str, float]:
        """The share of each feature in the calibrated log-odds."""
        return {
            name: self.slope * weights[int(np.searchsorted(edges, features[name], side="right"))]
            for name, edges, weights in zip(self.names, self.edges, self.weights, strict=True)
        }

    def log_odds(self, features: Features) -> float:
        """The calibrated log-odds."""
        return sum(self.parts(features).values()) + self.slope * self.bias + self.offset

    def probability(self, features: Features) -> float:
        """The calibrated probability, in (0, 1)."""
        return 1 / (1 + math.exp(-max(min(self.log_odds(features), 50.0), -50.0)))

    def unfamiliar(self, features: Features) -> list[str]:
        """The features whose values hardly any training item has."""
        ranges = zip(self.names, self.lowest, self.highest, strict=True)
        return [name for name, low, high in ranges if not low <= features[name] <= high]

    def is_familiar(self, features: Features) -> bool:
        """Whether an item resembles the training items."""
        return len(self.unfamiliar(features)) <= self.most_unfamiliar

    def calibrated(self, log_odds: NDArray[np.float64], labels: NDArray[np.int64]) -> "Scorecard":
        """The same scorecard with Platt scaling (Platt, 1999).

        Args:
            log_odds: Uncalibrated log-odds of items that the scorecard was not trained on, fp64
                [n], such as those of cross-fitting.
            labels: 1 where an LLM rewrote the item, int64 [n]; both labels occur.
        """
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=1e4).fit(log_odds[:, None], labels)
        slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
        return replace(self, slope=_short(slope), offset=_short(offset))


def fit_scorecard(
    items: Sequence[Features],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    strength: float = 0.05,
) -> Scorecard:
    """Fits a scorecard that isn't calibrated yet.

    Args:
        items: The features of n items, with the same names.
        labels: 1 where an LLM rewrote the item, int64 [n]; both labels occur.
        weights: The weight of each item, fp64 [n]. Both labels then get the same weight in all.
        strength: The inverse of the L2 regularisation (scikit-learn's C).
    """
    from sklearn.linear_model import LogisticRegression

    names = sorted(items[0])
    table = np.array([[item[name] for name in names] for item in items], np.float64)
    edges = [_edges(column) for column in table.T]
    one_hot = np.hstack([_one_hot(c, e) for c, e in zip(table.T, edges, strict=True)])
    totals = np.array([weights[labels == label].sum() for label in (0, 1)])
    balanced = weights * len(items) / (2 * totals[labels])
    model = LogisticRegression(C=strength, max_iter=500)
    model.fit(one_hot, labels, sample_weight=balanced)
    scores, bias, start = [], float(model.intercept_[0]), 0
    for column in edges:
        own = model.coef_[0, start : start + len(column) + 1]
        mean = float(np.average(one_hot[:, start : start + len(own)] @ own))
        scores.append([_short(float(value) - mean) for value in own])
        bias += mean
        start += len(own)
    low, high = np.quantile(table, _RANGE, axis=0)
    strange = ((table < low) | (table > high)).sum(1)
    return Scorecard(
        names,
        [[_short(edge) for edge in column] for column in edges],
        scores,
        _short(bias),
        [_short(value) for value in low],
        [_short(value) for value in high],
        int(np.quantile(strange, _FAMILIAR)),
    )


def _edges(column: NDArray[np.float64]) -> list[float]:
    """Inner borders of quantile bins; fewer where many values are the same.

    A border lies between two values, so that rounding moves no item to another bin.
    """
    values = np.unique(column)
    if len(values) < 2:
        return []
    wanted = np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1])
    above = np.clip(np.searchsorted(values, wanted, side="left"), 1, len(values) - 1)
    return sorted({float(values[i - 1] + values[i]) / 2 for i in above})


def _one_hot(column: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.float64]:
    return np.eye(len(edges) + 1)[np.searchsorted(edges, column, side="right")]


def _floats(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values]


def _short(value: float) -> float:
    """A number with six significant digits, as a file holds it."""
    return float(f"{value:.6g}")


def to_json(cards: Mapping[str, Scorecard]) -> str:
    """Scorecards by name as JSON with one line for each list."""
    inner = []
    for name, card in cards.items():
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in card.values.items())
        inner.append(f"{json.dumps(name)}: {{\n{lines}\n}}")
    return "{\n" + ",\n".join(inner) + "\n}\n"
