"""`prompt-recovery sweep`: run a W&B sweep file."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.runs.sweep import sweep as run_sweep
from prompt_recovery.settings import AtLeastOne, Count, LocalPath
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.help import Help


@dataclass(kw_only=True)
class SweepSettings:
    """The settings of `conf/sweep.yaml`.

    Attributes:
        file: A W&B sweep file. Paths in it are relative to the current folder.
        count: Total number of trials. None runs a grid until it is exhausted.
        parallel: Number of trials to run at a time.
        folder: Folder of the sweep, which is resumed if it exists. None is
            `runs/sweep/<name of the file>`.
        seed: Seed of the engine's choices.
    """

    file: LocalPath
    count: AtLeastOne | None = None
    parallel: AtLeastOne = 1
    folder: LocalPath | None = None
    seed: Count = 0


_HELP = Help(
    title="run the trials of a W&B sweep file without an account",
    about="""Reads the same file as `wandb sweep` and runs its trials on this machine, with the
        engine that W&B's server uses: grid, random or Bayesian search, with early termination.
        If the command is killed or interrupted, run it again, and it continues. It needs the extra
        [sweeps].""",
    examples=[
        ("Twenty trials, each chosen on the basis of the earlier results:",
         ["file=sweeps/bayes.yaml count=20"]),
        ("A grid until it is exhausted, two trials at a time:",
         ["file=sweeps/grid.yaml parallel=2"]),
    ],
    settings=["file", "count", "parallel", "folder", "seed"],
    read_on=["docs/howto/sweeps.md"],
)  # fmt: skip


@command(_HELP)
def sweep(config: DictConfig) -> None:
    """Runs or resumes a W&B sweep without an account."""
    given: SweepSettings = make(check(config, SweepSettings), SweepSettings)
    file = Path(given.file).expanduser()
    folder = Path(given.folder or f"runs/sweep/{file.stem}").expanduser()
    run_sweep(file, given.count, given.parallel, folder, given.seed)
