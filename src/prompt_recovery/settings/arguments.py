"""Prepares arguments of the command line for Hydra.

Paths, URLs and the texts of `recover` and `detect` are taken verbatim: spaces, commas, brackets,
quotation marks and equals signs are part of them. They are quoted here because Hydra's grammar
would read them as lists, sweeps and so on. Three things keep their meaning in Hydra's grammar: a
list where several paths are allowed (`run=[a,b]`), a value in quotation marks (`data.path="'a
b.csv'"`), and a comma in a multirun, where it separates the values of a sweep (so that a path with
a comma must be quoted).
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings.checking import unknown
from prompt_recovery.settings.declared import (
    dataclass_in,
    is_path,
    settings_of,
    takes_list,
    target_of,
)
from prompt_recovery.settings.filling import OURS, schema_of
from prompt_recovery.settings.folder import config_folder

TEXTS = ("original", "rewritten", "text")
"""Settings of `recover` and `detect` that are always taken verbatim as texts."""

_STAGE = "first_stage"  # has the settings of `train` again
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_NO_OPTION = re.compile(r"\[?[-+\d.,\se]*\d[-+\d.,\se]*\]?|true|false", re.I)
_OPTIONS = (
    "help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "info",
    "shell-completion", "config-path", "config-name", "config-dir", "experimental-rerun",
)  # fmt: skip
_SIMPLE = re.compile(r"[\w./~:@%-]*", re.A)
_URL = re.compile(r"https?://\S*", re.IGNORECASE)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.S)


def prepared(command: str, arguments: list[str]) -> list[str]:
    """Returns the arguments that Hydra should parse.

    Args:
        command: Name of the command.
        arguments: Its arguments as the shell passes them.

    Raises:
        PromptRecoveryError: If a number is given for a group, a setting begins with dashes, a text
            is given to a setting that does not exist, an option is given to a group as if it were
            a setting, or the settings of a multirun are asked for.
    """
    _refuse_dashes(arguments)
    sweeps = "-m" in arguments or "--multirun" in arguments
    if sweeps and any(argument in ("-c", "--cfg") for argument in arguments):
        raise PromptRecoveryError("--cfg shows the settings of one run: give it without -m")
    for argument in arguments:
        _refuse_inner_group(argument)
    return [_without_group(_verbatim(command, argument, sweeps)) for argument in arguments]


def _refuse_inner_group(argument: str) -> None:
    """Refuses `retriever.model=minilm`: options of a group inside another are given with an @."""
    place, equals, option = argument.lstrip("+").partition("=")
    group = place.rpartition(".")[2]
    if (
        equals
        and re.fullmatch(r"[\w.]+\.\w+", place)
        and (config_folder() / group / f"{option}.yaml").is_file()
    ):
        raise PromptRecoveryError(f"{argument}: give {group}@{place}={option}")


def _refuse_dashes(arguments: list[str]) -> None:
    """Refuses `--key value`, which only options of Hydra have."""
    for argument, after in zip(arguments, [*arguments, "-"][1:], strict=True):
        name, equals, value = argument.removeprefix("--").partition("=")
        known = any(option.startswith(name) for option in _OPTIONS)  # which may be shortened
        if argument[:2] != "--" or not re.fullmatch(r"\w[\w.-]*", name) or known:
            continue
        if not equals:
            value = "<value>" if after[:1] == "-" or "=" in after else after
        raise PromptRecoveryError(
            f"{argument}: settings are written without dashes and with an equals sign: give "
            f"{name.replace('-', '_')}={value if value == '<value>' else shlex.quote(value)}"
        )


def _without_group(argument: str) -> str:
    """Replaces `group=null` by `~group`. Hydra does not support the former."""
    name, _, value = argument.partition("=")
    group = config_folder() / name.lstrip("+").split("@")[0]
    if not name.strip("+/.") or not group.is_dir():
        return argument
    if value == "null":
        return f"~{name}"
    if _NO_OPTION.fullmatch(value):  # which Hydra would take for a number, with a traceback
        known = ", ".join(sorted(file.stem for file in group.glob("*.yaml")))
        raise PromptRecoveryError(f"{argument}: there is no such option; use one of {known}")
    return argument


def _verbatim(command: str, argument: str, sweeps: bool) -> str:
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or not re.fullmatch(r"[\w.@/]+", name):
        return argument
    swept = sweeps and "," in value
    as_it_is = _SIMPLE.fullmatch(value) or _QUOTED.fullmatch(value) or swept
    is_url = _URL.fullmatch(value) and "${" not in value and not as_it_is
    if is_url or (command in ("recover", "detect") and name in TEXTS):
        return f"{key}={quoted(value)}"
    if as_it_is:
        return argument
    if name in _FOLDERS:
        return argument if "${" in value else f"{key}={quoted(value)}"
    declared = _declared(command, name.split("."))
    if declared is None and key.isidentifier():
        _require_known(command, key)  # Hydra would rather complain about the characters of a text
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


def override_value(value: Any) -> str:
    """A value in Hydra's grammar, as the value of an override.

    Texts are quoted only where they would be read as something else. Numbers in a text are left
    as they are: a setting that wants a number gets one.
    """
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{override_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(override_value, value))}]"
    text = str(value)
    return text if _SIMPLE.fullmatch(text) and text else quoted(text)


def _require_known(command: str, key: str) -> None:
    text = (config_folder() / f"{command}.yaml").read_text(encoding="utf-8")
    schema = schema_of(text)
    known = set(yaml.safe_load(text)) - {"defaults"}
    known |= set(settings_of(target_of(schema))) if schema else set()
    if key not in known:
        raise unknown(key, sorted(known), "")


def _declared(command: str, path: list[str]) -> Any:
    """Returns the declared type of a command's setting, or None if there is no such setting.

    If the options of a group declare different types, a path takes precedence. What is added to a
    mapping, such as `+rewriter.backend.engine.x`, has no declared type.
    """
    if path[0] == _STAGE and len(path) > 1:
        path = path[1:]
    text = (config_folder() / f"{command}.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    schema = schema_of(text)
    found = [_inside(config, target_of(schema), path)] if schema else []
    found += _in_groups(_groups(config["defaults"]), path)
    types = [declared for declared in found if declared is not None]
    return next(filter(is_path, types), types[0] if types else None)


def _in_groups(groups: list[tuple[str, str]], path: list[str]) -> list[Any]:
    """Returns the types of a setting in all options of groups, and in the groups they choose."""
    found = []
    for package, group in groups:
        parts = package.split(".")
        rest = path[len(parts) :]
        if path[: len(parts)] != parts or not rest:
            continue
        for node in _options(group):
            found.append(_inside(node, None, rest))
            defaults = [e for e in node.get("defaults", []) if isinstance(e, dict)]
            inner = [(p, g[1:] if g[0] == "/" else f"{group}/{g}") for p, g in _groups(defaults)]
            found += _in_groups([(p.lstrip("/"), g) for p, g in inner], rest)
    return found


def _inside(node: Any, declared: Any, path: list[str]) -> Any:
    """Returns the type of a setting in a YAML node. Its `_target_` precedes the declared type."""
    name = node.get("_target_") if isinstance(node, dict) else None
    target = target_of(name) if name and name.startswith(OURS) else dataclass_in(declared)
    setting = settings_of(target).get(path[0]) if target is not None else None
    if setting is None or len(path) == 1:
        return setting and setting.type
    return _inside(node.get(path[0]) if isinstance(node, dict) else None, setting.type, path[1:])


def _groups(defaults: list[Any]) -> list[tuple[str, str]]:
    """Returns (package, group) for each entry of a defaults list that chooses an option."""
    chosen = [next(iter(e)) for e in defaults if isinstance(e, dict)]
    pairs = [(key.partition("@")[2] or key, key.partition("@")[0]) for key in chosen]
    return [(package, group) for package, group in pairs if not group.startswith("override")]


def _options(group: str) -> list[dict[str, Any]]:
    """Returns the YAML files of a group's options."""
    files = sorted((config_folder() / group).glob("*.yaml"))
    return [yaml.safe_load(f.read_text(encoding="utf-8")) or {} for f in files]
