import json
import math
import re
from dataclasses import fields

import pytest
from peft import LoraConfig

from prompt_recovery.backbones.adapter_config import read_lora_config
from prompt_recovery.errors import PromptRecoveryError

PLAIN = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj"],
    "bias": "none",
}


def read(tmp_path, changes):
    (tmp_path / "adapter_config.json").write_text(json.dumps({**PLAIN, **changes}))
    return read_lora_config(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target_modules": r".*\.(q_proj|v_proj)$"},
        {"layers_to_transform": [1], "use_dora": True, "inference_mode": True},
        {"rank_pattern": {"layers.0.q_proj": 2}, "alpha_pattern": {}},
        {"eva_config": None, "loftq_config": {}, "megatron_core": "megatron.core"},
        {"a_setting_of_a_newer_version": 3},
    ],
)
def test_plain_adapters_are_read(changes, tmp_path):
    config = read(tmp_path, changes)
    assert (config.r, config.lora_alpha, config.task_type) == (4, 16, "CAUSAL_LM")
    for name in ("use_dora", "layers_to_transform"):
        assert name not in changes or getattr(config, name) == changes[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "sets megatron_config"),
        ({"init_lora_weights": "pissa"}, "sets init_lora_weights"),
        ({"init_lora_weights": ["evil"]}, "sets init_lora_weights"),
        ({"corda_config": {"cache_file": "/evil"}}, "sets corda_config"),
        ({"layer_replication": [[0, 10**6]]}, "sets layer_replication"),
        ({"peft_type": "IA3"}, "peft_type must be LORA"),
        ({"r": 10**9}, r"r must be a whole number in \[1, 65536\]"),
        ({"r": "4"}, "r must be"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be"),
        ({"target_modules": 5}, "target_modules must be"),
        ({"target_modules": "(a+)+$"}, "target_modules holds a pattern"),
        ({"target_modules": ["x" * 5000]}, "target_modules holds a pattern"),
        ({"exclude_modules": ".*.*.*.*!"}, "exclude_modules holds a pattern"),
        ({"alpha_pattern": {"([a-z]*)*": 3}}, "alpha_pattern holds a pattern"),
    ],
)
def test_what_could_run_or_last_is_refused_in_one_line(changes, message, tmp_path):
    with pytest.raises(PromptRecoveryError, match=message) as caught:
        read(tmp_path, changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"r": 4}', "[" * 100_000, "\udc00"])
def test_damaged_configurations_are_one_line(text, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(PromptRecoveryError, match="adapter_config.json: ") as caught:
        read_lora_config(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "q_proj$", "layers_to_transform": [1]},
        {"layers_pattern": ["layers"]},
        {"lora_bias": True, "use_dora": True},
        {"target_modules": None, "modules_to_save": ["x"], "layers_pattern": "layers"},
    ],
)
def test_fields_that_do_not_go_together_are_one_line(changes, tmp_path):
    try:
        read(tmp_path, changes)
    except PromptRecoveryError as error:
        assert "describes no LoRA adapter" in str(error) and "\n" not in str(error)


HOSTILE = [
    None, True, -1, 0, 10**30, math.nan, math.inf, "", "evil", "../../evil", "all-linear", [],
    ["evil"], [["evil"]], [10**9], {}, {"evil": 10**9}, {"evil": ["evil"]},
]  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(LoraConfig)])
def test_a_hostile_value_of_any_field_is_plain_or_one_line(name, tmp_path):
    for value in HOSTILE:
        try:
            config = read(tmp_path, {name: value})
        except PromptRecoveryError as error:
            assert "\n" not in str(error) and "adapter_config.json" in str(error)
        else:
            assert config.megatron_config is None and config.auto_mapping is None
            assert config.base_model_name_or_path is None and config.revision is None


def test_a_configuration_that_never_ends_is_one_line(tmp_path):
    (tmp_path / "adapter_config.json").symlink_to("/dev/zero")
    with pytest.raises(PromptRecoveryError, match="adapter_config.json: is damaged"):
        read_lora_config(tmp_path)


def test_patterns_that_are_let_through_are_matched_quickly(tmp_path):
    name = "base_model.model.model.layers.31.self_attn.q_proj" * 2
    for pattern in (r".*\.(q_proj|v_proj)$z", r".*.*.*z", r"[\w.]+\w+z", r"(?:a|b|.*)x?z"):
        config = read(tmp_path, {"target_modules": pattern})
        assert re.fullmatch(config.target_modules, name) is None
