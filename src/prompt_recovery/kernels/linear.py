"""Matrix products with frozen bf16 weights, as fast as the processor allows.

On a CPU with bf16 arithmetic, a product spends part of its time bringing the weights into the order
in which the kernels read them. Frozen weights need this only once, which makes the products of a
training step 8 to 25 % faster (and independent of where the weights lie in memory) and those of a
decoding step 1.3 to 2 times as fast.

On a CPU without it, PyTorch's bf16 products are about ten times slower than those in fp32. Here,
the weights stay in bf16 and are widened a tile at a time, while they are multiplied. This is exact,
costs a few percent of the product in training, and halves the memory of the weights.
"""

import threading
from functools import cache
from typing import Any

import psutil
import torch
from torch import Tensor, nn

ACTIVATION_DTYPE = "activation_dtype"  # an attribute of models whose weights have another dtype

_MEMORY = 0.25  # the largest share of the free memory for packed copies
_PACKED_BYTES = 3 << 29  # the largest size of all packed copies
_TILE = 1 << 24  # the largest number of weights that are widened at a time: 64 MiB
_SMALL_TILE = 1 << 20  # the same for few rows, where the tile should stay in the processor's cache
_FEW_ROWS = 64


def pack_linears(model: Any) -> int:
    """Makes the linear layers of a frozen bf16 model compute with `FrozenProduct`.

    Weights, names and files don't change. If the processor has bf16 arithmetic, layers are packed
    when they are first used, those next to the output first, as long as the packed copies of all of
    them take at most 1.5 GiB and a quarter of the free memory.

    Returns:
        The number of layers that will be packed.
    """
    layers = [m for m in model.modules() if type(m) is nn.Linear and _can_be_packed(m.weight)]
    room = min(_MEMORY * psutil.virtual_memory().available, _PACKED_BYTES) if layers else 0
    packed = 0
    for layer in reversed(layers):
        room -= 2 * layer.weight.nbytes  # for the forward and the backward pass
        pack = room >= 0 and _packs_work()
        use_product(layer, FrozenProduct(layer, pack))
        packed += pack
    return packed


def activation_dtype(model: Any) -> torch.dtype:
    """The dtype of a model's activations, which may be fp32 while its weights are bf16."""
    dtype: torch.dtype = getattr(model, ACTIVATION_DTYPE, None) or model.dtype
    return dtype


