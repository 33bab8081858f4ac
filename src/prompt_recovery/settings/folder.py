"""The location of the configuration."""

from pathlib import Path


def config_folder() -> Path:
    """Returns the folder of the Hydra configuration: in the wheel, or next to `src/`."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "conf"
