"""`prompt-recovery train`, and what `train.py` runs."""

import logging
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from prompt_recovery.backbones.locate import locate
from prompt_recovery.commands.entry import command, in_multirun
from prompt_recovery.data.lead_ins import with_lead_ins
from prompt_recovery.data.splits import split
from prompt_recovery.runs.folder import RunFolder, checkpoint, resumed_run
from prompt_recovery.runs.multirun import run_trial
from prompt_recovery.runs.processes import is_first
from prompt_recovery.runs.trials import end_with_parent, is_trial
from prompt_recovery.settings.checking import check, make
from prompt_recovery.training.job import RunSettings, TrainingJob, TrainSettings
from prompt_recovery.training.stages import finished_stage, stage_config


@command
def train(config: DictConfig) -> Any:
    """Trains a recoverer; returns `val/scs`, which sweepers maximise."""
    if in_multirun():
        return run_trial(config)
    end_with_parent()
    if not is_first():
        logging.getLogger("prompt_recovery").setLevel(logging.ERROR)
    given = check(config, TrainSettings)
    run = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    # A trial waits for the one before it, whose multirun was killed: it is about to end.
    with run.held(wait=is_trial()) if is_first() else nullcontext():
        return _train_in(run, given)


def _train_in(run: RunFolder, given: dict[str, Any]) -> float:
    """Trains all stages of a run."""
    stage = None if given["first_stage"] is None else check(stage_config(given), TrainSettings)
    stopped = resumed_run(given["ckpt_path"], run)
    start = None if given["start"] is None else Path(given["start"]).expanduser()
    seconds_before = 0.0
    if stage is not None:
        start, seconds_before = _first_stage(stage, run, stopped)
    resume = checkpoint(given["ckpt_path"], stopped)
    return _train(job_of(given, run, start=start, ckpt_path=resume, seconds_before=seconds_before))


def _first_stage(
    stage: dict[str, Any], run: RunFolder, stopped: RunFolder | None
) -> tuple[Path, float]:
    """Trains the stage before the main one, unless it is finished; its folder and its seconds."""
    own = run.first_stage
    finished = finished_stage(stage, run, stopped)
    if finished is None:
        resume = checkpoint("last", stopped and stopped.first_stage)
        _train(job_of(stage, own, ckpt_path=resume, evaluate=False))
    elif is_first():
        own.take_over(finished)
    trained = finished or own
    return trained.path, (trained.metrics() or {}).get("train/seconds", 0.0)


def job_of(config: dict[str, Any], run: RunFolder, **stage: Any) -> TrainingJob:
    """The job that checked settings ask for.

    Args:
        config: of `TrainSettings`.
        run: where the run's files go.
        stage: fields of the job that say where it goes on and what comes before it.
    """
    given: TrainSettings = make(config, TrainSettings)
    locate(given.model)  # what can fail fails here, before torch and its friends are imported
    splits = split(given.data, **vars(given.split))
    return TrainingJob(
        dataset=given.data,
        splits=replace(splits, train=with_lead_ins(splits.train, given.lead_ins)),
        template=given.template,
        backbone=given.model,
        adapter=given.adapter,
        objective=given.objective,
        preferences=given.preferences,
        scs=given.metric,
        decoding=given.decoding,
        trainer=dict(given.trainer),
        logger=given.logger,
        name=given.name,
        group=given.group,
        folder=run.path,
        config=config,
        **{f.name: getattr(given, f.name) for f in fields(RunSettings)},
        **stage,
    )


def _train(job: TrainingJob) -> float:
    from prompt_recovery.training.run import train as run_training

    if is_first():
        run = RunFolder(job.folder)
        run.write_config(job.config)
        if not is_trial():
            (run if job.evaluate else RunFolder(job.folder.parent)).point_latest()
    return run_training(job)["val/scs"]