@cache
def bf16_is_native() -> bool:
    """Whether this processor multiplies bf16 numbers itself."""
    supported = torch.backends.mkldnn.is_available()
    return bool(supported and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in the dtype of a, computed in fp32 where bf16 products are slow."""
    if _is_slow(a):
        return (a.float() @ b.float()).to(a.dtype)
    return a @ b


def add_matmul(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Adds a @ b to y in place, computed in fp32 where bf16 products are slow."""
    return y.add_(a.float() @ b.float()) if _is_slow(a) else y.addmm_(a, b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias, [n, o] in the dtype of x [n, i]; the frozen weight W [o, i] may be bf16."""
    if not _is_widened(x, weight):
        return nn.functional.linear(x, weight, bias)
    wide = x.float()
    y = wide.new_empty(len(wide), len(weight))
    for start, tile in _widened(weight, len(wide)):
        torch.mm(wide, tile.T, out=y[:, start : start + len(tile)])
    if bias is not None:
        y += bias
    return y.to(x.dtype)


def linear_backward(g: Tensor, weight: Tensor) -> Tensor:
    """g W, [n, i] in the dtype of g [n, o]; the frozen weight W [o, i] may be bf16."""
    if not _is_widened(g, weight):
        return g @ weight
    wide = g.float()
    x: Tensor | None = None
    for start, tile in _widened(weight, len(wide)):
        columns = wide[:, start : start + len(tile)]
        x = columns @ tile if x is None else x.addmm_(columns, tile)
    assert x is not None
    return x.to(g.dtype)


_scratch = threading.local()  # a new buffer for every product would cost more than the widening


def _widened(weight: Tensor, rows: int) -> Any:
    """Yields (first row, fp32 copy) of tiles of a bf16 weight; a copy is valid until the next."""
    tile = max((_SMALL_TILE if rows <= _FEW_ROWS else _TILE) // weight.shape[1], 1)
    size = min(tile, len(weight)) * weight.shape[1]
    buffer = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):
            buffer = _scratch.buffer = torch.empty(size)
    for start in range(0, len(weight), tile):
        part = weight[start : start + tile].detach()
        wide = buffer[: part.numel()].view(part.shape)
        with torch.no_grad():
            wide.copy_(part)
        yield start, wide


def _is_slow(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not bf16_is_native()


def _is_widened(x: Tensor, weight: Tensor) -> bool:
    return _can_be_packed(weight) and (x.dtype == torch.float32 or _is_slow(x))


def use_product(layer: nn.Linear, product: "FrozenProduct") -> None:
    """Makes a frozen layer compute with a product."""
    layer.forward = _Forward(product)  # type: ignore[method-assign, assignment]


def product_of(layer: nn.Linear) -> "FrozenProduct":
    """The product of a linear layer, with packed weights if `pack_linears` changed it."""
    forward = layer.forward
    return forward.product if isinstance(forward, _Forward) else FrozenProduct(layer, pack=False)


class FrozenProduct:
    """Computes x Wᵀ + bias and, in the backward pass, g W.

    Args:
        layer: The frozen layer with W [o, i] and the bias. W is packed again if it has changed.
        pack: Whether to keep packed copies of W.
    """

    def __init__(self, layer: nn.Linear, pack: bool = True) -> None:
        self.layer = layer
        self._pack = pack
        self._copies: dict[str, tuple[tuple[int, int], Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + bias, [n, o], of x [n, i]."""
        weight, bias = self.layer.weight, self.layer.bias
        if self._is_packed(x):
            return _product(x, self._copy("forward", weight), bias)
        return linear(x, weight, bias)

    def backward(self, g: Tensor) -> Tensor:
        """g W, [n, i], of g [n, o]."""
        weight = self.layer.weight
        if self._is_packed(g):
            return _product(g, self._copy("backward", weight), None)
        return linear_backward(g, weight)

    def _is_packed(self, x: Tensor) -> bool:
        weight = self.layer.weight
        return self._pack and x.dtype == weight.dtype and _can_be_packed(weight)

    def _copy(self, way: str, weight: Tensor) -> Tensor:
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        known = self._copies.get(way)
        if known is None or known[0] != version:
            with torch.inference_mode(False), torch.no_grad():
                plain = weight.detach() if way == "forward" else weight.detach().T.contiguous()
                known = (version, torch.ops.mkldnn._reorder_linear_weight(plain, None))
            self._copies[way] = known
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_copies": {}}  # packed tensors can neither be copied nor pickled


class _Forward:
    """The replacement of a layer's forward method."""

    def __init__(self, product: FrozenProduct) -> None:
        self.product = product

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.product.layer
        if any(p.requires_grad for p in layer.parameters(recurse=False)):  # no longer frozen
            return nn.functional.linear(x, layer.weight, layer.bias)
        y: Tensor = _FrozenLinear.apply(x, self.product)
        return y


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: FrozenProduct) -> Tensor:
        ctx.product = product
        return product.forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        g = outputs[0]
        return ctx.product.backward(g.reshape(-1, g.shape[-1])).view(*g.shape[:-1], -1), None


def _can_be_packed(weight: Tensor) -> bool:
    return (
        type(weight) in (nn.Parameter, Tensor)
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and not weight.requires_grad
    )


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


@cache
def _packs_work() -> bool:
    """Whether products with packed bf16 weights work, and are right, on this processor."""
    if not bf16_is_native():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (5, 96))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        y = _product(x, packed, None)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.allclose(y.float(), x.float() @ weight.float().T, rtol=0.02, atol=0.1)
