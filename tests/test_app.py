"""The web page; the parts that need Gradio (extra [app]) skip without it."""

import sys

import pytest

from prompt_recovery import app
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.assemble import Assembled
from prompt_recovery.recovery.confidence import Calibration
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction

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
