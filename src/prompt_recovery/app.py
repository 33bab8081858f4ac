"""A web page to try a recoverer (extra `[app]`). All texts on it are escaped.

The page has a tab for one pair and a tab for a file of pairs. A further tab is a function like
`_file_tab`, and a further panel of an answer is a part of `answer_html`.
"""

import ipaddress
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prompt_recovery.changes.pair import measures
from prompt_recovery.changes.shown import measures_html
from prompt_recovery.changes.text import has_measures
from prompt_recovery.data.splits import normalise
from prompt_recovery.detection.detector import detect
from prompt_recovery.detection.shown import verdict_html
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.recovery.assemble import Assembled, assemble
from prompt_recovery.recovery.confidence import with_fallback
from prompt_recovery.recovery.evidence import explainable, with_evidence
from prompt_recovery.recovery.interface import Pair, Prediction
from prompt_recovery.recovery.job import recover_file, single_pair, steps
from prompt_recovery.recovery.pairs import PairColumns, read_pairs
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.reporting.html import evidence_css, evidence_html
from prompt_recovery.settings.extras import require_extra
from prompt_recovery.settings.network import exempt_from_proxies, refused_by_environment
from prompt_recovery.tables import counted
from prompt_recovery.templates import word_changes
from prompt_recovery.terminal import announced, progress_bar

