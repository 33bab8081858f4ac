import pytest
import torch
from torch.nn import functional as F

from prompt_recovery.kernels import attention as attention_module
from prompt_recovery.kernels.attention import additive, attention, plan, planned_mask


class Layer(torch.nn.Module):
    is_causal = True
    num_key_value_groups = 3


def inputs(rows=1):
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, 6, 9, 8), (rows, 2, 9, 8), (rows, 2, 9, 8)]
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    ]


# a prompt of three, two completions; another prompt of two, one completion of one
UNTIL = torch.tensor([6, 6, 6, 4, 6, 6, 9, 9, 9])
POSITION = torch.tensor([0, 1, 2, 3, 3, 4, 0, 1, 2])
TREE = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])


def plain(q, k, v, visible, softcap):
    k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    scores = 0.3 * q @ k.transpose(2, 3)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores.masked_fill(~visible, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("queries", [128, 4, 2])  # one piece a tree or several
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("gap", [64, 0])
def test_planned_values_and_gradients_equal_the_formula(queries, softcap, window, gap, monkeypatch):
    monkeypatch.setattr(attention_module, "_QUERIES", queries)
    monkeypatch.setattr(attention_module, "_GAP", gap)
    column = torch.arange(9)
    visible = (column[:, None] >= column) & (column[:, None] < UNTIL)
    if window:
        visible &= POSITION[:, None] - POSITION < window
    mask = planned_mask(plan(UNTIL, POSITION, TREE, window, torch.float64), 9, torch.float64)
    q, k, v = inputs()
    ours, _ = attention(Layer(), q, k, v, mask, scaling=0.3, softcap=softcap)
    theirs = plain(q, k, v, visible, softcap)
    torch.testing.assert_close(ours, theirs)
    weights = torch.arange(ours.numel(), dtype=torch.float64).view(ours.shape).cos()
    a = torch.autograd.grad((ours * weights).sum(), (q, k, v))
    b = torch.autograd.grad((theirs * weights).sum(), (q, k, v))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


def test_what_a_tree_hides_is_not_multiplied():
    runs = plan(UNTIL, POSITION, TREE, None, torch.float64)
    assert [r.columns for r in runs] == [((0, 6),), ((6, 9),)]
    pieces = [(p.start, p.end, p.keys) for r in runs for p in r.pieces]
    assert pieces == [(0, 6, ((0, 6),)), (6, 9, ((0, 3),))]


@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("kind", ["causal", "bool", "additive"])
def test_without_a_plan_it_is_plain_attention(kind, softcap):
    visible = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(1)) > 0.4
    visible = (visible | torch.eye(9, dtype=torch.bool)).tril()
    if kind == "causal":
        visible = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    masks = {"causal": None, "bool": visible, "additive": additive(visible[:, 0], torch.float64)}
    q, k, v = inputs(rows=2)
    ours, _ = attention(Layer(), q, k, v, masks[kind], scaling=0.3, softcap=softcap)
    torch.testing.assert_close(ours, plain(q, k, v, visible, softcap))


def test_a_decoding_step_equals_sdpa():
    q, k, v = inputs(rows=2)
    visible = torch.rand(2, 1, 3, 9, generator=torch.Generator().manual_seed(1)) > 0.4
    visible[..., 0] = True
    with torch.no_grad():
        q = q[:, :, :3]
        ours, _ = attention(Layer(), q, k, v, visible)
        theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
    torch.testing.assert_close(ours, theirs.transpose(1, 2))
