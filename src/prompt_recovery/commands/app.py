"""`prompt-recovery app`: a web page to try a recoverer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.commands.recover import AnswererSettings
from prompt_recovery.settings.checking import check, make


@dataclass(kw_only=True, frozen=True)
class AppSettings(AnswererSettings):
    """The settings of `conf/app.yaml`.

    Attributes:
        host: Address to listen on. 0.0.0.0 also accepts other machines.
        port: Port of the page.
        names: Host names under which the page may be opened, such as that of a reverse proxy. Its
            address and this machine's own names always work.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(1), Le(65535)] = 7860
    names: Sequence[str] = ()


@command
def app(config: DictConfig) -> None:
    """Serves a web page until Ctrl-C."""
    given: AppSettings = make(check(config, AppSettings), AppSettings)
    recipe = given.recipe()

    from prompt_recovery.app import serve

    serve(recipe, given.host, given.port, given.names)
