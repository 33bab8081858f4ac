"""What `prompt-recovery <command> --help` shows.

A command says in its `Help` what it does, with examples, and which settings matter most. Their
defaults and descriptions are read from the declarations, and the groups from `conf/`.
"""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from prompt_recovery.settings.declared import (
    REQUIRED,
    dataclass_in,
    members,
    settings_of,
    target_of,
)
from prompt_recovery.settings.described import description
from prompt_recovery.settings.filling import load_filled, schema_of
from prompt_recovery.settings.folder import config_folder

_WIDTH = 96
_COLUMN = 30


@dataclass(frozen=True)
class Help:
    """What a command says about itself.

    Attributes:
        title: What the command is for, in a few words.
        about: What it does, in two or three sentences.
        examples: What an example does, and its command lines, of which `prompt-recovery <command>`
            may be left out.
        settings: The settings that are changed most often, as on the command line. A setting of a
            group is that of the group's default option, or of an option that is named before a
            colon: `data=file:data.path`.
        notes: Further lines that are shown as they are, such as values that need an explanation.
        read_on: Pages of the documentation.
    """

    title: str
    about: str
    examples: Sequence[tuple[str, Sequence[str]]]
    settings: Sequence[str]
    read_on: Sequence[str]
    notes: str = ""


def help_text(command: str, given: Help) -> str:
    """Returns the help of a command."""
    script = f"prompt-recovery {command}"
    parts = [f"{script}: {given.title}", _filled(given.about)]
    for told, lines in given.examples:
        shown = "\n".join(f"  {line}" for line in command_lines(command, lines))
        parts.append(f"{_filled(told)}\n{shown}")
    if given.notes:
        parts.append(textwrap.dedent(given.notes).strip("\n"))
    parts.append(_table("Settings that are often changed (key=value)", _settings(command, given)))
    groups = list(_groups(command))
    if groups:
        parts.append(_table("Groups (group=option; the first option is the default)", groups))
    pages = "\n".join(f"  {page}" for page in given.read_on)
    parts.append(
        f"{script} --cfg job prints all settings, including those that you give.\nRead on:\n{pages}"
    )
    return "\n\n".join(parts) + "\n"


def command_lines(command: str, lines: Iterable[str]) -> list[str]:
    """Returns the whole command lines of an example."""
    whole = (
        line if line.startswith("prompt-recovery ") else f"prompt-recovery {command} {line}"
        for line in lines
    )
    return [line.rstrip() for line in whole]


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [title]
    for name, told in rows:
        paragraphs = filter(None, told.split("\n"))
        wrapped = "\n".join(_filled(paragraph, " " * _COLUMN) for paragraph in paragraphs)
        head = f"  {name}"
        if wrapped and len(head) < _COLUMN - 1:
            lines.append(head.ljust(_COLUMN) + wrapped[_COLUMN:])
        else:
            lines += [head, wrapped] if wrapped else [head]
    return "\n".join(lines)


def _settings(command: str, given: Help) -> Iterable[tuple[str, str]]:
    file = config_folder() / f"{command}.yaml"
    root = target_of(str(schema_of(file.read_text(encoding="utf-8"))))
    defaults = _defaults(command)
    target: Any
    for named in given.settings:
        chosen, _, key = named.rpartition(":")
        group, _, option = chosen.partition("=")
        path = key.split(".")
        option = option or str(defaults.get(path[0]) or "")
        if len(path) > 1 and path[0] in defaults:
            node = load_filled(config_folder() / (group or path[0]) / f"{option}.yaml")
            target = target_of(OmegaConf.to_container(node)["_target_"])  # type: ignore[call-overload,index]
            path = path[1:]
        else:
            node, target = load_filled(file), root
        yield _setting(key, node, target, path)


def _setting(key: str, node: Any, target: Any, path: Sequence[str]) -> tuple[str, str]:
    for name in path[:-1]:
        target = dataclass_in(settings_of(target)[name].type)
    value: Any = OmegaConf.to_container(node, resolve=False)
    for name in path:
        value = value.get(name)
    declared = settings_of(target)[path[-1]]
    required = declared.default is REQUIRED and value in (None, "???")
    shown = "<value>" if required else _shown(value if value is not None else declared.default)
    return f"{key}={shown}", description(target, path[-1])


def _shown(value: Any) -> str:
    """A default as on the command line; what it is made of is in angle brackets."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    text = re.sub(r"\$\{hydra:runtime\.choices\.(\w+)\}", r"<\1>", str(value))
    text = re.sub(r"\$\{if_\w+:(.*)\}", lambda found: _usually(found[1]), text)
    return re.sub(r"\$\{(\w+)\}", r"<\1>", text)


_LISTED_FOR = re.compile(r"^# listed for: (.*)$", re.MULTILINE)


def _is_listed(option: Path, place: str) -> bool:
    """Whether the help of a command lists an option of a group.

    A comment in its file may say for which commands it is meant, as in `# listed for: train, app`.
    For a group that a command has twice, `generate@candidates.template` stands for the second one.
    """
    found = _LISTED_FOR.search(option.read_text(encoding="utf-8"))
    return found is None or place in found[1].split(", ")


def _usually(values: str) -> str:
    """The second of two values, as in `${if_started:3e-4,1.5e-3}`, which is the usual one."""
    depth = 0
    for place, character in enumerate(values):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            return values[place + 1 :]
    return values


def _defaults(command: str) -> dict[str, Any]:
    """The default option of each group of a command, such as `data` or `data@training`."""
    text = (config_folder() / f"{command}.yaml").read_text(encoding="utf-8")
    chosen = [e for e in yaml.safe_load(text)["defaults"] if isinstance(e, dict)]
    pairs = [next(iter(entry.items())) for entry in chosen]
    return {key: option for key, option in pairs if not key.startswith("override ")}


def _groups(command: str) -> Iterable[tuple[str, str]]:
    text = (config_folder() / f"{command}.yaml").read_text(encoding="utf-8")
    root = target_of(str(schema_of(text)))
    for key, default in _defaults(command).items():
        group, _, package = key.partition("@")
        files = (config_folder() / group).glob("*.yaml")
        place = f"{command}@{package}" if package else command
        names = sorted(file.stem for file in files if _is_listed(file, place))
        target, path = root, (package or group).split(".")
        for name in path[:-1]:
            target = dataclass_in(settings_of(target)[name].type)
        first = "null" if default is None else str(default)
        may_be_null = type(None) in members(settings_of(target)[path[-1]].type)
        options = [first, *names, *(["null"] if may_be_null else [])]
        yield key, f"{', '.join(dict.fromkeys(options))}\n{description(target, path[-1])}"
