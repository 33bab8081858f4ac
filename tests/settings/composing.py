"""Composes commands in this process, as Hydra would."""

from hydra import compose, initialize_config_dir

from prompt_recovery.settings.folder import config_folder

COMMANDS = ("train", "generate", "evaluate", "recover", "detect", "app", "sweep", "compare")


def composed(command, *overrides, **options):
    """A command's configuration with all overrides in effect."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(command, list(overrides), **options)


def options(group):
    """The names of a group's options, which are its files."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def groups():
    """All groups of `conf/`, but Hydra's own and the experiments."""
    files = (path.relative_to(config_folder()) for path in config_folder().glob("**/*.yaml"))
    found = {str(path.parent) for path in files if str(path.parent) != "."}
    return sorted(g for g in found if not g.startswith(("hydra", "experiment")))
