"""The web page; the parts that need Gradio (extra [app]) skip without it."""

import asyncio
import json
import os
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from prompt_recovery import app
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.assemble import Assembled
from prompt_recovery.recovery.confidence import Calibration
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction
from prompt_recovery.recovery.pairs import PairColumns
from prompt_recovery.recovery.spans import Evidence, Span
from prompt_recovery.settings.network import exempt_from_proxies
from tests.browser import Browser, needs_chromium

EVIL = '<img src=x onerror="alert(1)"> & "quotes"'


class Answering:
    name = "answering <b>"
    calibration = Calibration((0.0, 1.0), (0.0, 0.4), 9)

    def recover(self, pairs, progress=lambda _: None):
        candidates = (Candidate(EVIL, -1.0, 0.5), Candidate("another", -2.0, 0.25))
        return [Prediction(p.id, EVIL, False, candidates, 0.31) for p in pairs]


READY = Assembled(Answering(), "f", "i", ["2026_<run>"])


def test_texts_are_escaped():
    [prediction] = Answering().recover([Pair("1", "a", "b")])
    shown = app.answer_html(prediction) + app.difference_html(EVIL, EVIL + " </div>")
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert "<ins>&lt;/div&gt;</ins>" in shown
    assert ">expected SCS</abbr> 0.31" in shown
    assert ">score</abbr>" in shown and "<td>0.250</td>" in shown, "as on the command line"


def test_the_difference_marks_words_and_bounds_the_work():
    assert app.difference_html("a b c", "a x c") == (
        '<div class="pr-difference">a <del>b</del> <ins>x</ins> c</div>'
    )
    assert "the first 1,500 words" in app.difference_html("a " * 50_000, "b " * 50_000)


@pytest.mark.parametrize(
    ("texts", "hints"),
    [
        (("", "b"), {"original": "is empty: paste the original text"}),
        (("a", " \n"), {"rewritten": "is empty: paste the rewritten text"}),
        (("", ""), {"original": "is empty", "rewritten": "is empty"}),
        (("a" * 100_001, "b"), {"original": "100,001 characters, and the page takes 100,000"}),
    ],
)
def test_what_is_wrong_with_a_text_is_said_at_its_box(texts, hints):
    said = app.answer(READY, *texts)
    assert (said.found, said.changes) == ("", "")
    assert said.hints.keys() == hints.keys()
    assert all(hint in said.hints[box] for box, hint in hints.items())


def test_an_error_is_said_without_a_traceback_and_without_an_old_answer():
    class Failing(Answering):
        def recover(self, pairs, progress=lambda _: None):
            raise PromptRecoveryError("no room for <b>")

    said = app.answer(Assembled(Failing(), "f", "i"), "a", "b")
    assert "no room for &lt;b&gt;" in said.found
    assert said.changes == ""
    assert said.hints == {}, "the page looks each box up in it"


def test_texts_that_are_equal_or_cut_are_noted():
    class Source:
        name = "tiny <b>"

        def share_read(self, pair):
            return 0.4 if len(pair.original_text) > 10 else 1.0

    recoverer = Answering()
    recoverer.sources = [(Source(), 1.0)]
    ready = Assembled(recoverer, "f", "i")
    assert "The two texts are the same" in app.answer(ready, "A text.", "a text").found
    assert "pr-note" not in app.answer(ready, "a", "b").found
    found = app.answer(ready, "a" * 100, "b").found
    assert "tiny &lt;b&gt; has read 40% of the two texts" in found


def test_the_settings_of_the_page_change_the_answer():
    low = app.answer(READY, "a", "b", threshold=0.5)
    assert '<div class="pr-answer">f</div>' in low.found
    assert "mean prompt" in low.found
    assert "0.31" not in low.found, "this is expected of the answer that it replaces"
    assert "&lt;img" in low.found, "which is an alternative now"
    assert "threshold is 5" in app.answer(READY, "a", "b", threshold=5).found
    assert "threshold is -2" in app.answer_file(READY, "f", PairColumns(), "", -2, Path())[0]
    assert "<td>another</td>" in app.answer(READY, "a", "b", alternatives=1).found
    assert "<td>another</td>" not in app.answer(READY, "a", "b", alternatives=0).found


