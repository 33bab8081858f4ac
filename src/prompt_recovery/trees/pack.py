"""Laying completion trees out in rows of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


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

    Attributes:
        input_ids: int64 [R, L].
        position_ids: int64 [R, L]; they restart after the prompt for every completion.
        tree: int64 [R, L], the tree a token belongs to; -1 for padding.
        branch: int64 [R, L], 0 for prompt tokens, k for those of the tree's k-th completion.
        predictors: int64 [N], the flat positions (row * L + column) whose output predicts a
            completion token: for the first token of a completion, the prompt's last position.
        targets: int64 [N], the token each of them predicts.
        completion: int64 [N], the completion in 0 … C-1 that the target belongs to.
        tree_of_completion: int64 [C].
        is_causal: whether the plain causal mask is the tree mask, as for one completion a row.
    """

    input_ids: Tensor
    position_ids: Tensor
    tree: Tensor
    branch: Tensor
    predictors: Tensor
    targets: Tensor
    completion: Tensor
    tree_of_completion: Tensor
    is_causal: bool

    @property
    def tokens(self) -> int:
        """The number of tokens that are not padding."""
        return int((self.tree >= 0).sum())

    def to(self, device: torch.device | str) -> "TreeBatch":
        """The same batch on another device."""
        moved: dict[str, Any] = {
            f.name: value.to(device)
            if isinstance(value := getattr(self, f.name), Tensor)
            else value
            for f in fields(self)
        }
        return TreeBatch(**moved)


def pack(trees: Sequence[Tree], pad_token_id: int, row_tokens: int = 0) -> TreeBatch:
    """Lays trees out in rows, in order, padded on the right to the longest row.

    Args:
        trees: at least one tree; each has a prompt and at least one completion, all non-empty.
        pad_token_id: fills the rows.
        row_tokens: several trees share a row while they fit in so many tokens; 0 gives each tree
            a row of its own.

    Raises:
        ValueError: an empty prompt or completion, or no tree.
    """
    rows: list[list[int]] = []
    lengths: list[int] = []
    for index, tree in enumerate(trees):
        if not tree.prompt or not tree.completions or not all(tree.completions):
            raise ValueError(f"tree {index}: prompt and completions must not be empty")
        if rows and lengths[-1] + len(tree) <= row_tokens:
            rows[-1].append(index)
            lengths[-1] += len(tree)
        else:
            rows.append([index])
            lengths.append(len(tree))
    if not rows:
        raise ValueError("no trees to pack")

    width = max(lengths)
    shape = (len(rows), width)
    input_ids = torch.full(shape, pad_token_id)
    position_ids = torch.arange(width).expand(shape).clone()
    tree_ids = torch.full(shape, -1)
    branch = torch.zeros(shape, dtype=torch.int64)
    predictors: list[int] = []
    targets: list[int] = []
    completion: list[int] = []
    tree_of_completion: list[int] = []
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            tree = trees[index]
            split = start + len(tree.prompt)
            input_ids[row, start:split] = torch.as_tensor(tree.prompt)
            position_ids[row, start:split] = torch.arange(len(tree.prompt))
            column = split
            for number, tokens in enumerate(tree.completions, start=1):
                end = column + len(tokens)
                input_ids[row, column:end] = torch.as_tensor(tokens)
                positions = torch.arange(len(tree.prompt), len(tree.prompt) + len(tokens))
                position_ids[row, column:end] = positions
                branch[row, column:end] = number
                predictors += [row * width + p for p in (split - 1, *range(column, end - 1))]
                targets += tokens
                completion += [len(tree_of_completion)] * len(tokens)
                tree_of_completion.append(index)
                column = end
            tree_ids[row, start:column] = index
            start = column
    return TreeBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        tree=tree_ids,
        branch=branch,
        predictors=torch.tensor(predictors),
        targets=torch.tensor(targets),
        completion=torch.tensor(completion),
        tree_of_completion=torch.tensor(tree_of_completion),
        is_causal=all(len(m) == 1 and len(trees[m[0]].completions) == 1 for m in rows),
    )
