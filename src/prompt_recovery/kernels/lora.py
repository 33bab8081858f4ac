"""LoRA layers with fewer passes over memory.

PEFT computes W x + s·B(A x) in five operations, three of which read and write a tensor as large as
the layer's output, and so does its backward pass. Adding the low-rank product to the output in
place leaves one of the three. The parameters, their names and the files remain those of PEFT.
"""

from typing import Any

import torch
from torch import Tensor, nn

from prompt_recovery.kernels.linear import FrozenProduct, add_matmul, matmul, product_of


def fuse_lora(model: Any) -> int:
    """Makes the plain LoRA layers of a `PeftModel` compute with `LoraProduct`.

    Other layers (DoRA, dropout, quantised weights, several adapters) are left to PEFT, and so is a
    fused layer while its adapter is disabled or merged.

    Returns:
        The number of layers that were changed.
    """
    from peft.tuners.lora import Linear

    fused = 0
    for layer in model.modules():
        if isinstance(layer, Linear) and _is_plain(layer):
            layer.forward = _Forward(layer)
            fused += 1
    return fused


def _is_plain(layer: Any) -> bool:
    names = list(layer.lora_A)
    return (
        names == ["default"]
        and type(layer.get_base_layer()) is nn.Linear
        and type(layer.lora_dropout["default"]) is nn.Identity
        and not layer.lora_variant
        and not layer.lora_bias["default"]
        and not layer.fan_in_fan_out
    )


LowRank = tuple[Tensor, Tensor, float]  # A [r, i], B [o, r] and the factor


def parts_of(layer: Any, dtype: torch.dtype) -> tuple[FrozenProduct, LowRank | None] | None:
    """The frozen product of a linear layer and its adapter, which is None if there is none.

    None if this module cannot compute the layer: it is of another kind, its adapter is disabled or
    merged, or it has another dtype.
    """
    if type(layer) is nn.Linear:
        trained = any(p.requires_grad for p in layer.parameters(recurse=False))
        return None if trained else (product_of(layer), None)
    forward = vars(layer).get("forward")
    if not isinstance(forward, _Forward) or not forward.is_on(dtype):
        return None
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return product_of(layer.get_base_layer()), (a, b, layer.scaling["default"])


_THIN = (torch.bfloat16, torch.int8)


class _Forward:
    """The replacement of a layer's forward method."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.peft = layer.forward

    def is_on(self, dtype: torch.dtype) -> bool:
        layer = self.layer
        off = layer.disable_adapters or layer.merged or layer.active_adapters != ["default"]
        frozen = layer.get_base_layer().weight.dtype
        return (
            not off
            and layer.lora_A["default"].weight.dtype == dtype
            # bf16 and 8 bits save memory under fp32 arithmetic
            and (frozen == dtype or (dtype == torch.float32 and frozen in _THIN))
        )

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        parts = None if args or kwargs else parts_of(self.layer, x.dtype)
        frozen, low_rank = parts or (None, None)
        if low_rank is None:
            return self.peft(x, *args, **kwargs)
        return LoraProduct.apply(x, frozen, *low_rank)


class LoraProduct(torch.autograd.Function):
    """y = x Wᵀ + bias + s·(x Aᵀ) Bᵀ with W and the bias frozen (LoRA, arXiv 2106.09685, eq. 3).

    Shapes: x [..., i], W [o, i], A [r, i], B [o, r], y [..., o], all of the same dtype, but W may
    be bf16 where the others are fp32.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, frozen: FrozenProduct, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y, thin = product(flat, frozen, (a, b, s))
        ctx.save_for_backward(flat, thin, a, b)
        ctx.frozen, ctx.scaling = frozen, s
        ctx.needs_x = x.requires_grad
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:  # noqa: D102
        flat, thin, a, b = ctx.saved_tensors
        g = outputs[0].reshape(-1, outputs[0].shape[-1])
        low_rank = (a, b, ctx.scaling)
        g_x, g_a, g_b = gradients(g, flat, thin, ctx.frozen, low_rank, ctx.needs_x)
        if g_x is not None:
            g_x = g_x.view(*outputs[0].shape[:-1], -1)
        return g_x, None, g_a, g_b, None


def product(
    x: Tensor, frozen: FrozenProduct, low_rank: LowRank | None
) -> tuple[Tensor, Tensor | None]:
    """x Wᵀ + bias + s·(x Aᵀ) Bᵀ, [n, o], and s·x Aᵀ, [n, r], of x [n, i]."""
    if low_rank is None:
        return frozen.forward(x), None
    a, b, s = low_rank
    thin = matmul(x, a.T).mul_(s)
    return add_matmul(frozen.forward(x), thin, b.T), thin


def gradients(
    g: Tensor,
    x: Tensor,
    thin: Tensor | None,
    frozen: FrozenProduct,
    low_rank: LowRank | None,
    needs_x: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x [n, i], A [r, i] and B [o, r], given that of the product, g [n, o]."""
    g_x = frozen.backward(g) if needs_x else None
    if low_rank is None or thin is None:
        return g_x, None, None
    a, b, s = low_rank
    g_thin = matmul(g, b).mul_(s)
    if g_x is not None:
        add_matmul(g_x, g_thin, a)
    return g_x, matmul(g_thin.T, x), matmul(thin.T, g).T
