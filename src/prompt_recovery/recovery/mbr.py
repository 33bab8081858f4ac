"""Minimum Bayes risk: the text with the highest expected SCS under a posterior.

The texts that vote need not be the only candidates: the hypothesis space of MBR may be larger than
its evidence space (Tromble et al., EMNLP 2008). Many rewrites fit several prompts, and a prompt
that names two of them is near both. So two good candidates are also joined to one prompt.
"""

import re
from collections.abc import Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.recovery.posterior import Posterior, PredictedEmbedding

_ALIKE = 0.35  # the SCS of two prompts for the same request, such as "in verse" and "as a poem"
_SAME = 0.7  # the SCS of a prompt and one that adds nothing to it but words
_CONSIDERED = 60
_ENDS = ".!,;:"  # what a first part loses at its end


def expected_scs(
    texts: Sequence[str],
    votes: Sequence[float] | NDArray[np.float64],
    scs: SCS,
    one_vote: Sequence[float] | None = None,
    embeddings: Sequence[PredictedEmbedding] = (),
    families: Sequence[int] = (),
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
        families: [n], as in `Posterior`. One of the votes of each text in a text's family doesn't
            count for it.

    Returns:
        fp64 [n], in [-1, 1]: Σ_j v_j SCS(i, j) / Σ_j v_j over texts and embeddings, without one of
        the text's own votes; 0 for a single text with no other votes.
    """
    weights = np.asarray(votes, np.float64)
    kept_out = np.minimum(weights, 1.0 if one_vote is None else np.asarray(one_vote, np.float64))
    if len(texts) == 1 and weights[0] <= kept_out[0] and not embeddings:
        return np.zeros(1)
    utility = scs.matrix(texts, texts).astype(np.float64)
    same = _same(len(texts), families)
    gained = utility @ weights - (utility * same) @ kept_out
    total = weights.sum() - same @ kept_out
    if embeddings:
        predicted = np.array([e.votes for e in embeddings], np.float64)
        gained += scs.with_vectors(texts, np.stack([e.vector for e in embeddings])) @ predicted
        total += predicted.sum()
    return np.asarray(gained / np.maximum(total, 1e-12))


def _same(count: int, families: Sequence[int]) -> NDArray[np.bool_]:
    """Whether two of n texts belong to one family, [n, n]."""
    family = np.asarray(families or range(count))
    return np.asarray(family[:, None] == family[None])


def expected_under(texts: Sequence[str], posterior: Posterior, scs: SCS) -> NDArray[np.float64]:
    """The expected SCS of texts that need not be among those of a posterior.

    Args:
        texts: n texts, none of which is blank.
        posterior: At least one text or predicted embedding.
        scs: The utility.

    Returns:
        fp64 [n], in [-1, 1].
    """
    if not texts:
        return np.zeros(0)
    _, gained, total = _gained(texts, posterior, scs)
    return gained / total


def _gained(
    texts: Sequence[str], posterior: Posterior, scs: SCS
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """The SCS of n ≥ 1 texts and those of a posterior, [n, m], its sum by votes, and all votes."""
    utility = np.zeros((len(texts), 0), np.float32)
    gained, total = np.zeros(len(texts)), 0.0
    if posterior.texts:
        votes = np.asarray(posterior.votes, np.float64)
        utility = scs.matrix(texts, posterior.texts)
        gained += utility @ votes
        total += float(votes.sum())
    if posterior.embeddings:
        votes = np.array([e.votes for e in posterior.embeddings], np.float64)
        vectors = np.stack([e.vector for e in posterior.embeddings])
        gained += scs.with_vectors(texts, vectors) @ votes
        total += float(votes.sum())
    return utility, gained, total


def rank(posterior: Posterior, scs: SCS) -> list[Candidate]:
    """The texts of a posterior with their expected SCS as scores, the best first.

    Texts with equal scores are ordered by their log-probability; texts that no model wrote come
    last.
    """
    if not posterior.texts:
        return []
    texts, known = posterior.texts, posterior.log_probabilities
    values = expected_scs(
        texts,
        posterior.votes,
        scs,
        posterior.one_vote,
        posterior.embeddings,
        posterior.families,
    )
    unlikely = [np.inf if value is None else -value for value in known]
    order = sorted(range(len(texts)), key=lambda i: (-values[i], unlikely[i]))
    return [Candidate(texts[i], known[i], float(values[i])) for i in order]


def rank_with_combined(
    posteriors: Sequence[Posterior], scs: SCS, count: int
) -> list[list[Candidate]]:
    """The same as `rank`, with two texts joined to one in front where more is expected of that.

    A posterior that no model wrote for stays as it is: a retriever alone gained nothing.

    Args:
        posteriors: The posteriors.
        scs: The utility.
        count: The number of best texts of each posterior, any two of which are joined. They ask for
            different things: one that is much like a better one is passed over, and so is what
            means the same as one of its parts. The second part stands in its own words, since the
            first one may name the text already.
    """
    ranked = [rank(posterior, scs) for posterior in posteriors]
    tried = [
        _pairs(_different(found, scs, count), posterior) if any(posterior.one_vote) else []
        for posterior, found in zip(posteriors, ranked, strict=True)
    ]
    made = [[combined(*two) for two in some] for some in tried]
    # Embeds all of them in one call; the encoder keeps their vectors.
    scs.encoder.embed(sorted({text for texts in made for text in texts}) or [""])
    for posterior, found, some, texts in zip(posteriors, ranked, tried, made, strict=True):
        if some:
            expected = _expected_of_combined(texts, some, posterior, scs)
            best = int(expected.argmax())
            if expected[best] > found[0].score:
                found.insert(0, Candidate(texts[best], None, float(expected[best])))
    return ranked


def _different(ranked: Sequence[Candidate], scs: SCS, count: int) -> list[str]:
    """The best texts, no two of which are much alike."""
    texts = [candidate.text for candidate in ranked[:_CONSIDERED]]
    alike = scs.matrix(texts, texts) >= _ALIKE if texts else np.zeros((0, 0), bool)
    kept: list[int] = []
    for n in range(len(texts)):
        if len(kept) < count and not alike[n, kept].any():
            kept.append(n)
    return [texts[n] for n in kept]


def _pairs(texts: Sequence[str], posterior: Posterior) -> list[tuple[str, str]]:
    """Any two of a posterior's texts, in both orders, the second one without rewording."""
    families = zip(posterior.texts, posterior.families, strict=False)  # there may be none
    own = {text: posterior.texts[family] for text, family in families}
    pairs = ((one, own.get(other, other)) for one, other in permutations(texts, 2))
    return [(one, other) for one, other in pairs if one != other]


def combined(first: str, second: str) -> str:
    """One prompt that asks for what two prompts ask for, such as "make it rhyme, for children"."""
    first, second = first.strip(), second.strip()
    if first.endswith("?"):
        return f"{first} {second}"
    return f"{first.rstrip(_ENDS)}, {in_the_middle(second)}"


def in_the_middle(text: str) -> str:
    """A text as it stands in the middle of a sentence, with a small first letter."""
    if re.match(r"(?!I\b)\w[^A-Z\s]*(?:\s|$)", text):  # not "I", "JSON" or "McDonald's"
        return text[0].lower() + text[1:]
    return text


def parts_of(text: str, others: Sequence[str]) -> tuple[str, str] | None:
    """The two of the other texts that were joined to this one, if it was made of two."""
    first_parts = [other for other in others if text.startswith(other.strip().rstrip(_ENDS))]
    for first in first_parts:
        for second in others:
            if second != first and combined(first, second) == text:
                return first, second
    return None


def _expected_of_combined(
    texts: Sequence[str], parts: Sequence[tuple[str, str]], posterior: Posterior, scs: SCS
) -> NDArray[np.float64]:
    """The expected SCS of texts that were joined of two parts each, fp64 [n].

    As in `expected_scs`, a sample doesn't vote for itself, nor for a text that it is a part of. -1
    stands for a text that means the same as one of its parts.
    """
    place = {text: n for n, text in enumerate(posterior.texts)}
    votes = np.asarray(posterior.votes, np.float64)
    own = np.minimum(votes, np.asarray(posterior.one_vote, np.float64))
    utility, gained, all_votes = _gained(texts, posterior, scs)
    same = _same(len(votes), posterior.families)
    adds, kept_out = np.ones(len(texts), bool), np.zeros(utility.shape, bool)
    for part in zip(*parts, strict=True):
        columns = [place[text] for text in part]
        adds &= utility[np.arange(len(texts)), columns] < _SAME
        kept_out |= same[columns]
    gained -= (utility * kept_out) @ own
    total = all_votes - kept_out @ own
    return np.where(adds, gained / np.maximum(total, 1e-12), -1.0)
