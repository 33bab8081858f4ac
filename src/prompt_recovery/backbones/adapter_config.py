"""Reads `adapter_config.json`, which may come from a stranger, without letting it do anything.

PEFT's own reader sets every field that the file names. Some fields have code imported
(`megatron_core`), change the base model (`layer_replication`, `init_lora_weights="pissa"`) or make
PEFT read other files. Only what makes a plain LoRA adapter is taken here, and checked.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.settings import Count
from prompt_recovery.settings.declared import accepts, allowed
from prompt_recovery.storage import MALFORMED, read_small

if TYPE_CHECKING:
    from peft import LoraConfig  # takes long to import

_LARGEST = 1 << 22  # bytes of the file
_Rank = Annotated[int, Ge(1), Le(1 << 16)]
_Alpha = Annotated[float, Gt(0), Le(1e6)]
_TYPES: dict[str, Any] = {
    "peft_type": Literal["LORA"],
    "r": _Rank,
    "lora_alpha": _Alpha,
    "lora_dropout": Annotated[float, Ge(0), Lt(1)],
    "target_modules": str | Sequence[str] | None,
    "exclude_modules": str | Sequence[str] | None,
    "layers_to_transform": int | Sequence[int] | None,
    "layers_pattern": str | Sequence[str] | None,
    "rank_pattern": Mapping[str, _Rank] | None,
    "alpha_pattern": Mapping[str, _Alpha] | None,
    "modules_to_save": Sequence[str] | None,
    "trainable_token_indices": Sequence[Count] | Mapping[str, Sequence[Count]] | None,
    "bias": Literal["none", "all", "lora_only"],
    "fan_in_fan_out": bool,
    "lora_bias": bool,
    "use_dora": bool,
    "use_rslora": bool,
    "ensure_weight_tying": bool,
}
_REPLACED = {  # these have no influence on how trained weights compute
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")  # of weights that are then overwritten
_SIMPLE_PATTERN = re.compile(r"[\w\s.\\|()?:+*^$\[\]-]{1,2000}")


def read_lora_config(folder: Path) -> "LoraConfig":
    """The configuration of the LoRA adapter in a folder.

    Fields that this version of PEFT does not know are ignored, as PEFT does.

    Raises:
        PromptRecoveryError: If the file is missing or damaged, describes another kind of adapter,
            or sets something that is not loaded here.
    """
    from peft import LoraConfig, TaskType

    path = folder / "adapter_config.json"
    try:
        given = dict(json.loads(read_small(path, _LARGEST)))
    except (OSError, *MALFORMED) as error:
        raise PromptRecoveryError(
            f"{path}: is damaged ({type(error).__name__}); copy the adapter folder again"
        ) from error
    for name, declared in _TYPES.items():
        if name in given and not accepts(declared, given[name]):
            raise PromptRecoveryError(
                f"{path}: {name} must be {allowed(declared)}; copy the adapter folder again"
            )
    if "peft_type" not in given or "r" not in given:
        raise PromptRecoveryError(f"{path}: describes no LoRA adapter (it lacks peft_type or r)")
    _refuse_intricate(path, given)
    known = {field.name: field for field in fields(LoraConfig)}
    if given.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise _not_loaded(path, "init_lora_weights")
    for name in given.keys() & known.keys() - _TYPES.keys() - _REPLACED - {"init_lora_weights"}:
        if given[name] and given[name] != _default(known[name]):
            raise _not_loaded(path, name)
    taken = {n: given[n] for n in _TYPES if n != "peft_type" and given.get(n) is not None}
    try:
        return LoraConfig(task_type=TaskType.CAUSAL_LM, **taken)
    except (ValueError, TypeError) as error:  # of fields that do not go together
        raise PromptRecoveryError(
            f"{path}: describes no LoRA adapter ({first_line(error)}); copy the folder again"
        ) from error


def _not_loaded(path: Path, name: str) -> PromptRecoveryError:
    return PromptRecoveryError(
        f"{path}: sets {name}, which is not loaded here; merge the adapter into its model, or "
        "train one without it"
    )


def _default(field: "Field[Any]") -> Any:
    return None if field.default is MISSING else field.default


def _refuse_intricate(path: Path, given: Mapping[str, Any]) -> None:
    """Refuses regular expressions that could take for ever to be matched with a layer's name."""
    for name in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern",
                 "alpha_pattern"):  # fmt: skip
        value = given.get(name)
        patterns = [value] if isinstance(value, str) else list(value or [])
        if any(not _is_simple(pattern) for pattern in patterns):
            raise PromptRecoveryError(
                f"{path}: {name} holds a pattern that is too intricate; name the modules instead"
            )


def _is_simple(pattern: str) -> bool:
    """Whether no group is repeated and few characters are, so that matching takes little time."""
    plain = re.sub(r"\\.|\[[^\]]*\]", "x", pattern)
    repeated = re.search(r"\)[*+?{]|\(\?(?!:)", plain)
    few = len(re.findall(r"[*+?]", plain)) <= 3
    if _SIMPLE_PATTERN.fullmatch(pattern) is None or repeated or not few:
        return False
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
