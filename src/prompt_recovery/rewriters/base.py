"""What the pipeline wants of a model that answers chats."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Chat = list[dict[str, str]]
"""Messages `{"role": "system" | "user" | "assistant", "content": …}`; the last is the user's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one chat.

    Attributes:
        text: the answer; empty where the request failed.
        error: empty, or why the request failed for good: `timeout`, `http_400`, `too_long`, …
        finished: False where the answer was cut off at the most tokens allowed.
        prompt_tokens: tokens of the chat, as the model counts them; 0 where that isn't known.
        completion_tokens: tokens of the answer, likewise.
        cost: US dollars, from the prices in the configuration; 0 for local models.
    """

    text: str
    error: str = ""
    finished: bool = True
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class Rewriter(Protocol):
    """A model that answers chats, wherever it runs."""

    @property
    def identity(self) -> str:
        """Changes when anything changes that decides the answers: files, template, decoding."""
        ...

    @property
    def name(self) -> str:
        """The model, as the dataset's column `rewriter` says it."""
        ...

    def card(self) -> dict[str, str]:
        """What a dataset's card says of it: model, backend, chat template, decoding, licence."""
        ...

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Answers chats and yields each answer when it is there.

        Args:
            chats: the requests.
            seeds: one for each chat, ≥ 0. An answer is a function of its chat and seed and of
                nothing else, as far as the backend can keep that.

        Yields:
            The index of a chat and its answer, in any order, every index once.

        Raises:
            PromptRecoveryError: nothing can be answered: no such model, a refused key, …
        """
        ...

    def close(self) -> None:
        """Gives back memory, threads and connections. The rewriter is of no use afterwards."""
        ...


def in_order(rewriter: Rewriter, chats: Sequence[Chat], seeds: Sequence[int]) -> list[Answer]:
    """The answers to chats, in their order."""
    found = dict(rewriter.answers(chats, seeds))
    return [found[index] for index in range(len(chats))]
