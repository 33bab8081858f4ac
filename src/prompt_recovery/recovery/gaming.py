"""Does a prediction mean what it scores? A second encoder tells.

An encoder has strings that it finds close to almost everything: in the competition of 2024, a few
odd tokens raised every prompt's score. Another encoder isn't taken in. How far the scores of two
encoders lie apart without any trick is seen in prompts that people wrote: each against each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from prompt_recovery.metrics.scs import SCS

_PROMPTS = 500  # compared with each other: a quarter of a million pairs
_ENOUGH = 0.5


@dataclass(frozen=True)
class GamingCheck:
    """One recoverer's n predictions under a second encoder.

    Attributes:
        scs: fp32 [n], under the second encoder.
        expected: fp64 [n], what honest prompts have there whose SCS under the first is the same.
        chance: the mean SCS under the second encoder of prompts that have nothing to do with each
            other.
        kept: (mean scs − chance) / (mean expected − chance): 1 or more is as it should be; NaN
            where the first encoder promises no more than chance.
        interval: the 95 % bootstrap interval of it.
    """

    scs: NDArray[np.float32]
    expected: NDArray[np.float64]
    chance: float
    kept: float
    interval: tuple[float, float]

    @property
    def suspicious(self) -> bool:
        """Surely (97.5 %) less than half of what it promises is left under the second encoder."""
        return self.interval[1] < _ENOUGH


class Agreement:
    """What SCS under a second encoder is to be expected of honest prompts, given that under one.

    Args:
        first: the metric that recoverers are compared by.
        second: the same with another encoder.
        prompts: true prompts, at least two distinct ones.
        seed: of the choice, if there are more than five hundred.
    """

    def __init__(self, first: SCS, second: SCS, prompts: Sequence[str], seed: int = 0) -> None:
        self._second = second
        distinct = sorted(set(prompts))
        if len(distinct) > _PROMPTS:
            chosen = np.random.default_rng(seed).choice(len(distinct), _PROMPTS, replace=False)
            distinct = [distinct[i] for i in chosen]
        upper = np.triu_indices(len(distinct), k=1)
        there = second.matrix(distinct, distinct)[upper].astype(np.float64)
        here = first.matrix(distinct, distinct)[upper].astype(np.float64)
        self.chance = float(there.mean())
        self._curve = IsotonicRegression(out_of_bounds="clip").fit(
            np.append(here, 1.0), np.append(there, 1.0)
        )

    def check(
        self, scs: NDArray[np.float32], predicted: Sequence[str], truths: Sequence[str]
    ) -> GamingCheck:
        """Checks n predictions, given their SCS under the first encoder."""
        there = self._second(predicted, truths)
        expected = np.asarray(self._curve.predict(scs.astype(np.float64)), np.float64)
        rng = np.random.default_rng(0)
        rows = rng.integers(0, len(scs), (2000, len(scs)))
        promised = expected.mean() - self.chance
        kept = np.nan
        low, high = np.nan, np.nan
        if promised > 0:
            kept = float((there.mean() - self.chance) / promised)
            draws = (there[rows].mean(1) - self.chance) / np.maximum(
                expected[rows].mean(1) - self.chance, 1e-9
            )
            low, high = np.quantile(draws, [0.025, 0.975])
        return GamingCheck(there, expected, self.chance, kept, (float(low), float(high)))
