import pytest

from tests import command_line
from tests.conftest import ROOT
from tests.forks import Fork
from tests.tiny_run import TINY_RUN, write_rows

QUICK = [*TINY_RUN, "decoding.max_new_tokens=2"]

# What every such run leaves, and is the same in equal ones.
RUN_FILES = ["adapter/adapter_model.safetensors", "curve.jsonl", "predictions.jsonl"]

_WIDE = {"COLUMNS": "200"}


@pytest.fixture
def folder(tmp_path, examples):
    """A folder with a small dataset, `own.jsonl`, and train.py."""
    write_rows(tmp_path / "own.jsonl", examples[:24])
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
