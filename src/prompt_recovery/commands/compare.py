"""`prompt-recovery compare`: one report of many runs."""

from pathlib import Path

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command


@command
def compare(config: DictConfig) -> None:
    """Compares runs of folders or of a W&B project in one report."""
    from prompt_recovery.reporting.comparison.compare import compare as compare_runs

    compare_runs(list(config.runs), config.project, Path(config.output))
