"""Noisy-channel rescoring: a good candidate also explains the rewritten text.

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
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.confidence import Calibration, fit
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction, Recoverer
from prompt_recovery.settings import AtLeastOne, Share, checked
from prompt_recovery.templates import Template

GRID = tuple(n / 20 for n in range(21))
"""The weights of the channel that are tried on validation."""

Channel = Callable[[Pair, Sequence[str]], list[float]]
"""Scores how well prompts explain the rewritten text of a pair; see `RewriteLikelihood`."""


@checked("channel")
@dataclass(frozen=True)
class ChannelSettings:
    """The settings of a channel: which rewriter model scores candidates, and its weight.

    Attributes:
        backbone: The rewriter model; ideally the one that wrote the texts.
        template: The rewrite template. If the original text comes before the prompt, it is read
            only once for all candidates of a pair.
        weight: The weight of the channel, in [0, 1]; None fits it on validation.
        candidates: The number of best candidates that are rescored, ≥ 1.
        max_text_tokens: The largest number of tokens of either text; the rest is cut off.
    """

    backbone: Backbone
    template: Template
    weight: Share | None = None
    candidates: AtLeastOne = 8
    max_text_tokens: AtLeastOne = 160


@dataclass
class NoisyChannel:
    """Ranks the candidates of a recoverer by their own scores and the scores of a channel.

    The new score of a candidate is (1 - w) · own + w · (channel - mean of the channel over the
    candidates of the pair). The mean is subtracted since it depends on the texts only.

    Attributes:
        recoverer: Proposes the candidates; its scores should be those of MBR, in [-1, 1].
        channel: Scores the candidates.
        weight: w, in [0, 1].
        candidates: The number of best candidates that are rescored.
        calibration: From the score of an answer to its confidence.
        name: Its name in tables.
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
"""A prediction, and the channel's score of each of its first candidates."""


def judge(
    recoverer: Recoverer,
    channel: Channel,
    pairs: Sequence[Pair],
    candidates: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Judged]:
    """Lets the recoverer predict and the channel score its candidates, pair by pair."""
    predictions = recoverer.recover(pairs)
    judged = []
    for pair, prediction in zip(pairs, predictions, strict=True):
        texts = [c.text for c in prediction.candidates[:candidates]]
        judged.append((prediction, channel(pair, texts) if texts else []))
        progress(1)
    return judged


def rescored(prediction: Prediction, values: Sequence[float], weight: float) -> Prediction:
    """The prediction with its first candidates ranked by their new scores, and no others.

    Args:
        prediction: A prediction with candidates, or the fallback.
        values: The channel's scores of the first candidates.
        weight: The weight of the channel, in [0, 1].
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
    """A weight fitted on validation, the mean SCS with and without it, and the calibration."""

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
    """Chooses the weight with the highest mean SCS, and the smallest of equally good weights.

    Args:
        judged: What `judge` returned for the examples, in order.
        examples: Examples that the recoverer was not trained on.
        scs: The metric.
        weight: A fixed weight, if it should not be chosen.

    Returns:
        The fit, or None if no example has a candidate.
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
