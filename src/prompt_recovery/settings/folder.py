"""Where the configuration lies."""

from pathlib import Path


def config_folder() -> Path:
    """The Hydra configuration: in the wheel, or beside `src/` in a checkout."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "conf"
