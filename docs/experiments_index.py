"""Writes `experiments/README.md`: what each experiment asked, and what came out.

    python docs/experiments_index.py

The header comment of every `experiments/*.yaml` gives Question, Command, Result and Date (with the
hardware). Evaluations and comparisons, which no single run makes, are `experiments/*.md` and give
the same in a list. `experiments/learnt.md` comes first.
"""

import re
from pathlib import Path

from prompt_recovery.storage import atomic_write
from prompt_recovery.tables import escape_markdown

FOLDER = Path(__file__).parents[1] / "experiments"
FIELD = re.compile(r"[#-] (\w+):\s+(.*)")
LEARNT = "learnt.md"


def header(path: Path) -> dict[str, str]:
    """The fields of an experiment's header, each on one line: a comment, or a Markdown list."""
    fields: dict[str, str] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        match = FIELD.match(line)
        if match:
            name = match[1]
            fields[name] = match[2]
        elif name and line.startswith(("# ", "  ")):
            fields[name] += " " + line.lstrip("# ")
        elif name:
            break
    return fields


def index(folder: Path) -> str:
    """The page."""
    paths = [p for p in sorted(folder.glob("*.*")) if p.suffix in (".yaml", ".md")]
    paths = [p for p in paths if p.name not in ("README.md", LEARNT)]
    done = [(path, header(path)) for path in paths]
    sections = [_section(path, fields, paths) for path, fields in done if "Result" in fields]
    missing = [_section(path, fields, paths) for path, fields in done if "Result" not in fields]
    learnt = folder / LEARNT
    first = [linked(learnt.read_text("utf-8").strip(), paths)] if learnt.is_file() else []
    parts = [
        "<!-- Made by `python docs/experiments_index.py`. -->",
        "# Experiments",
        *first,
        "Each experiment is a file that begins with the command that reproduces its numbers. A "
        "`.yaml` file is run with `python train.py +experiment=<name>`; those that sweep over "
        "several runs also take `-m`.",
        "## Results",
        *sections,
        *(["## Not run yet", *missing] if missing else []),
    ]
    return "\n\n".join(parts) + "\n"


def records(path: Path) -> list[str]:
    """The names of the files that hold an experiment's numbers."""
    return [file.name for file in sorted(path.parent.glob(f"{path.stem}.*.json"))]


def _section(path: Path, fields: dict[str, str], known: list[Path]) -> str:
    """What one experiment asked, and what came out."""
    others = [other for other in known if other != path]
    lines = [
        f"### [{escape_markdown(path.stem)}]({path.name})",
        f"*{sentence(fields.get('Question', ''))}*",
    ]
    if "Result" in fields:
        lines.append(linked(sentence(without_record(fields["Result"])), others))
    about = [text for text in (fields.get("Date", ""), links(records(path))) if text]
    return "\n\n".join([*lines, *([f"{'. '.join(about)}."] if about else [])])


def linked(text: str, experiments: list[Path]) -> str:
    """The text with links to the experiments whose names it has in code, as in `mbr`."""
    files = {path.stem: path.name for path in experiments}
    return re.sub(
        r"(?<!\[)`(\w+)`(?!\])",
        lambda m: f"[{m[0]}]({files[m[1]]})" if m[1] in files else m[0],
        text,
    )


def links(names: list[str]) -> str:
    """Links to the records of an experiment."""
    return ", ".join(f"[{escape_markdown(name)}]({name})" for name in names)


def without_record(result: str) -> str:
    """A result without the name of its record, which comes at its end."""
    return re.sub(r"[;.] [\w.]+\.json\.?$", ".", result)


def plain(text: str) -> str:
    """A text in which Markdown reads no mark but code."""
    return re.sub(r"(`[^`]*`)|([*_<>\[\]])", lambda m: m[1] or f"\\{m[2]}", text)


def sentence(text: str) -> str:
    """A text that begins with a capital, in which Markdown reads no mark but code."""
    return plain(text[:1].upper() + text[1:])


if __name__ == "__main__":
    with atomic_write(FOLDER / "README.md") as temporary:
        temporary.write_text(index(FOLDER), encoding="utf-8")
