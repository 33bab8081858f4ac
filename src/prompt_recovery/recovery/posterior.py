"""Posteriors over the prompt of a pair: texts with weights.

A model's samples, the prompts of a bank that a retriever finds, and sums of these are all
posteriors. A dense retriever also predicts the embedding of the prompt: part of its posterior may
lie on that embedding, for which no text is known.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a model.

    Attributes:
        raw: The answer as the model wrote it.
        text: The answer cleaned of chatter; may be blank.
        log_probability: The log-probability of all its tokens under the model, ≤ 0.
        mean_log_probability: The log-probability per token, with the end of the answer counted.
    """

    raw: str
    text: str
    log_probability: float
    mean_log_probability: float


@dataclass(frozen=True, slots=True, eq=False)
class PredictedEmbedding:
    """What a retriever believes the embedding of the prompt to be.

    Attributes:
        vector: fp32 [d], of length 1, in the space of the metric's encoder.
        votes: Its votes, > 0: candidates near it gain as if a text with this embedding had them.
    """

    vector: NDArray[np.float32]
    votes: float


@dataclass(frozen=True)
class Posterior:
    """A distribution over the prompt of one pair: texts with weights that sum to 1.

    The weights are stored as votes, one for each sample, since MBR has to leave out one vote: a
    sample must not vote for itself.

    Attributes:
        texts: n ≥ 0 distinct texts, none of which is blank.
        votes: [n], the votes of each text, > 0.
        one_vote: [n], the weight of one vote for each text: that of the sample which is the
            candidate, and therefore doesn't vote for it. 0 for a text that nobody sampled.
        log_probabilities: [n], the highest log-probability of each text under a model that wrote
            it; None if no model wrote it.
        mean_log_probabilities: [n], the highest log-probability per token, likewise.
        size: The number of all votes, including those of blank answers and predicted
            embeddings, > 0.
        embeddings: Predicted embeddings of the prompt, which are not candidates but vote for them.
        familiarity: How near the pair is to training examples, in [0, 1] (see
            `recovery.familiarity`); None if the source doesn't measure it.
        families: [n], the number of the text that each text is a rewording of, or its own number.
            Texts of one family don't vote for each other. Empty if there are no rewordings;
            `weighted_sum` leaves it out.
    """

    texts: tuple[str, ...]
    votes: tuple[float, ...]
    one_vote: tuple[float, ...]
    log_probabilities: tuple[float | None, ...]
    mean_log_probabilities: tuple[float | None, ...]
    size: float
    embeddings: tuple[PredictedEmbedding, ...] = ()
    familiarity: float | None = None
    families: tuple[int, ...] = ()

    @property
    def weights(self) -> NDArray[np.float64]:
        """fp64 [n], summing to 1 unless n is 0."""
        votes = np.asarray(self.votes, np.float64)
        return np.asarray(votes / votes.sum()) if len(votes) else votes

    @classmethod
    def of_completions(
        cls, completions: Sequence[Completion], by_probability: bool = False
    ) -> "Posterior":
        """The posterior of a model that wrote these answers to a pair.

        Args:
            completions: At least one answer; blank and repeated answers are allowed.
            by_probability: Weigh each distinct text by its probability under the model, instead of
                the number of times that it was written.
        """
        known: dict[str, tuple[float | None, float | None]] = {}
        for c in completions:
            total, mean = known.get(c.text, (None, None))
            known[c.text] = (
                _higher(total, c.log_probability),
                _higher(mean, c.mean_log_probability),
            )
        counts = Counter(c.text for c in completions if c.text.strip())
        votes = [float(count) for count in counts.values()]
        if by_probability and counts:
            values = np.array([known[text][0] for text in counts], np.float64)
            shares = np.exp(values - values.max())
            votes = (shares / shares.sum() * len(completions)).tolist()
        return cls(
            texts=tuple(counts),
            votes=tuple(votes),
            one_vote=(1.0,) * len(counts),
            log_probabilities=tuple(known[text][0] for text in counts),
            mean_log_probabilities=tuple(known[text][1] for text in counts),
            size=float(len(completions)),
        )

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> "Posterior":
        """A posterior over texts that no model wrote, with one vote for each occurrence.

        Args:
            texts: At least one text; repeated texts are allowed.
        """
        counts = Counter(text for text in texts if text.strip())
        nothing = (None,) * len(counts)
        return cls(
            texts=tuple(counts),
            votes=tuple(float(count) for count in counts.values()),
            one_vote=(1.0,) * len(counts),
            log_probabilities=nothing,
            mean_log_probabilities=nothing,
            size=float(len(texts)),
        )

    @classmethod
    def of_weights(
        cls,
        texts: Sequence[str],
        weights: Sequence[float] | NDArray[np.float64],
        embedding: NDArray[np.float32] | None = None,
        share: float = 0.0,
    ) -> "Posterior":
        """The posterior of a retriever, which knows the probability of each text.

        All of a text's own weight counts for it, since a probability, unlike a sample, is not
        itself the candidate.

        Args:
            texts: n ≥ 0 distinct texts, none of which is blank.
            weights: [n], > 0; only their ratios matter.
            embedding: fp32 [d], of length 1: the predicted embedding of the prompt.
            share: The share of all votes that the predicted embedding has, in [0, 1).
        """
        nothing = (None,) * len(texts)
        total = float(np.sum(weights))
        own = embedding is not None and share > 0
        return cls(
            texts=tuple(texts),
            votes=tuple((1 - share if own else 1.0) * float(w) / total for w in weights),
            one_vote=(0.0,) * len(texts),
            log_probabilities=nothing,
            mean_log_probabilities=nothing,
            size=1.0,
            embeddings=(PredictedEmbedding(embedding, share),)
            if own and embedding is not None
            else (),
        )

    def with_embedding_share(self, share: float) -> "Posterior":
        """The same posterior with this share of all votes on its predicted embeddings.

        A posterior without predicted embeddings stays as it is.

        Args:
            share: The share, in [0, 1); 0 leaves the predicted embeddings out.
        """
        if not self.embeddings:
            return self
        believed = sum(e.votes for e in self.embeddings)
        rest = (1 - share) * self.size / (self.size - believed)
        own = share * self.size / believed
        return replace(
            self,
            votes=tuple(vote * rest for vote in self.votes),
            one_vote=tuple(vote * rest for vote in self.one_vote),
            embeddings=tuple(PredictedEmbedding(e.vector, e.votes * own) for e in self.embeddings)
            if share > 0
            else (),
        )

    def scaled(self, factor: float) -> "Posterior":
        """The same posterior with all votes multiplied by `factor` > 0."""
        return Posterior(
            self.texts,
            tuple(vote * factor for vote in self.votes),
            tuple(vote * factor for vote in self.one_vote),
            self.log_probabilities,
            self.mean_log_probabilities,
            self.size * factor,
            tuple(PredictedEmbedding(e.vector, e.votes * factor) for e in self.embeddings),
            self.familiarity,
            self.families,
        )