_SHOWN_WORDS = 1500  # number of words of each text to show in the difference
_ALTERNATIVES = 7
_MOST_ALTERNATIVES = 50
_MOST_CHARACTERS = 100_000
_PREVIEW = 8  # number of answers of a file that are shown
_FORMATS = (".csv", ".jsonl", ".parquet")
_EXPECTED = (
    "SCS (sharpened cosine similarity) says how similar an answer is to the true prompt: 1 is the "
    "same, and unrelated prompts have about 0. This is what answers with such a score had on "
    "average on the validation examples of the run."
)
_SCORE = (
    "What candidates are ranked by. By default, it says how similar this prompt is, on average, to "
    "all others that the recoverer considers, before this is calibrated to the expected SCS."
)
_ON_THE_PAGE = {
    r"map it with columns\.\w+=<your column>": "give its name above",
    r"map them with columns\.\w+=<your column>(,? columns\.\w+=<your column>)+": (
        "give their names above"
    ),
    r"number the rows with columns\.id=null": "leave the column of ids empty to number the rows",
}
"""What messages advise users of the command line to do, and what users of the page can do."""
_CSS = """
.gradio-container > .main, .gradio-container .fillable { max-width: 64rem !important;
  width: 100% !important; margin: 0 auto !important; }
.pr-answer { font-size: 1.35rem; font-weight: 600; line-height: 1.35; overflow-wrap: anywhere; }
.pr-quiet { color: var(--body-text-color-subdued); font-size: .9rem; }
.gradio-container abbr { cursor: help; text-decoration: underline dotted; position: relative; }
.gradio-container abbr:focus::after { content: attr(title); position: absolute; top: 1.6em; left: 0;
  z-index: 9; width: min(20rem, 70vw); padding: .5rem .75rem; border-radius: 4px;
  font-size: .85rem; font-weight: 400; line-height: 1.4; text-align: left; white-space: normal;
  color: var(--body-text-color); background: var(--block-background-fill);
  border: 1px solid var(--input-border-color); }
.pr-others th abbr:focus::after { left: auto; right: 0; }
.gradio-container :is(button, a, input, textarea, abbr, summary, [tabindex]):focus-visible {
  outline: 3px solid var(--pr-accent) !important; outline-offset: 2px; }
.gradio-container { --pr-accent: var(--primary-700); }
.dark.gradio-container, .dark .gradio-container { --pr-accent: var(--primary-300); }
.gradio-container button[role="tab"][aria-selected="true"] { color: var(--pr-accent); }
.gradio-container label:has(input[type="checkbox"]), footer button { min-height: 24px; }
footer .divider { display: none; }
#pr-examples th, #pr-examples td { text-align: left !important; }
#pr-examples td > * { text-align: left !important; justify-content: flex-start !important; }
.pr-problem { border-left: 4px solid #d1242f; padding: .35rem .75rem; overflow-wrap: anywhere; }
/* A former answer is hidden while another one is computed, and beside an error. */
.pr-found:has(.wrap:not(.hide)) .prose, .pr-found:has(.wrap:not(.hide)) ~ .pr-more {
  visibility: hidden; }
.pr-note { border-left: 4px solid #bf8700; padding: .35rem .75rem; margin-top: .5rem; }
.pr-missing textarea { border-color: #d1242f !important; }
.pr-missing span[data-testid="block-info"] ~ * { color: #d1242f; }
.dark .pr-missing textarea { border-color: #ff938a !important; }
.dark .pr-missing span[data-testid="block-info"] ~ * { color: #ff938a; }
.pr-difference { line-height: 1.7; overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; }
.pr-difference del { background: #f8514933; text-decoration: line-through; border-radius: 3px; }
.pr-difference ins { background: #2ea04340; text-decoration: none; border-radius: 3px; }
.pr-difference del, .pr-difference ins { color: inherit; padding: 0 .15em; }
.pr-others { width: 100%; border-collapse: collapse; margin-top: 1rem; }
.pr-others, .pr-others tr { border: 0 !important; }
.pr-others td, .pr-others th { padding: .35rem .5rem !important; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.pr-measures table, .pr-verdict table { width: 100%; border-collapse: collapse;
  margin-top: .75rem; border: 0 !important; }
.pr-measures tr, .pr-verdict tr { border: 0 !important; }
.pr-measures caption { display: none; }
.pr-verdict { margin-top: 1.5rem; }
.pr-verdict caption { text-align: left; font-weight: 600; }
.pr-measures th, .pr-measures td, .pr-verdict th, .pr-verdict td { padding: .3rem .5rem !important;
  text-align: left; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.pr-measures table { max-width: 40rem; }
.pr-measures td + td, .pr-measures th + th { white-space: nowrap; }
@media (max-width: 30rem) {
  .pr-measures table, .pr-verdict table { font-size: .8rem; }
  .pr-measures :is(th, td), .pr-verdict :is(th, td) { padding: .3rem .25rem !important; }
}
:is(.pr-found, .pr-summary):has(.wrap:not(.hide)) { min-height: 7rem; }
:is(.pr-found, .pr-summary) .wrap { overflow: visible !important; }
:is(.pr-found, .pr-summary) .meta-text-center { transform: translateY(4.25rem); left: 0; }
.pr-others td + td, .pr-others th + th { text-align: right; white-space: nowrap; width: 1%; }
"""
_HELP = {"original": "The text as it was.", "rewritten": "What a language model made of it."}
# Ctrl+Enter (Cmd+Enter on a Mac) in a text box presses the button.
_JS = """
() => document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  if (event.target.tagName !== "TEXTAREA") return;
  event.preventDefault();
  event.target.dispatchEvent(new Event("input", { bubbles: true }));
  setTimeout(() => document.getElementById("pr-recover")?.click(), 50);
})
"""
_LINK_JS = """
(...values) => {
  const defaults = %s;
  const url = new URL(window.location.href);
  Object.entries(defaults).forEach(([name, usual], i) => {
    const value = values[i] ?? "";
    if (String(value) === String(usual ?? "")) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  });
  window.history.replaceState(null, "", url);
  return url.href;
}
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
    [
        "Our meeting is on Tuesday at ten. Please bring the figures for May, and tell Ana that the "
        "projector is broken.",
        "Dear colleagues,\n\nI would like to remind you of our meeting, which will be held on "
        "Tuesday at ten o'clock. I kindly ask you to bring the figures for May and to inform Ana "
        "that the projector is out of order.\n\nYours sincerely",
    ],
]


@dataclass(frozen=True)
class Answer:
    """What the page shows for a pair.

    Attributes:
        found: The prompt and its alternatives, or what keeps the recoverer from answering, as HTML.
        changes: The difference of the two texts as HTML. Empty without an answer.
        measured: What can be measured of the pair, and whether an LLM rewrote it, as HTML. Empty
            without an answer or without the extra `measures`.
        hints: What is wrong with the text of a box, by the box: original or rewritten.
    """

    found: str = ""
    changes: str = ""
    measured: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)


def answer(
    ready: Assembled,
    original_text: str,
    rewritten_text: str,
    threshold: float | None = None,
    alternatives: int = _ALTERNATIVES,
    explain: bool = False,
) -> Answer:
    """Answers a pair. What is wrong with the texts is said at their boxes.

    Args:
        ready: The recoverer.
        original_text: The original text.
        rewritten_text: What a model made of it.
        threshold: The mean prompt answers where the expected SCS is lower. None: nowhere.
        alternatives: Number of further candidates to show.
        explain: Mark the words of both texts that support the prompt.
    """
    hints = {}
    for box, name, text in (
        ("original", "the original text", original_text),
        ("rewritten", "the rewritten text", rewritten_text),
    ):
        if not text.strip():
            hints[box] = f"This box is empty: paste {name} here."
        elif len(text) > _MOST_CHARACTERS:
            hints[box] = (
                f"This text has {len(text):,} characters, and the page takes {_MOST_CHARACTERS:,} "
                "at most: paste a part of it."
            )
    if hints:
        return Answer(hints=hints)
    if problem := _threshold_problem(threshold):
        return Answer(problem)
    try:
        pair = single_pair(original_text, rewritten_text)
        [prediction] = ready.recoverer.recover([pair])
        if explain and explainable(ready.recoverer):
            [prediction] = with_evidence(ready.recoverer, [pair], [prediction], "occlusion")
        if threshold is not None and prediction.confidence is not None:
            [prediction] = with_fallback([prediction], threshold, ready.fallback)
    except PromptRecoveryError as error:
        return Answer(problem_html(str(error)))
    notes = notes_html(ready, Pair("", original_text, rewritten_text))
    found = answer_html(prediction, alternatives) + notes
    if prediction.evidence:
        found += '<h3 class="pr-why">Why this prompt</h3>'
        found += str(evidence_html(prediction.evidence, original_text, rewritten_text))
    measured = measured_html(original_text, rewritten_text)
    return Answer(found, difference_html(original_text, rewritten_text), measured)


def answer_file(
    ready: Assembled,
    path: str | None,
    columns: PairColumns,
    suffix: str,
    threshold: float | None,
    folder: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[str, str | None]:
    """Answers a file of pairs as `prompt-recovery recover input=<file>` does.

    Args:
        ready: The recoverer.
        path: The file of pairs; None if none was given.
        columns: What it calls its columns.
        suffix: The format of the answers: .csv, .jsonl or .parquet.
        threshold: As for `answer`.
        folder: A folder for the file of answers.
        progress: Called with the number of pairs that are done, and of all pairs.

    Returns:
        A summary as HTML, and the file of answers; None if the pairs cannot be read.
    """
    if problem := _threshold_problem(threshold):
        return problem, None
    if not path:
        return problem_html("Choose a file of pairs first."), None
    source = Path(path)
    try:
        pairs = read_pairs(source, columns)
        stem = source.name.partition(".")[0] or "pairs"
        output = Path(tempfile.mkdtemp(dir=folder)) / f"{stem}_prompts{suffix}"
        told = _Telling(ready.recoverer, lambda done: progress(done, len(pairs)))
        if not ready.recoverer.calibration:
            threshold = None
        predictions = recover_file(told, ready.identity, pairs, output, ready.fallback, threshold)
    except PromptRecoveryError as error:
        message = str(error).replace(f"{source.parent}{os.sep}", "")
        for command, here in _ON_THE_PAGE.items():
            message = re.sub(command, here, message)
        return problem_html(message), None
    return summary_html(predictions), str(output)


class _Telling:
    """A recoverer that also tells how many pairs are done."""

    def __init__(self, recoverer: Any, told: Callable[[int], None]) -> None:
        self._recoverer, self._told, self._done = recoverer, told, 0

    @property
    def name(self) -> str:
        return str(self._recoverer.name)

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        def both(count: int) -> None:
            progress(count)
            self._done += count
            self._told(self._done)

        predictions: list[Prediction] = self._recoverer.recover(pairs, both)
        return predictions


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
            **_look(),
        )
    except OSError as error:
        raise PromptRecoveryError(
            f"port={port}: cannot be opened on {host}; choose another port"
        ) from error
    except (ImportError, ValueError, RuntimeError) as error:
        raise refused_by_environment(f"the page on {host}", error) from error
    print(f"{printable(_described(ready))}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
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
    require_extra("app", "the web page")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        with announced("importing Gradio"):
            import gradio
    except (ImportError, ValueError) as error:  # it makes an HTTP client
        raise refused_by_environment("the web page", error) from error
    if not hasattr(gradio, "Blocks"):  # what an interrupted uninstallation leaves
        raise PromptRecoveryError(
            "the web page needs gradio, of which only a part is installed: "
            "pip install --force-reinstall gradio"
        )
    return gradio


def _look() -> dict[str, Any]:
    """Returns theme, CSS and JavaScript.

    Fonts are those of the system, so that nothing is fetched from other servers.
    """
    gr = require_gradio()
    theme = gr.themes.Soft(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(**_COLOURS)
    return {"theme": theme, "css": _CSS + evidence_css(), "js": _JS}


_COLOURS = {
    "background_fill_primary": "*neutral_50",
    "body_text_color_subdued": "*neutral_600",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "block_title_text_color": "*primary_700",
    "block_label_text_color": "*primary_700",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_300",
    "input_border_width": "1px",
    "input_border_color": "*neutral_500",
    "input_border_color_dark": "*neutral_400",
    "input_border_color_focus": "*primary_600",
    "input_border_color_focus_dark": "*primary_300",
    "checkbox_border_color": "*neutral_500",
    "checkbox_border_color_dark": "*neutral_400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "checkbox_label_background_fill_selected": "*primary_600",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
}
"""Colours with a contrast of at least 4.5 for texts, and of 3 for the borders of controls (WCAG
2.2, 1.4.3 and 1.4.11), where those of the theme have less."""


def page(ready: Assembled) -> Any:
    """Builds the page as Gradio blocks."""
    gr = require_gradio()
    with gr.Blocks(title="Prompt Recovery") as blocks:
        gr.Markdown(
            "# Prompt Recovery\nA text, and what a language model made of it: what was the "
            "instruction?"
        )
        shared = _settings(gr, ready)
        with gr.Tabs():
            with gr.Tab("One pair"):
                _pair_tab(gr, ready, shared)
            with gr.Tab("A file of pairs"):
                _file_tab(gr, ready, shared)
        with gr.Accordion("Settings", open=False):
            with gr.Row():
                shared["threshold"].render()
                shared["alternatives"].render()
            button = gr.Button("Make a link to these settings")
            link = gr.Textbox(label="Link", interactive=False, buttons=["copy"])
            defaults = json.dumps({name: setting.value for name, setting in shared.items()})
            button.click(None, list(shared.values()), link, js=_LINK_JS % defaults)
        gr.HTML(f'<p class="pr-quiet">{escape(_described(ready))}</p>')

        def of_link(request: Any) -> list[Any]:
            # The other settings are left alone: users may have changed them in the meantime.
            given = from_link(dict(request.query_params), shared)
            return [given.get(name, gr.skip()) for name in shared]

        of_link.__annotations__["request"] = gr.Request
        blocks.load(
            of_link,
            None,
            list(shared.values()),
            api_visibility="private",
            show_progress="hidden",  # it would cover the settings, which can be used already
        )
    return blocks


def _described(ready: Assembled) -> str:
    """The runs that answer, and the recoverer that they make."""
    return f"Run: {', '.join(ready.runs)} ({ready.recoverer.name})"


def _settings(gr: Any, ready: Assembled) -> dict[str, Any]:
    """The settings that a link holds, by their names in it. They are rendered where they belong."""
    calibrated = ready.recoverer.calibration is not None
    columns = PairColumns()
    return {
        "threshold": gr.Number(
            0,  # Gradio shows no number as 0
            label="Threshold",
            info="Below this expected SCS, the mean prompt answers; 0: never."
            if calibrated
            else "This recoverer has no expected SCS.",
            step=0.01,
            interactive=calibrated,
            render=False,
        ),
        "alternatives": gr.Number(
            _ALTERNATIVES,
            label="Alternatives",
            info="How many further candidates are shown.",
            precision=0,
            render=False,
        ),
        "explain": gr.Checkbox(
            False,
            label="Show why",
            info="Marks the words of both texts that support the prompt. This takes longer."
            if explainable(ready.recoverer)
            else "This recoverer has no model that reads the texts.",
            interactive=explainable(ready.recoverer),
            render=False,
        ),
        "id": gr.Textbox(
            columns.id,
            label="Column of ids",
            info="Without a name, the rows are numbered.",
            min_width=200,
            render=False,
        ),
        "original_text": gr.Textbox(
            columns.original_text,
            label="Column of original texts",
            info="Its name in the file.",
            min_width=200,
            render=False,
        ),
        "rewritten_text": gr.Textbox(
            columns.rewritten_text,
            label="Column of rewritten texts",
            info="Its name in the file.",
            min_width=200,
            render=False,
        ),
        "format": gr.Radio(
            list(_FORMATS),
            value=_FORMATS[0],
            label="Answers as",
            info=".csv is a submission (id, rewrite_prompt); the others also have the expected SCS "
            "and all candidates.",
            render=False,
        ),
    }


def from_link(given: Mapping[str, str], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the query parameters of a link give, by their names.

    Values that a setting does not allow are left out.
    """
    values: dict[str, Any] = {}
    numbers = {"threshold": (0.0, 1.0, float), "alternatives": (0, _MOST_ALTERNATIVES, int)}
    for name in shared.keys() & given.keys():
        text = given[name][:200]
        if name in numbers:
            low, high, kind = numbers[name]
            try:
                number = kind(text)
            except ValueError:
                continue
            if low <= number <= high:
                values[name] = number
        elif name == "explain":
            values[name] = text == "true"
        elif name != "format" or text in _FORMATS:
            values[name] = text
    return values


