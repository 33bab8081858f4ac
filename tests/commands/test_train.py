"""The command line as a user meets it."""

import csv
import json
import sys
import time
from functools import partial

import pytest
import yaml

from prompt_recovery.backbones.tiny import tiny_backbone
from tests import command_line
from tests.command_line import assert_one_line
from tests.conftest import ROOT

SCRIPT = ROOT / "train.py"
run = partial(command_line.run_script, SCRIPT)


def run_anew(*arguments, cwd, **environment):
    return command_line.run_anew([sys.executable, str(SCRIPT), *arguments], cwd, **environment)


def test_cfg_job_prints_the_configuration():
    result = run("model=mistral", "objective=sft", "--cfg", "job", cwd=ROOT)
    assert result.returncode == 0
    assert "repo: mistralai/Mistral-7B-Instruct-v0.2" in result.stdout


@pytest.mark.parametrize(
    ("name", "group", "key"),
    [
        ("recover", "retrieval", "retrieval"),
        ("recover", "channel", "channel"),
        ("evaluate", "metric@second_metric", "second_metric"),
    ],
)
def test_null_leaves_a_group_out(name, group, key, tmp_path):
    result = command_line.run(name, f"{group}=null", "--cfg", "job", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout).get(key) is None


def test_a_backbone_without_the_hub_is_one_quick_line(tmp_path):
    started = time.monotonic()
    result = run_anew("model=mistral", cwd=tmp_path, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path))
    assert time.monotonic() - started < 15
    assert_one_line(result, "mistralai/Mistral-7B-Instruct-v0.2", "model.path=", "model=smollm2")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["data=file", "data.path=none.csv"], ["none.csv: no such file"]),
        (["data=file"], ["data.path"]),
        (["split.by=row"], ["must be prompt, text or both"]),
        (["ckpt_path=none.ckpt"], ["ckpt_path=none.ckpt: no such file"]),
        (["ckpt_path=last"], ["has left a checkpoint"]),
        (["model.path=nowhere"], ["holds no config.json"]),
        (["adapter=qlora"], ["CUDA GPU", "adapter=lora"]),
        (["precision=fp8"], ["must be auto, bf16, fp32 or int8"]),
        (["optim.learning_rate=-1"], ["learning_rate=-1: must be > 0"]),
        (["template.text='{{ nonsense }}'"], ["'nonsense' is undefined"]),
    ],
)
def test_mistakes_are_one_line(arguments, parts, tmp_path):
    assert_one_line(run("model=tiny", "logger=none", *arguments, cwd=tmp_path), *parts)
    assert not list(tmp_path.rglob("retriever_stage")), "it fails before the retriever is trained"


def test_unknown_option_lists_the_known_ones():
    result = run("model=bert", cwd=ROOT)
    assert result.returncode == 1
    assert "smollm2" in result.stderr
    assert "Traceback" not in result.stderr


OTHER_PLATFORMS = """
if __name__ == "__main__":
    import csv, multiprocessing, sys
    import torch
    from prompt_recovery.commands.main import main

    multiprocessing.set_start_method("spawn", force=True)  # as on macOS and Windows
    limit = csv.field_size_limit
    def of_a_c_long(size):  # which has 32 bits on Windows
        if size >= 2**31:
            raise OverflowError("Python int too large to convert to C long")
        return limit(size)
    csv.field_size_limit = of_a_c_long
    torch.backends.mps.is_available = lambda: True  # as on a Mac
    sys.argv = ["prompt-recovery", "train", *sys.argv[1:]]
    main()
"""


def test_a_run_on_a_csv_file_with_what_other_platforms_do_differently(tmp_path, examples):
    names = ("id", "original_text", "rewritten_text", "rewrite_prompt")
    with (tmp_path / "own.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([names, *([getattr(e, name) for name in names] for e in examples)])
    (tmp_path / "elsewhere.py").write_text(OTHER_PLATFORMS)
    result = command_line.run_script(
        tmp_path / "elsewhere.py", "model=tiny", "retriever=none", "data=file",
        "data.path=own.csv", "split.val=0.2", "split.test=0.2", "trainer.max_steps=2",
        "batching.workers=1", "decoding.max_new_tokens=2", "logger=none", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "test/scs" in (tmp_path / "runs" / "latest" / "metrics.json").read_text()


def test_a_run_on_own_data_leaves_everything_behind_but_secrets(tmp_path, examples):
    rows = [
        {"key": e.id, "before": e.original_text, "after": e.rewritten_text, "p": e.rewrite_prompt}
        for e in examples
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    arguments = [
        "model=mistral",
        f"model.path={tiny_backbone('mistral')}",
        "model@retriever.model=tiny_encoder",
        "data=file",
        "data.path=own.jsonl",
        "data.columns.id=key",
        "data.columns.original_text=before",
        "data.columns.rewritten_text=after",
        "data.columns.rewrite_prompt=p",
        "split.val=0.05",
        "split.test=0.05",
        "trainer.max_steps=2",
        "batching.max_prompt_tokens=150",
        "decoding.max_new_tokens=4",
        "logger=wandb",
    ]
    # A network that refuses everything: neither W&B nor the Hub may need it, or stall.
    secret = "s3cret-token-of-a-user"
    result = run(
        *arguments,
        cwd=tmp_path,
        http_proxy="http://127.0.0.1:9",
        https_proxy="http://127.0.0.1:9",
        HF_TOKEN=secret,
    )
    assert result.returncode == 0, result.stderr
    assert "mean prompt" in result.stdout
    assert "WARNING" not in result.stderr
    *_, answering, first_look, evaluating = result.stderr.strip().splitlines()
    assert "prompt-recovery recover run=runs/train/" in answering
    assert "prompt-recovery evaluate recoverers=runs/train/" in evaluating
    assert "data=file data.path=own.jsonl data.columns.id=key " in evaluating
    assert first_look.startswith("for a first look at its answers to 40 rows: ")
    assert first_look.partition(": ")[2] == f"{evaluating.partition(': ')[2]} quick=true"
    assert "stage 1 of 2: the dense retriever" in result.stderr
    assert "stage 2 of 2: the language model" in result.stderr
    folder = tmp_path / "runs" / "latest"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"test/scs", "val/scs", "baseline/mean_prompt_scs", "peak_memory_bytes"} <= set(metrics)
    for name in (
        "config.yaml",
        "environment.yaml",
        "predictions.jsonl",
        "results.png",
        "train.log",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter/recoverer.yaml",
        "adapter/calibration.json",
        "retriever/modules.json",
        "retriever/recoverer.yaml",
    ):
        assert (folder / name).stat().st_size > 0
    assert list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    for path in (tmp_path / "runs").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
