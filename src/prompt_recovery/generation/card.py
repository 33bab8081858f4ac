"""Summary of a generated dataset: its card for the Hub, its plots, and tables for the terminal."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from prompt_recovery.data.examples import TEXT_COLUMNS
from prompt_recovery.generation.filters import CHECKS
from prompt_recovery.generation.shards import SPLITS, read_split
from prompt_recovery.storage import atomic_write
from prompt_recovery.tables import Table, escape_markdown, to_markdown

_QUIET, _ACCENT = "#9aa3b2", "#2a6fdb"
_EXAMPLES = 3


@dataclass
class Summary:
    """Numbers about a dataset, read from its files.

    Attributes:
        splits: Number of rows by the Hub's name of each split that has rows.
        rejected: Number of rejected rows by reason, most frequent first.
        families: Numbers of kept and of rejected rows by instruction family.
        words: For each text column, the number of words of each kept row.
        prompts: Number of distinct prompts in kept rows.
        examples: Some kept rows.
    """

    splits: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    families: dict[str, tuple[int, int]] = field(default_factory=dict)
    words: dict[str, list[int]] = field(default_factory=lambda: {c: [] for c in TEXT_COLUMNS})
    prompts: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Number of rows in all splits."""
        return sum(self.splits.values())

    @property
    def rows(self) -> int:
        """Number of rows, kept and rejected."""
        return self.kept + sum(self.rejected.values())


def summarise(folder: Path) -> Summary:
    """Summarises a dataset folder, reading its files one batch of rows at a time."""
    summary = Summary()
    families: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    prompts: set[str] = set()
    for side, split in SPLITS.items():
        for row in read_split(folder, side):
            summary.splits[split] = summary.splits.get(split, 0) + 1
            families[row["category"]][0] += 1
            prompts.add(row["rewrite_prompt"])
            for column, lengths in summary.words.items():
                lengths.append(len(row[column].split()))
            if len(summary.examples) < _EXAMPLES and _shows_well(row, summary):
                summary.examples.append(row)
    reasons: Counter[str] = Counter()
    with pq.ParquetFile(folder / "rejected.parquet") as file:
        for batch in file.iter_batches(1000, columns=["category", "reason"]):
            for row in batch.to_pylist():
                families[row["category"]][1] += 1
                reasons[row["reason"]] += 1
    summary.rejected = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    summary.families = {name: (kept, lost) for name, (kept, lost) in sorted(families.items())}
    summary.prompts = len(prompts)
    return summary


def _shows_well(row: Mapping[str, str], summary: Summary) -> bool:
    """Returns whether a row differs in category and original from the examples so far."""
    return all(
        row["category"] != e["category"] and row["original_text"] != e["original_text"]
        for e in summary.examples
    )