def _pair_tab(gr: Any, ready: Assembled, shared: Mapping[str, Any]) -> None:
    with gr.Row():
        options = {"lines": 6, "max_lines": 16, "min_width": 300, "elem_classes": ["pr-text"]}
        original = gr.Textbox(
            label="Original text", info=_HELP["original"], autofocus=True, **options
        )
        rewritten = gr.Textbox(
            label="Rewritten text",
            info=_HELP["rewritten"],
            placeholder="Ctrl+Enter recovers the prompt.",
            **options,
        )
    shared["explain"].render()
    button = gr.Button("Recover the prompt", variant="primary", elem_id="pr-recover")
    found = gr.HTML(elem_classes=["pr-found"])
    more = {"visible": False, "elem_classes": ["pr-more"]}
    with gr.Accordion("What changed, word by word", **more) as accordion:
        changes = gr.HTML()
    with gr.Accordion("What the rewriter did", open=False, **more) as measured_accordion:
        measured = gr.HTML()
    gr.Examples(_EXAMPLES, [original, rewritten], label="Try one of these", elem_id="pr-examples")

    def pair_answer(
        original_text: str,
        rewritten_text: str,
        threshold: float | None = None,
        alternatives: float | None = _ALTERNATIVES,
        explain: bool = False,
    ) -> tuple[Any, ...]:
        said = answer(
            ready,
            original_text,
            rewritten_text,
            threshold or None,
            int(alternatives or 0),
            explain,
        )
        boxes = [
            gr.update(
                info=said.hints.get(box, usual),
                elem_classes=["pr-text", *(["pr-missing"] if box in said.hints else [])],
            )
            for box, usual in _HELP.items()
        ]
        shown = [gr.update(visible=bool(part)) for part in (said.changes, said.measured)]
        return said.found, said.changes, said.measured, *boxes, *shown

    button.click(
        pair_answer,
        [original, rewritten, *(shared[n] for n in ("threshold", "alternatives", "explain"))],
        [found, changes, measured, original, rewritten, accordion, measured_accordion],
        api_name="answer",
        show_progress_on=found,  # the texts stay readable
        concurrency_id="recoverer",
        concurrency_limit=1,
    )


