"""Confidence intervals and significance tests for scores of the same examples.

Examples that share a prompt are not independent: a recoverer that finds it for one of them is
likely to find it for the others. Such examples are groups. The bootstrap draws whole groups (the
cluster bootstrap; Davison and Hinkley, 1997, §3.8), and the sign-flip test flips the signs of whole
groups. If every example has its own prompt, both are the same as without groups.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BATCH = 500  # resamples at a time, which limits memory: a batch holds 500 · n values


def bootstrap_interval(
    values: NDArray[np.floating],
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
    groups: Sequence[Hashable] = (),
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: The scores, one per example, shape [n] with n ≥ 1.
        level: The coverage, in (0, 1).
        samples: The number of resamples.
        seed: The seed of the resampling.
        groups: The group of each example; a group is resampled as a whole. Empty if all examples
            are independent.

    Raises:
        ValueError: If there are no values.
    """
    from scipy.stats import bootstrap

    if len(values) == 0:
        raise ValueError("no values to resample")
    if len(values) == 1:
        return float(values[0]), float(values[0])
    sums, sizes = _by_group(values, groups)
    if len(sums) < len(values):
        rng = np.random.default_rng(seed)
        means = np.concatenate(
            [(drawn @ sums) / (drawn @ sizes) for drawn in _draws(len(sums), samples, rng)]
        )
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=samples,
        batch=_BATCH,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _by_group(
    values: NDArray[np.floating], groups: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of the values of each group and its size, in order of first appearance."""
    whole = np.asarray(values, np.float64)
    if not groups:
        return whole, np.ones(len(whole))
    place = group_numbers(groups)
    sums = np.asarray(np.bincount(place, weights=whole), np.float64)
    return sums, np.bincount(place).astype(np.float64)


def group_numbers(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    """The number of each example's group, [n], from 0 in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(g, len(numbers)) for g in groups], np.int64)


def _draws(count: int, samples: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yields how often each of `count` groups is drawn with replacement, [≤ 500, count]."""
    for done in range(0, samples, _BATCH):
        size = min(_BATCH, samples - done)
        yield rng.multinomial(count, np.full(count, 1 / count), size)


@dataclass(frozen=True)
class PairedGain:
    """How much better one recoverer is than another on the same examples.

    Attributes:
        mean: The mean of the differences.
        interval: The 95 % bootstrap interval of that mean.
        p: The probability that random signs give a mean at least as far from zero.
    """

    mean: float
    interval: tuple[float, float]
    p: float


def paired_gain(
    first: NDArray[np.floating], second: NDArray[np.floating], groups: Sequence[Hashable] = ()
) -> PairedGain:
    """Compares the scores of two recoverers on the same examples as `first` − `second`.

    Both have shape [n] with n ≥ 1. `groups` are those of `bootstrap_interval`.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return PairedGain(
        float(differences.mean()),
        bootstrap_interval(differences, groups=groups),
        sign_flip_p(differences, groups=groups),
    )


def standard_error(
    values: NDArray[np.floating], groups: Sequence[Hashable] = ()
) -> NDArray[np.float64]:
    """The standard error of the mean over the last axis of n ≥ 1 values; 0 for a single one.

    With groups, which are for values [n], only those are independent of each other (the
    cluster-robust error of Liang and Zeger, Biometrika 1986).
    """
    n = values.shape[-1]
    if groups:
        sums, sizes = _by_group(values, groups)
        apart, count = sums - sizes * values.mean(), len(sums)
        return np.asarray(np.sqrt(apart @ apart * count / max(count - 1, 1)) / n)
    return np.asarray(values.std(axis=-1, ddof=min(1, n - 1)) / n**0.5)


def gains_an_error(gain: NDArray[np.floating], groups: Sequence[Hashable] = ()) -> bool:
    """Whether the mean of paired gains is positive and at least its standard error.

    It decides whether something that was fitted on few examples is kept.
    """
    return bool(gain.mean() > 0 and gain.mean() >= standard_error(gain, groups))


def folds(groups: Sequence[Hashable], most: int = 10) -> NDArray[np.int64]:
    """The fold of each example in cross-fitting: those of one group stay in one fold.

    Otherwise, what is fitted would have seen the answer to the examples by which it is judged,
    since the examples of one prompt share their answer.

    Args:
        groups: The group of each of n ≥ 1 examples.
        most: The largest number of folds.

    Returns:
        [n], from 0. Groups are dealt out in turn, in the order in which they first come.
    """
    numbers = group_numbers(groups)
    return numbers % min(most, int(numbers.max()) + 1)


def sign_flip_p(
    differences: NDArray[np.floating],
    samples: int = 10_000,
    seed: int = 0,
    groups: Sequence[Hashable] = (),
) -> float:
    """The two-sided paired permutation test of a mean of zero (Fisher, 1935, §21).

    Written by hand because `scipy.stats.permutation_test` takes five to ten times as long, and a
    comparison of runs asks for many p-values; a test compares the two.

    Args:
        differences: The differences, one per example, shape [n] with n ≥ 1.
        samples: The number of random assignments of signs.
        seed: The seed of the random signs.
        groups: The group of each example; a group gets the same sign. Empty if all examples are
            independent.

    Returns:
        The p-value, in (0, 1]: the share of assignments, including the observed one, whose mean
        is at least as far from zero.
    """
    rng = np.random.default_rng(seed)
    observed = abs(differences.mean()) * (1 - 1e-12)
    sums, _ = _by_group(differences, groups)
    as_far = 1
    for done in range(0, samples, _BATCH):
        signs = rng.integers(0, 2, (min(_BATCH, samples - done), len(sums))) * 2 - 1
        as_far += int((abs(signs @ sums) / len(differences) >= observed).sum())
    return as_far / (samples + 1)


def smallest_p(groups: int) -> float:
    """The smallest p-value that `sign_flip_p` can give for this number of groups: both assignments
    in which all signs are the same are as far from zero as any."""
    return min(2.0 ** (1 - groups), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of several tests for multiple testing (Holm, 1979), in the given order.

    Written by hand because it is eight lines, and statsmodels, which has it, would be a large
    dependency for them.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min((len(order) - rank) * p_values[i], 1.0))
        adjusted[i] = highest
    return adjusted
