"""What `transformers` keeps of trees that grow while they are sampled."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from prompt_recovery.kernels.key_values import KeyValues


def tree_cache(causal_lm: Any, capacity: int) -> Cache:
    """The cache of a `transformers` causal LM for rows of at most `capacity` tokens.

    Layers with a sliding window keep everything, too; the masks apply the window.
    """
    count = causal_lm.config.get_text_config().num_hidden_layers
    return Cache(layers=[_TreeLayer(capacity) for _ in range(count)])


class _TreeLayer(DynamicLayer):
    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._kept = KeyValues(capacity)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._kept.add(key_states, value_states)

    def get_seq_length(self, *_args: Any) -> int:
        return self._kept.used

    def batch_select_indices(self, indices: Tensor) -> None:
        self._kept.select(indices)
