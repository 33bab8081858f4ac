"""The page as Gradio blocks: a tab for one pair, a tab for a file of pairs, and the settings.

A further tab is a function like `_file_tab`, and a further panel of an answer is a part of
`answer_html`.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from prompt_recovery.app.answers import answer, answer_file
from prompt_recovery.app.shown import ALTERNATIVES, MOST_ALTERNATIVES
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.assemble import Assembled
from prompt_recovery.recovery.evidence import explainable
from prompt_recovery.recovery.pairs import PairColumns
from prompt_recovery.settings.extras import require_extra
from prompt_recovery.settings.network import refused_by_environment
from prompt_recovery.terminal import announced

_FORMATS = (".csv", ".jsonl", ".parquet")
_HELP = {"original": "The text as it was.", "rewritten": "What a language model made of it."}
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
EXAMPLES = [
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
        gr.HTML(f'<p class="pr-quiet">{escape(described(ready))}</p>')

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


def described(ready: Assembled) -> str:
    """The runs that answer, and the recoverer that they make."""
    return f"Run: {', '.join(ready.runs)} ({ready.recoverer.name})"


def _settings(gr: Any, ready: Assembled) -> dict[str, Any]:
    """The settings that a link holds, by their names in it. They are rendered where they belong."""
    calibrated = ready.recoverer.calibration is not None
    columns = PairColumns()

    def column(name: str | None, of: str, info: str = "Its name in the file.") -> Any:
        return gr.Textbox(name, label=f"Column of {of}", info=info, min_width=200, render=False)

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
            ALTERNATIVES,
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
        "id": column(columns.id, "ids", "Without a name, the rows are numbered."),
        "original_text": column(columns.original_text, "original texts"),
        "rewritten_text": column(columns.rewritten_text, "rewritten texts"),
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
    numbers = {"threshold": (0.0, 1.0, float), "alternatives": (0, MOST_ALTERNATIVES, int)}
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
    gr.Examples(EXAMPLES, [original, rewritten], label="Try one of these", elem_id="pr-examples")

    def pair_answer(
        original_text: str,
        rewritten_text: str,
        threshold: float | None = None,
        alternatives: float | None = ALTERNATIVES,
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
