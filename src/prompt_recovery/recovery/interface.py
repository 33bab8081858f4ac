"""What all recoverers share: pairs go in, predictions come out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prompt_recovery.data.examples import RewriteExample, problem_with_text


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
        text: cleaned of chatter, never empty.
        log_probability: log p of all its tokens under the model, ≤ 0; None for what no model said.
        score: what candidates are ranked by, the higher the better: under MBR the expected SCS, in
            [-1, 1]; otherwise the log-probability per token.
    """

    text: str
    log_probability: float | None
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted prompt.

    Attributes:
        id: the pair's.
        rewrite_prompt: never empty.
        fallback: whether it is not the recoverer's own answer.
        candidates: what there was to choose from, the best first; empty where nothing was chosen.
        confidence: the expected SCS, in [-1, 1]; None where it was not calibrated.
    """

    id: str
    rewrite_prompt: str
    fallback: bool = False
    candidates: tuple[Candidate, ...] = ()
    confidence: float | None = None


class Recoverer(Protocol):
    """Whatever answers for pairs; one prediction each, in order, never empty."""

    @property
    def name(self) -> str:
        """In tables."""
        ...

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = ...
    ) -> list[Prediction]:
        """Predicts the prompts; calls `progress` with the number of pairs just done."""
        ...


@dataclass
class ConstantRecoverer:
    """Answers every pair with the same prompt."""

    prompt: str
    name: str = "mean prompt"

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """The constant, once for each pair."""
        progress(len(pairs))
        return [Prediction(pair.id, self.prompt) for pair in pairs]


def pairs_of(examples: Sequence[RewriteExample]) -> list[Pair]:
    """What a recoverer may see of examples: everything but the truth."""
    return [Pair(e.id, e.original_text, e.rewritten_text) for e in examples]


def is_usable(pair: Pair | RewriteExample) -> bool:
    """Whether both texts can be read."""
    return not problem_with_text(pair.original_text) and not problem_with_text(pair.rewritten_text)
