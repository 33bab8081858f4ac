"""`prompt-recovery compare`: compares many runs in one report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.settings import LocalPath
from prompt_recovery.settings.checking import check, make


@dataclass(kw_only=True)
class CompareSettings:
    """The settings of `conf/compare.yaml`.

    Attributes:
        runs: run folders, folders of them, or patterns such as runs/train/*_sft.
        project: of W&B, in place of or beside folders: entity/name.
        output: the folder of report.html, report.md and report.json.
    """

    runs: LocalPath | Sequence[LocalPath] = ()
    project: str | None = None
    output: LocalPath = "runs/compare"


@command
def compare(config: DictConfig) -> None:
    """Compares runs of folders or of a W&B project in one report."""
    given: CompareSettings = make(check(config, CompareSettings), CompareSettings)

    from prompt_recovery.reporting.comparison.compare import compare as compare_runs

    runs = [given.runs] if isinstance(given.runs, str) else list(given.runs)
    compare_runs(runs, given.project, Path(given.output).expanduser())
