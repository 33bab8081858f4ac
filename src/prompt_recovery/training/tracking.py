"""Loggers, and what a run records about where it ran."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from prompt_recovery.errors import PromptRecoveryError

_PACKAGES = ("torch", "lightning", "transformers", "peft", "sentence-transformers", "wandb")


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


def environment() -> dict[str, Any]:
    """Git commit, package versions and hardware."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return result.stdout.strip() if result.returncode == 0 else ""

    return {
        "git": {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))},
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "hardware": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def peak_memory_bytes() -> int:
    """The most memory this process ever held: GPU memory where there is a GPU, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
