"""How commands fail: one line for an error that a user can fix, and an exit code."""

import errno
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.processes import ProcessLostError, is_first
from prompt_recovery.runs.trials import INTERRUPTED
from prompt_recovery.settings.secrets import redacted
from prompt_recovery.settings.words import in_one_line

USERS_ERRORS = (PromptRecoveryError, OmegaConfBaseException, HydraException)
"""The errors that a user can fix."""

_GRACE_S = 10.0
_UNWRITABLE = ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG")  # not on all systems


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
        except USERS_ERRORS as error:
            if not is_first() or isinstance(error, ProcessLostError):
                time.sleep(_GRACE_S)
            raise failure(error) from None

    return run


def _how_to_go_on(name: str) -> str:
    """What a user may do after an interrupt."""
    if name != "train" or in_multirun():
        return "run the same command again to continue"
    run = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    script = Path(sys.argv[0])
    ours = script.suffix != ".py" or script.name == "__main__.py"
    begun = ["prompt-recovery", name] if ours else ["python", sys.argv[0]]
    given = [a for a in sys.argv[1:] if a.partition("=")[0].lstrip("+") != "ckpt_path"]
    return run.how_it_goes_on(begun, given)


def failure(error: Exception) -> BaseException:
    """Prints the error as one line and returns the exit to raise, or the error for a traceback."""
    if os.environ.get("PROMPT_RECOVERY_TRACEBACK"):
        return error
    print(f"error: {printable(in_one_line(error))}", file=sys.stderr)
    return SystemExit(1)


def unwritable(error: OSError) -> Exception:
    """Says in one line that a folder is read-only or a disk is full; raises other errors again."""
    if errno.errorcode.get(error.errno or 0) not in _UNWRITABLE:
        raise error
    return PromptRecoveryError(
        f"cannot read or write {error.filename or 'a file'} ({error.strerror}): free some space, "
        "change its permissions, or choose another folder"
    )


def in_multirun() -> bool:
    """Returns whether Hydra runs one of several trials in this process."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)
