"""Messages for errors of Hydra and OmegaConf, in one line each."""

import difflib
import re
import textwrap
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from prompt_recovery.settings.checking import unknown


def in_one_line(error: Exception) -> str:
    """Describes an error in one line: the setting, what is wrong, and what is allowed."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_option(error)
    if isinstance(error, OverrideParseException):
        why = _first_line(str(error.message).partition("\nSee https://")[0])
        shown = textwrap.shorten(str(error.override), 80, placeholder=" …")
        return (
            f"{shown}: cannot be read as a setting ({textwrap.shorten(why, 160, placeholder=' …')})"
            "; write key=value, and texts with special characters as key=\"'a text'\""
        )
    if isinstance(error, InterpolationToMissingValueError):
        missing = str(error).split("Missing mandatory value: ")[-1].split()[0]
        return f"{missing} is missing: give {missing}=<value>"
    for cause in (error, error.__cause__):
        key = getattr(cause, "key", None)
        parent = getattr(cause, "parent_node", None)
        if key is not None and isinstance(parent, DictConfig) and "not in struct" in str(cause):
            known = [str(k) for k in parent if k != "hydra"]
            prefix = _prefix(parent)
            return str(unknown(f"{prefix}{key}", known, prefix, _elsewhere(error, key, parent)))
    return _first_line(str(error))


def _elsewhere(error: Exception, key: Any, parent: DictConfig) -> list[str]:
    """Other places of a setting: inside a known one, or without the first part of its name."""
    inside = sorted(
        f"{name!s}.{key}"
        for name, node in OmegaConf.to_container(parent, resolve=False).items()  # type: ignore[union-attr]
        if name != "hydra" and isinstance(node, dict) and key in node
    )
    given = re.search(r"Could not override '([^']+)'", str(error))
    first, _, rest = (given[1] if given else "").partition(".")
    if first == key and rest.partition(".")[0] in parent:
        inside.append(rest)
    return inside


def _no_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    known = sorted(error.options or [])
    if not known:
        return f"{error.missing_cfg_file}: there is no such configuration"
    near = difflib.get_close_matches(option, known, 1, 0.6)
    meant = f"did you mean {group}={near[0]}? " if near else ""
    return f"{group}={option}: there is no such option; {meant}use one of {', '.join(known)}"


def _prefix(node: Any) -> str:
    full = node._get_full_key("")
    return f"{full}." if full else ""


def _first_line(text: str) -> str:
    return " ".join(text.split("\n    full_key:", maxsplit=1)[0].split())
