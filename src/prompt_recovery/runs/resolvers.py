"""Resolvers for `${…:}` in the configuration, registered in every process that reads it."""

import time
from functools import cache
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.multirun import resolved_trial_id
from prompt_recovery.runs.processes import agreed, is_first


@cache
def _start_time() -> str:
    """Returns the start time, the same in every process, so that they all use one folder."""
    return agreed("START", lambda: time.strftime("%Y-%m-%d_%H-%M-%S"))


@cache
def _new_run_folder(parent: str, name: str) -> str:
    """Creates a new run folder, the same in every process of the run."""

    def create() -> str:
        return str(RunFolder.create(Path(parent), f"{_start_time()}_{name}").path)

    return agreed("RUN_FOLDER", create)


OmegaConf.register_new_resolver("run_folder", _new_run_folder, replace=True)
OmegaConf.register_new_resolver("start_time", _start_time, replace=True)
OmegaConf.register_new_resolver(
    "first_process", lambda value: value if is_first() else None, replace=True
)
OmegaConf.register_new_resolver("trial", lambda *, _root_: resolved_trial_id(_root_), replace=True)
OmegaConf.register_new_resolver(
    "experiment", lambda: HydraConfig.get().runtime.choices.get("experiment"), replace=True
)
