"""Fills a loaded YAML file with the defaults that its target declares."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from prompt_recovery.settings.declared import (
    REQUIRED,
    Setting,
    dataclass_in,
    is_plain,
    name_of,
    settings_of,
    target_of,
)

OURS = "prompt_recovery."
_SCHEMA = re.compile(r"^# settings: (\S+)$", re.M)


def schema_of(text: str) -> str | None:
    """Returns the class in the line `# settings: <class>` of a command's YAML file, if any."""
    found = _SCHEMA.search(text)
    return found[1] if found else None


def fill(config: Any, text: str = "") -> None:
    """Adds missing settings in place, in the order of the declaration.

    They get their defaults. Required settings get `???`, which means missing in Hydra, so that they
    can be given without a plus; those that are objects are left to the defaults list.

    Args:
        config: A YAML file as loaded by OmegaConf.
        text: Content of the file. A command's file names its settings class.
    """
    if not isinstance(config, DictConfig):
        return
    schema = schema_of(text)
    with open_dict(config):
        if schema is not None:
            _fill(config, settings_of(target_of(schema)), targets=False)
        else:
            _fill_targets(config)


def _fill_targets(config: DictConfig) -> None:
    target = config._get_node("_target_")
    name = target._value() if target is not None else None
    if isinstance(name, str) and name.startswith(OURS):
        _fill(config, settings_of(target_of(name)), targets=True)
        return
    for key in config:
        value = config._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            _fill_targets(value)


def _fill(config: DictConfig, declared: dict[str, Setting], targets: bool) -> None:
    partial = bool(config.get("_partial_"))  # code gives the rest
    for setting in declared.values():
        node: Any = config._get_node(setting.name)
        if node is None:  # `in` would also be false for a mandatory `???`
            if setting.fillable:
                config[setting.name] = _without_targets(setting.default, targets)
            elif setting.default is REQUIRED and is_plain(setting.type) and not partial:
                config[setting.name] = "???"
            continue
        if not isinstance(node, DictConfig) or node._is_none() or node._is_interpolation():
            continue
        kind = dataclass_in(setting.type)
        if "_target_" in node:
            _fill_targets(node)
        elif kind is not None:
            if targets:
                node["_target_"] = name_of(kind)
            _fill(node, settings_of(kind), targets)


def _without_targets(value: Any, targets: bool) -> Any:
    if targets or not isinstance(value, dict):
        return value
    return {k: _without_targets(v, targets) for k, v in value.items() if k != "_target_"}


def load_filled(path: Path) -> DictConfig:
    """Loads a YAML file of `conf/` with its defaults, as a command would see it.

    Interpolations and the file's defaults list are left as they are.
    """
    text = path.read_text(encoding="utf-8")
    config = OmegaConf.create(text)
    fill(config, text)
    assert isinstance(config, DictConfig)
    return config
