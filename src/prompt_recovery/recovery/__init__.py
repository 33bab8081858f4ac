"""Recoverers and baselines behind one interface."""

from prompt_recovery.recovery.decoding import MBR, Beam, Candidate, Decoding, Greedy, Sampling
from prompt_recovery.recovery.load import load_recoverer
from prompt_recovery.recovery.recoverer import (
    ConstantRecoverer,
    ModelRecoverer,
    Pair,
    Prediction,
    Recoverer,
)

__all__ = [
    "MBR",
    "Beam",
    "Candidate",
    "ConstantRecoverer",
    "Decoding",
    "Greedy",
    "ModelRecoverer",
    "Pair",
    "Prediction",
    "Recoverer",
    "Sampling",
    "load_recoverer",
]
