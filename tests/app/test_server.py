"""The server; what needs Gradio (extra [app]) is skipped without it."""

import asyncio
import os
import socket

import pytest

from prompt_recovery.app import page, server
from prompt_recovery.settings.network import exempt_from_proxies
from tests.app.answering import READY


def test_the_page_is_reached_without_a_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "example.org")
    exempt_from_proxies("localhost", "127.0.0.1", "localhost")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,localhost,127.0.0.1"


def answered(check, kind="http", **headers):
    """What a check of hosts answers: the status, or what the application says."""
    said = []

    async def application(scope, receive, send):
        said.append("passed")

    async def send(message):
        said.append(message.get("status", message.get("code")))

    scope = {"type": kind, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(server.HostCheck(application, check)(scope, None, send))
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
    monkeypatch.setattr(server, "assemble", lambda *_: READY)
    blocks = page.page(READY)
    monkeypatch.setattr(server, "page", lambda _: blocks)
    monkeypatch.setattr(blocks, "block_thread", lambda: launched.append(blocks.local_url))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server.serve(None, "127.0.0.1", port)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(launched[0] + "config", timeout=20).status == 200
        foreign = urllib.request.Request(launched[0] + "config", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(foreign, timeout=20)
    finally:
        blocks.close()
