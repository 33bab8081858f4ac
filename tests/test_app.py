"""The web page; the parts that need Gradio (extra [app]) skip without it."""

import asyncio
import os
import socket
import sys

import pytest

from prompt_recovery import app
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.assemble import Assembled
from prompt_recovery.recovery.confidence import Calibration
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction
from prompt_recovery.settings.network import exempt_from_proxies

EVIL = '<img src=x onerror="alert(1)"> & "quotes"'


class Answering:
    name = "answering <b>"
    calibration = Calibration((0.0, 1.0), (0.0, 0.4), 9)

    def recover(self, pairs, progress=lambda _: None):
        candidates = (Candidate(EVIL, -1.0, 0.5), Candidate("another", -2.0, 0.25))
        return [Prediction(p.id, EVIL, False, candidates, 0.31) for p in pairs]


READY = Assembled(Answering(), "f", "i")


def test_texts_are_escaped():
    [prediction] = Answering().recover([Pair("1", "a", "b")])
    shown = app.answer_html(prediction, READY) + app.difference_html(EVIL, EVIL + " </div>")
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert "<ins>&lt;/div&gt;</ins>" in shown
    assert "expected SCS 0.31" in shown
    assert "<td>0.10</td>" in shown  # the alternative's score, calibrated


def test_the_difference_marks_words_and_bounds_the_work():
    assert app.difference_html("a b c", "a x c") == (
        '<div class="pr-difference">a <del>b</del> <ins>x</ins> c</div>'
    )
    assert "the first 1,500 words" in app.difference_html("a " * 50_000, "b " * 50_000)


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install 'prompt-recovery\[app\]'"):
        app.require_gradio()


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_proxy_that_keeps_gradio_from_its_work_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # importing it fails
    monkeypatch.setattr(app, "find_spec", lambda _: object())  # but it is installed
    monkeypatch.setenv(name, "socks5://127.0.0.1:1080")
    with pytest.raises(PromptRecoveryError, match=f"{name}=socks5://127.0.0.1:1080: .*NO_PROXY"):
        app.require_gradio()


def test_the_page_is_reached_without_a_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "example.org")
    exempt_from_proxies("localhost", "127.0.0.1", "localhost")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,localhost,127.0.0.1"


def test_the_page_answers_through_its_interface():
    gradio = pytest.importorskip("gradio")
    client = pytest.importorskip("gradio_client")
    assert gradio.__version__.split(".")[0] >= "6"
    page = app.page(READY)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        caller = client.Client(url, verbose=False)
        found, changes = caller.predict("one text", "another text", api_name="/answer")
        assert "&lt;img" in found
        assert "<ins>another</ins>" in changes
        with pytest.raises(Exception, match="Give both texts"):
            caller.predict("one text", " ", api_name="/answer")
    finally:
        page.close()


def answered(check, kind="http", **headers):
    """What a check of hosts answers: the status, or what the application says."""
    said = []

    async def application(scope, receive, send):
        said.append("passed")

    async def send(message):
        said.append(message.get("status", message.get("code")))

    scope = {"type": kind, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(app.HostCheck(application, check)(scope, None, send))
    return said[0]


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("[::1]:7860", True),
        ("192.168.1.5", True),
        ("LOCALHOST", True),
        ("my.proxy:80", True),
        ("evil.example:7860", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_the_page_is_served_under_its_own_names_only(host, passes):
    found = answered(["my.proxy"], host=host)
    assert found == ("passed" if passes else 403)
    assert answered(["my.proxy"], "websocket", host=host) == ("passed" if passes else 1008)


def test_the_host_is_checked_by_the_served_page(monkeypatch):
    pytest.importorskip("gradio")
    import urllib.error
    import urllib.request

    launched = []
    monkeypatch.setattr(app, "assemble", lambda *_: READY)
    page = app.page(READY)
    monkeypatch.setattr(app, "page", lambda _: page)
    monkeypatch.setattr(page, "block_thread", lambda: launched.append(page.local_url))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app.serve(None, "127.0.0.1", port)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(launched[0] + "config", timeout=20).status == 200
        foreign = urllib.request.Request(launched[0] + "config", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(foreign, timeout=20)
    finally:
        page.close()