def _file_tab(gr: Any, ready: Assembled, shared: Mapping[str, Any]) -> None:
    folder = tempfile.TemporaryDirectory(prefix="prompt-recovery-")  # of answers, until the end
    gr.Markdown(
        "A CSV, JSONL or Parquet file with one pair in each row. It is read, checked and answered "
        "as by `prompt-recovery recover input=<file>`."
    )
    given = gr.File(label="Pairs", file_types=["file"], type="filepath", height=140)
    with gr.Row():
        for name in ("id", "original_text", "rewritten_text"):
            shared[name].render()
    shared["format"].render()
    button = gr.Button("Recover the prompts of the file", variant="primary")
    summary = gr.HTML(elem_classes=["pr-summary"])
    answers = gr.File(label="Answers", visible=False)

    def file_answers(
        path: str | None,
        id_: str,
        original_text: str,
        rewritten_text: str,
        suffix: str,
        threshold: float | None = None,
        progress: Any = gr.Progress(),  # noqa: B008  (Gradio finds it by its default)
    ) -> tuple[str, Any]:
        columns = PairColumns(id_.strip() or None, original_text.strip(), rewritten_text.strip())
        said, output = answer_file(
            ready,
            path,
            columns,
            suffix,
            threshold or None,
            Path(folder.name),
            lambda done, total: progress((done, total), unit="pairs"),
        )
        return said, gr.update(value=output, visible=output is not None)

    button.click(  # what an earlier file had does not stay while another is answered
        lambda: ("", gr.update(value=None, visible=False)),
        None,
        [summary, answers],
        api_visibility="private",
    ).then(
        file_answers,
        [
            given,
            shared["id"],
            shared["original_text"],
            shared["rewritten_text"],
            shared["format"],
            shared["threshold"],
        ],
        [summary, answers],
        concurrency_id="recoverer",
        concurrency_limit=1,
    )


