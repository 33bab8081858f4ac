"""Packs completion trees into rows of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

_WORTH_SHARING = 8  # the shortest common beginning, in tokens, that is shared


@dataclass(frozen=True, slots=True)
class Tree:
    """The token ids of a prompt and of its completions, none of which is empty."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


@dataclass
class TreeBatch:
    """Trees as tensors: R rows of L tokens with C completions and N completion tokens in total.

    The tokens of a row are in depth-first order, so one number per token is enough to say which
    tokens see it: those from the token itself to the end of its subtree.

    Attributes:
        input_ids: The token ids, int64 [R, L].
        position_ids: The positions, which continue after the prompt in every completion, int64
            [R, L].
        until: The token in column k is seen by those of its row in columns k … until - 1, int64
            [R, L].
        tree: The tree of each token; -1 for padding and for tokens that trees share, int64 [R, L].
        predictors: The flat indices (row * L + column) of the tokens whose outputs predict the
            completion tokens, int64 [N]. The first token of a completion is predicted at the last
            token of the prompt.
        targets: The token that each of them predicts, int64 [N].
        completion: The completion, 0 … C-1, of each target, int64 [N].
        tree_of_completion: The tree of each completion, int64 [C].
        tokens: The number of tokens of all trees; shared tokens count for each of their trees.
        is_causal: Whether the tree mask is the plain causal mask, as with one completion per row.
    """

    input_ids: Tensor
    position_ids: Tensor
    until: Tensor
    tree: Tensor
    predictors: Tensor
    targets: Tensor
    completion: Tensor
    tree_of_completion: Tensor
    tokens: int
    is_causal: bool

    def to(self, device: torch.device | str) -> "TreeBatch":
        """The same batch on another device."""
        moved: dict[str, Any] = {
            f.name: value.to(device)
            if isinstance(value := getattr(self, f.name), Tensor)
            else value
            for f in fields(self)
        }
        return TreeBatch(**moved)


def pack(trees: Sequence[Tree], pad_token_id: int, together: bool = False) -> TreeBatch:
    """Packs trees into rows, in order.

    Args:
        trees: At least one tree; each has a prompt and at least one completion, all non-empty.
        pad_token_id: The token that fills rows on the right.
        together: Whether all trees share one row, in which a common beginning of the prompts of
            neighbours appears only once. Otherwise each tree has a row of its own.

    Raises:
        ValueError: If there is no tree, or a prompt or a completion is empty.
    """
    if not trees:
        raise ValueError("no trees to pack")
    for index, tree in enumerate(trees):
        if not tree.prompt or not tree.completions or not all(tree.completions):
            raise ValueError(f"tree {index}: prompt and completions must not be empty")
    members = range(len(trees))
    rows = [_Row(trees, m) for m in ([members] if together else [[i] for i in members])]

    width = max(len(row.ids) for row in rows)
    padding = [width - len(row.ids) for row in rows]
    counts = [len(c) for tree in trees for c in tree.completions]
    branches = [len(tree.completions) for tree in trees]
    return TreeBatch(
        input_ids=_filled([r.ids for r in rows], padding, pad_token_id),
        position_ids=_filled([r.positions for r in rows], padding, 0),
        until=_filled([r.until for r in rows], padding, width),
        tree=_filled([r.tree for r in rows], padding, -1),
        predictors=torch.tensor([i * width + p for i, r in enumerate(rows) for p in r.predictors]),
        targets=torch.tensor([t for tree in trees for c in tree.completions for t in c]),
        completion=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
        tree_of_completion=torch.arange(len(trees)).repeat_interleave(torch.tensor(branches)),
        tokens=sum(map(len, trees)),
        is_causal=len(rows) == len(trees) and max(branches) == 1,
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common prefix of two sequences."""
    ends = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(ends, min(len(a), len(b)))


def _filled(rows: list[list[int]], padding: list[int], value: int) -> Tensor:
    return torch.tensor([row + [value] * n for row, n in zip(rows, padding, strict=True)])


@dataclass
class _Row:
    """The tokens of one row, in depth-first order."""

    trees: Sequence[Tree]
    members: Sequence[int]
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    until: list[int] = field(default_factory=list)
    tree: list[int] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lay(self.members, 0)

    def _lay(self, members: Sequence[int], depth: int) -> None:
        """Adds trees whose first `depth` prompt tokens are in the row already."""

        def beginning(index: int) -> tuple[int, ...]:
            prompt = self.trees[index].prompt
            # A tree keeps at least one token of its own, which predicts its completions.
            if len(prompt) <= depth + _WORTH_SHARING:
                return (-1, index)
            return tuple(prompt[depth : depth + _WORTH_SHARING])

        for _, neighbours in groupby(members, beginning):
            run = list(neighbours)
            if len(run) == 1:
                self._lay_tree(run[0], depth)
                continue
            prompts = [list(self.trees[i].prompt[:-1]) for i in run]
            shared = _common(min(prompts), max(prompts))  # shared by all between
            start = self._append(prompts[0][depth:shared], depth, -1)
            self._lay(run, shared)
            self._close(start, start + shared - depth)

    def _lay_tree(self, index: int, depth: int) -> None:
        tree = self.trees[index]
        start = self._append(tree.prompt[depth:], depth, index)
        split = len(self.ids)
        for completion in tree.completions:
            first = self._append(completion, len(tree.prompt), index)
            end = len(self.ids)
            self._close(first, end)
            self.predictors += [split - 1, *range(first, end - 1)]
        self._close(start, split)

    def _append(self, tokens: Sequence[int], position: int, tree: int) -> int:
        """Appends tokens, and returns the column of the first of them."""
        start = len(self.ids)
        self.ids += tokens
        self.positions += range(position, position + len(tokens))
        self.tree += [tree] * len(tokens)
        self.until += [0] * len(tokens)
        return start

    def _close(self, start: int, end: int) -> None:
        """Ends the subtrees of the tokens start … end - 1."""
        self.until[start:end] = [len(self.ids)] * (end - start)
