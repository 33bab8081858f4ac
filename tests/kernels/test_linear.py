import copy

import pytest
import torch
from torch import nn

from prompt_recovery.backbones.adapters import add_adapter
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.kernels import linear
from prompt_recovery.kernels.linear import FrozenProduct, pack_linears, product_of
from prompt_recovery.trees import pack, score_completions
from tests.trees.test_forward import PAD, random_trees, tiny_model

pytestmark = pytest.mark.skipif(
    not linear._packs_work(), reason="this processor has no packed bf16 products"
)


def layer(bias=True):
    torch.manual_seed(0)
    return nn.Linear(48, 80, bias=bias, dtype=torch.bfloat16).requires_grad_(False)


def close(a, b):
    torch.testing.assert_close(a.float(), b.float(), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 37])
def test_values_and_gradients_are_the_formulas(bias, rows):
    plain = layer(bias)
    packed = copy.deepcopy(plain)
    assert pack_linears(packed) == 1
    x = torch.randn(2, rows, 48).bfloat16().requires_grad_()
    g = torch.randn(2, rows, 80).bfloat16()
    ours, theirs = packed(x), plain(x)
    close(ours, theirs)
    close(*(torch.autograd.grad(y, x, g)[0] for y in (ours, theirs)))
    with torch.inference_mode():
        close(packed(x), plain(x))


def test_changed_weights_are_packed_anew():
    changed = layer()
    pack_linears(changed)
    x = torch.randn(3, 48).bfloat16()
    before = changed(x)
    changed.weight.mul_(2)  # in place, as merging an adapter does
    close(changed(x), x @ changed.weight.T + changed.bias)
    assert not torch.allclose(changed(x), before)
    changed.weight = nn.Parameter(torch.ones_like(changed.weight), requires_grad=False)
    close(changed(x), x @ changed.weight.T + changed.bias)


def test_only_frozen_bf16_weights_that_leave_room_are_packed(monkeypatch):
    assert pack_linears(layer().requires_grad_(True)) == 0
    assert pack_linears(layer().float()) == 0
    monkeypatch.setattr(linear, "_MEMORY", 0.0)
    assert pack_linears(layer()) == 0


def test_weights_that_are_trained_or_cast_later_are_multiplied_plainly():
    later = layer()
    pack_linears(later)
    later.requires_grad_(True)
    later(torch.randn(3, 48).bfloat16()).sum().backward()
    assert later.weight.grad is not None
    later.weight.grad = None
    later(torch.randn(3, 48).bfloat16().requires_grad_()).sum().backward()
    assert later.weight.grad is not None
    close(later.float()(torch.ones(1, 48)), torch.ones(1, 48) @ later.weight.T + later.bias)


def test_a_copy_packs_for_itself():
    original = layer()
    pack_linears(original)
    x = torch.randn(3, 48).bfloat16()
    original(x)
    other = copy.deepcopy(original)
    other.weight.zero_()
    close(other(x), other.bias.expand(3, -1))
    assert isinstance(product_of(other), FrozenProduct) and product_of(other).layer is other


def test_a_model_scores_as_it_does_without():
    plain = tiny_model("llama").bfloat16()
    packed = tiny_model("llama").bfloat16()
    assert pack_linears(packed) > 7
    batch = pack(random_trees(), PAD)
    values, gradients = [], []
    for model in (plain, packed):
        adapted = add_adapter(model, Adapter(rank=4), torch.bfloat16)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                generator = torch.Generator().manual_seed(len(name))
                parameter.data.normal_(std=0.1, generator=generator)
        scores = score_completions(adapted, batch).log_probability
        trained = [p for p in adapted.parameters() if p.requires_grad]
        values.append(scores.detach())
        gradients.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(scores.sum(), trained)])
        )
    torch.testing.assert_close(*values, atol=1.0, rtol=0.02)
    cosine = torch.cosine_similarity(*(g.float() for g in gradients), dim=0)
    assert cosine > 0.99
