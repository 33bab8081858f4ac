"""Which run folder a name means, and which run is the latest."""

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.trials import unfinished


def run_folders(runs: str | Iterable[str]) -> list[Path]:
    """What `run=` means: one run, or a list of them."""
    return [_run_folder(run) for run in ([runs] if isinstance(runs, str) else runs)]


def _run_folder(run: str) -> Path:
    if run != "latest":
        return Path(run).expanduser()
    folder = Path("runs") / "latest"
    if not folder.is_dir():
        raise PromptRecoveryError(
            "run=latest: there is no runs/latest here; give run=<run or adapter folder>, or train "
            "a recoverer first (prompt-recovery train)"
        )
    return folder


def resumed_run(ckpt_path: str | None, folder: Path) -> Path | None:
    """The run that `ckpt_path=last` goes on with: its own, or the newest that left a checkpoint."""
    if ckpt_path != "last":
        return None
    if unfinished(folder):
        return folder
    found = sorted(run for run in folder.parent.glob("*") if unfinished(run))
    if not found:
        raise PromptRecoveryError(
            f"ckpt_path=last: no run in {folder.parent} has left a checkpoint; start without it"
        )
    return found[-1]


def checkpoint(ckpt_path: str | None, run: Path | None) -> str | None:
    """The checkpoint file to resume from."""
    if ckpt_path is None or ckpt_path == "last":
        return None if run is None else str(run / "checkpoints" / "last.ckpt")
    path = Path(ckpt_path).expanduser()
    if not path.is_file():
        raise PromptRecoveryError(f"ckpt_path={ckpt_path}: no such file")
    return str(path)


def point_latest_at(folder: Path) -> None:
    """Makes `runs/latest` a link to a run, where links can be made."""
    runs = next((p for p in folder.parents if p.name == "runs"), None)
    if runs is None:
        return
    link, fresh = runs / "latest", runs / f".latest.{os.getpid()}"
    try:
        fresh.symlink_to(folder.resolve(), target_is_directory=True)
        fresh.replace(link)
    except OSError:
        fresh.unlink(missing_ok=True)
