"""Sources of posteriors: whatever knows something about the prompts of pairs.

A new source is one class with `posteriors`, the settings that `fit` it, and one YAML file in
`conf/retrieval/`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.posterior import Posterior

if TYPE_CHECKING:
    from prompt_recovery.recovery.writer import Writer  # loads torch


class Source(Protocol):
    """Whatever has a posterior for each usable pair."""

    @property
    def name(self) -> str:
        """In tables."""
        ...

    def posteriors(
        self, pairs: Sequence[Pair], decoding: Decoding, progress: Callable[[int], None] = ...
    ) -> dict[int, Posterior]:
        """Index of a pair → its posterior; a pair of unusable texts has none.

        Args:
            pairs: with distinct ids.
            decoding: says how many answers are asked for, and of which length.
            progress: called with the number of pairs just done; `len(pairs)` in all.
        """
        ...


class FittedSource(Source, Protocol):
    """A source that learnt from training examples."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that its posteriors depend on, but the pairs, as plain values."""
        ...


class SourceSettings(Protocol):
    """Settings from which a source is made that joins a recoverer's own samples."""

    @property
    def name(self) -> str:
        """In tables."""
        ...

    @property
    def weight(self) -> float:
        """Of its posterior, as a multiple of that of all samples together, > 0."""
        ...

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> FittedSource:
        """Learns from training examples, at least one."""
        ...


@dataclass(frozen=True)
class WriterSource:
    """What a writer says when a decoding asks it.

    Attributes:
        writer: the model.
        member: its number in an ensemble.
    """

    writer: "Writer"
    member: int = 0

    @property
    def name(self) -> str:
        """The writer's."""
        return self.writer.name

    def posteriors(
        self,
        pairs: Sequence[Pair],
        decoding: Decoding,
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[int, Posterior]:
        """Asks in batches that fit into memory."""
        return self.writer.in_batches(
            pairs,
            decoding.branches * decoding.max_new_tokens,
            lambda prompts, ids: decoding.ask(self.writer, prompts, ids, self.member),
            progress,
        )
