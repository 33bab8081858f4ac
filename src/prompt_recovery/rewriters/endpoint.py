"""A client of OpenAI-compatible endpoints: concurrent requests, retries and rate limits."""

import asyncio
import contextlib
import email.utils
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters.base import Answer
from prompt_recovery.settings import AtLeastOne, Count, NotNegative, Positive

Request = dict[str, Any]
"""The fields of a chat completion request but its model: messages, temperature, max_tokens, …"""

_LONGEST_WAIT_S = 600.0  # seconds; an endpoint that asks for more is broken, not busy
_IN_A_ROW = 20  # after so many failures one after another, the endpoint is at fault
_OF_ONE_REQUEST = ("too_long", "content_filter")  # errors that say nothing about the next request
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint and its limits. The key is read from `$OPENAI_API_KEY` and is never a setting.

    Attributes:
        base_url: The URL, such as http://localhost:8080/v1; None is OpenAI.
        concurrency: The largest number of requests at a time.
        retries: How often a failed request is tried again (429, 5xx, a lost connection, a timeout,
            broken JSON), with backoff and jitter. All requests respect a `Retry-After` header.
        timeout_s: The timeout of each try, in seconds.
        requests_per_minute: The largest rate of requests, which are spaced evenly; None is no
            limit.
        tokens_per_minute: The same for the tokens of requests and answers together.
        prompt_price: The price of a million tokens in requests, in US dollars.
        completion_price: The price of a million tokens in answers, in US dollars.
        request: Further fields of every request; null leaves a field out (`max_tokens: null`).
    """

    base_url: str | None = None
    concurrency: AtLeastOne = 8
    retries: Count = 6
    timeout_s: Positive = 60.0
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    prompt_price: NotNegative = 0.0
    completion_price: NotNegative = 0.0
    request: Mapping[str, Any] = field(default_factory=dict)
    _pace: "_Pace" = field(init=False, repr=False, compare=False)

    SETTING: ClassVar[str] = "rewriter.backend"  # the name of these settings in messages
    MODEL_SETTING: ClassVar[str] = "rewriter.model.served"

    def __post_init__(self) -> None:
        pace = _Pace(self.requests_per_minute, self.tokens_per_minute)
        object.__setattr__(self, "_pace", pace)

    @property
    def address(self) -> str:
        """The address in messages and records, without a password that the URL may contain."""
        if self.base_url is None:
            return "OpenAI"
        url = urlsplit(self.base_url)
        port = f":{url.port}" if url.port else ""
        return f"{url.scheme}://{url.hostname}{port}{url.path}"

    def ask(self, model: str, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Sends requests to a model, and yields each answer as soon as it arrives.

        The requests are sent from a thread of their own, so this also works where an event loop is
        running, as in a notebook. Closing the iterator cancels the requests in progress.

        Yields:
            The index of a request and its answer, every index once. The answer to a request that
            failed for good has an error: `timeout`, `connection`, `broken_json`, `no_completion`,
            `too_long`, `content_filter`, `http_<status>`.

        Raises:
            PromptRecoveryError: If the extra is not installed, the key is missing or refused,
                there is no such model, or the endpoint fails at every request. Earlier answers are
                yielded before.
        """
        try:
            import openai
            import tenacity  # noqa: F401
        except ImportError as error:
            raise PromptRecoveryError(
                f"{self.SETTING} needs the packages `openai` and `tenacity`: "
                "pip install 'prompt-recovery[api]'"
            ) from error
        key = os.environ.get("OPENAI_API_KEY") or (self.base_url and "none")
        if not key:
            raise PromptRecoveryError(
                f"{self.SETTING} needs OPENAI_API_KEY in the environment, or a local endpoint with "
                f"{self.SETTING}.base_url=http://localhost:8080/v1"
            )
        if not model:
            raise PromptRecoveryError(f"{self.MODEL_SETTING}: name the endpoint's model")

        async def run(put: Callable[[tuple[int, Answer]], None]) -> None:
            client = openai.AsyncOpenAI(api_key=key, base_url=self.base_url, max_retries=0,
                                        timeout=self.timeout_s)  # fmt: skip
            async with client:
                await _Run(self, model, client, key).answer(requests, put)

        if requests:
            yield from _from_thread(run)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of a request and its answer, in US dollars."""
        prompt, completion = self.prompt_price, self.completion_price
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6


class _TryError(Exception):
    """A failed try of a request.

    Attributes:
        reason: The value of `Answer.error`.
        again: Whether another try may succeed.
        after: The seconds that the endpoint asks to wait before that.
        detail: The endpoint's message, on one line.
    """

    def __init__(
        self, reason: str, again: bool = False, after: float | None = None, detail: str = ""
    ) -> None:
        super().__init__(reason)
        self.reason, self.again, self.after, self.detail = reason, again, after, detail


class _Run:
    """The requests of one call of `ask`."""

    def __init__(self, endpoint: Endpoint, model: str, client: Any, key: str) -> None:
        self._endpoint, self._model, self._client, self._key = endpoint, model, client, key
        self._trouble: PromptRecoveryError | None = None  # ends the run
        self._answered = False
        self._failed_in_a_row = 0

    async def answer(
        self, requests: Sequence[Request], put: Callable[[tuple[int, Answer]], None]
    ) -> None:
        pending = iter(enumerate(requests))

        async def work() -> None:
            for index, request in pending:
                try:
                    put((index, await self._answer(request)))
                except PromptRecoveryError as error:
                    self._trouble = self._trouble or error
                if self._trouble:
                    return

        # After an error nothing new is sent, but answers in progress are awaited: they cost money.
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._endpoint.concurrency, len(requests))):
                group.create_task(work())
        if self._trouble:
            raise self._trouble

    async def _answer(self, request: Request) -> Answer:
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        merged = {**request, **self._endpoint.request, "model": self._model}
        fields = {name: value for name, value in merged.items() if value is not None}
        tries = AsyncRetrying(
            retry=retry_if_exception(
                lambda e: isinstance(e, _TryError) and e.again and not self._trouble
            ),
            stop=stop_after_attempt(self._endpoint.retries + 1),
            wait=_wait,
            reraise=True,
        )
        try:
            answer: Answer = await tries(self._try, fields)
        except _TryError as failure:
            if self._trouble and failure.again:
                raise self._trouble from None  # another run may get the answer
            self._note(failure)
            return Answer("", failure.reason)
        self._answered, self._failed_in_a_row = True, 0
        return answer

    def _note(self, failure: _TryError) -> None:
        """Raises an error if a failure means that the next requests will fail, too."""
        where, setting = self._endpoint.address, self._endpoint.SETTING
        if failure.reason in _OF_ONE_REQUEST:
            return
        self._failed_in_a_row += 1
        said = f" ({failure.detail})" if failure.detail else ""
        if failure.reason == "connection" and not self._answered:
            raise PromptRecoveryError(
                f"cannot reach {where}: is the server running? Check {setting}.base_url"
            )
        if failure.reason == "no_completion" and not self._answered:
            raise PromptRecoveryError(
                f"{where} answered something else than a chat completion{said}: check "
                f"{setting}.base_url (it often ends in /v1)"
            )
        if self._failed_in_a_row >= max(_IN_A_ROW, 2 * self._endpoint.concurrency):
            raise PromptRecoveryError(
                f"{where}: {self._failed_in_a_row} requests to '{self._model}' in a row failed, "
                f"the last with {failure.reason}{said}; what is done is kept: fix the cause and "
                "start again"
            )

    async def _try(self, fields: Request) -> Answer:
        import openai

        pace = self._endpoint._pace
        guess = _tokens(fields)
        await pace.turn(guess)
        try:
            # The client's own timeout starts anew with every byte, so a slow trickle never ends.
            async with asyncio.timeout(self._endpoint.timeout_s):
                reply = await self._client.chat.completions.create(**fields)
        except (TimeoutError, openai.APITimeoutError):
            raise _TryError("timeout", again=True) from None
        except openai.APIStatusError as error:
            failure = self._refused(error)
            if failure.after:
                pace.hold(failure.after)
            raise failure from None
        except openai.APIConnectionError:
            raise _TryError("connection", again=True) from None
        except (openai.OpenAIError, ValueError):
            raise _TryError("broken_json", again=True) from None
        answer = self._read(reply)
        if answer.prompt_tokens:
            pace.correct(guess, answer.prompt_tokens + answer.completion_tokens)
        if answer.error:
            raise _TryError(answer.error)
        return answer

    def _refused(self, error: Any) -> _TryError:
        """The meaning of an HTTP status; raises an error if all other requests would fail, too."""
        where, status = self._endpoint.address, error.status_code
        code, detail = str(error.code or ""), self._one_line(error.message)
        if status == 401 or (status == 403 and not self._answered):
            raise PromptRecoveryError(
                f"{where} refused the key (HTTP {status}): check OPENAI_API_KEY"
            ) from None
        if status == 404:
            raise PromptRecoveryError(
                f"{where} knows no model '{self._model}', or the address is wrong (HTTP 404): "
                f"check {self._endpoint.SETTING}"
            ) from None
        if status == 402 or code == "insufficient_quota":
            raise PromptRecoveryError(
                f"{where}: the account's credit is used up; what is done is kept: add credit and "
                "start again"
            ) from None
        after = _retry_after(error.response.headers)
        if after is not None and after > _LONGEST_WAIT_S:
            raise PromptRecoveryError(
                f"{where} asks to wait {after:.0f} s (HTTP {status}); what is done is kept: start "
                "again then"
            ) from None
        said = f"{code} {detail}".lower()
        if status in (400, 413, 422) and ("context" in said or "too long" in said):
            return _TryError("too_long")
        if status == 400 and "content" in said and ("filter" in said or "policy" in said):
            return _TryError("content_filter")
        again = status in (408, 409, 429) or status >= 500
        return _TryError(f"http_{status}", again=again, after=after, detail=detail)

    def _read(self, reply: Any) -> Answer:
        # The client returns non-JSON as a string, and an error with status 200 without choices.
        choices = getattr(reply, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise _TryError("no_completion", again=True, detail=self._one_line(_error_in(reply)))
        reason = getattr(choices[0], "finish_reason", None)
        usage = getattr(reply, "usage", None)
        prompt, completion = (
            int(getattr(usage, f"{name}_tokens", 0) or 0) for name in ("prompt", "completion")
        )
        # JSON can hold half of a surrogate pair, which no file and no tokenizer accepts.
        text = (choices[0].message.content or "").encode(errors="replace").decode()
        return Answer(
            text=text,
            error="content_filter" if reason == "content_filter" else "",
            finished=reason != "length",
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost=self._endpoint.cost(prompt, completion),
        )

    def _one_line(self, said: str) -> str:
        """The endpoint's message without the key, which some endpoints repeat."""
        return " ".join(said.replace(self._key, "…").split())[:200]