def problem_html(message: str) -> str:
    """Renders what keeps the recoverer from answering."""
    return f'<div class="pr-problem" role="alert">{escape(printable(message))}</div>'


def _threshold_problem(threshold: float | None) -> str:
    """What is wrong with a threshold, as HTML. Empty if nothing is.

    Gradio's own check would cover both texts with an error.
    """
    if threshold is None or 0 <= threshold <= 1:
        return ""
    return problem_html(f"The threshold is {threshold:g}, but it has to be between 0 and 1.")


def notes_html(ready: Assembled, pair: Pair) -> str:
    """Renders what a reader of an answer should know about its pair.

    That is, whether the texts are the same, and whether a model could not read all of them.
    """
    notes = []
    if normalise(pair.original_text) == normalise(pair.rewritten_text):
        notes.append("The two texts are the same, so there is nothing to recover.")
    recoverer: Any = ready.recoverer
    for source, _ in getattr(recoverer, "sources", ()):
        share = source.share_read(pair) if hasattr(source, "share_read") else 1.0
        if share < 1:
            notes.append(
                f"{source.name} has read {max(share, 0.01):.0%} of the two texts: they are longer "
                "than its input, and were cut."
            )
    return "".join(f'<div class="pr-note">{escape(note)}</div>' for note in notes)


