"""The environment that a run records: code, packages and hardware."""

import importlib.metadata
import os
import platform
import subprocess
from typing import Any

import torch

_PACKAGES = ("torch", "lightning", "transformers", "peft", "sentence-transformers", "wandb")


def environment() -> dict[str, Any]:
    """Returns the Git commit, package versions and hardware."""

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
    """Returns the peak memory of this process: of the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
