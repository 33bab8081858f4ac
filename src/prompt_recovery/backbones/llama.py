"""A small Llama that writes and scores texts, for the common case of a backbone with an adapter.

It computes the same log-probabilities as `transformers` and PEFT, up to rounding errors, and starts
in a fraction of the time, because importing these libraries takes seconds. Anything that it does
not support is left to them, and so is all training.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from prompt_recovery.kernels import attention
from prompt_recovery.kernels.key_values import KeyValues
from prompt_recovery.kernels.memory import keep_freed_memory
from prompt_recovery.metrics.plain import require_plain_config
from prompt_recovery.storage import MALFORMED, read_json, read_small

_LARGEST = 1 << 29  # bytes of weights; the linear layers of larger models stay in bf16
_JSON_BYTES = 1 << 22
_DTYPES = ("F32", "BF16", "F16")
_PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
# What is computed here, in `config.json` and in `adapter_config.json`. These are the defaults, too.
_FIXED: dict[str, Any] = {
    "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "rope_scaling": None, "rope_interleaved": False, "quantization_config": None,
    "sliding_window": None, "text_config": None,
}  # fmt: skip
_PLAIN_ADAPTER: dict[str, Any] = {"peft_type": "LORA", "bias": "none"}
_NEUTRAL = {  # no influence on how trained weights compute, or read below
    "auto_mapping", "base_model_name_or_path", "inference_mode", "layers_to_transform",
    "lora_alpha", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "r",
    "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")  # of weights that are then overwritten


@dataclass(frozen=True)
class _Shape:
    """The shape of a model, and what trees ask of a configuration."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    heads: int
    groups: int
    head_dim: int
    epsilon: float
    theta: float
    tied: bool
    end_tokens: tuple[int, ...]
    _attn_implementation: str = attention.NAME

    def get_text_config(self) -> "_Shape":
        """The configuration itself."""
        return self


@dataclass(frozen=True)
class _Output:
    last_hidden_state: Tensor


class _Cache:
    """The keys and values of all layers."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.layers = [KeyValues(capacity) for _ in range(layers)]

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keeps some rows of the batch only."""
        for layer in self.layers:
            layer.select(rows)


class SmallLlama(nn.Module):
    """Llama (Touvron et al., arXiv 2302.13971) in fp32, with merged adapters.

    It has the parts of a `transformers` causal LM that completion trees use.

    Args:
        shape: The shape.
        weights: The weights, fp32, by their names here.
    """

    is_activation_checkpointing = False

    def __init__(self, shape: _Shape, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = shape
        self._decoder = _Decoder(shape, weights)
        self._head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False, device="meta")
        self._head.weight = _frozen(weights["embed" if shape.tied else "head"])

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._head.weight.dtype

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end an answer in the model's chat format."""
        return self.config.end_tokens

    def get_decoder(self) -> "_Decoder":
        """The model without its output layer."""
        return self._decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The layer that embeds the tokens."""
        return self._decoder.embed

    def get_output_embeddings(self) -> nn.Linear:
        """The output layer."""
        return self._head

    def new_cache(self, capacity: int) -> _Cache:
        """An empty cache for rows of at most `capacity` tokens."""
        return _Cache(self.config.num_hidden_layers, capacity)


class _Decoder(nn.Module):
    def __init__(self, shape: _Shape, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(weights["embed"])
        layers = range(shape.num_hidden_layers)
        self.layers = nn.ModuleList(_Layer(shape, weights, f"{n}.") for n in layers)
        self.norm = _Norm(weights["norm"], shape.epsilon)
        steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        self._frequencies = 1.0 / (shape.theta**steps)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Any = None,
        past_key_values: _Cache | None = None,
        use_cache: bool = False,
    ) -> _Output:
        """The hidden states [R, T, d] of tokens [R, T]; the arguments are those of a Llama."""
        hidden = self.embed(input_ids)
        angles = position_ids[..., None].float() * self._frequencies
        angles = torch.cat((angles, angles), dim=-1)[:, None]  # [R, 1, T, D]
        rotation = angles.cos(), angles.sin()
        for number, layer in enumerate(self.layers):
            kept = past_key_values.layers[number] if past_key_values and use_cache else None
            hidden = layer(hidden, rotation, attention_mask, kept)
        return _Output(self.norm(hidden))


class _Layer(nn.Module):
    def __init__(self, shape: _Shape, weights: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        self._shape = shape
        self.qkv, self.out = _frozen(weights[f"{prefix}qkv"]), _frozen(weights[f"{prefix}out"])
        self.before = _Norm(weights[f"{prefix}before"], shape.epsilon)
        self.after = _Norm(weights[f"{prefix}after"], shape.epsilon)
        self.mlp = _FeedForward(weights[f"{prefix}gate_up"], weights[f"{prefix}down"])

    def forward(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], mask: Any, kept: KeyValues | None
    ) -> Tensor:
        heads, groups = self._shape.heads, self._shape.groups
        parts = F.linear(self.before(hidden), self.qkv).unflatten(-1, (-1, self._shape.head_dim))
        parts = parts.transpose(1, 2)  # [R, H + 2 K, T, D]
        query, key = _rotated(parts[:, : heads + groups], rotation).split((heads, groups), 1)
        value = parts[:, heads + groups :]
        if kept is not None:
            key, value = kept.add(key, value)
        found = _attended(self, query, key, value, mask)
        hidden = hidden + F.linear(found.flatten(2), self.out)
        after: Tensor = hidden + self.mlp(self.after(hidden))
        return after


class _FeedForward(nn.Module):
    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.gate_up, self.down = _frozen(gate_up), _frozen(down)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = F.linear(hidden, self.gate_up).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down)


class _Norm(nn.Module):
    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self._epsilon = _frozen(weight), epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self._epsilon)
        return hidden * scale * self.weight


def _rotated(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (Su et al., arXiv 2104.09864) of [R, H, T, D]."""
    cos, sin = rotation
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat((-second, first), -1) * sin


