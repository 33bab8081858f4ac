"""The site as a reader gets it: what is tested is the HTML that is built."""

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag

import pytest

from tests.browser import LOW_CONTRAST, Browser, needs_chromium
from tests.conftest import ROOT


class Page(HTMLParser):
    """The ids and links of a page, and its text outside of code."""

    _CODE = ("pre", "code", "script", "style", "svg")

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.text = set(), [], ""
        self._inside = self.quotations = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        self.links += [values[n] for n in ("href", "src") if values.get(n)]
        self._inside += tag in self._CODE
        self.quotations += tag == "blockquote"

    def handle_endtag(self, tag):
        self._inside -= tag in self._CODE

    def handle_data(self, data):
        self.text += "" if self._inside else data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages by their path in the site, which is built strictly: every reference is found."""
    pytest.importorskip("mkdocs", reason="needs the extra [docs]")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    pages = {name: Page(p.read_text()) for name, p in files.items() if name.endswith(".html")}
    return pages, files


def test_markdown_is_rendered(site):
    """No fence, heading, table or list is left in the text of a page."""
    pages, _ = site
    assert len(pages) > 20
    for name, page in pages.items():
        assert page.quotations == 0, f"{name}: a line that begins with > is a quotation"
        for mark in ("```", "{.", "](", "**"):
            assert mark not in page.text, (name, mark)
        for line in page.text.splitlines():
            assert not re.match(r"#{1,6} |\| .* \|", line), (name, line)


def test_links_lead_somewhere(site):
    pages, files = site
    for name, page in pages.items():
        if name == "404.html":  # its links begin at the root of the server
            continue
        for link in page.links:
            target, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z]+:|//", target) or target.startswith("/"):
                continue
            path = resolved(name, target)
            assert path in files, (name, link)
            if anchor and path in pages:
                assert anchor in pages[path].ids, (name, link)


def resolved(page, target):
    """The file that a relative link of a page means."""
    parts = page.split("/")[:-1] if target else page.split("/")
    for part in target.split("/"):
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    path = "/".join(parts)
    return f"{path}/index.html".lstrip("/") if target.endswith(("/", ".")) or not path else path


def test_every_page_is_in_the_navigation():
    """The pages of experiments are not: their index links them."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, page


def test_links_lead_to_files_of_the_repository():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            target = urldefrag(link)[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), (page.name, link)


def test_the_reference_covers_every_room():
    source = ROOT / "src" / "prompt_recovery"
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs/reference").glob("*.md"))
    for room in source.iterdir():
        if (room.suffix == ".py" and room.stem.startswith("__")) or room.stem == "__pycache__":
            continue
        if room.is_dir() and not any(room.glob("*.py")):  # the recoverers that are shipped
            continue
        if room.suffix in ("", ".py"):
            assert f"::: prompt_recovery.{room.stem}" in text, room.name
    listed = re.findall(r"^::: (\S+)", text, re.MULTILINE)
    assert sorted(set(listed)) == sorted(listed), "each module once"


def test_experiments_are_pages(site):
    pages, files = site
    for path in (ROOT / "experiments").iterdir():
        if path.suffix == ".json":
            assert f"experiments/{path.name}" in files
        elif path.name not in ("README.md", "learnt.md"):
            page = pages[f"experiments/{path.stem}/index.html"]
            assert "Question:" in page.text
    assert "What was learnt" in pages["experiments/index.html"].text


def test_the_reference_shows_what_the_code_says(site):
    pages, _ = site
    assert "expected_scs" in pages["reference/recovery/index.html"].ids or any(
        i.endswith(".expected_scs") for i in pages["reference/recovery/index.html"].ids
    )
    assert any(
        i.endswith("Objective.__call__") for i in pages["reference/objectives/index.html"].ids
    )


def test_numbers_stay_with_their_units(site):
    """No line ends between a number and its unit, or within an interval."""
    pages, _ = site
    for name, page in pages.items():
        assert not re.search(r"\d (?:%|… [-+]?\d)", page.text), name
    assert "\u00a0%" in pages["limitations/index.html"].text


