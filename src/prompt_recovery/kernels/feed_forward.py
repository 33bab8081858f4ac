"""Gated feed-forward layers that keep two of the four wide activations.

The backward pass of down(act(gate(x)) · up(x)), layer by layer, needs gate(x), act(gate(x)), up(x)
and their product. As one function, it needs gate(x) and up(x) only, and computes the others again,
which costs far less than a matrix product. These are the widest activations of a transformer, and
keeping them takes most of the memory of a training step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from prompt_recovery.kernels.linear import FrozenProduct
from prompt_recovery.kernels.lora import LowRank, gradients, parts_of, product

# Classes in `transformers` that compute down_proj(act_fn(gate_proj(x)) * up_proj(x)).
_CLASSES = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "GemmaMLP", "Gemma2MLP", "Gemma3MLP")
_SILU = ("SiLU", "SiLUActivation")
_GELU = ("GELUTanh", "PytorchGELUTanh")


def fuse_feed_forward(model: Any) -> int:
    """Makes the gated feed-forward layers of a model compute with `GatedProduct`.

    Adapters may be added later. A layer that `kernels.lora` can't compute, such as one with DoRA,
    is left to `transformers` and PEFT.

    Returns:
        The number of layers that were changed.
    """
    fused = 0
    for layer in model.modules():
        if type(layer).__name__ in _CLASSES and _activation(layer.act_fn) is not None:
            layer.forward = _Forward(layer)
            fused += 1
    return fused


def _activation(module: nn.Module) -> str | None:
    name = type(module).__name__
    return "silu" if name in _SILU else "gelu" if name in _GELU else None


class _Forward:
    """The replacement of a layer's forward method."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.kind = str(_activation(layer.act_fn))

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        layers = (layer.gate_proj, layer.up_proj, layer.down_proj)
        parts = [parts_of(m, x.dtype) for m in layers] if torch.is_grad_enabled() else [None]
        known = [p for p in parts if p is not None]
        if len(known) < len(layers):
            result: Tensor = type(layer).forward(layer, x)
            return result
        tensors = [t for _, adapter in known for t in (adapter[:2] if adapter else (None, None))]
        scales = [adapter[2] if adapter else 0.0 for _, adapter in known]
        y: Tensor = GatedProduct.apply(x, self.kind, [p for p, _ in known], scales, *tensors)
        return y


class GatedProduct(torch.autograd.Function):
    """y = D(act(G x) · U x), where each of G, U and D is a frozen product with or without LoRA.

    Shapes: x [..., d], y [..., d]; the inner activations are [n, w] with n the number of tokens.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        x: Tensor,
        kind: str,
        frozen: list[FrozenProduct],
        scales: list[float],
        *adapters: Tensor | None,
    ) -> Tensor:
        low_rank = _low_rank(adapters, scales)
        flat = x.reshape(-1, x.shape[-1])
        gate, thin_gate = product(flat, frozen[0], low_rank[0])
        up, thin_up = product(flat, frozen[1], low_rank[1])
        y, thin_down = product(_act(gate, kind).mul_(up), frozen[2], low_rank[2])
        ctx.save_for_backward(flat, gate, up, thin_gate, thin_up, thin_down, *adapters)
        ctx.kind, ctx.frozen, ctx.scales = kind, frozen, scales
        ctx.needs_x = x.requires_grad
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:  # noqa: D102
        flat, gate, up, thin_gate, thin_up, thin_down, *adapters = ctx.saved_tensors
        low_rank = _low_rank(adapters, ctx.scales)
        g = outputs[0].reshape(-1, outputs[0].shape[-1])
        active = _act(gate, ctx.kind)
        inner = active * up
        g_inner, *g_down = gradients(g, inner, thin_down, ctx.frozen[2], low_rank[2])
        assert g_inner is not None
        del inner
        g_up = active.mul_(g_inner)
        g_gate = _act_backward(g_inner.mul_(up), gate, ctx.kind)
        del g_inner
        g_x, *of_up = gradients(g_up, flat, thin_up, ctx.frozen[1], low_rank[1], ctx.needs_x)
        del g_up, active
        more, *of_gate = gradients(g_gate, flat, thin_gate, ctx.frozen[0], low_rank[0], ctx.needs_x)
        if g_x is not None and more is not None:
            g_x = g_x.add_(more).view(*outputs[0].shape[:-1], -1)
        return g_x, None, None, None, *of_gate, *of_up, *g_down


def _low_rank(adapters: Any, scales: list[float]) -> list[LowRank | None]:
    pairs = zip(adapters[::2], adapters[1::2], scales, strict=True)
    return [None if a is None else (a, b, s) for a, b, s in pairs]


def _act(x: Tensor, kind: str) -> Tensor:
    if kind == "silu":
        return nn.functional.silu(x)
    return nn.functional.gelu(x, approximate="tanh")


def _act_backward(g: Tensor, x: Tensor, kind: str) -> Tensor:
    if kind == "silu":
        return torch.ops.aten.silu_backward(g, x)
    return torch.ops.aten.gelu_backward(g, x, approximate="tanh")
