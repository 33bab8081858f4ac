"""RMSNorm with fewer passes over memory.

As `transformers` computes it, the layer and its gradient read or write the activations about twenty
times, in fp32; a third of that is enough. Weights, names and files don't change.
"""

from typing import Any

import torch
from torch import Tensor


def fuse_norms(model: Any) -> int:
    """Makes the RMSNorm layers of a frozen model compute with `NormProduct`.

    RMSNorm classes differ in whether they multiply by the weight or by 1 + weight, and in where
    they round. A layer is changed only if one of the two variants gives the layer's own results on
    random input.

    Returns:
        The number of layers that were changed.
    """
    fused = 0
    with torch.no_grad():
        for layer in model.modules():
            if type(layer).__name__.endswith("RMSNorm") and (forward := _found(layer)):
                layer.forward = forward
                fused += 1
    return fused


def _found(layer: Any) -> Any:
    weight = getattr(layer, "weight", None)
    epsilon = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    if not isinstance(weight, Tensor) or not isinstance(epsilon, float) or weight.is_meta:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(weight), generator=generator).to(weight)
    for one_plus in (False, True):
        forward = _Forward(layer, epsilon, one_plus)
        if torch.equal(forward(x), layer(x)):
            return forward
    return None


class _Forward:
    """The replacement of a layer's forward method."""

    def __init__(self, layer: Any, epsilon: float, one_plus: bool) -> None:
        self.layer = layer
        self.epsilon = epsilon
        self.one_plus = one_plus

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = NormProduct.apply(x, self.layer.weight, self.epsilon, self.one_plus)
        return y


class NormProduct(torch.autograd.Function):
    """y = w · x / √(mean x² + ε) in fp32, with w frozen (Zhang and Sennrich, arXiv 1910.07467).

    Gemma has 1 + w in place of w.

    Shapes: x [..., d], w [d]. With x̂ = r x and r = 1 / √(mean x² + ε), the gradient of x is
    r (g w − x̂ · mean(g w x̂)).
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, epsilon: float, one_plus: bool
    ) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True).add_(epsilon))
        unit = wide * scale
        ctx.save_for_backward(x, scale, weight)
        ctx.one_plus = one_plus
        if one_plus:
            return unit.mul_(1.0 + weight.float()).to(x.dtype)
        return unit.to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:  # noqa: D102
        x, scale, weight = ctx.saved_tensors
        factor = 1.0 + weight.float() if ctx.one_plus else weight.float()
        unit = x.float() * scale  # products of mixed dtypes are slow
        g = outputs[0].float() * factor
        mean = torch.linalg.vecdot(g, unit).unsqueeze(-1).div_(-x.shape[-1])
        return g.addcmul_(unit, mean).mul_(scale).to(x.dtype), None, None, None
