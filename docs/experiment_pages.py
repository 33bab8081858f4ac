"""A hook of MkDocs that makes `experiments/` and `CONTRIBUTING.md` parts of the site.

The Markdown files become pages, and so does each YAML file: its header, then its settings.
Links between them and to the records work, and so do links from other pages, which are written as
they are in the repository. `experiments/` itself stays as it is.

It also keeps numbers with what belongs to them on every page: "95 %" and "0.1 … 0.2" are not
broken across lines, and neither are short commands; names of modules and settings are broken after
their dots. And it puts the pages that explain before the reference in the search box.
"""

import re
from pathlib import Path

from experiments_index import (
    FIELD,
    FOLDER,
    LEARNT,
    header,
    linked,
    links,
    plain,
    records,
    sentence,
    without_record,
)
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\]\(([\w./-]+)\.yaml\)")
_OUT_OF_DOCS = re.compile(r"\]\(\.\./((?:\.\./)*experiments/)")
_INTO_DOCS = re.compile(r"\]\(\.\./docs/")
_CONTRIBUTING = re.compile(r"\]\(\.\./((?:\.\./)*)CONTRIBUTING\.md")
_CODE = re.compile(r"(<pre.*?</pre>|<code.*?</code>|<[^>]*>)", re.DOTALL)
_BOOST = {"troubleshooting.md": 4, "experiments": 0.5, "reference": 0.3}
_PLAIN_CODE = re.compile(r"\A<code>([^<]+)</code>\Z")
_LINE = 34  # characters of code that fit a line of a phone
# Where the name of a setting or file may be broken: neither before an extension, nor in a number.
_JOINT = re.compile(
    r"(?<=\w[._/=@])(?=[\w<&])(?!(?<=\.)(?:\d|(?:json|txt|ya?ml|csv|md|py|html)\b))"
)
_MODULE = re.compile(r"\Aprompt_recovery(?:\.\w+)+\Z")
_TOGETHER = re.compile(r"(?<=\d) (?=%|…|s\b|GB\b|GiB\b|MiB\b)|(?<=…) (?=[-+]?\d)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and the records to the files of the site."""
    contributing = FOLDER.with_name("CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=contributing))
    for path in sorted(FOLDER.iterdir()):
        name = f"experiments/{path.name}"
        if path.name == LEARNT:  # a part of README.md
            continue
        if path.name == "README.md":
            files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
        elif path.suffix in (".md", ".yaml"):
            page = f"experiments/{path.stem}.md"
            files.append(File.generated(config, page, content=experiment_page(path)))
        elif path.suffix == ".json":
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links between pages in docs/ and what is beside docs/ in the repository.

    It also ranks a page in the search box: those that explain come before those that list.
    """
    folder = page.file.src_uri.partition("/")[0]
    page.meta.setdefault("search", {"boost": _BOOST.get(folder, 2)})
    inside = _CONTRIBUTING.sub(r"](\1contributing.md", _OUT_OF_DOCS.sub(r"](\1", markdown))
    return _LINK.sub(r"](\1.md)", _INTO_DOCS.sub("](../", inside))


def on_page_content(html: str, **_: object) -> str:
    """The page with no-break spaces before units and around the dots of intervals.

    Short code in a sentence gets the class "whole", which the style sheet does not break. For
    tables and headings on phones, names of settings, files and modules may be broken at their dots.
    """
    parts = _CODE.split(html)
    return "".join(
        _PLAIN_CODE.sub(_breakable, part)
        if number % 2
        else _MODULE.sub(lambda name: name[0].replace(".", ".<wbr>"), _TOGETHER.sub("\u00a0", part))
        for number, part in enumerate(parts)
    )


def _breakable(code: re.Match[str]) -> str:
    short = ' class="whole"' if len(code[1]) <= _LINE else ""
    return f"<code{short}>{_JOINT.sub('<wbr>', code[1])}</code>"


def experiment_page(path: Path) -> str:
    """The page of an experiment: what its header says, its records, and its settings or text."""
    text = path.read_text(encoding="utf-8")
    fields = header(path)
    if path.suffix == ".yaml":
        lines = text.splitlines()
        title = f"# {plain(path.stem)}"
        fields.pop("Command", None)
        run = [f"```bash\n{command(lines)}\n```"]
        settings = "\n".join(line for line in lines if not line.startswith("#")).strip()
        rest = [
            "Settings that differ from those of `python train.py`:",
            f"```yaml\n{settings}\n```",
        ]
    else:
        title, body = text.split("\n\n", 1)
        run, rest = [], [body.partition("\n\n")[2].strip()]
    shown = [f"**{name}:** {sentence(without_record(said))}" for name, said in fields.items()]
    numbers = links(records(path))
    parts = [
        *shown[:1],
        *run,
        *shown[1:],
        *([f"**Records:** {numbers}"] if numbers else []),
        *rest,
    ]
    others = [p for p in FOLDER.iterdir() if p.suffix in (".md", ".yaml") and p.stem != path.stem]
    pieces = [part if part.startswith("```") else linked(part, others) for part in parts]
    return "\n\n".join([title, *pieces, "[All experiments](README.md)"]) + "\n"


def command(lines: list[str]) -> str:
    """The commands of an experiment's header, each on its line."""
    found: list[str] = []
    for line in lines:
        field = FIELD.match(line)
        if found and (field or not line.startswith("#")):
            break
        if found or (field and field[1] == "Command"):
            found.append((field[2] if field else line.lstrip("# ")).strip())
    return "\n".join(found)
