"""`prompt-recovery sweep`: run a W&B sweep file."""

from pathlib import Path

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command


@command
def sweep(config: DictConfig) -> None:
    """Runs a W&B sweep file without an account, or goes on with it."""
    from prompt_recovery.runs.sweep import sweep as run_sweep

    file = Path(config.file)
    folder = Path(config.folder or f"runs/sweep/{file.stem}")
    run_sweep(file, config.count, config.parallel, folder, config.seed)
