"""Serves the page."""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from prompt_recovery.app.look import look
from prompt_recovery.app.page import described, page, require_gradio
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.job import steps
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.settings.network import exempt_from_proxies, refused_by_environment
from prompt_recovery.terminal import progress_bar


def serve(recipe: Recipe, host: str, port: int, names: Sequence[str] = ()) -> None:
    """Loads the recoverer and serves the page until Ctrl-C.

    Args:
        recipe: The recoverer.
        host: The address to listen on.
        port: The port.
        names: Host names under which the page may be opened, besides addresses and this machine's
            own names.

    Raises:
        PromptRecoveryError: If the extra is not installed, the port is not available, or the
            recoverer cannot be loaded (see `assemble`).
    """
    exempt_from_proxies("localhost", "127.0.0.1", host)  # Gradio looks whether its page is there
    gr = require_gradio()
    with progress_bar() as progress:
        ready = assemble(recipe, steps(progress))
    blocks = page(ready)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=["api"],
            run_history=False,  # it would keep the texts in the browser
            app_kwargs={"middleware": [(HostCheck, (), {"names": [host, *names]})]},
            **look(gr),
        )
    except OSError as error:
        raise PromptRecoveryError(
            f"port={port}: cannot be opened on {host}; choose another port"
        ) from error
    except (ImportError, ValueError, RuntimeError) as error:
        raise refused_by_environment(f"the page on {host}", error) from error
    print(f"{printable(described(ready))}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    blocks.block_thread()


class HostCheck:
    """Refuses requests for other hosts.

    A web page from elsewhere can make its own name stand for this machine (DNS rebinding), and
    browsers would then let it read what is answered here. It cannot do so with an address.

    Args:
        app: The ASGI application.
        names: Host names that are allowed besides addresses and this machine's own names.
    """

    def __init__(self, app: Any, names: Sequence[str]) -> None:
        self._app = app
        own = (socket.gethostname(), socket.getfqdn(), "localhost")
        self._names = {name.lower() for name in (*own, *names)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers with status 403 where the host isn't allowed."""
        if scope["type"] == "lifespan" or self._allows(dict(scope["headers"]).get(b"host", b"")):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        text = b"This page is not served under this name: use its address, or set names=[<name>]"
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def _allows(self, header: bytes) -> bool:
        try:
            name = urlsplit(f"//{header.decode('ascii')}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
