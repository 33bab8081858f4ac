"""Which low-rank adapter is trained; `adapters` puts it on a model."""

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
        name: what records call it.
        rank: of the update, ≥ 1.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input, in [0, 1).
        target_modules: which layers; "all-linear" is every linear layer but the output head.
        layers: share of the decoder layers, counted from the output, that are adapted, in (0, 1].
            Below the first of them no gradient flows: 0.4 saves 30 % of a training step.
        dora: learn magnitude and direction apart.
        four_bit: keep the frozen weights in NF4 (QLoRA). CUDA only.
    """

    name: str = "lora"
    rank: AtLeastOne = 16
    alpha: Positive = 32.0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    target_modules: str | Sequence[str] = "all-linear"
    layers: Annotated[float, Gt(0), Le(1)] = 1.0
    dora: bool = False
    four_bit: bool = False
