"""An OpenAI-compatible endpoint: many requests at once, none lost, none asked twice."""

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

Request = dict[str, Any]
"""The fields of a chat completion request but its model: messages, temperature, max_tokens, …"""

_LONGEST_WAIT_S = 600.0  # an endpoint that asks for more is out of order, not busy
_IN_A_ROW = 20  # so many requests that fail one after another are the endpoint's fault
_OF_ONE_REQUEST = ("too_long", "content_filter")  # and say nothing about the next one
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where requests go, and how fast. The key is `$OPENAI_API_KEY`, never a setting.

    Attributes:
        base_url: such as http://localhost:8080/v1; None is OpenAI's own.
        concurrency: requests under way at one time.
        retries: of a request that fails (429, 5xx, a cut connection, a timeout, broken JSON), with
            backoff and jitter; a `Retry-After` header is honoured, by all requests.
        timeout_s: of one try, in seconds.
        requests_per_minute: evenly spaced; None is no limit.
        tokens_per_minute: of requests and answers together, likewise.
        prompt_price: US dollars for a million tokens of requests.
        completion_price: US dollars for a million tokens of answers.
        request: more fields for every request; null leaves one out (`max_tokens: null`).
    """

    base_url: str | None = None
    concurrency: int = 8
    retries: int = 6
    timeout_s: float = 60.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0
    request: Mapping[str, Any] = field(default_factory=dict)
    _pace: "_Pace" = field(init=False, repr=False, compare=False)

    SETTING: ClassVar[str] = "rewriter.backend"  # what messages call an endpoint's settings
    MODEL_SETTING: ClassVar[str] = "rewriter.model.served"

    def __post_init__(self) -> None:
        least = {"concurrency": 1, "retries": 0, "prompt_price": 0, "completion_price": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise PromptRecoveryError(
                    f"{self.SETTING}.{name}={getattr(self, name)}: must be ≥ {value}"
                )
        for name in ("timeout_s", "requests_per_minute", "tokens_per_minute"):
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise PromptRecoveryError(f"{self.SETTING}.{name}={given}: must be > 0")
        pace = _Pace(self.requests_per_minute, self.tokens_per_minute)
        object.__setattr__(self, "_pace", pace)

    @property
    def address(self) -> str:
        """The endpoint for messages and records, without a password that the URL may carry."""
        if self.base_url is None:
            return "OpenAI"
        url = urlsplit(self.base_url)
        port = f":{url.port}" if url.port else ""
        return f"{url.scheme}://{url.hostname}{port}{url.path}"

    def ask(self, model: str, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Asks a model, and yields each answer when it is there.

        It runs in a thread of its own, so it works where an event loop runs already (a notebook).
        Closing the iterator cancels what is under way.

        Yields:
            The index of a request and its answer, every index once. A request that fails for good
            has an answer with an error: `timeout`, `connection`, `broken_json`, `no_completion`,
            `too_long`, `content_filter`, `http_<status>`.

        Raises:
            PromptRecoveryError: the extra or the key is missing or refused, there is no such model,
                or the endpoint fails whatever it is asked. What was answered before is yielded.
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
        """US dollars."""
        prompt, completion = self.prompt_price, self.completion_price
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6


class _TryError(Exception):
    """One try that came to nothing.

    Attributes:
        reason: an answer's error.
        again: whether another try may help.
        after: seconds that the endpoint asks to wait before it.
        detail: what the endpoint said, on one line.
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

        # In trouble nothing new is asked, but what is under way is waited for: it may be paid.
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
                raise self._trouble from None  # it might have come yet: it isn't answered
            self._note(failure)
            return Answer("", failure.reason)
        self._answered, self._failed_in_a_row = True, 0
        return answer

    def _note(self, failure: _TryError) -> None:
        """Raises where a failure says that the next requests will fail too."""
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
            # The client's own timeout is one of silence; a slow trickle would never meet it.
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
        """What an HTTP status means; raises where no other request would fare better."""
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
        # What isn't JSON comes as a text, and an error with status 200 without choices.
        choices = getattr(reply, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise _TryError("no_completion", again=True, detail=self._one_line(_error_in(reply)))
        reason = getattr(choices[0], "finish_reason", None)
        usage = getattr(reply, "usage", None)
        prompt, completion = (
            int(getattr(usage, f"{name}_tokens", 0) or 0) for name in ("prompt", "completion")
        )
        # JSON can hold half a surrogate pair, which no file and no tokenizer takes.
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
        """The endpoint's own words, without the key that some repeat."""
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
        """Waits until a request of so many tokens, answer included, may go."""
        while (wait := max(self._next_request, self._next_token) - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        now = time.monotonic()
        self._next_request = now + self._request_s
        self._next_token = now + tokens * self._token_s

    def correct(self, guess: int, tokens: int) -> None:
        """Takes back what was guessed and counts what was used."""
        self._next_token += (tokens - guess) * self._token_s

    def hold(self, seconds: float) -> None:
        """Lets nothing go for a while."""
        self._next_request = max(self._next_request, time.monotonic() + seconds)


def _tokens(fields: Request) -> int:
    """About how many tokens a request and the longest answer to it have."""
    said = sum(len(str(message["content"])) for message in fields["messages"])
    limit = fields.get("max_tokens") or fields.get("max_completion_tokens") or 0
    return said // 4 + int(limit)


def _wait(state: Any) -> float:
    """Seconds before another try."""
    from tenacity import wait_exponential_jitter

    failure = state.outcome.exception()
    if failure.after is not None:
        return float(failure.after * random.uniform(1, 1.1))
    return float(wait_exponential_jitter(multiplier=0.5, max=60, jitter=0.5)(state))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(float(value), 0.0)
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


def _error_in(reply: Any) -> str:
    """What an error with status 200 says."""
    error = getattr(reply, "error", None)
    return str(error.get("message", "") if isinstance(error, dict) else error or "")


def _from_thread(
    work: Callable[[Callable[[_T], None]], Coroutine[Any, Any, None]],
) -> Iterator[_T]:
    """Yields what a coroutine puts, from an event loop in a thread; raises what it raises."""
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
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is under way
            loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=10)
