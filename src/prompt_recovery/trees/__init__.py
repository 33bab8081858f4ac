"""Completion trees: one prompt, several completions, one forward pass."""

from prompt_recovery.trees.forward import CompletionScores, score_completions
from prompt_recovery.trees.pack import Tree, TreeBatch, pack

__all__ = ["CompletionScores", "Tree", "TreeBatch", "pack", "score_completions"]
