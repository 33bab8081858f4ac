"""Files that installed packages hold in parts: found, joined in order and verified."""

import hashlib
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.processes import is_first
from prompt_recovery.settings.extras import reinstalling
from prompt_recovery.storage import unwritable
from prompt_recovery.terminal import progress_bar

_BLOCK = 1 << 22  # bytes that are copied at a time
_MARGIN = 1 << 28  # bytes that are left free on the disk


def find_parts(packages: str, count: int, size: int | None, install: str) -> tuple[Path, ...]:
    """The parts of a file, in order. Nothing is imported and nothing is read.

    Args:
        packages: The name of the packages, in which `{part}` stands for the number 1 … count. Each
            holds one file whose name ends in `.bin`.
        count: The number of packages.
        size: The size of the whole file in bytes; None is unknown.
        install: The command that installs the packages, for error messages.

    Raises:
        PromptRecoveryError: If a package is missing, or the parts have another size together.
    """
    names = [packages.replace("{part}", str(part)) for part in range(1, count + 1)]
    found = {name: _file_in(name) for name in names}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        raise PromptRecoveryError(
            f"{len(missing)} of the {count} packages that hold the weights are not installed or "
            f"incomplete (first {missing[0]}): {install}"
        )
    parts = tuple(file for file in found.values() if file is not None)
    held = sum(part.stat().st_size for part in parts)
    if size is not None and held != size:
        raise PromptRecoveryError(
            f"the {count} packages {packages} hold {held:,} bytes instead of {size:,}, so one of "
            f"them is damaged or of another version: {reinstalling(install)}"
        )
    return parts


def _file_in(package: str) -> Path | None:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    files = sorted(Path(next(iter(spec.submodule_search_locations))).rglob("*.bin"))
    return files[0] if len(files) == 1 else None


def join(parts: tuple[Path, ...], target: Path, sha256: str, advice: str) -> None:
    """Writes the parts one after another to a file, which appears only if its digest is right.

    A process that is killed leaves `.<name>.partial` beside it, which the next one overwrites. The
    caller keeps other processes away meanwhile.

    Args:
        parts: The parts, in order.
        target: The file.
        sha256: The SHA-256 digest of the whole file, in hexadecimal.
        advice: What to do if it is wrong, for the error message.

    Raises:
        PromptRecoveryError: If the digest is wrong, or the file cannot be written.
    """
    from rich.console import Console

    total = sum(part.stat().st_size for part in parts)
    require_space(target.parent, total)
    partial = target.with_name(f".{target.name}.partial")
    digest = hashlib.sha256()
    console = Console(stderr=True)
    hidden = not (is_first() and console.is_terminal)
    try:
        with (
            progress_bar(console=console, disable=hidden) as progress,
            partial.open("wb") as whole,
        ):
            task = progress.add_task(f"joining {len(parts)} parts", total=total)
            for part in parts:
                with part.open("rb") as file:
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        whole.write(block)
                        progress.advance(task, len(block))
            whole.flush()
            os.fsync(whole.fileno())
        if digest.hexdigest() != sha256:
            raise PromptRecoveryError(
                f"the parts {parts[0].name} … {parts[-1].name} do not give the file with SHA-256 "
                f"{sha256[:12]}…, so one of them is damaged: {advice}"
            )
        partial.replace(target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        partial.unlink(missing_ok=True)


def require_space(folder: Path, size: int) -> None:
    """Raises a `PromptRecoveryError` if a folder's disk does not have this number of free bytes."""
    free = shutil.disk_usage(folder).free
    if free < size + _MARGIN:
        raise PromptRecoveryError(
            f"{folder} has {free / 1e9:.1f} GB free and needs {(size + _MARGIN) / 1e9:.1f} GB: "
            "free some space, or set PROMPT_RECOVERY_CACHE to another folder"
        )
