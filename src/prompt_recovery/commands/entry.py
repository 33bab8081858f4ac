"""Shared entry point of all commands, which prints errors as one line."""

import errno
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
import hydra.core.utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import prompt_recovery.runs.resolvers  # noqa: F401  (what the configuration asks for)
from prompt_recovery.commands.help import Help, help_text
from prompt_recovery.commands.home import provide_home
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.processes import ProcessLostError, is_first
from prompt_recovery.runs.trials import INTERRUPTED
from prompt_recovery.settings.arguments import prepared
from prompt_recovery.settings.folder import config_folder
from prompt_recovery.settings.secrets import redacted
from prompt_recovery.settings.words import in_one_line
from prompt_recovery.terminal import forgive_characters

_GRACE_S = 10.0
_UNWRITABLE = ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG")  # not on all systems
_USERS = (PromptRecoveryError, OmegaConfBaseException, HydraException)


def _write_redacted(cfg: Any, filename: str, output_dir: Path) -> None:
    """Writes a file of `.hydra/`, as Hydra does, but without secrets that URLs hold."""
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / filename).write_text(redacted(OmegaConf.to_yaml(cfg)), encoding="utf-8")


hydra.core.utils._save_config = _write_redacted


def command(shown: Help) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Makes a subcommand of a function, which is called with the configuration of its name.

    `--help` prints `shown`, without composing a configuration.

    Errors that a user can fix are printed as one line, including those of Hydra (an unknown option,
    a setting that does not exist, an invalid override). `PROMPT_RECOVERY_TRACEBACK=1` shows
    tracebacks.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        main = hydra.main(
            version_base="1.3", config_path=str(config_folder()), config_name=task.__name__
        )
        decorated: Callable[[], Any] = main(one_line_errors(_where_it_was_given(task)))

        @wraps(task)
        def run() -> Any:
            forgive_characters()
            if {"--help", "-h"} & set(sys.argv[1:]):
                print(help_text(task.__name__, shown), end="")
                return None
            os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of exiting
            try:
                provide_home()
                sys.argv[1:] = prepared(task.__name__, sys.argv[1:])
                return decorated()
            except _USERS as error:
                raise _exit(error) from None
            except OSError as error:
                raise _exit(_unwritable(error)) from None

        return run

    return decorate


def _unwritable(error: OSError) -> Exception:
    """Says in one line that a folder is read-only or a disk is full; other errors stay."""
    if errno.errorcode.get(error.errno or 0) not in _UNWRITABLE:
        raise error
    return PromptRecoveryError(
        f"cannot read or write {error.filename or 'a file'} ({error.strerror}): free some space, "
        "change its permissions, or choose another folder"
    )


def _where_it_was_given(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Runs a task in the folder where its command was given, which relative paths refer to, also
    with `hydra.job.chdir=true`."""

    @wraps(task)
    def run(config: DictConfig) -> Any:
        os.chdir(HydraConfig.get().runtime.cwd)
        return task(config)

    return run


def one_line_errors(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Prints an error that a user can fix as one line and exits with 1; Ctrl-C exits with 130.

    If there are several processes, the others wait before they print an error. When the first one
    ends, they are killed, so that an error of all processes is printed only once.
    """

    @wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            sys.argv[1:] = map(redacted, sys.argv[1:])  # W&B writes them into its files
            return task(config)
        except KeyboardInterrupt:
            if is_first():
                print(f"interrupted; {_how_to_go_on(task.__name__)}", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except _USERS as error:
            if not is_first() or isinstance(error, ProcessLostError):
                time.sleep(_GRACE_S)
            raise _exit(error) from None

    return run


def _how_to_go_on(name: str) -> str:
    """What a user may do after an interrupt."""
    if name != "train" or in_multirun():
        return "the same command goes on"
    if RunFolder(Path(HydraConfig.get().runtime.output_dir)).has_checkpoint:
        return "go on with ckpt_path=last"
    return "no checkpoint was written yet: give the same command again"


def _exit(error: Exception) -> BaseException:
    """Prints the error as one line and returns the exit to raise, or the error for a traceback."""
    if os.environ.get("PROMPT_RECOVERY_TRACEBACK"):
        return error
    print(f"error: {printable(in_one_line(error))}", file=sys.stderr)
    return SystemExit(1)


def in_multirun() -> bool:
    """Returns whether Hydra runs one of several trials in this process."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)
