"""Finds the stopped run that a new run continues, and the checkpoint to continue from."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder, recorded_config
from prompt_recovery.runs.trials import COSMETIC, uses_preferences
from prompt_recovery.storage import MALFORMED

_LAST = "last"
# Settings that may differ when a run goes on: where it is computed, and what is shown and logged.
_MAY_DIFFER = (
    *COSMETIC,
    "batching.workers",
    "gradient_checkpointing",
    "keep_hidden_states",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.strategy",
)
_NAMED = 3  # runs, and settings of each, that an error message names


def resumed_run(
    ckpt_path: str | None, run: RunFolder, settings: Mapping[str, Any]
) -> RunFolder | None:
    """Returns the run that `ckpt_path=last` resumes, or None for any other `ckpt_path`.

    That is the run itself if its folder has a checkpoint, because `hydra.run.dir` names the folder
    of a run that was stopped. Otherwise it is the unfinished run with the same settings beside it
    that has the newest checkpoint: training goes on in the new folder, and the old one stays as it
    is.

    Args:
        ckpt_path: The setting as it was given.
        run: The run that begins.
        settings: Its settings, with absolute paths.

    Raises:
        PromptRecoveryError: If there is no such run. The message names the unfinished runs that
            have other settings.
    """
    if ckpt_path != _LAST:
        return None
    if run.has_checkpoint:
        _require_same(run, settings)
        return run
    parent = run.path.parent
    beside = [other for other in map(RunFolder, sorted(parent.glob("*"))) if not other.is_finished]
    times = {other: t for other in beside if (t := other.checkpoint_time) is not None}
    newest = sorted(times, key=lambda other: (times[other], other.path), reverse=True)
    differing = {}
    for other in newest:
        found = _differences(other, settings)
        if not found:
            return other
        differing[other.path.name] = found
    if not differing:
        raise PromptRecoveryError(
            f"ckpt_path=last: no run in {parent} has left a checkpoint, finished runs apart; start "
            "without it, or give ckpt_path=<file>"
        )
    named = _listed([f"{name} ({_listed(found)})" for name, found in differing.items()], "; ")
    raise PromptRecoveryError(
        f"ckpt_path=last: no unfinished run in {parent} has these settings: {named}; give the "
        "settings of one of them, or ckpt_path=<its checkpoints/last.ckpt>"
    )


def _require_same(run: RunFolder, settings: Mapping[str, Any]) -> None:
    found = _differences(run, settings)
    if found and run.has_config:
        raise PromptRecoveryError(
            f"ckpt_path=last: the run in {run.path} has other settings ({_listed(found)}); give "
            f"those, or ckpt_path={run.checkpoint}"
        )


def _differences(run: RunFolder, settings: Mapping[str, Any]) -> list[str]:
    """Returns how the recorded settings of a run differ from those given, one text a setting."""
    try:
        theirs = dict(_flat(recorded_config(run.config())))
    except (OSError, *MALFORMED):
        return ["its config.yaml cannot be read"]
    ours = dict(_flat(recorded_config(settings)))  # without passwords
    ignored = _MAY_DIFFER if uses_preferences(settings) else (*_MAY_DIFFER, "preferences")
    ignored_below = tuple(f"{name}." for name in ignored)
    keys = [k for k in {**ours, **theirs} if k not in ignored and not k.startswith(ignored_below)]
    none = object()
    return [
        f"{key}={_said(theirs, key)} and not {_said(ours, key)}"
        for key in keys
        if theirs.get(key, none) != ours.get(key, none)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _said(values: Mapping[str, Any], key: str) -> str:
    return "null" if values.get(key) is None else " ".join(str(values[key]).split())


def _listed(texts: list[str], between: str = ", ") -> str:
    more = len(texts) - _NAMED
    return between.join([*texts[:_NAMED], *([f"{more} more"] if more > 0 else [])])


def checkpoint_file(ckpt_path: str | None, run: RunFolder | None) -> str | None:
    """Returns the checkpoint file to resume from, or None.

    Args:
        ckpt_path: The setting as it was given.
        run: The run found by `resumed_run`, or the stage of it that is to be resumed, which may
            not have a checkpoint yet.

    Raises:
        PromptRecoveryError: If the file does not exist.
    """
    if ckpt_path is None or ckpt_path == _LAST:
        found = None if run is None else run.last_checkpoint
        return None if found is None else str(found)
    path = Path(ckpt_path).expanduser()
    if not path.is_file():
        raise PromptRecoveryError(f"ckpt_path={ckpt_path}: no such file")
    return str(path)
