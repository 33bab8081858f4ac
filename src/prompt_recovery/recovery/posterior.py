"""What is believed about the prompt of a pair: texts with weights.

A model's samples, the prompts of similar examples, and sums of these are all posteriors.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a model.

    Attributes:
        raw: as the model wrote it.
        text: cleaned of chatter; may be blank.
        log_probability: log p of all its tokens under the model, ≤ 0.
        mean_log_probability: the same per token, the end of the answer included.
    """

    raw: str
    text: str
    log_probability: float
    mean_log_probability: float


@dataclass(frozen=True)
class Posterior:
    """The belief about one pair's prompt: texts with weights that sum to 1.

    The weights are kept as votes, of which a sample has one. MBR needs to know how many votes stand
    behind a text, because a text must not vote for itself.

    Attributes:
        texts: n ≥ 0 distinct texts, none of them blank.
        votes: [n], how much each text counts, > 0.
        own: [n], the votes of one appearance of each text, which it may not give to itself.
        log_probabilities: [n], the highest log-probability of each text under a model that wrote
            it; None for what no model wrote.
        mean_log_probabilities: [n], the same per token.
        size: all votes, those of blank answers included, > 0.
    """

    texts: tuple[str, ...]
    votes: tuple[float, ...]
    own: tuple[float, ...]
    log_probabilities: tuple[float | None, ...]
    mean_log_probabilities: tuple[float | None, ...]
    size: float

    @property
    def weights(self) -> NDArray[np.float64]:
        """fp64 [n], summing to 1 unless n is 0."""
        votes = np.asarray(self.votes, np.float64)
        return np.asarray(votes / votes.sum()) if len(votes) else votes

    @classmethod
    def of_completions(
        cls, completions: Sequence[Completion], by_probability: bool = False
    ) -> "Posterior":
        """What one model's answers to a pair say about its prompt.

        Args:
            completions: at least one, blank and repeated ones included.
            by_probability: a text counts by its share of the probability of all distinct texts, in
                place of the number of times that it was written. There are as many votes in all as
                completions.
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
            own=(1.0,) * len(counts),
            log_probabilities=tuple(known[text][0] for text in counts),
            mean_log_probabilities=tuple(known[text][1] for text in counts),
            size=float(len(completions)),
        )

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> "Posterior":
        """Texts that no model wrote, one vote each; repeated texts get more.

        Args:
            texts: at least one.
        """
        counts = Counter(text for text in texts if text.strip())
        nothing = (None,) * len(counts)
        return cls(
            texts=tuple(counts),
            votes=tuple(float(count) for count in counts.values()),
            own=(1.0,) * len(counts),
            log_probabilities=nothing,
            mean_log_probabilities=nothing,
            size=float(len(texts)),
        )

    def scaled(self, factor: float) -> "Posterior":
        """The same belief with `factor` times the votes; factor > 0."""
        return Posterior(
            self.texts,
            tuple(vote * factor for vote in self.votes),
            tuple(vote * factor for vote in self.own),
            self.log_probabilities,
            self.mean_log_probabilities,
            self.size * factor,
        )


def weighted_sum(parts: Iterable[tuple[Posterior, float]]) -> Posterior:
    """The weighted sum of posteriors, such as those of an ensemble's members.

    Args:
        parts: at least one posterior with its weight > 0. A posterior of twice the weight has twice
            as many votes, whatever the sizes of the two.
    """
    parts = list(parts)
    size = parts[0][0].size
    votes: dict[str, float] = {}
    own: dict[str, float] = {}
    total: dict[str, float | None] = {}
    mean: dict[str, float | None] = {}
    for posterior, weight in parts:
        # w · n / n is not always exactly w.
        factor = weight if posterior.size == size else weight * size / posterior.size
        part = posterior.scaled(factor)
        for n, text in enumerate(part.texts):
            votes[text] = votes.get(text, 0.0) + part.votes[n]
            own[text] = max(own.get(text, 0.0), part.own[n])
            total[text] = _higher(total.get(text), part.log_probabilities[n])
            mean[text] = _higher(mean.get(text), part.mean_log_probabilities[n])
    return Posterior(
        texts=tuple(votes),
        votes=tuple(votes.values()),
        own=tuple(own.values()),
        log_probabilities=tuple(total.values()),
        mean_log_probabilities=tuple(mean.values()),
        size=size * sum(weight for _, weight in parts),
    )


def _higher(one: float | None, other: float | None) -> float | None:
    return max((v for v in (one, other) if v is not None), default=None)
