"""The job behind `prompt-recovery recover`: a file of pairs, or one pair, to predicted prompts."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from prompt_recovery.backbones.load import quiet
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.confidence import with_mean_prompt
from prompt_recovery.recovery.interface import Pair, Prediction, Recoverer
from prompt_recovery.recovery.pairs import (
    PredictionStore,
    RecoveryOptions,
    read_pairs,
    write_predictions,
)
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.settings import checked
from prompt_recovery.storage import cache_dir, fingerprint, locked

log = logging.getLogger(__name__)

_BATCH = 32  # pairs; a batch is finished whole or not at all


@checked("")
@dataclass(frozen=True)
class RecoveryJob(RecoveryOptions):
    """Everything a call of `recover` needs.

    Attributes:
        recipe: what answers.
    """

    recipe: Recipe

    def __post_init__(self) -> None:
        self.refuse_contradictions(self.recipe.confidence)


def recover(job: RecoveryJob) -> list[Prediction]:
    """Recovers the prompts of a file of pairs, or of one pair, which is printed.

    Raises:
        PromptRecoveryError: whatever the user can mend.
    """
    quiet()
    pairs = [] if job.input is None else read_pairs(Path(job.input).expanduser(), job.columns)
    with progress_bar() as progress:
        ready = assemble(job.recipe, steps(progress))
    if job.original is not None and job.rewritten is not None:
        prediction = recover_one(ready.recoverer, job.original, job.rewritten)
        if job.threshold is not None:
            [prediction] = with_mean_prompt([prediction], job.threshold, ready.fallback)
        print_prediction(prediction, Console())
        return [prediction]
    return recover_file(
        ready.recoverer, ready.identity, pairs, Path(job.output), ready.fallback, job.threshold
    )


def recover_file(
    recoverer: Recoverer,
    identity: str,
    pairs: Sequence[Pair],
    output: Path,
    mean_prompt: str,
    threshold: float | None = None,
) -> list[Prediction]:
    """Predicts the prompts of pairs and writes them to a file.

    Finished batches are kept in `.<output>.part.jsonl` beside the output until it is written, so
    that the same call goes on where a killed one stopped, and ends the same: batches depend on the
    pairs alone.

    Args:
        recoverer: whatever answers.
        identity: changes when anything changes that its answers depend on.
        pairs: with distinct ids.
        output: `.csv`, `.jsonl` or `.parquet`.
        mean_prompt: answers where the recoverer has nothing to say.
        threshold: it also answers where the confidence is lower; None where it never should.

    Returns:
        The predictions, in the order of the pairs.

    Raises:
        PromptRecoveryError: a file cannot be written.
    """
    output = output.expanduser()
    identity = fingerprint(identity, [fingerprint(p.id, *_readable(p)) for p in pairs])
    part = output.with_name(f".{output.name}.part.jsonl")
    order = sorted(pairs, key=lambda p: (-len(p.original_text) - len(p.rewritten_text), p.id))
    lock = cache_dir("locks") / fingerprint(str(output.resolve()))
    with locked(lock), progress_bar() as progress:
        store = PredictionStore(part, identity)
        task = progress.add_task(f"recovering: {recoverer.name}", total=len(pairs))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            if all(pair.id in store.done for pair in batch):
                progress.advance(task, len(batch))
            else:
                store.add(recoverer.recover(batch, lambda n: progress.advance(task, n)))
        predictions = [store.done[pair.id] for pair in pairs]
        if threshold is not None:
            predictions = with_mean_prompt(predictions, threshold, mean_prompt)
        write_predictions(output, predictions, mean_prompt)
        store.remove()
    fallbacks = sum(p.fallback for p in predictions)
    log.info("%s: %d predictions, %d of them the mean prompt", output, len(pairs), fallbacks)
    return predictions


def _readable(pair: Pair) -> list[str]:
    return [ascii(text) for text in (pair.original_text, pair.rewritten_text)]


def recover_one(recoverer: Recoverer, original_text: str, rewritten_text: str) -> Prediction:
    """The prediction for one pair; the same texts always get the same one."""
    id_ = fingerprint(ascii(original_text), ascii(rewritten_text))
    [prediction] = recoverer.recover([Pair(id_, original_text, rewritten_text)])
    return prediction


def print_prediction(prediction: Prediction, console: Console, count: int = 8) -> None:
    """Prints an answer and its alternatives; texts are printed as data, never as markup."""
    console.print(Text(prediction.rewrite_prompt, style="bold"))
    if prediction.confidence is not None:
        console.print(f"expected SCS {prediction.confidence:.2f}")
    if prediction.fallback:
        console.print("the mean prompt: the recoverer has no better answer")
    if len(prediction.candidates) < 2:
        return
    table = Table(title="What it could have been", title_justify="left")
    table.add_column("prompt", ratio=1)
    table.add_column("score", justify="right")
    table.add_column("log p", justify="right")
    for candidate in prediction.candidates[:count]:
        likely = candidate.log_probability
        row = (
            Text(candidate.text),
            f"{candidate.score:.3f}",
            "retrieved" if likely is None else f"{likely:.1f}",
        )
        table.add_row(*row)
    console.print(table)


def progress_bar() -> Progress:
    """A line with count and time left."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        transient=True,
    )


def steps(progress: Progress) -> Callable[[str, int, int], None]:
    """Shows the steps of a preparation, each from when its first pairs are done."""
    tasks: dict[str, Any] = {}

    def advance(title: str, done: int, total: int) -> None:
        if title not in tasks:
            tasks[title] = progress.add_task(title, total=total)
        progress.advance(tasks[title], done)

    return advance
