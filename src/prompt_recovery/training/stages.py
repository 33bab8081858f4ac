"""A stage of training before the main one, such as SFT before DPO."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from prompt_recovery.runs.trials import is_trial, metrics_of, trial_id

log = logging.getLogger(__name__)

FIRST = "first_stage"


def stage_config(config: DictConfig) -> DictConfig:
    """The configuration of the first stage: the run's, with what `first_stage` changes in it."""
    stage = config.copy()
    OmegaConf.set_struct(stage, False)
    if "objective" in config.first_stage:
        stage.objective = {}  # replaced, not merged: another objective has other options
    stage.merge_with(config.first_stage)
    stage.merge_with({FIRST: None, "name": f"{config.name}_first"})
    return stage


def finished_stage(stage: DictConfig, run: Path, stopped: Path | None) -> Path | None:
    """Where this stage has been finished: by the run that is gone on with, or by another trial.

    Trials of a multirun that begin alike train their beginning once; a trial that has no more than
    this stage will do, too.

    Args:
        stage: its configuration.
        run: the folder of the run that needs it.
        stopped: the run that is gone on with, if any.
    """
    if stopped is not None and metrics_of(stopped / FIRST) is not None:
        return stopped / FIRST
    if not is_trial():
        return None
    wanted = trial_id(OmegaConf.to_container(stage, resolve=True))  # type: ignore[arg-type]
    for folder in _trained_beside(run):
        if wanted == trial_id(_config_of(folder)):
            log.info("the first stage was trained before, in %s", folder)
            return folder
    return None


def take_over(finished: Path, own: Path) -> None:
    """Copies a finished stage into the run that starts from it: the other may go."""
    if finished == own:
        return
    own.mkdir(parents=True, exist_ok=True)
    shutil.copytree(finished / "adapter", own / "adapter", dirs_exist_ok=True)
    for name in ("config.yaml", "curve.jsonl", "environment.yaml", "metrics.json"):
        if (finished / name).is_file():
            shutil.copy(finished / name, own)


def _trained_beside(run: Path) -> Iterator[Path]:
    for trial in sorted(f for f in run.parent.iterdir() if f.is_dir() and f != run):
        yield from (f for f in (trial, trial / FIRST) if metrics_of(f) is not None)


def _config_of(run: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load((run / "config.yaml").read_text("utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}
