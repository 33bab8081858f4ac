"""Files that grow by a line when something is finished, so that a kill loses nothing finished."""

import json
import os
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError


def append(path: Path, value: Any) -> None:
    """Adds a value that JSON can hold as a line of its own; it is on the disk on return.

    Raises:
        PromptRecoveryError: it cannot be written; what was there is kept.
    """
    line = json.dumps(value).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file)
            except OSError:
                file.truncate(end)  # half a line would spoil the next one
                raise
    except OSError as error:
        raise _mend(path, error) from error


def whole(path: Path) -> list[Any]:
    """The values that were added, in order; empty where there is no file.

    What a kill left of a last line is cut off, and so is all from the first damaged line on. Only
    one process may do this at a time, and none may add to the file meanwhile.

    Raises:
        PromptRecoveryError: the file cannot be read or cut.
    """
    values: list[Any] = []
    end = 0
    try:
        if not path.exists():
            return []
        with path.open("rb+") as file:
            for line in file:
                try:
                    value = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                values.append(value)
                end += len(line)
            file.truncate(end)
    except OSError as error:
        raise _mend(path, error) from error
    return values


def _mend(path: Path, error: OSError) -> PromptRecoveryError:
    return PromptRecoveryError(
        f"cannot write {path} ({error.strerror}): free some space or make the folder writable, "
        "and run again; what is finished is kept"
    )
