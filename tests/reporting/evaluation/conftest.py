"""The trained run of the recovery room's tests is evaluated here too."""

from tests.recovery.conftest import few_examples, trained_run

__all__ = ["few_examples", "trained_run"]
