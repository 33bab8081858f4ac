"""The interface of all recoverers: pairs of texts go in, predictions come out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prompt_recovery.data.examples import RewriteExample, problem_with_text
from prompt_recovery.recovery.spans import Evidence


@dataclass(frozen=True, slots=True)
class Pair:
    """An original text and what a rewriter made of it."""

    id: str
    original_text: str
    rewritten_text: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One possible answer.

    Attributes:
        text: The prompt, cleaned of chatter and never empty.
        log_probability: The log-probability of all its tokens under the model, ≤ 0; None if no
            model wrote it.
        score: What candidates are ranked by, higher is better. Under MBR, the expected SCS under
            the posterior, in [-1, 1], which isn't calibrated, or with a fitted choice the score of
            `LogLinear.rank`; otherwise the log-probability per token.
    """

    text: str
    log_probability: float | None
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted prompt.

    Attributes:
        id: The id of the pair.
        rewrite_prompt: The predicted prompt, never empty.
        fallback: Whether the prompt is the fallback (the mean prompt), because the recoverer had no
            answer or, with a threshold, because its confidence was too low.
        candidates: All candidates, the best first; empty if there was nothing to choose from.
        confidence: The SCS that the recoverer's own answer can be expected to have, in [-1, 1]: its
            score, calibrated on validation. None without a calibration.
        evidence: Which words of the texts support the answer, by each model; empty unless it was
            asked for, and for fallbacks.
    """

    id: str
    rewrite_prompt: str
    fallback: bool = False
    candidates: tuple[Candidate, ...] = ()
    confidence: float | None = None
    evidence: tuple[Evidence, ...] = ()


class Recoverer(Protocol):
    """Predicts one prompt for each pair, in order."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = ...
    ) -> list[Prediction]:
        """Predicts the prompts, and calls `progress` with the number of pairs just done."""
        ...


@dataclass
class ConstantRecoverer:
    """Answers every pair with the same prompt."""

    prompt: str
    name: str = "mean prompt"

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """The same prediction for each pair."""
        progress(len(pairs))
        return [Prediction(pair.id, self.prompt) for pair in pairs]


def pairs_of(examples: Sequence[RewriteExample]) -> list[Pair]:
    """The examples without their prompts, as a recoverer sees them."""
    return [Pair(e.id, e.original_text, e.rewritten_text) for e in examples]


def is_usable(pair: Pair | RewriteExample) -> bool:
    """Whether both texts can be read."""
    return not problem_with_text(pair.original_text) and not problem_with_text(pair.rewritten_text)
