"""Noisy-channel rescoring: a good candidate also explains the rewrite.

Bayes' rule turned p(prompt | texts) around for translation (Brown et al., Computational Linguistics
1993; with neural models: Yu et al., ICLR 2017): here a rewriter model says how likely it would have
written the rewritten text, had a candidate been the prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.confidence import Calibration, fit
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction, Recoverer
from prompt_recovery.templates import Template

GRID = tuple(n / 20 for n in range(21))
"""Weights of the channel that are tried."""

Channel = Callable[[Pair, Sequence[str]], list[float]]
"""How well prompts explain the rewritten text of a usable pair; see `RewriteLikelihood`."""


@dataclass(frozen=True)
class ChannelSettings:
    """Which rewriter model judges, and how much it counts.

    Attributes:
        backbone: the model; the nearer to the one that wrote the texts, the better.
        template: the rewrite template. Where it has the original text before the prompt, the
            candidates of a pair share the work on that text.
        weight: of the channel, in [0, 1]; None is fitted on validation.
        candidates: so many of a pair's best are rescored, ≥ 1.
        max_text_tokens: most tokens of either text; the rest is cut off.
    """

    backbone: Backbone
    template: Template
    weight: float | None = None
    candidates: int = 8
    max_text_tokens: int = 160

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise PromptRecoveryError(f"channel.weight={self.weight}: must be in [0, 1]")
        for name in ("candidates", "max_text_tokens"):
            if getattr(self, name) < 1:
                raise PromptRecoveryError(f"channel.{name}={getattr(self, name)}: must be ≥ 1")


@dataclass
class NoisyChannel:
    """Ranks candidates by a recoverer's own score and by how well they explain the rewrite.

    A candidate's score is (1 - w) · own + w · (channel - the channel's mean over the pair's
    candidates): how likely a rewrite is at all depends on the texts, and says nothing here.

    Attributes:
        recoverer: proposes candidates; most at home are the scores of MBR, in [-1, 1].
        channel: judges them.
        weight: w, in [0, 1].
        candidates: so many of a pair's best are rescored.
        calibration: from the score of an answer to its expected SCS.
        name: in tables.
    """

    recoverer: Recoverer
    channel: Channel
    weight: float
    candidates: int = 8
    calibration: Calibration | None = None
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or f"{self.recoverer.name}, channel"

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """One prediction for each pair, in order."""
        judged = judge(self.recoverer, self.channel, pairs, self.candidates, progress)
        predictions = [rescored(p, values, self.weight) for p, values in judged]
        if self.calibration is None:
            return predictions
        return [
            replace(p, confidence=self.calibration(p.candidates[0].score)) if p.candidates else p
            for p in predictions
        ]


Judged = tuple[Prediction, list[float]]
"""A prediction and the channel's value for each of its first candidates."""


def judge(
    recoverer: Recoverer,
    channel: Channel,
    pairs: Sequence[Pair],
    candidates: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Judged]:
    """Asks recoverer and channel about pairs, in order."""
    predictions = recoverer.recover(pairs)
    judged = []
    for pair, prediction in zip(pairs, predictions, strict=True):
        texts = [c.text for c in prediction.candidates[:candidates]]
        judged.append((prediction, channel(pair, texts) if texts else []))
        progress(1)
    return judged


def rescored(prediction: Prediction, values: Sequence[float], weight: float) -> Prediction:
    """A prediction with its first candidates ranked anew; the others are left out.

    Args:
        prediction: with candidates, or the fallback.
        values: the channel's, of the first candidates.
        weight: of the channel, in [0, 1].
    """
    if not values:
        return replace(prediction, confidence=None)
    mean = float(np.mean(values))
    ranked = sorted(
        (
            Candidate(c.text, c.log_probability, (1 - weight) * c.score + weight * (v - mean))
            for c, v in zip(prediction.candidates, values, strict=False)
        ),
        key=lambda c: -c.score,
    )
    return Prediction(prediction.id, ranked[0].text, False, tuple(ranked))


@dataclass(frozen=True)
class ChannelFit:
    """What validation says: the weight, the mean SCS with it and without, and the confidence."""

    weight: float
    scs: float
    scs_without: float
    calibration: Calibration


def fit_channel(
    judged: Sequence[Judged],
    examples: Sequence[RewriteExample],
    scs: SCS,
    weight: float | None = None,
) -> ChannelFit | None:
    """Chooses the weight with the highest mean SCS, the smallest of equally good ones.

    Args:
        judged: what `judge` gave for the examples, in order.
        examples: that the recoverer was not trained on.
        scs: the metric.
        weight: a given one.

    Returns:
        None if no example has a candidate.
    """
    known = [(p, v, e) for (p, v), e in zip(judged, examples, strict=True) if v]
    if not known:
        return None
    truths = [e.rewrite_prompt for _, _, e in known]

    def answers(share: float) -> list[Prediction]:
        return [rescored(p, v, share) for p, v, _ in known]

    def scores(share: float) -> Any:
        return scs([p.rewrite_prompt for p in answers(share)], truths)

    means = {share: float(scores(share).mean()) for share in {*GRID, weight or 0.0}}
    best = weight if weight is not None else max(sorted(means), key=lambda w: means[w])
    chosen = [p.candidates[0].score for p in answers(best)]
    return ChannelFit(best, means[best], means[0.0], fit(chosen, scores(best).tolist()))
