"""Completion trees: one prompt, several completions, one forward pass."""

from prompt_recovery.trees.forward import CompletionScores, causal_lm_of, score_completions
from prompt_recovery.trees.masks import trees_share_rows
from prompt_recovery.trees.pack import Tree, TreeBatch, pack
from prompt_recovery.trees.sample import Sample, last_states, sample_completions

__all__ = [
    "CompletionScores",
    "Sample",
    "Tree",
    "TreeBatch",
    "causal_lm_of",
    "last_states",
    "pack",
    "sample_completions",
    "score_completions",
    "trees_share_rows",
]
