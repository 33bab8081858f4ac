"""Deletion and insertion curves of the evidence for recovered prompts, against random order.

    python benchmarks/evidence_faithfulness.py measure <journal> <examples> <runs…>
    python benchmarks/evidence_faithfulness.py report <journal> <record>

`measure` takes the first `examples` test examples of the runs, in an order that only their ids
determine, and the prompts that the runs recovered for them (`predictions.jsonl`); the mean prompt
as an answer is left out. The runs take turns: each example is measured with one of them, and when
all are done, with the next one. For the run's language model and its dense retriever, both kinds of
evidence are measured on the same pieces of the texts, and the curves of these pieces in the order
of their weights and in three random orders. Everything is in fp32. Finished answers are kept in the
journal; killed, the same command goes on. `report` writes the areas under the curves of the answers
that are finished, with paired bootstrap intervals over examples.
"""

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = (0, 1, 2)
METHODS = ("occlusion", "integrated_gradients")
GRID = np.linspace(0, 1, 21)


def measure(journal: str, count: int, runs: Sequence[str]) -> None:
    """Adds the curves of all answers that aren't in the journal yet."""
    from prompt_recovery.data.tokens import completion_tokens
    from prompt_recovery.recovery.evidence.explaining import readings
    from prompt_recovery.recovery.interface import Pair
    from prompt_recovery.recovery.load import kind_of, load_recoverer
    from prompt_recovery.recovery.sources import WriterSource
    from prompt_recovery.storage import Journal
    from prompt_recovery.terminal import quiet

    quiet()
    kept: Journal[dict[str, Any]] = Journal(Path(journal))
    finished = {(row["run"], row["id"], row["kind"]) for row in kept.values}
    answers = [
        {row["id"]: row for row in map(json.loads, (Path(run) / "predictions.jsonl").open())}
        for run in runs
    ]
    recoverers = [load_recoverer(run, precision="fp32") for run in runs]
    ids = sorted(answers[0], key=lambda i: hashlib.sha256(i.encode()).digest())[:count]
    for turn in range(len(runs)):
        for number, id_ in enumerate(ids):
            which = (number + turn) % len(runs)
            row, recoverer, run = answers[which][id_], recoverers[which], Path(runs[which]).name
            if row["fallback"]:
                continue
            pair = Pair(id_, row["original_text"], row["rewritten_text"])
            sources = [s for s, _ in recoverer.sources if kind_of(s) != "probe"]
            for source, (_, reading) in zip(
                sources, readings(recoverer, pair, row["prediction"]), strict=True
            ):
                kind = "writer" if isinstance(source, WriterSource) else "retriever"
                if (run, id_, kind) in finished:
                    continue
                start = time.process_time()
                found = example(reading, pair)
                if isinstance(source, WriterSource):
                    tokens = completion_tokens(row["prediction"], source.writer.tokenizer)
                    found["tokens"] = len(tokens)
                seconds = time.process_time() - start
                kept.append({"run": run, "id": id_, "kind": kind, "seconds": seconds, **found})
                print(f"{turn} {number} {run} {kind}: {seconds:.0f} s", flush=True)


def example(reading: Any, pair: Any) -> dict[str, Any]:
    """The curves of one example, and how much the attributions fall short of completeness."""
    from prompt_recovery.recovery.evidence.explaining import evidence
    from prompt_recovery.recovery.evidence.faithfulness import (
        at_random,
        by_weight,
        curves,
        piece_weights,
    )
    from prompt_recovery.recovery.evidence.gradients import STEPS, integrated_gradients
    from prompt_recovery.recovery.evidence.pieces import pieces, within
    from prompt_recovery.recovery.spans import TextName

    texts: dict[TextName, str] = {"original": pair.original_text, "rewritten": pair.rewritten_text}
    parts = within(pieces(pair.original_text, pair.rewritten_text), reading.ranges)
    times = [time.process_time()]
    left_out = [span.weight for span in evidence("", reading, pair, "occlusion").spans]
    times.append(time.process_time())
    spans, value, error = integrated_gradients(reading, texts)
    times.append(time.process_time())
    orders = {
        "occlusion": by_weight(left_out),
        "integrated_gradients": by_weight(piece_weights(parts, spans)),
        **{f"random {seed}": at_random(len(parts), seed) for seed in SEEDS},
    }
    found = curves(reading, texts, parts, orders)
    times.append(time.process_time())
    return {
        "pieces": len(parts),
        "steps": STEPS,
        "seconds_of": dict(zip((*METHODS, "curves"), np.diff(times).tolist(), strict=True)),
        "attributed": sum(span.weight for span in spans),
        "completeness_error": error,
        "value": value,
        "curves": {name: vars(curve) for name, curve in found.items()},
    }


