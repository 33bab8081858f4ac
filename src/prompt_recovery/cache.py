"""Where expensive results are kept between runs, and how files are written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError


def cache_dir(*parts: str) -> Path:
    """A folder under `$PROMPT_RECOVERY_CACHE` (default `~/.cache/prompt_recovery`), made if needed.

    Raises:
        PromptRecoveryError: the folder cannot be made.
    """
    root = os.environ.get("PROMPT_RECOVERY_CACHE") or Path.home() / ".cache" / "prompt_recovery"
    folder = Path(root, *parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot make the cache folder {folder} ({error.strerror}): "
            "set PROMPT_RECOVERY_CACHE to a folder you can write to"
        ) from error
    return folder


def fingerprint(*parts: Any) -> str:
    """Twenty hex digits that change when any of the JSON-serialisable `parts` changes."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed onto `path`.

    A process killed at any moment leaves the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise PromptRecoveryError(
            f"cannot write {path} ({error.strerror}): free some space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
