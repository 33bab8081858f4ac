"""The site as a reader gets it: what is tested is the HTML that is built."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag

import pytest

from tests.conftest import ROOT


class Page(HTMLParser):
    """The ids and links of a page, and its text outside of code."""

    _CODE = ("pre", "code", "script", "style", "svg")

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.text = set(), [], ""
        self._inside = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        self.links += [values[n] for n in ("href", "src") if values.get(n)]
        self._inside += tag in self._CODE

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
    return pages, set(files)


def test_markdown_is_rendered(site):
    """No fence, heading, table or list is left in the text of a page."""
    pages, _ = site
    assert len(pages) > 20
    for name, page in pages.items():
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
