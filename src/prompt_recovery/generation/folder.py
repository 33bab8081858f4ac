"""The output folder of a dataset: its lock, its record, and how its files are replaced."""

import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import locked, read_json, write_json

log = logging.getLogger(__name__)
_RECORD = "generation.json"
_WORK = ".work"
_SHOWN = 4  # number of differences listed in a message


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """Locks a dataset's folder, waiting while another process works on it.

    Yields:
        A folder inside it for files that are only needed while the dataset is made.

    Raises:
        PromptRecoveryError: If the folder cannot be created or written, or contains files that do
            not belong to a dataset.
    """
    if folder.is_dir():
        known = (folder / _RECORD).is_file()
        # A temporary file of the record belongs to us, too: another process is writing it or was
        # killed while it did.
        others = [
            p.name
            for p in folder.iterdir()
            if p.name != _WORK and not p.name.startswith(f".{_RECORD}.")
        ]
        if others and not known:
            raise PromptRecoveryError(
                f"output={folder}: holds files that `generate` has not made (such as "
                f"{sorted(others)[0]}): choose a new folder"
            )
    work = folder / _WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PromptRecoveryError(
            f"output={folder}: cannot be made ({error.strerror}); choose a folder you can write to"
        ) from error
    waiting = threading.Timer(
        1.0, log.warning, ("another process works on %s: waiting for it", folder)
    )
    waiting.daemon = True
    waiting.start()
    try:
        with locked(work / "folder"):
            waiting.cancel()
            for left_over in folder.glob(f".{_RECORD}.*"):
                left_over.unlink()
            yield work
    finally:
        waiting.cancel()


def read_generation_record(folder: Path) -> dict[str, Any]:
    """Reads `generation.json`. Returns an empty record if there is no such file.

    Raises:
        PromptRecoveryError: If `generate` did not write the file.
    """
    path = folder / _RECORD
    if not path.is_file():
        return {}
    record = read_json(path)
    if isinstance(record, dict) and isinstance(record.get("settings"), dict):
        return record
    raise PromptRecoveryError(f"{path}: is not what `generate` writes; choose another output=…")


def write_generation_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes `generation.json`."""
    write_json(folder / _RECORD, record)


def refuse_other_settings(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Ensures that work on a folder is resumed with the settings that it was started with.

    Raises:
        PromptRecoveryError: If the settings differ. The message lists the differences.
    """
    before, now = _flat(old), _flat(new)
    differing = [
        f"{name}: {_short(before.get(name))} → {_short(now.get(name))}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if differing:
        more = len(differing) - _SHOWN
        shown = "; ".join(differing[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise PromptRecoveryError(
            f"output={folder}: was made with other settings ({shown}): choose another output=…, or "
            "set overwrite=true (requests that are finished are kept and not asked again)"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    text = " ".join(json.dumps(value, ensure_ascii=False).split())
    return text if len(text) <= 60 else text[:57] + "…"


def move_into(new: Path, folder: Path) -> None:
    """Syncs everything in `new` and moves it into `folder`, replacing what has the same names.

    A process that is killed meanwhile leaves a mixture of old and new files, each of them
    complete.

    Raises:
        PromptRecoveryError: If the files cannot be moved, for instance because the disk is full.
    """
    try:
        for path in new.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        for path in sorted(new.iterdir()):
            target = folder / path.name
            if target.is_dir():
                old = new.with_name("old")
                shutil.rmtree(old, ignore_errors=True)
                target.rename(old)
                path.rename(target)
                shutil.rmtree(old)
            else:
                path.replace(target)
        new.rmdir()
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot write {folder} ({error.strerror}): free some space and run again"
        ) from error