def write_plots(summary: Summary, folder: Path) -> None:
    """Writes `lengths.png` and `families.png`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained", dpi=150)
    texts, prompts = figure.subplots(1, 2, width_ratios=[3, 2])
    before, after = summary.words["original_text"], summary.words["rewritten_text"]
    _histogram(texts, {"original": before, "rewritten": after}, (_QUIET, _ACCENT))
    texts.legend(frameon=False)
    texts.set_xlabel("words of a text")
    texts.set_ylabel("rows")
    _histogram(prompts, {"prompt": summary.words["rewrite_prompt"]}, (_ACCENT,))
    prompts.set_xlabel("words of a prompt")
    _save(figure, (texts, prompts), folder / "lengths.png")

    names = sorted(summary.families, key=lambda n: (sum(summary.families[n]), n))[-40:]
    figure = Figure(figsize=(8, 1 + 0.22 * len(names)), layout="constrained", dpi=150)
    axes = figure.subplots()
    kept = np.array([summary.families[n][0] for n in names])
    lost = np.array([summary.families[n][1] for n in names])
    axes.barh(range(len(names)), kept, color=_ACCENT, label="kept")
    axes.barh(range(len(names)), lost, left=kept, color=_QUIET, label="rejected")
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.margins(y=0.01)
    axes.set_xlabel("rows of an instruction family")
    axes.legend(frameon=False)
    _save(figure, (axes,), folder / "families.png")


def _histogram(axes: Any, lengths: Mapping[str, Sequence[int]], colours: Sequence[str]) -> None:
    """Draws up to 40 bins up to the 99th percentile, so that outliers do not stretch the axis."""
    top = max(float(np.percentile(values, 99)) for values in lengths.values())
    bins = np.unique(np.linspace(0, top + 1, 41).round())
    for (label, values), colour in zip(lengths.items(), colours, strict=True):
        counts, edges = np.histogram(values, bins)
        axes.stairs(counts, edges, fill=True, label=label, color=colour, alpha=0.7)


def _save(figure: Any, all_axes: Sequence[Any], path: Path) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


@dataclass(frozen=True)
class Origin:
    """The origin of a dataset, described in its card.

    Attributes:
        name: Name of the dataset.
        rewriter: The result of `Rewriter.card`.
        made: Other facts by name.
        licences: Number of rows by (source, licence) of the original.
        template: Text of the rewrite template.
        scores: Whether there are preferences with a plot of their scores.
        remarks: Whether answers were kept with what they say to the user.
        rejected: Whether the rejected rows come with the dataset.
    """

    name: str
    rewriter: Mapping[str, str]
    made: Mapping[str, Any]
    licences: Mapping[tuple[str, str], int]
    template: str
    scores: bool = False
    remarks: bool = False
    rejected: bool = True


def card(summary: Summary, origin: Origin) -> str:
    """Returns the dataset's `README.md`, with the YAML header that the Hub reads."""
    words = summary.words
    lines = [
        "---",
        yaml.safe_dump(_head(summary, origin), sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {escape_markdown(origin.name)}",
        "",
        "Original texts, prompts that ask for a rewrite, and the rewrites that a language model "
        "made: data for *prompt recovery*, the task of finding the prompt from the two texts.",
        "",
        to_markdown(Table(["split", "rows"], list(summary.splits.items()))),
        "",
        f"{summary.prompts} distinct prompts; if rows are split by prompt, no prompt is in two "
        "splits. Columns: `id`, `original_text`, `rewrite_prompt`, `rewritten_text`, `category` "
        "(the prompt's family), `rewriter`, `source` (of the original), `split`.",
        "",
        "## How it was made",
        "",
        to_markdown(Table(["", ""], [*origin.rewriter.items(), *origin.made.items()])),
        "",
        "The rewriter was sent this as the user's turn of a chat:",
        "",
        *_fenced(origin.template),
        "",
        f'Remarks to the user ("Sure, here is …", "Let me know if …") were '
        f"{'kept in' if origin.remarks else 'removed from'} answers.",
        "",
        "## What was left out",
        "",
        f"{summary.rows - summary.kept} of {summary.rows} rows"
        f"{'; they are in `rejected.parquet` with their reasons' if origin.rejected else ''}.",
        "",
        to_markdown(
            Table(
                ["reason", "rows", "share", "a rewrite that"],
                [
                    (reason, count, f"{count / summary.rows:.1%}", _meaning(reason))
                    for reason, count in (summary.rejected | _never(summary.rejected)).items()
                ],
            )
        ),
        "",
        "## Statistics",
        "",
        to_markdown(
            Table(
                ["words", "5 %", "median", "95 %"],
                [
                    (column, *(f"{np.percentile(words[column], q):.0f}" for q in (5, 50, 95)))
                    for column in TEXT_COLUMNS
                ],
            )
        ),
        "",
        "![Lengths](lengths.png)",
        "",
        to_markdown(
            Table(
                ["family", "kept", "rejected"],
                [(name, kept, lost) for name, (kept, lost) in summary.families.items()],
            )
        ),
        "",
        "![Families](families.png)",
        "",
        *(["![Scores of candidates](preferences/scores.png)", ""] if origin.scores else []),
        "## Licences of the inputs",
        "",
        to_markdown(
            Table(
                ["originals", "licence", "rows"],
                [
                    (source, licence or "unknown", count)
                    for (source, licence), count in sorted(origin.licences.items())
                ],
            )
        ),
        "",
        f"The rewrites fall under the terms of the rewriter "
        f"({escape_markdown(origin.rewriter.get('licence') or 'unknown')}).",
        "",
        "## Examples",
        "",
    ]
    for example in summary.examples:
        for label, column in (
            ("Original", "original_text"),
            ("Prompt", "rewrite_prompt"),
            ("Rewritten", "rewritten_text"),
        ):
            lines += [f"{label}:", "", *_fenced(example[column]), ""]
    return "\n".join(lines)


def _head(summary: Summary, origin: Origin) -> dict[str, Any]:
    licences = {licence.lower() for _, licence in origin.licences}
    free = origin.rewriter.get("licence", "").lower() in _FREE
    licence = next(iter(licences)) if len(licences) == 1 and free else "other"
    configs: list[dict[str, Any]] = [
        {
            "config_name": "default",
            "default": True,
            "data_files": [
                {"split": split, "path": f"data/{split}-*.parquet"} for split in summary.splits
            ],
        }
    ]
    if origin.scores:
        path = "preferences/preferences.parquet"
        configs.append({"config_name": "preferences", "data_files": path})
    return {
        "license": licence if licence in _HUB_LICENCES else "other",
        "pretty_name": origin.name,
        "task_categories": ["text-generation"],
        "tags": ["prompt-recovery", "synthetic"],
        "size_categories": [_size(summary.kept)],
        "configs": configs,
    }


_FREE = ("apache-2.0", "mit", "cc0-1.0")  # rewriters' licences that do not restrict their outputs
_HUB_LICENCES = (
    "apache-2.0 mit cc0-1.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-4.0 odc-by "
    "pddl unlicense gemma llama2 llama3"
).split()


def _size(rows: int) -> str:
    bounds = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")]
    return next((name for bound, name in bounds if rows < bound), "n>1M")


def _never(rejected: Mapping[str, int]) -> dict[str, int]:
    """Returns the reasons for which no row was rejected, each with a count of 0."""
    return {reason: 0 for reason in (*CHECKS, *_COMPARED) if reason not in rejected}


_COMPARED = {
    "duplicate": "repeats an earlier one, in the same words or nearly",
    "ignored": "fits many other prompts better than its own",
}


def _meaning(reason: str) -> str:
    if reason.startswith("failed_"):
        return "was not received because the request failed"
    if reason in _COMPARED:
        return _COMPARED[reason]
    said = (CHECKS[reason].__doc__ or "").strip().removesuffix(".")
    return said[:1].lower() + said[1:]


def _fenced(text: str) -> list[str]:
    """Returns the text in a code fence that is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", text, fence]


def tables(summary: Summary) -> list[Table]:
    """Returns the tables shown in the terminal: examples, then counts and reasons."""
    shown = [
        [_shortened(row[c]) for c in ("original_text", "rewrite_prompt", "rewritten_text")]
        for row in summary.examples
    ]
    headings = ["original text", "prompt", "rewritten text"]
    counts = [
        *([name, count] for name, count in summary.splits.items()),
        *([f"rejected: {reason}", count] for reason, count in summary.rejected.items()),
    ]
    return [
        Table(headings, shown, "Some of the rows", wide=(0, 1, 2)),
        Table(["split", "rows"], counts, f"{summary.kept} of {summary.rows} rows kept"),
    ]


def _shortened(text: str, most: int = 240) -> str:
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"
