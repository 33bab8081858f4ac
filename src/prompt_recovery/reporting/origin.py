"""Where a report comes from: the command, the versions and the date."""

import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from prompt_recovery.runs.environment import environment
from prompt_recovery.tables import Table


def origin(command: str, folder: Path) -> dict[str, str]:
    """Returns the facts by name, for the end of a report.

    Args:
        command: The command line that made the report, without secrets.
        folder: The folder of the report.
    """
    made = environment()
    hardware = made["hardware"]
    commit = f" ({made['git']['commit'][:10]})" if made["git"]["commit"] else ""
    packages = ("prompt-recovery", "torch", "transformers", "peft")
    own, *libraries = (f"{name} {version(name)}" for name in packages)
    return {
        "command": command or "from Python",
        "report": str(folder),
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "version": f"{own}{commit}; {', '.join(libraries)}; Python {made['python']}",
        "machine": f"{hardware['machine']}, {hardware['cpus']} CPU cores, "
        f"GPU: {', '.join(hardware['gpus']) or 'none'}",
    }


def about_table(about: Mapping[str, str]) -> Table:
    """Builds a table of facts by name."""
    return Table(["", ""], list(about.items()), wide=(1,))
