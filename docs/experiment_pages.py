"""A hook of MkDocs that makes `experiments/` a part of the site.

The Markdown files become pages, and so does each YAML file: its header, then its settings.
Links between them and to the records work, and so do links from other pages, which are written as
they are in the repository. `experiments/` itself stays as it is.
"""

import re
from pathlib import Path

from experiments_index import FIELD, FOLDER, LEARNT, header, plain, records
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_LINK = re.compile(r"\]\(([\w./-]+)\.yaml\)")
_OUT_OF_DOCS = re.compile(r"\]\(\.\./((?:\.\./)*experiments/)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and the records to the files of the site."""
    for path in sorted(FOLDER.iterdir()):
        name = f"experiments/{path.name}"
        if path.name == LEARNT:  # a part of README.md
            continue
        if path.suffix == ".md":
            files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
        elif path.suffix == ".yaml":
            page = f"experiments/{path.stem}.md"
            files.append(File.generated(config, page, content=experiment_page(path)))
        elif path.suffix == ".json":
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links from pages in docs/ to experiments/, which is beside docs/ in the repository."""
    return _LINK.sub(r"](\1.md)", _OUT_OF_DOCS.sub(r"](\1", markdown))


def experiment_page(path: Path) -> str:
    """The page of an experiment: what its header says, its records and its settings."""
    lines = path.read_text(encoding="utf-8").splitlines()
    fields = header(path)
    fields.pop("Command", None)
    shown = [f"**{name}:** {plain(text)}" for name, text in fields.items()]
    numbers = ", ".join(f"[{plain(name)}]({name})" for name in records(path))
    settings = "\n".join(line for line in lines if not line.startswith("#")).strip()
    parts = [
        f"# {plain(path.stem)}",
        *shown[:1],
        f"```bash\n{command(lines)}\n```",
        *shown[1:],
        *([f"**Records:** {numbers}"] if numbers else []),
        "The settings, which are those of `python train.py` otherwise:",
        f"```yaml\n{settings}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def command(lines: list[str]) -> str:
    """The command of an experiment's header, with its lines as they stand."""
    found: list[str] = []
    for line in lines:
        field = FIELD.match(line)
        if found and (field or not line.startswith("#")):
            break
        if found or (field and field[1] == "Command"):
            found.append((field[2] if field else line.lstrip("# ")).strip())
    return "\n".join(found)
