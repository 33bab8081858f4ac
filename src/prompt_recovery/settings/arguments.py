"""Prepares arguments of the command line for Hydra.

Paths and the two texts of `recover` are taken verbatim: spaces, commas, brackets, quotation marks
and equals signs are part of them. They are quoted here because Hydra's grammar would read them as
lists, sweeps and so on. Three things keep their meaning in Hydra's grammar: a list where several
paths are allowed (`run=[a,b]`), a value in quotation marks (`data.path="'a b.csv'"`), and a comma
in a multirun, where it separates the values of a sweep (so that a path with a comma must be
quoted).
"""

import re
from typing import Any

import yaml

from prompt_recovery.settings.declared import (
    dataclass_in,
    is_path,
    settings_of,
    takes_list,
    target_of,
)
from prompt_recovery.settings.filling import OURS, schema_of
from prompt_recovery.settings.folder import config_folder

TEXTS = ("original", "rewritten")
"""Settings of `recover` that are always taken verbatim as texts."""

_SIMPLE = re.compile(r"[\w./~:@%-]*", re.A)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.S)


def prepared(command: str, arguments: list[str]) -> list[str]:
    """Returns the arguments that Hydra should parse.

    Args:
        command: Name of the command.
        arguments: Its arguments as the shell passes them.
    """
    sweeps = "-m" in arguments or "--multirun" in arguments
    return [_without_group(_verbatim(command, argument, sweeps)) for argument in arguments]


def _without_group(argument: str) -> str:
    """Replaces `group=null` by `~group`. Hydra does not support the former."""
    name, _, value = argument.partition("=")
    if value == "null" and name and (config_folder() / name.split("@")[0]).is_dir():
        return f"~{name}"
    return argument


def _verbatim(command: str, argument: str, sweeps: bool) -> str:
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or not re.fullmatch(r"[\w.@/]+", name):
        return argument
    if command == "recover" and name in TEXTS:
        return f"{key}={quoted(value)}"
    if _SIMPLE.fullmatch(value) or _QUOTED.fullmatch(value) or (sweeps and "," in value):
        return argument
    declared = _declared(command, name.split("."))
    if declared is None or not is_path(declared):
        return argument
    several = value.startswith("[") and value.endswith("]") and takes_list(declared)
    return argument if several else f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """Quotes a text for Hydra's grammar, escaping quotation marks and interpolations."""
    text = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", text)
    text = re.sub(r"(\\*)'", lambda m: m[1] * 2 + "\\'", text)
    text = re.sub(r"(\\+)$", lambda m: m[1] * 2, text)
    return f"'{text}'"


def _declared(command: str, path: list[str]) -> Any:
    """Returns the declared type of a command's setting, or None if there is no such setting.

    If the options of a group declare different types, a path takes precedence.
    """
    text = (config_folder() / f"{command}.yaml").read_text(encoding="utf-8")
    schema = schema_of(text)
    found = [_inside(target_of(schema), path)] if schema else []
    for package, group in _groups(yaml.safe_load(text)["defaults"]):
        parts = package.split(".")
        if path[: len(parts)] == parts and len(path) > len(parts):
            found += [_inside(t, path[len(parts) :]) for t in _targets(group)]
    types = [declared for declared in found if declared is not None]
    return next(filter(is_path, types), types[0] if types else None)


def _inside(target: Any, path: list[str]) -> Any:
    setting = settings_of(target).get(path[0])
    if setting is None or len(path) == 1:
        return setting and setting.type
    kind = dataclass_in(setting.type)
    return None if kind is None else _inside(kind, path[1:])


def _groups(defaults: list[Any]) -> list[tuple[str, str]]:
    """Returns (package, group) for each entry of a defaults list that chooses an option."""
    chosen = [next(iter(e)) for e in defaults if isinstance(e, dict)]
    pairs = [(key.partition("@")[2] or key, key.partition("@")[0]) for key in chosen]
    return [(package, group) for package, group in pairs if not group.startswith("override")]


def _targets(group: str) -> list[Any]:
    """Returns the targets of a group's options that belong to this package."""
    files = sorted((config_folder() / group).glob("*.yaml"))
    names = {yaml.safe_load(f.read_text(encoding="utf-8")).get("_target_") for f in files}
    return [target_of(n) for n in sorted(filter(None, names)) if n.startswith(OURS)]
