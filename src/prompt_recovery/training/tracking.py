"""Loggers of training metrics. No failure of a logger ends a run."""

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.terminal import announced

log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
_INIT_TIMEOUT_S = 30
_MODES = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""The modes of W&B, some of which have older names."""
_RUN = re.compile(r"(?:offline-)?run-(?P<time>\d{8}_\d{6})-(?P<id>.+)")  # a folder of W&B
ROUND = "round"
"""The axis of the W&B run of rounds."""


def wandb_mode() -> str:
    """Returns the mode of W&B: online, offline or disabled.

    `WANDB_MODE` and `WANDB_DISABLED` mean what they mean to W&B. Without them, runs are offline
    unless `WANDB_API_KEY` is set.

    Raises:
        PromptRecoveryError: If W&B has no such mode.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    given = os.environ.get("WANDB_MODE")
    if not given:
        return "online" if os.environ.get("WANDB_API_KEY") else "offline"
    if given.lower() not in _MODES:
        raise PromptRecoveryError(f"WANDB_MODE={given}: must be one of {', '.join(_MODES)}")
    return _MODES[given.lower()]


def require_loggable(kind: str, project: str, tags: list[str]) -> None:
    """Checks settings that W&B would refuse only after the model was loaded.

    Raises:
        PromptRecoveryError: If W&B has no such mode, project or tag.
    """
    if kind != "wandb":
        return
    wandb_mode()
    if not 1 <= len(project) <= 128 or set(project) & set("/\\#?%:"):
        raise PromptRecoveryError(
            f"logger.project={project}: W&B allows 1 to 128 characters and none of / \\ # ? % : "
            "(an entity is given with WANDB_ENTITY)"
        )
    for tag in tags:
        if not 1 <= len(tag) <= 64:
            raise PromptRecoveryError(
                f"tags: {tag[:40]!r} has {len(tag)} characters, and W&B allows 1 to 64"
            )


def make_logger(
    kind: str,
    folder: Path,
    project: str,
    name: str,
    group: str | None,
    config: dict[str, Any],
    tags: list[str],
    run_id: str | None = None,
) -> Any:
    """Returns the Lightning logger for `logger=wandb|csv|none`, or False if nothing is logged.

    W&B runs are offline unless `WANDB_API_KEY` is set or `WANDB_MODE` says otherwise. An offline
    run makes no network calls. If W&B cannot be reached, a warning says so and the run is offline.

    Args:
        kind: wandb, csv or none.
        folder: The folder that the logger writes into.
        project: The W&B project.
        name: The name of the W&B run.
        group: The name of a group of W&B runs.
        config: The configuration that the W&B run shows.
        tags: The tags of the W&B run.
        run_id: The id of the W&B run that goes on; see `recorded_run`. None begins a new one.

    Raises:
        PromptRecoveryError: If the kind or the mode is unknown.
    """
    if kind == "none":
        return False
    if kind == "csv":
        from lightning.pytorch.loggers import CSVLogger

        return _forgiving(CSVLogger(folder, name="", version=RunFolder(folder).csv.name))
    if kind != "wandb":
        raise PromptRecoveryError(f"logger.kind={kind}: must be wandb, csv or none")
    mode = wandb_mode()
    if mode == "disabled":
        return False
    options = {"name": name, "save_dir": folder, "project": project, "group": group, "tags": tags}
    return _wandb({**options, "id": run_id}, config, mode == "online")


def _wandb(options: dict[str, Any], config: dict[str, Any], online: bool) -> Any:
    """Returns the logger of a W&B run that begins or goes on; False if there can be none."""
    if _goes_on(options["id"]):
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        return _forgiving(WandbLogger(**options, experiment=wandb.run))
    if online:
        problem = _unreachable()
        if problem is None:
            try:
                return _begun(options, config, offline=False)
            except Exception as error:  # W&B raises many types, some of them undocumented
                problem = first_line(error)
                _forget_run()
        log.warning(
            "W&B cannot be used (%s): the run is logged offline; send it later with "
            "`wandb sync %s`",
            problem,
            options["save_dir"] / "wandb" / "offline-run-*",
        )
    try:
        return _begun(options, config, offline=True)
    except Exception as error:
        log.warning(
            "W&B cannot be used (%s): metrics are in the run folder only", first_line(error)
        )
        return False


def recorded_run(*folders: Path | None) -> str | None:
    """Returns the id of the last W&B run in the first of these folders that has one."""
    for folder in folders:
        names = [] if folder is None else [f.name for f in (folder / "wandb").glob("*run-*")]
        found = [m for m in map(_RUN.fullmatch, names) if m is not None]
        if found:
            return max(found, key=lambda m: m["time"])["id"]
    return None


def _goes_on(run_id: str | None) -> bool:
    """Whether this process has begun this W&B run and has not finished it."""
    wandb = sys.modules.get("wandb")
    return wandb is not None and wandb.run is not None and bool(wandb.run.id == run_id)


def in_round(logger: Any, number: int, steps_before: int) -> Any:
    """Makes a W&B logger log the number of a round with all metrics, and count steps over rounds.

    Args:
        logger: The logger of the whole run.
        number: The number of the round.
        steps_before: The number of steps in earlier rounds.
    """
    log_metrics = logger.log_metrics

    def log(metrics: Mapping[str, Any], step: int | None = None) -> None:
        log_metrics({**metrics, ROUND: number}, None if step is None else steps_before + step)

    logger.log_metrics = log
    return logger


def _begun(options: dict[str, Any], config: dict[str, Any], offline: bool) -> Any:
    if offline:
        os.environ["WANDB_MODE"] = "offline"
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    else:
        os.environ.setdefault("WANDB_MODE", "online")
    os.environ.setdefault("WANDB_INIT_TIMEOUT", str(_INIT_TIMEOUT_S))
    os.environ.setdefault("WANDB_SILENT", "true")
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(**options, offline=offline)
    logger._wandb_init.pop("anonymous", None)  # Lightning always sets it, and W&B warns about it
    with announced("starting the run of W&B"):
        logger.experiment.config.update(config, allow_val_change=True)
    return _forgiving(logger)


def _forget_run() -> None:
    """Ends the run that W&B has begun, so that one can begin offline."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def _unreachable() -> str | None:
    """Returns the reason why W&B's server cannot be reached within seconds, or None if it can."""
    url = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    problem = [f"{url} does not answer"]

    def ask() -> None:
        import requests

        try:
            requests.head(url, timeout=_PATIENCE_S)
        except Exception as error:
            problem[0] = f"{url}: {type(error).__name__}"
        else:
            problem.clear()

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name has no timeout
    asking.start()
    asking.join(_PATIENCE_S + 1)
    return problem[0] if problem else None


@contextmanager
def forgiven(what: str) -> Iterator[None]:
    """Turns an exception of a logger into a warning."""
    try:
        yield
    except Exception as error:
        log.warning("%s: the logger fails (%s); the run continues", what, first_line(error))


def _forgiving(logger: Any) -> Any:
    """Makes failures of the logger warnings, because its metrics are in the run folder, too."""
    failed: list[str] = []

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            try:
                return method(*args, **options)
            except Exception as error:
                said = first_line(error)
                if said not in failed:
                    failed.append(said)
                    log.warning("the logger fails (%s); the run continues", said)
                return None

        return call

    for name in ("log_metrics", "log_hyperparams", "log_table", "save", "finalize"):
        if hasattr(logger, name):
            setattr(logger, name, guarded(getattr(logger, name)))
    return logger
