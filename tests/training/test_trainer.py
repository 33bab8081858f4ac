"""The trainer's options are checked before a model is loaded."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.training import run
from prompt_recovery.training.job import trainer_options
from prompt_recovery.training.progress import PlainProgress
from prompt_recovery.training.trainer import usable_options
from tests.training.test_run import make_job


@pytest.fixture
def job(tmp_path, examples, scs, monkeypatch):
    """A job whose model is never loaded."""
    monkeypatch.setattr(run, "prepare_language_model", None)

    def job(**options):
        return make_job(tmp_path, examples, scs, trainer=trainer_options(**options))

    return job


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "trainer: Lightning says: "),
        ({"strategy": "foo"}, "trainer: Lightning says: .*foo"),
        ({"profiler": "zzz"}, "trainer: Lightning says: "),
        ({"limit_val_batches": -1}, "trainer: Lightning says: .*limit_val_batches"),
        ({"val_check_interval": 1000}, "trainer.val_check_interval=1000: an epoch has 6 batches"),
    ],
)
def test_what_lightning_would_refuse_is_one_line_and_early(job, options, message):
    with pytest.raises(PromptRecoveryError, match=message) as raised:
        run.train(job(**options))
    assert "\n" not in str(raised.value)


def test_an_interval_that_only_the_batches_show_to_be_too_long(tmp_path, examples, scs):
    options = trainer_options(accelerator="cpu", val_check_interval=20, enable_progress_bar=False)
    job = make_job(tmp_path, examples, scs, trainer=options)
    job.batching = type(job.batching)(batch_size=4, max_prompt_tokens=80, batch_tokens=300)
    with pytest.raises(PromptRecoveryError, match=r"Lightning says: .*val_check_interval.* \(20\)"):
        run.train(job)


def test_where_there_is_no_terminal_no_bar_is_drawn(tmp_path, examples, scs, monkeypatch):
    made = []
    fit = L.Trainer.fit
    monkeypatch.setattr(
        L.Trainer, "fit", lambda self, *a, **o: made.append(self) or fit(self, *a, **o)
    )
    options = trainer_options(accelerator="cpu", max_steps=1)
    run.train(make_job(tmp_path, examples, scs, trainer=options, evaluate=False))
    [trainer] = made
    assert trainer.progress_bar_callback is None
    assert any(isinstance(c, PlainProgress) for c in trainer.callbacks)


def test_slurms_variables_without_srun_are_one_line(job, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "x")
    with pytest.raises(PromptRecoveryError, match="SLURM.*start it with srun, or unset SLURM_NTA"):
        usable_options(job())


def test_only_cuda_is_taken_for_a_gpu(job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert usable_options(job())["accelerator"] == "cpu"
    for wanted in ("gpu", "cuda"):
        with pytest.raises(PromptRecoveryError, match=f"trainer.accelerator={wanted}: there is no"):
            usable_options(job(accelerator=wanted))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = SimpleNamespace(Trainer=lambda **options: None)
    monkeypatch.setattr("prompt_recovery.training.trainer.L", made)
    assert usable_options(job())["accelerator"] == "cuda"
    assert usable_options(job(accelerator="cpu"))["accelerator"] == "cpu"