def weighted_sum(parts: Iterable[tuple[Posterior, float]]) -> Posterior:
    """The weighted sum of posteriors, such as those of an ensemble's members.

    Args:
        parts: At least one posterior, each with a weight > 0. The weight is that of all votes of
            the posterior together, however many there are.
    """
    parts = list(parts)
    if len(parts) == 1:
        [(posterior, weight)] = parts
        return posterior.scaled(weight)
    size = parts[0][0].size
    votes: dict[str, float] = {}
    one_vote: dict[str, float] = {}
    total: dict[str, float | None] = {}
    mean: dict[str, float | None] = {}
    embeddings: list[PredictedEmbedding] = []
    for posterior, weight in parts:
        # Only the ratios of the weights matter: each part gets as many votes as the first part has
        # samples, times its weight. w · n / n is not always exactly w.
        factor = weight if posterior.size == size else weight * size / posterior.size
        part = posterior.scaled(factor)
        embeddings += part.embeddings
        for n, text in enumerate(part.texts):
            votes[text] = votes.get(text, 0.0) + part.votes[n]
            # The candidate is one sample of one part, so one vote is left out: the heaviest.
            one_vote[text] = max(one_vote.get(text, 0.0), part.one_vote[n])
            total[text] = _higher(total.get(text), part.log_probabilities[n])
            mean[text] = _higher(mean.get(text), part.mean_log_probabilities[n])
    return Posterior(
        texts=tuple(votes),
        votes=tuple(votes.values()),
        one_vote=tuple(one_vote.values()),
        log_probabilities=tuple(total.values()),
        mean_log_probabilities=tuple(mean.values()),
        size=size * sum(weight for _, weight in parts),
        embeddings=tuple(embeddings),
        familiarity=familiarity_of(posterior for posterior, _ in parts),
    )


def familiarity_of(parts: Iterable[Posterior | None]) -> float | None:
    """Returns the familiarity measured by the first source that measures one."""
    known = (part.familiarity for part in parts if part is not None)
    return next((value for value in known if value is not None), None)


def _higher(one: float | None, other: float | None) -> float | None:
    return max((v for v in (one, other) if v is not None), default=None)
