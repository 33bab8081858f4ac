"""Loads, adapts and writes sentence encoders as sentence-transformers models."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from torch import Tensor, nn

from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
from prompt_recovery.metrics.plain import load_plain

_RIDGE = 1e-3
"""The penalty on the squared weights of a projection, for each prompt."""
_MOST_PROMPTS = 4096
"""The largest number of prompts to which a projection is fitted."""


def load_sentence_model(folder: Path) -> Any:
    """A `SentenceTransformer` in fp32, in evaluation mode, on the CPU.

    Raises:
        PromptRecoveryError: If the folder holds no such model, a damaged one, or one that would run
            code of its own.
    """
    return load_plain(folder).float().eval()


def load_fitted(
    folder: Path, prompts: Sequence[str], vectors: NDArray[np.float32], max_tokens: int
) -> Any:
    """The model in a folder, in another embedding space and for inputs of this length.

    Its embeddings have length 1. If its own dimension differs from that of the space, a linear
    layer (sentence-transformers' `Dense`) is added. Its weights are those of a ridge regression
    from the model's embeddings of prompts to their vectors, so that training begins near the space
    and not at a random place.

    Args:
        folder: A sentence-transformers folder.
        prompts: Prompts, at least one.
        vectors: fp32 [prompts, dimension], their vectors in the wanted space.
        max_tokens: The largest number of tokens of an input; no more than the model allows.

    Raises:
        PromptRecoveryError: As for `load_sentence_model`.
    """
    model = load_sentence_model(folder)
    parts = [part for part in model if not isinstance(part, modules.Normalize)]
    own, dimension = int(model.get_embedding_dimension()), vectors.shape[1]
    if own != dimension:
        dense = modules.Dense(own, dimension, bias=False, activation_function=nn.Identity())
        with torch.no_grad():
            dense.linear.weight.copy_(torch.from_numpy(_projection(folder, prompts, vectors)))
        parts.append(dense)
    parts.append(modules.Normalize())
    fitted = SentenceTransformer(modules=parts, device="cpu")
    # RoBERTa's and MPNet's positions start after the padding index.
    config = parts[0].auto_model.config
    longest = int(getattr(config, "max_position_embeddings", 0) or max_tokens) - 2
    fitted.max_seq_length = min(max_tokens, max(longest, 1))
    return fitted


def _projection(
    folder: Path, prompts: Sequence[str], vectors: NDArray[np.float32]
) -> NDArray[np.float64]:
    """fp64 [dimension, own]: the ridge regression from a model's embeddings to vectors."""
    from sklearn.linear_model import Ridge

    step = -(-len(prompts) // _MOST_PROMPTS)
    own = SentenceEncoder(EncoderSource(path=str(folder))).embed(prompts[::step])
    regression = Ridge(_RIDGE * len(own), fit_intercept=False)
    return np.asarray(regression.fit(own.astype(np.float64), vectors[::step]).coef_)


def trained_parts(model: Any, adapter: Adapter | None) -> None:
    """Makes all weights trainable or, with an adapter, those of the adapter and of a new `Dense`.

    Pooling heads of the encoder that take no part in the embedding are never trained.

    Args:
        model: A `SentenceTransformer`, changed in place.
        adapter: The adapter; None trains all weights.

    Raises:
        PromptRecoveryError: If no layer of the model has a name in `target_modules`.
    """
    encoder = model[0].auto_model
    if adapter is None:
        model.requires_grad_(True)
    else:
        model.requires_grad_(False)
        for part in list(model)[1:]:
            part.requires_grad_(True)
        _add_adapter(encoder, adapter)
    for name, parameter in encoder.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)


def _add_adapter(encoder: Any, adapter: Adapter) -> None:
    targets: Any = adapter.target_modules
    if targets == "all-linear":
        inside = [n for n, m in encoder.named_modules() if isinstance(m, nn.Linear)]
        targets = sorted({n for n in inside if not n.startswith("pooler.")})
    layers = int(getattr(encoder.config, "num_hidden_layers", 0))
    first = layers - max(round(adapter.layers * layers), 1)
    if adapter.layers < 1 and layers and not isinstance(targets, str):
        targets = [t for t in targets if _layer_of(t) is None or (_layer_of(t) or 0) >= first]
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_dora=adapter.dora,
    )
    try:
        inject_adapter_in_model(config, encoder)
    except ValueError as error:
        raise PromptRecoveryError(
            f"adapter.target_modules={adapter.target_modules}: {first_line(error)}"
        ) from error


def _layer_of(name: str) -> int | None:
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0] if numbers else None


def save_sentence_model(model: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a plain sentence-transformers folder, with adapters merged into their layers.

    Args:
        model: A `SentenceTransformer`, which stays as it is.
        weights: Trained weights, by their names in the model, which replace its own.
        folder: An empty folder.
    """
    plain = with_weights(model, weights)
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, module.get_base_layer())
    encoder = plain[0].auto_model
    for mark in ("_hf_peft_config_loaded", "peft_config"):
        if mark in vars(encoder):
            delattr(encoder, mark)
    plain.save(str(folder), create_model_card=False)


def with_weights(model: Any, weights: dict[str, Tensor]) -> Any:
    """A copy of a model on the CPU, in evaluation mode, with other trained weights."""
    other = copy.deepcopy(model).cpu().eval()
    own = dict(other.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)
    return other
