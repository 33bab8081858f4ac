"""Makes a folder in Hub format of the GGUF file of a small Llama, such as SmolLM2.

It writes the files that `transformers` writes, in a third of the time and without importing it.
Files of other kinds are left to `from_gguf`.
"""

import json
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from prompt_recovery.backbones.parts import require_space
from prompt_recovery.storage import MALFORMED

_LARGEST = 1 << 29  # bytes of bf16 weights
_BLOCK = 32  # weights that share a scale
_PIECE = 1 << 20  # weights that are computed at a time, in the processor's cache
_STRING, _ARRAY, _CONTROL = 8, 9, 3
_FORMATS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_SPECIAL = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
}  # fmt: skip


@dataclass(frozen=True)
class _Stored:
    """Where the weights of a tensor lie in the file, and how: by their shape, type and offset."""

    shape: tuple[int, ...]
    kind: int
    offset: int


def converted_small(file: Path, folder: Path) -> bool:
    """Writes the weights, in bf16, and the tokenizer of a GGUF file.

    Args:
        file: The GGUF file.
        folder: An empty folder. If the file isn't of the kind that is read here, or damaged, the
            folder stays empty.

    Returns:
        Whether the files were written.

    Raises:
        PromptRecoveryError: If the disk has too little space.
    """
    try:
        with file.open("rb") as opened:
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        values, stored, start = _header(data)
        config = _config(values, stored)
        if config is None:
            return False
        tokenizer = _tokenizer(values)
        require_space(folder, 2 * sum(prod(where.shape) for where in stored.values()))
        weights = {
            f"{_name(name)}.weight": _read(data, start, where, _order(name, config))
            for name, where in stored.items()
        }
    except (OSError, struct.error, UnicodeDecodeError, *MALFORMED):
        return False  # the library says it better
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_config(values))
    if "tokenizer.chat_template" in values:
        (folder / "chat_template.jinja").write_text(values["tokenizer.chat_template"], "utf-8")
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", _generation_config(config))
    return True


