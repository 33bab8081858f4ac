"""Sources of posteriors: models that write prompts, retrievers that find them.

A recipe has one writer for each of its runs and, as its `retrieval`, at most one fitted source. A
new fitted source is one class with `posteriors`, the settings that `fit` it, and one YAML file in
`conf/retrieval/`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.kept import KeptPosteriors
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.storage import fingerprint

if TYPE_CHECKING:
    from prompt_recovery.recovery.writer import Writer  # loads torch


class Source(Protocol):
    """Gives a posterior for each usable pair."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    def posteriors(
        self, pairs: Sequence[Pair], decoding: Decoding, progress: Callable[[int], None] = ...
    ) -> dict[int, Posterior]:
        """The posterior of each pair by its index; pairs with unusable texts have none.

        Args:
            pairs: Pairs with distinct ids.
            decoding: The decoding that will choose from the posteriors. It also says how a writer
                samples; other sources need not read it.
            progress: Called with the number of pairs just done, which add up to `len(pairs)`.
        """
        ...


class FittedSource(Source, Protocol):
    """A source that was fitted on training examples."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that its posteriors depend on besides the pairs, as plain values.

        The calibration is fitted again, and unfinished predictions are begun again, when these
        values change. The name and the weight of the source are recorded by `assemble`.
        """
        ...


class SourceSettings(Protocol):
    """The settings of the fitted source that joins the samples of the recoverer's models."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    @property
    def weight(self) -> float:
        """The weight of its posterior relative to that of all samples together, > 0."""
        ...

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> FittedSource:
        """Fits the source on at least one training example."""
        ...


@dataclass
class WriterSource:
    """The answers of a writer: it makes the batches, and the decoding says what it samples.

    Attributes:
        writer: The model.
        member: How often the same writer comes before this one in an ensemble.
        keeps: Keep the posteriors in the cache, and don't sample again what is there. A writer
            without an identity keeps nothing.
        saved: The seconds that it had taken to sample what the last call found in the cache.
    """

    writer: "Writer"
    member: int = 0
    keeps: bool = False
    saved: float = field(default=0.0, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name of the writer."""
        return self.writer.name

    def share_read(self, pair: Pair) -> float:
        """The share of a pair's characters that the model reads, in [0, 1]."""
        return self.writer.share_read(pair)

    def posteriors(
        self,
        pairs: Sequence[Pair],
        decoding: Decoding,
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[int, Posterior]:
        """The posteriors of all usable pairs, in batches that fit into memory.

        The writer makes the batches, `decoding.ask` says what to sample for one, and the writer
        samples it.
        """

        def ask(prompts: Sequence[Sequence[int]], ids: Sequence[str]) -> list[Posterior]:
            return decoding.ask(self.writer, prompts, ids, self.member)

        kept = self._kept(decoding)
        found = self.writer.in_batches(
            pairs,
            decoding.branches * decoding.max_new_tokens,
            ask if kept is None else partial(kept.completed, ask=ask),
            progress,
        )
        self.saved = 0.0 if kept is None else kept.saved
        return found

    def _kept(self, decoding: Decoding) -> KeptPosteriors | None:
        if not self.keeps or not self.writer.identity:
            return None
        # The version stands for the code that cleans answers.
        how = [decoding.asked, self.member, self.writer.adapter, version("prompt-recovery")]
        return KeptPosteriors(fingerprint(self.writer.identity, how))
