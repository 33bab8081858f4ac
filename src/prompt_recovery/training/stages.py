"""Trains the stages of a run: the main one, and before it a first one, such as SFT before DPO."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from prompt_recovery.runs.folder import (
    RunFolder,
    checkpoint_file,
    resumed_run,
    with_absolute_data,
)
from prompt_recovery.runs.processes import is_first
from prompt_recovery.runs.trials import is_trial, trial_id
from prompt_recovery.settings.checking import check
from prompt_recovery.settings.filling import fill
from prompt_recovery.training.job import TrainingJob, TrainSettings, job_of

log = logging.getLogger(__name__)


def train_stages(given: dict[str, Any], run: RunFolder) -> float:
    """Trains all stages of a run that are not finished yet, and returns its `val/scs`.

    Args:
        given: Checked values of `TrainSettings`.
        run: The folder of the run, which its first process has locked.

    Raises:
        PromptRecoveryError: If a setting or a file is wrong.
    """
    stage = None if given["first_stage"] is None else check(stage_config(given), TrainSettings)
    stopped = resumed_run(given["ckpt_path"], run)
    start = None if given["start"] is None else Path(given["start"]).expanduser()
    seconds_before = 0.0
    if stage is not None:
        start, seconds_before = _first_stage(stage, run, stopped)
    resume = checkpoint_file(given["ckpt_path"], stopped)
    job = job_of(given, run, start=start, ckpt_path=resume, seconds_before=seconds_before)
    return _train(job, run)


def _first_stage(
    stage: dict[str, Any], run: RunFolder, stopped: RunFolder | None
) -> tuple[Path, float]:
    """Trains the first stage unless it is finished. Returns its folder and its seconds."""
    own = run.first_stage
    finished = finished_stage(stage, run, stopped)
    if finished is None:
        resume = checkpoint_file("last", stopped and stopped.first_stage)
        _train(job_of(stage, own, ckpt_path=resume, evaluate=False), run)
    elif is_first():
        own.take_over(finished)
    trained = finished or own
    return trained.path, (trained.metrics() or {}).get("train/seconds", 0.0)


def _train(job: TrainingJob, run: RunFolder) -> float:
    """Trains one stage of a run, whose own folder is the run's or `first_stage/` inside it."""
    from prompt_recovery.training.run import train

    if is_first():
        for folder in {run, job.run}:  # a stage that is under way does not count as finished
            folder.discard_metrics()
        job.run.write_config(job.config)
        if not is_trial():
            run.point_latest()
    return train(job)["val/scs"]


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
    wanted = trial_id(with_absolute_data(stage))
    for other in _trained_beside(run):
        if wanted == trial_id(with_absolute_data(_config_of(other))):
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
