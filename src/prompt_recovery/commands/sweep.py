"""`prompt-recovery sweep`: run a W&B sweep file."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.runs.sweep import sweep as run_sweep
from prompt_recovery.settings import AtLeastOne, Count, LocalPath
from prompt_recovery.settings.checking import check, make


@dataclass(kw_only=True)
class SweepSettings:
    """The settings of `conf/sweep.yaml`.

    Attributes:
        file: a W&B sweep file; paths in it are relative to this folder.
        count: trials in all; None: until a grid is exhausted.
        parallel: trials at one time.
        folder: None is runs/sweep/<name of the file>; given again, the sweep goes on there.
        seed: of the engine's choices.
    """

    file: LocalPath
    count: AtLeastOne | None = None
    parallel: AtLeastOne = 1
    folder: LocalPath | None = None
    seed: Count = 0


@command
def sweep(config: DictConfig) -> None:
    """Runs a W&B sweep file without an account, or goes on with it."""
    given: SweepSettings = make(check(config, SweepSettings), SweepSettings)
    file = Path(given.file)
    folder = Path(given.folder or f"runs/sweep/{file.stem}")
    run_sweep(file, given.count, given.parallel, folder, given.seed)
