"""What the pipeline of `prompt-recovery generate` costs, with a rewriter that answers at once.

    python benchmarks/generation_pipeline.py [rows]

Makes a dataset of 100,000 rows from as many originals of 80 words, then takes the last answer away
and starts again. Reports seconds and memory of the whole (reading texts, planning, keeping every
answer, filters, Parquet, card and plots), and how long the second start needs to ask for what is
missing. Each is a process of its own. CPU seconds are those of this process alone, which a busy
machine doesn't change much. Writes `benchmarks/results/generation_pipeline.json`.
"""

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

STARTED = time.perf_counter()

from prompt_recovery.rewriters import Answer, Chat  # noqa: E402
from prompt_recovery.rewriters.fake import FakeRewriter  # noqa: E402

ROWS = 100_000


class Instant(FakeRewriter):
    """Says when it was first asked."""

    first_asked = first_asked_cpu = float("nan")

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Answers at once."""
        if math.isnan(Instant.first_asked):
            Instant.first_asked = time.perf_counter()
            Instant.first_asked_cpu = time.process_time()
        return super().answers(chats, seeds)


def _text(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"{rng.choice(_WORDS)}{n % 7}" for n in range(80)) + "."


_WORDS = [f"{start}{middle}er" for start in "bdfgklmnprst" for middle in ("a", "oa", "ee", "ill")]


def make(folder: Path) -> dict[str, float]:
    from prompt_recovery.generation.generate import generate
    from prompt_recovery.generation.job import GenerationJob
    from prompt_recovery.generation.originals import file_originals
    from prompt_recovery.templates import Template

    imported = time.perf_counter()
    rewriter = Instant(words=80)
    template = Template("gemma_rewrite", "{{ rewrite_prompt }}\n\n{{ original_text }}")
    originals = file_originals(folder / "originals.jsonl")
    summary = generate(GenerationJob(originals, rewriter, template, folder / "dataset"))
    done = time.perf_counter()
    return {
        "rows": summary.rows,
        "kept": summary.kept,
        "seconds": done - imported,
        "seconds_with_imports": done - STARTED,
        "ms_per_row": 1e3 * (done - imported) / summary.rows,
        "cpu_ms_per_row": 1e3 * time.process_time() / summary.rows,
        "seconds_to_first_request": Instant.first_asked - STARTED,
        "cpu_seconds_to_first_request": Instant.first_asked_cpu,
        "peak_memory_mib": _peak_memory() / 2**20,
    }


def _peak_memory() -> int:
    """Bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _side(folder: Path) -> dict[str, float]:
    ran = subprocess.run(
        [sys.executable, __file__, "side", str(folder)], stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def main() -> None:
    if sys.argv[1:2] == ["side"]:
        print(json.dumps(make(Path(sys.argv[2]))))
        return
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "originals.jsonl").open("w") as file:
            for n in range(rows):
                file.write(json.dumps({"original_text": f"Text {n}: {_text(n + 2**32)}"}) + "\n")
        whole = _side(folder)
        store = folder / "dataset" / ".work" / "requests.jsonl"
        lines = store.read_bytes().splitlines(keepends=True)
        store.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
        (folder / "dataset" / "README.md").unlink()  # it is not complete any more
        resumed = _side(folder)
    to_first = {name: resumed[name] for name in resumed if name.endswith("to_first_request")}
    report = {"benchmark": "generation_pipeline", "whole": whole, "resume": to_first}
    print(json.dumps(report, indent=2))
    if rows == ROWS:
        path = Path(__file__).parent / "results" / "generation_pipeline.json"
        path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
