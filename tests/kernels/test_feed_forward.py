import pytest
import torch

from prompt_recovery.backbones.adapters import add_adapter
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.kernels.feed_forward import GatedProduct, fuse_feed_forward
from prompt_recovery.trees import causal_lm_of, pack, score_completions
from tests.closeness import assert_close
from tests.kernels.test_lora import randomised, result
from tests.trees.test_forward import PAD, ROUNDING, random_trees, tiny_model


def layers_of(model):
    return [m for n, m in causal_lm_of(model).named_modules() if n.endswith("mlp")]


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma", "gemma2", "gemma3"])
@pytest.mark.parametrize("targets", ["all-linear", ["down_proj", "q_proj"], ["up_proj"]])
def test_values_and_gradients_are_those_of_the_layers(architecture, targets):
    adapter = Adapter(rank=4, target_modules=targets)
    model = randomised(add_adapter(tiny_model(architecture), adapter, torch.float32))
    assert fuse_feed_forward(model) == 2
    ours, our_gradients = result(model)
    for layer in layers_of(model):
        del layer.forward
    theirs, their_gradients = result(model)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=ROUNDING)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert_close(a, b, rtol=2e-5)


def test_two_of_the_wide_activations_are_kept():
    model = tiny_model("llama")
    fuse_feed_forward(model)
    layer = layers_of(model)[0]
    kept = []

    def note(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    x = torch.randn(1, 7, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    assert kept.count((7, 64)) == 2
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        type(layer).forward(layer, x)
    assert sum(shape[-1] == 64 and len(shape) == 3 for shape in kept) == 3


@pytest.mark.parametrize("adapter", [Adapter(rank=4, dora=True), Adapter(rank=4, dropout=0.1)])
def test_other_adapters_are_left_to_peft(adapter, monkeypatch):
    model = add_adapter(tiny_model("llama"), adapter, torch.float32)
    monkeypatch.setattr(GatedProduct, "apply", None)
    scores = score_completions(model.eval(), pack(random_trees(), PAD)).log_probability
    scores.sum().backward()


def test_other_feed_forward_layers_are_left_as_they_are():
    assert fuse_feed_forward(tiny_model("phi")) == 0
    assert fuse_feed_forward(tiny_model("phi3")) == 0


def test_an_adapter_that_is_disabled_has_no_effect():
    model = randomised(add_adapter(tiny_model("llama"), Adapter(rank=4), torch.float32))
    batch = pack(random_trees(), PAD)
    with model.disable_adapter():
        off = score_completions(model, batch).log_probability
    plain = score_completions(tiny_model("llama"), batch).log_probability
    torch.testing.assert_close(off, plain)
