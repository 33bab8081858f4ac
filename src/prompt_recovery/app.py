"""A web page to try a recoverer (extra `[app]`). All texts on it are escaped."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from prompt_recovery.backbones.load import quiet
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.recovery.assemble import Assembled, assemble
from prompt_recovery.recovery.interface import Prediction
from prompt_recovery.recovery.job import recover_one, steps
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.settings.network import exempt_from_proxies, refused_by_environment
from prompt_recovery.templates import word_changes
from prompt_recovery.terminal import progress_bar

_SHOWN_WORDS = 1500  # number of words of each text to show in the difference
_ALTERNATIVES = 8
_MOST_CHARACTERS = 100_000
_CSS = """
.gradio-container { max-width: 64rem !important; margin: 0 auto !important; }
.pr-answer { font-size: 1.35rem; font-weight: 600; line-height: 1.35; overflow-wrap: anywhere; }
.pr-quiet { color: var(--body-text-color-subdued); font-size: .9rem; }
.pr-difference { line-height: 1.7; overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; }
.pr-difference del { background: #f8514933; text-decoration: line-through; border-radius: 3px; }
.pr-difference ins { background: #2ea04340; text-decoration: none; border-radius: 3px; }
.pr-difference del, .pr-difference ins { color: inherit; padding: 0 .15em; }
.pr-others { width: 100%; border-collapse: collapse; margin-top: 1rem; }
.pr-others, .pr-others tr { border: 0 !important; }
.pr-others td, .pr-others th { padding: .35rem .5rem !important; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.pr-others td + td, .pr-others th + th { text-align: right; white-space: nowrap; width: 1%; }
"""
_EXAMPLES = [
    [
        "The ferry to the island leaves at dawn and is back by noon, weather permitting. "
        "Tickets cost four crowns at the blue hut; dogs travel free of charge.",
        "Arr! At dawn she sets sail for the isle, and by noon she be home again, if the winds be "
        "kind. Four crowns to the blue hut, ye landlubbers; yer hounds sail free!",
    ],
    [
        "Please return the borrowed ladder by Friday. The painters need it for the stairwell.",
        "Ladder lent away,\npainters wait beneath the stairs.\nFriday brings it home.",
    ],
]


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
    require_gradio()
    quiet()
    with progress_bar() as progress:
        ready = assemble(recipe, steps(progress))
    blocks = page(ready)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            app_kwargs={"middleware": [(HostCheck, (), {"names": [host, *names]})]},
            **_look(),
        )
    except OSError as error:
        raise PromptRecoveryError(
            f"port={port}: cannot be opened on {host}; choose another port"
        ) from error
    except (ImportError, ValueError, RuntimeError) as error:
        raise refused_by_environment(f"the page on {host}", error) from error
    print(f"{printable(ready.recoverer.name)}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
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


def require_gradio() -> Any:
    """Imports and returns gradio.

    Raises:
        PromptRecoveryError: If it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except (ImportError, ValueError) as error:
        if find_spec("gradio") is not None:  # it makes an HTTP client
            raise refused_by_environment("the web page", error) from error
        raise PromptRecoveryError(
            "the web page needs gradio: pip install 'prompt-recovery[app]'"
        ) from error
    return gradio


def _look() -> dict[str, Any]:
    """Returns theme and CSS with system fonts, so that nothing is fetched from other servers."""
    gr = require_gradio()
    theme = gr.themes.Soft(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return {"theme": theme, "css": _CSS}


def page(ready: Assembled) -> Any:
    """Builds the page as Gradio blocks."""
    gr = require_gradio()

    def answer(original_text: str, rewritten_text: str) -> tuple[str, str]:
        if not original_text.strip() or not rewritten_text.strip():
            raise gr.Error("Give both texts.")
        prediction = recover_one(ready.recoverer, original_text, rewritten_text)
        return answer_html(prediction, ready), difference_html(original_text, rewritten_text)

    with gr.Blocks(title="Prompt Recovery") as blocks:
        gr.Markdown(
            "# Prompt Recovery\nA text, and what a language model made of it: what was the "
            "instruction?"
        )
        with gr.Row():
            options = {
                "lines": 6,
                "max_lines": 16,
                "max_length": _MOST_CHARACTERS,
                "min_width": 300,
            }
            original = gr.Textbox(label="Original text", **options)
            rewritten = gr.Textbox(label="Rewritten text", **options)
        button = gr.Button("Recover the prompt", variant="primary")
        found = gr.HTML()
        with gr.Accordion("What changed, word by word"):
            changes = gr.HTML()
        gr.Examples(_EXAMPLES, [original, rewritten], label="Try one of these")
        gr.HTML(f'<p class="pr-quiet">{escape(ready.recoverer.name)}</p>')
        button.click(answer, [original, rewritten], [found, changes])
    return blocks


def answer_html(prediction: Prediction, ready: Assembled) -> str:
    """Renders the recovered prompt and its alternatives with their expected SCS.

    Without a calibration, the score is shown instead: for MBR, how much the samples agree with it.
    """
    notes = []
    if prediction.confidence is not None:
        notes.append(f"expected SCS {prediction.confidence:.2f}")
    if prediction.fallback:
        notes.append("the mean prompt: the recoverer has no answer of its own")
    parts = [f'<div class="pr-answer">{escape(prediction.rewrite_prompt)}</div>']
    if notes:
        parts.append(f'<div class="pr-quiet">{"; ".join(notes)}</div>')
    others = prediction.candidates[1:_ALTERNATIVES]
    if others:
        heading = "agreement" if ready.recoverer.calibration is None else "expected SCS"
        rows = "".join(
            f"<tr><td>{escape(c.text)}</td><td>{_value(c.score, ready):.2f}</td></tr>"
            for c in others
        )
        parts.append(
            f'<table class="pr-others"><thead><tr><th>Alternatives</th><th>{heading}</th></tr>'
            f"</thead><tbody>{rows}</tbody></table>"
        )
    return "".join(parts)


def _value(score: float, ready: Assembled) -> float:
    return score if ready.recoverer.calibration is None else ready.recoverer.calibration(score)


def difference_html(original_text: str, rewritten_text: str) -> str:
    """Renders both texts as one, with removed words struck out and added words marked."""
    cut = [text.split() for text in (original_text, rewritten_text)]
    before, after = (" ".join(words[:_SHOWN_WORDS]) for words in cut)
    parts = []
    for old, new in word_changes(before, after):
        if old == new:
            parts.append(escape(" ".join(old)))
            continue
        parts += [f"<del>{escape(' '.join(old))}</del>"] if old else []
        parts += [f"<ins>{escape(' '.join(new))}</ins>"] if new else []
    if max(map(len, cut)) > _SHOWN_WORDS:
        parts.append(f'<span class="pr-quiet">… (the first {_SHOWN_WORDS:,} words)</span>')
    return f'<div class="pr-difference">{" ".join(parts)}</div>'
