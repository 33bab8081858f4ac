import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# A run of seconds: a random model, forty rows, two steps.
QUICK = [
    "model=tiny",
    "data=file",
    "data.path=own.jsonl",
    "split.val=0.2",
    "split.test=0.2",
    "decoding.max_new_tokens=2",
    "logger=none",
    "trainer.enable_progress_bar=false",
]


@pytest.fixture
def folder(tmp_path, examples):
    """A folder with a small dataset, `own.jsonl`, and train.py."""
    rows = "".join(json.dumps({k: getattr(e, k) for k in e.__slots__}) + "\n" for e in examples)
    (tmp_path / "own.jsonl").write_text(rows)
    (tmp_path / "train.py").write_text((ROOT / "train.py").read_text())
    return tmp_path


def started(*arguments, cwd, **environment):
    """`prompt-recovery …` in a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "prompt_recovery.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*arguments, cwd, **environment):
    """The same, to its end."""
    process = started(*arguments, cwd=cwd, **environment)
    out, err = process.communicate(timeout=280)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
