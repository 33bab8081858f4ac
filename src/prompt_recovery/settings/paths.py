"""Makes the paths in settings independent of the folder in which a command was given."""

import os
from pathlib import Path
from typing import Any

from prompt_recovery.settings.declared import (
    bare,
    dataclass_in,
    is_path,
    is_word,
    members,
    settings_of,
    target_of,
)
from prompt_recovery.settings.filling import OURS


def with_absolute_paths(values: dict[str, Any], target: Any = None) -> dict[str, Any]:
    """Returns settings in which each relative path is absolute, so that a record of them still
    means the same in another folder.

    Args:
        values: Settings as plain values.
        target: The class or function that declares them. By default it is the `_target_` of the
            settings, if that is one of this package.
    """
    if str(values.get("_target_", "")).startswith(OURS):
        target = target_of(values["_target_"])
    declared = settings_of(target) if target is not None else {}
    return {
        name: _absolute(value, declared[name].type if name in declared else Any)
        for name, value in values.items()
    }


def _absolute(value: Any, declared: Any) -> Any:
    if isinstance(value, dict):
        return with_absolute_paths(value, dataclass_in(declared))
    if isinstance(value, list):
        [inner, *_] = [*_inner(declared), Any]
        return [_absolute(v, inner) for v in value]
    if isinstance(value, str) and is_path(declared) and not is_word(declared, value):
        return str(without_detours(Path(value).expanduser().absolute()))
    return value


def without_detours(path: Path) -> Path:
    """Returns a path without the `folder/..` in it, unless it would then lead elsewhere, as it may
    where the folder is a link."""
    short = Path(os.path.normpath(path))
    return short if short.resolve() == path.resolve() else path


def _inner(declared: Any) -> list[Any]:
    """Returns the types of the members of a list."""
    return [a for m in map(bare, members(declared)) for a in getattr(m, "__args__", ())]