def report(journal: str, record: str) -> None:
    """Writes the record of a journal, and prints the areas."""
    from prompt_recovery.recovery.evidence.faithfulness import area
    from prompt_recovery.storage import write_json

    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in Path(journal).read_text().splitlines():
        row = json.loads(line)
        by_kind[row["kind"]].append(row)
    result: dict[str, Any] = {"random_seeds": list(SEEDS), "models": {}}
    for kind, rows in by_kind.items():
        # Nats per token of the prompt, so that long prompts count as much as short ones.
        for row in rows:
            unit = row.get("tokens", 1)
            row["curves"] = {
                name: {which: [(x, y / unit) for x, y in points] for which, points in both.items()}
                for name, both in row["curves"].items()
            }
        found: dict[str, Any] = {
            "quantity": "log p per token of the prompt" if kind == "writer" else "cosine",
            "runs": sorted({row["run"] for row in rows}),
            "examples": len({row["id"] for row in rows}),
            "answers": len(rows),
            "steps": rows[0]["steps"],
            "completeness_error": summary(
                [abs(row["completeness_error"] / max(abs(row["attributed"]), 1e-9)) for row in rows]
            ),
            "completeness_error_size": summary([abs(row["completeness_error"]) for row in rows]),
            **timed(rows),
            "pieces_per_answer": float(np.mean([row["pieces"] for row in rows])),
            "curves": {
                name: {which: mean_curve(rows, names, which) for which in ("deletion", "insertion")}
                for name, names in orders().items()
            },
            "areas": {},
        }
        for method in METHODS:
            for which, sign in (("deletion", -1), ("insertion", 1)):
                found["areas"][f"{method}, {which}"] = compared(rows, method, which, sign, area)
        result["models"][kind] = found
    write_json(Path(record), result, indent=1)
    print(json.dumps({k: v["areas"] for k, v in result["models"].items()}, indent=1))


def timed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean CPU seconds of the parts of a measurement, where they are in the journal."""
    parts = [row["seconds_of"] for row in rows if "seconds_of" in row]
    if not parts:
        return {}
    return {"cpu_seconds": {name: float(np.mean([p[name] for p in parts])) for name in parts[0]}}


def orders() -> dict[str, list[str]]:
    """The orders in the journal that belong to each curve."""
    return {**{m: [m] for m in METHODS}, "random": [f"random {seed}" for seed in SEEDS]}


def mean_curve(rows: Sequence[dict[str, Any]], names: Sequence[str], which: str) -> list[float]:
    """The mean height at the shares of `GRID`, interpolated."""
    heights = [
        np.interp(GRID, *np.array(row["curves"][name][which]).T) for row in rows for name in names
    ]
    return [round(float(height), 5) for height in np.mean(heights, axis=0)]


def compared(
    rows: Sequence[dict[str, Any]], method: str, which: str, sign: int, area: Any
) -> dict[str, Any]:
    """The mean area with a method, and its gain over random order, each with an interval.

    The gains of the runs and of the random seeds are averaged by example.
    """
    from prompt_recovery.metrics.statistics import bootstrap_interval

    own: dict[str, list[float]] = defaultdict(list)
    gains: dict[str, list[float]] = defaultdict(list)
    by_run: dict[str, list[float]] = defaultdict(list)
    by_seed: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        value = area(row["curves"][method][which])
        own[row["id"]].append(value)
        for seed in SEEDS:
            gain = sign * (value - area(row["curves"][f"random {seed}"][which]))
            gains[row["id"]].append(gain)
            by_run[row["run"]].append(gain)
            by_seed[seed].append(gain)
    means = np.array([np.mean(values) for values in gains.values()])
    low, high = bootstrap_interval(means)
    return {
        "area": float(np.mean([np.mean(values) for values in own.values()])),
        "gain": float(means.mean()),
        "gain_ci_low": low,
        "gain_ci_high": high,
        "better_in": float((means > 0).mean()),
        "gain_by_run": {name: float(np.mean(values)) for name, values in sorted(by_run.items())},
        "gain_by_seed": {str(seed): float(np.mean(values)) for seed, values in by_seed.items()},
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """The median and the 95 % quantile."""
    return {"median": float(np.median(values)), "q95": float(np.quantile(values, 0.95))}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure", journal, count, *runs] if runs:
            measure(journal, int(count), runs)
        case ["report", journal, record]:
            report(journal, record)
        case _:
            sys.exit(__doc__)
