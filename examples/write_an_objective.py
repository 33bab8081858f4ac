"""Trains with an objective of your own: the exponential loss of GPO (Tang et al., 2402.05749).

python examples/write_an_objective.py [key=value ...]

Without settings, it trains on the whole starter dataset, for hours on a CPU. To see it work:

python examples/write_an_objective.py model=tiny retriever=none trainer.max_steps=3

Objectives work on the log-probabilities of whole completions. Preference pairs and reference
log-probabilities are made for the objectives that need them.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import prompt_recovery as pr


@dataclass(frozen=True)
class Exponential(pr.Objective):
    """L = exp(-beta * (log-ratio of the chosen - log-ratio of the rejected completion))."""

    name: ClassVar[str] = "exponential"
    beta: float = 0.1

    def losses(self, completions: pr.ScoredCompletions) -> Tensor:
        chosen, rejected = completions.log_ratio.view(-1, 2).unbind(1)  # [P] each
        return (-self.beta * (chosen - rejected)).exp()


def main(*settings: str) -> None:
    run = pr.train("name=exponential", *settings, objective=Exponential(beta=0.2))
    metrics = run.metrics() or {}
    print(f"SCS on the test split: {metrics['test/scs']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
