"""What an offline W&B run holds, read from its file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _HEADER, _FILE_HEADER = 32768, 7, 7


@dataclass
class OfflineRun:
    id: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def offline_run(path: Path) -> OfflineRun:
    run = OfflineRun()
    for record in records(path):
        match record.WhichOneof("record_type"):
            case "run":
                run.id, run.group = record.run.run_id, record.run.run_group
                run.tags = list(record.run.tags)
                update(run.config, record.run.config.update)
            case "config":
                update(run.config, record.config.update)
            case "summary":
                update(run.summary, record.summary.update)
            case "history":
                row: dict[str, Any] = {}
                update(row, record.history.item)
                run.history.append(row)
                run.summary |= row
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def update(values, items):
    for item in items:
        keys = list(item.nested_key) or [item.key]
        place = values
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = json.loads(item.value_json)


def records(path):
    """Of a log in LevelDB's format: blocks of 32 KiB; records whole, or in several parts."""
    data = path.read_bytes()
    place, parts = _FILE_HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind = data[place + 6]
        parts += data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""
