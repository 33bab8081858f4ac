"""Laying completion trees out in rows of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

_WORTH_SHARING = 8  # tokens


@dataclass(frozen=True, slots=True)
class Tree:
    """The token ids of one prompt and of its completions, none of them empty."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


@dataclass
class TreeBatch:
    """Trees as tensors. R rows of L tokens, C completions in all, N completion tokens in all.

    A row lists its tokens depth first, so one number says who sees a token: those from the token
    itself to the end of what grows from it.

    Attributes:
        input_ids: int64 [R, L].
        position_ids: int64 [R, L]; they go on after the prompt for every completion.
        until: int64 [R, L]; token k is seen by the tokens of its row in columns k … until - 1.
        tree: int64 [R, L], the tree a token belongs to; -1 for padding and for what several share.
        predictors: int64 [N], the flat positions (row * L + column) whose output predicts a
            completion token: for the first token of a completion, the prompt's last position.
        targets: int64 [N], the token each of them predicts.
        completion: int64 [N], the completion in 0 … C-1 that the target belongs to.
        tree_of_completion: int64 [C].
        tokens: of all trees, so that what several share counts for each of them.
        is_causal: whether the plain causal mask is the tree mask, as for one completion a row.
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
    """Lays trees out, in order.

    Args:
        trees: at least one tree; each has a prompt and at least one completion, all non-empty.
        pad_token_id: fills rows on the right.
        together: all trees share one row, in which the beginning that the prompts of neighbours
            have in common stands once. Otherwise each has a row of its own.

    Raises:
        ValueError: an empty prompt or completion, or no tree.
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
    """The length of the beginning that two sequences have in common."""
    ends = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(ends, min(len(a), len(b)))


def _filled(rows: list[list[int]], padding: list[int], value: int) -> Tensor:
    return torch.tensor([row + [value] * n for row, n in zip(rows, padding, strict=True)])


@dataclass
class _Row:
    """The tokens of one row, depth first."""

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
        """Lays trees whose first `depth` prompt tokens stand in the row already."""

        def beginning(index: int) -> tuple[int, ...]:
            prompt = self.trees[index].prompt
            # A tree keeps a token of its own, which predicts its completions.
            if len(prompt) <= depth + _WORTH_SHARING:
                return (-1, index)
            return tuple(prompt[depth : depth + _WORTH_SHARING])

        for _, neighbours in groupby(members, beginning):
            run = list(neighbours)
            if len(run) == 1:
                self._lay_tree(run[0], depth)
                continue
            prompts = [list(self.trees[i].prompt[:-1]) for i in run]
            shared = _common(min(prompts), max(prompts))  # of all, if the outermost have it
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
        """The column of the first of them."""
        start = len(self.ids)
        self.ids += tokens
        self.positions += range(position, position + len(tokens))
        self.tree += [tree] * len(tokens)
        self.until += [0] * len(tokens)
        return start

    def _close(self, start: int, end: int) -> None:
        """What grows from the tokens start … end - 1 ends here."""
        self.until[start:end] = [len(self.ids)] * (end - start)
