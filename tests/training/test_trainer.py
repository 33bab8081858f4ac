"""The trainer's options are checked before a model is loaded."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import GRPO
from prompt_recovery.training import run
from prompt_recovery.training.job import Batching, UnlabelledPairs, trainer_options
from prompt_recovery.training.progress import PlainProgress
from prompt_recovery.training.trainer import ValidationInEachEpoch, usable_options
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


@pytest.mark.parametrize(
    ("batch_tokens", "further"),
    [
        (300, {"val_check_interval": 20}),
        (4096, {"val_check_interval": 5, "limit_train_batches": 2}),
    ],
)
def test_epochs_that_turn_out_to_be_shorter_than_the_interval_are_validated_at_their_ends(
    tmp_path, examples, scs, caplog, batch_tokens, further
):
    options = trainer_options(accelerator="cpu", max_epochs=2, enable_progress_bar=False, **further)
    batching = Batching(batch_size=4, max_prompt_tokens=80, batch_tokens=batch_tokens)
    job = make_job(tmp_path, examples, scs, trainer=options, batching=batching, evaluate=False)
    steps = run.train(job)["train/steps"]
    said = f"val_check_interval={further['val_check_interval']}: an epoch has only {steps // 2}"
    assert said in caplog.text
    assert [point["step"] for point in job.run.curve()] == [steps // 2, steps]


@pytest.mark.parametrize(
    ("limit", "interval", "left"),
    [(1.0, 6, 6), (1.0, 7, 1.0), (0.5, 3, 3), (0.5, 4, 1.0), (4, 4, 4), (4, 5, 1.0), (9, 6, 6)],
)
def test_an_interval_is_compared_with_the_batches_of_an_epoch_that_are_used(limit, interval, left):
    trainer = SimpleNamespace(
        val_check_interval=interval,
        check_val_every_n_epoch=1,
        limit_val_batches=1.0,
        limit_train_batches=limit,
        datamodule=SimpleNamespace(train_dataloader=lambda: range(6)),
    )
    ValidationInEachEpoch().setup(trainer, None, "validate")
    assert trainer.val_check_interval == interval, "there are no epochs"
    ValidationInEachEpoch().setup(trainer, None, "fit")
    assert trainer.val_check_interval == left
    trainer.val_check_interval, trainer.check_val_every_n_epoch = 99, None
    ValidationInEachEpoch().setup(trainer, None, "fit")
    assert trainer.val_check_interval == 99, "it counts the batches of several epochs"


def test_an_interval_may_count_the_batches_of_several_epochs(job):
    assert usable_options(job(val_check_interval=1000, check_val_every_n_epoch=None))
    grpo = job(val_check_interval=20)
    grpo.objective = GRPO(samples=2, updates=4)  # six batches, four times each
    assert usable_options(grpo)


def test_unlabelled_pairs_make_an_epoch_longer(job):
    grpo = job(val_check_interval=20)  # more than the batches of the labelled examples
    grpo.objective = GRPO(samples=2)
    with pytest.raises(PromptRecoveryError, match="an epoch has 6 batches"):
        usable_options(grpo)
    grpo.unlabelled = UnlabelledPairs("pairs.jsonl")
    assert usable_options(grpo)


def test_where_there_is_no_terminal_no_bar_is_drawn(tmp_path, examples, scs, monkeypatch, capfd):
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
    assert trainer.state.fn == "validate", "it ends before the first validation of an epoch"
    drawn = "".join(capfd.readouterr())
    assert not [mark for mark in ("%|", "it/s", "Validation", "\r", "\x1b") if mark in drawn]


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
