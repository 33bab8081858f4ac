"""What a user may do with a run that has ended: commands that answer with it and evaluate it."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from prompt_recovery.data import sources
from prompt_recovery.data.splits import SplitSettings
from prompt_recovery.runs.folder import shown_path
from prompt_recovery.settings.arguments import override_value
from prompt_recovery.settings.declared import (
    dataclass_in,
    is_path,
    name_of,
    settings_of,
    target_of,
)
from prompt_recovery.settings.secrets import redacted

_STARTER = name_of(sources.starter)
_OPTIONS = {name_of(source): source.__name__ for source in
            (sources.file, sources.folder, sources.hub)}  # fmt: skip


def answering(run: Path) -> str:
    """Returns the command that answers a pair with a run."""
    return f'prompt-recovery recover {_argument("run", run)} original="…" rewritten="…"'


def evaluating(run: Path, config: Mapping[str, Any]) -> str | None:
    """Returns the command that evaluates a run on the test split of its own data.

    Args:
        run: The folder of the run.
        config: The values of `TrainSettings` that it was trained with.

    Returns:
        The command, or None if the data come from a source that no option names.
    """
    data = config["data"]
    settings = [_argument("recoverers", run)]
    if data["_target_"] != _STARTER:
        if data["_target_"] not in _OPTIONS:
            return None
        settings += [f"data={_OPTIONS[data['_target_']]}", *_changed(data, "data")]
        settings.append("part=test")
    known = {f.name for f in fields(SplitSettings)}
    shares = {name: value for name, value in config["split"].items() if name in known}
    settings += _changed(shares, "split", SplitSettings)
    return " ".join(["prompt-recovery evaluate", *settings])


def _changed(values: Mapping[str, Any], key: str, target: Any = None) -> Iterator[str]:
    """The arguments for the settings that differ from their defaults."""
    for name, setting in settings_of(target or target_of(values["_target_"])).items():
        value, kind = values.get(name, setting.default), dataclass_in(setting.type)
        if isinstance(value, Mapping) and kind is not None:
            yield from _changed(value, f"{key}.{name}", kind)
        elif value != setting.default:
            shown = Path(value) if is_path(setting.type) and value is not None else value
            yield _argument(f"{key}.{name}", shown)


def _argument(key: str, value: Any) -> str:
    # A path is taken as it is.
    said = str(shown_path(value)) if isinstance(value, Path) else override_value(value)
    return shlex.quote(redacted(f"{key}={said}"))
