"""Checks a composed configuration against the declarations, and makes objects from it."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings.declared import (
    REQUIRED,
    accepts,
    allowed,
    bare,
    dataclass_in,
    is_plain,
    members,
    refusal,
    settings_of,
    target_of,
)
from prompt_recovery.settings.extras import require_extra
from prompt_recovery.settings.filling import OURS

_HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
_MISSING = "???"


def check(config: Any, target: Any) -> dict[str, Any]:
    """Checks a configuration against the class that declares its settings.

    Numbers are converted to texts if texts are wanted (`name=2024`). Nothing else is converted. A
    target with `**others` names these in a function `other_settings`, as `trainer_options` does.

    Args:
        config: A configuration of Hydra, or plain values.
        target: The class or function that declares its settings.

    Returns:
        The configuration as plain values.

    Raises:
        PromptRecoveryError: If a setting is unknown, missing, of a wrong type or out of range. The
            message names the first such setting.
    """
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    return _settings(config, target, "")


def _settings(given: Mapping[str, Any], target: Any, prefix: str) -> dict[str, Any]:
    declared = settings_of(target)
    other = getattr(target, "other_settings", None)
    values: dict[str, Any] = {}
    for name, value in given.items():
        key = f"{prefix}{name}"
        if name in _HYDRAS:
            values[name] = value
        elif name in declared:
            values[name] = checked_value(value, declared[name].type, key)
        elif other is not None and name in other():
            values[name] = value
        else:
            raise unknown(key, dict.fromkeys([*declared, *(other() if other else ())]), prefix)
    if not given.get("_partial_"):
        for setting in declared.values():
            if setting.default is REQUIRED and setting.name not in given:
                raise _missing(f"{prefix}{setting.name}")
    return values


def checked_value(value: Any, declared: Any, key: str) -> Any:
    """Does the same as `check` for a single value of a declared type."""
    if value == _MISSING:
        raise _missing(key)
    if isinstance(value, dict) and "_target_" in value:
        name = value["_target_"]
        return _settings(value, target_of(name), f"{key}.") if str(name).startswith(OURS) else value
    kind = dataclass_in(declared)
    if kind is not None and isinstance(value, dict):
        return _settings(value, kind, f"{key}.")
    if isinstance(value, list):
        for member in map(bare, members(declared)):
            if get_origin(member) in (list, Sequence) and dataclass_in(get_args(member)[0]):
                inner = get_args(member)[0]
                return [checked_value(v, inner, f"{key}[{i}]") for i, v in enumerate(value)]
    if not is_plain(declared):
        plain = [m for m in members(declared) if is_plain(m)]
        if any(accepts(m, value) for m in plain) or isinstance(value, dict):
            return value
        raise PromptRecoveryError(f"{key}={value}: must be {_wanted(declared, plain, key)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise refusal(key, declared, value)
    if accepts(declared, value):
        return value
    texts = _as_texts(value)
    if accepts(declared, texts):
        return texts
    raise refusal(key, declared, value)


def _wanted(declared: Any, plain: Sequence[Any], key: str) -> str:
    kind = dataclass_in(declared)
    if kind is not None and not plain:
        return f"settings, such as {key}.{next(iter(settings_of(kind)))}=<value>"
    return allowed(declared) if plain else "an option of its group"


def _as_texts(value: Any) -> Any:
    """Converts numbers to the texts that a user may have meant: `name=2024`, `tags=[2024]`."""
    if isinstance(value, list):
        return [_as_texts(v) for v in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number else value


def _missing(key: str) -> PromptRecoveryError:
    return PromptRecoveryError(f"{key} is missing: give {key}=<value>")


def unknown(
    key: str, known: Iterable[str], prefix: str, elsewhere: Sequence[str] = ()
) -> PromptRecoveryError:
    """Returns the error for a setting that does not exist, with the most similar known one.

    Args:
        key: The setting.
        known: The settings that there are in its place.
        prefix: What comes before their names.
        elsewhere: Settings of this name in other places, which are more likely meant.
    """
    known = [k for k in known if k not in _HYDRAS]
    near = difflib.get_close_matches(key.removeprefix(prefix), known, 1, 0.6)
    near = list(elsewhere) or [f"{prefix}{name}" for name in near]
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    names = ", ".join(known) or "no settings"
    return PromptRecoveryError(
        f"{key}: there is no such setting{meant} "
        f"({'known here' if not prefix else prefix.rstrip('.') + ' has'}: {names})"
    )


def make(value: Any, declared: Any = None, late: Sequence[str] = ()) -> Any:
    """Makes objects from checked settings: calls each `_target_` and constructs dataclasses.

    Calling a target may read files: those of `conf/data` and `conf/originals` return the data. A
    class that needs an extra names it, and what a user calls the class, in `EXTRA`; without the
    extra, it is refused here, before work begins.

    Args:
        value: Plain values, as `check` returns them.
        declared: The type to make, such as a command's settings class.
        late: Names of settings that are made later: each becomes a function that makes the object
            when it is called, possibly in another process.
    """
    if isinstance(value, list):
        inner = [a for m in map(bare, members(declared)) if get_origin(m) in (list, Sequence)
                 for a in get_args(m)]  # fmt: skip
        return [make(v, inner[0] if inner else None) for v in value]
    if not isinstance(value, dict):
        return value
    kind = target_of(value["_target_"]) if "_target_" in value else dataclass_in(declared)
    if kind is None:
        return {key: make(v) for key, v in value.items()}
    if hasattr(kind, "EXTRA"):
        require_extra(*kind.EXTRA)
    types = {s.name: s.type for s in settings_of(kind).values()}
    arguments = {
        k: partial(make, v, types.get(k)) if k in late else make(v, types.get(k))
        for k, v in value.items()
        if k not in _HYDRAS
    }
    return partial(kind, **arguments) if value.get("_partial_") else kind(**arguments)
