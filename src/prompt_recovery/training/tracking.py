"""Loggers, and what a run records about where it ran."""

import os
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError


def make_logger(
    kind: str,
    folder: Path,
    project: str,
    name: str,
    group: str | None,
    config: dict[str, Any],
    tags: list[str],
) -> Any:
    """The Lightning logger for `logger=wandb|csv|none`.

    W&B runs are offline unless `WANDB_API_KEY` is set or `WANDB_MODE` says otherwise; an offline
    run makes no network call.

    Raises:
        PromptRecoveryError: another kind.
    """
    if kind == "none":
        return False
    if kind == "csv":
        from lightning.pytorch.loggers import CSVLogger

        return CSVLogger(folder, name="", version="csv")
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
    logger._wandb_init.pop("anonymous", None)  # Lightning always gives it, and W&B warns of it
    logger.experiment.config.update(config, allow_val_change=True)
    return logger
