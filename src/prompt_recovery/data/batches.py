"""Batches with a limit on tokens, equal on every rank and after a resume."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence

from torch.utils.data import Sampler


class TokenBudgetSampler(Sampler[list[int]]):
    """Yields batches of indices of examples with similar lengths, or of the same groups.

    The batches are a pure function of the lengths, the groups, the seed and the epoch. A resumed
    epoch therefore continues with the batches it would have had: iteration starts at the batch with
    the index `first_batch()`.

    All ranks share the same global batches, which are those of a single process with
    `world_size` times the batch size and the token budget. Of a global batch, rank r takes members
    r, r + `world_size`, and so on, so the gradients don't depend on the number of processes. A
    rank for which a batch has no member gets a filler, `~i` instead of `i`, which keeps the
    processes in step and must not count in the loss or the metrics.

    Args:
        lengths: The number of tokens of each example.
        batch_size: The largest number of examples in a batch, per rank.
        batch_tokens: The largest number of tokens in a batch, per rank and including padding. An
            example that is longer becomes a batch of its own.
        shuffle: Whether to draw a new order in each epoch, as for training. Otherwise examples
            are sorted by length, the longest first.
        seed: The seed of the order.
        rank: The rank of this process.
        world_size: The number of processes.
        groups: The group of each example. In shuffled batches, the examples of a group are then
            neighbours, in random order, and lengths differ. By default there are no groups.
        repeats: How many times in a row each batch is yielded.
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
        groups: Sequence[Hashable] | None = None,
        repeats: int = 1,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.groups = groups
        self.repeats = repeats
        self.first_batch: Callable[[], int] = lambda: 0
        self.set_epoch(0)

    @property
    def sampler(self) -> "TokenBudgetSampler":
        """This sampler itself; Lightning looks for `set_epoch` here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Draws the batches of an epoch; Lightning calls this."""
        order = list(range(len(self.lengths)))
        rng = random.Random(f"{self.seed}-{epoch}")
        if self.shuffle:
            rng.shuffle(order)
        batches = [batch for members in self._pools(order) for batch in self._cut(members)]
        if self.shuffle:
            rng.shuffle(batches)
        shares = [b[self.rank :: self.world_size] or [~b[0]] for b in batches]
        self.batches = [share for share in shares for _ in range(self.repeats)]

    def _pools(self, order: list[int]) -> Iterator[list[int]]:
        """Yields the examples from which consecutive batches are made, in order."""
        groups = self.groups
        if self.shuffle and groups is not None:
            first: dict[Hashable, int] = {}
            for index in order:
                first.setdefault(groups[index], len(first))
            yield sorted(order, key=lambda i: first[groups[i]])
            return
        # Sorting within pools of several batches needs little padding and still mixes well.
        pool = self.batch_size * self.world_size * 16 if self.shuffle else max(len(order), 1)
        for i in range(0, len(order), pool):
            yield sorted(order[i : i + pool], key=lambda i: -self.lengths[i])

    def _cut(self, members: list[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        width = 0
        for index in members:
            wider = max(width, self.lengths[index])
            share = len(batch) // self.world_size + 1  # of the fullest rank, including this example
            if batch and (share > self.batch_size or share * wider > self.batch_tokens):
                yield batch
                batch, wider = [], self.lengths[index]
            batch.append(index)
            width = wider
        if batch:
            yield batch

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches[self.first_batch() :]

    def __len__(self) -> int:
        return len(self.batches)
