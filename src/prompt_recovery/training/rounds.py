"""Rounds of preference optimisation, on a dataset of candidates that grows as the model learns.

In each round, the model that the last one left samples candidates, which are scored against the
true prompts, added to those of earlier rounds and paired; then it is trained on them (Pang et al.,
Iterative Reasoning Preference Optimization, arXiv 2404.19733; Xu et al., arXiv 2312.16682).
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import Objective
from prompt_recovery.preferences.pool import read_pool
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.storage import atomic_write, write_json
from prompt_recovery.tables import Table, print_tables
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.stage_settings import round_settings

log = logging.getLogger(__name__)

SHORTER = 0.8
"""If answers keep less than this share of their earlier length, this suggests metric hacking."""


@dataclass(frozen=True)
class Round:
    """What a round did.

    Attributes:
        number: Its number, from 1. 0 is what the first round started from.
        val_scs: `val/scs` of its best weights.
        candidates: The mean number of candidates of an example that it was trained on.
        mean_scs: The mean SCS of what the model sampled in this round; NaN if it sampled nothing.
        best_scs: The mean over examples of the best of them.
        diversity: The share of these samples that are distinct, in [0, 1]; NaN without any.
        chosen_log_probability: The mean log-probability per token of the preferred completions, at
            the end of its training.
        second_scs: The SCS of its answers in validation under a second encoder, or NaN.
        words: Their mean length in words.
    """

    number: int
    val_scs: float
    candidates: float
    mean_scs: float
    best_scs: float
    diversity: float
    chosen_log_probability: float
    second_scs: float = math.nan
    words: float = math.nan


def require_rounds(job: TrainingJob, rounds: int) -> None:
    """Refuses rounds of what cannot be repeated.

    Raises:
        PromptRecoveryError: If the objective is not over preferences, these come from a file, or
            there is no validation, by which rounds are compared.
    """
    if not isinstance(job.objective, Objective) or job.objective.completions == "truth":
        raise PromptRecoveryError(
            f"rounds={rounds} samples new preferences in each round, which "
            f"objective={job.objective.name} does not use: give one such as objective=dpo"
        )
    if job.preferences.path not in (None, "auto"):
        raise PromptRecoveryError(
            f"rounds={rounds} samples its preferences, and preferences.path="
            f"{job.preferences.path} names a file: give preferences=sample"
        )
    if not job.splits.val or job.trainer.get("limit_val_batches") == 0:
        setting = "trainer.limit_val_batches=0" if job.splits.val else "split.val=0"
        raise PromptRecoveryError(
            f"rounds={rounds} keeps the round with the highest val/scs, and {setting} leaves out "
            "the validation: give another value, or rounds=1"
        )


def train_rounds(
    given: dict[str, Any],
    start: Path | None,
    train_stage: Callable[[dict[str, Any], int, Path | None, Any], RunFolder],
) -> tuple[RunFolder, list[Round]]:
    """Trains the rounds of a run that are not finished yet, until validation no longer rises.

    Args:
        given: Checked values of `TrainSettings`.
        start: The adapter that the first round starts from; None trains a new one.
        train_stage: Trains a round, given its checked settings, its number, the adapter that it
            starts from and what its reference is; returns its folder.

    Returns:
        The folder of the best round, and what each did, after what the first one started from, if
        that was validated.
    """
    done: list[Round] = []
    folders: list[RunFolder] = []
    current, earlier = start, None
    reference: Any = "start"
    if given["round_reference"] == "first":
        reference = "backbone" if start is None else start
    for number in range(1, given["rounds"] + 1):
        stage = round_settings(given, number, earlier)
        folder = train_stage(stage, number, current, reference)
        folders.append(folder)
        if number == 1:
            done += _start(folder)
        done.append(round_of(number, folder, stage))
        log.info("round %d: val/scs %.4f", number, done[-1].val_scs)
        current, earlier = folder.adapter, folder.preferences
        best = _best(done).number
        if number - best >= given["round_patience"]:
            log.info("val/scs has not risen since round %d, so no further round is trained", best)
            break
        if given["hacking"] == "stop" and any(p.get("val/hacking") for p in folder.curve()):
            log.info(
                "round %d ended with a sign of metric hacking, so no further round is trained",
                number,
            )
            break
    return folders[best - 1], done


def _best(rounds: list[Round]) -> Round:
    """The round with the highest `val/scs`; of equally good ones, the last."""
    return max((r for r in rounds if r.number), key=lambda r: (r.val_scs, r.number))


def _start(first: RunFolder) -> list[Round]:
    """What the first round started from, by the validation before its training, if there was one.

    Only `val_scs`, `second_scs` and `words` are known of it.
    """
    nan = math.nan
    return [
        Round(0, p["val/scs"], nan, nan, nan, nan, nan,
              p.get("val/second_scs", nan), p.get("val/words", nan))
        for p in first.curve()[:1]
        if p["step"] == 0
    ]  # fmt: skip


def round_of(number: int, folder: RunFolder, stage: Mapping[str, Any]) -> Round:
    """Reads what a round did from its folder, once it has been trained.

    Args:
        number: Its number.
        folder: Its folder.
        stage: Its settings.
    """
    metrics = folder.metrics() or {}
    pool = read_pool(folder.preferences)
    new = {i: [c for c in cs if c.source == "sampled"] for i, cs in pool.items()}
    every = [c.scs for cs in new.values() for c in cs]
    best = [max(c.scs for c in cs) for cs in new.values() if cs]
    counts = [len(cs) for cs in pool.values()]
    asked = len(new) * stage["preferences"]["mix"]["sampled"]
    return Round(
        number,
        metrics.get("val/scs", float("nan")),
        float(np.mean(counts)) if counts else 0.0,
        float(np.mean(every)) if every else float("nan"),
        float(np.mean(best)) if best else float("nan"),
        len(every) / asked if asked else float("nan"),
        metrics.get("train/chosen_log_probability", float("nan")),
        metrics.get("val/second_scs", float("nan")),
        metrics.get("val/words", float("nan")),
    )


def record_rounds(rounds: list[Round], run: RunFolder) -> None:
    """Writes the record and the chart of the rounds into a run's folder, and prints a table."""
    record = [
        {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in asdict(r).items()}
        for r in rounds
        if r.number
    ]
    write_json(run.rounds_record, record)
    print_tables(rounds_table(rounds))
    _chart(rounds, run)


