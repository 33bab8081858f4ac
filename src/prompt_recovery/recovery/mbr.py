"""Minimum Bayes risk: the text with the highest expected SCS under a posterior."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.recovery.posterior import Posterior, PredictedEmbedding


def expected_scs(
    texts: Sequence[str],
    votes: Sequence[float] | NDArray[np.float64],
    scs: SCS,
    one_vote: Sequence[float] | None = None,
    embeddings: Sequence[PredictedEmbedding] = (),
) -> NDArray[np.float64]:
    """How well each text would score if the truth were one of the others (MBR: Kumar and Byrne,
    NAACL 2004; by sampling: Eikema and Aziz, arXiv 2005.10283).

    This is an expectation under the posterior. How well an answer will really score is its
    confidence, which `recovery.confidence` fits to this value on validation examples.

    Args:
        texts: n ≥ 1 distinct texts.
        votes: [n], the weight of each text, > 0: how often it was sampled, or its probability.
        scs: The utility.
        one_vote: [n], the weight of one vote for each text, 1 by default. One of a text's own votes
            doesn't count for it, since a sample must not vote for itself.
        embeddings: Predicted embeddings of the prompt, which vote like texts.

    Returns:
        fp64 [n], in [-1, 1]: Σ_j v_j SCS(i, j) / Σ_j v_j over texts and embeddings, without one of
        the text's own votes; 0 for a single text with no other votes.
    """
    weights = np.asarray(votes, np.float64)
    kept_out = np.minimum(weights, 1.0 if one_vote is None else np.asarray(one_vote, np.float64))
    if len(texts) == 1 and weights[0] <= kept_out[0] and not embeddings:
        return np.zeros(1)
    utility = scs.matrix(texts, texts).astype(np.float64)
    gained = utility @ weights - kept_out * np.diag(utility)
    total = weights.sum() - kept_out
    if embeddings:
        predicted = np.array([e.votes for e in embeddings], np.float64)
        gained += scs.with_vectors(texts, np.stack([e.vector for e in embeddings])) @ predicted
        total += predicted.sum()
    return np.asarray(gained / np.maximum(total, 1e-12))


def expected_under(texts: Sequence[str], posterior: Posterior, scs: SCS) -> NDArray[np.float64]:
    """The expected SCS of texts that need not be among those of a posterior.

    Args:
        texts: n texts, none of which is blank.
        posterior: At least one text or predicted embedding.
        scs: The utility.

    Returns:
        fp64 [n], in [-1, 1].
    """
    gained, total = np.zeros(len(texts)), 0.0
    if not texts:
        return gained
    if posterior.texts:
        votes = np.asarray(posterior.votes, np.float64)
        gained += scs.matrix(texts, posterior.texts) @ votes
        total += float(votes.sum())
    if posterior.embeddings:
        votes = np.array([e.votes for e in posterior.embeddings], np.float64)
        vectors = np.stack([e.vector for e in posterior.embeddings])
        gained += scs.with_vectors(texts, vectors) @ votes
        total += float(votes.sum())
    return gained / total


def rank(posterior: Posterior, scs: SCS) -> list[Candidate]:
    """The texts of a posterior with their expected SCS as scores, the best first.

    Texts with equal scores are ordered by their log-probability; texts that no model wrote come
    last.
    """
    if not posterior.texts:
        return []
    texts, known = posterior.texts, posterior.log_probabilities
    values = expected_scs(texts, posterior.votes, scs, posterior.one_vote, posterior.embeddings)
    unlikely = [np.inf if value is None else -value for value in known]
    order = sorted(range(len(texts)), key=lambda i: (-values[i], unlikely[i]))
    return [Candidate(texts[i], known[i], float(values[i])) for i in order]
