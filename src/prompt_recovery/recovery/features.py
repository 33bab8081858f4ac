"""What is known of each candidate of a pair: the features that a choice weighs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import Candidate, Pair
from prompt_recovery.recovery.mbr import rank
from prompt_recovery.recovery.posterior import Posterior

if TYPE_CHECKING:
    from prompt_recovery.recovery.writer import Writer  # loads torch

Channel = Callable[[Pair, Sequence[str]], list[float]]
"""log p(rewritten text | original text, prompt) for each of n prompts; see `RewriteLikelihood`."""

_LEAST = 1e-3  # an expected SCS, whose logarithm is a feature


@dataclass(frozen=True)
class Features:
    """The best candidates of a pair with their features.

    Attributes:
        candidates: n ≥ 1 candidates, ranked by plain MBR over the joined posterior.
        values: fp64 [n, f], the value of each feature.
        utility: fp64 [n, n], the SCS of every two candidates.
    """

    candidates: tuple[Candidate, ...]
    values: NDArray[np.float64]
    utility: NDArray[np.float64]

    @property
    def texts(self) -> list[str]:
        """The texts of the candidates."""
        return [candidate.text for candidate in self.candidates]


@dataclass(frozen=True)
class FeatureMaker:
    """Computes features.

    - `prior`: the logarithm of the expected SCS under the joined posterior, which is the density
      of that posterior at the candidate, with the SCS as the kernel.
    - `written`: the density of the posteriors of language models alone.
    - `retrieved`: the density of the posteriors of retrievers and neighbours alone.
    - `embedding`: the SCS with the embedding of the prompt that a retriever predicts.
    - `log_probability`: the log-probability per token of the candidate under the language models,
      in nats.
    - `length`: the logarithm of the number of words.
    - `channel`: log p(rewritten text | original text, candidate) under the channel, in nats.

    Attributes:
        names: The names of the features, in order.
        scs: The metric.
        count: The number of best candidates that have features, ≥ 1.
        writers: The language model of each source; None for sources that have none.
        channel: The channel, if `channel` is one of the names.
    """

    names: tuple[str, ...]
    scs: SCS
    count: int
    writers: "Sequence[Writer | None]" = ()
    channel: Channel | None = None

    def __call__(
        self, pair: Pair, parts: Sequence[Posterior | None], joined: Posterior
    ) -> Features | None:
        """The features of a pair's best candidates; None if it has no candidate.

        Args:
            pair: The pair.
            parts: The posterior of each source.
            joined: Their weighted sum.
        """
        candidates = tuple(rank(joined, self.scs)[: self.count])
        if not candidates:
            return None
        texts = [candidate.text for candidate in candidates]
        columns = [self._column(name, pair, parts, candidates, texts) for name in self.names]
        utility = self.scs.matrix(texts, texts).astype(np.float64)
        return Features(candidates, np.stack(columns, axis=1), utility)

    def _column(
        self,
        name: str,
        pair: Pair,
        parts: Sequence[Posterior | None],
        candidates: Sequence[Candidate],
        texts: list[str],
    ) -> NDArray[np.float64]:
        columns: list[NDArray[Any]]
        match name:
            case "prior":
                columns = [np.log([max(candidate.score, _LEAST) for candidate in candidates])]
            case "written" | "retrieved":
                columns = [
                    self._density(texts, part)
                    for part, writer in zip(parts, self.writers, strict=True)
                    if part is not None and (writer is not None) == (name == "written")
                ]
            case "embedding":
                found = [e.vector for part in parts if part is not None for e in part.embeddings]
                columns = [self.scs.with_vectors(texts, vector[None])[:, 0] for vector in found]
            case "log_probability":
                models = [writer for writer in self.writers if writer is not None]
                columns = [np.array(model.mean_log_probabilities(pair, texts)) for model in models]
            case "length":
                columns = [np.log([max(len(text.split()), 1) for text in texts])]
            case "channel" if self.channel is not None:
                columns = [np.array(self.channel(pair, texts))]
            case _:
                raise ValueError(f"no such feature: {name}")
        # A source that says nothing about the pair makes no difference between its candidates.
        mean = np.mean(columns or [np.zeros(len(texts))], axis=0, dtype=np.float64)
        return np.asarray(mean, np.float64)

    def _density(self, texts: list[str], part: Posterior) -> NDArray[np.float64]:
        """The expected SCS of each text under a posterior; a sample does not vote for itself."""
        bare = part.with_embedding_share(0.0)
        if not bare.texts:
            return np.zeros(len(texts))
        utility = self.scs.matrix(texts, list(bare.texts)).astype(np.float64)
        place = {text: n for n, text in enumerate(bare.texts)}
        own = np.array(
            [min(bare.one_vote[place[t]], bare.votes[place[t]]) if t in place else 0 for t in texts]
        )
        votes = np.asarray(bare.votes, np.float64)
        return np.asarray((utility @ votes - own) / np.maximum(votes.sum() - own, 1e-12))
