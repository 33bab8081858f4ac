"""Training examples that are like a pair, and whose prompts vote with a recoverer's samples."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines.neighbours import Neighbours, NeighboursRecoverer, Space
from prompt_recovery.recovery.interface import Pair, is_usable
from prompt_recovery.recovery.mbr import Samples


@dataclass(frozen=True)
class Retrieval:
    """The prompts of the k nearest training examples stand for election under MBR, and vote.

    A kNN-LM (Khandelwal et al., ICLR 2020) mixes neighbours into each token's distribution; here
    they are mixed into the distribution over whole answers, which MBR reads.

    Attributes:
        space: where near is; as for `Neighbours`.
        k: how many neighbours, ≥ 1.
        weight: of all their votes together, as a multiple of all samples' votes, > 0.
        examples: at most so many training examples are embedded, ≥ 1.
    """

    space: Space = "difference"
    k: int = 16
    weight: float = 4.0
    examples: int = 5000

    def __post_init__(self) -> None:
        Neighbours(self.space, self.k)
        if not self.weight > 0 or self.examples < 1:
            raise PromptRecoveryError(
                f"retrieval.weight={self.weight} must be > 0, and "
                f"retrieval.examples={self.examples} ≥ 1"
            )

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> "Voters":
        """Embeds the training examples, or as many of them as it may."""
        chosen = sorted(examples, key=lambda e: hashlib.sha256(ascii(e.id).encode()).digest())
        neighbours = Neighbours(self.space, self.k).fit(chosen[: self.examples], scs)
        return Voters(neighbours, self.weight)


@dataclass(frozen=True)
class Voters:
    """Neighbours that vote; made by `Retrieval.fit`.

    Attributes:
        neighbours: to choose from.
        weight: of all votes of a pair's neighbours, as a multiple of all samples' votes.
    """

    neighbours: NeighboursRecoverer
    weight: float

    def votes(self, pairs: Sequence[Pair], samples: float) -> dict[int, Samples]:
        """What the neighbours of each usable pair say.

        Args:
            pairs: n of them.
            samples: how many votes a pair's samples have together.

        Returns:
            Index of a pair → its neighbours' prompts.
        """
        usable = [i for i, pair in enumerate(pairs) if is_usable(pair)]
        if not usable:
            return {}
        prompts = self.neighbours.nearest([pairs[i] for i in usable])
        return {
            i: Samples(texts, [None] * len(texts), self.weight * samples / len(texts))
            for i, texts in zip(usable, prompts, strict=True)
        }
