"""Retrieval of similar training examples, whose prompts join the samples of a model."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines.neighbours import NeighbourIndex, Space
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.familiarity import Familiarity
from prompt_recovery.recovery.interface import Pair, is_usable
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.settings import AtLeastOne, Positive, checked
from prompt_recovery.storage import fingerprint


@checked("retrieval")
@dataclass(frozen=True)
class Retrieval:
    """The prompts of the k nearest training examples join the samples under MBR.

    A kNN-LM (Khandelwal et al., ICLR 2020) mixes neighbours into each token's distribution; here
    they are mixed into the posterior over whole answers, from which MBR chooses.

    Attributes:
        space: The space in which neighbours are found; see `Neighbours`.
        k: The number of neighbours, ≥ 1.
        weight: The weight of their posterior relative to that of all samples together, > 0.
        examples: The largest number of training examples that are embedded, ≥ 1.
    """

    space: Space = "difference"
    k: AtLeastOne = 16
    weight: Positive = 4.0
    examples: AtLeastOne = 5000

    @property
    def name(self) -> str:
        """Its name in tables."""
        return "neighbours"

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> "RetrievedPrompts":
        """Embeds the training examples, or a fixed choice of `examples` of them."""
        chosen = sorted(examples, key=lambda e: hashlib.sha256(ascii(e.id).encode()).digest())
        index = NeighbourIndex.of(chosen[: self.examples], scs, self.space)
        return RetrievedPrompts(index, self.k, Familiarity.of(examples))


@dataclass(frozen=True)
class RetrievedPrompts:
    """A source whose posteriors are the prompts of a pair's neighbours; made by `Retrieval.fit`.

    Attributes:
        index: The embedded training examples.
        k: The number of neighbours, ≥ 1.
        known: Measures the familiarity of pairs.
    """

    index: NeighbourIndex
    k: int
    known: Familiarity

    @property
    def name(self) -> str:
        """Its name in tables."""
        return "neighbours"

    @property
    def settings(self) -> dict[str, Any]:
        """The space, the number of neighbours and a digest of the prompts."""
        return {
            "space": self.index.space,
            "k": self.k,
            "prompts": fingerprint(self.index.prompts),
        }

    def posteriors(
        self,
        pairs: Sequence[Pair],
        decoding: Decoding,
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[int, Posterior]:
        """The prompts of the neighbours of each usable pair that has some, with one vote each."""
        usable = [i for i, pair in enumerate(pairs) if is_usable(pair)]
        read = [pairs[i] for i in usable]
        found = self.index.nearest(read, self.k) if usable else []
        near = self.known(read).tolist()
        progress(len(pairs))
        return {
            i: replace(Posterior.of_texts([prompt for prompt, _ in row]), familiarity=familiarity)
            for i, row, familiarity in zip(usable, found, near, strict=True)
            if row
        }
