"""Ablations: how `python train.py -m …` runs each of its trials and summarises them."""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.processes import is_first
from prompt_recovery.runs.tables import show_outcomes
from prompt_recovery.runs.trials import (
    Outcome,
    Trial,
    threads_each,
    trial_id,
)
from prompt_recovery.settings.arguments import quoted
from prompt_recovery.settings.secrets import redacted
from prompt_recovery.tables import counted

log = logging.getLogger(__name__)


def run_trial(config: DictConfig) -> Outcome | float:
    """Runs one trial of a multirun in its own process, or reads its results if it has finished.

    A failure is returned, not raised, so that the other trials go on.

    Returns:
        The outcome for our sweeper. For other sweepers, such as Optuna's, `val/scs` (NaN if the
        trial failed).
    """
    outcome = _run(config)
    if str(HydraConfig.get().sweeper._target_).startswith("hydra_plugins.prompt_recovery"):
        return outcome
    return outcome.metric("val/scs") if outcome.state != "failed" else math.nan


def _run(config: DictConfig) -> Outcome:
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = [o for o in hydra.overrides.task if not o.startswith("group=")]
    label = redacted(" ".join(overrides))
    if not is_first():  # SLURM started several processes for one trial
        return _started(config, label, folder, overrides).wait()
    files = RunFolder(folder)
    with files.held_for_trial():
        metrics = files.metrics()
        if metrics is not None:
            log.info("#%d finished before", hydra.job.num)
            return Outcome(label, folder, "finished", metrics, "finished before")
        verb = "continues" if files.has_checkpoint else "starts"
        log.info("#%d %s; its output: %s", hydra.job.num, verb, files.output)
        outcome = _started(config, label, folder, overrides).wait()
    if outcome.state == "failed":
        log.warning("#%d failed: %s", hydra.job.num, outcome.reason)
    else:
        log.info("#%d finished, val/scs %.4f", hydra.job.num, outcome.metric("val/scs"))
    return outcome


def _started(config: DictConfig, label: str, folder: Path, overrides: Sequence[str]) -> Trial:
    hydra = HydraConfig.get()
    command = [sys.executable, "-m", "prompt_recovery", "train"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    command += ["--config-name", str(hydra.job.config_name), *overrides]
    command += [f"hydra.run.dir={quoted(str(folder))}", f"group={quoted(str(config.group))}"]
    if RunFolder(folder).has_checkpoint and "ckpt_path" not in " ".join(overrides):
        command.append("ckpt_path=last")
    jobs = hydra.launcher.get("n_jobs", 1)  # of joblib
    return Trial(label, folder, command, threads_each(jobs) if jobs > 0 else 1)


def group_of(arguments: Sequence[str], swept: Sequence[str], experiment: str | None) -> str:
    """Returns the name of a multirun, which is used for its folder and its W&B group.

    The name does not depend on the swept values, so that a rerun with the same or more trials
    finds the finished ones.

    Args:
        arguments: The overrides, including sweeps.
        swept: The keys that are swept over.
        experiment: The choice of `+experiment=…`.
    """
    given = [a.partition("=")[2] for a in arguments if a.startswith("group=")]
    if given:
        return given[-1].strip("'\"")
    if experiment is not None:
        return experiment
    return "-".join(key.lstrip("+~").split(".")[-1] for key in swept) or "trials"


def resolved_trial_id(root: Any) -> str:
    """Returns the `trial_id` of a configuration that Hydra composed."""
    config = OmegaConf.masked_copy(root, [k for k in root if k != "hydra"])
    return trial_id(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


def summarise(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Prints the table of a multirun and writes it to `summary.md` in the multirun's folder.

    Raises:
        PromptRecoveryError: If a trial has failed.
    """
    show_outcomes(outcomes, folder, "val/scs", title=counted(len(outcomes), "trial"))
    log.info("to compare them: prompt-recovery compare 'runs=[%s]'", folder)
    failed = [o for o in outcomes if o.state == "failed"]
    if failed:
        raise PromptRecoveryError(
            f"{len(failed)} of {len(outcomes)} trials failed, one with: {failed[0].reason}; "
            "the same command runs only those again"
        )
