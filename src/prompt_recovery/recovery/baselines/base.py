"""What all baselines have in common."""

from collections.abc import Sequence
from typing import Protocol

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import Recoverer


class Baseline(Protocol):
    """Settings from which a recoverer is made."""

    @property
    def name(self) -> str:
        """In tables."""
        ...

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> Recoverer:
        """Learns from training examples, at least one; a pure function of them and the settings."""
        ...
