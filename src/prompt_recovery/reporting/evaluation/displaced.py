"""Finds rows whose prompts are displaced: each stands beside the texts of a neighbouring row.

This happens when a column is sorted, filtered or pasted on its own. Nothing about such a row looks
wrong, but no recoverer can score on it. What gives it away is that answers to a run of rows are
near the prompts of the rows before (or after) them, and not near their own. In a file that is
sorted by prompts, neighbours on both sides are near, so that the opposite side is compared as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.metrics.scs import SCS, sharpen

_FEWEST = 10  # rows in a run
_PERMUTATIONS = 999
_LEVEL = 0.001  # of the permutation test, which asks this of the best run of either side
_Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Displaced:
    """A run of rows whose answers fit the prompts of neighbouring rows.

    Attributes:
        first: Index of its first row.
        last: Index of its last row.
        side: Whether the answers fit the prompts of the rows before or after them.
        own: The mean SCS of the answers against the prompts of their own rows.
        neighbour: Their mean SCS against the prompts of these neighbours.
    """

    first: int
    last: int
    side: Literal["before", "after"]
    own: float
    neighbour: float

    def told(self, recoverer: str, ids: Sequence[str]) -> str:
        """Says which rows they are, given the recoverer that answered and the ids of all rows."""
        return (
            f"The prompts of about {self.last - self.first + 1} rows, from {ids[self.first]} to "
            f"{ids[self.last]}, are probably displaced by one row. There, the answers of "
            f"{recoverer} have a mean SCS of {self.own:.3f}, but of {self.neighbour:.3f} against "
            f"the prompts of the rows {self.side} them (p ≤ {_LEVEL}). Compare these rows with "
            "where they come from: as they are, they lower the scores."
        )


def displaced_rows(
    answers: Sequence[str], prompts: Sequence[str], scs: SCS, seed: int = 0
) -> Displaced | None:
    """Looks for a run of at least ten rows with displaced prompts.

    The run is the one with the highest sum of what the answers gain if they are compared with the
    neighbouring prompts (a scan statistic). A permutation test draws other prompts in place of the
    neighbours.

    Args:
        answers: A recoverer's answers to n rows, in the order of the file.
        prompts: The true prompts, as the file has them.
        scs: The metric.
        seed: The seed of the permutations.

    Returns:
        None if there is no such run, or if chance may explain it (p > 0.001).
    """
    if len(answers) < _FEWEST:
        return None
    given, true = scs.encoder.embed(answers), scs.encoder.embed(prompts)

    def scored(order: NDArray[np.int64]) -> _Scores:
        cosine = np.clip((given * true[order]).sum(axis=1), -1, 1)
        return np.asarray(sharpen(cosine, scs.exponent), np.float64)

    places = np.arange(len(answers))
    own = scored(places)
    before, after = scored(np.roll(places, 1)), scored(np.roll(places, -1))
    before[0] = after[-1] = 0.0  # there is no such row
    rng = np.random.default_rng(seed)
    sides: tuple[tuple[Literal["before", "after"], _Scores, _Scores], ...] = (
        ("before", before, after),
        ("after", after, before),
    )
    for side, neighbour, opposite in sides:
        best = np.maximum(own, opposite)
        first, last, gain = _best_run(neighbour - best)
        if last - first + 1 < _FEWEST:
            continue
        drawn = (scored(rng.permutation(places)) for _ in range(_PERMUTATIONS))
        beaten = sum(_best_run(other - best)[2] >= gain for other in drawn)
        if (beaten + 1) / (_PERMUTATIONS + 1) <= _LEVEL:
            run = slice(first, last + 1)
            means = float(own[run].mean()), float(neighbour[run].mean())
            return Displaced(first, last, side, *means)
    return None


def _best_run(gains: _Scores) -> tuple[int, int, float]:
    """The first and the last index of the run with the highest sum, and this sum."""
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    lowest = np.minimum.accumulate(sums[:-1])
    last = int(np.argmax(sums[1:] - lowest))
    first = int(np.argmin(sums[: last + 1]))
    return first, last, float(sums[last + 1] - lowest[last])
