"""Requests to an endpoint: a small local server that misbehaves as real ones do."""

import asyncio
import email.utils
import json
import random
import sys
import threading
import time

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.store import Remembering, RequestStore, is_transient
from prompt_recovery.rewriters import Answer, Model, Sampling, in_order
from prompt_recovery.rewriters.openai import OpenAIRewriter
from tests.fuzzing import EXAMPLES
from tests.rewriters.server import serving

MODEL = Model("a-model", served="m", licence="mit")


def rewriter(server, model=MODEL, sampling=None, **options):
    options = {"base_url": server.url, "timeout_s": 20.0} | options
    sampling = sampling or Sampling(temperature=0.5, max_new_tokens=7)
    return OpenAIRewriter(model=model, sampling=sampling, **options)


def chats(count):
    return [[{"role": "user", "content": f"text {n}"}] for n in range(count)]


def good(n):
    return Answer(f"text {n} at 0.5", prompt_tokens=10, completion_tokens=4)


@pytest.fixture
def no_waiting(monkeypatch):
    """Backoff without its seconds."""
    import tenacity

    monkeypatch.setattr(tenacity, "wait_exponential_jitter", lambda **_: lambda _state: 0.01)


def test_answers_have_their_places(server):
    server.delay = lambda content: 0.02 * (6 - int(content.split()[1]))
    asked = rewriter(server)
    assert in_order(asked, chats(6), range(6)) == [good(n) for n in range(6)]
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert {k: body[k] for k in ("model", "max_tokens", "temperature")} == {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.5,
    }
    assert sorted(body["seed"] for _, body in server.asked) == list(range(6))
    assert in_order(asked, [], []) == []


