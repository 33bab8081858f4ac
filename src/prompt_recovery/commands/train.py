"""`prompt-recovery train`, which `train.py` also runs."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from prompt_recovery.commands.entry import command, in_multirun
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.multirun import run_trial
from prompt_recovery.runs.processes import is_first
from prompt_recovery.runs.trials import end_with_parent, is_trial
from prompt_recovery.settings.checking import check
from prompt_recovery.training.job import TrainSettings
from prompt_recovery.training.stages import train_stages


@command
def train(config: DictConfig) -> Any:
    """Trains a recoverer and returns `val/scs`, which sweepers maximise."""
    if in_multirun():
        return run_trial(config)
    end_with_parent()
    if not is_first():
        logging.getLogger("prompt_recovery").setLevel(logging.ERROR)
    given = check(config, TrainSettings)
    run = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    # If a multirun was killed, its trial may still hold the lock, but is about to end: wait for it.
    with run.held(wait=is_trial()) if is_first() else nullcontext():
        return train_stages(given, run)
