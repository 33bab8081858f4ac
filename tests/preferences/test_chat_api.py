"""Candidates from an endpoint: a small local server that misbehaves as real ones do."""

import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.preferences import ChatApi
from prompt_recovery.preferences.candidates import collect_candidates
from prompt_recovery.preferences.chat_api import ApiCandidates
from prompt_recovery.templates import Template

TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}", system="Be brief.")
EXAMPLES = [RewriteExample(f"e{n}", f"before {n}", f"after {n}", "truth") for n in range(4)]


class Server(ThreadingHTTPServer):
    """Answers `text(content, temperature)`, after the failures that `failures` has for it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failures = {}
        self.asked = []
        self.keys = set()
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.retry_after = "0"
        self.answer = None  # instead of a chat completion
        self.text = lambda content, temperature: f"{content} at {temperature}"

    def handle_error(self, *_):  # a client that gave up is no news
        pass


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        with server.lock:
            server.asked.append((self.path, body))
            server.keys.add(self.headers["Authorization"])
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            failures = server.failures.get(content, [])
            failure = failures.pop(0) if failures else None
        # The later an example, the sooner its answer.
        time.sleep(0.01 * (5 - int(content.split()[1])))
        with server.lock:
            server.under_way -= 1
        if failure == "cut":
            self.close_connection = True
            return
        if failure:
            answer = {"error": {"message": "no"}}
        else:
            message = {"role": "assistant", "content": server.text(content, body["temperature"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
            }
        data = server.answer or json.dumps(answer).encode()
        self.send_response(failure or 200)
        if failure == 429:
            self.send_header("Retry-After", server.retry_after)
        kind = "text/html" if data.startswith(b"<") else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def source(server, temperatures=(0.5, 1.0), **options):
    options = {"model": "m", "base_url": f"http://127.0.0.1:{server.server_port}/v1"} | options
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
    tries = Counter(body["messages"][-1]["content"] for _, body in server.asked)
    assert [tries[f"before {n} => after {n}"] for n in range(4)] == [2, 2, 2, 1]


def test_no_more_requests_at_once_than_allowed(server):
    source(server, concurrency=2).propose(EXAMPLES)
    assert server.most_under_way == 2


@pytest.mark.parametrize(
    ("failure", "name"),
    [(429, "RateLimitError"), (500, "InternalServerError"), ("cut", "APIConnectionError")],
)
def test_an_endpoint_that_keeps_failing_is_one_message(failure, name, server):
    server.failures["before 0 => after 0"] = [failure] * 9
    with pytest.raises(PromptRecoveryError, match=rf"127\.0\.0\.1.*{name} for model 'm'") as caught:
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


def test_what_is_missing_is_named(server, monkeypatch):
    with pytest.raises(PromptRecoveryError, match=r"preferences\.api\.model: name the endpoint"):
        source(server, model="").propose(EXAMPLES)
    with pytest.raises(PromptRecoveryError, match="needs OPENAI_API_KEY in the environment"):
        source(server, base_url=None).propose(EXAMPLES)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install 'prompt-recovery\[api\]'"):
        source(server).propose(EXAMPLES)
    assert server.asked == []


def test_retry_after_is_honoured(server):
    server.failures["before 0 => after 0"] = [429]
    server.retry_after = "1.2"  # more than the client would wait by itself
    started = time.monotonic()
    source(server, [1.0]).propose(EXAMPLES[:1])
    assert time.monotonic() - started >= 1.2
    assert len(server.asked) == 2


@pytest.mark.parametrize("answer", [b"<html>Welcome</html>", b'{"error": "no such model"}'])
def test_what_is_no_chat_completion_is_one_message(answer, server):
    server.answer = answer
    with pytest.raises(PromptRecoveryError, match="something else than a chat completion: check"):
        source(server, [1.0], retries=0).propose(EXAMPLES)


def test_what_is_done_is_kept(server, tmp_path):
    examples = [
        RewriteExample(f"e{n}", f"before {n % 4}", f"after {n}", "truth") for n in range(20)
    ]
    last = min(examples, key=lambda e: (len(e.original_text + e.rewritten_text), -int(e.id[1:])))
    server.failures[f"{last.original_text} => {last.rewritten_text}"] = [500]
    store = tmp_path / "store.jsonl"
    with pytest.raises(PromptRecoveryError, match="what is done is kept"):
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
        ChatApi("m", **option)
