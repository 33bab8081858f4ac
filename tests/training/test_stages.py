"""Two-stage runs, killed where it hurts, and what a folder says while they are trained."""

import math
import os
import random
import signal
import sys
import time
from functools import lru_cache

import pytest
import torch

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.settings.checking import check
from prompt_recovery.training import run as training
from prompt_recovery.training import stages
from prompt_recovery.training.job import TrainSettings
from prompt_recovery.training.stages import train_stages
from tests.conftest import ROOT
from tests.forks import Fork
from tests.killing import KILLS, assert_kills_change_nothing, run_files
from tests.settings.composing import composed
from tests.tiny_run import TINY_RUN, write_rows

SETTINGS = (
    "+experiment=sft_then_dpo",
    *TINY_RUN,
    "precision=fp32",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "first_stage.trainer.max_epochs=2",
    "preferences.mix.sampled=6",
    "preferences.mix.max_new_tokens=6",
    "preferences.pairing.margin=0.0001",
    "batching.batch_size=2",
    "decoding.max_new_tokens=4",
    "checkpoint_minutes=0",
)


def start(folder, *arguments):
    with (folder / "stderr").open("w") as file:
        return Fork(
            [sys.executable, str(ROOT / "train.py"), *SETTINGS, *arguments],
            cwd=folder,
            env={**os.environ, "PROMPT_RECOVERY_CACHE": str(folder / "cache")},
            stderr=file,
        )


