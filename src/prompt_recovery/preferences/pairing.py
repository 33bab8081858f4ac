"""Pairing strategies, which make preferences from scored candidates.

Each strategy is a function of one example's truth and candidates. It returns groups of two or more
(text, score) pairs, best first, or no group if the candidates do not differ enough.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from prompt_recovery.data.splits import normalise
from prompt_recovery.preferences.candidates import PreferenceCandidate, seeded_random
from prompt_recovery.settings import NotNegative, checked

Scored = tuple[str, float]
Group = list[Scored]
PERFECT = 0.999  # a completion with a higher score is the truth


StrategyName = Literal["truth_best", "truth_worst", "truth_random", "best_worst", "listwise"]


@checked("preferences.pairing")
@dataclass(frozen=True)
class Pairing:
    """Settings of the way in which candidates become preferences.

    Attributes:
        strategy: A name in `STRATEGIES`.
        margin: Minimum difference in SCS between chosen and rejected, ≥ 0.
        size: Maximum number of completions in a group (listwise).
        truth: Whether the truth is part of the group (listwise). Without it, the model learns which
            of its own answers are better, instead of preferring a text that it would never write.
        seed: Seed of the random choices.
    """

    strategy: StrategyName = "truth_random"
    margin: NotNegative = 0.05
    size: Annotated[int, Ge(2)] = 6
    truth: bool = False
    seed: int = 0

    def groups(
        self, id_: str, truth: Scored, candidates: Sequence[PreferenceCandidate]
    ) -> list[Group]:
        """Returns the preference groups of one example."""
        rng = seeded_random(self.seed, "pairing", id_)
        return STRATEGIES[self.strategy](truth, candidates, self, rng)


def _wrong(truth: Scored, candidates: Sequence[PreferenceCandidate], margin: float) -> list[Scored]:
    """Returns the candidates that are worse than the truth by at least the margin, best first."""
    worse = [
        (c.text, c.scs)
        for c in candidates
        if c.scs <= truth[1] - margin and normalise(c.text) != normalise(truth[0])
    ]
    return sorted(worse, key=lambda scored: (-scored[1], scored[0]))


def _own(truth: Scored, candidates: Sequence[PreferenceCandidate]) -> list[Scored]:
    """Returns the candidates without the truth, best first."""
    # Without a perfect score, `truth` is just the best candidate.
    known = normalise(truth[0]) if truth[1] > PERFECT else None
    own = [(c.text, c.scs) for c in candidates if normalise(c.text) != known]
    return sorted(own, key=lambda scored: (-scored[1], scored[0]))


def truth_best(
    truth: Scored, candidates: Sequence[PreferenceCandidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """Prefers the truth over the best candidate, which is the hardest pair to tell apart."""
    wrong = _wrong(truth, candidates, pairing.margin)
    return [[truth, wrong[0]]] if wrong else []


def truth_worst(
    truth: Scored, candidates: Sequence[PreferenceCandidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """Prefers the truth over the worst candidate, which is the easiest pair to tell apart."""
    wrong = _wrong(truth, candidates, pairing.margin)
    return [[truth, wrong[-1]]] if wrong else []


def truth_random(
    truth: Scored, candidates: Sequence[PreferenceCandidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """Prefers the truth over a random candidate."""
    wrong = _wrong(truth, candidates, pairing.margin)
    return [[truth, rng.choice(wrong)]] if wrong else []


def best_worst(
    truth: Scored, candidates: Sequence[PreferenceCandidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """Prefers the best candidate over the worst, if they differ by at least the margin."""
    ranked = _own(truth, candidates)
    if len(ranked) < 2 or ranked[0][1] - ranked[-1][1] < max(pairing.margin, 1e-9):
        return []
    return [[ranked[0], ranked[-1]]]


def listwise(
    truth: Scored, candidates: Sequence[PreferenceCandidate], pairing: Pairing, rng: random.Random
) -> list[Group]:
    """Ranks one group of at most `size`: the best, the worst and random ones between them."""
    ranked = _own(truth, candidates)
    if pairing.truth:
        ranked = [truth, *_wrong(truth, candidates, pairing.margin)]
    if len(ranked) > pairing.size:
        between = sorted(rng.sample(range(1, len(ranked) - 1), pairing.size - 2))
        ranked = [ranked[i] for i in (0, *between, len(ranked) - 1)]
    if len(ranked) < 2 or ranked[0][1] - ranked[-1][1] < max(pairing.margin, 1e-9):
        return []
    return [ranked]


Strategy = Callable[[Scored, Sequence[PreferenceCandidate], Pairing, random.Random], list[Group]]
STRATEGIES: dict[str, Strategy] = {
    f.__name__: f for f in (truth_best, truth_worst, truth_random, best_worst, listwise)
}
