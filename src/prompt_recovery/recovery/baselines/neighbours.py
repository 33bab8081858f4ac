"""A baseline that answers with a prompt of the nearest training examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines.mean_prompt import mean_prompt
from prompt_recovery.recovery.baselines.vectors import answered, text_vectors, unit
from prompt_recovery.recovery.interface import Pair, Prediction
from prompt_recovery.recovery.mbr import expected_scs
from prompt_recovery.settings import AtLeastOne, checked

Space = Literal["rewrite", "difference"]


@checked("baseline")
@dataclass(frozen=True)
class Neighbours:
    """Of the prompts of the k nearest training examples, chooses the one that agrees best.

    Attributes:
        space: The vectors to compare: "rewrite" is the embedding of the rewritten text, and
            "difference" is the direction from the original's embedding to it.
        k: Number of neighbours, ≥ 1.
    """

    space: Space = "rewrite"
    k: AtLeastOne = 8

    @property
    def name(self) -> str:
        """Name shown in tables."""
        return f"neighbours by {self.space}"

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> "NeighboursRecoverer":
        """Embeds the training examples."""
        prompts = [e.rewrite_prompt for e in examples]
        vectors = _vectors(examples, scs, self.space)
        return NeighboursRecoverer(self, scs, prompts, vectors, mean_prompt(scs, prompts))


@dataclass(frozen=True)
class NeighboursRecoverer:
    """Answers with a neighbour's prompt; made by `Neighbours.fit`.

    Attributes:
        settings: Space and number of neighbours.
        scs: The metric, whose encoder computes embeddings.
        prompts: Prompts of the n training examples.
        vectors: Vectors of the training examples, fp32 [n, d], of length 1.
        fallback: The answer for a pair with a blank or unusable text.
    """

    settings: Neighbours
    scs: SCS
    prompts: list[str]
    vectors: NDArray[np.float32]
    fallback: str

    @property
    def name(self) -> str:
        """Name shown in tables."""
        return self.settings.name

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Returns one prediction for each pair, in order."""
        return answered(pairs, self._answers, self.fallback, progress)

    def nearest(self, pairs: Sequence[Pair]) -> list[list[str]]:
        """Returns the prompts of the k examples nearest to each usable pair, nearest first."""
        return [[self.prompts[i] for i in self._first(row)] for row in self._nearness(pairs)]

    def _answers(self, pairs: Sequence[Pair]) -> list[str]:
        return [self._chosen(row) for row in self._nearness(pairs)]

    def _nearness(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Returns the cosines of pairs and training examples, fp32 [pairs, n]."""
        return _vectors(pairs, self.scs, self.settings.space) @ self.vectors.T

    def _first(self, nearness: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.argsort(-nearness, kind="stable")[: self.settings.k]

    def _chosen(self, nearness: NDArray[np.float32]) -> str:
        """Returns the prompt with the highest mean SCS to the k nearest, weighted by cosine."""
        votes: dict[str, float] = {}
        for i in self._first(nearness):
            weight = max(float(nearness[i]), 1e-6)
            votes[self.prompts[i]] = votes.get(self.prompts[i], 0.0) + weight
        texts = list(votes)
        if len(texts) < 3:  # two prompts agree with each other equally, so take the nearer one
            return max(texts, key=lambda text: votes[text])
        return texts[int(expected_scs(texts, list(votes.values()), self.scs).argmax())]


def _vectors(
    pairs: Sequence[Pair] | Sequence[RewriteExample], scs: SCS, space: Space
) -> NDArray[np.float32]:
    originals, rewrites = text_vectors(pairs, scs.encoder)
    return rewrites if space == "rewrite" else unit(rewrites - originals)