def measured_html(original_text: str, rewritten_text: str) -> str:
    """Renders measures of a pair and the verdict of `detect`, if the extra `measures` is there."""
    if not has_measures():
        return ""
    verdict = detect(rewritten_text, original=original_text)
    return measures_html(measures(original_text, rewritten_text)) + verdict_html(verdict)


def summary_html(predictions: Sequence[Prediction]) -> str:
    """Renders the number of answers and the first few of them."""
    fallbacks = sum(p.fallback for p in predictions)
    rows = "".join(
        f"<tr><td>{escape(p.id)}: {escape(p.rewrite_prompt)}</td>"
        f"<td>{'–' if p.confidence is None else f'{p.confidence:.2f}'}</td></tr>"
        for p in predictions[:_PREVIEW]
    )
    first = f" The first {_PREVIEW}:" if len(predictions) > _PREVIEW else ""
    return (
        f'<div class="pr-quiet">{counted(len(predictions), "answer")}, {fallbacks:,} of them the '
        f'mean prompt.{first}</div><table class="pr-others"><thead><tr><th>Answers</th>'
        f"<th>{_explained('expected SCS', _EXPECTED)}</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def answer_html(prediction: Prediction, alternatives: int = _ALTERNATIVES) -> str:
    """Renders the recovered prompt and its alternatives with their scores."""
    parts = [f'<div class="pr-answer">{escape(prediction.rewrite_prompt)}</div>']
    note = ""
    if prediction.fallback:  # the expected SCS is that of the candidate that it replaces
        note = "This is the mean prompt: the recoverer has no better answer."
    elif prediction.confidence is not None:
        note = f"{_explained('expected SCS', _EXPECTED)} {prediction.confidence:.2f}"
    if note:
        parts.append(f'<div class="pr-quiet">{note}</div>')
    first = 0 if prediction.fallback else 1
    others = prediction.candidates[first : first + min(max(alternatives, 0), _MOST_ALTERNATIVES)]
    if others:
        rows = "".join(f"<tr><td>{escape(c.text)}</td><td>{c.score:.3f}</td></tr>" for c in others)
        parts.append(
            '<table class="pr-others"><thead><tr><th>Alternatives</th>'
            f"<th>{_explained('score', _SCORE)}</th></tr></thead><tbody>{rows}</tbody></table>"
        )
    return "".join(parts)


def _explained(term: str, meaning: str) -> str:
    return f'<abbr title="{escape(meaning)}" tabindex="0">{escape(term)}</abbr>'


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
