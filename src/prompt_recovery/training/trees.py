"""The completion trees that a run trains on."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prompt_recovery.objectives import Objective, PolicyGradient
from prompt_recovery.preferences import prepare_preferences
from prompt_recovery.preferences.reference import reference_log_probabilities
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.processes import is_first
from prompt_recovery.terminal import progress_bar
from prompt_recovery.training.datamodule import TrainingTrees, preference_trees
from prompt_recovery.training.job import TrainingJob


def training_trees(
    job: TrainingJob, objective: Objective | PolicyGradient, writer: Writer, started_with: str
) -> TrainingTrees | None:
    """Returns preferences with reference log-probabilities, for objectives that need them."""
    if isinstance(objective, PolicyGradient) or objective.completions == "truth":
        return None
    preferences = prepare_preferences(
        job.preferences,
        job.dataset.name,
        job.splits,
        writer,
        job.scs,
        started_with,
        group=objective.completions == "group",
        seed=job.seed,
        folder=job.run.preferences,
    )
    training = preference_trees(
        preferences,
        job.splits.train,
        job.template,
        writer.tokenizer,
        job.batching.max_prompt_tokens,
    )
    if objective.uses_reference:
        writer.model.eval()
        with (
            progress_bar(disable=not is_first()) as progress,
            _reference(writer.model, job),
        ):
            task = progress.add_task("reference log-probabilities", total=len(training.rows))
            training.reference = reference_log_probabilities(
                writer.model,
                training.trees(),
                started_with,
                int(writer.tokenizer.pad_token_id),
                job.batching.batch_tokens,
                lambda n: progress.advance(task, n),
            )
    return training


def _reference(model: Any, job: TrainingJob) -> AbstractContextManager[Any]:
    """Disables a new adapter, which has no effect before training, to save time."""
    context: AbstractContextManager[Any] = nullcontext() if job.start else model.disable_adapter()
    return context
