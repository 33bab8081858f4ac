"""Weights as their difference from others: what fine-tuning has changed, in 8 bits.

A fine-tuned encoder differs little from the one that it was made of, so that the difference needs
far less precision than the weights. Rows that were never trained, such as the embeddings of words
that no text had, are zeros, which a zip file such as a wheel holds in almost no space.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Weights = Mapping[str, NDArray[Any]]

_LEVELS = 127  # of int8, on each side of zero
_SCALE = ".scale"
_NAMES = {"float32": "F32", "float16": "F16", "int8": "I8"}


def difference(weights: Weights, base: Weights) -> dict[str, NDArray[Any]]:
    """The difference between two sets of weights, with matrices in int8.

    A matrix is rounded to int8 row by row, with the largest value of a row as 127. The scales of
    its rows are kept beside it, and what isn't a matrix stays in fp32. What has no counterpart of
    the same shape in `base` is kept as it is.

    Args:
        weights: fp32 tensors by name; none ends in ".scale".
        base: What they were made of.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, tensor in weights.items():
        own = np.asarray(tensor, np.float32)
        if name in base and base[name].shape == own.shape:
            own = own - np.asarray(base[name], np.float32)
            if own.ndim == 2:
                scale = np.abs(own).max(axis=1) / np.float32(_LEVELS)
                found[name + _SCALE] = scale
                whole = np.where(scale > 0, scale, np.float32(1))
                found[name] = np.rint(own / whole[:, None]).astype(np.int8)
                continue
        found[name] = own
    return found


def restored(different: Weights, base: Weights) -> dict[str, NDArray[np.float32]]:
    """The weights that `difference` was given, up to its rounding.

    The arithmetic is the same on every machine: one multiplication and one addition in fp32.
    """
    found = {}
    for name, own in different.items():
        if name.endswith(_SCALE):
            continue
        value = np.asarray(own, np.float32)
        if name + _SCALE in different:
            value = value * different[name + _SCALE][:, None]
        if name in base and base[name].shape == value.shape:
            value = value + np.asarray(base[name], np.float32)
        found[name] = value
    return found


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file that has none in bf16."""
    return dict(load_file(path))


def write_weights(path: Path, weights: Weights) -> None:
    """Writes a safetensors file, the same bytes for the same weights, whatever the library."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    # The widest first, so that each is aligned, as safetensors wants it.
    order = sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))
    for name in order:
        tensor = weights[name]
        header[name] = {
            "dtype": _NAMES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            little = weights[name].astype(weights[name].dtype.newbyteorder("<"), copy=False)
            file.write(np.ascontiguousarray(little).data)
