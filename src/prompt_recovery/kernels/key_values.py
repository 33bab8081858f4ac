"""The keys and values of an attention layer, kept while a model writes."""

import torch
from torch import Tensor


class KeyValues:
    """Keys and values in buffers of their final length, so that no step copies them.

    Args:
        capacity: The largest number of columns.

    Attributes:
        used: The number of columns that are filled.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: tuple[Tensor, ...] = ()
        self.used = 0

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds columns, and returns all of them.

        Args:
            keys: The keys of the new columns [B, K, n, D].
            values: Their values [B, K, n, D].
        """
        if not self._kept:
            self._kept = tuple(
                new.new_empty(*new.shape[:2], self._capacity, new.shape[3])
                for new in (keys, values)
            )
        begin, self.used = self.used, self.used + keys.shape[2]
        all_keys, all_values = self._kept
        all_keys[:, :, begin : self.used] = keys
        all_values[:, :, begin : self.used] = values
        return all_keys[:, :, : self.used], all_values[:, :, : self.used]

    def select(self, rows: Tensor) -> None:
        """Keeps some rows of the batch only, given by their indices, int64 [b]."""
        self._kept = tuple(torch.index_select(kept, 0, rows) for kept in self._kept)
