"""Does a prediction mean what it scores? A second encoder tells.

An encoder has strings that it finds close to almost everything, or to a text that they say nothing
of: in the competition of 2024, a few odd tokens raised every prompt's score. Another encoder isn't
taken in. How far two encoders lie apart without any trick is seen in prompts that people wrote,
each compared with each other.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from prompt_recovery.metrics.scs import SCS, sharpen

_PROMPTS = 500  # compared with each other: an eighth of a million pairs
_ENOUGH = 0.5


@dataclass(frozen=True)
class MetricHackingCheck:
    """One recoverer's n predictions under a second encoder.

    Attributes:
        scs: fp32 [n], under the second encoder.
        expected: fp64 [n], what honest prompts have there whose SCS under the first is the same.
        kept: (mean scs − chance) / (mean expected − chance), chance being what prompts have there
            that have nothing to do with each other: 1 or more is as it should be; NaN where too
            little is promised to tell.
        interval: the 95 % bootstrap interval of it; it counts an answer that is given many times
            as one, however often it is seen.
    """

    scs: NDArray[np.float32]
    expected: NDArray[np.float64]
    kept: float
    interval: tuple[float, float]

    @property
    def suspicious(self) -> bool:
        """Surely (97.5 %) less than half of what it promises is left under the second encoder."""
        return self.interval[1] < _ENOUGH

    @property
    def kept_text(self) -> str:
        """The share that is kept, with its interval; a dash where too little is promised."""
        if not np.isfinite(self.kept):
            return "–"
        low, high = self.interval
        return f"{self.kept:.0%} ({low:.0%} … {high:.0%})"

    @property
    def verdict(self) -> str:
        """In words."""
        if not np.isfinite(self.kept):
            return "too little is promised to tell"
        return "falls" if self.suspicious else "holds"


class Agreement:
    """What SCS under a second encoder is to be expected of honest prompts, given that under one.

    The second encoder's embeddings are centred on the honest prompts: encoders whose embeddings all
    point in about the same direction (E5's have cosines around 0.8) tell much better then (Mu and
    Viswanath, ICLR 2018).

    Args:
        first: the metric that recoverers are compared by.
        second: the same with another encoder.
        prompts: honest ones, at least three that differ.
        seed: of the choice, if there are more than five hundred.
    """

    def __init__(self, first: SCS, second: SCS, prompts: Sequence[str], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        distinct = sorted(set(prompts))
        if len(distinct) > _PROMPTS:
            distinct = [distinct[i] for i in rng.choice(len(distinct), _PROMPTS, replace=False)]
        self._second = second
        self._centre = second.encoder.embed(distinct).mean(axis=0)
        upper = np.triu_indices(len(distinct), k=1)
        vectors = self._vectors(distinct)
        there = self._sharpened(vectors @ vectors.T)
        here = first.matrix(distinct, distinct).astype(np.float64)
        self.chance = float(there[upper].mean())
        self._curve = IsotonicRegression(out_of_bounds="clip").fit(
            np.append(here[upper], 1.0), np.append(there[upper], 1.0)
        )
        surplus = there - self._expected(here.ravel()).reshape(here.shape)
        np.fill_diagonal(surplus, 0)
        # How far one honest prompt, given for all examples, is from what is expected of it.
        self._offset = float((surplus.sum(axis=1) / (len(distinct) - 1)).std())

    def check(
        self, scs: NDArray[np.float32], predicted: Sequence[str], truths: Sequence[str]
    ) -> MetricHackingCheck:
        """Checks n predictions, given their SCS under the first encoder."""
        cosine = (self._vectors(predicted) * self._vectors(truths)).sum(axis=1)
        there = self._sharpened(cosine)
        expected = self._expected(scs)
        shares = np.array(list(Counter(predicted).values())) / len(predicted)
        offset = self._offset * float(np.sqrt((shares**2).sum()))
        promised = float(expected.mean()) - self.chance
        kept, interval = np.nan, (np.nan, np.nan)
        rng = np.random.default_rng(0)
        rows = rng.integers(0, len(scs), (2000, len(scs)))
        promises = expected[rows].mean(axis=1) - self.chance
        if promised > 2 * offset and np.quantile(promises, 0.025) > promised / 2:
            kept = (float(there.mean()) - self.chance) / promised
            left = there[rows].mean(axis=1) - self.chance + rng.normal(0, offset, len(rows))
            low, high = np.quantile(left / np.maximum(promises, 1e-9), [0.025, 0.975])
            interval = (float(low), float(high))
        return MetricHackingCheck(there.astype(np.float32), expected, kept, interval)

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float64]:
        vectors = self._second.encoder.embed(texts).astype(np.float64) - self._centre
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def _sharpened(self, cosine: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(sharpen(np.clip(cosine, -1, 1), self._second.exponent), np.float64)

    def _expected(self, scs: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(self._curve.predict(scs.astype(np.float64)), np.float64)
