"""Loads sentence-transformers folders, which may come from a stranger, without running their code.

The files of such a folder name classes, functions, methods and other folders, which
sentence-transformers and transformers import, call and read. What they may name is listed here, and
checked before these libraries read them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.storage import MALFORMED, read_small
from prompt_recovery.terminal import quiet

_MODULES = {"Transformer", "Pooling", "Dense", "Normalize", "Dropout", "LayerNorm"}
_WITH_WEIGHTS = {"Transformer", "Dense", "LayerNorm"}
_ACTIVATIONS = {
    f"torch.nn.modules.{name}"
    for name in ("linear.Identity", "activation.Tanh", "activation.ReLU", "activation.GELU",
                 "activation.SiLU")
}  # fmt: skip
_TRANSFORMER_SETTINGS = {
    "do_lower_case",
    "document_length",
    "max_seq_length",
    "modality_config",
    "module_output_name",
    "query_length",
    "transformer_task",
    "unpad_inputs",
}
_BERTS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_LARGEST = 1 << 24  # bytes of a JSON file
_MOST_LAYERS = 1000
_MOST_POSITIONS = 1 << 24
_LEAST_PACKED = 4  # weights a byte


def require_plain(folder: Path) -> None:
    """Checks that loading a sentence-transformers folder runs no code that it brings or names.

    Only the common modules of sentence-transformers are allowed, with weights in safetensors.

    Raises:
        PromptRecoveryError: If the folder is damaged, or holds something else.
    """
    try:
        _check(folder)
    except (OSError, *MALFORMED) as error:
        raise PromptRecoveryError(
            f"{folder}: is not a whole sentence-transformers folder ({type(error).__name__}); copy "
            "it again"
        ) from error


def _check(folder: Path) -> None:
    inside = folder.resolve()
    modules = list(_read(folder / "modules.json"))
    if not modules:
        raise ValueError("it has no modules")
    for module in modules:
        kind, path = str(module["type"]), folder / str(module["path"])
        library, _, name = kind.rpartition(".")
        ours = library.split(".")[0] == "sentence_transformers" and name in _MODULES
        if not ours or not path.resolve().is_relative_to(inside):
            raise _refused(
                folder / "modules.json", f"'{kind}' in '{module['path']}'", "module", _MODULES
            )
        if name == "Transformer":
            _check_transformer(path)
        elif name == "Dense":
            _check_dense(path)
        if name in _WITH_WEIGHTS and not any(path.glob("*.safetensors")):
            raise PromptRecoveryError(
                f"{path}: holds no *.safetensors weights (pickled weights are not loaded)"
            )


def _check_dense(path: Path) -> None:
    config = dict(_read(path / "config.json"))
    activation = config.get("activation_function")
    if activation is not None and activation not in _ACTIVATIONS:
        raise _refused(path, f"'{activation}'", "activation", _ACTIVATIONS)
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    if int(config["in_features"]) * int(config["out_features"]) > size:
        raise ValueError("it has fewer weights than its configuration says")


def _check_transformer(path: Path) -> None:
    require_plain_config(path)
    for file in (path / f"sentence_{name}_config.json" for name in _BERTS):
        if not file.is_file():
            continue
        config = dict(_read(file))
        others = {name for name, value in config.items() if value} - _TRANSFORMER_SETTINGS
        if others or config.get("transformer_task", "feature-extraction") != "feature-extraction":
            name = next(iter(sorted(others)), "transformer_task")
            raise _refused(file, f"'{name}'", "setting", _TRANSFORMER_SETTINGS)
        for modality in (config.get("modality_config") or {}).values():
            if modality["method"] != "forward":
                raise _refused(file, f"'{modality['method']}'", "method", {"forward"})


def require_plain_config(folder: Path) -> None:
    """Checks what a folder in Hub format has transformers read besides its own files.

    Raises:
        PromptRecoveryError: If `config.json` is damaged, asks for a kernel from the Hub, which is
            code, or for much more memory than the weights take, or is that of an adapter, which
            names another folder.
    """
    path = folder / "config.json"
    try:
        config = dict(_read(path))
        values = dict(_deep(config))
        layers = [int(v) for k, v in values.items() if k.endswith(("num_hidden_layers", "n_layer"))]
        positions = [int(v) for k, v in values.items() if k.endswith("max_position_embeddings")]
        embedded = int(config.get("vocab_size") or 0) * int(config.get("hidden_size") or 0)
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    except (OSError, *MALFORMED) as error:
        raise PromptRecoveryError(
            f"{path}: is damaged ({type(error).__name__}); fetch the folder again"
        ) from error
    for name, value in values.items():
        if "attn_implementation" in name and isinstance(value, str) and "/" in value:
            raise _refused(path, f"'{value}'", "attention", {"eager", "sdpa"})
    if max(layers, default=0) > _MOST_LAYERS:
        raise PromptRecoveryError(f"{path}: asks for more than {_MOST_LAYERS} layers")
    if max(positions, default=0) > _MOST_POSITIONS or embedded > _LEAST_PACKED * weights > 0:
        raise PromptRecoveryError(
            f"{path}: asks for more weights than the files beside it hold; the folder may be cut "
            "short: fetch it again"
        )
    if (folder / "adapter_config.json").is_file():
        raise PromptRecoveryError(
            f"{folder}: holds an adapter (adapter_config.json) where a whole model is needed; "
            "merge it into its model, or give the model's own folder"
        )


def load_plain(folder: Path) -> Any:
    """A `SentenceTransformer` on the CPU. Loading disturbs no random numbers.

    Raises:
        PromptRecoveryError: If the folder holds no such model, a damaged one, or one that would run
            code of its own.
    """
    require_plain(folder)
    import torch
    from sentence_transformers import SentenceTransformer

    quiet()
    try:
        with torch.random.fork_rng(devices=[]):
            return SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    except Exception as error:  # any defect in files that somebody gave
        raise PromptRecoveryError(
            f"cannot load {folder} ({first_line(error)}): the folder may be cut short; fetch it "
            "again"
        ) from error


def _read(path: Path) -> Any:
    return json.loads(read_small(path, _LARGEST))


def _deep(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested configurations, by their full names."""
    for name, value in config.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from _deep(value, f"{prefix}{name}.")


def _refused(path: Path, found: str, kind: str, known: set[str]) -> PromptRecoveryError:
    return PromptRecoveryError(
        f"{path}: {found} is not a {kind} that is loaded here ({', '.join(sorted(known))}), since "
        "it could run code"
    )
