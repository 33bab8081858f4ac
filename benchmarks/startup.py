"""How long commands take to start, in seconds of one processor.

    python benchmarks/startup.py [run]

Each command is a process with one thread, and its user and system time are counted, since they
depend far less on what else the machine does than the time on a clock. On a busy machine they are
still longer, by up to a half, than on a quiet one, so the load is recorded.

A recovery is of one pair, by the run that is given. It is measured with what an earlier recovery
has left in the cache, and with an empty cache, where the backbone is converted and the prompts of
the bank are embedded (or, for a recoverer that comes with the package, unpacked).

The least of several repetitions counts. Writes `benchmarks/results/startup.json`.
"""

import os
import resource
import subprocess
import sys
import tempfile
from typing import Any

from work import write_report

REPETITIONS = 3
PAIR = [
    "original=Please return the borrowed ladder by Friday. The painters need it for the stairwell.",
    "rewritten=Ladder lent away, painters wait beneath the stairs. Friday brings it home.",
    "precision=fp32",
    "measures=false",
]
IMPORTED = (
    "torch", "transformers", "peft", "sentence_transformers", "sklearn", "pyarrow", "wandb",
)  # fmt: skip


def seconds(command: list[str], cache: str | None = None) -> float:
    """User and system seconds of a command."""
    settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    settings |= {} if cache is None else {"PROMPT_RECOVERY_CACHE": cache}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=os.environ | settings)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def ours(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prompt_recovery", *arguments]


def imported_by(module: str) -> list[str]:
    """Which of the heavy libraries a module imports."""
    script = f"import sys, {module}; print(*(m for m in {IMPORTED!r} if m in sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return found.stdout.split()


def main() -> None:
    commands = {
        "--help": ours("--help"),
        "recover --cfg job": ours("recover", "--cfg", "job"),
        "train --cfg job": ours("train", "--cfg", "job"),
        "import torch": [sys.executable, "-c", "import torch"],
        "imports of a recovery": [sys.executable, "-c", "import prompt_recovery.recovery.job"],
    }
    found: dict[str, Any] = {
        name: round(min(seconds(command) for _ in range(REPETITIONS)), 2)
        for name, command in commands.items()
    }
    if len(sys.argv) > 1:
        recovery = ours("recover", f"run={sys.argv[1]}", *PAIR)
        with tempfile.TemporaryDirectory() as cache:
            found["recovery of one pair, empty cache"] = round(seconds(recovery, cache), 2)
            again = min(seconds(recovery, cache) for _ in range(REPETITIONS))
            found["recovery of one pair"] = round(again, 2)
    write_report(
        "startup",
        {
            "unit": "user and system seconds, one thread",
            "repetitions": REPETITIONS,
            "load average": round(os.getloadavg()[0], 1),
            "seconds": found,
            "imported by a recovery": imported_by("prompt_recovery.recovery.job"),
        },
    )


if __name__ == "__main__":
    main()
