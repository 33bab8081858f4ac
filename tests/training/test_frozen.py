"""Runs that keep the hidden states below the lowest adapter."""

import logging

import pytest

from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.training.run import train
from prompt_recovery.trees.frozen import FrozenLayers, FrozenStates
from tests.training.test_run import make_job

THREE_EPOCHS = {
    "accelerator": "cpu",
    "max_epochs": 3,
    "gradient_clip_val": 1.0,
    "enable_progress_bar": False,
}


def test_a_run_is_the_same_and_skips_the_frozen_layers_from_the_second_epoch(
    tmp_path, examples, scs, monkeypatch, caplog
):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path / "cache"))
    skipped, kept = [], []
    skip, keep = FrozenLayers.skipped, FrozenStates._kept
    monkeypatch.setattr(FrozenLayers, "skipped", lambda *a: skipped.append(1) or skip(*a))
    monkeypatch.setattr(FrozenStates, "_kept", lambda *a: kept.append(1) or keep(*a))

    def run(name, **changes):
        adapter = Adapter(rank=4, layers=0.5)
        job = make_job(
            tmp_path / name, examples, scs, adapter=adapter, trainer=THREE_EPOCHS, **changes
        )
        return train(job)

    plain = run("plain")
    with caplog.at_level(logging.INFO):
        first = run("first", keep_hidden_states=True)
    assert "keeping the hidden states of 1 frozen layers" in caplog.text
    assert len(skipped) == 2 * len(kept) > 0
    kept.clear()
    second = run("second", keep_hidden_states=True)
    assert not kept, "a later run on the same data reads what the first one kept"
    for metrics in (first, second):
        for name in ("train/loss", "val/scs", "test/scs"):
            assert metrics[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-4), name


def test_an_adapter_on_all_layers_is_said_to_leave_nothing_frozen(tmp_path, examples, scs, caplog):
    job = make_job(tmp_path, examples, scs, keep_hidden_states=True, evaluate=False)
    train(job)
    assert "keep_hidden_states has no effect" in caplog.text


def test_sharded_models_are_refused(tmp_path, examples, scs):
    trainer = {"strategy": "fsdp", "accelerator": "cpu", "enable_progress_bar": False}
    job = make_job(tmp_path, examples, scs, keep_hidden_states=True, trainer=trainer)
    with pytest.raises(PromptRecoveryError, match="fsdp cannot skip layers"):
        train(job)