class _Pace:
    """Spaces requests evenly, so that no minute has more requests or tokens than allowed.

    This isn't `aiolimiter.AsyncLimiter` because that one lets a whole minute's requests go at once,
    refuses a request of more than a minute's tokens, cannot replace an estimate by the tokens
    that were used, and belongs to one event loop, whereas this limit holds across calls.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = self._next_token = 0.0  # on the monotonic clock

    async def turn(self, tokens: int) -> None:
        """Waits until a request of so many tokens, including its answer, may be sent."""
        while (wait := max(self._next_request, self._next_token) - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        now = time.monotonic()
        self._next_request = now + self._request_s
        self._next_token = now + tokens * self._token_s

    def correct(self, guess: int, tokens: int) -> None:
        """Replaces an estimate by the number of tokens that were used."""
        self._next_token += (tokens - guess) * self._token_s

    def hold(self, seconds: float) -> None:
        """Stops all requests for some seconds."""
        self._next_request = max(self._next_request, time.monotonic() + seconds)


def _tokens(fields: Request) -> int:
    """An estimate of the tokens of a request and its longest possible answer."""
    said = sum(len(str(message["content"])) for message in fields["messages"])
    limit = fields.get("max_tokens") or fields.get("max_completion_tokens") or 0
    return said // 4 + int(limit)


def _wait(state: Any) -> float:
    """The seconds to wait before another try."""
    from tenacity import wait_exponential_jitter

    failure = state.outcome.exception()
    if failure.after is not None:
        return float(failure.after * random.uniform(1, 1.1))
    return float(wait_exponential_jitter(multiplier=0.5, max=60, jitter=0.5)(state))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a `Retry-After` header, which is a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(float(value), 0.0)
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


def _error_in(reply: Any) -> str:
    """The message of an error with status 200."""
    error = getattr(reply, "error", None)
    return str(error.get("message", "") if isinstance(error, dict) else error or "")


def _from_thread(
    work: Callable[[Callable[[_T], None]], Coroutine[Any, Any, None]],
) -> Iterator[_T]:
    """Runs a coroutine in a thread of its own; yields what it puts, and raises what it raises."""
    items: queue.SimpleQueue[tuple[_T] | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(lambda item: items.put((item,))))

    def run() -> None:
        try:
            loop.run_until_complete(asyncio.wait([task]))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            items.put(None)

    thread = threading.Thread(target=run, name="requests", daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not None:
            yield item[0]
        task.result()
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing is running
            loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=10)
