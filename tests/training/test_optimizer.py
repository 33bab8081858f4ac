import copy

import torch

from prompt_recovery.training.optimizer import MasterAdamW


def step(optimizer, parameters, gradient):
    for p in parameters:
        p.grad = torch.full_like(p, gradient)
    optimizer.pull_gradients()
    optimizer.step()
    optimizer.zero_grad()


def test_small_updates_are_not_lost_in_bf16():
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    plain = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MasterAdamW([weight], lr=1e-4, weight_decay=0.0)
    naive = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        step(optimizer, [weight], 1.0)
        plain.grad = torch.ones_like(plain)
        naive.step()
    assert plain[0] == 1, "the naive optimiser has not moved at all"
    torch.testing.assert_close(weight.float(), torch.full((4,), 0.99), atol=0, rtol=2**-8)


def test_fp32_parameters_are_plain_adamw():
    a, b = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    ours, theirs = MasterAdamW([a], lr=0.1), torch.optim.AdamW([b], lr=0.1)
    for gradient in (1.0, -0.5, 2.0):
        step(ours, [a], gradient)
        b.grad = torch.full_like(b, gradient)
        theirs.step()
    torch.testing.assert_close(a, b)


def test_state_keeps_every_bit():
    def fresh():
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 5).bfloat16())
        return weight, MasterAdamW([weight], lr=1e-3)

    weight, optimizer = fresh()
    for gradient in (1.0, -0.3, 0.7):
        step(optimizer, [weight], gradient)
    other, resumed = fresh()
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for gradient in (0.2, 0.9):
        step(optimizer, [weight], gradient)
        step(resumed, [other], gradient)
    assert torch.equal(weight, other)
    for ours, theirs in zip(
        optimizer.state_dict()["masters"], resumed.state_dict()["masters"], strict=True
    ):
        assert torch.equal(ours, theirs)
