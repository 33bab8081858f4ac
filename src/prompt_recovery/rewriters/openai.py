"""A rewriter behind an OpenAI-compatible endpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from prompt_recovery.rewriters.base import Answer, Chat
from prompt_recovery.rewriters.endpoint import Endpoint
from prompt_recovery.rewriters.model import Model, Sampling, card
from prompt_recovery.settings import Positive, checked
from prompt_recovery.storage import fingerprint


@checked("rewriter.backend")
@dataclass(frozen=True, kw_only=True)
class OpenAIRewriter(Endpoint):
    """A hosted API, or the server of Ollama, vLLM or llama.cpp (extra `[api]`).

    The settings of the connection, such as `base_url` and `retries`, are those of `Endpoint`.

    Attributes:
        model: The model; `model.served` is its name at the endpoint.
        sampling: The settings of sampling. The seed is sent, too, but some endpoints ignore it.
        timeout_s: As for `Endpoint`, but longer: rewrites are long texts.
    """

    model: Model
    sampling: Sampling
    timeout_s: Positive = 120.0

    EXTRA: ClassVar = ("api", Endpoint.SETTING)

    @property
    def identity(self) -> str:
        """A hash of the endpoint, the model, and all fields of requests except the chat."""
        return fingerprint(
            "openai",
            self.address,
            self.model.served,
            self.model.system_role,
            asdict(self.sampling),
            dict(self.request),
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name or self.model.served

    def card(self) -> dict[str, str]:
        """The model, its licence, the sampling and the endpoint."""
        return card(
            self.model,
            self.sampling,
            served_as=self.model.served,
            backend=f"openai ({self.published_address})",
            chat_template="the endpoint's",
        )

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Yields answers in the order in which they arrive; see `Endpoint.ask` for the errors."""
        requests = [
            {
                "messages": self.model.chat(chat),
                "temperature": self.sampling.temperature,
                "max_tokens": self.sampling.max_new_tokens,
                "seed": seed % 2**31,
            }
            for chat, seed in zip(chats, seeds, strict=True)
        ]
        return self.ask(self.model.served, requests)

    def close(self) -> None:
        """Does nothing: connections are closed at the end of each call of `answers`."""
