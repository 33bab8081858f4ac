"""The settings of what is trained: a low-rank adapter, or all weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from prompt_recovery.settings import AtLeastOne, Positive, checked


@checked("adapter")
@dataclass(frozen=True)
class Adapter:
    """A low-rank adapter (LoRA: Hu et al., arXiv 2106.09685; DoRA: Liu et al., arXiv 2402.09353).

    Attributes:
        name: The name in records.
        rank: The rank of the update, ≥ 1.
        alpha: The update is scaled by alpha / rank.
        dropout: The dropout of the adapter's input, in [0, 1).
        target_modules: The names of the layers to adapt; "all-linear" means every linear layer
            except the output head.
        layers: The share of the decoder layers, counted from the output, that are adapted, in
            (0, 1]. No gradient flows below the first of them, so 0.4 saves 30 % of a training step.
        dora: Whether to learn the magnitude and the direction separately.
        four_bit: Whether to keep the frozen weights in NF4 (QLoRA), which needs CUDA.
    """

    name: str = "lora"
    rank: AtLeastOne = 16
    alpha: Positive = 32.0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    target_modules: str | Sequence[str] = "all-linear"
    layers: Annotated[float, Gt(0), Le(1)] = 1.0
    dora: bool = False
    four_bit: bool = False


@checked("adapter")
@dataclass(frozen=True)
class AllWeights:
    """No adapter: all weights of a sentence encoder are trained.

    Attributes:
        name: The name in records.
    """

    name: str = "full"
