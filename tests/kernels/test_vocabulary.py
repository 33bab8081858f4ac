import pytest
import torch
from torch import nn

from prompt_recovery.kernels import vocabulary


class Model:
    """The part of a causal LM that the function looks at."""

    def __init__(self, words, size, cap, bias=False):
        self.head = nn.Linear(size, words, bias=bias).requires_grad_(False)
        self.config = type("C", (), {"get_text_config": lambda self: self})()
        self.config.final_logit_softcapping = cap

    def get_output_embeddings(self):
        return self.head


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])  # a bias takes the general way
def test_values_and_gradients(cap, bias, monkeypatch):
    torch.manual_seed(0)
    model = Model(50, 8, cap, bias)
    hidden = torch.randn(13, 8, requires_grad=True)
    targets = torch.randint(0, 50, (13,))
    weights = torch.randn(13)
    logits = model.head(hidden)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    expected = logits.log_softmax(-1)[torch.arange(13), targets]
    [gradient] = torch.autograd.grad((expected * weights).sum(), hidden)
    for pieces in (1 << 20, 3 * 50):
        monkeypatch.setattr(vocabulary, "_LOGITS", pieces)
        values = vocabulary.token_log_probabilities(model, hidden, targets)
        torch.testing.assert_close(values, expected)
        [ours] = torch.autograd.grad((values * weights).sum(), hidden)
        torch.testing.assert_close(ours, gradient)


def test_a_large_vocabulary_takes_little_memory():
    model = Model(262_144, 4, None)
    hidden = torch.randn(300, 4, requires_grad=True)
    values = vocabulary.token_log_probabilities(model, hidden, torch.arange(300))
    # What is kept for the backward pass is a gradient of the hidden states' size, no logits.
    assert sum(t.numel() for t in values.grad_fn.saved_tensors) == 1200