def test_answers_come_as_they_are_done(server):
    server.failures["text 0"] = ["hang"]
    answers = rewriter(server, concurrency=2).answers(chats(4), range(4))
    assert [next(answers) for _ in range(3)] == [(n, good(n)) for n in (1, 2, 3)]
    started = time.monotonic()
    answers.close()
    assert time.monotonic() - started < 5
    wait_for(lambda: server.cancelled == 1)  # closing early cancels what is under way
    assert not [t for t in threading.enumerate() if t.name == "requests"]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_is_lost_and_nothing_asked_again_once_answered(server, no_waiting):
    failures = [429, 500, "cut", "cut_body", "hang", "trickle", "broken", "error", 503, 408]
    for n, failure in enumerate(failures):
        server.failures[f"text {n}"] = [failure]
    server.failures["text 10"] = [429, "cut", "broken", 500]
    server.headers = {"Retry_After": "0.05"}
    answers = in_order(rewriter(server, timeout_s=3.0), chats(14), range(14))
    assert answers == [good(n) for n in range(14)]
    assert server.answered == {f"text {n}": 1 for n in range(14)}
    expected = {f"text {n}": 2 for n in range(10)} | {"text 10": 5}
    assert server.tries() == expected | {f"text {n}": 1 for n in range(11, 14)}


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (500, "http_500"),
        (429, "http_429"),
        ("cut", "connection"),
        ("hang", "timeout"),
        ("broken", "broken_json"),
        ("error", "no_completion"),
        (400, "http_400"),
        (403, "http_403"),
    ],
)
def test_what_fails_for_good_is_an_answer(failure, error, server, no_waiting):
    server.failures["text 1"] = [failure] * 3
    asked = rewriter(server, concurrency=1, retries=2, timeout_s=0.5)
    answers = in_order(asked, chats(3), range(3))
    assert answers == [good(0), Answer("", error), good(2)]
    assert server.tries()["text 1"] == (1 if error in ("http_400", "http_403") else 3)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({"status": 400, "error": {"code": "context_length_exceeded"}}, "too_long"),
        ({"status": 400, "error": {"message": "maximum context length is 8"}}, "too_long"),
        ({"status": 400, "error": {"code": "content_filter", "message": ""}}, "content_filter"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(reply, error, server):
    server.failures["text 0"] = [reply]
    assert in_order(rewriter(server), chats(1), [0]) == [Answer("", error)]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (401, r"127\.0\.0\.1:\d+/v1 refused the key \(HTTP 401\): check OPENAI_API_KEY"),
        (403, "refused the key"),
        (404, "knows no model 'm'"),
        (402, "credit is used up"),
        (
            {"status": 429, "error": {"code": "insufficient_quota", "message": "sk-secret"}},
            "credit is used up",
        ),
        ("html", "did not answer with a chat completion: check rewriter.backend.base_url"),
        ("cut", "cannot reach http://127.0.0.1"),
    ],
)
def test_what_is_wrong_with_everything_is_one_message(failure, message, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.always = failure
    if isinstance(failure, dict):
        server.always, server.failures["text 0"] = None, [failure]
    asked = rewriter(server, retries=0, concurrency=1)
    with pytest.raises(PromptRecoveryError, match=message) as caught:
        list(asked.answers(chats(50), range(50)))
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert len(server.asked) == 1


def test_no_server_is_one_message(server):
    asked = rewriter(server, base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(PromptRecoveryError, match="cannot reach http://127.0.0.1:9/v1: is the"):
        in_order(asked, chats(1), [0])


def test_an_endpoint_that_fails_again_and_again_ends_the_run(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.failures = {f"text {n}": [400] for n in range(2, 100)}
    asked = rewriter(server, concurrency=2)
    found = []
    with pytest.raises(PromptRecoveryError, match=r"20 requests to 'm' in a row .* http_400") as e:
        found.extend(asked.answers(chats(100), range(100)))
    assert "secret" not in str(e.value)
    assert sorted(i for i, a in found if not a.error) == [0, 1]  # what came before is there
    assert len(server.asked) <= 26  # 2 that succeed, 20 that fail, and a few that were under way


def test_what_is_under_way_is_waited_for_when_the_run_ends(server):
    server.failures["text 1"] = [401]
    server.delay = lambda content: 0.3 if content == "text 0" else 0.05
    found = []
    with pytest.raises(PromptRecoveryError, match="refused the key"):
        for item in rewriter(server, concurrency=2).answers(chats(9), range(9)):
            found.append(item)
    assert found == [(0, good(0))]
    assert len(server.asked) == 2


def test_retry_after_is_honoured_by_all(server):
    server.failures["text 0"] = [429]
    server.headers = {"Retry_After": "1.2"}
    server.delay = lambda content: 0.0 if content == "text 0" else 0.1
    assert in_order(rewriter(server, concurrency=2), chats(4), range(4)) == [
        good(n) for n in range(4)
    ]
    first, other, *later = server.times
    assert other - first < 0.5
    assert min(later) - first >= 1.2


def test_retry_after_may_be_a_date(server):
    server.failures["text 0"] = [503]
    in_two = lambda: email.utils.formatdate(time.time() + 2, usegmt=True)  # noqa: E731
    server.headers = {"Retry_After": in_two}
    assert in_order(rewriter(server), chats(1), [0]) == [good(0)]
    assert server.times[1] - server.times[0] >= 0.9  # dates have whole seconds


def test_an_endpoint_that_wants_an_hour_gets_it(server):
    server.failures["text 0"] = [429]
    server.headers = {"Retry_After": "3600"}
    with pytest.raises(PromptRecoveryError, match="asks to wait 3600 s"):
        in_order(rewriter(server), chats(1), [0])


@pytest.mark.parametrize("value", ["0", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_busy_endpoint_is_not_asked_again_at_once(value, server):
    server.failures["text 0"] = [429, 429]
    server.headers = {"Retry_After": value}
    assert in_order(rewriter(server), chats(1), [0]) == [good(0)]
    first, second, third = server.times
    assert second - first >= 0.5 and third - second >= 1.0


def completion(message, **more):
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "choices": [choice], **more}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (completion({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
         "ab"),
        (completion({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]},
                                 {"type": "text", "text": "a"}]}), "a"),
        (completion({"content": ["a", "b"]}), "ab"),
        (completion({"content": "a"}, usage="abc"), "a"),
        (completion({"content": "a"}, usage={"prompt_tokens": "x", "completion_tokens": -1}), "a"),
        (completion({"content": "a"}, usage={"prompt_tokens": float("nan"),
                                             "completion_tokens": float("inf")}), "a"),
        (completion({"content": "a"}, usage={"prompt_tokens": [1], "completion_tokens": True}),
         "a"),
    ],
)  # fmt: skip
def test_answers_of_other_shapes_are_read(reply, text, server):
    server.failures["text 0"] = [reply]
    [answer] = in_order(rewriter(server), chats(1), [0])
    assert answer == Answer(text)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        completion({"content": 7}),
        completion({"content": {"text": "a"}}),
        completion({"content": [7]}),
        completion({"content": [{"type": "text", "text": 7}]}),
        completion({"content": True}),
        completion("a"),
        completion(["a"]),
        {"choices": {"message": {"content": 7}}},
        {"choices": "abc"},
        {"choices": 7},
    ],
)
def test_what_cannot_be_read_is_the_failure_of_one_request(reply, server):
    server.failures["text 1"] = [reply]
    server.delay = lambda content: 0.1
    answers = in_order(rewriter(server), chats(3), range(3))
    assert answers == [good(0), Answer("", "unreadable"), good(2)]
    assert len(server.asked) == 3, "it has been paid for, and is not asked for again"


