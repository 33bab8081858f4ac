"""Candidates from a model behind an OpenAI-compatible endpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters.base import OF_ONE_REQUEST, Chat
from prompt_recovery.rewriters.endpoint import Endpoint
from prompt_recovery.settings import checked
from prompt_recovery.templates import Template, render

log = logging.getLogger(__name__)


@checked("preferences.api")
@dataclass(frozen=True, kw_only=True)
class ChatApi(Endpoint):
    """An endpoint that provides candidates.

    Attributes:
        model: Name of the model at the endpoint.
    """

    model: str = ""

    SETTING: ClassVar[str] = "preferences.api"
    MODEL_SETTING: ClassVar[str] = "preferences.api.model"


@dataclass(frozen=True)
class ApiCandidates:
    """Asks an endpoint for candidates (extra `[api]`).

    Attributes:
        api: The endpoint.
        template: The recovery template. Its system message and text are sent as a chat.
        temperatures: The temperatures; one request is made per example and temperature.
        max_new_tokens: Maximum number of tokens in an answer.
        name: api.
    """

    api: ChatApi
    template: Template
    temperatures: Sequence[float]
    max_new_tokens: int
    name: str = "api"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """Returns one answer per temperature for each example.

        Raises:
            PromptRecoveryError: If the extra or the key is missing, or the endpoint keeps failing.
        """
        requests = [
            {
                "messages": self._messages(example),
                "temperature": temperature,
                "max_tokens": self.max_new_tokens,
            }
            for example in examples
            for temperature in self.temperatures
        ]
        texts, said = [""] * len(requests), ""
        for index, answer in self.api.ask(self.api.model, requests):
            if answer.error and answer.error not in OF_ONE_REQUEST:
                said = f": {answer.detail}" if answer.detail else ""
                raise PromptRecoveryError(
                    f"{self.api.address} failed for model '{self.api.model}' "
                    f"({answer.error}{said}): check the address, the model's name and the key; "
                    "finished answers are kept"
                )
            texts[index], said = answer.text, answer.detail or said
        if requests and not any(texts):
            log.warning("%s answered none of %d requests with a text: %s", self.api.address,
                        len(requests), said or "every answer was empty")  # fmt: skip
        count = len(self.temperatures)
        return [texts[i : i + count] for i in range(0, len(texts), count)]

    def _messages(self, example: RewriteExample) -> Chat:
        content = render(
            self.template,
            original_text=example.original_text,
            rewritten_text=example.rewritten_text,
        )
        system = {"role": "system", "content": self.template.system}
        return [*([system] if self.template.system else []), {"role": "user", "content": content}]
