"""How good the probabilities of a detector are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

_BINS = 10


def auroc(labels: Labels, probabilities: Floats) -> float:
    """The area under the ROC curve; both labels occur.

    It is computed from ranks (Mann and Whitney, 1947), because scikit-learn's checks of its
    arguments take ten times as long, which would slow down a bootstrap.
    """
    from scipy.stats import rankdata

    own = labels == 1
    positive, negative = int(own.sum()), int((~own).sum())
    above = rankdata(probabilities)[own].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def tpr_at_one_percent(labels: Labels, probabilities: Floats) -> float:
    """The share of rewrites that are found while at most 1 % of the others are taken for one."""
    others = np.sort(probabilities[labels == 0])[::-1]
    threshold = others[min(int(0.01 * len(others)), len(others) - 1)]
    return float((probabilities[labels == 1] > threshold).mean())


def calibration_error(labels: Labels, probabilities: Floats) -> float:
    """The expected calibration error in ten bins of equal width (Guo et al., arXiv 1706.04599)."""
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, probabilities - labels, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))


@dataclass(frozen=True)
class Measured:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} … {self.high:.3f})"


def measured(
    measure: Callable[[Labels, Floats], float],
    labels: Labels,
    probabilities: Floats,
    groups: Sequence[str],
    samples: int = 500,
    seed: int = 0,
) -> Measured:
    """A measure with the percentile bootstrap interval over groups.

    Args:
        measure: One of the functions above.
        labels: int64 [n].
        probabilities: fp64 [n].
        groups: The n groups; all items of a group are drawn together.
        samples: The number of resamples. Those that lack a label are left out.
        seed: The seed of the resampling.
    """
    order = np.argsort(np.array(groups), kind="stable")
    starts = np.unique(np.array(groups)[order], return_index=True)[1]
    members = np.split(order, starts[1:])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if 0 < labels[drawn].sum() < len(drawn):
            values.append(measure(labels[drawn], probabilities[drawn]))
    low, high = np.quantile(values, (0.025, 0.975))
    return Measured(measure(labels, probabilities), float(low), float(high))
