"""Loads the weights and the tokenizer of a backbone."""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from prompt_recovery.backbones.convert import converted
from prompt_recovery.backbones.eight_bit import CALIBRATION, quantise
from prompt_recovery.backbones.llama import SmallLlama, small_llama
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.small_tokenizer import small_tokenizer
from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.kernels import attention
from prompt_recovery.kernels.eight_bit import eight_bits_work
from prompt_recovery.kernels.feed_forward import fuse_feed_forward
from prompt_recovery.kernels.linear import ACTIVATION_DTYPE, pack_linears
from prompt_recovery.kernels.memory import keep_freed_memory
from prompt_recovery.kernels.norms import fuse_norms
from prompt_recovery.metrics.plain import require_plain_config
from prompt_recovery.settings.extras import has_extra, installation
from prompt_recovery.storage import read_json
from prompt_recovery.terminal import announced, quiet

log = logging.getLogger(__name__)

_LARGE = 1 << 30  # bytes of bf16 weights


def load_tokenizer(backbone: Backbone, location: Location) -> Any:
    """The backbone's `transformers` tokenizer; its padding token may be the end-of-text token."""
    folder = converted(location)
    with announced(f"loading the tokenizer of {backbone.name}"):
        from transformers import AutoTokenizer

        tokenizer = _loaded(AutoTokenizer, folder, trust_remote_code=backbone.trust_remote_code)
    _require_usable(tokenizer, folder, backbone.name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.truncation_side = "left"
    return tokenizer


def load_reading_tokenizer(backbone: Backbone, location: Location) -> Any:
    """The tokenizer of a backbone: a `SmallTokenizer` if possible, or that of `transformers`."""
    folder = converted(location)
    small = None if backbone.trust_remote_code else small_tokenizer(folder)
    if small is None:
        return load_tokenizer(backbone, location)
    _require_usable(small, folder, backbone.name)
    return small


def load_merged(
    backbone: Backbone, location: Location, adapter: Path, dtype: torch.dtype
) -> SmallLlama | None:
    """The backbone with a merged adapter, if `SmallLlama` computes it as `transformers` does.

    None on a GPU, in a precision other than fp32, and for anything out of the ordinary.

    Args:
        backbone: The backbone.
        location: Its files, from `locate`.
        adapter: The folder of the adapter.
        dtype: The dtype of the computation.
    """
    if dtype != torch.float32 or torch.cuda.is_available() or backbone.trust_remote_code:
        return None
    folder = converted(location)
    with announced(f"loading the backbone {backbone.name}"):
        return small_llama(folder, adapter)


def _require_usable(tokenizer: Any, folder: Path, name: str) -> None:
    """Checks that answers can end, and that the model has an embedding for each token of texts."""
    if tokenizer.eos_token_id is None:
        raise PromptRecoveryError(
            f"model '{name}': the tokenizer in {folder} has no end-of-text token, with which "
            "answers end; set eos_token in its tokenizer_config.json"
        )
    rows = _embeddings(folder)
    # No text holds special tokens; models that read images, too, may lack embeddings for theirs.
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = {i for i in tokenizer.get_vocab().values() if i not in special}
    used |= {tokenizer.eos_token_id} | ({tokenizer.bos_token_id} - {None})
    if rows is not None and max(used) >= rows:
        raise PromptRecoveryError(
            f"model '{name}': the tokenizer in {folder} knows {max(used) + 1} tokens, and the "
            f"model has embeddings for {rows} only; give the tokenizer that belongs to the model, "
            "or resize the model's embeddings"
        )


def _embeddings(folder: Path) -> int | None:
    """The size of a model's vocabulary, as its configuration says."""
    config = read_json(folder / "config.json")
    for part in (config, config.get("text_config") if isinstance(config, dict) else None):
        size = part.get("vocab_size") if isinstance(part, dict) else None
        if isinstance(size, int):
            return size
    return None


def load_model(
    backbone: Backbone,
    location: Location,
    dtype: torch.dtype,
    four_bit: bool = False,
    eight_bit: bool = False,
) -> Any:
    """The backbone's frozen weights, in evaluation mode, on the CPU (or the GPU if `four_bit`).

    Args:
        backbone: The backbone.
        location: Its files, from `locate`.
        dtype: The dtype of the computation and of the weights. On a CPU, the linear layers of a
            large model that was saved in bf16 stay in bf16 even if `dtype` is fp32: they are
            widened while they are multiplied, which gives the same results in half the memory.
        four_bit: Whether to quantise the linear layers to NF4 with double quantisation (QLoRA,
            Dettmers et al., arXiv 2305.14314), which needs CUDA.
        eight_bit: Whether the linear layers multiply 8-bit integers, on the CPU, where `dtype` is
            fp32.

    Raises:
        PromptRecoveryError: If the files are unusable, or `four_bit` is asked for without CUDA.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {}
    if four_bit:
        require_four_bit()
        options["device_map"] = {"": torch.cuda.current_device()}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    folder = converted(location)
    if not torch.cuda.is_available():
        keep_freed_memory()
    thin = dtype == torch.float32 and not torch.cuda.is_available() and _worth_thinning(folder)
    with announced(f"loading the backbone {backbone.name}"):
        model = _loaded(
            AutoModelForCausalLM,
            folder,
            dtype=torch.bfloat16 if thin else dtype,
            use_safetensors=True,
            trust_remote_code=backbone.trust_remote_code,
            **options,
        )
    if thin:
        _widen_all_but_linear(model)
    if attention.suits(model):
        attention.register()
        model.set_attn_implementation(attention.NAME)
    # A slice of the hidden states (in generation, the last position) is not contiguous. On the CPU,
    # its product with the output weights would then copy these once for every row.
    model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, inputs: (inputs[0].contiguous(),)
    )
    # PEFT writes it into adapters; a folder of the cache would mean nothing elsewhere.
    model.name_or_path = backbone.public_name or backbone.path or backbone.name
    model.requires_grad_(False)
    fuse_norms(model)
    fuse_feed_forward(model)
    pack_linears(model)
    if thin and not eight_bit and eight_bits_work():
        log.info("%s would be about twice as fast here with precision=int8", backbone.name)
    if eight_bit:
        with announced(f"quantising {backbone.name} to 8 bits"):
            quantise(model, load_reading_tokenizer(backbone, location)(CALIBRATION)["input_ids"])
    return model.eval()


def _worth_thinning(folder: Path) -> bool:
    """Whether a model is large, and all of its weights are saved in bf16."""
    size = 0
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as tensors:
                if any(tensors.get_slice(k).get_dtype() != "BF16" for k in tensors.keys()):  # noqa: SIM118
                    return False
        except SafetensorError:  # `from_pretrained` says it better
            return False
        size += file.stat().st_size
    return size >= _LARGE


def _widen_all_but_linear(model: Any) -> None:
    """Converts a bf16 model to fp32 arithmetic; linear layers and embeddings keep their weights."""
    layers: set[Any] = {m for m in model.modules() if type(m) is nn.Linear}
    embeddings = model.get_input_embeddings()
    of_head = model.get_output_embeddings().weight
    if type(embeddings) is nn.Embedding and embeddings.weight is not of_head:
        embeddings.register_forward_hook(lambda _module, _inputs, output: output.float())
        layers.add(embeddings)
    others = (p for m in model.modules() if m not in layers for p in m.parameters(recurse=False))
    for parameter in others:
        parameter.data = parameter.data.float()
    for layer in layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.data = layer.bias.data.float()
    setattr(model, ACTIVATION_DTYPE, torch.float32)


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """All tokens that end an answer: the tokenizer's, and those of the model's chat format."""
    if isinstance(model, SmallLlama):
        return sorted({int(tokenizer.eos_token_id), *model.end_tokens})
    theirs = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    theirs = theirs if isinstance(theirs, list) else [] if theirs is None else [theirs]
    return sorted({int(tokenizer.eos_token_id), *map(int, theirs)})


def four_bit_obstacle() -> str | None:
    """The reason why 4-bit weights cannot be used here, and what to do; None if they can."""
    if not torch.cuda.is_available():
        return "adapter=qlora needs a CUDA GPU and there is none: use adapter=lora"
    return (
        None if has_extra("qlora") else f"adapter=qlora needs bitsandbytes: {installation('qlora')}"
    )


def require_four_bit() -> None:
    """Raises a `PromptRecoveryError` unless 4-bit weights can be used here."""
    obstacle = four_bit_obstacle()
    if obstacle is not None:
        raise PromptRecoveryError(obstacle)


def _loaded(auto: Any, folder: Path, **options: Any) -> Any:
    require_plain_config(folder)
    quiet()
    try:
        return auto.from_pretrained(folder, local_files_only=True, **options)
    except PromptRecoveryError:
        raise
    except Exception as error:  # any defect in files that the user gave
        raise PromptRecoveryError(
            f"cannot load {folder} ({first_line(error)}): the folder may be cut short; fetch it "
            "again"
        ) from error
