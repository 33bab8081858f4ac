"""Preference data in TRL's format, as a Parquet file with a card."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prompt_recovery.data.examples import (
    Row,
    optional_cell,
    problem_with_prompt,
    problem_with_text,
    require_columns,
)
from prompt_recovery.data.files import read_rows
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.storage import atomic_write
from prompt_recovery.tables import Table, counted, to_markdown

log = logging.getLogger(__name__)

Message = dict[str, str]


@dataclass(frozen=True)
class PreferenceExample:
    """One prompt with two or more completions, best first.

    Attributes:
        id: Id of the rewrite example that it was made from, or "" if the file has no ids.
        prompt: Chat messages, or a text for models without a chat template.
        completions: The completions, best first.
        scores: SCS of each completion in [-1, 1], or NaN if unknown.
    """

    id: str
    prompt: str | list[Message]
    completions: tuple[str, ...]
    scores: tuple[float, ...]


def write_preferences(
    examples: Sequence[PreferenceExample], folder: Path, card: Mapping[str, Any]
) -> Path:
    """Writes `preferences.parquet`, its card `README.md` and a plot of the scores.

    The columns `prompt`, `chosen`, `rejected`, `chosen_score` and `rejected_score` follow TRL's
    format, in its conversational form if the prompt is a chat. `completions` and `scores` hold the
    whole group, in which chosen is the best and rejected the worst.

    Args:
        examples: At least one example.
        folder: Output folder, created if necessary.
        card: Facts about the data for its card, by name.

    Returns:
        The path of the Parquet file.
    """
    path = folder / "preferences.parquet"
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist([_row(e) for e in examples]), temporary)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(_card(examples, card), encoding="utf-8")
    _plot(examples, folder / "scores.png")
    return path


def _row(example: PreferenceExample) -> dict[str, Any]:
    chosen, rejected = example.completions[0], example.completions[-1]
    chat = not isinstance(example.prompt, str)
    return {
        "id": example.id,
        "prompt": example.prompt,
        "chosen": [{"role": "assistant", "content": chosen}] if chat else chosen,
        "rejected": [{"role": "assistant", "content": rejected}] if chat else rejected,
        "chosen_score": example.scores[0],
        "rejected_score": example.scores[-1],
        "completions": list(example.completions),
        "scores": list(example.scores),
    }


def read_preferences(path: Path) -> list[PreferenceExample]:
    """Reads a preference file in TRL's format: Parquet, JSONL or CSV.

    `prompt` is a text or a list of messages. `chosen` and `rejected` are texts or lists of messages
    that end with the assistant's. If there is no `prompt`, it is taken from the messages that
    `chosen` and `rejected` have in common (TRL's implicit prompt). Scores, ids and groups are
    optional. Groups are sorted by their scores. Rows that prefer nothing are left out, and a
    warning says how many: their completions are equal, or `chosen` has the lower score.

    Raises:
        PromptRecoveryError: If the file does not exist or a row is invalid. The message names the
            file and the row, and says how to fix it.
    """
    if not path.is_file():
        raise PromptRecoveryError(f"{path}: no such file; give preferences.path=<file>")
    examples: list[PreferenceExample] = []
    dropped: Counter[str] = Counter()
    for row in read_rows(path):
        advice = "preference files have TRL's columns prompt, chosen, rejected"
        require_columns(row, ("chosen", "rejected"), advice)
        example = _parsed(row)
        ordered = _ordered(example, in_group=bool(row.values.get("completions")))
        if isinstance(ordered, str):
            dropped[ordered] += 1
        else:
            examples.append(ordered)
    for reason, count in dropped.items():
        log.warning("preferences %s: left out %s: %s", path, counted(count, "row"), reason)
    if not examples:
        reasons = f" (left out: {', '.join(dropped)})" if dropped else ""
        raise PromptRecoveryError(
            f"{path}: holds no preferences{reasons}; make some with preferences=sample"
        )
    return examples


def _ordered(example: PreferenceExample, in_group: bool) -> PreferenceExample | str:
    """Returns an example with distinct completions, best first, or why it prefers none."""
    scored = list(zip(example.completions, example.scores, strict=True))
    if all(map(math.isfinite, example.scores)):
        if len(scored) == 2 and scored[0][1] < scored[1][1] and not in_group:
            return "chosen has a lower score than rejected"
        scored.sort(key=lambda one: -one[1])  # stable
    distinct = {text.strip(): (text, score) for text, score in reversed(scored)}
    kept = [one for one in scored if distinct[one[0].strip()] == one]
    if len(kept) < 2:
        return "its completions are equal"
    return replace(example, completions=tuple(t for t, _ in kept), scores=tuple(s for _, s in kept))


def _parsed(row: Row) -> PreferenceExample:
    place, values = row.place, row.values
    prompt, problem = _prompt(values)
    if problem:
        raise PromptRecoveryError(f"{place}: column 'prompt' {problem}; correct or remove the row")
    group = values.get("completions") or [_answer(values[c]) for c in ("chosen", "rejected")]
    scores = values.get("scores") or [values.get(f"{c}_score") for c in ("chosen", "rejected")]
    for column, given in (("completions", group), ("scores", scores)):
        if not isinstance(given, list):
            raise PromptRecoveryError(
                f"{place}: column '{column}' is not a list; correct it, or leave the column out"
            )
    for text in group:
        problem = problem_with_prompt(text)
        if problem:
            raise PromptRecoveryError(f"{place}: a completion {problem}; correct or remove the row")
    if len(scores) != len(group) or len(group) < 2:
        raise PromptRecoveryError(
            f"{place}: has {len(group)} completions and {len(scores)} scores; give as many scores "
            "as completions, and at least two of each"
        )
    return PreferenceExample(
        id=optional_cell(row, "id"),
        prompt=prompt,
        completions=tuple(group),
        scores=tuple(_score(place, s) for s in scores),
    )


def _prompt(values: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Returns a row's prompt and what is wrong with it, or None."""
    prompt, chosen, rejected = values.get("prompt"), values["chosen"], values["rejected"]
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        if chosen[:-1] != rejected[:-1]:
            return None, "is missing, and chosen and rejected begin with different messages"
        prompt = chosen[:-1]
    if not isinstance(prompt, list):
        return prompt, problem_with_text(prompt)
    if not all(isinstance(m, dict) for m in prompt):
        return None, "is not a list of messages with role and content"
    # An empty system message says nothing; some exporters write one into each row.
    said = [m for m in prompt if m.get("role") != "system" or m.get("content") not in ("", None)]
    if not said or any(problem_with_text(m.get(k)) for m in said for k in ("role", "content")):
        return None, "is not a list of messages with role and content"
    return [{"role": m["role"], "content": m["content"]} for m in said], None


def _answer(completion: Any) -> Any:
    if isinstance(completion, list) and completion and isinstance(completion[-1], dict):
        return completion[-1].get("content")
    return completion


def _score(place: str, value: Any) -> float:
    if value is None or value == "":
        return math.nan
    try:
        score = float("true" if isinstance(value, bool) else value)
        if not math.isinf(score):
            return score
    except (TypeError, ValueError, OverflowError):
        pass
    shown = printable(repr(value))[:60]
    raise PromptRecoveryError(
        f"{place}: score {shown} is not a number; correct it, or leave it empty"
    )


def _card(examples: Sequence[PreferenceExample], made: Mapping[str, Any]) -> str:
    chosen = np.array([e.scores[0] for e in examples])
    rejected = np.array([e.scores[-1] for e in examples])
    counts = sorted(Counter(len(e.completions) for e in examples).items())
    lines = [
        "---",
        "tags: [preference, dpo, prompt-recovery]",
        "configs:",
        "- config_name: default",
        "  data_files: preferences.parquet",
        "---",
        "",
        "# Preferences over recovered prompts",
        "",
        "Each row has the two texts of a rewrite example as its prompt, and guesses at the "
        "instruction that led from one to the other, the best first. The columns `prompt`, "
        "`chosen` and `rejected` are those of TRL's preference format; scores are sharpened cosine "
        "similarity (SCS) against the true instruction.",
        "",
        to_markdown(
            Table(
                ["", ""],
                [
                    ("rows", len(examples)),
                    (
                        "completions per row",
                        ", ".join(f"{k}: {counted(n, 'row')}" for k, n in counts),
                    ),
                    ("mean score, chosen", f"{chosen.mean():.3f}"),
                    ("mean score, rejected", f"{rejected.mean():.3f}"),
                    ("mean margin", f"{(chosen - rejected).mean():.3f}"),
                    *made.items(),
                ],
            )
        ),
        "",
        "![Scores](scores.png)",
        "",
    ]
    return "\n".join(lines)


def _plot(examples: Sequence[PreferenceExample], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained", dpi=150)
    axes = figure.subplots()
    bins = np.linspace(-0.2, 1, 49)
    for label, colour, values in (
        ("first (chosen)", "#2a6fdb", [e.scores[0] for e in examples]),
        ("others (rejected)", "#9aa3b2", [s for e in examples for s in e.scores[1:]]),
    ):
        shown = np.clip([v for v in values if not math.isnan(v)], bins[0], bins[-1])
        if len(shown):
            axes.hist(shown, list(bins), label=label, color=colour, alpha=0.7)
    axes.set_xlabel("SCS against the true prompt")
    axes.set_ylabel("completions")
    axes.set_yscale("symlog")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
