"""Matrix products with frozen weights in 8-bit integers, for processors that multiply them fast.

Processors with AVX512-VNNI multiply 8-bit integers four times as fast as fp32 numbers. Here,
weights are quantised once, and the rows of the other factor whenever they are multiplied; the
products are summed exactly, in 32 bits. Language models have a few inputs that are many times
larger than the others, which would leave little of the 8 bits to the rest, so each column of a
weight takes over a part of the range of the input that it is multiplied by (SmoothQuant, Xiao et
al., arXiv 2211.10438, eq. 4, with α = 0.5).

Gradients have rows whose values differ far more, and 8 bits change their direction (a cosine of
0.93 to the exact gradient of Qwen2.5-1.5B's adapter, which 16 bits raise to 0.99). They are
therefore the sum of two 8-bit parts, a fine one and a coarse one.
"""

from functools import cache

import torch
from torch import Tensor, nn

from prompt_recovery.kernels.linear import FrozenProduct, use_product

_LARGEST = 127
_TILE = 1 << 19  # weights that are quantised at a time
_ROWS = 256  # the most rows that are multiplied at a time
_FINE = 256  # the fine part of a 16-bit number has this many values
_LEAST = 0.1  # of the median of a layer's largest inputs: some are 0 in a short text


@cache
def eight_bits_work() -> bool:
    """Whether products of 8-bit integers are right on this processor.

    Without VNNI, PyTorch's kernels add pairs of them in 16 bits, which are too few for large ones.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-127, 128, (n, 192), generator=generator) for n in (33, 80))
    a[0], b[0] = _LARGEST, _LARGEST
    b[1] = -_LARGEST
    try:
        found = torch._int_mm(a.to(torch.int8), b.to(torch.int8).T)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(found.long(), a @ b.T)


def quantise_linear(layer: nn.Linear, largest: Tensor) -> None:
    """Replaces a frozen layer's weight by 8-bit integers, and its product by `EightBitProduct`.

    Args:
        layer: The layer, with W [o, i].
        largest: The largest absolute value that each input is expected to have, [i].
    """
    use_product(layer, EightBitProduct(layer, largest))


class EightBitProduct(FrozenProduct):
    """Computes x Wᵀ + bias and g W with W ≈ diag(rows) · Q · diag(columns), Q of 8-bit integers.

    x, g and the results are fp32. Each row of a result depends on the same row of the other factor
    alone, so that it doesn't matter what else is in a batch.

    Args:
        layer: The frozen layer with W [o, i], whose weight becomes Q.
        largest: As for `quantise_linear`.
    """

    def __init__(self, layer: nn.Linear, largest: Tensor) -> None:
        super().__init__(layer, pack=False)
        weight = layer.weight.detach()
        expected = largest.clamp(min=max(float(largest.median()) * _LEAST, 1e-6))
        # A few rows at a time stay in the processor's cache, where this is twice as fast.
        parts = _tiles(weight, max(_TILE // weight.shape[1], 1))
        reach = torch.stack([weight[part].abs().amax(0) for part in parts]).amax(0).float()
        smooth = (expected / reach.clamp(min=1e-6)).sqrt()
        quantised = torch.empty(weight.shape, dtype=torch.int8)
        self._rows = torch.empty(len(weight))
        self._columns = 1 / smooth
        for part in parts:
            tile = weight[part] * smooth  # fp32
            rows = self._rows[part].copy_(tile.abs().amax(1).clamp_(min=1e-12).div_(_LARGEST))
            quantised[part] = tile.div_(rows[:, None]).round_()
        layer.weight = nn.Parameter(quantised, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + bias, [n, o], of x [n, i]."""
        matrix, bias = self.layer.weight.T, self.layer.bias
        y = x.new_empty(len(x), matrix.shape[1])
        for part in _tiles(x):
            _multiply(x[part] * self._columns, matrix, out=y[part]).mul_(self._rows)
            if bias is not None:
                y[part] += bias
        return y

    def backward(self, g: Tensor) -> Tensor:
        """g W, [n, i], of g [n, o]."""
        matrix = self.layer.weight
        x = g.new_empty(len(g), matrix.shape[1])
        for part in _tiles(g):
            _multiply_finely(g[part] * self._rows, matrix, out=x[part]).mul_(self._columns)
        return x


def _tiles(x: Tensor, rows: int = _ROWS) -> list[slice]:
    """So few rows of x [n, i] at a time that what is made of them stays in the cache."""
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


def _multiply(x: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """x M, fp32 [n, o], of fp32 x [n, i] in 8 bits, which is overwritten, and 8-bit M [i, o]."""
    scale = _scale(x, _LARGEST)
    products = torch._int_mm(x.div_(scale).round_().to(torch.int8), matrix)
    return out.copy_(products).mul_(scale)


def _multiply_finely(x: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """x M, fp32 [n, o], of fp32 x [n, i] in 16 bits, which is overwritten, and 8-bit M [i, o]."""
    scale = _scale(x, _LARGEST * _FINE)
    x.div_(scale)
    coarse = (x / _FINE).round_()
    fine = x.sub_(coarse, alpha=_FINE).round_().clamp_(-_LARGEST, _LARGEST)
    out.copy_(torch._int_mm(coarse.to(torch.int8), matrix)).mul_(_FINE)
    return out.add_(torch._int_mm(fine.to(torch.int8), matrix)).mul_(scale)


def _scale(x: Tensor, largest: int) -> Tensor:
    """What each row of x [n, i] is divided by to lie within ± largest, [n, 1]."""
    largest_values = torch.linalg.vector_norm(x, float("inf"), 1, keepdim=True)  # in one pass
    return largest_values.clamp_(min=1e-30).div_(largest)
