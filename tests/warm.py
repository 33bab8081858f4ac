"""Imported by the server of forks, so that no fork does again what each command does first."""

from hydra import compose, initialize_config_dir

import prompt_recovery.commands.train  # noqa: F401
from prompt_recovery.settings.folder import config_folder

with initialize_config_dir(str(config_folder()), version_base="1.3"):
    compose("train", ["model=tiny"])  # ANTLR learns Hydra's grammar while it reads
