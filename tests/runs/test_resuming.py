"""Which run `ckpt_path=last` goes on from."""

import os

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.resuming import checkpoint_file, resumed_run

SETTINGS = {"seed": 1, "objective": {"name": "sft"}, "trainer": {"max_steps": 5, "devices": 1}}


def begun(parent, name, **changes):
    """A run that was killed after its first checkpoint."""
    run = RunFolder.create(parent, name)
    run.write_config({**SETTINGS, **changes})
    return run


def with_checkpoint(run, time=None):
    run.checkpoint.parent.mkdir(parents=True)
    run.checkpoint.write_bytes(b"")
    if time is not None:
        os.utime(run.checkpoint, (time, time))
    return run


def resumed(new, ckpt_path="last", **changes):
    return resumed_run(ckpt_path, new, {**SETTINGS, **changes})


def test_what_a_run_goes_on_with(tmp_path):
    new = RunFolder.create(tmp_path, "3")
    assert resumed(new, None) is None
    with pytest.raises(PromptRecoveryError, match="no run in .* has left a checkpoint"):
        resumed(new)
    first, second = (begun(tmp_path, name) for name in "12")
    with_checkpoint(first)
    assert resumed(new) == first
    with_checkpoint(second.first_stage)
    assert resumed(new) == second
    assert checkpoint_file("last", second) is None
    assert checkpoint_file("last", first) == str(first.last_checkpoint)
    assert checkpoint_file(str(first.last_checkpoint), None) == str(first.last_checkpoint)
    assert checkpoint_file(None, None) is None
    with pytest.raises(PromptRecoveryError, match="no such file"):
        checkpoint_file(str(tmp_path / "none"), None)
    with_checkpoint(new)
    assert resumed(new) == new


def test_a_finished_run_is_not_gone_on_with_unless_its_own_folder_is_given(tmp_path):
    new = RunFolder.create(tmp_path, "3")
    killed, finished = (begun(tmp_path, name) for name in ("1", "2"))
    with_checkpoint(finished).write_metrics({"val/scs": 0.5})
    with pytest.raises(PromptRecoveryError, match="no run in .* has left a checkpoint"):
        resumed(new)
    with_checkpoint(killed)
    assert resumed(new) == killed
    assert resumed(finished) == finished


def test_the_newest_checkpoint_is_gone_on_with_whatever_the_names(tmp_path):
    new = RunFolder.create(tmp_path, "a_11")
    runs = [
        with_checkpoint(begun(tmp_path, name), time)
        for name, time in (("a_2", 1.0), ("a_10", 3.0), ("a", 2.0))
    ]
    assert resumed(new) == runs[1]
    with_checkpoint(runs[2].first_stage, 4.0)
    assert resumed(new) == runs[2]


def test_a_run_with_other_settings_is_not_gone_on_with_but_named(tmp_path):
    new = RunFolder.create(tmp_path, "new")
    other = with_checkpoint(begun(tmp_path, "other_seed", seed=2), 9.0)
    with_checkpoint(begun(tmp_path, "longer", trainer={"max_steps": 9, "devices": 1}), 8.0)
    unknown = with_checkpoint(RunFolder.create(tmp_path, "unknown"), 7.0)
    with pytest.raises(PromptRecoveryError) as raised:
        resumed(new)
    message = str(raised.value)
    for part in (
        "other_seed (seed=2 and not 1)",
        "longer (trainer.max_steps=9 and not 5)",
        "unknown (its config.yaml cannot be read)",
    ):
        assert part in message
    assert "\n" not in message
    same = with_checkpoint(begun(tmp_path, "same"), 1.0)
    assert resumed(new) == same
    with pytest.raises(PromptRecoveryError, match="has other settings .*seed=2 and not 1"):
        resumed(other)
    assert resumed(unknown) == unknown, "as an older version left it, in its own folder"


def test_a_run_goes_on_on_another_machine_with_other_words(tmp_path):
    new = RunFolder.create(tmp_path, "new")
    killed = with_checkpoint(begun(tmp_path, "killed", logger={"kind": "csv"}, tags=["a"]))
    secret = {"url": "https://me:secret@host:8/v1?key=x"}
    asks = with_checkpoint(begun(tmp_path, "asks", **secret))
    assert resumed(new, **secret) == asks
    with pytest.raises(PromptRecoveryError, match="no unfinished run .* has these") as raised:
        resumed(new, **secret, seed=3)
    assert "secret" not in str(raised.value)
    elsewhere = {"max_steps": 5, "devices": 2, "strategy": "ddp", "enable_progress_bar": False}
    assert resumed(new, trainer=elsewhere, logger={"kind": "none"}, name="mine") == killed
