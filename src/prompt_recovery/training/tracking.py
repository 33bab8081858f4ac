"""Loggers of training metrics."""

import os
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder


def make_logger(
    kind: str,
    folder: Path,
    project: str,
    name: str,
    group: str | None,
    config: dict[str, Any],
    tags: list[str],
) -> Any:
    """Returns the Lightning logger for `logger=wandb|csv|none`.

    W&B runs are offline unless `WANDB_API_KEY` is set or `WANDB_MODE` says otherwise. An offline
    run makes no network calls.

    Raises:
        PromptRecoveryError: If the kind is unknown.
    """
    if kind == "none":
        return False
    if kind == "csv":
        from lightning.pytorch.loggers import CSVLogger

        return CSVLogger(folder, name="", version=RunFolder(folder).csv.name)
    if kind != "wandb":
        raise PromptRecoveryError(f"logger.kind={kind}: must be wandb, csv or none")
    online = bool(os.environ.get("WANDB_API_KEY"))
    mode = os.environ.setdefault("WANDB_MODE", "online" if online else "offline")
    if mode != "online":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(
        name=name,
        save_dir=folder,
        project=project,
        offline=mode != "online",
        group=group,
        tags=tags,
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning always sets it, and W&B warns about it
    logger.experiment.config.update(config, allow_val_change=True)
    return logger
