"""Entries of lists, such as `baselines` of `evaluate`, that name options of a group."""

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings.checking import checked_value, make
from prompt_recovery.settings.folder import config_folder

Entry = str | Mapping[str, Any]
"""An option's name, such as `mbr`, or a name with changes, such as `{mbr: {samples: 32}}`."""


def option(command: str, group: str, entry: Entry | None) -> Any:
    """Makes the object that an entry names. None gives None.

    Args:
        command: The command whose configuration resolves the option's interpolations.
        group: The group.
        entry: The option.

    Raises:
        PromptRecoveryError: If there is no such option, or its settings are invalid.
    """
    if entry is None:
        return None
    if not isinstance(entry, str) and len(entry) != 1:
        raise PromptRecoveryError(
            f"{group}: {dict(entry)} must be an option's name, or {{name: {{what: to change}}}}"
        )
    [(name, changes)] = [(entry, {})] if isinstance(entry, str) else entry.items()
    overrides = [*HydraConfig.get().overrides.task, f"+{group}@_chosen={name}"]
    try:
        chosen = hydra.compose(command, overrides)._chosen
    except MissingConfigException as error:
        known = ", ".join(sorted(f.stem for f in (config_folder() / group).glob("*.yaml")))
        raise PromptRecoveryError(f"{group} '{name}' is unknown; use one of {known}") from error
    chosen.merge_with(changes)
    return make(checked_value(OmegaConf.to_container(chosen, resolve=True), Any, group))
