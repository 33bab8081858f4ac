"""What makes the batches of completion trees, with or without processes of its own.

Where processes are spawned, as on macOS and Windows, each of them imports this module, and so
nothing here imports Lightning or transformers, which take seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.tokens import TokenisedExample
from prompt_recovery.trees import Tree, TreeBatch, pack


@dataclass
class Batch:
    """A batch of completion trees with their scores and references.

    Attributes:
        trees: T prompts with C completions in total.
        prompts: Token ids of each prompt.
        examples: The examples of the prompts; empty in training batches.
        score: fp32 [C], SCS of each completion; None if unknown.
        reference: fp32 [C], log-probabilities under the reference; None if not needed.
        real: The first `real` of the T trees are real. The others are fillers, which keep the
            processes of a distributed run in step.
        indices: The index of each tree in its part of the data.
    """

    trees: TreeBatch
    prompts: list[list[int]]
    examples: list[RewriteExample]
    score: Tensor | None = None
    reference: Tensor | None = None
    real: int = 0
    indices: Sequence[int] = ()

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch with its tensors on another device."""
        return replace(
            self,
            trees=self.trees.to(device),
            score=None if self.score is None else self.score.to(device),
            reference=None if self.reference is None else self.reference.to(device),
        )


@dataclass
class TrainingTrees:
    """The training data: prompts with their completions, best first.

    Attributes:
        rows: Token ids.
        scores: SCS of each completion; None if the completions are the true prompts.
        reference: Log-probabilities under the reference; None until they are computed.
    """

    rows: list[TokenisedExample]
    scores: list[tuple[float, ...]] | None = None
    reference: list[list[float]] | None = None

    def trees(self) -> list[Tree]:
        """Returns the rows as completion trees."""
        return [Tree(r.prompt, r.completions) for r in self.rows]


class Indices:
    """Maps every index to itself. A `range` would resolve the negative indices of fillers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


@dataclass
class TreeCollator:
    """Makes batches of completion trees. It is pickled where workers are started by spawning."""

    part: TrainingTrees
    trees: list[Tree]
    examples: Sequence[RewriteExample]
    pad_token_id: int
    together: bool

    def __call__(self, indices: list[int]) -> Batch:
        """Returns the batch of these rows."""
        chosen = [i if i >= 0 else ~i for i in indices]  # ~i marks a filler, see the sampler
        return Batch(
            pack([self.trees[i] for i in chosen], self.pad_token_id, self.together),
            [list(self.trees[i].prompt) for i in chosen],
            [self.examples[i] for i in chosen] if self.examples else [],
            score=_flat(self.part.scores, chosen),
            reference=_flat(self.part.reference, chosen),
            real=sum(i >= 0 for i in indices),
            indices=chosen,
        )


def _flat(values: Sequence[Sequence[float]] | None, chosen: list[int]) -> Tensor | None:
    return torch.tensor([v for i in chosen for v in values[i]]) if values else None
