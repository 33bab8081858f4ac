"""The completion trees that a run trains on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from prompt_recovery.backbones.adapters import kept_weights, set_adapter_weights
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.tokens import tokenise
from prompt_recovery.objectives import Objective, PolicyGradient
from prompt_recovery.preferences import prepare_preferences
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.processes import is_first
from prompt_recovery.terminal import progress_bar
from prompt_recovery.training.datamodule import preference_trees
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.loading import TrainingTrees
from prompt_recovery.trees.cached import cached_log_probabilities


def training_trees(
    job: TrainingJob,
    objective: Objective | PolicyGradient,
    writer: Writer,
    started_with: str,
    reference: str,
    unlabelled: Sequence[RewriteExample] = (),
) -> TrainingTrees | None:
    """Returns what is trained on if it is more than the true prompts of the training split.

    These are preferences with reference log-probabilities, or examples without a prompt beside the
    training split.

    Args:
        job: The job.
        objective: Its objective.
        writer: The model, before its first step.
        started_with: Identity of what training starts from.
        reference: Identity of the reference model.
        unlabelled: Examples without a prompt, for a policy gradient.
    """
    if isinstance(objective, PolicyGradient) and unlabelled:
        return TrainingTrees(
            tokenise(
                [*job.splits.train, *unlabelled],
                job.template,
                writer.tokenizer,
                job.batching.max_prompt_tokens,
            )
        )
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
            reference_model(writer.model, job.reference, started=job.start is not None),
        ):
            task = progress.add_task("reference log-probabilities", total=len(training.rows))
            training.reference = cached_log_probabilities(
                writer.model,
                training.trees(),
                reference,
                int(writer.tokenizer.pad_token_id),
                job.batching.batch_tokens,
                lambda n: progress.advance(task, n),
                kind="references",
            )
    return training


@contextmanager
def reference_model(
    model: Any, reference: Path | Literal["start", "backbone"], started: bool
) -> Iterator[None]:
    """Lets a `PeftModel` compute as the reference model meanwhile.

    Args:
        model: The model that is trained, before its first step.
        reference: As in `TrainingJob`.
        started: Whether training starts from an adapter that was trained before. A new one has no
            effect, and is left out to save time.
    """
    if reference == "backbone" or (reference == "start" and not started):
        with model.disable_adapter():
            yield
        return
    if reference == "start":
        yield
        return
    with kept_weights(model):
        set_adapter_weights(model, Path(reference))
        yield
