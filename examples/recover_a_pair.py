"""Recovers the prompt behind a pair of texts.

python examples/recover_a_pair.py [run]

By default, the run that was started last answers or, if there is none, the recoverer that comes
with the package. `python train.py` makes a run.
"""

import sys

import prompt_recovery as pr

ORIGINAL = "Please return the borrowed ladder by Friday. The painters need it for the stairwell."
REWRITTEN = (
    "Once upon a time a ladder was lost in the land of stairs, and the painters wept. Bring it "
    "home by Friday, said the king, and all shall be bright again. So it was, and they lived "
    "happily ever after."
)


def main(run: str | None = None) -> None:
    prediction = pr.recover(ORIGINAL, REWRITTEN, run=run)
    print(prediction.rewrite_prompt)
    if prediction.confidence is not None:
        print(f"expected SCS: {prediction.confidence:.2f}")
    for candidate in prediction.candidates[1:6]:
        print(f"{candidate.score:6.3f}  {candidate.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
