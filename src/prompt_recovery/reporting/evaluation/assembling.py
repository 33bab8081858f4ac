"""Makes the job of an evaluation from its settings: contenders, examples and metrics."""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from prompt_recovery.data.examples import Dataset, RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines.base import Baseline
from prompt_recovery.recovery.load import splits_of
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.spans import method_of
from prompt_recovery.reporting.evaluation.contenders import (
    Contender,
    from_baseline,
    from_column,
    from_file,
    from_recipe,
)
from prompt_recovery.reporting.evaluation.examples import Chosen, texts_of
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
    chosen: Chosen,
    training: Dataset,
    second: Callable[[], SCS] | None,
    command: str = "",
) -> EvaluationJob:
    """Makes the job that the settings ask for.

    Args:
        given: The settings.
        recipes: The recipes of its recoverers.
        baselines: Its baselines.
        chosen: The examples to evaluate on.
        training: What baselines are fitted to.
        second: Makes the second metric. None if none was asked for.
        command: The command line, for the report.
    """
    opinion, said = _second_opinion(given.metric, second)
    contenders = _contenders(given, recipes, baselines, training)
    known = _known_rows(recipes, contenders, chosen.examples)
    size = counted(len(chosen.examples), "row")
    if len(chosen.examples) < chosen.of:
        size = f"{len(chosen.examples):,} of {counted(chosen.of, 'row')}"
    folder = Path(given.output).expanduser()
    return EvaluationJob(
        name=given.data.name,
        examples=chosen.examples,
        contenders=contenders,
        scs=given.metric,
        second=opinion,
        honest_prompts=[e.rewrite_prompt for e in training.examples],
        folder=folder,
        explain=method_of(given.explain),
        about={
            "evaluated": f"{given.data.name}, {_PARTS[chosen.part]}: {size}",
            **{c.name: c.about for c in contenders if c.about},
            **({"evaluated rows seen in training": "; ".join(known)} if known else {}),
            "baselines learned from": f"{training.name}: {counted(len(training.examples), 'row')}",
            "metric": f"SCS (cosine^{given.metric.exponent:g}) of {given.metric.encoder.name}",
            "second encoder": said,
            **origin(command, folder),
        },
    )


def _known_rows(
    recipes: Sequence[Recipe],
    contenders: Sequence[Contender],
    examples: Sequence[RewriteExample],
) -> list[str]:
    """Says which runs were trained or validated on evaluated rows, by the texts of the rows.

    It is logged, too. The data of a run are read again to find out, wherever a copy of them is.
    """
    evaluated = {texts_of(e) for e in examples}
    found = []
    names = [c.name for c in contenders if c.kind == "recoverer"]
    splits_in = cache(splits_of)  # a run may be in several entries
    for recipe, name in zip(recipes, names, strict=True):
        seen: dict[str, set[tuple[str, str]]] = {"trained": set(), "validated": set()}
        for folder in [f for run in recipe.runs for f in recoverer_folders(run)]:
            try:
                splits = splits_in(folder)
            except PromptRecoveryError as error:
                log.info("%s: not checked for evaluated rows in its training: %s", name, error)
                continue
            seen["trained"] |= evaluated & {texts_of(e) for e in splits.train}
            seen["validated"] |= evaluated & {texts_of(e) for e in splits.val}
        seen["validated"] -= seen["trained"]
        counts = [f"{done} on {len(rows):,}" for done, rows in seen.items() if rows]
        if not counts:
            continue
        of = f"of the {counted(len(examples), 'evaluated row')}"
        found.append(f"{name} was {' and '.join(counts)} {of}")
        log.warning(
            "%s: its SCS on these rows says little about other pairs. With part=test and the "
            "settings of the data and the split as in its training, only its test split is "
            "evaluated",
            found[-1],
        )
    return found


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
        log.warning(
            "second_metric: has the same encoder as metric, so it cannot confirm its scores"
        )
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
