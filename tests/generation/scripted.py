"""A rewriter whose answers a function gives, in an order that is not the asked one."""

from collections.abc import Callable, Iterator, Sequence

from prompt_recovery.rewriters.base import Answer, Chat


class Scripted:
    name = "scripted"
    identity = "scripted"

    def __init__(self, answer: Callable[[str, int], Answer | str]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, int]] = []
        self.chats: list[Chat] = []

    def card(self) -> dict[str, str]:
        return {"model": "scripted", "licence": "MIT"}

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        for index in reversed(range(len(chats))):
            content = chats[index][-1]["content"]
            self.chats.append(chats[index])
            self.asked.append((content, seeds[index]))
            made = self.answer(content, seeds[index])
            yield index, made if isinstance(made, Answer) else Answer(made)

    def close(self) -> None:
        pass
