"""Reads `recoverer.yaml`, the record of a trained recoverer, which may come from a stranger.

A record is data. It names nothing that is imported or run: no code that comes with a backbone, and
no package but those that this project's own configuration names.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from prompt_recovery.backbones.encoders import EncoderBackbone
from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import EncoderSource
from prompt_recovery.recovery.decoding import MBR, Decoding, from_record
from prompt_recovery.runs.folder import is_retriever, recoverer_file
from prompt_recovery.settings.checking import check
from prompt_recovery.settings.packages import known_packages
from prompt_recovery.storage import MALFORMED, read_yaml
from prompt_recovery.templates import Template

log = logging.getLogger(__name__)

_OPTIONAL = {"backbone_identity", "data", "four_bit", "probe"}
_MOST_TOKENS = 1 << 20  # more than any model reads
_MOST_BRANCHES, _MOST_NEW_TOKENS = 4096, 1 << 16  # of a decoding
_Tokens = Annotated[int, Ge(1), Le(_MOST_TOKENS)]
_Finite = Annotated[float, Gt(0), Le(1e6)]


@dataclass(frozen=True)
class _Metric:
    encoder: str
    exponent: _Finite
    source: EncoderSource


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What the records of all recoverers hold; `decoding` is checked by its own class."""

    decoding: Mapping[str, Any]
    max_prompt_tokens: _Tokens
    fallback: str
    objective: str
    metric: _Metric
    backbone_identity: str | None = None
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Probe:
    temperature: _Finite
    k: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class _Adapter(_Shared):
    backbone: Backbone
    template: Template
    four_bit: bool = False
    probe: _Probe | None = None


@dataclass(frozen=True, kw_only=True)
class _Retriever(_Shared):
    backbone: EncoderBackbone
    temperature: _Finite
    k: Annotated[int, Ge(1)]
    input: list[str]


def read_record(folder: Path) -> dict[str, Any]:
    """What `recoverer.yaml` in an adapter or retriever folder says.

    `training.language_model` and `training.retriever` write it.

    Raises:
        PromptRecoveryError: If it is damaged, or a value is missing or not allowed.
    """
    path = recoverer_file(folder)
    kind: Any = _Retriever if is_retriever(folder) else _Adapter
    again = f"copy the {folder.name} folder again"
    try:
        saved = read_yaml(path)
        required = {f.name for f in fields(kind)} - _OPTIONAL
        missing = required - saved.keys()
        saved["backbone"] = _known(saved["backbone"], kind.__annotations__["backbone"])
        if "template" in saved:
            saved["template"] = _known(saved["template"], Template, path)
        decoding = from_record(dict(saved.get("decoding") or {}))
        limits = (decoding.branches, _MOST_BRANCHES), (decoding.max_new_tokens, _MOST_NEW_TOKENS)
        if any(value > most for value, most in limits):
            raise ValueError("the decoding is out of range")
        EncoderSource(**saved.get("metric", {}).get("source", {}))
    except PromptRecoveryError as error:
        raise PromptRecoveryError(f"{path}: {error}; {again}") from error
    except (OSError, *MALFORMED) as error:
        reason = type(error).__name__
        raise PromptRecoveryError(f"{path}: is damaged ({reason}); {again}") from error
    if missing:
        raise PromptRecoveryError(f"{path}: lacks {', '.join(sorted(missing))}; copy it again")
    try:
        saved |= check({f.name: saved[f.name] for f in fields(kind) if f.name in saved}, kind)
        if kind is _Retriever and saved["input"] != ["rewritten_text", "original_text"]:
            raise PromptRecoveryError("input: must be [rewritten_text, original_text]")
        if "template" in saved:
            Template(**saved["template"])
    except PromptRecoveryError as error:
        raise PromptRecoveryError(f"{path}: {error}; {again}") from error
    return saved


def _known(values: Mapping[str, Any], kind: Any, path: Path | None = None) -> dict[str, Any]:
    """The values that a class has fields for; a newer version may have written more."""
    names = {f.name for f in fields(kind)}
    others = [str(name) for name in values if name not in names]
    if others and path is not None:
        log.warning("%s: ignored what this version does not know: %s", path, ", ".join(others))
    return {name: value for name, value in values.items() if name in names}


def recorded_backbone(
    folder: Path,
    saved: Mapping[str, Any],
    path: str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """The backbone of an adapter.

    Args:
        folder: The adapter folder.
        saved: Its record, from `read_record`.
        path: Where the backbone is now, if it isn't where the run found it.
        trust_remote_code: Run Python code that comes with the backbone. The user says so, and never
            the record.

    Raises:
        PromptRecoveryError: If the record names a package that isn't one of this project's.
    """
    recorded = Backbone(**saved["backbone"])
    if path is not None:
        return replace(recorded, path=path, trust_remote_code=trust_remote_code)
    package = recorded.package if recorded.path is None and recorded.architecture is None else None
    if package is not None and package not in known_packages():
        raise PromptRecoveryError(
            f"{recoverer_file(folder)}: names the package '{package}', which is none of this "
            "project's and could run code; give the backbone with backbone_path=<folder>"
        )
    install = None if package is None else known_packages()[package]
    return replace(recorded, install=install, trust_remote_code=trust_remote_code)


def recorded_name(record: Mapping[str, Any]) -> str:
    """The name in tables of the recoverer that a record describes, such as "smollm2 sft"."""
    return f"{record['backbone']['name']} {record['objective']}"


def decoding_of(folders: Sequence[Path]) -> Decoding:
    """The decoding of a recorded recoverer; that of several together is MBR."""
    return MBR() if len(folders) > 1 else from_record(read_record(folders[0])["decoding"])