def _write(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(dict(values), indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def _header(data: Any) -> tuple[dict[str, Any], dict[str, _Stored], int]:
    """The metadata, the tensors by their names, and where the weights begin."""
    magic, kind, tensors, count = struct.unpack_from("<4sIQQ", data, 0)
    if magic != b"GGUF" or kind not in (2, 3):
        raise ValueError("not a GGUF file")
    at = 24
    values: dict[str, Any] = {}
    for _ in range(count):
        key, at = _string(data, at)
        values[key], at = _value(data, at + 4, struct.unpack_from("<I", data, at)[0])
    stored = {}
    for _ in range(tensors):
        name, at = _string(data, at)
        (size,) = struct.unpack_from("<I", data, at)
        *shape, form, offset = struct.unpack_from(f"<{size}QIQ", data, at + 4)
        stored[name] = _Stored(tuple(reversed(shape)), form, offset)
        at += 4 + struct.calcsize(f"<{size}QIQ")
    alignment = int(values.get("general.alignment", 32))
    return values, stored, -(-at // alignment) * alignment


def _string(data: Any, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise ValueError("cut short")
    return data[at + 8 : end].decode("utf-8"), end


def _value(data: Any, at: int, kind: int) -> tuple[Any, int]:
    """A value of the metadata, and where the next one begins."""
    if kind == _STRING:
        return _string(data, at)
    if kind != _ARRAY:
        form = f"<{_FORMATS[kind]}"
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    inner, count = struct.unpack_from("<IQ", data, at)
    if count > len(data):
        raise ValueError("cut short")
    at += 12
    if inner != _STRING:
        form = f"<{count}{_FORMATS[inner]}"
        return list(struct.unpack_from(form, data, at)), at + struct.calcsize(form)
    found = []
    for _ in range(count):
        text, at = _string(data, at)
        found.append(text)
    return found, at


def _config(values: Mapping[str, Any], stored: Mapping[str, _Stored]) -> dict[str, Any] | None:
    """`config.json`, or None if the file holds something else than is read here."""
    suits = (
        values["general.architecture"] == "llama"
        and values["tokenizer.ggml.model"] == "gpt2"
        and values["tokenizer.ggml.pre"] == "smollm"
        and "tokenizer.ggml.merges" in values
        and not any(values.get(f"tokenizer.ggml.add_{n}_token") for n in ("bos", "eos"))
        and not any(n.startswith(("llama.rope.scaling", "llama.expert")) for n in values)
        and all(where.kind in _READ for where in stored.values())
        and 2 * sum(prod(where.shape) for where in stored.values()) <= _LARGEST
    )
    if not suits:
        return None

    def own(name: str) -> Any:
        return values[f"llama.{name}"]

    return {
        "_model_name_or_path": values["general.name"],
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "dtype": "bfloat16",
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "head_dim": own("rope.dimension_count"),
        "hidden_act": "silu",
        "hidden_size": own("embedding_length"),
        "initializer_range": 0.02,
        "intermediate_size": own("feed_forward_length"),
        "max_position_embeddings": own("context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": own("attention.head_count"),
        "num_hidden_layers": own("block_count"),
        "num_key_value_heads": own("attention.head_count_kv"),
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": own("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_theta": own("rope.freq_base"), "rope_type": "default"},
        "tie_word_embeddings": "output.weight" not in stored,
        "transformers_version": version("transformers"),
        "unk_token_id": values["tokenizer.ggml.unknown_token_id"],
        "use_cache": True,
        "vocab_size": own("vocab_size"),
    }


def _generation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "use_cache")
    silent = {"output_attentions": False, "output_hidden_states": False}
    return {"_from_model_config": True, **silent, **{name: config[name] for name in kept}}


def _tokenizer(values: Mapping[str, Any]) -> Tokenizer:
    """A byte-level BPE tokenizer, whose control tokens are special tokens."""
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    model = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1")
    kinds = values["tokenizer.ggml.token_type"]
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    for token, kind in zip(tokens, kinds, strict=True):
        if kind != 1 and not (kind == _CONTROL and set(token) <= alphabet):
            raise ValueError(f"a token of type {kind}")
    control = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    return tokenizer


def _tokenizer_config(values: Mapping[str, Any]) -> dict[str, Any]:
    tokens = values["tokenizer.ggml.tokens"]
    named = {
        name: tokens[values[f"tokenizer.ggml.{key}_token_id"]] for name, key in _SPECIAL.items()
    }
    return {
        "backend": "tokenizers",
        **named,
        "is_local": True,
        "local_files_only": False,
        "model_max_length": int(1e30),
        "tokenizer_class": "TokenizersBackend",
    }


def _name(name: str) -> str:
    """The name of a tensor in `transformers`, without `.weight`."""
    kind = name.removesuffix(".weight")
    if kind == name:
        raise ValueError(f"{name} is unknown")
    if not kind.startswith("blk."):
        return _NAMES[kind]
    _, number, inner = kind.split(".")
    return f"model.layers.{int(number)}.{_NAMES[inner]}"


def _order(name: str, config: Mapping[str, Any]) -> int | None:
    """The number of heads whose rows llama.cpp has put into another order."""
    if ".attn_q." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".attn_k." in name else None


def _read(data: Any, start: int, where: _Stored, heads: int | None) -> Tensor:
    """The weights of a tensor in bf16."""
    size, read = _READ[where.kind]
    count, begin = prod(where.shape), start + where.offset
    if count % _BLOCK or begin + count // _BLOCK * size > len(data):
        raise ValueError("cut short")
    raw = torch.frombuffer(data, dtype=torch.uint8, count=count // _BLOCK * size, offset=begin)
    found = torch.empty(count, dtype=torch.bfloat16)
    blocks, rows = raw.view(-1, size), found.view(-1, _BLOCK)
    for part in range(0, len(blocks), _PIECE // _BLOCK):
        end = part + _PIECE // _BLOCK
        rows[part:end] = read(blocks[part:end])
    found = found.view(where.shape)
    if heads is not None:
        found = found.view(heads, -1, 2, found.shape[1]).swapaxes(1, 2).reshape(where.shape)
    return found


def _scale(blocks: Tensor, column: int) -> Tensor:
    """The fp16 number that begins at a column of each block, as fp32 [n, 1]."""
    return blocks[:, column : column + 2].contiguous().view(torch.float16).float()


def _f32(blocks: Tensor) -> Tensor:
    return blocks.contiguous().view(torch.float32)


def _q4_1(blocks: Tensor) -> Tensor:
    """d·q + m with q of 4 bits: first the lower halves of 16 bytes, then the upper ones."""
    packed = blocks[:, 4:]
    whole = torch.cat([packed & 15, packed >> 4], 1).float()
    return whole.mul_(_scale(blocks, 0)).add_(_scale(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    """d·q with q of 8 bits."""
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(_scale(blocks, 0))


_READ: Mapping[int, tuple[int, Callable[[Tensor], Tensor]]] = {
    0: (4 * _BLOCK, _f32), 3: (20, _q4_1), 8: (34, _q8_0),
}  # fmt: skip
"""The bytes of a block of 32 weights, and the function that reads it, by ggml's type."""
