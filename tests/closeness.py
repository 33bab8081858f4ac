"""Floats that are computed in two ways, on any processor."""

import numpy as np
import torch


def assert_close(ours, theirs, rtol):
    """No number of `ours` is further from that of `theirs` than `rtol` times the largest of them.

    Sums round in proportion to their largest terms, and each processor adds in an order of its
    own: a sum that nearly cancels is right to a share of its terms, not of what is left, and an
    absolute tolerance holds only for the numbers that one machine has seen.
    """
    ours, theirs = map(_double, (ours, theirs))
    scale = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, atol=rtol * scale, rtol=0)


def _double(values):
    if isinstance(values, torch.Tensor):
        return values.detach().double()
    return torch.from_numpy(np.array(values, np.float64))  # a copy: torch wants a writable array
