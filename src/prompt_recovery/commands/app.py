"""`prompt-recovery app`: a web page to try a recoverer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.commands.recover import AnswererSettings
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.extras import require_extra
from prompt_recovery.settings.help import Help
from prompt_recovery.terminal import importing


@dataclass(kw_only=True, frozen=True)
class AppSettings(AnswererSettings):
    """The settings of `conf/app.yaml`.

    Attributes:
        host: Address to listen on. 0.0.0.0 also accepts other machines.
        port: Port of the page.
        names: Host names under which the page may be opened, such as that of a reverse proxy. The
            address of this machine and its own names always work.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(1), Le(65535)] = 7860
    names: Sequence[str] = ()


_HELP = Help(
    title="a web page to try a recoverer",
    about="""Loads a trained run and serves a page on this machine. Paste two texts to see the
        prompt behind them, the alternatives, and what changed, word by word. It needs the extra
        [app].""",
    examples=[
        ("With the run that was started last, or with the recoverer that comes with the package, "
         "on http://127.0.0.1:7860:", ["run=latest", "run=shipped"]),
        ("Several runs that choose together, on another port:",
         ["run=[runs/train/a,runs/train/b] port=8000"]),
        ("For other machines, under the name of a reverse proxy:",
         ["host=0.0.0.0 names=[recovery.example.org]"]),
    ],
    settings=["run", "host", "port", "names", "decoding.samples", "confidence", "bank",
              "precision"],
    read_on=["docs/howto/recover.md", "docs/howto/shipped.md"],
)  # fmt: skip


@command(_HELP)
def app(config: DictConfig) -> None:
    """Serves a web page until Ctrl-C."""
    given: AppSettings = make(check(config, AppSettings), AppSettings)
    require_extra("app", "the web page")
    recipe = given.recipe()

    with importing():
        from prompt_recovery.app import serve

    serve(recipe, given.host, given.port, given.names)
