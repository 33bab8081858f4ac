"""Sentence encoders, whose embeddings are cached on disk."""

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings import LocalPath
from prompt_recovery.settings.extras import install_command
from prompt_recovery.storage import KeyValueStore, fingerprint, local_path
from prompt_recovery.tables import counted
from prompt_recovery.terminal import announced, counting

_BATCH = 128
_OFFLINE = {"metric.encoder": "metric=scs_minilm", "model": "model=minilm"}


@dataclass(frozen=True)
class EncoderSource:
    """The source of a sentence encoder: the first of `path`, `package` and `repo` that is given.

    Attributes:
        path: A local sentence-transformers folder.
        package: An installed Python package that contains one.
        repo: A model on the Hugging Face Hub.
        install: The command that installs `package`, or the extra of this package that does, such
            as `[qwen]`, for the message when it is missing.
    """

    path: LocalPath | None = None
    package: str | None = None
    repo: str | None = None
    install: str | None = None

    def folder(self, setting: str = "metric.encoder") -> Path:
        """The encoder's local folder; a model on the Hub is downloaded first.

        Args:
            setting: The setting that holds the source, for messages.

        Raises:
            PromptRecoveryError: If the encoder cannot be found or downloaded.
        """
        if self.path is not None:
            return _with_modules(local_path(self.path))
        if self.package is not None:
            spec = find_spec(self.package)
            if spec is None or not spec.submodule_search_locations:
                advice = f": {install_command(self.install)}" if self.install else ""
                raise PromptRecoveryError(
                    f"the sentence encoder's package '{self.package}' is not installed{advice}"
                )
            return _with_modules(Path(next(iter(spec.submodule_search_locations))))
        if self.repo is None:
            raise PromptRecoveryError(f"{setting} names no source: set path, package or repo")
        os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "4")
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return _with_modules(Path(snapshot_download(self.repo, local_files_only=True)))
        except (LocalEntryNotFoundError, PromptRecoveryError, ValueError, OSError):
            pass  # a wrong name is an error below
        try:
            HfApi().model_info(self.repo, timeout=4)
            kept = ["*.json", "*.safetensors", "*.model", "*.txt"]
            return Path(snapshot_download(self.repo, allow_patterns=kept))
        except Exception as error:
            raise PromptRecoveryError(
                f"cannot get the sentence encoder '{self.repo}' from the Hugging Face Hub "
                f"({type(error).__name__}): check the network, give a local copy with "
                f"{setting}.path=<folder>, or use {_OFFLINE.get(setting, 'another')}, which works "
                "offline"
            ) from error


