"""The page; what needs Gradio (extra [app]) is skipped without it."""

import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from prompt_recovery.app import answers, page
from prompt_recovery.app.look import look
from prompt_recovery.errors import PromptRecoveryError
from tests.app.answering import READY
from tests.browser import Browser, needs_chromium


def test_a_link_holds_settings_and_values_that_are_not_allowed_are_left_out():
    shared = dict.fromkeys(["threshold", "alternatives", "explain", "id", "format"])
    good = {"threshold": "0.05", "alternatives": "3", "id": "key", "format": ".jsonl"}
    known = {"threshold": 0.05, "alternatives": 3, "id": "key", "format": ".jsonl"}
    assert page.from_link(good, shared) == known
    bad = {"threshold": "2", "alternatives": "x", "format": ".exe", "other": "1"}
    assert page.from_link(bad, shared) == {}
    assert page.from_link({"threshold": "nan"}, shared) == {}
    assert page.from_link({"explain": "true"}, shared) == {"explain": True}
    assert page.from_link({"explain": "<b>"}, shared) == {"explain": False}


def test_opening_the_page_changes_only_the_settings_that_are_in_the_link():
    gradio = pytest.importorskip("gradio")
    blocks = page.page(READY)
    [load] = [f.fn for f in blocks.fns.values() if (blocks._id, "load") in f.targets]
    values = load(SimpleNamespace(query_params={"alternatives": "3"}))
    assert [value for value in values if value != gradio.skip()] == [3]


def waiting_links(monkeypatch):
    """Lets a page wait for what is in its link: events that it asks for it, and may go on."""
    asked, released, from_link = threading.Event(), threading.Event(), page.from_link

    def slow_from_link(*given):
        asked.set()
        released.wait(120)
        return from_link(*given)

    monkeypatch.setattr(page, "from_link", slow_from_link)
    return asked, released


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_in_a_browser(width, dark, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    pytest.importorskip("aiohttp")
    asked, released = waiting_links(monkeypatch)
    monkeypatch.setattr(page, "explainable", lambda _: True)
    monkeypatch.setattr(answers, "with_evidence", lambda _, pairs, predictions, method: predictions)
    blocks = page.page(READY)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **look(page.require_gradio()))
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
        page.require_gradio()


def test_a_part_of_gradio_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    with pytest.raises(PromptRecoveryError, match="only a part is installed: pip install --force"):
        page.require_gradio()


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_proxy_that_keeps_gradio_from_its_work_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # importing it fails
    monkeypatch.setattr(page, "require_extra", lambda *_: None)  # but it is installed
    monkeypatch.setenv(name, "socks5://127.0.0.1:1080")
    with pytest.raises(PromptRecoveryError, match=f"{name}=socks5://127.0.0.1:1080: .*NO_PROXY"):
        page.require_gradio()


def test_the_page_answers_through_its_interface():
    gradio = pytest.importorskip("gradio")
    client = pytest.importorskip("gradio_client")
    assert gradio.__version__.split(".")[0] >= "6"
    blocks = page.page(READY)
    shown = [part["props"].get("value") for part in blocks.config["components"]]
    assert '<p class="pr-quiet">Run: 2026_&lt;run&gt; (answering &lt;b&gt;)</p>' in shown
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True)
    try:
        caller = client.Client(url, verbose=False)
        found, changes, *_ = caller.predict("one text", "another text", api_name="/answer")
        assert "&lt;img" in found
        assert "<ins>another</ins>" in changes
        found, changes, *_ = caller.predict("one text", " ", api_name="/answer")
        assert (found, changes) == ("", ""), "the hint is at the box, and no old answer stays"
    finally:
        blocks.close()
