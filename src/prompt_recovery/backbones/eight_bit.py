"""Quantises the linear layers of a backbone to 8 bits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prompt_recovery.kernels.eight_bit import quantise_linear

# What layers read, and how large it gets, is measured with this text. It is short, because a few
# inputs are large for all tokens, and these are what matters.
CALIBRATION = """\
Rewrite the text below as a letter to an old friend. Keep it short, and keep the numbers.

The market opened at seven, and by eight the rain had driven half of the stalls under the arches. \
Maria counted her coins twice, smiled at the baker, and bought two loaves instead of one. "That \
makes 4.50," he said. On her way home she read the notice again: from 12 May 2024, the No. 7 bus \
would no longer stop at the hospital.

Dear Tom,

You won't believe what the council has done now! Do you remember our bus, the 7? It won't stop at \
the hospital any more. Rain all morning, two loaves for 4.50, and that. Write soon.

- def total(prices): return sum(p for p in prices if p > 0)
- ¿Dónde está la estación? Je ne sais pas.
"""


def quantise(model: Any, token_ids: Sequence[int]) -> None:
    """Quantises the frozen linear layers of a causal LM in place, which takes a forward pass.

    Args:
        model: The `transformers` model, on the CPU, whose activations are fp32.
        token_ids: `CALIBRATION`, tokenised.
    """
    layers = {name: m for name, m in model.named_modules() if type(m) is nn.Linear}
    with _largest_inputs(layers) as largest, torch.no_grad():
        model(input_ids=torch.tensor([list(token_ids)], device=model.device), use_cache=False)
    for name, values in largest.items():  # an unused layer stays as it is
        quantise_linear(layers[name], values)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            # Otherwise, the whole file that the weights are mapped from would stay in memory.
            parameter.data = parameter.data.clone()


@contextmanager
def _largest_inputs(layers: dict[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Collects the largest absolute value of each input of some layers, [i] by name."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def seen(_layer: Any, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach().flatten(0, -2).abs().amax(0).float()
            found[name] = torch.maximum(found[name], values) if name in found else values

        return seen

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
