"""Choosing among what a model says: minimum Bayes risk under SCS."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.metrics.scs import SCS


def expected_scs(
    texts: Sequence[str], votes: Sequence[float] | NDArray[np.float64], scs: SCS
) -> NDArray[np.float64]:
    """How well each text would score if the truth were one of the others (MBR: Kumar and Byrne,
    NAACL 2004; by sampling: Eikema and Aziz, arXiv 2005.10283).

    Args:
        texts: n ≥ 1 distinct texts.
        votes: [n], how much each stands for, > 0: how often it was sampled, or its probability.
        scs: the utility.

    Returns:
        fp64 [n], in [-1, 1]: Σ_j v_j SCS(i, j) / Σ_j v_j, without the first vote of a text for
        itself. A lone text has nobody to agree with: 0.
    """
    weights = np.asarray(votes, np.float64)
    if len(texts) == 1 and weights[0] <= 1:
        return np.zeros(1)
    utility = scs.matrix(texts, texts).astype(np.float64)
    own = np.minimum(weights, 1.0)
    total = weights.sum() - own
    return np.asarray((utility @ weights - own * np.diag(utility)) / np.maximum(total, 1e-12))


@dataclass(frozen=True)
class Samples:
    """What one recoverer said to a pair, blank and repeated answers included.

    Attributes:
        texts: n ≥ 1 answers.
        log_probabilities: of each under the recoverer.
        weight: how much each counts among the samples of others, > 0.
    """

    texts: Sequence[str]
    log_probabilities: Sequence[float]
    weight: float = 1.0

    def votes(self, by_probability: bool) -> dict[str, float]:
        """Distinct text → its votes, n · weight in all; blank texts have none.

        Args:
            by_probability: a text's votes are its share of the probability of all distinct ones,
                in place of the number of times it was sampled.
        """
        counts = Counter(text for text in self.texts if text.strip())
        if not by_probability or not counts:
            return {text: count * self.weight for text, count in counts.items()}
        known = self.best()
        values = np.array([known[text] for text in counts])
        shares = np.exp(values - values.max())
        votes = shares / shares.sum() * len(self.texts) * self.weight
        return dict(zip(counts, votes.tolist(), strict=True))

    def best(self) -> dict[str, float]:
        """Text → its highest log-probability."""
        known: dict[str, float] = {}
        for text, value in zip(self.texts, self.log_probabilities, strict=True):
            known[text] = max(known.get(text, -np.inf), value)
        return known


def rank(
    groups: Sequence[Samples], scs: SCS, by_probability: bool = False
) -> list[tuple[str, float, float]]:
    """The samples of one or several recoverers as distinct texts, the best first.

    Args:
        groups: the samples of each recoverer.
        scs: the utility.
        by_probability: as for `Samples.votes`; shares are taken within a recoverer, since the
            probabilities of different models are not comparable.

    Returns:
        (text, its highest log-probability, expected SCS); nothing if all are blank.
    """
    votes: Counter[str] = Counter()
    known: dict[str, float] = {}
    for group in groups:
        votes.update(group.votes(by_probability))
        for text, value in group.best().items():
            known[text] = max(known.get(text, -np.inf), value)
    if not votes:
        return []
    texts = list(votes)
    values = expected_scs(texts, [votes[t] for t in texts], scs)
    order = sorted(range(len(texts)), key=lambda i: (-values[i], -known[texts[i]]))
    return [(texts[i], known[texts[i]], float(values[i])) for i in order]
