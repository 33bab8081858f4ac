"""Batches of similar length, bounded by tokens, the same on every rank and after every resume."""

import random
from collections.abc import Callable, Iterator, Sequence

from torch.utils.data import Sampler


class TokenBudgetSampler(Sampler[list[int]]):
    """Yields lists of indices: similar lengths together, at most so many padded tokens each.

    A pure function of (lengths, seed, epoch), so that a resumed epoch goes on with the batches it
    would have had: iteration starts at the batch that `first_batch()` names.

    Several ranks share the same global batches: those that one process would have with a batch
    size and a token budget as many times as large. Each rank takes every so-manieth member, so a
    run's gradients don't depend on how many processes share it. A rank that has no member left of
    a batch gets a filler, `~i` in place of `i`: it keeps the processes in step and must count for
    nothing.

    Args:
        lengths: tokens of each example.
        batch_size: most examples a batch and rank.
        batch_tokens: most tokens a batch and rank, padding included; a longer example is a batch
            alone.
        shuffle: draw a new order each epoch (training); otherwise sort by length, longest first.
        seed: of the order.
        rank: this process.
        world_size: the number of processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        batch_tokens: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.first_batch: Callable[[], int] = lambda: 0
        self.set_epoch(0)

    @property
    def sampler(self) -> "TokenBudgetSampler":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Draws the batches of an epoch (Lightning calls this)."""
        order = list(range(len(self.lengths)))
        rng = random.Random(f"{self.seed}-{epoch}")
        if self.shuffle:
            rng.shuffle(order)
            # Sorting inside pools of several batches pads little and still mixes well.
            pool = self.batch_size * self.world_size * 16
            pools = [order[i : i + pool] for i in range(0, len(order), pool)]
        else:
            pools = [order]
        batches: list[list[int]] = []
        for members in pools:
            batches += self._cut(sorted(members, key=lambda i: -self.lengths[i]))
        if self.shuffle:
            rng.shuffle(batches)
        self.batches = [b[self.rank :: self.world_size] or [~b[0]] for b in batches]

    def _cut(self, members: list[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in members:
            width = self.lengths[batch[0]] if batch else 0  # longest first
            share = len(batch) // self.world_size + 1  # of the fullest rank, with this one
            if batch and (share > self.batch_size or share * width > self.batch_tokens):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches[self.first_batch() :]

    def __len__(self) -> int:
        return len(self.batches)
