"""Log-probabilities under the reference model: computed once, ever."""

import hashlib
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch

from prompt_recovery.storage import KeyValueStore, cache_dir, locked
from prompt_recovery.trees import (
    Tree,
    causal_lm_of,
    pack,
    score_completions,
    trees_share_rows,
)


def reference_log_probabilities(
    model: Any,
    trees: Sequence[Tree],
    identity: str,
    pad_token_id: int,
    batch_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[list[float]]:
    """log p(completion | prompt) of every completion, under the model as it is now.

    Before the first step, the model *is* the reference: the backbone where the adapter is new, and
    the adapter it starts from elsewhere. Values are stored under the identity of the model and the
    tokens of prompt and completion, batch by batch: an interrupted pass goes on where it was, and
    every later run with the same model and tokens reads them. Of two processes that want them at
    once, one computes and the other waits.

    Args:
        model: in evaluation mode.
        trees: the training trees.
        identity: of backbone, data type and starting adapter.
        pad_token_id: fills rows.
        batch_tokens: most tokens of a batch, padding included.
        progress: called with the number of trees just done.

    Returns:
        One list a tree, one number a completion.
    """
    store = KeyValueStore("references", identity)
    keys = [[_key(tree.prompt, c) for c in tree.completions] for tree in trees]
    with locked(cache_dir("references") / identity):
        known = store.read(key for row in keys for key in row)
        missing = [i for i, row in enumerate(keys) if any(key not in known for key in row)]
        progress(len(trees) - len(missing))
        device = next(model.parameters()).device
        sharing = trees_share_rows(causal_lm_of(model))
        for batch in _batches(missing, trees, batch_tokens, sharing):
            packed = pack([trees[i] for i in batch], pad_token_id, sharing).to(device)
            with torch.no_grad():
                values = score_completions(model, packed).log_probability.tolist()
            flat = [key for i in batch for key in keys[i]]
            fresh = {k: struct.pack("<d", v) for k, v in zip(flat, values, strict=True)}
            store.write(fresh)
            known.update(fresh)
            progress(len(batch))
    return [[struct.unpack("<d", known[key])[0] for key in row] for row in keys]


def _key(prompt: Sequence[int], completion: Sequence[int]) -> bytes:
    # The length comes first, so that no other division of the same tokens is the same key.
    return hashlib.sha256(array("q", [len(prompt), *prompt, *completion]).tobytes()).digest()


def _batches(
    indices: Sequence[int], trees: Sequence[Tree], batch_tokens: int, sharing: bool
) -> list[list[int]]:
    """Similar lengths together, the longest first; where rows are shared, similar beginnings."""

    def order(index: int) -> Any:
        return list(trees[index].prompt) if sharing else -len(trees[index])

    batches: list[list[int]] = []
    used = 0
    for index in sorted(indices, key=order):
        cost = len(trees[index]) if sharing or not batches else len(trees[batches[-1][0]])
        if batches and used + cost <= batch_tokens:
            batches[-1].append(index)
            used += cost
        else:
            batches.append([index])
            used = len(trees[index])
    return batches