def rounds_table(rounds: list[Round]) -> Table:
    """Makes the table of what each round did; the best round is marked.

    It also says where the SCS has risen since the first row while the SCS under the second encoder
    or the length of the answers has fallen, which would be a sign of metric hacking. The first row
    is what the first round started from, if that was validated.
    """
    rows = []
    for r in rounds:
        signs = [
            name
            for name, now, first in (
                ("second encoder falls", r.second_scs, rounds[0].second_scs),
                ("answers are shorter", r.words, SHORTER * rounds[0].words),
            )
            if r.val_scs > rounds[0].val_scs and now < first
        ]
        numbers = [r.val_scs, r.second_scs, r.words, r.mean_scs, r.best_scs, r.diversity,
                   r.candidates, r.chosen_log_probability]  # fmt: skip
        forms = [".4f", ".4f", ".1f", ".3f", ".3f", ".0%", ".1f", ".2f"]
        cells = ["–" if math.isnan(n) else f"{n:{f}}" for n, f in zip(numbers, forms, strict=True)]
        rows.append([str(r.number or "start"), *cells, ", ".join(signs) or "–"])
    return Table(
        ["round", "val SCS", "second encoder", "words", "samples: mean", "best", "distinct",
         "candidates", "log p of chosen", "to be looked at"],
        rows,
        "Rounds: greedy answers in validation, and what the model sampled before training on it",
        best=rounds.index(_best(rounds)),
    )  # fmt: skip


def _chart(rounds: list[Round], run: RunFolder) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained", dpi=150)
    axes = figure.subplots()
    numbers = [r.number for r in rounds]
    for label, colour, values in (
        ("validation, greedy", "#2a6fdb", [r.val_scs for r in rounds]),
        ("samples, best of each example", "#8a93a2", [r.best_scs for r in rounds]),
        ("samples, mean", "#c4cad4", [r.mean_scs for r in rounds]),
    ):
        axes.plot(numbers, values, marker="o", label=label, color=colour)
    axes.set_xticks(numbers)
    axes.set_xlabel("round")
    axes.set_ylabel("SCS")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_write(run.rounds_chart) as temporary:
        figure.savefig(temporary, format="png")
