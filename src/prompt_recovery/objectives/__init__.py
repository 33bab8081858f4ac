"""Objectives: functions of log-probabilities of completions, and one of embeddings."""

from prompt_recovery.objectives.base import Objective, ScoredCompletions
from prompt_recovery.objectives.contrastive import Contrastive
from prompt_recovery.objectives.dpo import DPO
from prompt_recovery.objectives.grpo import GRPO
from prompt_recovery.objectives.hinge import Hinge
from prompt_recovery.objectives.ipo import IPO
from prompt_recovery.objectives.listwise import Listwise
from prompt_recovery.objectives.orpo import ORPO
from prompt_recovery.objectives.policy import PolicyGradient, SampledCompletions
from prompt_recovery.objectives.rloo import RLOO
from prompt_recovery.objectives.sft import SFT
from prompt_recovery.objectives.simpo import SimPO

__all__ = [
    "DPO",
    "GRPO",
    "IPO",
    "ORPO",
    "RLOO",
    "SFT",
    "Contrastive",
    "Hinge",
    "Listwise",
    "Objective",
    "PolicyGradient",
    "SampledCompletions",
    "ScoredCompletions",
    "SimPO",
]
