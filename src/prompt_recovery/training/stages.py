"""A stage of training before the main one, such as SFT before DPO."""

import logging
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.trials import is_trial, trial_id
from prompt_recovery.settings.filling import fill

log = logging.getLogger(__name__)


def stage_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the first stage: the run's, with what `first_stage` changes in it."""
    changes = config["first_stage"]
    stage: Any = OmegaConf.create(config)
    if "objective" in changes:
        stage.objective = {}  # replaced, not merged: another objective has other options
    stage.merge_with(changes, {"first_stage": None, "name": f"{config['name']}_first"})
    fill(stage)
    return dict(OmegaConf.to_container(stage, resolve=True))  # type: ignore[arg-type]


def finished_stage(
    stage: dict[str, Any], run: RunFolder, stopped: RunFolder | None
) -> RunFolder | None:
    """Where this stage has been finished: by the run that is gone on with, or by another trial.

    Trials of a multirun that begin alike train their beginning once; a trial that has no more than
    this stage will do, too.

    Args:
        stage: its configuration.
        run: what needs it.
        stopped: the run that is gone on with, if any.
    """
    if stopped is not None and stopped.first_stage.is_finished:
        return stopped.first_stage
    if not is_trial():
        return None
    wanted = trial_id(stage)
    for other in _trained_beside(run):
        if wanted == trial_id(_config_of(other)):
            log.info("the first stage was trained before, in %s", other.path)
            return other
    return None


def _trained_beside(run: RunFolder) -> Iterator[RunFolder]:
    beside = sorted(f for f in run.path.parent.iterdir() if f.is_dir() and f != run.path)
    for trial in map(RunFolder, beside):
        yield from (f for f in (trial, trial.first_stage) if f.is_finished)


def _config_of(run: RunFolder) -> dict[str, Any]:
    try:
        return run.config()
    except (OSError, ValueError):
        return {}
