"""Shared entry point of all commands, which prints errors as one line."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import hydra
import hydra.core.utils
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import prompt_recovery.runs.resolvers  # noqa: F401  (what the configuration asks for)
from prompt_recovery.commands.composing import adapt_hydra
from prompt_recovery.commands.failures import USERS_ERRORS, failure, one_line_errors, unwritable
from prompt_recovery.commands.home import provide_home
from prompt_recovery.settings.arguments import prepared
from prompt_recovery.settings.folder import config_folder
from prompt_recovery.settings.help import Help, help_text
from prompt_recovery.terminal import forgive_characters, has_started

adapt_hydra()


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
                has_started()
                print(help_text(task.__name__, shown), end="")
                return None
            os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of exiting
            try:
                provide_home()
                sys.argv[1:] = prepared(task.__name__, sys.argv[1:])
                return decorated()
            except USERS_ERRORS as error:
                raise failure(error) from None
            except OSError as error:
                raise failure(unwritable(error)) from None

        return run

    return decorate


def _where_it_was_given(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Runs a task in the folder where its command was given, which relative paths refer to, also
    with `hydra.job.chdir=true`."""

    @wraps(task)
    def run(config: DictConfig) -> Any:
        has_started()
        os.chdir(HydraConfig.get().runtime.cwd)
        return task(config)

    return run