def test_why_there_is_no_text_is_known(server):
    server.failures["text 0"] = [completion({"content": None})]
    server.failures["text 1"] = [
        (400, b'{"error": {"message": "Unsupported: \\u001b[2J max_tokens"}}')
    ]
    server.failures["text 2"] = [(422, b'{"detail": [{"msg": "extra fields not permitted"}]}')]
    details = [a.detail for a in in_order(rewriter(server), chats(4), range(4))]
    assert details[0] == "no text, finish_reason stop"
    assert details[1] == "Error code: 400 - Unsupported: [2J max_tokens"
    assert "extra fields not permitted" in details[2]
    assert details[3] == ""


def test_a_redirect_is_not_followed(server):
    with serving() as other:
        location = other.url.replace("//", "//user:secret@") + "/chat?key=secret"
        server.always, server.headers = (307, b"moved"), {"Location": location}
        with pytest.raises(PromptRecoveryError, match="redirects to http://127.0.0.1") as caught:
            in_order(rewriter(server), chats(1), [0])
        assert other.asked == []
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sk-a\nb", "OPENAI_API_KEY: holds a control character, which no key has"),
        ("“sk-a”", "OPENAI_API_KEY: holds left double quotation mark"),
        ("sk a", "OPENAI_API_KEY: holds space"),
        ("clé", "OPENAI_API_KEY: holds latin small letter e with acute"),
    ],
)
def test_a_key_that_cannot_be_one_is_one_line(key, message, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(PromptRecoveryError, match=message) as caught:
        in_order(rewriter(server), chats(1), [0])
    assert "\n" not in str(caught.value) and key not in str(caught.value)
    assert server.asked == []


def test_blanks_around_a_key_are_no_part_of_it(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-a\r\n")
    in_order(rewriter(server), chats(1), [0])
    assert server.keys == {"Bearer sk-a"}


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080/v1",
        "127.0.0.1:8080",
        "ftp://h/v1",
        "http://",
        "http://user:SECRET@h:99999/v1",
        "http://h:port/v1",
        "http://[::1/v1",
        "http://h h/v1",
        "http://h/a\nb",
    ],
)
def test_a_url_that_is_none_is_one_line(url, server, monkeypatch):
    with pytest.raises(PromptRecoveryError, match=r"backend\.base_url=.*: must be a URL") as first:
        rewriter(server, base_url=url)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(PromptRecoveryError, match="OPENAI_BASE_URL=.*: must be a URL") as second:
        in_order(rewriter(server, base_url=None), chats(1), [0])
    for caught in (first, second):
        assert "\n" not in str(caught.value) and "SECRET" not in str(caught.value)
    assert server.asked == []


def test_the_endpoint_of_the_environment_is_named_in_the_card(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a")
    asked = rewriter(server, base_url=None)
    assert in_order(asked, chats(1), [0]) == [good(0)]
    assert "127.0.0.1" in asked.card()["backend"]
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert asked.card()["backend"] == "openai (OpenAI)"


def test_a_secret_in_the_path_is_not_published(server):
    asked = rewriter(server, base_url="https://user:SECRET@h/v1/SECRET/x?key=SECRET")
    assert asked.card()["backend"] == "openai (https://h/…)"
    assert rewriter(server).card()["backend"] == f"openai ({server.url})"
    other = rewriter(server, base_url="https://h/v1/OTHER/x")
    assert asked.identity != other.identity


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/nonexistent/cacert.pem"),
        ("SSL_CERT_DIR", "/nonexistent"),
        ("ALL_PROXY", "socks9://127.0.0.1:1"),
        ("HTTPS_PROXY", "ftp://user:secret@127.0.0.1:1"),
        ("http_proxy", "http://127.0.0.1:port"),
    ],
)
def test_a_variable_that_the_client_cannot_use_is_named(name, value, server, monkeypatch):
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    try:
        in_order(rewriter(server, retries=0), chats(1), [0])
    except PromptRecoveryError as error:
        assert name in str(error) and "\n" not in str(error) and "secret" not in str(error)
    else:
        assert name == "SSL_CERT_DIR"  # a client may ignore it


