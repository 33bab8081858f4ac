"""Trains a recoverer and prints its score on the test split.

python examples/train_from_python.py [key=value ...]

Settings are those of the command line, such as `data=file data.path=pairs.csv model=mistral`.
"""

import sys

import prompt_recovery as pr


def main(*settings: str) -> None:
    run = pr.train("objective=sft", *settings)
    metrics = run.metrics() or {}
    print(f"the run is in {run.path}")
    print(f"SCS on the test split: {metrics['test/scs']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
