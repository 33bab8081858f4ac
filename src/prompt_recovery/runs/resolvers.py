"""Resolvers for `${…:}` in the configuration, registered in every process that reads it."""

import os
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from prompt_recovery.runs.folder import RunFolder, shown_path
from prompt_recovery.runs.multirun import resolved_trial_id
from prompt_recovery.runs.processes import agreed, is_first
from prompt_recovery.storage import fingerprint

_LONGEST_NAME = 100  # characters of a folder that is named after a file


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


def _evaluated(config: Any) -> str:
    """Returns a name of the dataset in a configuration, for the folder of its evaluation.

    A file is named by its path from here, so that no two share a folder. An evaluation of few of
    its rows has a folder of its own, too.
    """
    rows = OmegaConf.select(config, "rows")
    return _data_name(config) + ("" if rows is None else f"_{rows}_rows")


def _data_name(config: Any) -> str:
    path, repo, part = (OmegaConf.select(config, f"data.{k}") for k in ("path", "repo", "split"))
    if path is not None:
        shown = shown_path(Path(os.path.normpath(Path(path).expanduser().absolute())))
        named = shown.parts[1:] if shown.is_absolute() else shown.parts
    else:
        named = () if repo is None else (*str(repo).split("/"), str(part))
    name = re.sub(r"[^\w.-]+", "_", "_".join(named)).strip("_.")
    if len(name) > _LONGEST_NAME:
        name = f"{fingerprint(name)[:8]}_{name[-_LONGEST_NAME + 9 :]}"
    return name or str(HydraConfig.get().runtime.choices["data"])


OmegaConf.register_new_resolver("run_folder", _new_run_folder, replace=True)
OmegaConf.register_new_resolver("start_time", _start_time, replace=True)
OmegaConf.register_new_resolver(
    "first_process", lambda value: value if is_first() else None, replace=True
)
OmegaConf.register_new_resolver("trial", lambda *, _root_: resolved_trial_id(_root_), replace=True)
OmegaConf.register_new_resolver(
    "if_started",
    lambda started, new, *, _root_: new if OmegaConf.select(_root_, "start") is None else started,
    replace=True,
)
OmegaConf.register_new_resolver(
    "if_quick",
    lambda quick, full, *, _root_: quick if OmegaConf.select(_root_, "quick") else full,
    replace=True,
)
OmegaConf.register_new_resolver(
    "experiment", lambda: HydraConfig.get().runtime.choices.get("experiment"), replace=True
)
OmegaConf.register_new_resolver(
    "evaluated", lambda *, _root_: _evaluated(_root_), replace=True, use_cache=False
)