def test_an_error_of_the_program_waits_for_what_is_under_way(server, monkeypatch):
    server.delay = lambda content: 0.3 if content == "text 0" else 0.0
    answered = OpenAIRewriter.cost

    def cost(self, prompt, completion):
        if len(server.answered) == 1:
            raise ZeroDivisionError
        return answered(self, prompt, completion)

    monkeypatch.setattr(OpenAIRewriter, "cost", cost)
    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(rewriter(server, concurrency=2).answers(chats(9), range(9)))
    assert [index for index, _ in found] in ([], [0])
    assert len(server.asked) == 2


def random_json(rng, depth=0):
    kinds = [None, True, -1, 7, 1e308, float("nan"), "", "a text", "\x00\x1b", "\ud800"]
    if depth > 2 or rng.random() < 0.4:
        return rng.choice(kinds)
    if rng.random() < 0.5:
        return [random_json(rng, depth + 1) for _ in range(rng.randrange(3))]
    names = ["choices", "message", "content", "error", "usage", "text", "type", "finish_reason",
             "prompt_tokens", "code", "detail", "x"]  # fmt: skip
    return {rng.choice(names): random_json(rng, depth + 1) for _ in range(rng.randrange(4))}


def damaged(rng, value):
    """A completion with one of its parts replaced."""
    place = value
    while True:
        inside = list(place) if isinstance(place, dict) else list(range(len(place)))
        chosen = rng.choice(inside)
        if isinstance(place[chosen], dict | list) and place[chosen] and rng.random() < 0.7:
            place = place[chosen]
            continue
        place[chosen] = random_json(rng)
        return value