def test_short_commands_and_names_of_modules_are_broken_well(site):
    """A short command stays in one line, and a module's name is broken after a dot."""
    _, files = site
    assert '<code class="whole">pip install -e' in files["howto/detect/index.html"].read_text()
    assert ">prompt_recovery.<wbr>tables</" in files["reference/files/index.html"].read_text()
    assert "prompt_recovery.tables" in files["search/search_index.json"].read_text()


def test_pages_say_first_what_they_are_about():
    """A page doesn't begin with a command, a table or a heading under its title."""
    for page in (ROOT / "docs").rglob("*.md"):
        first = page.read_text(encoding="utf-8").split("\n\n")[1]
        assert re.match(r"[\w`]", first), page.name
        assert not first.startswith("```"), page.name


def test_the_reference_says_what_is_returned_in_one_piece(site):
    """A description of several lines isn't taken for several values."""
    pages, _ = site
    text = " ".join(pages["reference/python/index.html"].text.split())
    assert "the best first, and its" in text


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("troubleshooting", "Windows and macOS"),
        ("troubleshooting", "No GPU"),
        ("troubleshooting", "Out of memory"),
        ("troubleshooting", "The run crashed or was killed"),
        ("howto/recover", "How to recover prompts for a CSV"),
        ("howto/generate", "With vLLM"),
        ("howto/generate", "With an OpenAI-compatible endpoint"),
        ("howto/runs", "Export the weights"),
        ("howto/backbone", "Add a model"),
        ("concepts/scs", "What is SCS?"),
        ("limitations", "How good it is"),
        ("", "License"),
        ("", "How to cite"),
        ("contributing", "Adding a data source"),
        ("howto/data", "Few pairs"),
        ("howto/wandb", "Online"),
    ],
)
def test_the_search_box_finds_what_newcomers_ask(site, page, title):
    """Titles count most in a search, and pages that explain come before the reference."""
    _, files = site
    index = json.loads(files["search/search_index.json"].read_text(encoding="utf-8"))
    found = {d["location"]: d for d in index["docs"] if title in d["title"]}
    assert any(at.partition("#")[0].rstrip("/") == page for at in found)
    explain = next(d for d in index["docs"] if d["location"] == "howto/recover/")
    listed = next(d for d in index["docs"] if d["location"] == "reference/recovery/")
    assert explain["boost"] > 1 > listed["boost"]


PAGES = ("index", "howto/detect/index", "howto/explain/index", "howto/choice/index")


@needs_chromium
def test_nothing_is_cut_on_a_phone(site):
    """Tables and commands of the pages that explain fit into 390 pixels."""
    with phone_on(site) as (phone, show):
        for name in PAGES:
            show(name)
            cut = phone.run(
                """[...document.querySelectorAll(".md-content table, .md-content pre > code")]
                  .filter((e) => (e.closest(".md-typeset__scrollwrap") || e).scrollWidth > 391)
                  .map((e) => e.textContent.slice(0, 60))"""
            )
            assert cut == [], name
            assert phone.run("document.documentElement.scrollWidth") == 390, name


@needs_chromium
@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_text_can_be_read_on_light_and_dark_pages(site, scheme):
    """All text has a contrast of at least 4.5, also in code and where names in code are links."""
    with phone_on(site) as (phone, show):
        for name in (*PAGES, "concepts/mbr/index", "reference/changes/index"):
            show(name)
            phone.run(
                f"""(() => {{
                  document.head.insertAdjacentHTML("beforeend", "<style>* {{transition: none !important}}</style>");
                  document.body.setAttribute("data-md-color-scheme", "{scheme}");
                  document.querySelectorAll(".md-header, .md-sidebar, .md-footer, .headerlink")
                    .forEach((e) => e.remove());  // much of it is not shown
                }})()"""  # noqa: E501
            )
            assert phone.run(LOW_CONTRAST) == [], name


@contextmanager
def phone_on(site):
    """Yields a browser of 390 pixels, and a function that opens a page by its name."""
    pytest.importorskip("aiohttp", reason="the browser is asked with aiohttp")
    _, files = site
    handler = functools.partial(Quiet, directory=str(files["index.html"].parent))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        Browser(390) as phone,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def show(name):
            url = f"http://127.0.0.1:{server.server_port}/{name}.html"
            phone.open(url)
            phone.wait(f"document.readyState === 'complete' && location.href === '{url}'")

        try:
            yield phone, show
        finally:
            server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, *_):
        pass
