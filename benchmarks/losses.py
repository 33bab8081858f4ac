"""Where the rest is lost: in candidates that aren't there, or in good ones that weren't chosen.

    python benchmarks/losses.py PREDICTIONS [DATA]

PREDICTIONS has a pair on each line, with its answer and all candidates: what `prompt-recovery
recover … output=answers.jsonl` writes, or a file in `predictions/` of an evaluation. DATA is a file
with the true prompts (columns id and rewrite_prompt); by default it is the starter dataset.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prompt_recovery.data.examples import id_of_cell
from prompt_recovery.data.files import read_rows
from prompt_recovery.data.sources import starter
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.storage import read_jsonl

GOOD = (0.2, 0.3, 0.5)
"""The SCS from which on a candidate is called good."""


def losses(
    predictions: Sequence[Mapping[str, Any]], truths: Mapping[str, str], scs: SCS
) -> dict[str, Any]:
    """Splits the distance between the answers and an SCS of 1.

    Args:
        predictions: Rows with `id`, `rewrite_prompt` and `candidates`, which have a `text`.
        truths: The true prompts by id.
        scs: The metric.

    Returns:
        The mean SCS of the answers and of the best candidate of each pair; what is lost by the
        choice (their difference) and what no candidate reaches (the rest up to 1); and, for each
        SCS from which on a candidate is called good, how many pairs have none, have one that was
        not chosen, and were answered well.
    """
    answered, best = [], []
    for row in predictions:
        texts = [row["rewrite_prompt"], *(c["text"] for c in row["candidates"])]
        values = scs.matrix(texts, [truths[row["id"]]])[:, 0]
        answered.append(float(values[0]))
        best.append(float(values.max()))
    answer, reach = np.array(answered), np.array(best)
    return {
        "pairs": len(predictions),
        "candidates": float(np.mean([len(row["candidates"]) for row in predictions])),
        "answer": float(answer.mean()),
        "best candidate": float(reach.mean()),
        "lost by the choice": float((reach - answer).mean()),
        "no candidate reaches": float((1 - reach).mean()),
        "pairs by what counts as good": {
            str(good): {
                "no good candidate": int((reach < good).sum()),
                "a good one not chosen": int(((reach >= good) & (answer < good)).sum()),
                "a good answer": int((answer >= good).sum()),
            }
            for good in GOOD
        },
    }


def main() -> None:
    rows = [row for row in read_jsonl(Path(sys.argv[1])) if "rewrite_prompt" in row]
    if len(sys.argv) > 2:
        found = read_rows(Path(sys.argv[2]), "data")
        truths = {id_of_cell(r, "id", ""): str(r.values["rewrite_prompt"]) for r in found}
    else:
        truths = {e.id: e.rewrite_prompt for e in starter().examples}
    print(json.dumps(losses(rows, truths, SCS()), indent=1))


if __name__ == "__main__":
    main()