@pytest.mark.parametrize("seed", range(max(1, EXAMPLES // 50)))
def test_whatever_an_endpoint_answers_nothing_is_lost_or_paid_twice(
    server, no_waiting, tmp_path, seed
):
    """Random JSON of the right and the wrong shape, random statuses, and cuts at random bytes."""
    rng = random.Random(seed)
    for n in range(60):
        replies = []
        for _ in range(rng.randrange(4)):
            usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            whole = completion({"role": "assistant", "content": "x"}, usage=usage)
            value = damaged(rng, whole) if rng.random() < 0.6 else random_json(rng)
            data = json.dumps(value).encode()
            status = rng.choice([200, 200, 200, 200, 400, 422, 429, 500, 503, 418])
            cut = [rng.randrange(len(data))] if rng.random() < 0.3 and len(data) > 1 else []
            replies.append((status, data, *cut))
        server.failures[f"text {n}"] = replies
    server.headers = {"Retry_After": "0"}
    kept, asked_for = {}, {}
    for _ in range(60):  # the same command, until it is done
        store = RequestStore(tmp_path / "requests.jsonl")
        asked = Remembering(rewriter(server, retries=1, timeout_s=20.0), store)
        try:
            answers = dict(asked.answers(chats(60), range(60)))
            done = not asked.failed_for_now
        except PromptRecoveryError as error:
            assert "\n" not in str(error)
            answers, done = {}, False
        finally:
            store.close()
        for n, answer in kept.items():
            assert answers.get(n, answer) == answer, "what was answered stays"
        kept |= {n: a for n, a in answers.items() if not is_transient(a.error)}
        tries = server.tries()
        for n in kept:
            asked_for.setdefault(n, tries[f"text {n}"])
        if done:
            break
    assert done
    assert len(answers) == 60
    assert max(server.answered.values()) == 1, "a good answer is asked for only once"
    tries = server.tries()
    assert {n: tries[f"text {n}"] for n in kept} == asked_for, "nothing settled is asked for again"


def test_no_more_at_once_than_allowed(server):
    server.delay = lambda _: 0.02
    in_order(rewriter(server, concurrency=3), chats(12), range(12))
    assert server.most_under_way == 3


@pytest.mark.parametrize("limit", [{"requests_per_minute": 1200}, {"tokens_per_minute": 1200 * 8}])
def test_requests_are_spaced(limit, server):
    # A request of one token may get seven back; that it used 14 moves the next one later.
    asked = rewriter(server, **limit)
    in_order(asked, chats(5), range(5))
    in_order(asked, chats(5), range(5))  # the limit holds over calls
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert sum(gaps) >= 9 * 0.05 - 0.02
    if "tokens_per_minute" in limit:
        assert sum(gaps) >= 8 * 14 / (1200 * 8) * 60 - 0.1


def test_tokens_and_cost_are_counted(server):
    asked = rewriter(server, prompt_price=2.0, completion_price=10.0)
    [answer] = in_order(asked, chats(1), [0])
    assert (answer.prompt_tokens, answer.completion_tokens) == (10, 4)
    assert answer.cost == pytest.approx(60e-6)


def test_odd_answers(server):
    texts = {"text 0": None, "text 1": "\ud83d half"}
    server.text = lambda content, _: texts[content]
    server.finish_reason = "length"
    [nothing, half] = in_order(rewriter(server), chats(2), [0, 0])
    assert (nothing.text, half.text) == ("", "? half")
    assert not half.finished
    server.finish_reason = "content_filter"
    assert [a.error for a in in_order(rewriter(server), chats(1), [0])] == ["content_filter"]


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    asked = rewriter(server, base_url=server.url.replace("//", "//user:password@"))
    in_order(asked, chats(1), [0])
    assert len(server.keys) == 1
    said = f"{asked.identity} {asked.card()} {asked.address}"
    assert "secret" not in repr(asked) + said and "password" not in said


def test_what_is_missing_is_named(server, monkeypatch):
    with pytest.raises(PromptRecoveryError, match=r"rewriter\.model\.served: name the endpoint's"):
        in_order(rewriter(server, model=Model("x")), chats(1), [0])
    with pytest.raises(PromptRecoveryError, match="needs OPENAI_API_KEY in the environment"):
        in_order(rewriter(server, base_url=None), chats(1), [0])
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install -e .*\[api\]'"):
        in_order(rewriter(server), chats(1), [0])
    assert server.asked == []


def test_fields_can_be_added_and_left_out(server):
    request = {"max_tokens": None, "max_completion_tokens": 9, "top_p": 0.9}
    asked = rewriter(server, request=request)
    in_order(asked, chats(1), [0])
    [(_, body)] = server.asked
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["top_p"]) == (9, 0.9)
    assert asked.identity != rewriter(server).identity


def test_a_model_without_a_system_role_gets_none(server):
    chat = [{"role": "system", "content": "Be brief."}, *chats(1)[0]]
    in_order(rewriter(server), [chat], [0])
    in_order(rewriter(server, model=Model("g", served="g", system_role=False)), [chat], [0])
    with_role, without = (body["messages"] for _, body in server.asked)
    assert with_role == chat
    assert without == [{"role": "user", "content": "Be brief.\n\ntext 0"}]


def test_it_works_where_an_event_loop_runs(server):
    async def cell():  # of a notebook
        return in_order(rewriter(server), chats(2), [0, 1])

    assert asyncio.run(cell()) == [good(0), good(1)]


def test_the_identity_is_of_what_decides_the_answers(server):
    asked = rewriter(server)
    assert asked.identity == rewriter(server, concurrency=2, prompt_price=1.0).identity
    others = [
        rewriter(server, base_url="http://127.0.0.1:9/v1"),
        rewriter(server, model=Model("a-model", served="n")),
        rewriter(server, sampling=Sampling(0.6, 7)),
        rewriter(server, sampling=Sampling(0.5, 8)),
    ]
    assert len({asked.identity, *(o.identity for o in others)}) == 5
    assert asked.name == "a-model"
    card = asked.card()
    assert (card["served_as"], card["licence"], card["temperature"]) == ("m", "mit", "0.5")


@pytest.mark.parametrize(
    "option",
    [
        {"concurrency": 0},
        {"retries": -1},
        {"timeout_s": 0},
        {"requests_per_minute": 0},
        {"prompt_price": -1.0},
    ],
)
def test_bad_options_are_named(option, server):
    [(name, value)] = option.items()
    with pytest.raises(PromptRecoveryError, match=rf"rewriter\.backend\.{name}={value}: must be"):
        rewriter(server, **option)
