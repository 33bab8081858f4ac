"""Scores of candidates against the true prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.preferences.candidates import PreferenceCandidate


def score_candidates(
    scs: SCS,
    examples: Sequence[RewriteExample],
    candidates: Mapping[str, Sequence[PreferenceCandidate]],
) -> dict[str, list[PreferenceCandidate]]:
    """Sets every candidate's SCS against its example's true prompt, in one batched call."""
    pairs = [(c, e.rewrite_prompt) for e in examples for c in candidates[e.id]]
    scores = iter(scs([c.text for c, _ in pairs], [truth for _, truth in pairs]).tolist())
    return {
        e.id: [replace(candidate, scs=next(scores)) for candidate in candidates[e.id]]
        for e in examples
    }