class Encoder(ABC):
    """Embeds texts as vectors of length 1.

    Every text is embedded only once: the embeddings are kept in a small database in the cache
    folder, which several processes may use at the same time.

    Args:
        identity: A string that changes with anything that the embeddings depend on.
        name: The name in reports.
        kept_as: The name of the database, if `identity` doesn't say enough. It never leaves this
            machine.
    """

    def __init__(self, identity: str, name: str, kept_as: str | None = None) -> None:
        self.identity = identity
        self.name = name
        self._store = KeyValueStore("embeddings", kept_as or identity)
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str], keep: bool = True) -> NDArray[np.float32]:
        """The embeddings of n ≥ 1 texts, fp32 [n, d], with rows of length 1.

        Args:
            texts: The texts.
            keep: Whether to keep them in memory, too. A million embeddings take 2 GB.
        """
        keys = [_key(text) for text in texts]
        known = self._known if keep else {k: self._known[k] for k in keys if k in self._known}
        unknown = {k: t for k, t in zip(keys, texts, strict=True) if k not in known}
        if unknown:
            for key, vector in _whole(self._store.read(unknown)).items():
                known[key] = vector
                del unknown[key]
        if unknown:
            vectors = self._computed(list(unknown.values()))
            known.update(zip(unknown, vectors, strict=True))
            self._store.write({k: v.tobytes() for k, v in zip(unknown, vectors, strict=True)})
            if any(len(known[key]) != vectors.shape[1] for key in keys):  # damaged in the cache
                again = [k for k in dict.fromkeys(keys) if len(known[k]) != vectors.shape[1]]
                given = dict(zip(keys, texts, strict=True))
                known.update(zip(again, self._computed([given[k] for k in again]), strict=True))
        return np.stack([known[key] for key in keys])

    def _computed(self, texts: list[str]) -> NDArray[np.float32]:
        """Computes embeddings in batches of similar length, and counts them if it takes long."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        what = f"embedding {counted(len(texts), 'text')} with {self.name}"
        parts = []
        with counting(what, len(texts)) as advance:
            for start in range(0, len(order), _BATCH):
                batch = [texts[i] for i in order[start : start + _BATCH]]
                parts.append(self._compute(batch))
                advance(len(batch))
        vectors: NDArray[np.float32] = np.concatenate(parts)[np.argsort(order)]
        return vectors

    def knowing(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> "Encoder":
        """The same encoder with given embeddings of n texts, which it need not compute.

        The given embeddings stay in this copy: neither the cache on the disk nor the encoder that
        predictions are scored with has them.

        Args:
            texts: The texts.
            vectors: fp32 [n, d], their embeddings, of length 1.
        """
        other = copy.copy(self)
        other._known = self._known | dict(zip(map(_key, texts), vectors, strict=True))
        return other

    @abstractmethod
    def _compute(self, texts: list[str]) -> NDArray[np.float32]:
        """The embeddings of n ≥ 1 distinct texts, fp32 [n, d], with rows of length 1."""


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _whole(blobs: Mapping[bytes, bytes]) -> dict[bytes, NDArray[np.float32]]:
    """The embeddings in a cache, without those that are damaged: of another length, or not of 1."""
    sizes = Counter(len(blob) for blob in blobs.values() if blob and len(blob) % 4 == 0)
    size = max(sizes, key=lambda n: (sizes[n], n), default=0)
    vectors = {k: np.frombuffer(b, dtype=np.float32) for k, b in blobs.items() if len(b) == size}
    return {k: v for k, v in vectors.items() if size and abs(float(np.dot(v, v)) - 1) < 0.1}


class SentenceEncoder(Encoder):
    """A sentence-transformers model.

    Args:
        source: The source of the encoder. It is loaded for the first text that isn't cached.
    """

    def __init__(self, source: EncoderSource) -> None:
        self.source = source
        self._folder = source.folder()
        weights = sorted(self._folder.rglob("*.safetensors")) + sorted(self._folder.rglob("*.json"))
        identity = fingerprint(
            [(str(f.relative_to(self._folder)), f.stat().st_size) for f in weights]
        )
        # Two local models that were made of one often have files of the same sizes.
        times = [f.stat().st_mtime_ns for f in weights] if source.path else None
        super().__init__(
            identity,
            (not source.path and (source.package or source.repo)) or self._folder.name,
            None if times is None else fingerprint(identity, times),
        )
        self._model: Any = None

    def _compute(self, texts: list[str]) -> NDArray[np.float32]:
        if self._model is None:
            with announced(f"loading the sentence encoder {self.name}"):
                from prompt_recovery.metrics.bert import load_reader  # loads torch

                self._model = load_reader(self._folder)
        vectors: NDArray[np.float32] = self._model.encode(
            texts,
            batch_size=_BATCH,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return vectors.astype(np.float32)


def _with_modules(folder: Path) -> Path:
    """The first of a folder and those below it that holds a sentence-transformers model."""
    for candidate in [folder, *sorted(p.parent for p in folder.rglob("modules.json"))]:
        if (candidate / "modules.json").is_file():
            return candidate
    raise PromptRecoveryError(f"{folder}: holds no sentence-transformers model (modules.json)")
