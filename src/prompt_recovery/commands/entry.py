"""What all commands share: their configuration, and errors of one line."""

import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import prompt_recovery.runs.resolvers  # noqa: F401  (what the configuration asks for)
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.processes import ProcessLostError, is_first
from prompt_recovery.runs.trials import INTERRUPTED
from prompt_recovery.settings.folder import config_folder

_GRACE_S = 10.0


def command(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
    """A subcommand: `task` on the configuration that bears its name, with errors of one line."""
    main = hydra.main(
        version_base="1.3", config_path=str(config_folder()), config_name=task.__name__
    )
    decorated: Callable[[], Any] = main(one_line_errors(task))
    return decorated


def one_line_errors(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Prints what a user can mend as one line, and exits with 1; Ctrl-C exits with 130.

    Of several processes, the first has the first word: when it ends, the others are killed, before
    they would repeat what befell all. `PROMPT_RECOVERY_TRACEBACK=1` shows tracebacks.
    """

    @wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            return task(config)
        except KeyboardInterrupt:
            if is_first():
                alone = task.__name__ == "train" and not in_multirun()
                mend = "go on with ckpt_path=last" if alone else "the same command goes on"
                print(f"interrupted; {mend}", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except (PromptRecoveryError, OmegaConfBaseException, InstantiationException) as raised:
            # Hydra wraps what the constructors of a configuration raise.
            wrapped = isinstance(raised, InstantiationException)
            error = raised.__cause__ if wrapped else raised
            if os.environ.get("PROMPT_RECOVERY_TRACEBACK") or (
                wrapped and not isinstance(error, PromptRecoveryError)
            ):
                raise
            if not is_first() or isinstance(error, ProcessLostError):
                time.sleep(_GRACE_S)
            message = " ".join(str(error).split("\n    full_key:")[0].split())
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(1) from None

    return run


def in_multirun() -> bool:
    """Whether Hydra runs one of several trials in this process."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def option(command: str, group: str, entry: Any) -> DictConfig:
    """One more option of a group, beside the one that a command's configuration has chosen.

    Args:
        command: whose configuration; what the option refers to is taken from it.
        group: the group.
        entry: the option's name, or a name with what to change in it.
    """
    [(name, changes)] = [(entry, {})] if isinstance(entry, str) else entry.items()
    overrides = [*HydraConfig.get().overrides.task, f"+{group}@_chosen={name}"]
    try:
        chosen = hydra.compose(command, overrides)._chosen
    except MissingConfigException as error:
        known = ", ".join(sorted(f.stem for f in (config_folder() / group).glob("*.yaml")))
        raise PromptRecoveryError(f"{group} '{name}' is unknown; known are {known}") from error
    chosen.merge_with(changes)
    return chosen
