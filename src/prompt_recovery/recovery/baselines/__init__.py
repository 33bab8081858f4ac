"""Baselines that a recoverer has to beat. Each is fitted to training examples."""

from prompt_recovery.recovery.baselines.base import Baseline
from prompt_recovery.recovery.baselines.mean_prompt import MeanPrompt, mean_prompt
from prompt_recovery.recovery.baselines.neighbours import Neighbours
from prompt_recovery.recovery.baselines.prompted import FewShot, ZeroShot
from prompt_recovery.recovery.baselines.regressor import Regressor

__all__ = [
    "Baseline",
    "FewShot",
    "MeanPrompt",
    "Neighbours",
    "Regressor",
    "ZeroShot",
    "mean_prompt",
]
