"""Recovers the prompts of a file of examples and scores them against the true ones.

python examples/score_a_file.py pairs.csv [run]

The file has the columns id, original_text, rewritten_text and rewrite_prompt. Its rows must not
have been in the training data of the run, which by default is the one that was started last.
`prompt-recovery evaluate` does more: baselines, intervals, significance and a report.
"""

import sys

import prompt_recovery as pr


def main(path: str, run: str = "latest") -> None:
    examples = pr.load_dataset(path).examples
    predictions = pr.recover_pairs(pr.pairs_of(examples), run=run)
    truths = [example.rewrite_prompt for example in examples]
    scores = pr.SCS()([prediction.rewrite_prompt for prediction in predictions], truths)
    for score, prediction, truth in zip(scores, predictions, truths, strict=True):
        print(f"{score:6.3f}  {prediction.rewrite_prompt!r}; the truth is {truth!r}")
    print(f"mean SCS of {len(examples)} examples: {scores.mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
