"""How sources of a recoverer join: their weights, which depend on the pair.

A dense retriever is the better source for pairs like its training examples, and the worse one for
other pairs, to which a language model generalises better. So there are two sets of weights, for
familiar and for unfamiliar pairs, and the weights of a pair lie between them by its *familiarity*:
how near it is to the training examples (`Posterior.familiarity`).

The weights for familiar pairs are fitted on validation examples. All of these are familiar, so that
nothing can be fitted on them for unfamiliar pairs, whose weights are a default. It was found with
prototypes trained on the starter (MiniLM, and Qwen2.5-Coder-1.5B with 16 samples): with a weight of
0.7 for the model, the SCS was 0.150 on 100 pairs of another source and 0.108 on 190 pairs of a
third one; with equal weights, it was 0.126 and 0.094.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.metrics.statistics import folds, gains_an_error, standard_error
from prompt_recovery.recovery.posterior import Posterior, familiarity_of, weighted_sum
from prompt_recovery.settings import NotNegative, checked
from prompt_recovery.storage import MALFORMED


@checked("joining")
@dataclass(frozen=True)
class Joining:
    """The weights of the sources of a recoverer, as a function of a pair's familiarity.

    Attributes:
        familiar: The weight of each source for a familiar pair, ≥ 0, not all 0.
        unfamiliar: The weight of each source for an unfamiliar pair, likewise.
        embedding: The share that a predicted embedding has in the votes of its source, in [0, 1).
        low: The familiarity at and below which a pair is unfamiliar.
        high: The familiarity at and above which a pair is familiar, > `low`.
    """

    familiar: Sequence[NotNegative]
    unfamiliar: Sequence[NotNegative]
    embedding: Annotated[float, Ge(0), Lt(1)] = 0.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if len(self.familiar) != len(self.unfamiliar):
            raise PromptRecoveryError(
                f"joining: {len(self.familiar)} weights for familiar pairs and "
                f"{len(self.unfamiliar)} for unfamiliar ones; give one for each source"
            )
        sums = sum(self.familiar), sum(self.unfamiliar)
        if not all(0 < total < math.inf for total in sums):
            raise PromptRecoveryError("joining: the weights must have a finite sum > 0")
        if not self.low < self.high:
            raise PromptRecoveryError(f"joining: low={self.low} must be less than high={self.high}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Joining":
        """From plain values, as `asdict` gives them.

        Raises:
            PromptRecoveryError: If a value is missing, of another type, or out of range.
        """
        try:
            return cls(
                tuple(float(w) for w in values["familiar"]),
                tuple(float(w) for w in values["unfamiliar"]),
                float(values["embedding"]),
                float(values["low"]),
                float(values["high"]),
            )
        except MALFORMED as error:
            raise PromptRecoveryError(
                f"joining: the recorded weights are damaged ({type(error).__name__})"
            ) from error

    def trust(self, familiarity: float | None) -> float:
        """How familiar a pair is, from 0 (`low` and below) to 1 (`high` and above, or unknown)."""
        if familiarity is None:
            return 1.0
        return float(np.clip((familiarity - self.low) / (self.high - self.low), 0.0, 1.0))

    def weights(self, familiarity: float | None) -> tuple[float, ...]:
        """The weight of each source for a pair; they sum to 1."""
        near = self.trust(familiarity)
        home, away = sum(self.familiar), sum(self.unfamiliar)
        return tuple(
            near * one / home + (1 - near) * other / away
            for one, other in zip(self.familiar, self.unfamiliar, strict=True)
        )

    def join(self, parts: Sequence[Posterior | None]) -> Posterior | None:
        """The weighted sum of the posteriors of a pair.

        Args:
            parts: The posterior of each source; None where it says nothing about the pair. The
                first familiarity that one of them measures is that of the pair, even if this source
                has no weight.

        Returns:
            The sum, or None if no source with a weight says anything.
        """
        familiarity = familiarity_of(parts)
        said = [
            (posterior.with_embedding_share(self.embedding), weight)
            for posterior, weight in zip(parts, self.weights(familiarity), strict=True)
            if posterior is not None and weight > 0
        ]
        return replace(weighted_sum(said), familiarity=familiarity) if said else None


SHARES = tuple(n / 10 for n in range(1, 10))
"""The weights of the retrievers together that are tried for familiar pairs."""
EMBEDDING_SHARES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7)
"""The shares of a predicted embedding that are tried."""


@dataclass(frozen=True)
class JoiningFit:
    """Weights fitted on validation examples.

    Attributes:
        joining: The weights; the default unless the fitted ones gain at least a standard error.
        scs: The mean SCS on these examples if each is answered with weights fitted on the other
            nine tenths of them, none of which has the same prompt: what can be expected of fitted
            weights on such pairs.
        scs_default: Their mean SCS with the weights that the fit started from.
        error: The standard error of the difference between the two.
    """

    joining: Joining
    scs: float
    scs_default: float
    error: float


class Judged:
    """An example whose answer under any weights can be found quickly.

    Args:
        parts: The posterior of each source; None where it says nothing about the pair.
        truth: The prompt.
        scs: The metric.
    """

    def __init__(self, parts: Sequence[Posterior | None], truth: str, scs: SCS) -> None:
        self.prompt = truth
        self.familiarity = familiarity_of(parts)
        self.texts = sorted({text for part in parts if part is not None for text in part.texts})
        self._said = np.array([part is not None for part in parts])
        shape = (len(parts), len(self.texts))
        self._votes, self._own, self._one = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._embeds = np.zeros(len(parts), bool)
        self._actual = np.zeros(0)
        if not self.texts:
            return
        number = {text: n for n, text in enumerate(self.texts)}
        for n, part in enumerate(parts):
            if part is None:
                continue
            bare = part.with_embedding_share(0.0)
            columns = [number[text] for text in bare.texts]
            self._votes[n, columns] = np.asarray(bare.votes) / bare.size
            self._one[n, columns] = np.asarray(bare.one_vote) / bare.size
            if part.embeddings:
                self._embeds[n] = True
                vectors = np.stack([e.vector for e in part.embeddings])
                votes = np.array([e.votes for e in part.embeddings])
                self._own[n] = scs.with_vectors(self.texts, vectors) @ (votes / votes.sum())
        utility = scs.matrix(self.texts, self.texts).astype(np.float64)
        self._mass = self._votes.sum(axis=1)
        self._expected = self._votes @ utility
        self._with_itself = np.diag(utility)
        self._actual = scs.matrix(self.texts, [truth])[:, 0].astype(np.float64)

    def answered(self, joining: Joining) -> float:
        """The SCS of the answer that MBR chooses with these weights; 0 if there is none."""
        weights = np.array(joining.weights(self.familiarity)) * self._said
        if not self.texts or not weights.any():
            return 0.0
        own = self._embeds * joining.embedding
        bare = weights * (1 - own)
        kept_out = np.minimum((bare[:, None] * self._one).max(axis=0), bare @ self._votes)
        gained = bare @ self._expected + (weights * own) @ self._own
        gained -= kept_out * self._with_itself
        total = bare @ self._mass + (weights * own).sum() - kept_out
        open_to = (bare[:, None] * self._votes).sum(axis=0) > 0  # candidates of a weightless source
        scores = np.where(open_to, gained / np.maximum(total, 1e-12), -np.inf)
        return float(self._actual[int(scores.argmax())])


def fit(examples: Sequence[Judged], default: Joining, retrievers: Sequence[int]) -> JoiningFit:
    """Fits the weights for familiar pairs, and the share of predicted embeddings.

    Of all weights whose mean SCS is within one standard error of the best, those nearest to the
    default are chosen (Breiman et al., Classification and Regression Trees, 1984): a hundred
    examples say little, and the weights that happen to be best on them promise too much. They are
    kept only if, in cross-fitting, they gain at least a standard error over the default.

    Args:
        examples: At least one validation example.
        default: The weights to stay near to.
        retrievers: The numbers of the sources whose weight together is fitted. The ratios of their
            weights stay, and so do those of the other sources. The weights for unfamiliar pairs
            stay, except that retrievers get no more there than for familiar pairs. If all sources
            are retrievers, or none, only the share of predicted embeddings is fitted.
    """
    start = _share(default.familiar, retrievers)
    shares = sorted({*SHARES, start}) if 0 < len(retrievers) < len(default.familiar) else [start]
    embeddings = sorted({*EMBEDDING_SHARES, default.embedding}) if retrievers else [0.0]
    tried = [(share, own) for share in shares for own in embeddings]
    joinings = [_with(default, retrievers, share, own) for share, own in tried]
    scores = np.array([[e.answered(joining) for e in examples] for joining in joinings])
    distances = np.array([abs(s - start) + abs(own - default.embedding) for s, own in tried])
    groups = [normalise(e.prompt) for e in examples]
    fold = folds(groups)
    plain = scores[distances.argmin()]
    crossed = plain.copy()
    for number in range(int(fold.max()) + 1 if fold.any() else 0):
        others = fold != number
        crossed[~others] = scores[_simplest(scores[:, others], distances)][~others]
    gain = crossed - plain
    helps = gains_an_error(gain, groups)
    return JoiningFit(
        joinings[_simplest(scores, distances) if helps else distances.argmin()],
        float(crossed.mean()),
        float(plain.mean()),
        float(standard_error(gain, groups)),
    )


def _simplest(scores: NDArray[np.float64], distances: NDArray[np.float64]) -> int:
    """The row nearest to the default of those within a standard error of the best; [rows, n]."""
    behind = scores[scores.mean(axis=1).argmax()] - scores
    good = np.flatnonzero(behind.mean(axis=1) <= standard_error(behind) + 1e-12)
    return int(min(good, key=lambda row: (distances[row], -scores[row].mean())))


def _share(weights: Sequence[float], retrievers: Sequence[int]) -> float:
    """The share of the retrievers in the weights of all sources."""
    return sum(weights[n] for n in retrievers) / sum(weights)


def _with(default: Joining, retrievers: Sequence[int], share: float, embedding: float) -> Joining:
    """The default with another share of the retrievers, and of predicted embeddings."""
    away = min(_share(default.unfamiliar, retrievers), share)
    return replace(
        default,
        familiar=scaled(default.familiar, retrievers, share),
        unfamiliar=scaled(default.unfamiliar, retrievers, away),
        embedding=embedding,
    )


def scaled(weights: Sequence[float], retrievers: Sequence[int], share: float) -> tuple[float, ...]:
    """Weights that sum to 1, of which the retrievers have this share; ratios within both stay."""
    total, theirs = sum(weights), _share(weights, retrievers)
    if theirs in (0.0, 1.0):
        factors = {True: 1.0, False: 1.0}
    else:
        factors = {True: share / theirs, False: (1 - share) / (1 - theirs)}
    return tuple(round(factors[n in retrievers] * w / total, 9) for n, w in enumerate(weights))
