"""`prompt-recovery app`: a web page to try a recoverer."""

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.commands.recover import recipe_of


@command
def app(config: DictConfig) -> None:
    """Serves a web page until Ctrl-C."""
    recipe = recipe_of(config)

    from prompt_recovery.app import serve

    serve(recipe, config.host, config.port)
