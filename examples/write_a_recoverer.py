"""Compares a recoverer of your own, made of three rules, with a constant answer.

python examples/write_a_recoverer.py [pairs.csv]

A recoverer is anything with a `name` and a method `recover`. Without a file, it is scored on the
starter dataset. Neither recoverer has seen any of it.
"""

import sys
from collections.abc import Callable, Sequence

import prompt_recovery as pr


class Rules:
    """Looks at lengths and line breaks only."""

    name = "three rules"

    def recover(
        self, pairs: Sequence[pr.Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[pr.Prediction]:
        progress(len(pairs))
        return [pr.Prediction(pair.id, self.prompt(pair)) for pair in pairs]

    def prompt(self, pair: pr.Pair) -> str:
        if pair.rewritten_text.count("\n") > pair.original_text.count("\n") + 2:
            return "Rewrite the text as a poem."
        if len(pair.rewritten_text) < 0.6 * len(pair.original_text):
            return "Summarize the text."
        return "Rewrite the text in a different style."


def main(path: str = "starter") -> None:
    examples = pr.load_dataset(path).examples
    truths = [example.rewrite_prompt for example in examples]
    scs = pr.SCS()
    recoverers: list[pr.Recoverer] = [Rules(), pr.ConstantRecoverer("Improve this text.")]
    for recoverer in recoverers:
        predictions = recoverer.recover(pr.pairs_of(examples))
        scores = scs([prediction.rewrite_prompt for prediction in predictions], truths)
        print(f"{recoverer.name}: mean SCS {scores.mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
