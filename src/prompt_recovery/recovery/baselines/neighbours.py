"""A baseline that answers with a prompt of the nearest training examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.encoder import Encoder
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.bank import nearest
from prompt_recovery.recovery.baselines.mean_prompt import mean_prompt
from prompt_recovery.recovery.baselines.vectors import answered, text_vectors, unit
from prompt_recovery.recovery.interface import Pair, Prediction
from prompt_recovery.recovery.mbr import expected_scs
from prompt_recovery.settings import AtLeastOne, checked

Space = Literal["rewrite", "difference"]
_LEAST = 1e-4  # length of a difference of unit vectors that is more than rounding


@checked("baseline")
@dataclass(frozen=True)
class Neighbours:
    """Chooses, of the prompts of the k nearest training examples, the one closest to the others.

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
        index = NeighbourIndex.of(examples, scs, self.space)
        return NeighboursRecoverer(self, scs, index, mean_prompt(scs, index.prompts))


@dataclass(frozen=True)
class NeighbourIndex:
    """The prompts of training examples, found by the embeddings of their texts.

    Attributes:
        encoder: Embeds the texts.
        space: As in `Neighbours`.
        prompts: The prompts of n training examples.
        vectors: fp32 [n, d], the examples in the space, of length 1.
    """

    encoder: Encoder
    space: Space
    prompts: list[str]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, examples: Sequence[RewriteExample], scs: SCS, space: Space) -> "NeighbourIndex":
        """Embeds the training examples."""
        vectors = _vectors(examples, scs.encoder, space)
        placed = np.flatnonzero(np.any(vectors, axis=1)).tolist()
        prompts = [examples[i].rewrite_prompt for i in placed]
        return cls(scs.encoder, space, prompts, vectors[placed])

    def nearest(self, pairs: Sequence[Pair], k: int) -> list[list[tuple[str, float]]]:
        """Returns the prompts of the k examples nearest to each usable pair, nearest first.

        Each has the cosine between its example and the pair. Prompts may repeat. A pair without a
        place in the space has no neighbours: the difference of two equal texts has no direction.
        """
        vectors = _vectors(pairs, self.encoder, self.space)
        if not self.prompts:
            return [[] for _ in pairs]
        found, cosines = nearest(vectors, self.vectors, k)
        return [
            [(self.prompts[i], float(cosine)) for i, cosine in zip(*row, strict=True)]
            if vector.any()
            else []
            for vector, *row in zip(vectors, found, cosines, strict=True)
        ]


@dataclass(frozen=True)
class NeighboursRecoverer:
    """Answers with a neighbour's prompt; made by `Neighbours.fit`.

    Attributes:
        settings: The space and the number of neighbours.
        scs: The metric by which neighbours agree.
        index: The training examples.
        fallback: The answer for a pair with a blank or unusable text.
    """

    settings: Neighbours
    scs: SCS
    index: NeighbourIndex
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

    def _answers(self, pairs: Sequence[Pair]) -> list[str | None]:
        found = self.index.nearest(pairs, self.settings.k)
        return [self._chosen(neighbours) if neighbours else None for neighbours in found]

    def _chosen(self, neighbours: Sequence[tuple[str, float]]) -> str:
        """Returns the prompt with the highest mean SCS to the k nearest, weighted by cosine."""
        votes: dict[str, float] = {}
        for prompt, cosine in neighbours:
            votes[prompt] = votes.get(prompt, 0.0) + max(cosine, 1e-6)
        texts = list(votes)
        if len(texts) < 3:  # two prompts agree with each other equally, so take the nearer one
            return max(texts, key=lambda text: votes[text])
        return texts[int(expected_scs(texts, list(votes.values()), self.scs).argmax())]


def _vectors(
    pairs: Sequence[Pair] | Sequence[RewriteExample], encoder: Encoder, space: Space
) -> NDArray[np.float32]:
    """Returns the pairs in the space, fp32 [n, d], of length 1, or 0 where they have no place."""
    originals, rewrites = text_vectors(pairs, encoder)
    if space == "rewrite":
        return rewrites
    difference = rewrites - originals
    lengths = np.linalg.norm(difference, axis=-1, keepdims=True)
    return unit(np.where(lengths > _LEAST, difference, np.float32(0)))
