"""LoRA layers with fewer passes over memory.

PEFT computes W x + s·B(A x) in five operations, three of which read and write a tensor as large as
the layer's output, and so does its backward pass. Adding the low-rank product to the output in
place leaves one of the three. The parameters, their names and the files remain those of PEFT.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from prompt_recovery.kernels.linear import FrozenProduct, product_of


def fuse_lora(model: Any) -> int:
    """Makes the plain LoRA layers of a `PeftModel` compute with `LoraProduct`.

    Other layers (DoRA, dropout, quantised weights, several adapters) are left to PEFT, and so is a
    fused layer while its adapter is disabled or merged.

    Returns:
        The number of layers that were changed.
    """
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


class _Forward:
    """The replacement of a layer's forward method."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.peft = layer.forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        layer = self.layer
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        base = layer.get_base_layer()
        off = layer.disable_adapters or layer.merged or layer.active_adapters != ["default"]
        if off or args or kwargs or x.dtype != a.dtype or base.weight.dtype != a.dtype:
            return self.peft(x, *args, **kwargs)
        return LoraProduct.apply(x, product_of(base), a, b, layer.scaling["default"])


class LoraProduct(torch.autograd.Function):
    """y = x Wᵀ + bias + s·(x Aᵀ) Bᵀ with W and the bias frozen (LoRA, arXiv 2106.09685, eq. 3).

    Shapes: x [..., i], W [o, i], A [r, i], B [o, r], y [..., o], all of the same dtype.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, frozen: FrozenProduct, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        thin = (flat @ a.T).mul_(s)
        y = frozen.forward(flat).addmm_(thin, b.T)
        ctx.save_for_backward(flat, thin, a, b)
        ctx.frozen, ctx.scaling = frozen, s
        ctx.needs_x = x.requires_grad
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:  # noqa: D102
        flat, thin, a, b = ctx.saved_tensors
        g = outputs[0].reshape(-1, outputs[0].shape[-1])
        g_thin = (g @ b).mul_(ctx.scaling)
        g_x = None
        if ctx.needs_x:
            g_x = ctx.frozen.backward(g).addmm_(g_thin, a).view(*outputs[0].shape[:-1], -1)
        return g_x, None, g_thin.T @ flat, (thin.T @ g).T, None
