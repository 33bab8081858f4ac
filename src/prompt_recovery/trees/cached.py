"""Log-probabilities of completions that are computed once and kept in the cache."""

import hashlib
import struct
from array import array
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from prompt_recovery.storage import KeyValueStore, cache_dir, locked
from prompt_recovery.trees.forward import causal_lm_of, score_completions
from prompt_recovery.trees.masks import trees_share_rows
from prompt_recovery.trees.pack import Tree, pack

_SIZE = struct.calcsize("<d")


def cached_log_probabilities(
    model: Any,
    trees: Sequence[Tree],
    identity: str,
    pad_token_id: int,
    batch_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
    kind: str = "log_probabilities",
) -> list[list[float]]:
    """Computes log p(completion | prompt) of every completion under the model in its current state.

    Values are cached by the identity of the model and the tokens of prompt and completion, batch by
    batch. An interrupted pass is therefore resumed where it stopped, and later runs with the same
    model and tokens read the cache. If two processes need the same values, one computes them and
    the other waits.

    Args:
        model: The model, in evaluation mode.
        trees: The trees. Those whose prompts begin alike share the work of that beginning.
        identity: Identity of the backbone, the data type and the adapter; "" keeps nothing.
        pad_token_id: Token id used for padding.
        batch_tokens: Maximum number of tokens in a batch, including padding.
        progress: Called with the number of trees that have just been done.
        kind: Name of the folder in the cache.

    Returns:
        A list per tree, with one log-probability per completion.
    """
    store = KeyValueStore(kind, identity) if identity else None
    keys = [[_key(tree.prompt, c) for c in tree.completions] for tree in trees]
    with locked(cache_dir(kind) / identity) if identity else nullcontext():
        found = store.read(key for row in keys for key in row) if store else {}
        known = {key: value for key, value in found.items() if len(value) == _SIZE}
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
            if store is not None:
                store.write(fresh)
            known.update(fresh)
            progress(len(batch))
    return [[struct.unpack("<d", known[key])[0] for key in row] for row in keys]


def _key(prompt: Sequence[int], completion: Sequence[int]) -> bytes:
    # The length comes first, so that splitting the same tokens elsewhere gives another key.
    return hashlib.sha256(array("q", [len(prompt), *prompt, *completion]).tobytes()).digest()


def _batches(
    indices: Sequence[int], trees: Sequence[Tree], batch_tokens: int, sharing: bool
) -> list[list[int]]:
    """Batches trees of similar length, longest first, or of similar prompts if they share rows."""

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
