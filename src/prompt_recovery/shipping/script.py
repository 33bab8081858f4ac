"""Runs a function of this package with settings from the command line."""

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.settings.checking import check, make

S = TypeVar("S")


def run_script(declared: type[S], do: Callable[[S], object]) -> None:
    """Reads `key=value` settings from the command line, and prints errors as one line.

    Args:
        declared: The dataclass that declares the settings.
        do: The function that gets them.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prompt_recovery").setLevel(logging.INFO)
    try:
        do(make(check(OmegaConf.from_cli(sys.argv[1:]), declared), declared))
    except (PromptRecoveryError, OmegaConfBaseException) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
