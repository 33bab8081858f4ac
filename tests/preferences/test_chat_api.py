"""Candidates from an endpoint: a small local server that misbehaves as real ones do."""

import asyncio
import sys

import pytest

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.preferences import ChatApi
from prompt_recovery.preferences.candidates import collect_candidates
from prompt_recovery.preferences.chat_api import ApiCandidates
from prompt_recovery.templates import Template
from tests.rewriters.server import serving

TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}", system="Be brief.")
EXAMPLES = [RewriteExample(f"e{n}", f"before {n}", f"after {n}", "truth") for n in range(4)]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        # The later an example, the sooner its answer.
        server.delay = lambda content: 0.01 * (5 - int(content.split()[1]))
        server.headers = {"Retry_After": "0"}
        yield server


def source(server, temperatures=(0.5, 1.0), **options):
    options = {"model": "m", "base_url": server.url} | options
    return ApiCandidates(ChatApi(**options), TEMPLATE, list(temperatures), 7)


def test_answers_keep_their_order(server):
    assert source(server).propose(EXAMPLES) == [
        [f"before {n} => after {n} at {t}" for t in (0.5, 1.0)] for n in range(4)
    ]
    assert len(server.asked) == 8
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["max_tokens"]) == ("m", 7)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert 1 < server.most_under_way <= 8
    assert "truth" not in str(server.asked)


def test_failures_are_tried_again(server):
    for n, failure in enumerate((429, 500, "cut")):
        server.failures[f"before {n} => after {n}"] = [failure]
    answers = source(server, [1.0]).propose(EXAMPLES)
    assert answers == [[f"before {n} => after {n} at 1.0"] for n in range(4)]
    tries = server.tries()
    assert [tries[f"before {n} => after {n}"] for n in range(4)] == [2, 2, 2, 1]


def test_no_more_requests_at_once_than_allowed(server):
    source(server, concurrency=2).propose(EXAMPLES)
    assert server.most_under_way == 2


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        (429, r"failed for model 'm' \(http_429: "),
        (500, r"failed for model 'm' \(http_500: "),
        (401, "refused the key"),
        ("cut", "is the server running"),
    ],
)
def test_an_endpoint_that_keeps_failing_is_one_message(failure, name, server):
    server.failures["before 0 => after 0"] = [failure] * 9
    with pytest.raises(PromptRecoveryError, match=rf"127\.0\.0\.1.*{name}") as caught:
        source(server, [1.0], retries=0).propose(EXAMPLES[:1])
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 1


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
    api = source(server, [1.0])
    api.propose(EXAMPLES[:1])
    assert server.keys == {"Bearer sk-of-the-test"}
    assert "sk-of-the-test" not in repr(api)


def test_odd_answers(server):
    server.text = lambda content, temperature: {"before 0": None, "before 1": "\ud83d half"}[
        content[:8]
    ]
    assert source(server, [1.0]).propose(EXAMPLES[:2]) == [[""], ["? half"]]


def test_what_the_endpoint_says_is_quoted(server, caplog):
    said = b'{"error": {"message": "max_tokens is not supported with this model"}}'
    server.failures["before 0 => after 0"] = [(400, said)]
    with pytest.raises(PromptRecoveryError, match=r"http_400: .*max_tokens is not supported"):
        source(server, [1.0]).propose(EXAMPLES[:1])
    server.text = lambda *_: None
    server.finish_reason = "length"
    assert source(server, [1.0]).propose(EXAMPLES[:2]) == [[""], [""]]
    assert "none of 2 requests with a text: no text, finish_reason length" in caplog.text


def test_what_is_missing_is_named(server, monkeypatch):
    with pytest.raises(PromptRecoveryError, match=r"preferences\.api\.model: name the endpoint"):
        source(server, model="").propose(EXAMPLES)
    with pytest.raises(PromptRecoveryError, match="needs OPENAI_API_KEY in the environment"):
        source(server, base_url=None).propose(EXAMPLES)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install -e .*\[api\]'"):
        source(server).propose(EXAMPLES)
    assert server.asked == []


@pytest.mark.parametrize("answer", ["html", "error"])
def test_what_is_no_chat_completion_is_one_message(answer, server):
    server.always = answer
    with pytest.raises(
        PromptRecoveryError, match=r"not answer with a chat completion.*check preferences\.api"
    ):
        source(server, [1.0], retries=0).propose(EXAMPLES)


def test_it_works_where_an_event_loop_runs(server):
    async def cell():  # of a notebook
        return source(server, [1.0]).propose(EXAMPLES[:1])

    assert asyncio.run(cell()) == [["before 0 => after 0 at 1.0"]]


def test_what_is_done_is_kept(server, tmp_path):
    examples = [
        RewriteExample(f"e{n}", f"before {n % 4}", f"after {n}", "truth") for n in range(20)
    ]
    last = min(examples, key=lambda e: (len(e.original_text + e.rewritten_text), -int(e.id[1:])))
    server.failures[f"{last.original_text} => {last.rewritten_text}"] = [500]
    store = tmp_path / "store.jsonl"
    with pytest.raises(PromptRecoveryError, match="finished answers are kept"):
        collect_candidates(examples, [source(server, [1.0], retries=0)], store)
    server.asked.clear()
    found = collect_candidates(examples, [source(server, [1.0])], store)
    assert len(server.asked) == 4
    for e in examples:
        assert [c.text for c in found[e.id]] == [f"{e.original_text} => {e.rewritten_text} at 1.0"]


@pytest.mark.parametrize("option", [{"concurrency": 0}, {"retries": -1}, {"timeout_s": 0}])
def test_bad_options_are_named(option):
    [(name, value)] = option.items()
    with pytest.raises(PromptRecoveryError, match=rf"preferences\.api\.{name}={value}: must be"):
        ChatApi(model="m", **option)
