"""A Hydra config source for `conf/`, which adds the defaults that a file's target declares.

Hydra only loads plugins from this namespace. The implementation is in `prompt_recovery.settings`.
"""

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from prompt_recovery.settings.filling import fill
from prompt_recovery.settings.folder import config_folder


class DeclaredSettings(FileConfigSource):
    """Loads the files of `conf/` with their defaults."""

    @staticmethod
    def scheme() -> str:
        """Returns the scheme of this source in the search path."""
        return "prompt-recovery"

    def load_config(self, config_path: str) -> ConfigResult:
        """Loads a file and adds the defaults of its target."""
        result = super().load_config(config_path)
        if result.config is not None and not config_path.startswith(("hydra/", "experiment/")):
            name = self._normalize_file_name(config_path)
            fill(result.config, (Path(self.path) / name).read_text(encoding="utf-8"))
        return result


class DeclaredSettingsPath(SearchPathPlugin):
    """Makes Hydra read our `conf/` through `DeclaredSettings`. Other folders are not affected."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Sets the scheme of our folder in the search path."""
        ours = config_folder().resolve()
        for element in search_path.get_path():
            path = (element.path or "").removeprefix("file://")
            if "://" not in path and Path(path).resolve() == ours:
                element.path = f"{DeclaredSettings.scheme()}://{ours}"
