"""The interface of models that answer chats."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Chat = list[dict[str, str]]
"""Messages `{"role": "system" | "user" | "assistant", "content": …}`; the last is the user's."""

OF_ONE_REQUEST = ("too_long", "content_filter")
"""Errors that concern one request for certain, and say nothing about the next one."""


_REASONING = r"(?:(?:\w+:)?think(?:ing)?|reasoning)"
_BEGIN = re.compile(rf"<{_REASONING}>|\[THINK\]", re.IGNORECASE)
_END = re.compile(rf".*(?:</{_REASONING}>|\[/THINK\])", re.IGNORECASE | re.DOTALL)


def without_reasoning(text: str) -> tuple[str, bool]:
    """An answer without the reasoning before it, and whether it is complete.

    Everything up to the last `</think>` (or `</thinking>`, `</reasoning>`, `[/THINK]`) is cut off.
    If another reasoning begins in the answer and does not end, the answer is cut there, and is not
    complete.
    """
    said = _END.match(text)
    rest = text if said is None else text[said.end() :].lstrip()
    begun = _BEGIN.search(rest)
    return (rest, True) if begun is None else (rest[: begun.start()].rstrip(), False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a chat, without the reasoning that some models begin with.

    Attributes:
        text: The answer; empty if the request failed.
        error: The reason why the request failed for good, such as `timeout`, `http_400` or
            `too_long`; empty if it didn't.
        finished: False if the answer was cut off at the largest number of tokens, or in the
            middle of its reasoning.
        prompt_tokens: The number of tokens in the chat, as the model counts them; 0 if unknown.
        completion_tokens: The number of tokens in the answer; 0 if unknown.
        cost: The cost in US dollars, from the prices in the configuration; 0 for local models.
        detail: What the endpoint said about a request that failed, or why there is no text.
    """

    text: str
    error: str = ""
    finished: bool = True
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    detail: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        text, whole = without_reasoning(self.text)
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "finished", self.finished and whole)


class Rewriter(Protocol):
    """A model that answers chats, locally or behind an endpoint."""

    @property
    def identity(self) -> str:
        """A hash that changes with all that determines the answers: files, template, decoding."""
        ...

    @property
    def name(self) -> str:
        """The model's name in the dataset's column `rewriter`."""
        ...

    def card(self) -> dict[str, str]:
        """The entries of a dataset's card: model, backend, chat template, decoding, licence."""
        ...

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Answers chats, and yields each answer as soon as it is complete.

        Args:
            chats: The chats to answer.
            seeds: A seed ≥ 0 for each chat. An answer depends only on its chat and its seed, as far
                as the backend can guarantee that.

        Yields:
            The index of a chat and its answer, in any order and every index once.

        Raises:
            PromptRecoveryError: If nothing can be answered, for example because there is no such
                model or the key is refused.
        """
        ...

    def close(self) -> None:
        """Frees memory, threads and connections. The rewriter cannot be used afterwards."""
        ...


def in_order(rewriter: Rewriter, chats: Sequence[Chat], seeds: Sequence[int]) -> list[Answer]:
    """The answers to chats, in the order of the chats."""
    found = dict(rewriter.answers(chats, seeds))
    return [found[index] for index in range(len(chats))]
