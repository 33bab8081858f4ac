"""A recoverer's language model in fp32 and with `precision=int8`: speed, memory and agreement.

    python benchmarks/eight_bit.py [pairs] [recoverer]

Both sides read the same validation pairs of the starter dataset, score their true prompts, and
write 16 samples for each, in one batch. Each side is a process of its own, and loads the recoverer
`shipped_large` unless another one is named. Writes `benchmarks/results/eight_bit.json`.
"""

import sys
import time
from typing import Any

from work import side, write_report

SAMPLES = 16


def measure(precision: str, count: int, recoverer: str) -> dict[str, Any]:
    """One side: seconds a pair, memory, and log-probabilities of the true prompts."""
    import psutil

    from prompt_recovery.data.sources import starter
    from prompt_recovery.data.splits import split
    from prompt_recovery.recovery.decoding import MBR
    from prompt_recovery.recovery.interface import pairs_of
    from prompt_recovery.recovery.load import load_writer
    from prompt_recovery.runs.environment import peak_memory_bytes
    from prompt_recovery.runs.folder import is_retriever, recoverer_folders

    examples = split(starter()).val[:count]
    [folder] = [f for f in recoverer_folders(recoverer) if not is_retriever(f)]
    start = time.perf_counter()
    writer = load_writer(folder, precision)
    loaded = time.perf_counter() - start
    writer.identity = ""  # keeps nothing
    pairs = pairs_of(examples)
    prompts = [writer.prompt_tokens(pair) for pair in pairs]
    writer.write_greedily(prompts[:1], 2)  # so that no clock counts the first touch
    start = time.perf_counter()
    likely = [
        writer.mean_log_probabilities(pair, [e.rewrite_prompt])[0]
        for pair, e in zip(pairs, examples, strict=True)
    ]
    scored = time.perf_counter() - start
    start = time.perf_counter()
    MBR(samples=SAMPLES).ask(writer, prompts, [pair.id for pair in pairs])
    sampled = time.perf_counter() - start
    return {
        "seconds_to_load": loaded,
        "seconds_per_scored_pair": scored / count,
        "seconds_per_pair_with_samples": sampled / count,
        "gib_afterwards": psutil.Process().memory_info().rss / 2**30,
        "peak_gib": peak_memory_bytes() / 2**30,
        "log_probability_per_token": likely,
    }


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        import json

        precision, count, recoverer = sys.argv[2:]
        print("\n" + json.dumps(measure(precision, int(count), recoverer)))
        return
    count, recoverer = sys.argv[1:] + ["12", "shipped_large"][len(sys.argv) - 1 :]
    sides = {p: side(__file__, p, count, recoverer) for p in ("fp32", "int8")}
    exact, rounded = (sides[p].pop("log_probability_per_token") for p in ("fp32", "int8"))
    apart = [abs(a - b) for a, b in zip(exact, rounded, strict=True)]
    report = {
        "recoverer": recoverer,
        "pairs": int(count),
        "samples": SAMPLES,
        **sides,
        "ratio_scored": sides["fp32"]["seconds_per_scored_pair"]
        / sides["int8"]["seconds_per_scored_pair"],
        "ratio_sampled": sides["fp32"]["seconds_per_pair_with_samples"]
        / sides["int8"]["seconds_per_pair_with_samples"],
        "log_probability_per_token": sum(exact) / len(exact),
        "mean_difference": sum(b - a for a, b in zip(exact, rounded, strict=True)) / len(apart),
        "mean_absolute_difference": sum(apart) / len(apart),
    }
    print(
        f"{SAMPLES} samples: {report['ratio_sampled']:.2f} times as fast in int8 "
        f"({sides['int8']['seconds_per_pair_with_samples']:.1f} s a pair), the true prompts scored "
        f"{report['ratio_scored']:.2f} times as fast; log p a token differs by "
        f"{report['mean_absolute_difference']:.3f} on average"
    )
    write_report("eight_bit", report)


if __name__ == "__main__":
    main()
