"""A client of OpenAI-compatible endpoints: concurrent requests, retries and rate limits."""

import asyncio
import contextlib
import email.utils
import os
import queue
import random
import threading
import time
import unicodedata
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters.base import OF_ONE_REQUEST, Answer
from prompt_recovery.settings import AtLeastOne, Count, NotNegative, Positive
from prompt_recovery.settings.extras import require_extra
from prompt_recovery.settings.network import PROXIES, refused_by_environment
from prompt_recovery.settings.secrets import redacted

Request = dict[str, Any]
"""The fields of a chat completion request except its model: messages, temperature, max_tokens, …"""

_LONGEST_WAIT_S = 600.0  # seconds; an endpoint that asks for more is broken, not busy
_IN_A_ROW = 20  # number of consecutive failures after which the endpoint is at fault
_USUAL_PARTS = {"", "api", "openai", "v1", "v1beta", "v2", "v3", "compatible-mode", "inference"}
_LOWEST_WAIT_S = 0.5  # also where the endpoint says that it is ready at once
_MOST_TOKENS = 10**9  # more than any request has
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint and its limits. The key is read from `$OPENAI_API_KEY` and is never a setting.

    Attributes:
        base_url: The URL, such as http://localhost:8080/v1; None is `$OPENAI_BASE_URL`, or OpenAI
            where that isn't set, either.
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
        if self.base_url is not None:
            _checked_url(self.base_url, f"{self.SETTING}.base_url")
        pace = _Pace(self.requests_per_minute, self.tokens_per_minute)
        object.__setattr__(self, "_pace", pace)

    @property
    def url(self) -> str | None:
        """The URL, wherever it comes from; None is OpenAI.

        Raises:
            PromptRecoveryError: If `$OPENAI_BASE_URL` is not a URL.
        """
        if self.base_url is not None:
            return self.base_url.strip()
        url = os.environ.get("OPENAI_BASE_URL", "").strip()
        return _checked_url(url, "OPENAI_BASE_URL") if url else None

    @property
    def address(self) -> str:
        """The address, without a password and a query that the URL may contain."""
        return "OpenAI" if self.url is None else _address(self.url) + urlsplit(self.url).path

    @property
    def published_address(self) -> str:
        """The address in what is published: a URL may have a secret in its path, too."""
        if self.url is None:
            return "OpenAI"
        path = urlsplit(self.url).path
        usual = set(path.strip("/").split("/")) <= _USUAL_PARTS
        return _address(self.url) + (path if usual else "/…")

    def ask(self, model: str, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Sends requests to a model, and yields each answer as soon as it arrives.

        The requests are sent from a thread of their own, so this also works where an event loop is
        running, as in a notebook. Closing the iterator cancels the requests in progress.

        Yields:
            The index of a request and its answer, every index once. The answer to a request that
            failed for good has an error: `timeout`, `connection`, `broken_json`, `no_completion`,
            `unreadable`, `too_long`, `content_filter`, `http_<status>`.

        Raises:
            PromptRecoveryError: If the extra is not installed, the key is missing or refused,
                there is no such model, or the endpoint fails at every request. Answers that
                have already arrived are yielded first.
        """
        key = self.usable_key(model)

        async def run(put: Callable[[tuple[int, Answer]], None]) -> None:
            async with _client(key, self.url, self.timeout_s) as client:
                await _Run(self, model, client, key).answer(requests, put)

        if requests:
            yield from _from_thread(run)

    def usable_key(self, model: str) -> str:
        """The key, once everything is there that a request to a model needs.

        Raises:
            PromptRecoveryError: If the extra is not installed, the key is missing or cannot be one,
                or the model has no name.
        """
        require_extra("api", self.SETTING)
        key = _from_environment("OPENAI_API_KEY") or ("none" if self.url else "")
        for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):  # headers, too
            _from_environment(name)
        if not key:
            raise PromptRecoveryError(
                f"{self.SETTING} needs OPENAI_API_KEY in the environment, or a local endpoint with "
                f"{self.SETTING}.base_url=http://localhost:8080/v1"
            )
        if not model:
            raise PromptRecoveryError(f"{self.MODEL_SETTING}: name the endpoint's model")
        return key

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
        self._trouble: Exception | None = None  # ends the run
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
                except Exception as error:
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
            return Answer("", failure.reason, detail=failure.detail)
        self._answered, self._failed_in_a_row = True, 0
        return answer

    def _note(self, failure: _TryError) -> None:
        """Raises an error if a failure means that the next requests will fail, too."""
        where, setting = self._endpoint.address, self._endpoint.SETTING
        if failure.reason in OF_ONE_REQUEST:
            return
        self._failed_in_a_row += 1
        said = f" ({failure.detail})" if failure.detail else ""
        if failure.reason == "connection" and not self._answered:
            raise PromptRecoveryError(
                f"cannot reach {where}: is the server running? Check {setting}.base_url{said}"
                f"{_proxy_advice()}"
            )
        if failure.reason == "no_completion" and not self._answered:
            raise PromptRecoveryError(
                f"{where} did not answer with a chat completion{said}: check "
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
        except openai.APIConnectionError as error:
            detail = self._one_line(str(error.__cause__ or ""))
            raise _TryError("connection", again=True, detail=detail) from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            detail = self._one_line(str(error))
            raise _TryError("broken_json", again=True, detail=detail) from None
        except Exception as error:  # what the client does with JSON of another shape
            detail = self._one_line(f"{type(error).__name__}: {error}")
            raise _TryError("unreadable", detail=detail) from None
        answer = self._read(reply)
        if answer.prompt_tokens:
            pace.correct(guess, answer.prompt_tokens + answer.completion_tokens)
        if answer.error:
            raise _TryError(answer.error, detail=answer.detail)
        return answer

    def _refused(self, error: Any) -> _TryError:
        """The meaning of an HTTP status; raises an error if all other requests would fail, too."""
        where, status = self._endpoint.address, error.status_code
        code, said = str(error.code or ""), str(error.message)
        if error.body and said == f"Error code: {status}":  # not in the form of OpenAI's errors
            said = f"{said} - {error.body}"
        detail = self._one_line(said)
        if 300 <= status < 400:
            target = _address(str(error.response.headers.get("location", "")), "another address")
            raise PromptRecoveryError(
                f"{where} redirects to {target} (HTTP {status}), and the requests were not sent "
                f"there: set {self._endpoint.SETTING}.base_url to the final address if you trust it"
            ) from None
        if status == 401 or (status == 403 and not self._answered):
            raise PromptRecoveryError(
                f"{where} refused the key (HTTP {status}): check OPENAI_API_KEY"
                f"{f' ({detail})' if detail else ''}"
            ) from None
        if status == 404:
            raise PromptRecoveryError(
                f"{where} knows no model '{self._model}', or the address is wrong (HTTP 404): "
                f"check {self._endpoint.SETTING}{f' ({detail})' if detail else ''}"
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
            return _TryError("too_long", detail=detail)
        if status == 400 and "content" in said and ("filter" in said or "policy" in said):
            return _TryError("content_filter", detail=detail)
        again = status in (408, 409, 429) or status >= 500
        return _TryError(f"http_{status}", again=again, after=after, detail=detail)

    def _read(self, reply: Any) -> Answer:
        """The answer in a reply, which may be any JSON: the client does not check it.

        If the reply is not a completion, the request is tried again. A completion that cannot be
        read has been paid for, and another one would not be better, so that the request has failed.
        """
        # The client returns non-JSON as a string, and an error with status 200 without choices.
        choices = _member(reply, "choices")
        choice = choices[0] if isinstance(choices, list) and choices else choices
        message = _member(choice, "message")
        if not choices or (message is None and isinstance(choices, list)):
            raise _TryError("no_completion", again=True, detail=self._one_line(_error_in(reply)))
        plain = isinstance(message, str | int | float | list)
        text = None if message is None or plain else _text_of(_member(message, "content"))
        if text is None:
            raise _TryError(
                "unreadable", detail="the endpoint's answer is no text, nor a list of text parts"
            )
        reason = _member(choice, "finish_reason")
        usage = _member(reply, "usage")
        prompt, completion = (
            _count(_member(usage, f"{name}_tokens")) for name in ("prompt", "completion")
        )
        return Answer(
            text=text,
            error="content_filter" if reason == "content_filter" else "",
            finished=reason != "length",
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost=self._endpoint.cost(prompt, completion),
            detail="" if text.strip() else self._one_line(f"no text, finish_reason {reason}"),
        )

    def _one_line(self, said: str) -> str:
        """The endpoint's message without the key, which some endpoints repeat."""
        shown = "".join(c if c.isprintable() else " " for c in said.replace(self._key, "…"))
        return " ".join(shown.encode(errors="replace").decode().split())[:200]


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
        """Waits until a request with this number of tokens, including its answer, may be sent."""
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
    growing = float(wait_exponential_jitter(multiplier=_LOWEST_WAIT_S, max=60, jitter=0.5)(state))
    # An endpoint that says 0, or a date in the past, while it is busy must not be asked at once.
    return max(growing, (failure.after or 0.0) * random.uniform(1, 1.1))


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


def _member(value: Any, name: str) -> Any:
    """A field of a part of a reply, which the client makes an object only where it fits."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _text_of(content: Any) -> str | None:
    """The text of an answer; None if there is no way to read it as a text.

    Some endpoints send a list of parts, of which those that show the reasoning are left out.
    """
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        content = None if None in parts else "".join(map(str, parts))
    # JSON can hold half of a surrogate pair, which no file and no tokenizer accepts.
    return content.encode(errors="replace").decode() if isinstance(content, str) else None


def _part(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    text, kind = _member(part, "text"), _member(part, "type")
    if isinstance(text, str) and kind in ("text", "output_text", None):
        return text
    return "" if isinstance(kind, str) and kind not in ("text", "output_text") else None


def _count(value: Any) -> int:
    """A number of tokens; 0 if it is none, since endpoints may send anything."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < _MOST_TOKENS else 0


def _error_in(reply: Any) -> str:
    """The message of an error with status 200."""
    error = _member(reply, "error")
    return str(_member(error, "message") or "") if isinstance(error, dict) else str(error or "")


def _checked_url(url: str, name: str) -> str:
    """The URL of an endpoint.

    Raises:
        PromptRecoveryError: If it is none.
    """
    try:
        parts = urlsplit(url.strip())
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # for example, a port that is not a number, or half an IPv6 address
        whole = False
    if not whole or not url.strip().isprintable() or " " in url.strip():
        shown = " ".join(redacted(url).split())
        raise PromptRecoveryError(f"{name}={shown}: must be a URL such as http://localhost:8080/v1")
    return url.strip()


def _address(url: str, otherwise: str = "") -> str:
    """The scheme, the host and the port of a URL."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return otherwise
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}" if host else otherwise


def _from_environment(name: str) -> str:
    """An environment variable that is sent as a header; "" if it isn't set.

    Raises:
        PromptRecoveryError: If it holds characters that no key has, such as a line break.
    """
    value = os.environ.get(name, "").strip()
    odd = next((c for c in value if not "!" <= c <= "~"), None)
    if odd is not None:
        raise PromptRecoveryError(
            f"{name}: holds {unicodedata.name(odd, 'a control character').lower()}, which no key "
            "has: copy it again, without quotation marks, blanks or line breaks"
        )
    return value


def _client(key: str, url: str | None, timeout_s: float) -> Any:
    """The client, which follows no redirects: they would send prompts and key to another host.

    Raises:
        PromptRecoveryError: If an environment variable keeps it from being made.
    """
    import openai

    try:
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=url,
            max_retries=0,
            timeout=timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )
    except Exception as error:  # OSError, ImportError, ValueError, whatever the variable causes
        raise refused_by_environment("the client of the endpoint", error) from error


def _proxy_advice() -> str:
    """What to do where a proxy stands between this machine and the endpoint."""
    names = [name for name in PROXIES if os.environ.get(name)]
    return f"; {names[0]} is set: NO_PROXY=<host> goes around the proxy" if names else ""


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
