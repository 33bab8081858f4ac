"""Several processes train what one would: real ones, on the CPU, with gloo."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prompt_recovery.commands.main import main
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs import processes
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.storage import locked
from tests.closeness import assert_close
from tests.conftest import ROOT
from tests.forks import Fork, standing_in
from tests.tiny_run import TINY_RUN, write_rows
from tests.training import together

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def start(*arguments, cwd=ROOT, timeout=280):
    """In a fork, as is what Lightning starts in turn."""
    environment = {**os.environ, **standing_in()}
    words = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder, name) for name in ("stdout", "stderr"))
        with out.open("w") as stdout, err.open("w") as stderr:
            fork = Fork(words, cwd, environment, None, stdout, stderr, start_new_session=True)
        try:
            fork.wait(timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):  # with those that it has started
                os.killpg(fork.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(words, fork.returncode, out.read_text(), err.read_text())


def start_anew(*arguments, cwd=ROOT, timeout=280):
    """In a new interpreter; what it starts in turn are forks."""
    environment = {**os.environ, **standing_in()}
    words = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(
        words,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):  # with those that it has started
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def in_two_forks(*arguments, cwd=ROOT):
    """`start_anew(*TORCHRUN, …)` without three new interpreters."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "tests",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    words = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder, name) for name in ("stdout", "stderr"))
        with out.open("w") as stdout, err.open("w") as stderr:
            forks = [
                Fork(
                    words,
                    cwd,
                    {**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank},
                    stdout=stdout,
                    stderr=stderr,
                )
                for rank in "01"
            ]
        try:
            worst = max(fork.wait(280) for fork in forks)
        finally:
            for fork in forks:
                fork.kill()
        return subprocess.CompletedProcess(words, worst, out.read_text(), err.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two processes, and of this one; made once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "together"
    with locked(folder):
        if not folder.exists():
            folder.mkdir()
            together.write_preferences(folder / "preferences.jsonl")
            for objective, epochs in (("sft", 2), ("dpo", 2), ("grpo", 1), ("contrastive", 2)):
                together.run(folder, objective, epochs=epochs)
            started = folder / "one_dpo" / "adapter"
            together.run(folder, "dpo", name="one_started", epochs=1, start=started)
            tasks = "equal_one_process+keep_slices"
            result = in_two_forks("-m", "tests.training.together", tasks, folder)
            assert result.returncode == 0, result.stderr
    return folder


def curve(run):
    """What the CSV logger wrote of training and validation."""
    with (run / "csv" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if not row["seconds"]]
    return {
        (int(row["step"]), name): float(value)
        for row in rows
        for name, value in row.items()
        if name.startswith(("train/", "val/")) and value
    }


def adapter(run):
    return load_file(run / "adapter" / "adapter_model.safetensors")


def retriever(run):
    """The weights, except biases of keys: no softmax depends on them, so they follow rounding."""
    files = sorted((run / "retriever").rglob("*.safetensors"))
    weights = {f"{f.parent.name} {n}": w for f in files for n, w in load_file(f).items()}
    return {name: weight for name, weight in weights.items() if "key.bias" not in name}


def assert_same_curve(ours, theirs, rtol=5e-6):
    """Each metric up to the rounding of its largest value.

    Log-probabilities near -50 round by 2e-6 in fp32, the gradients that the processes share in
    another order bring as much, and what a margin is the difference of is larger than itself.
    """
    assert ours.keys() == theirs.keys()
    for name in {name for _, name in theirs}:
        steps = [key for key in theirs if key[1] == name]
        assert_close([ours[key] for key in steps], [theirs[key] for key in steps], rtol=rtol)


def assert_same_adapter(ours, theirs, rtol=1e-5):
    """AdamW divides each gradient by its own size, and so makes the rounding of small ones large:
    no single weight is as well determined as all together."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= rtol * theirs[name].norm(), name
        assert_close(ours[name], theirs[name], rtol=10 * rtol)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_are_one_with_the_same_global_batch(folder, strategy, objective):
    one, two = folder / f"one_{objective}", folder / f"{strategy}_{objective}"
    theirs = curve(one)
    assert_same_curve(curve(two), theirs)
    losses = [value for (_, name), value in sorted(theirs.items()) if name == "train/loss"]
    assert losses[-1] < losses[0] - 0.1
    assert_same_adapter(adapter(two), adapter(one))
    assert any(v.abs().max() > 0.01 for n, v in adapter(one).items() if "lora_B" in n)
    metrics = [json.loads((folder / f"{two.name}.{rank}.json").read_text()) for rank in (0, 1)]
    alone = json.loads((folder / f"{one.name}.0.json").read_text())
    for name in ("val/scs", "train/loss", "train/steps"):
        assert [m[name] for m in metrics] == pytest.approx([alone[name]] * 2, rel=5e-6)
    tokens = [m["train/tokens_per_second"] * m["train/seconds"] for m in (*metrics, alone)]
    assert tokens == pytest.approx([tokens[0]] * 3)


def test_two_processes_share_their_negatives(folder):
    one, two = folder / "one_contrastive", folder / "ddp_contrastive"
    theirs = curve(one)
    assert_same_curve(curve(two), theirs)
    # Biases that begin at zero are made of AdamW's steps alone, whose rounding nothing dilutes.
    assert_same_adapter(retriever(two), retriever(one), rtol=2e-5)
    losses = [value for (_, name), value in sorted(theirs.items()) if name == "train/loss"]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_sample_what_one_would(folder, strategy):
    one, two = folder / "one_grpo", folder / f"{strategy}_grpo"
    theirs = curve(one)
    # Advantages add up to zero, so that the loss is far smaller than what it is the sum of.
    assert_same_curve(curve(two), theirs, rtol=2e-5)
    # Advantages are divided by small deviations of rewards, which makes rounding larger again.
    assert_same_adapter(adapter(two), adapter(one), rtol=1e-4)
    assert {"train/reward", "train/kl"} <= {name for _, name in theirs}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_validate_before_the_training_of_a_trained_model(folder, strategy):
    ours, theirs = (RunFolder(folder / f"{name}_started").curve() for name in (strategy, "one"))
    assert [point["step"] for point in ours] == [point["step"] for point in theirs]
    assert ours[0]["step"] == 0
    for point, expected in zip(ours, theirs, strict=True):
        assert point == pytest.approx(expected, rel=5e-6)
    assert_same_adapter(adapter(folder / f"{strategy}_started"), adapter(folder / "one_started"))


@pytest.mark.parametrize("change", ["ddp_to_fsdp", "fsdp_to_ddp", "fsdp_to_fsdp", "fsdp_to_one"])
def test_a_checkpoint_is_for_any_strategy_and_number_of_processes(folder, change):
    if change == "fsdp_to_one":
        checkpoint = str(folder / "fsdp_dpo" / "checkpoints" / "step.ckpt")
        together.run(folder, "dpo", name=change, ckpt_path=checkpoint)
    resumed = curve(folder / change)
    assert 0 < len(resumed) < len(curve(folder / "one_dpo"))
    whole = {key: v for key, v in curve(folder / "one_dpo").items() if key in resumed}
    assert_same_curve(resumed, whole)
    assert_same_adapter(adapter(folder / change), adapter(folder / "one_dpo"))


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


@pytest.mark.parametrize("name", ["filled", "looked"])
def test_a_sharded_checkpoint_has_every_slice_and_nothing_frozen(folder, name):
    checkpoint = torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True)
    weights = checkpoint["state_dict"]
    assert all("lora" in name for name in weights)
    for tensor in (*weights.values(), *checkpoint["optimizer_states"][0]["masters"]):
        first, second = tensor.chunk(2)
        assert len(second)
        assert (first == 1).all()
        assert (second == 2).all()
    assert {type(t) for t in tensors(checkpoint)} == {torch.Tensor}
    trained = sum(w.numel() for w in weights.values())
    held = sum(t.numel() for t in tensors(checkpoint) if t.is_floating_point() and t.dim())
    assert held == 5 * trained  # weights, the best ones, masters, two moments: no backbone
    saved = adapter(folder / name)
    assert all({*t.chunk(2)[0].unique().tolist()} == {1.0} for t in saved.values())
    assert all({*t.chunk(2)[1].unique().tolist()} == {2.0} for t in saved.values())


def options(folder):
    return [
        *(setting for setting in TINY_RUN if setting != "logger=none"),
        "model.architecture=gemma",
        "adapter=lora",
        "precision=fp32",
        f"data.path={folder / 'own.jsonl'}",
        "objective=dpo",
        "preferences=file",
        f"preferences.path={folder / 'preferences.jsonl'}",
        "batching.max_prompt_tokens=150",
        "batching.batch_size=2",
        "decoding.max_new_tokens=3",
        "trainer.accelerator=cpu",
    ]


def test_runs_leave_one_folder_each_and_go_on_in_both_ways_of_starting(tmp_path, folder):
    write_rows(folder / "own.jsonl", together.ROWS)
    # As torchrun, then with Lightning's launcher and another strategy, from where the first ended.
    aside = tmp_path / "metrics.json"
    for epochs, (way, *given) in enumerate(
        [
            (in_two_forks, "trainer=ddp", "logger=csv"),
            (start, "trainer=fsdp", "trainer.devices=2"),
        ],
        start=1,
    ):
        settings = [*given, f"trainer.max_epochs={epochs}", *options(folder)]
        for path in tmp_path.glob("runs/train/*/checkpoints/last.ckpt"):
            settings.append(f"ckpt_path={path}")
        result = way(ROOT / "train.py", *settings, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("run folder") == 1
        assert result.stdout.count("mean prompt") == 1, "one process prints the table"
        if epochs == 1:  # as if it had been killed: finished runs are not gone on with
            [metrics] = tmp_path.glob("runs/train/*/metrics.json")
            metrics.rename(aside)
    aside.rename(metrics)
    runs = sorted(path for path in tmp_path.glob("runs/train/*"))
    assert (tmp_path / "runs" / "latest").resolve() == runs[1]
    steps = [json.loads((run / "metrics.json").read_text())["train/steps"] for run in runs]
    assert steps == [6, 12]
    files = {"adapter", "checkpoints", "config.yaml", "environment.yaml", "metrics.json",
             "curve.jsonl", "predictions.jsonl", "results.png", "train.log",
             ".hydra", ".run.lock"}  # fmt: skip
    assert [{p.name for p in run.iterdir()} - {"csv", "wandb"} for run in runs] == [files, files]
    assert len(list(runs[0].glob("csv/*"))) == len(list(runs[1].glob("wandb/offline-run-*"))) == 1
    assert (runs[0] / "train.log").read_text().count("precision fp32") == 1
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize(
    ("start", "command", "message"),
    [
        # All have it, and torchrun ends them.
        (
            start_anew,
            (*TORCHRUN, ROOT / "train.py", "trainer=ddp", "ckpt_path=no.ckpt"),
            "no.ckpt: no such",
        ),
        # One of them has it in training, and Lightning started them.
        (
            start,
            ("-m", "tests.training.together", "fail_in_second", "."),
            "the second process has a prob",
        ),
    ],
)
def test_an_error_of_one_or_all_is_one_line_and_ends_the_run(start, command, message, tmp_path):
    result = start(*command, cwd=tmp_path)
    assert result.returncode == 1
    [line] = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert message in line


def test_other_processes_wait_for_what_the_first_one_writes(tmp_path):
    result = in_two_forks("-m", "tests.training.together", "wait", tmp_path)
    assert result.returncode == 0, result.stderr


def test_processes_know_who_is_first_and_how_many_they_are(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert processes.is_first()
    alone = {"devices": 1}
    assert processes.fitting(alone) == alone
    for environment, first in (
        ({"LOCAL_RANK": "1"}, False),  # started by Lightning
        ({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, True),  # by torchrun
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, False),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, False),  # by srun
    ):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            assert processes.is_first() == first
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes.fitting({"devices": "auto", "num_nodes": 2})["devices"] == 2
    with pytest.raises(PromptRecoveryError, match=r"4 processes were started.* make 1: .*ddp"):
        processes.fitting(alone)


def test_lightning_starts_the_others_with_the_same_command(monkeypatch):
    called = []
    monkeypatch.setattr("prompt_recovery.commands.train.train", lambda: called.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["/bin/prompt-recovery", "train", "seed=1"])
    main()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(sys, "argv", ["/bin/prompt-recovery", "seed=1"])
    main()
    assert called == [["/bin/prompt-recovery", "seed=1"]] * 2
