"""How exact integrated gradients are with 36 and with 12 points of the midpoint rule.

    python benchmarks/evidence_integration.py <journal> <record> [examples] [run]

Takes the first test examples of a run, in an order that only their ids determine, with the prompts
that the run recovered for them (`predictions.jsonl`); the default is ten of `run=shipped`. For each
model, the derivative of the quantity along the path is computed in fp32 at the 36 points, of which
every third one is a point of the rule with 12. The sum of the attributions is their mean, and the
error is its distance from the difference of the quantity between the texts and the neutral input.
Finished answers are kept in the journal.
"""

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

POINTS = 36
_ROWS = 4  # inputs whose gradients are computed at a time


def derivatives(reading: Any) -> tuple[list[float], float]:
    """The derivative at `POINTS` midpoints of the path, and the difference between its ends."""
    import torch

    given = reading.inputs()
    step = given.embeddings - given.neutral
    found: list[float] = []
    with given.context():
        for points in np.array_split((np.arange(POINTS) + 0.5) / POINTS, POINTS // _ROWS):
            share = torch.tensor(points, dtype=torch.float32)[:, None, None]
            inputs = (given.neutral + share * step).detach().requires_grad_()
            with torch.enable_grad():
                [gradient] = torch.autograd.grad(given(inputs).sum(), inputs)
            found += (gradient * step).sum((1, 2)).tolist()
        with torch.no_grad():
            difference = float(given(given.embeddings)[0]) - float(given(given.neutral)[0])
    return found, difference


def measure(journal: str, count: int, run: str) -> list[dict[str, Any]]:
    """The derivatives of all answers; those in the journal are not computed again."""
    from prompt_recovery.recovery.evidence.explaining import readings
    from prompt_recovery.recovery.interface import Pair
    from prompt_recovery.recovery.load import load_recoverer
    from prompt_recovery.runs.folder import named_runs
    from prompt_recovery.storage import Journal
    from prompt_recovery.terminal import quiet

    quiet()
    kept: Journal[dict[str, Any]] = Journal(Path(journal))
    found = kept.values
    finished = {(row["id"], row["model"]) for row in found}
    [folder] = named_runs(run)
    recoverer = load_recoverer(folder, precision="fp32")
    answers = [json.loads(line) for line in (folder / "predictions.jsonl").open()]
    answers = [row for row in answers if not row["fallback"]]
    answers.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
    for row in answers[:count]:
        pair = Pair(row["id"], row["original_text"], row["rewritten_text"])
        for name, reading in readings(recoverer, pair, row["prediction"]):
            if (pair.id, name) in finished:
                continue
            start = time.process_time()
            derivative, difference = derivatives(reading)
            seconds = round(time.process_time() - start, 1)
            found.append(
                {"id": pair.id, "model": name, "quantity": reading.quantity, "seconds": seconds,
                 "derivative": derivative, "difference": difference}
            )  # fmt: skip
            kept.append(found[-1])
            print(f"{pair.id} {name}: {seconds} s", flush=True)
    return found


def errors(row: Mapping[str, Any]) -> dict[int, float]:
    """The error by the number of points."""
    derivative = np.array(row["derivative"])
    return {
        POINTS // every: float(derivative[every // 2 :: every].mean()) - row["difference"]
        for every in (3, 1)
    }


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The errors by model and number of points, also relative to the difference."""
    result = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        differences = np.array([abs(row["difference"]) for row in own])
        sizes = {n: np.abs([errors(row)[n] for row in own]) for n in errors(own[0])}
        result[model] = {
            "quantity": own[0]["quantity"],
            "answers": len(own),
            "median_difference": round(float(np.median(differences)), 4),
            "seconds_per_point": round(float(np.mean([r["seconds"] for r in own])) / POINTS, 2),
            "by_points": {
                str(n): {
                    "median": round(float(np.median(size)), 4),
                    "max": round(float(size.max()), 4),
                    "median_relative": round(float(np.median(size / differences)), 4),
                    "max_relative": round(float((size / differences).max()), 4),
                }
                for n, size in sizes.items()
            },
        }
    return result


if __name__ == "__main__":
    match sys.argv[1:]:
        case [journal, record, *rest] if len(rest) <= 2:
            from prompt_recovery.storage import write_json

            count, run = (*rest, *("10", "shipped")[len(rest) :])
            found = report(measure(journal, int(count), run))
            write_json(Path(record), {"run": run, "models": found}, indent=1)
            print(json.dumps(found, indent=1))
        case _:
            sys.exit(__doc__)