def _attended(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
    """The outputs [R, T, H, D] of queries [R, H, T, D]."""
    decoding = query.shape[2] < key.shape[2] and not torch.is_grad_enabled()
    if isinstance(mask, attention.PlannedMask) or (mask is not None and decoding):
        return attention.attention(module, query, key, value, mask)[0]
    found = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )
    return found.transpose(1, 2)


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def small_llama(folder: Path, adapter: Path) -> SmallLlama | None:
    """The model in a folder with a merged adapter, in fp32 on the CPU, in evaluation mode.

    None if it isn't exactly what `SmallLlama` computes, or a file is damaged.

    Args:
        folder: A folder in Hub format.
        adapter: A folder with a PEFT adapter of this model.

    Raises:
        PromptRecoveryError: If the configuration asks for something that isn't loaded here.
    """
    require_plain_config(folder)
    try:
        shape = _shape_of(folder)
        merging = None if shape is None else _Merging.read(adapter, shape)
        if shape is None or merging is None:
            return None
        weights = _weights(folder / "model.safetensors", shape, merging)
    except (OSError, SafetensorError, *MALFORMED):
        return None  # the library says it better
    keep_freed_memory()
    return None if weights is None else SmallLlama(shape, weights).eval()


def _shape_of(folder: Path) -> _Shape | None:
    config = dict(read_json(folder / "config.json"))
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10_000.0)}
    plain_rope = set(rope) <= {"rope_theta", "rope_type"} and (
        rope.get("rope_type", "default") == "default"
    )
    if not plain_rope or any(config.get(n, value) != value for n, value in _FIXED.items()):
        return None
    generation = folder / "generation_config.json"
    ends = (read_json(generation) if generation.is_file() else config).get("eos_token_id")
    heads, size = int(config["num_attention_heads"]), int(config["hidden_size"])
    shape = _Shape(
        vocab_size=int(config["vocab_size"]),
        hidden_size=size,
        intermediate_size=int(config["intermediate_size"]),
        num_hidden_layers=int(config["num_hidden_layers"]),
        heads=heads,
        groups=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or size // heads),
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        theta=float(rope["rope_theta"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        end_tokens=tuple(
            map(int, ends if isinstance(ends, list) else [] if ends is None else [ends])
        ),
    )
    return shape if shape.heads % shape.groups == 0 and shape.head_dim % 2 == 0 else None


def _layer_shapes(shape: _Shape) -> dict[str, tuple[int, int]]:
    """The shapes of the linear layers of a decoder layer, by their names in `transformers`."""
    wide, thin = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    size, inner = shape.hidden_size, shape.intermediate_size
    return {
        "self_attn.q_proj": (wide, size),
        "self_attn.k_proj": (thin, size),
        "self_attn.v_proj": (thin, size),
        "self_attn.o_proj": (size, wide),
        "mlp.gate_proj": (inner, size),
        "mlp.up_proj": (inner, size),
        "mlp.down_proj": (size, inner),
    }


@dataclass(frozen=True)
class _Merging:
    """A LoRA adapter: s·B A is added to some weights.

    Attributes:
        pairs: A [r, i] and B [o, r] by the layer's number and name.
        scaling: The factor s.
    """

    pairs: Mapping[tuple[int, str], tuple[Tensor, Tensor]]
    scaling: float

    @classmethod
    def read(cls, folder: Path, shape: _Shape) -> "_Merging | None":
        """The adapter in a folder, or None if it isn't a plain one."""
        config = dict(json.loads(read_small(folder / "adapter_config.json", _JSON_BYTES)))
        others = {n: v for n, v in config.items() if v and n not in _NEUTRAL}
        start = others.pop("init_lora_weights", True)
        targets = config["target_modules"]
        if others != _PLAIN_ADAPTER or start not in _PLAIN_STARTS or isinstance(targets, str):
            return None
        names = {n.rpartition(".")[2]: n for n in _layer_shapes(shape)}
        layers = config.get("layers_to_transform")
        numbers = range(shape.num_hidden_layers) if layers is None else layers
        expected = {(number, names[target]) for number in numbers for target in targets}
        rank, pairs = int(config["r"]), {}
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            found = {_place(key) for key in file.keys()}  # noqa: SIM118
            if found != {(*place, side) for place in expected for side in "AB"}:
                return None
            for number, name in expected:
                out, into = _layer_shapes(shape)[name]
                key = f"base_model.model.model.layers.{number}.{name}.lora_"
                a, b = (file.get_tensor(f"{key}{side}.weight").float() for side in "AB")
                if a.shape != (rank, into) or b.shape != (out, rank):
                    return None
                pairs[number, name] = a, b
        return cls(pairs, float(config["lora_alpha"]) / rank)

    def add(self, weight: Tensor, number: int, name: str) -> None:
        """Adds the adapter of a layer to its weight [o, i], if it has one."""
        pair = self.pairs.get((number, name))
        if pair is not None:
            weight.addmm_(pair[1], pair[0], alpha=self.scaling)


_PLACE = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.([a-z_.]+)\.lora_([AB])\.weight")


def _place(key: str) -> Any:
    """The layer's number, its name and A or B."""
    match = _PLACE.fullmatch(key)
    return None if match is None else (int(match[1]), match[2], match[3])


def _weights(path: Path, shape: _Shape, merging: _Merging) -> dict[str, Tensor] | None:
    """The weights by their names in `SmallLlama`, fp32; None if the file has others."""
    if path.stat().st_size > _LARGEST:
        return None
    with safe_open(path, framework="pt") as file:
        known = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        if {name: tuple(part.get_shape()) for name, part in known.items()} != dict(_names(shape)):
            return None
        if any(part.get_dtype() not in _DTYPES for part in known.values()):
            return None

        def plain(name: str) -> Tensor:
            return torch.as_tensor(file.get_tensor(f"{name}.weight")).float()

        weights = {"embed": plain("model.embed_tokens"), "norm": plain("model.norm")}
        if not shape.tied:
            weights["head"] = plain("lm_head")
        sizes = _layer_shapes(shape)
        for number in range(shape.num_hidden_layers):
            layer = f"model.layers.{number}."
            weights[f"{number}.before"] = plain(f"{layer}input_layernorm")
            weights[f"{number}.after"] = plain(f"{layer}post_attention_layernorm")
            for name, parts in _PARTS.items():
                whole = torch.empty(sum(sizes[part][0] for part in parts), sizes[parts[0]][1])
                rows = iter(whole.split([sizes[part][0] for part in parts]))
                for part in parts:
                    own = next(rows)
                    own.copy_(file.get_tensor(f"{layer}{part}.weight"))
                    merging.add(own, number, part)
                weights[f"{number}.{name}"] = whole
        return weights


def _names(shape: _Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of all weights in a file."""
    size = shape.hidden_size
    yield "model.embed_tokens.weight", (shape.vocab_size, size)
    yield "model.norm.weight", (size,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab_size, size)
    for number in range(shape.num_hidden_layers):
        layer = f"model.layers.{number}."
        yield f"{layer}input_layernorm.weight", (size,)
        yield f"{layer}post_attention_layernorm.weight", (size,)
        for name, sizes in _layer_shapes(shape).items():
            yield f"{layer}{name}.weight", sizes