def test_the_words_that_speak_for_an_answer_are_marked_and_escaped(monkeypatch):
    evidence = (Evidence("m", "occlusion", "cosine", 0.5, (Span("original", 0, 4, 0.25),)),)

    def explained(recoverer, pairs, predictions, method):
        assert method == "occlusion"
        return [replace(p, evidence=evidence) for p in predictions]

    assert "<mark" not in app.answer(READY, EVIL, "b", explain=True).found, "it reads no texts"
    monkeypatch.setattr(app, "explainable", lambda _: True)
    monkeypatch.setattr(app, "with_evidence", explained)
    assert "<mark" not in app.answer(READY, EVIL, "b").found
    found = app.answer(READY, EVIL, "b", explain=True).found
    assert found.count("<mark ") == 1
    assert 'title="+0.250"' in found
    assert "<img" not in found


def test_a_link_holds_settings_and_values_that_are_not_allowed_are_left_out():
    shared = dict.fromkeys(["threshold", "alternatives", "explain", "id", "format"])
    good = {"threshold": "0.05", "alternatives": "3", "id": "key", "format": ".jsonl"}
    known = {"threshold": 0.05, "alternatives": 3, "id": "key", "format": ".jsonl"}
    assert app.from_link(good, shared) == known
    bad = {"threshold": "2", "alternatives": "x", "format": ".exe", "other": "1"}
    assert app.from_link(bad, shared) == {}
    assert app.from_link({"threshold": "nan"}, shared) == {}
    assert app.from_link({"explain": "true"}, shared) == {"explain": True}
    assert app.from_link({"explain": "<b>"}, shared) == {"explain": False}


def test_opening_the_page_changes_only_the_settings_that_are_in_the_link():
    gradio = pytest.importorskip("gradio")
    blocks = app.page(READY)
    [load] = [f.fn for f in blocks.fns.values() if (blocks._id, "load") in f.targets]
    values = load(SimpleNamespace(query_params={"alternatives": "3"}))
    assert [value for value in values if value != gradio.skip()] == [3]


def test_a_file_is_answered_as_recover_does(tmp_path):
    pairs = tmp_path / "my.pairs.csv"
    pairs.write_text("key,original_text,rewritten_text\n7,a,b\n8,,b\n")
    columns = PairColumns(id="key")
    told = []
    shown, output = app.answer_file(
        READY, str(pairs), columns, ".jsonl", None, tmp_path, lambda *done: told.append(done)
    )
    assert "2 answers" in shown
    assert EVIL not in shown
    assert Path(output).name == "my_prompts.jsonl"
    rows = [json.loads(line) for line in Path(output).read_text().splitlines()]
    assert [row["id"] for row in rows] == ["7", "8"]
    assert rows[0]["confidence"] == 0.31


