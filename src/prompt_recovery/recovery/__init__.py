"""Recoverers and baselines behind one interface.

What loads torch is imported when it is first asked for, so that settings can be read without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prompt_recovery.recovery.decoding import MBR, Beam, Choice, Decoding, Greedy, Sampling
from prompt_recovery.recovery.interface import (
    Candidate,
    ConstantRecoverer,
    Pair,
    Prediction,
    Recoverer,
)
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.recoverer import PosteriorRecoverer

if TYPE_CHECKING:
    from prompt_recovery.recovery.load import load_recoverer
    from prompt_recovery.recovery.writer import Writer

__all__ = [
    "MBR",
    "Beam",
    "Candidate",
    "Choice",
    "ConstantRecoverer",
    "Decoding",
    "Greedy",
    "Pair",
    "Posterior",
    "PosteriorRecoverer",
    "Prediction",
    "Recoverer",
    "Sampling",
    "Writer",
    "load_recoverer",
]

_HEAVY = {"Writer": "writer", "load_recoverer": "load"}


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
