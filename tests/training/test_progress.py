import logging
import math
from types import SimpleNamespace

from prompt_recovery import terminal
from prompt_recovery.training.progress import GoingOn, PlainProgress, progress_callback
from prompt_recovery.training.results import lowered
from tests.clock import wait_for_messages


def test_training_is_told_to_a_log_now_and_then(caplog, clock):
    trainer = SimpleNamespace(
        global_step=100, estimated_stepping_batches=400, is_global_zero=True,
        callback_metrics={"train/loss": 1.25}, num_val_batches=[7, math.inf],
    )  # fmt: skip
    callback = progress_callback()
    assert isinstance(callback, PlainProgress)
    with caplog.at_level(logging.INFO):
        callback.on_train_start(trainer, None)
        for _ in range(5):
            clock.now += 20
            trainer.global_step += 20
            callback.on_train_batch_end(trainer, None, None, None, 0)
        clock.now += 60
        callback.on_validation_batch_end(trainer, None, None, None, 2)
        trainer.estimated_stepping_batches = math.inf
        clock.now += 60
        callback.on_train_batch_end(trainer, None, None, None, 0)
        callback.teardown(trainer, None, "fit")
    assert caplog.messages == [
        "training: step 120 of 400, about 5 min left, loss 1.250",
        "training: step 160 of 400, about 4 min left, loss 1.250",
        "training: step 200 of 400, about 3 min left, loss 1.250",
        "validation: batch 3 of 7",
        "training: step 200, loss 1.250",
    ]


def test_a_long_first_step_and_a_long_validation_are_announced(caplog, monkeypatch):
    monkeypatch.setattr(terminal, "SILENT_S", 0.01)
    trainer = SimpleNamespace(
        global_step=0, estimated_stepping_batches=9, is_global_zero=True, callback_metrics={}
    )
    callback = PlainProgress()
    with caplog.at_level(logging.INFO):
        callback.on_train_start(trainer, None)
        callback._timer.join(10)
        callback.on_validation_start(trainer, None)
        wait_for_messages(caplog, 2)
        callback.on_validation_end(trainer, None)
        callback.teardown(trainer, None, "fit")
    assert caplog.messages == [
        "training: step 0 of 9, just begun",
        "validation …",
        "validation took 0 s",
    ]


def test_a_resumed_training_says_where_it_goes_on(caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = SimpleNamespace(
        global_step=1200, estimated_stepping_batches=4000, is_global_zero=True
    )
    file = str(tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt")
    with caplog.at_level(logging.INFO):
        GoingOn(file).on_train_start(trainer, None)
        GoingOn(None).on_train_start(trainer, None)
    where = "with runs/a/checkpoints/last.ckpt"
    assert caplog.messages == [f"continuing from step 1,200 of 4,000, {where}"]


def test_a_run_that_got_worse_says_what_to_try():
    said = lowered({"test/start_scs": 0.201, "test/gain": -0.107}, 1.5e-3)
    assert said.startswith("training lowered the SCS on the test split from 0.201 to 0.094: try a")
    assert "(this was 0.0015)" in said
    assert lowered({"test/start_scs": 0.0012, "test/gain": -0.0006}, 1.5e-3) is None
    assert lowered({"test/start_scs": 0.1, "test/gain": 0.1}, 1.5e-3) is None
