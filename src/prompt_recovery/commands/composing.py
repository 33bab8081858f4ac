"""What commands change about how Hydra composes and writes configurations."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra.core.utils
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import OmegaConf

from prompt_recovery.settings.folder import config_folder
from prompt_recovery.settings.secrets import redacted

_USUAL = {"hydra", "main", "schema"}  # the providers of configurations of every command
# Of Hydra's own settings, only these change its mode: not, for example, the folder of a trial.
_MAY_SET_MODE = re.compile(r"[+~]*hydra(?!\.)|[+~]*hydra\.(mode|searchpath)\b")
_OF_MODES = re.compile(r"^\s*(?:hydra\.)?mode\s*:|searchpath", re.MULTILINE)


def adapt_hydra() -> None:
    """Makes Hydra write its files without secrets, and compose each command once."""
    hydra.core.utils._save_config = _write_redacted
    Hydra.get_mode = _mode  # type: ignore[method-assign]


def _write_redacted(cfg: Any, filename: str, output_dir: Path) -> None:
    """Writes a file of `.hydra/`, as Hydra does, but without secrets that URLs hold."""
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / filename).write_text(redacted(OmegaConf.to_yaml(cfg)), encoding="utf-8")


_composed_mode = Hydra.get_mode


def _mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Returns `hydra.mode`, for which Hydra would compose the whole configuration once more."""
    may_be_set = _may_set_mode(self.config_loader.get_search_path(), overrides, config_folder())
    return _composed_mode(self, config_name, overrides) if may_be_set else None


def _may_set_mode(search: ConfigSearchPath, overrides: Sequence[str], ours: Path) -> bool:
    """Returns whether an override or a file may set `hydra.mode`, which no command's file does."""
    if any(map(_MAY_SET_MODE.match, overrides)):
        return True
    if {element.provider for element in search.get_path()} - _USUAL:
        return True
    files = ours.rglob("*.yaml")
    return any(_OF_MODES.search(file.read_text(encoding="utf-8")) for file in files)
