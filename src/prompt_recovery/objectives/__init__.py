"""Objectives: small functions of what a model says of completions."""

from prompt_recovery.objectives.sft import SFT

__all__ = ["SFT"]
