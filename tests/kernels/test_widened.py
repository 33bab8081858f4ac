"""bf16 weights that are multiplied in fp32."""

import pytest
import torch
from torch import nn

from prompt_recovery.backbones import load
from prompt_recovery.backbones.adapters import add_adapter, load_adapter
from prompt_recovery.backbones.load import load_model
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.kernels import linear
from prompt_recovery.kernels.linear import activation_dtype
from prompt_recovery.trees import pack, sample_completions, score_completions
from tests.closeness import assert_close
from tests.kernels.test_lora import result
from tests.trees.test_forward import PAD, random_trees

ROUNDING = 3e-6  # relative; sums are added in another order


@pytest.mark.parametrize("tile", [1, 1000, 1 << 20])
@pytest.mark.parametrize("rows", [1, 5, 100])
def test_products_with_bf16_weights_are_those_with_the_same_weights_in_fp32(
    tile, rows, monkeypatch
):
    monkeypatch.setattr(linear, "_TILE", tile)
    monkeypatch.setattr(linear, "_SMALL_TILE", tile)
    torch.manual_seed(0)
    weight, bias = torch.randn(80, 48).bfloat16(), torch.randn(80)
    x, g = torch.randn(rows, 48), torch.randn(rows, 80)
    y = linear.linear(x, weight, bias)
    assert y.dtype == torch.float32
    assert_close(y, nn.functional.linear(x, weight.float(), bias), rtol=ROUNDING)
    assert_close(linear.linear_backward(g, weight), g @ weight.float(), rtol=ROUNDING)


def test_without_bf16_arithmetic_products_are_computed_in_fp32(monkeypatch):
    monkeypatch.setattr(linear, "bf16_is_native", lambda: False)
    torch.manual_seed(0)
    weight, x = torch.randn(80, 48).bfloat16(), torch.randn(6, 48).bfloat16()
    exact = x.float() @ weight.float().T
    assert torch.equal(linear.linear(x, weight), exact.bfloat16())
    assert torch.equal(linear.matmul(x, weight.T), exact.bfloat16())
    y = torch.ones(6, 80).bfloat16()
    assert linear.add_matmul(y, x, weight.T) is y
    torch.testing.assert_close(y, (exact + 1).bfloat16())


@pytest.fixture
def saved_in_bf16(tmp_path):
    """A tiny model whose weights are saved in bf16."""
    location = Location(tiny_backbone("llama"))
    load_model(Backbone("m"), location, torch.bfloat16).save_pretrained(tmp_path)
    return Location(tmp_path)


def test_a_large_model_in_fp32_keeps_its_bf16_weights_and_its_results(saved_in_bf16, monkeypatch):
    whole = load_model(Backbone("m"), saved_in_bf16, torch.float32)
    monkeypatch.setattr(load, "_LARGE", 1)
    thin = load_model(Backbone("m"), saved_in_bf16, torch.float32)
    if torch.cuda.is_available():
        pytest.skip("weights stay in bf16 on a CPU only")
    dtypes = {m.weight.dtype for m in thin.modules() if type(m) is nn.Linear}
    assert dtypes == {torch.bfloat16} == {thin.get_input_embeddings().weight.dtype}
    others = {m.weight.dtype for m in thin.modules() if "Norm" in type(m).__name__}
    assert others == {torch.float32} == {activation_dtype(thin)}
    batch = pack(random_trees(), PAD)
    with torch.no_grad():
        a, b = (score_completions(m, batch).log_probability for m in (thin, whole))
    torch.testing.assert_close(a, b, atol=0, rtol=1e-5)
    sampled = [_sampled(m) for m in (thin, whole)]
    assert sampled[0] == sampled[1]
    ours, theirs = (result(_adapted(m)) for m in (thin, whole))
    torch.testing.assert_close(ours[0], theirs[0], atol=0, rtol=1e-5)
    for x, y in zip(ours[1], theirs[1], strict=True):
        assert x.dtype == torch.float32
        assert_close(x, y, rtol=2e-5)


def _sampled(model):
    prompts = [tree.prompt for tree in random_trees()]
    uniforms = torch.rand(3, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = sample_completions(model, prompts, [0.0, 1.0], uniforms, 8, [1], PAD)
    return [sample.tokens for row in rows for sample in row]


def _adapted(model):
    adapted = add_adapter(model, Adapter(rank=4), torch.float32)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return adapted


def test_adapters_are_not_rounded(saved_in_bf16, monkeypatch, tmp_path):
    monkeypatch.setattr(load, "_LARGE", 1)
    model = _adapted(load_model(Backbone("m"), saved_in_bf16, torch.float32))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    fresh = load_model(Backbone("m"), saved_in_bf16, torch.float32)
    again = load_adapter(fresh, tmp_path / "adapter", torch.float32)
    theirs = dict(again.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, theirs[name]), name


def test_weights_saved_in_fp32_are_not_rounded(monkeypatch):
    monkeypatch.setattr(load, "_LARGE", 1)
    model = load_model(Backbone("m"), Location(tiny_backbone("llama")), torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
