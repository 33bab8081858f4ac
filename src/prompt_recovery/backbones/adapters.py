"""PEFT adapters: LoRA, DoRA, QLoRA."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from prompt_recovery.backbones.adapter_config import read_lora_config
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.kernels.lora import fuse_lora


def add_adapter(model: Any, adapter: Adapter, dtype: torch.dtype) -> Any:
    """Wraps a frozen model in a `PeftModel` whose adapter weights have `dtype`.

    The adapter also computes in `dtype`; the optimiser keeps an fp32 master copy. On frozen weights
    that stay in bf16 under fp32 arithmetic, PEFT rounds the first weights of A to bf16.

    Raises:
        PromptRecoveryError: If no layer of the model has a name in `target_modules`.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets: Any = adapter.target_modules
    targets = targets if isinstance(targets, str) else list(targets)
    count = int(model.config.get_text_config().num_hidden_layers)
    first = count - max(round(adapter.layers * count), 1)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=_linear_layers(model) if targets == "all-linear" else targets,
        layers_to_transform=list(range(first, count)) if first > 0 else None,
        use_dora=adapter.dora,
    )
    try:
        peft_model = get_peft_model(model, config, autocast_adapter_dtype=dtype == torch.float32)
    except ValueError as error:
        raise PromptRecoveryError(
            f"adapter.target_modules={targets}: {first_line(error)}"
        ) from error
    return _prepared(peft_model, dtype)


def load_adapter(model: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Wraps a frozen model in a `PeftModel` with the adapter in a folder, ready to be trained.

    The folder may come from a stranger: only safetensors are read, and nothing that the
    configuration names is imported.

    Raises:
        PromptRecoveryError: If the folder holds no adapter, a damaged one, or one of another
            backbone.
    """
    from peft import PeftModel, get_peft_model_state_dict

    _require_weights(folder)
    config = read_lora_config(folder)
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            theirs = set(file.keys())
            of_a = [key for key in theirs if "lora_A." in key or "lora_embedding_A" in key]
            ranks = [file.get_slice(key).get_shape()[0] for key in of_a]
        # Otherwise a few bytes of a configuration could ask for any amount of memory.
        if max([config.r, *(config.rank_pattern or {}).values()]) > max(ranks, default=0):
            raise ValueError("its weights have another rank than its configuration says")
        peft_model = PeftModel.from_pretrained(
            model,
            folder,
            is_trainable=True,
            autocast_adapter_dtype=dtype == torch.float32,
            config=config,
        )
    except Exception as error:  # any defect in files that somebody gave
        raise PromptRecoveryError(
            f"{folder}: is damaged, or not an adapter of this backbone ({first_line(error)})"
        ) from error
    # PEFT only warns of this. With embedding layers "auto", it would ask the Hub for their size.
    if theirs != set(get_peft_model_state_dict(peft_model, save_embedding_layers=False)):
        raise PromptRecoveryError(
            f"{folder}: is not an adapter of this backbone (it has other layers)"
        )
    # What it is saved with: one trained by an older version may name a cache folder.
    peft_model.peft_config["default"].base_model_name_or_path = model.name_or_path
    return _prepared(peft_model, dtype)


def _require_weights(folder: Path) -> None:
    if not (folder / "adapter_model.safetensors").is_file():
        raise PromptRecoveryError(
            f"{folder}: holds no adapter_model.safetensors; give an adapter folder or the "
            "folder of a run that has one"
        )


def set_adapter_weights(model: Any, folder: Path) -> None:
    """Gives a `PeftModel` the weights of an adapter folder with the same configuration."""
    from peft import set_peft_model_state_dict

    weights = load_file(folder / "adapter_model.safetensors")
    set_peft_model_state_dict(model, weights)


def require_low_rank(folder: Path) -> None:
    """Refuses to train an adapter with trained weights that are not those of LoRA or DoRA.

    The backbone's own layers are computed by kernels without gradients of their weights, so these
    parts would not learn.

    Raises:
        PromptRecoveryError: If the folder holds no adapter, or one with such weights.
    """
    _require_weights(folder)
    read_lora_config(folder)
    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            others = sorted(name for name in file.keys() if not _LOW_RANK.search(name))  # noqa: SIM118
    except (OSError, SafetensorError):
        return  # `load_adapter` says it better
    if others:
        raise PromptRecoveryError(
            f"{folder}: {len(others)} of its trained weights are not LoRA's ({others[0]}, …), and "
            "they could not be trained further; start from an adapter without modules_to_save and "
            "biases"
        )


_LOW_RANK = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)(?:\.weight)?$")


@contextmanager
def kept_weights(model: Any) -> Iterator[None]:
    """Restores the trained weights of a model to their present values at the end."""
    kept = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


def _prepared(peft_model: Any, dtype: torch.dtype) -> Any:
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    fuse_lora(peft_model)
    return peft_model


def _linear_layers(model: Any) -> list[str]:
    """The names of the linear layers inside the decoder's layers, such as "q_proj"."""
    decoder = model.get_decoder()
    return sorted(
        {name.rsplit(".", 1)[-1] for name, m in decoder.named_modules() if isinstance(m, nn.Linear)}
    )


def count_parameters(model: Any) -> tuple[int, int]:
    """The numbers of trainable and of all parameters, without regard to 4-bit packing."""
    if hasattr(model, "get_nb_trainable_parameters"):  # a `PeftModel`
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
