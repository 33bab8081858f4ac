"""Choosing among what a model says: minimum Bayes risk under SCS."""

from collections.abc import Sequence

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


def rank(
    texts: Sequence[str], log_probabilities: Sequence[float], scs: SCS, by_probability: bool
) -> list[tuple[str, float, float]]:
    """Samples, repeated ones included, as distinct texts, the best first.

    Args:
        texts: the samples; blank ones don't count.
        log_probabilities: of each under the model.
        scs: the utility.
        by_probability: a text's votes are its share of the probability of all distinct ones, in
            place of the number of times it was sampled.

    Returns:
        (text, log-probability, expected SCS); nothing if all are blank.
    """
    known: dict[str, float] = {}
    counts: dict[str, int] = {}
    for text, value in zip(texts, log_probabilities, strict=True):
        if text.strip():
            known[text] = max(known.get(text, -np.inf), value)
            counts[text] = counts.get(text, 0) + 1
    if not known:
        return []
    distinct = list(known)
    votes = np.array([counts[t] for t in distinct], np.float64)
    if by_probability:
        values = np.array([known[t] for t in distinct])
        shares = np.exp(values - values.max())
        votes = shares / shares.sum() * len(texts)
    values = expected_scs(distinct, votes, scs)
    order = sorted(range(len(distinct)), key=lambda i: (-values[i], -known[distinct[i]]))
    return [(distinct[i], known[distinct[i]], float(values[i])) for i in order]
