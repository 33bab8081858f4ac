"""How good predictions are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.metrics.scs import SCS, sharpen
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.recovery.recoverer import Prediction


@dataclass(frozen=True)
class Evaluation:
    """One recoverer on one dataset of n examples.

    Attributes:
        name: of the recoverer.
        predictions: in the order of the examples.
        scs: fp32 [n].
        cosine: fp32 [n].
        exact: bool [n], equal up to case, punctuation and white space.
        interval: the 95 % bootstrap interval of the mean SCS.
        seconds: that recovering all of them took.
    """

    name: str
    predictions: list[Prediction]
    scs: NDArray[np.float32]
    cosine: NDArray[np.float32]
    exact: NDArray[np.bool_]
    interval: tuple[float, float]
    seconds: float

    def by_category(self, examples: Sequence[RewriteExample]) -> dict[str, tuple[float, int]]:
        """category → (mean SCS, number of examples), the largest category first."""
        members: dict[str, list[float]] = {}
        for example, score in zip(examples, self.scs, strict=True):
            members.setdefault(example.category or "(none)", []).append(float(score))
        ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
        return {name: (float(np.mean(scores)), len(scores)) for name, scores in ordered}


def evaluate(
    name: str,
    predictions: Sequence[Prediction],
    examples: Sequence[RewriteExample],
    scs: SCS,
    seconds: float,
) -> Evaluation:
    """Compares predictions with the true prompts of their examples, in order.

    Raises:
        ValueError: they are not one to one.
    """
    if [p.id for p in predictions] != [e.id for e in examples]:
        raise ValueError("predictions and examples must have the same ids in the same order")
    predicted = [p.rewrite_prompt for p in predictions]
    truths = [e.rewrite_prompt for e in examples]
    cosine = scs.cosine(predicted, truths)
    scores = np.asarray(sharpen(cosine, scs.exponent), np.float32)
    exact = [normalise(p) == normalise(t) for p, t in zip(predicted, truths, strict=True)]
    return Evaluation(
        name=name,
        predictions=list(predictions),
        scs=scores,
        cosine=cosine,
        exact=np.array(exact, bool),
        interval=bootstrap_interval(scores),
        seconds=seconds,
    )
