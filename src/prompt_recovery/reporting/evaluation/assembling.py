"""Makes the job of an evaluation from its settings: contenders, examples and metrics."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from prompt_recovery.data.examples import Dataset, RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines.base import Baseline
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.records import read_record
from prompt_recovery.recovery.spans import method_of
from prompt_recovery.reporting.evaluation.contenders import (
    Contender,
    from_baseline,
    from_column,
    from_file,
    from_recipe,
)
from prompt_recovery.reporting.evaluation.examples import Part
from prompt_recovery.reporting.evaluation.job import EvaluationJob
from prompt_recovery.reporting.evaluation.settings import EvaluateSettings
from prompt_recovery.reporting.origin import origin
from prompt_recovery.runs.folder import recoverer_folders
from prompt_recovery.tables import counted

log = logging.getLogger(__name__)

_PARTS = {"test": "test split", "all": "all of it"}


def job_of(
    given: EvaluateSettings,
    recipes: Sequence[Recipe],
    baselines: Sequence[Baseline],
    part: Part,
    examples: Sequence[RewriteExample],
    training: Dataset,
    second: Callable[[], SCS] | None,
    command: str = "",
) -> EvaluationJob:
    """Makes the job that the settings ask for.

    Args:
        given: The settings.
        recipes: The recipes of its recoverers.
        baselines: Its baselines.
        part: Which part of the data is evaluated.
        examples: The examples of this part.
        training: What baselines are fitted to.
        second: Makes the second metric. None if none was asked for.
        command: The command line, for the report.
    """
    opinion, said = _second_opinion(given.metric, second)
    contenders = _contenders(given, recipes, baselines, training)
    if part == "all":
        _warn_of_training_rows(given, recipes)
    folder = Path(given.output).expanduser()
    return EvaluationJob(
        name=given.data.name,
        examples=examples,
        contenders=contenders,
        scs=given.metric,
        second=opinion,
        honest_prompts=[e.rewrite_prompt for e in training.examples],
        folder=folder,
        explain=method_of(given.explain),
        about={
            "evaluated": f"{given.data.name}, {_PARTS[part]}: {counted(len(examples), 'row')}",
            **{c.name: c.about for c in contenders if c.about},
            "baselines learned from": f"{training.name}: {counted(len(training.examples), 'row')}",
            "metric": f"SCS (cosine^{given.metric.exponent:g}) of {given.metric.encoder.name}",
            "second encoder": said,
            **origin(command, folder),
        },
    )


def _warn_of_training_rows(given: EvaluateSettings, recipes: Sequence[Recipe]) -> None:
    """Says which runs were trained on rows of the dataset, all of which is evaluated."""
    evaluated = given.data.fingerprint()
    for recipe, entry in zip(recipes, given.recoverer_entries(), strict=True):
        folders = [f for run in recipe.runs for f in recoverer_folders(run)]
        sources = [read_record(folder).get("data") or {} for folder in folders]
        if any(source.get("fingerprint") == evaluated for source in sources):
            log.warning(
                "%s was trained on rows of %s, and all of them are evaluated: this SCS says little "
                "about other pairs. part=test evaluates the test split alone, if the settings of "
                "the split are those of the training",
                entry.name or folders[0],
                given.data.name,
            )


def _second_opinion(scs: SCS, make: Callable[[], SCS] | None) -> tuple[SCS | None, str]:
    """Returns the second metric and a description of it for the report."""
    if make is None:
        return None, "none was asked for"
    try:
        second = make()
    except PromptRecoveryError as error:
        said = f"no metric-hacking check: {error}"
        log.warning(said)
        return None, said
    if second.encoder.identity == scs.encoder.identity:
        log.warning("second_metric: has the encoder of metric, which is no second opinion")
        return None, "no metric-hacking check: it is the first one"
    return second, second.encoder.name


def _contenders(
    given: EvaluateSettings,
    recipes: Sequence[Recipe],
    baselines: Sequence[Baseline],
    training: Dataset,
) -> list[Contender]:
    contenders = [
        from_recipe(recipe, entry.name)
        for recipe, entry in zip(recipes, given.recoverer_entries(), strict=True)
    ]
    contenders += [from_baseline(baseline, training, given.metric) for baseline in baselines]
    for entry in given.prediction_entries():
        if entry.path is not None:
            contenders.append(from_file(entry.path, entry.column, entry.id, entry.name))
        else:
            contenders.append(from_column(given.data, str(entry.column), entry.name))
    return contenders
