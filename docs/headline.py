"""Writes the table at the top of `README.md` from the records in `experiments/`.

    python docs/headline.py

Each row is the mean of the runs with different seeds that the record of an experiment has, and
their range. Rows without a record are left out.
"""

import json
import re
from pathlib import Path

from prompt_recovery.storage import atomic_write

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- headline: docs/headline.py -->", "<!-- end of the headline -->"

# The record, the name of the row in it (without its seed), and what a reader is told.
ROWS = [
    ("together.metrics", "test/scs", "**MiniLM and SmolLM2-135M together** (`make demo`)"),
    ("together.metrics", "test/retriever_scs", "MiniLM alone, fine-tuned as a dense retriever"),
    (
        "together.metrics",
        "test/probe_scs",
        "a probe of SmolLM2-135M, which makes a retriever of it",
    ),
    ("neighbours.report", "MBR with neighbours", "SmolLM2-135M, SFT, MBR with neighbours"),
    ("together.metrics", "test/model_scs", "SmolLM2-135M alone, SFT, MBR"),
    ("mbr.report", "greedy", "SmolLM2-135M, SFT, greedy"),
    (
        "starter_test.report",
        "neighbours by difference",
        "prompts of similar training examples, no model trained",
    ),
    (
        "starter_test.report",
        "mean prompt",
        "mean prompt, searched: the best constant answer of a search (a string of words)",
    ),
    (
        "together.metrics",
        "baseline/mean_prompt_scs",
        "mean prompt: the best training prompt as a constant answer",
    ),
    ("together.metrics", "baseline/zero_shot_scs", "SmolLM2-135M, zero-shot"),
]
_SEED = re.compile(r"seed \d+ (.*)")


def found(record: str, name: str) -> list[float]:
    """The SCS of all rows of a record with this name, whatever their seed."""
    file = ROOT / "experiments" / f"{record}.json"
    if not file.is_file():
        return []
    values = json.loads(file.read_text(encoding="utf-8"))
    if record.endswith(".metrics"):
        return [run[name] for run in values.get("seeds", {"": values}).values()]
    rows = [(row["name"], row["scs"]) for row in values["recoverers"]]
    return [scs for row, scs in rows if name == (m[1] if (m := _SEED.match(row)) else row)]


def headline() -> str:
    """The table."""
    rows = []
    for record, name, said in ROWS:
        values = found(record, name)
        if values:
            spread = f"{min(values):.3f} … {max(values):.3f}" if len(set(values)) > 1 else "–"
            mean = sum(values) / len(values)
            rows.append((mean, [said, f"{mean:.3f}", spread, len(values), f"`{record}.json`"]))
    ordered = [cells for _, cells in sorted(rows, key=lambda row: -row[0])]
    headings = ["203 examples, prompts never seen in training", "SCS", "range", "seeds", "record"]
    lines = [headings, ["---", "---:", "---", "---:", "---"], *ordered]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


def inserted(page: str) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{headline()}{END}{after}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    with atomic_write(readme) as temporary:
        temporary.write_text(inserted(readme.read_text(encoding="utf-8")), "utf-8")
