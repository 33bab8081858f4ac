"""`prompt-recovery compare`: compares many runs in one report."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.settings import LocalPath
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.help import Help
from prompt_recovery.terminal import importing


@dataclass(kw_only=True)
class CompareSettings:
    """The settings of `conf/compare.yaml`.

    Attributes:
        runs: Run folders, folders that contain runs, or patterns such as runs/train/*_sft.
        project: A W&B project, entity/name, whose runs are compared instead of those in folders, or
            together with them.
        output: Folder of report.html, report.md and report.json.
    """

    runs: LocalPath | Sequence[LocalPath] = ()
    project: str | None = None
    output: LocalPath = "runs/compare"


_HELP = Help(
    title="one report of many runs",
    about="""Groups runs by the settings in which they differ, averages over seeds, and reports
        which settings are better by more than chance (report.html, report.md, report.json).""",
    examples=[
        ("All runs of a multirun, or of several folders and patterns:",
         ["'runs=[runs/multirun/model-objective-seed]'",
          "'runs=[runs/train/*_sft,runs/train/*_dpo]'"]),
        ("The runs of a W&B project:", ["project=entity/prompt-recovery"]),
    ],
    settings=["runs", "project", "output"],
    read_on=["docs/howto/compare.md"],
)  # fmt: skip


@command(_HELP)
def compare(config: DictConfig) -> None:
    """Compares runs of folders or of a W&B project in one report."""
    given: CompareSettings = make(check(config, CompareSettings), CompareSettings)

    with importing():
        from prompt_recovery.reporting.comparison.compare import compare as compare_runs

    runs = [given.runs] if isinstance(given.runs, str) else list(given.runs)
    line = shlex.join(["prompt-recovery", "compare", *sys.argv[1:]])
    compare_runs(runs, given.project, Path(given.output).expanduser(), line)
