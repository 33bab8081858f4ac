"""Choosing among what a model says: minimum Bayes risk under SCS."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.metrics.scs import SCS


def expected_scs(
    texts: Sequence[str],
    votes: Sequence[float] | NDArray[np.float64],
    scs: SCS,
    own: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """How well each text would score if the truth were one of the others (MBR: Kumar and Byrne,
    NAACL 2004; by sampling: Eikema and Aziz, arXiv 2005.10283).

    Args:
        texts: n ≥ 1 distinct texts.
        votes: [n], how much each stands for, > 0: how often it was sampled, or its probability.
        scs: the utility.
        own: [n], how many of its votes a text may not give to itself: those of one appearance, 1
            where nothing else is said.

    Returns:
        fp64 [n], in [-1, 1]: Σ_j v_j SCS(i, j) / Σ_j v_j, without a text's own votes. A lone text
        has nobody to agree with: 0.
    """
    weights = np.asarray(votes, np.float64)
    kept_out = np.minimum(weights, 1.0 if own is None else np.asarray(own, np.float64))
    if len(texts) == 1 and weights[0] <= kept_out[0]:
        return np.zeros(1)
    utility = scs.matrix(texts, texts).astype(np.float64)
    total = weights.sum() - kept_out
    return np.asarray((utility @ weights - kept_out * np.diag(utility)) / np.maximum(total, 1e-12))


@dataclass(frozen=True)
class Samples:
    """What one recoverer said to a pair, blank and repeated answers included.

    Attributes:
        texts: n ≥ 1 answers.
        log_probabilities: of each under the recoverer; None for what no model said.
        weight: how much each counts among the samples of others, > 0.
    """

    texts: Sequence[str]
    log_probabilities: Sequence[float | None]
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
        values = np.array([known[text] for text in counts], np.float64)
        shares = np.exp(values - values.max())
        votes = shares / shares.sum() * len(self.texts) * self.weight
        return dict(zip(counts, votes.tolist(), strict=True))

    def best(self) -> dict[str, float | None]:
        """Text → its highest log-probability."""
        known: dict[str, float | None] = {}
        for text, value in zip(self.texts, self.log_probabilities, strict=True):
            known[text] = _higher(known.get(text), value)
        return known


def _higher(one: float | None, other: float | None) -> float | None:
    return max((v for v in (one, other) if v is not None), default=None)


def rank(
    groups: Sequence[Samples], scs: SCS, by_probability: bool = False
) -> list[tuple[str, float | None, float]]:
    """The samples of one or several recoverers as distinct texts, the best first.

    Args:
        groups: the samples of each recoverer.
        scs: the utility.
        by_probability: as for `Samples.votes`; shares are taken within a recoverer, since the
            probabilities of different models are not comparable.

    Returns:
        (text, its highest log-probability, expected SCS); nothing if all are blank.
        What no model said has no log-probability (None).
    """
    votes: Counter[str] = Counter()
    own: dict[str, float] = {}
    known: dict[str, float | None] = {}
    for group in groups:
        votes.update(said := group.votes(by_probability))
        own |= {text: max(own.get(text, 0.0), group.weight) for text in said}
        for text, value in group.best().items():
            known[text] = _higher(known.get(text), value)
    if not votes:
        return []
    texts = list(votes)
    values = expected_scs(texts, [votes[t] for t in texts], scs, [own[t] for t in texts])
    unlikely = [np.inf if (value := known[text]) is None else -value for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (-values[i], unlikely[i]))
    return [(texts[i], known[texts[i]], float(values[i])) for i in order]
