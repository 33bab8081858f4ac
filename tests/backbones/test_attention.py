import pytest
import torch
from torch.nn import functional as F

from prompt_recovery.backbones import attention as attention_module
from prompt_recovery.backbones.attention import attention


class Layer(torch.nn.Module):
    is_causal = True
    num_key_value_groups = 3


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, 9, 8), (2, 2, 9, 8), (2, 2, 9, 8)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("queries", [128, 4, 2])  # one piece or several
@pytest.mark.parametrize("kind", ["causal", "bool", "additive"])
def test_values_and_gradients_equal_sdpa(kind, queries, monkeypatch):
    monkeypatch.setattr(attention_module, "_QUERIES", queries)
    visible = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(1)) > 0.4
    visible = (visible | torch.eye(9, dtype=torch.bool)).tril()
    masks = {
        "causal": None,
        "bool": visible,
        "additive": torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -1e30),
    }
    q, k, v = inputs()
    ours, _ = attention(Layer(), q, k, v, masks[kind], scaling=0.3)
    theirs = F.scaled_dot_product_attention(
        q, k, v, attn_mask=masks[kind], is_causal=kind == "causal", scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    weights = torch.arange(ours.numel(), dtype=torch.float64).view(ours.shape).cos()
    a = torch.autograd.grad((ours * weights).sum(), (q, k, v))
    b = torch.autograd.grad((theirs * weights).sum(), (q, k, v))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


def test_without_gradients_it_is_sdpa():
    q, k, v = inputs()
    with_gradients, _ = attention(Layer(), q, k, v, None)
    with torch.no_grad():
        without, _ = attention(Layer(), q, k, v, None)
    torch.testing.assert_close(with_gradients, without)


def test_a_decoding_step_equals_sdpa():
    q, k, v = inputs()
    visible = torch.rand(2, 1, 3, 9, generator=torch.Generator().manual_seed(1)) > 0.4
    visible[..., 0] = True
    with torch.no_grad():
        q = q[:, :, :3]
        ours, _ = attention(Layer(), q, k, v, visible)
        theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
    torch.testing.assert_close(ours, theirs.transpose(1, 2))
