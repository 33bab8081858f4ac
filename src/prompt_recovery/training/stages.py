"""A first training stage before the main one, such as SFT before DPO."""

import logging
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.trials import is_trial, trial_id
from prompt_recovery.settings.filling import fill

log = logging.getLogger(__name__)


def stage_config(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the first stage's configuration: the run's, with the changes in `first_stage`."""
    changes = config["first_stage"]
    stage: Any = OmegaConf.create(config)
    if "objective" in changes:
        stage.objective = {}  # replace it: another objective has other options
    stage.merge_with(changes, {"first_stage": None, "name": f"{config['name']}_first"})
    fill(stage)
    return dict(OmegaConf.to_container(stage, resolve=True))  # type: ignore[arg-type]


def finished_stage(
    stage: dict[str, Any], run: RunFolder, stopped: RunFolder | None
) -> RunFolder | None:
    """Finds a run that has finished this stage: the resumed run, or another trial of a multirun.

    Trials of a multirun with the same first stage train it only once. A trial that consists of
    this stage alone is found, too.

    Args:
        stage: Configuration of the stage.
        run: The run that needs the stage.
        stopped: The run that is being resumed, if any.

    Returns:
        The finished stage, or None.
    """
    if stopped is not None and stopped.first_stage.is_finished:
        return stopped.first_stage
    if not is_trial():
        return None
    wanted = trial_id(stage)
    for other in _trained_beside(run):
        if wanted == trial_id(_config_of(other)):
            log.info("the first stage was already trained in %s", other.path)
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
