import json

import pytest

from tests import command_line
from tests.conftest import ROOT
from tests.forks import Fork

# A run of seconds: a random model, forty rows, two steps.
QUICK = [
    "model=tiny",
    "retriever=none",
    "data=file",
    "data.path=own.jsonl",
    "split.val=0.2",
    "split.test=0.2",
    "decoding.max_new_tokens=2",
    "logger=none",
    "trainer.enable_progress_bar=false",
]

# What every such run leaves, and is the same in equal ones.
RUN_FILES = ["adapter/adapter_model.safetensors", "curve.jsonl", "predictions.jsonl"]

_WIDE = {"COLUMNS": "200"}


@pytest.fixture
def folder(tmp_path, examples):
    """A folder with a small dataset, `own.jsonl`, and train.py."""
    rows = "".join(json.dumps({k: getattr(e, k) for k in e.__slots__}) + "\n" for e in examples)
    (tmp_path / "own.jsonl").write_text(rows)
    (tmp_path / "train.py").write_text((ROOT / "train.py").read_text())
    return tmp_path


def command(*arguments, cwd, **options):
    """`prompt-recovery …` to its end, it and its trials in forks."""
    return command_line.run(*arguments, cwd=cwd, **_WIDE, **options)


def command_anew(*arguments, cwd):
    """The same in new interpreters, for launchers that start some of their own."""
    return command_line.run_anew(command_line.command(*arguments), cwd, **_WIDE)


def starter_of(arguments):
    """Starts `prompt-recovery …` in a folder, for kills: it is a fork, and so are its trials."""

    def start(folder):
        with (folder / "stderr").open("a") as said:
            return Fork(command_line.command(*arguments), folder, stderr=said, forks_trials=True)

    return start
