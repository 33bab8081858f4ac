"""Detects metric hacking with a second encoder.

For any encoder, there are strings that it finds similar to almost every text, whatever they mean:
in the competition of 2024, a few odd tokens raised the score of every prompt. Another encoder does
not find the same strings similar. How much two encoders differ without such strings is measured by
comparing human-written prompts with each other.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from prompt_recovery.data.splits import normalise
from prompt_recovery.metrics.scs import SCS, sharpen
from prompt_recovery.metrics.statistics import group_numbers

_PROMPTS = 500  # maximum number of prompts to compare with each other (125,000 pairs)
_ENOUGH = 0.5
_Resamples = NDArray[np.int64] | NDArray[np.float64]
UNKNOWN = "too little is expected to tell"
"""The verdict if honest prompts with such a low SCS would be near chance anyway."""


@dataclass(frozen=True)
class MetricHackingCheck:
    """A recoverer's n predictions under a second encoder.

    Attributes:
        scs: SCS under the second encoder, fp32 [n].
        expected: SCS under the second encoder of honest prompts with the same SCS under the first
            one, fp64 [n].
        kept: (mean scs − chance) / (mean expected − chance), where chance is the SCS of unrelated
            prompts under the second encoder. Honest predictions have about 1 or more. NaN if the
            expected SCS is too close to chance.
        interval: 95 % bootstrap interval of `kept`. It accounts for repeated answers and for
            examples that share a prompt, which are not independent of each other.
    """

    scs: NDArray[np.float32]
    expected: NDArray[np.float64]
    kept: float
    interval: tuple[float, float]

    @property
    def suspicious(self) -> bool:
        """Whether less than half of the expected score is kept, with a confidence of 97.5 %."""
        return self.interval[1] < _ENOUGH

    @property
    def kept_text(self) -> str:
        """The kept share with its interval, or a dash if the expected SCS is too low."""
        if not np.isfinite(self.kept):
            return "–"
        low, high = self.interval
        return f"{self.kept:.0%} ({low:.0%} … {high:.0%})"

    @property
    def verdict(self) -> str:
        """The result in words."""
        if not np.isfinite(self.kept):
            return UNKNOWN
        return "falls" if self.suspicious else "holds"


class Agreement:
    """Estimates the SCS of honest prompts under a second encoder from that under the first one.

    The second encoder's embeddings are centred on the honest prompts. This makes encoders whose
    embeddings all point in about the same direction (E5's have cosines around 0.8) much more
    discriminative (Mu and Viswanath, ICLR 2018).

    Args:
        first: The metric that recoverers are compared by.
        second: The same metric with another encoder.
        prompts: Honest prompts, at least three of which differ.
        seed: Seed of the choice of prompts, if there are more than 500.
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
        # Standard deviation, over honest prompts, of the difference between actual and expected
        # mean SCS if the same prompt is the answer to all examples.
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
        prompts = group_numbers([normalise(truth) for truth in truths])
        weights = _resampled(prompts, 2000, rng)
        promises = _means(expected, weights) - self.chance
        if promised > 2 * offset and np.quantile(promises, 0.025) > promised / 2:
            kept = (float(there.mean()) - self.chance) / promised
            noise = rng.normal(0, offset, len(promises))
            left = _means(there, weights) - self.chance + noise
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


def _resampled(groups: NDArray[np.int64], samples: int, rng: np.random.Generator) -> _Resamples:
    """Bootstrap samples of examples or, where some share a group, of whole groups.

    Returns:
        The examples that were drawn, int64 [samples, n], or how often each was, fp64.
    """
    count = int(groups.max()) + 1
    if count == len(groups):
        return rng.integers(0, count, (samples, count))
    drawn = rng.multinomial(count, np.full(count, 1 / count), samples)
    return drawn[:, groups].astype(np.float64)


def _means(values: NDArray[np.float64], drawn: _Resamples) -> NDArray[np.float64]:
    """The mean of each bootstrap sample."""
    if drawn.dtype == np.int64:
        return np.asarray(values[drawn].mean(axis=1))
    return np.asarray((drawn @ values) / drawn.sum(axis=1))
