"""Writes `experiments/README.md`: what each experiment asked, and what came out.

    python docs/experiments_index.py

The header comment of every `experiments/*.yaml` says Question, Command, Result and Date (with the
hardware). Evaluations and comparisons, which no single run makes, are `experiments/*.md`, and say
the same in a list. `experiments/learnt.md` comes first.
"""

import re
from pathlib import Path

from prompt_recovery.storage import atomic_write
from prompt_recovery.tables import Table, escape_markdown, to_markdown

FOLDER = Path(__file__).parents[1] / "experiments"
_SHOWN = ("Question", "Result", "Date")
_FIELD = re.compile(r"[#-] (\w+):\s+(.*)")
_LEARNT = "learnt.md"


def header(path: Path) -> dict[str, str]:
    """The fields of an experiment's header, each on one line: a comment, or a Markdown list."""
    fields: dict[str, str] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _FIELD.match(line)
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
    rows = []
    links: dict[str, str] = {}  # of what stands alone in a cell
    paths = [p for p in sorted(folder.glob("*.*")) if p.suffix in (".yaml", ".md")]
    paths = [p for p in paths if p.name not in ("README.md", _LEARNT)]
    for path in paths:
        fields = header(path)
        kept = (folder / f"{path.stem}.{kind}.json" for kind in ("metrics", "report"))
        numbers = [file.name for file in kept if file.is_file()]
        links |= {path.stem: path.name} | {name: name for name in numbers}
        shown = [fields.get(name, "not yet") for name in _SHOWN]
        rows.append([path.stem, *shown, ", ".join(numbers) or "none yet"])
    headings = ["experiment", "question", "result", "date and hardware", "numbers"]
    page = to_markdown(Table(headings, rows))
    for text, target in links.items():
        label = escape_markdown(text)
        page = page.replace(f"| {label} |", f"| [{label}]({target}) |")
    learnt = folder / _LEARNT
    first = learnt.read_text(encoding="utf-8").strip() + "\n\n" if learnt.is_file() else ""
    return (
        "# Experiments\n\n"
        f"{first}"
        "Every file begins with the command that makes its numbers again. A `.yaml` file runs with "
        "`python train.py +experiment=<name>`; those that sweep, with `-m`.\n\n"
        f"{page}\n\n"
        "Made by `python docs/experiments_index.py`.\n"
    )


if __name__ == "__main__":
    with atomic_write(FOLDER / "README.md") as temporary:
        temporary.write_text(index(FOLDER), encoding="utf-8")
