"""Writes `experiments/README.md`: what each experiment asked, and what came out.

    python docs/experiments_index.py

The header comment of every `experiments/*.yaml` says Question, Command, Result and Date (with the
hardware); results of a command such as `prompt-recovery compare` may be `experiments/*.md` files.
"""

import re
from pathlib import Path

from prompt_recovery.cache import written_whole
from prompt_recovery.experiments.tables import escape, markdown_table

FOLDER = Path(__file__).parents[1] / "experiments"
_FIELDS = ("Question", "Command", "Result", "Date")
_FIELD = re.compile(r"# (\w+):\s+(.*)")


def header(path: Path) -> dict[str, str]:
    """The fields of an experiment's header comment, each on one line."""
    fields: dict[str, str] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        match = _FIELD.match(line)
        if match:
            name = match[1]
            fields[name] = match[2]
        elif name:
            fields[name] += " " + line.lstrip("# ")
    return fields


def index(folder: Path) -> str:
    """The page."""
    rows = []
    for path in sorted(folder.glob("*.yaml")):
        fields = header(path)
        numbers = folder / f"{path.stem}.metrics.json"
        rows.append(
            [
                path.stem,
                *(fields.get(name, "not yet") for name in _FIELDS),
                numbers.name if numbers.is_file() else "none yet",
            ]
        )
    headings = ["experiment", "question", "command", "result", "date and hardware", "numbers"]
    table = markdown_table(headings, rows)
    for path in folder.glob("*.yaml"):
        name = escape(path.stem)
        table = table.replace(f"| {name} |", f"| [{name}]({path.name}) |", 1)
    return (
        "# Experiments\n\n"
        "Each file runs with `python train.py +experiment=<name>`; its header says more, and what "
        "was learnt.\n\n"
        f"{table}\n"
        "Made by `python docs/experiments_index.py`.\n"
    )


if __name__ == "__main__":
    with written_whole(FOLDER / "README.md") as temporary:
        temporary.write_text(index(FOLDER), encoding="utf-8")