def test_a_file_that_cannot_be_read_is_one_line_on_the_page(tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("original_text,rewritten_text\na,b\n")
    shown, output = app.answer_file(READY, str(pairs), PairColumns(), ".csv", None, tmp_path)
    assert output is None
    assert "pairs.csv" in shown
    assert str(tmp_path) not in shown, "where the server keeps uploads is of no use to a reader"
    assert "give its name above, or leave the column of ids empty" in shown
    pairs.write_text("id,before,after\n1,a,b\n")
    shown, _ = app.answer_file(READY, str(pairs), PairColumns(), ".csv", None, tmp_path)
    assert "give their names above" in shown
    assert "columns." not in shown
    assert "Choose a file" in app.answer_file(READY, None, PairColumns(), ".csv", None, tmp_path)[0]


def waiting_links(monkeypatch):
    """Lets a page wait for what is in its link: events that it asks for it, and may go on."""
    asked, released, from_link = threading.Event(), threading.Event(), app.from_link

    def slow_from_link(*given):
        asked.set()
        released.wait(120)
        return from_link(*given)

    monkeypatch.setattr(app, "from_link", slow_from_link)
    return asked, released


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_in_a_browser(width, dark, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    pytest.importorskip("aiohttp")
    asked, released = waiting_links(monkeypatch)
    monkeypatch.setattr(app, "explainable", lambda _: True)
    monkeypatch.setattr(app, "with_evidence", lambda _, pairs, predictions, method: predictions)
    blocks = app.page(READY)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **app._look())
    settings = (
        "[...document.querySelectorAll('button.label-wrap')]"
        ".find((e) => e.textContent.includes('Settings'))"
    )
    why = "document.querySelector('input[type=checkbox]')"
    place = "document.getElementById('pr-recover').getBoundingClientRect().width"
    boxes = "[...document.querySelectorAll('textarea')].map((e) => e.getBoundingClientRect().top)"
    try:
        with Browser(width, dark) as browser:
            browser.open(f"{url}?threshold=0.01&id=key")
            browser.wait("document.getElementById('pr-recover')")
            browser.wait(settings)
            assert asked.wait(120)  # only now the page hears clicks
            before = browser.run(place)
            browser.run(f"{settings}.click()")  # what is folded up is not in the page
            browser.run(f"{why}.click()")
            released.set()  # only now the page knows what is in the link
            browser.wait("[...document.querySelectorAll('input')].some((e) => e.value === '0.01')")
            assert browser.run(f"{why}.checked"), "what is not in the link is left alone"
            assert browser.low_contrast() == []
            browser.type("Original text", "One text.")
            browser.type("Rewritten text", "Another text. " * 300)
            browser.press("Enter", ctrl=True)
            browser.wait("document.querySelector('.pr-answer')")
            assert browser.run(place) == before, "the width does not change"
            assert browser.low_contrast() == []
            tops = browser.run(boxes)
            assert browser.run("document.documentElement.scrollWidth") == width
            assert "unrelated prompts" in browser.run("document.querySelector('abbr').title")
            browser.type("Rewritten text", "")
            browser.press("Enter", ctrl=True)
            browser.wait("document.querySelector('.pr-missing')")
            assert not browser.run("document.querySelector('.pr-answer')")
            assert browser.run(boxes)[:1] == tops[:1], "no box moves"
            if width > 500:
                assert len(set(browser.run(boxes)[:2])) == 1, "the boxes are side by side"
            assert browser.low_contrast() == []
            browser.run(
                "[...document.querySelectorAll('button')]"
                ".find((e) => e.textContent.includes('Make a link')).click()"
            )
            link = "?threshold=0.01&id=key&explain=true"  # and nothing that is usual
            browser.wait(
                "[...document.querySelectorAll('textarea, input')]"
                f".some((e) => e.value.endsWith('/{link}'))"
            )
            browser.picture(tmp_path / "page.png")
            assert (tmp_path / "page.png").stat().st_size > 10_000
    finally:
        released.set()
        blocks.close()


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install -e .*\[app\]'"):
        app.require_gradio()


def test_a_part_of_gradio_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    with pytest.raises(PromptRecoveryError, match="only a part is installed: pip install --force"):
        app.require_gradio()


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_proxy_that_keeps_gradio_from_its_work_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # importing it fails
    monkeypatch.setattr(app, "require_extra", lambda *_: None)  # but it is installed
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
    shown = [part["props"].get("value") for part in page.config["components"]]
    assert '<p class="pr-quiet">Run: 2026_&lt;run&gt; (answering &lt;b&gt;)</p>' in shown
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        caller = client.Client(url, verbose=False)
        found, changes, *_ = caller.predict("one text", "another text", api_name="/answer")
        assert "&lt;img" in found
        assert "<ins>another</ins>" in changes
        found, changes, *_ = caller.predict("one text", " ", api_name="/answer")
        assert (found, changes) == ("", ""), "the hint is at the box, and no old answer stays"
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


def test_the_page_says_what_the_rewriter_did(monkeypatch):
    said = app.answer(READY, f"It rained all day. {EVIL}", f"Dear friends, it did rain! {EVIL}")
    assert "Cannot tell" in said.measured  # too short for a verdict
    assert "What the rewriter did" in said.measured and "words kept" in said.measured
    assert "<img" not in said.measured
    assert app.answer(READY, "", "Rain!").measured == ""
    monkeypatch.setattr(app, "has_measures", lambda: False)
    assert app.answer(READY, "It rained.", "Rain fell.").measured == ""
