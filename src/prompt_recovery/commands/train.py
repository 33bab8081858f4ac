"""`prompt-recovery train`, and what `train.py` runs."""

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from prompt_recovery.commands.entry import command, in_multirun
from prompt_recovery.runs.folder import RunFolder, checkpoint, resumed_run
from prompt_recovery.runs.multirun import run_trial
from prompt_recovery.runs.processes import is_first
from prompt_recovery.runs.trials import end_with_parent, is_trial


@command
def train(config: DictConfig) -> Any:
    """Trains a recoverer; returns `val/scs`, which sweepers maximise."""
    if in_multirun():
        return run_trial(config)
    end_with_parent()
    if not is_first():
        logging.getLogger("prompt_recovery").setLevel(logging.ERROR)
    run = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    # A trial waits for the one before it, whose multirun was killed: it is about to end.
    with run.held(wait=is_trial()) if is_first() else nullcontext():
        return _train_in(run, config)


def _train_in(run: RunFolder, config: DictConfig) -> float:
    """Trains all stages of a run."""
    stopped = resumed_run(config.ckpt_path, run)
    start = None if config.start is None else Path(config.start).expanduser()
    seconds_before = 0.0
    if config.first_stage is not None:
        start, seconds_before = _first_stage(config, run, stopped)
    resume = checkpoint(config.ckpt_path, stopped)
    return _train(config, run, start, resume, seconds_before=seconds_before)


def _first_stage(
    config: DictConfig, run: RunFolder, stopped: RunFolder | None
) -> tuple[Path, float]:
    """Trains the stage before the main one, unless it is finished; its folder and its seconds."""
    from prompt_recovery.training.stages import finished_stage, stage_config

    stage, own = stage_config(config), run.first_stage
    finished = finished_stage(stage, run, stopped)
    if finished is None:
        resume = checkpoint("last", stopped and stopped.first_stage)
        _train(stage, own, None, resume, evaluate=False)
    elif is_first():
        own.take_over(finished)
    trained = finished or own
    return trained.path, (trained.metrics() or {}).get("train/seconds", 0.0)


def _train(
    config: DictConfig,
    run: RunFolder,
    start: Path | None,
    resume: str | None,
    evaluate: bool = True,
    seconds_before: float = 0.0,
) -> float:
    # What can fail fails here, before torch and its friends take their seconds to import.
    from hydra.utils import instantiate

    from prompt_recovery.backbones.locate import locate
    from prompt_recovery.data.lead_ins import with_lead_ins
    from prompt_recovery.data.splits import split

    backbone = instantiate(config.model)
    locate(backbone)
    dataset = instantiate(config.data)
    splits = split(dataset, **config.split)
    splits = replace(splits, train=with_lead_ins(splits.train, config.lead_ins))
    scs = instantiate(config.metric)

    from prompt_recovery.training.datamodule import Batching
    from prompt_recovery.training.job import TrainingJob
    from prompt_recovery.training.module import Optimisation
    from prompt_recovery.training.run import train as run_training

    resolved = OmegaConf.to_container(config, resolve=True)
    job = TrainingJob(
        dataset=dataset,
        splits=splits,
        template=instantiate(config.template),
        backbone=backbone,
        adapter=instantiate(config.adapter),
        objective=instantiate(config.objective),
        scs=scs,
        batching=Batching(**config.batching),
        optim=Optimisation(**config.optim),
        decoding=instantiate(config.decoding),
        trainer=dict(config.trainer),
        folder=run.path,
        precision=config.precision,
        seed=config.seed,
        logger=config.logger.kind,
        project=config.logger.project,
        name=config.name,
        group=config.group,
        tags=list(config.tags),
        log_adapter=config.logger.log_adapter,
        gradient_checkpointing=config.gradient_checkpointing,
        checkpoint_minutes=config.checkpoint_minutes,
        ckpt_path=resume,
        start=start,
        seconds_before=seconds_before,
        preferences=instantiate(config.preferences),
        evaluate=evaluate,
        config=resolved,  # type: ignore[arg-type]
    )
    if is_first():
        run.write_config(resolved)  # type: ignore[arg-type]
        if not is_trial():
            (run if evaluate else RunFolder(run.path.parent)).point_latest()
    return run_training(job)["val/scs"]
