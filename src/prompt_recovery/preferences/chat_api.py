"""Candidates from a model behind an OpenAI-compatible endpoint."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.templates import Template, render


@dataclass(frozen=True)
class ChatApi:
    """An endpoint; its key comes from the environment only (`OPENAI_API_KEY`).

    Attributes:
        model: as the endpoint calls it.
        base_url: such as http://localhost:8080/v1; None is OpenAI's own.
        concurrency: requests under way at one time.
        retries: of a request that fails (429, 5xx, a cut connection), with backoff; a
            `Retry-After` header is honoured.
        timeout_s: of one request, in seconds.
    """

    model: str = ""
    base_url: str | None = None
    concurrency: int = 8
    retries: int = 6
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise PromptRecoveryError(
                    f"preferences.api.{name}={getattr(self, name)}: must be ≥ {least}"
                )
        if not self.timeout_s > 0:
            raise PromptRecoveryError(f"preferences.api.timeout_s={self.timeout_s}: must be > 0")


@dataclass(frozen=True)
class ApiCandidates:
    """Asks an endpoint for candidates (extra `[api]`).

    Attributes:
        api: the endpoint.
        template: the recovery template; its system message and text are sent as a chat.
        temperatures: one request an example for each.
        max_new_tokens: most tokens of an answer.
        name: api.
    """

    api: ChatApi
    template: Template
    temperatures: Sequence[float]
    max_new_tokens: int
    name: str = "api"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """As many answers for each example as there are temperatures.

        Raises:
            PromptRecoveryError: the extra or the key is missing, or the endpoint keeps failing.
        """
        return asyncio.run(self._propose(examples))

    async def _propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        try:
            import openai
        except ImportError as error:
            raise PromptRecoveryError(
                "preferences.mix.api needs the package `openai`: pip install 'prompt-recovery[api]'"
            ) from error
        if not self.api.model:
            raise PromptRecoveryError("preferences.api.model: name the endpoint's model")
        key = os.environ.get("OPENAI_API_KEY") or (self.api.base_url and "none")
        if not key:
            raise PromptRecoveryError(
                "preferences.mix.api needs OPENAI_API_KEY in the environment, or a local endpoint "
                "with preferences.api.base_url=http://localhost:8080/v1"
            )
        limit = asyncio.Semaphore(self.api.concurrency)
        async with openai.AsyncOpenAI(
            api_key=key,
            base_url=self.api.base_url,
            max_retries=self.api.retries,
            timeout=self.api.timeout_s,
        ) as client:

            async def ask(example: RewriteExample, temperature: float) -> str:
                async with limit:
                    answer = await client.chat.completions.create(
                        model=self.api.model,
                        messages=self._messages(example),
                        temperature=temperature,
                        max_tokens=self.max_new_tokens,
                    )
                # What isn't JSON comes as a text, and an error with status 200 without choices.
                if not getattr(answer, "choices", None):
                    raise PromptRecoveryError(
                        f"{self.api.base_url or 'OpenAI'} answered something else than a chat "
                        "completion: check preferences.api.base_url (it often ends in /v1)"
                    )
                content = answer.choices[0].message.content or ""
                # JSON can hold half a surrogate pair, which no file and no tokenizer takes.
                return content.encode(errors="replace").decode()

            asked = [[ask(e, t) for t in self.temperatures] for e in examples]
            try:
                flat = await asyncio.gather(*(request for row in asked for request in row))
            except openai.OpenAIError as error:
                where = self.api.base_url or "OpenAI"
                raise PromptRecoveryError(
                    f"{where} answered {type(error).__name__} for model '{self.api.model}': check "
                    "the address, the model's name and the key; what is done is kept"
                ) from error
        answers = iter(flat)
        return [[next(answers) for _ in row] for row in asked]

    def _messages(self, example: RewriteExample) -> Any:
        content = render(
            self.template,
            original_text=example.original_text,
            rewritten_text=example.rewritten_text,
        )
        system = {"role": "system", "content": self.template.system}
        return [*([system] if self.template.system else []), {"role": "user", "content": content}]
