"""Intervals and tests for scores of the same examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def bootstrap_interval(
    values: NDArray[np.floating], level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: [n], n ≥ 1, one score an example.
        level: coverage, in (0, 1).
        samples: resamples drawn.
        seed: of the draw.

    Raises:
        ValueError: no values.
    """
    if len(values) == 0:
        raise ValueError("no values to resample")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (min(500, samples - done), len(values)))].mean(1)
            for done in range(0, samples, 500)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedGain:
    """How much better one recoverer is than another on the same examples.

    Attributes:
        mean: of the differences.
        interval: the 95 % bootstrap interval of it.
        p: that random signs give a mean as far from zero.
    """

    mean: float
    interval: tuple[float, float]
    p: float


def paired_gain(first: NDArray[np.floating], second: NDArray[np.floating]) -> PairedGain:
    """Compares the scores [n] of two recoverers on the same n ≥ 1 examples, first − second."""
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return PairedGain(
        float(differences.mean()), bootstrap_interval(differences), sign_flip_p(differences)
    )


def sign_flip_p(differences: NDArray[np.floating], samples: int = 10_000, seed: int = 0) -> float:
    """The two-sided paired permutation test of a mean of zero (Fisher, 1935, §21).

    Args:
        differences: [n], n ≥ 1, one an example.
        samples: random assignments of signs.
        seed: of the draw.

    Returns:
        In (0, 1]: the share of assignments, the observed one among them, whose mean is as far
        from zero.
    """
    rng = np.random.default_rng(seed)
    observed = abs(differences.mean()) * (1 - 1e-12)
    as_far = 1
    for done in range(0, samples, 500):
        signs = rng.integers(0, 2, (min(500, samples - done), len(differences))) * 2 - 1
        as_far += int((abs(signs @ differences) / len(differences) >= observed).sum())
    return as_far / (samples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that all hold together (Holm, 1979), in order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min((len(order) - rank) * p_values[i], 1.0))
        adjusted[i] = highest
    return adjusted
