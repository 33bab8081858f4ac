"""Backbones in 8 bits against the same backbones in fp32."""

import logging

import pytest
import torch
from torch import nn

from prompt_recovery.backbones import load, precision
from prompt_recovery.backbones.adapters import add_adapter, load_adapter
from prompt_recovery.backbones.load import load_model
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.precision import choose_precision
from prompt_recovery.backbones.tiny import ARCHITECTURES, tiny_backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.kernels.eight_bit import eight_bits_work
from prompt_recovery.trees import pack, sample_completions, score_completions
from tests.kernels.test_lora import randomised, result
from tests.trees.test_forward import PAD, random_trees, tiny_model

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="8 bits are for CPUs"),
    pytest.mark.skipif(not eight_bits_work(), reason="needs a processor with VNNI"),
]


def tiny_eight_bit(architecture):
    backbone = Backbone("tiny", architecture=architecture)
    location = Location(tiny_backbone(architecture))
    return load_model(backbone, location, torch.float32, eight_bit=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_nearly_those_of_fp32(architecture):
    model, exact = tiny_eight_bit(architecture), tiny_model(architecture)
    linear = [m for m in model.modules() if type(m) is nn.Linear]
    assert linear
    assert {m.weight.dtype for m in linear} == {torch.int8}
    assert {p.dtype for p in model.parameters()} == {torch.int8, torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.float32
    batch = pack(random_trees(), PAD)
    with torch.no_grad():
        ours, theirs = (score_completions(m, batch) for m in (model, exact))
    assert not torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.tokens, theirs.tokens, atol=0, rtol=0.01)


def test_it_is_the_same_after_each_loading():
    batch = pack(random_trees(), PAD)
    with torch.no_grad():
        first, second = (score_completions(tiny_eight_bit("llama"), batch) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)


def adapted(model):
    torch.manual_seed(0)
    return randomised(add_adapter(model, Adapter(rank=4), torch.float32))


@pytest.mark.parametrize("architecture", ["llama", "phi"])  # phi's layers have biases
def test_an_adapter_gets_nearly_the_gradients_of_fp32(architecture):
    ours, theirs = (result(adapted(load(architecture))) for load in (tiny_eight_bit, tiny_model))
    torch.testing.assert_close(ours[0], theirs[0], atol=0, rtol=0.01)
    a, b = (torch.cat([g.flatten() for g in gradients]) for _, gradients in (ours, theirs))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99
    assert a.norm() == pytest.approx(b.norm().item(), rel=0.05)


def test_a_trained_adapter_is_a_plain_one(tmp_path):
    model = adapted(tiny_eight_bit("llama"))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = load_adapter(tiny_model("llama"), tmp_path, torch.float32)
    theirs = {n: p for n, p in again.named_parameters() if "lora_" in n}
    ours = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert ours.keys() == theirs.keys()
    assert all(p.dtype == torch.float32 and torch.equal(p, theirs[n]) for n, p in ours.items())


def test_a_large_model_keeps_no_other_copy_of_its_weights(tmp_path, monkeypatch, caplog):
    location = Location(tiny_backbone("llama"))
    load_model(Backbone("m"), location, torch.bfloat16).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((location.folder / name).read_bytes())
    monkeypatch.setattr(load, "_LARGE", 1)
    with caplog.at_level(logging.INFO):
        load_model(Backbone("m"), Location(tmp_path), torch.float32)
    assert "m would be about twice as fast here with precision=int8" in caplog.text
    model = load_model(Backbone("m"), Location(tmp_path), torch.float32, eight_bit=True)
    assert {m.weight.dtype for m in model.modules() if type(m) is nn.Linear} == {torch.int8}
    prompts = [tree.prompt for tree in random_trees()]
    uniforms = torch.rand(3, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = sample_completions(model, prompts, [0.0, 1.0], uniforms, 8, [1], PAD)
    alone = sample_completions(model, prompts[:1], [0.0, 1.0], uniforms[:1], 8, [1], PAD)
    assert [s.tokens for s in rows[0]] == [s.tokens for s in alone[0]]


def test_int8_is_for_cpus():
    chosen = choose_precision("int8", "cpu")
    assert (chosen.dtype, chosen.eight_bit, chosen.name) == (torch.float32, True, "int8")
    with pytest.raises(PromptRecoveryError, match="precision=int8 is for CPUs"):
        choose_precision("int8", "cuda")


def test_a_processor_whose_products_are_wrong_is_refused(monkeypatch):
    monkeypatch.setattr(precision, "eight_bits_work", lambda: False)
    with pytest.raises(PromptRecoveryError, match="precision=int8: this processor cannot add"):
        choose_precision("int8", "cpu")
