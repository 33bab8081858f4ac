"""`prompt-recovery recover`: find the prompts of pairs of texts."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.runs.folder import run_folders

_TEXTS: dict[str, str] = {}


@command
def recover(config: DictConfig) -> None:
    """Recovers the prompts of a file of pairs, or of one pair."""
    recipe = recipe_of(config)
    from prompt_recovery.recovery.job import RecoveryJob
    from prompt_recovery.recovery.job import recover as recover_prompts
    from prompt_recovery.recovery.pairs import PairColumns

    job = RecoveryJob(
        recipe=recipe,
        input=None if config.input is None else Path(config.input),
        output=Path(config.output),
        columns=PairColumns(**config.columns),
        original=_TEXTS.get("original", config.original),
        rewritten=_TEXTS.get("rewritten", config.rewritten),
        threshold=config.threshold,
    )
    recover_prompts(job)


def recipe_of(config: DictConfig) -> Any:
    """What answers, for `recover` and `app`."""
    from hydra.utils import instantiate

    folders = run_folders(config.run)

    from prompt_recovery.recovery.recipe import Recipe

    return Recipe(
        runs=folders,
        decoding=instantiate(config.decoding),
        weights=list(config.weights or []),
        channel=instantiate(config.channel) if "channel" in config else None,
        retrieval=instantiate(config.retrieval) if "retrieval" in config else None,
        **{name: config[name] for name in
           ("confidence", "precision", "backbone_path", "trust_remote_code")},
    )  # fmt: skip


def take_texts(arguments: list[str]) -> list[str]:
    """Takes the texts of one pair out of the arguments: Hydra would read them as its grammar."""
    left = []
    for argument in arguments:
        name, _, text = argument.partition("=")
        if name in ("original", "rewritten"):
            _TEXTS[name] = text
        else:
            left.append(argument)
    return left