def kill_when(happened, process, said, timeout=150):
    """SIGKILL at a random moment soon after something happened."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert process.poll() is None, f"it ended too early: {said.read_text()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def processed(checkpoint):
    try:
        return _processed(checkpoint, checkpoint.stat().st_mtime_ns)
    except (OSError, RuntimeError, EOFError):
        return 0


@lru_cache(maxsize=1)
def _processed(checkpoint, mtime):
    """Reads each version once: who waits looks a hundred times a second."""
    loop = torch.load(checkpoint, weights_only=True)["loops"]["fit_loop"]
    return loop["epoch_loop.batch_progress"]["total"]["processed"]


def test_a_two_stage_run_killed_in_every_stage_ends_as_one_that_was_not(tmp_path, examples):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_rows(folder / "own.jsonl", examples[:24])

    assert start(whole).wait() == 0, (whole / "stderr").read_text()

    def newest(pattern):
        return max(killed.glob(f"runs/train/*/{pattern}"), default=None)

    def candidates():
        return sum(len(f.read_bytes()) for f in killed.glob("cache/candidates/*.jsonl"))

    said = killed / "stderr"
    first = "first_stage/checkpoints/last.ckpt"
    kill_when(lambda: (p := newest(first)) and processed(p) >= 5, start(killed), said)
    kill_when(lambda: candidates() > 0, start(killed, "ckpt_path=last"), said)
    done = candidates()
    second = "checkpoints/last.ckpt"
    process = start(killed, "ckpt_path=last")
    kill_when(lambda: (p := newest(second)) and processed(p) >= 3, process, said)
    assert candidates() >= done  # nothing is sampled twice: see below

    def trained():
        curve = newest("curve.jsonl")
        return curve is not None and curve.read_text().count("\n") == 2

    kill_when(trained, start(killed, "ckpt_path=last"), said)
    assert start(killed, "ckpt_path=last").wait() == 0, said.read_text()

    runs = sorted((killed / "runs" / "train").iterdir())
    assert len(runs) == 5
    # The last run had its first stage, and all candidates, from the runs before it.
    assert not (runs[-1] / "first_stage" / "checkpoints").exists()
    [names] = {
        tuple(p.name for p in (f / "cache/candidates").glob("*.jsonl")) for f in (whole, killed)
    }
    for name in names:
        a, b = ((f / "cache/candidates" / name).read_text().splitlines() for f in (whole, killed))
        assert len(a) == len(b)
    left = left_by_newest(whole)
    assert left == left_by_newest(killed)
    assert left[1]["metrics"]["train/steps"] > 5


def going_on(folder):
    """Starts the run, or goes on with it as a user would once it has a checkpoint."""
    checkpoints = folder.glob("runs/train/*/**/checkpoints/last.ckpt")
    return start(folder, *(["ckpt_path=last"] if any(checkpoints) else []))


def left_by_newest(folder):
    run = max((folder / "runs" / "train").iterdir())
    names = ["adapter/adapter_model.safetensors", "curve.jsonl"]
    first = run_files(run / "first_stage", names[0])
    return first, run_files(run, *names, "predictions.jsonl")


@pytest.mark.skipif(KILLS < 2, reason="killed in every stage above")
@pytest.mark.parametrize("when", ["whenever", "in the final evaluation"])
def test_kills_change_no_two_stage_run(tmp_path, examples, when):
    def trained(folder):
        curves = sorted(folder.glob("runs/train/*/curve.jsonl"))
        return bool(curves) and curves[-1].read_text().count("\n") == 2

    assert_kills_change_nothing(
        tmp_path,
        lambda folder: write_rows(folder / "own.jsonl", examples),
        going_on,
        left_by_newest,
        **({} if when == "whenever" else {"after": trained, "within": 0.5}),
    )


def test_a_run_records_absolute_paths_as_the_first_thing_it_does(tmp_path, monkeypatch, examples):
    """So that it is found again, and its data is, from every folder."""
    write_rows(tmp_path / "own.jsonl", examples)
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "mine")
    jobs = []

    def train(job):
        assert run.config() == {**recorded, "ckpt_path": None}
        jobs.append(job)
        return {}

    monkeypatch.setattr(training, "train", train)
    config = composed(
        "train", "model=tiny", "retriever=none", "data=file", "data.path=own.jsonl", "name=mine",
        "group=null", "split.val=0.2", "split.test=0.2",
    )  # fmt: skip
    given = check(config, TrainSettings)
    recorded = {**given, "data": {**given["data"], "path": str(tmp_path / "own.jsonl")}}
    assert math.isnan(train_stages(given, run)), "this one has no validation"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    splits = run.splits(jobs[0].dataset.fingerprint())
    assert [e.id for e in splits.test] == [e.id for e in jobs[0].splits.test]


def test_a_folder_that_cannot_be_written_is_found_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(training, "train", lambda _: pytest.fail("it trains"))
    config = composed("train", "model=tiny", "retriever=none", "name=mine", "group=null")
    with pytest.raises(PromptRecoveryError, match="cannot write into"):
        train_stages(check(config, TrainSettings), RunFolder(tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["+experiment=sft_then_dpo", "preferences.path=none.jsonl"], "none.jsonl: no such file"),
        (["objective=dpo", "retriever=none", "preferences.path=none.jsonl"], "no such file"),
        (["start=nowhere"], "nowhere: holds no adapter_model.safetensors"),
    ],
)
def test_what_the_main_stage_lacks_is_found_before_others_are_trained(
    tmp_path, monkeypatch, settings, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "train", lambda _: pytest.fail("it trains"))
    config = composed("train", *settings, "model=tiny", "name=mine", "group=null")
    with pytest.raises(PromptRecoveryError, match=message):
        train_stages(check(config, TrainSettings), RunFolder(tmp_path / "run"))


def test_a_finished_run_that_is_trained_again_is_not_finished_meanwhile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "mine")
    seen = []

    def train(job):
        seen.append((job.run, run.is_finished, run.first_stage.is_finished))
        assert (tmp_path / "runs" / "latest").resolve() == run.path
        metrics = {"val/scs": 0.5, "train/seconds": 1.0}
        job.run.write_metrics(metrics)
        return metrics

    monkeypatch.setattr(training, "train", train)
    for folder in (run, run.first_stage):
        folder.path.mkdir(parents=True)
        folder.write_metrics({"val/scs": 0.1})
    first = "+first_stage={objective: {_target_: prompt_recovery.objectives.SFT}}"
    config = composed("train", "model=tiny", "retriever=none", first, "name=mine", "group=null")
    assert train_stages(check(config, TrainSettings), run) == 0.5
    assert seen == [(run.first_stage, False, False), (run, False, True)]
    assert run.is_finished


def test_a_first_stage_that_was_stopped_goes_on_from_its_own_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "mine")
    run.first_stage.checkpoint.parent.mkdir(parents=True)
    run.first_stage.checkpoint.write_bytes(b"")
    resumed = {}

    def train(job):
        resumed[job.run] = job.ckpt_path
        return {"val/scs": 0.5}

    monkeypatch.setattr(training, "train", train)
    first = "+first_stage={objective: {_target_: prompt_recovery.objectives.SFT}}"
    config = composed(
        "train", "model=tiny", "retriever=none", "ckpt_path=last", first, "name=mine", "group=null"
    )
    train_stages(check(config, TrainSettings), run)
    assert resumed == {run.first_stage: str(run.first_stage.checkpoint), run: None}


def test_the_first_stage_starts_where_the_run_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "mine")
    started = {}

    def train(job):
        started[job.run] = job.start
        return {"val/scs": 0.5}

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(stages, "_require_usable", lambda job: started.update(usable=job.start))
    first = "+first_stage={objective: {_target_: prompt_recovery.objectives.SFT}}"
    config = composed(
        "train", "model=tiny", "retriever=none", "start=old", first, "name=mine", "group=null"
    )
    train_stages(check(config, TrainSettings), run)
    old = tmp_path / "old"
    assert started == {"usable": old, run.first_stage: old, run: run.first_stage.path}
