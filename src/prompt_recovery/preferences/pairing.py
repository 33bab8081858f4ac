"""Pairing strategies: from scored candidates to preferences.

Each is a function of one example's truth and candidates that returns groups of two or more
(text, score), the best first, or nothing where the candidates don't allow it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from prompt_recovery.data.splits import normalise
from prompt_recovery.preferences.candidates import Candidate, seeded_random
from prompt_recovery.settings import NotNegative, checked

Scored = tuple[str, float]
Group = list[Scored]
PERFECT = 0.999  # the score of a truth


StrategyName = Literal["truth_best", "truth_worst", "truth_random", "best_worst", "listwise"]


@checked("preferences.pairing")
@dataclass(frozen=True)
class Pairing:
    """How preferences are made.

    Attributes:
        strategy: a name in `STRATEGIES`.
        margin: least difference of SCS between chosen and rejected, ≥ 0.
        size: most completions of a group (listwise).
        truth: whether the truth is one of a group (listwise). Without it the model learns which of
            its own answers are better, not to prefer a text that it would never write.
        seed: of the random choices.
    """

    strategy: StrategyName = "truth_random"
    margin: NotNegative = 0.05
    size: Annotated[int, Ge(2)] = 6
    truth: bool = False
    seed: int = 0

    def groups(self, id_: str, truth: Scored, candidates: Sequence[Candidate]) -> list[Group]:
        """The preferences of one example."""
        rng = seeded_random(self.seed, "pairing", id_)
        return STRATEGIES[self.strategy](truth, candidates, self, rng)


def _wrong(truth: Scored, candidates: Sequence[Candidate], margin: float) -> list[Scored]:
    """The candidates that are worse than the truth by the margin, the best first."""
    worse = [
        (c.text, c.scs)
        for c in candidates
        if c.scs <= truth[1] - margin and normalise(c.text) != normalise(truth[0])
    ]
    return sorted(worse, key=lambda scored: (-scored[1], scored[0]))


def _own(truth: Scored, candidates: Sequence[Candidate]) -> list[Scored]:
    """The candidates without the truth, the best first."""
    known = normalise(truth[0]) if truth[1] > PERFECT else None  # else it is just the best of them
    own = [(c.text, c.scs) for c in candidates if normalise(c.text) != known]
    return sorted(own, key=lambda scored: (-scored[1], scored[0]))


def truth_best(
    truth: Scored, candidates: Sequence[Candidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """The truth against the best candidate: hard to tell apart, and rich."""
    wrong = _wrong(truth, candidates, pairing.margin)
    return [[truth, wrong[0]]] if wrong else []


def truth_worst(
    truth: Scored, candidates: Sequence[Candidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """The truth against the worst candidate: easy, and without doubt."""
    wrong = _wrong(truth, candidates, pairing.margin)
    return [[truth, wrong[-1]]] if wrong else []


def truth_random(
    truth: Scored, candidates: Sequence[Candidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """The truth against any candidate."""
    wrong = _wrong(truth, candidates, pairing.margin)
    return [[truth, rng.choice(wrong)]] if wrong else []


def best_worst(
    truth: Scored, candidates: Sequence[Candidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """The best candidate against the worst, if they differ by the margin: the model's own words."""
    ranked = _own(truth, candidates)
    if len(ranked) < 2 or ranked[0][1] - ranked[-1][1] < max(pairing.margin, 1e-9):
        return []
    return [[ranked[0], ranked[-1]]]


def listwise(
    truth: Scored, candidates: Sequence[Candidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """All as one group, at most `size`: the best, the worst, and others between them."""
    ranked = _own(truth, candidates)
    if pairing.truth:
        ranked = [truth, *_wrong(truth, candidates, pairing.margin)]
    if len(ranked) > pairing.size:
        between = sorted(rng.sample(range(1, len(ranked) - 1), pairing.size - 2))
        ranked = [ranked[i] for i in (0, *between, len(ranked) - 1)]
    if len(ranked) < 2 or ranked[0][1] - ranked[-1][1] < max(pairing.margin, 1e-9):
        return []
    return [ranked]


Strategy = Callable[[Scored, Sequence[Candidate], Pairing, random.Random], list[Group]]
STRATEGIES: dict[str, Strategy] = {
    f.__name__: f for f in (truth_best, truth_worst, truth_random, best_worst, listwise)
}
