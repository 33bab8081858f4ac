"""The interface of baselines."""

from collections.abc import Sequence
from typing import Protocol

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import Recoverer


class Baseline(Protocol):
    """Settings from which a recoverer is made."""

    @property
    def name(self) -> str:
        """Name shown in tables."""
        ...

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> Recoverer:
        """Makes a recoverer from at least one training example.

        This is a pure function of the examples and the settings.
        """
        ...
