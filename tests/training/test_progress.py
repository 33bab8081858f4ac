import logging
import math
from types import SimpleNamespace

from prompt_recovery import terminal
from prompt_recovery.training.progress import PlainProgress, progress_callback


def test_training_is_told_to_a_log_now_and_then(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal, "SILENT_S", 3.0)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    trainer = SimpleNamespace(
        global_step=100, estimated_stepping_batches=400, is_global_zero=True,
        callback_metrics={"train/loss": 1.25}, num_val_batches=[7, math.inf],
    )  # fmt: skip
    callback = progress_callback()
    assert isinstance(callback, PlainProgress)
    with caplog.at_level(logging.INFO):
        callback.on_train_start(trainer, None)
        for _ in range(5):
            now[0] += 20
            trainer.global_step += 20
            callback.on_train_batch_end(trainer, None, None, None, 0)
        now[0] += 60
        callback.on_validation_batch_end(trainer, None, None, None, 2)
        trainer.estimated_stepping_batches = math.inf
        now[0] += 60
        callback.on_train_batch_end(trainer, None, None, None, 0)
    assert caplog.messages == [
        "training: step 120 of 400, about 5 min left, loss 1.250",
        "training: step 160 of 400, about 4 min left, loss 1.250",
        "training: step 200 of 400, about 3 min left, loss 1.250",
        "validation: batch 3 of 7",
        "training: step 200, loss 1.250",
    ]
